"""The messages between the two stages, and what the executor keeps of a deletion.

A request says everything that is needed to carry it out, to check it once more and to account for it: whoever reads it
needs no other state, also long after the customer it came from is gone. Its id follows from what is asked, so that the
same question asked twice, by a redelivery or after a crash, is one request.
"""

import hashlib
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal, NotRequired, TypedDict, get_args

import orjson

from handlers.deletes.machine import State
from handlers.deletes.settings import Authority
from worker.errors import RecordError
from worker.events import Headers, header
from worker.handling import Record, Tx

# What a record of the requests topic is (header `kind`), and who reads it.
#   clear    to the executor of the origin: is this deletion the echo of one of ours? If not, send the request on
#   request  to the executor of the target
#   cancel   to the executor of the target: a newer version, or another cluster, has been published
#   check    to the requests stage of a customer: is this still wanted?
#   vouch    to the executor of the target: it is
Kind = Literal["clear", "request", "cancel", "check", "vouch"]
KIND: Final = "kind"
_KINDS: Final[dict[str, Kind]] = {kind: kind for kind in get_args(Kind)}

# What a check asks of the requests stage that owns the customer.
#   origin   has it come back since `sequence`?
#   subject  has it changed since `as_of`, or is its cluster another one?
#   winner   is it there, and has it changed since it was last seen to be gone?
Role = Literal["origin", "subject", "winner"]


class Request(TypedDict):
    """A deletion that is asked for. Times are milliseconds since the epoch."""

    id: str
    target: str
    customer: str | None  # the id at the target, as it came; None where nobody knows it
    source: str
    origin: str  # the id at the source
    sequence: int  # the version of the origin that this follows from
    as_of: int  # a change at the target after this calls it off
    authority: Authority
    route: str | None
    approval: bool  # waits for a person, whatever the guard says
    dry_run: bool
    not_before: int
    live: int | None  # customers that the source has left
    held: str | None  # why it has to wait for a person by itself
    seen_live: int | None  # when the origin was last published as live
    winner: str | None  # of a duplicate: the id, at the target, of the customer that stays
    cluster: str | None  # of a duplicate, or by a cluster route: digest of the membership that it rests on; "": alone
    cluster_at: int | None  # by a cluster route of an older program: when its customers were last known to be one
    evidence: dict[str, Any]  # no personal data
    asked_at: int
    retry_of: str | None


class Message(TypedDict):
    """The value of a record of the requests topic; a cancel has only id and target of the request."""

    request: Request
    reason: str | None  # of a cancel
    hops: list[tuple[Role, str]]  # of a check: whom to ask, the first is the addressee
    serial: int  # of a check: comes back with the vouch
    since: NotRequired[int]  # of a check: a winner that has not changed after this is gone; comes back with the vouch


class Attempt(TypedDict):
    """One DELETE: when it was sent, the status it got, or why it got none.

    `left_out`: how many later attempts without effect are not listed, to keep the list short.
    """

    at: int
    status: int | None
    error: str | None
    left_out: NotRequired[int]


class Decided(TypedDict):
    """A decision of a person on a deletion: what, by whom (as claimed), when, with which command."""

    what: str
    who: str
    at: int
    command: str
    plan: str | None
    refused: str | None  # why it was not carried out


@dataclass(slots=True)
class Deletion:
    """What the executor keeps of a request until it has ended."""

    request: Request
    state: State
    n: int  # number of arrival
    since: int  # in this state since
    reason: str | None = None
    group: str | None = None  # in which it is gathered or held
    place: tuple[str, int] | None = None  # the queue it is in, and its order there
    serial: int = 0  # of the newest call or check; answers to older ones are late
    sent: int | None = None  # when the newest DELETE was committed to
    tries: int = 0  # of looking in vain, since the last DELETE
    failures: int = 0  # for the back-off
    vouched: int = 0  # when the canary was found after a 404: for a while, a look-up that says so again is believed
    vouched_for: str | None = None  # whose 404 that was: of a duplicate, its own or its winner's
    absent: bool = False  # the newest DELETE was answered with 404
    published: str | None = None
    doubt: str | None = None  # why an answer cannot be read, once the canary is found; None: the customer is gone then
    stays: bool = False  # a duplicate's winner was found at the target, in the look-ups before the DELETE
    undo: str | None = None
    verified: int | None = None  # when a look-up showed that it is gone
    attempts: list[Attempt] = field(default_factory=list)
    decisions: list[Decided] = field(default_factory=list)
    history: list[tuple[int, str, str]] = field(default_factory=list)  # at, event, state

    @property
    def sought(self) -> str | None:
        """Return whom the next look-up is of: before its DELETE, a duplicate's winner is looked up first."""
        return self.request["winner"] if self.seeks_winner else self.request["customer"]

    @property
    def seeks_winner(self) -> bool:
        """Return whether a duplicate's winner is still to be found at the target."""
        return self.state == State.LOOKING and self.request["winner"] is not None and not self.stays

    @classmethod
    def decode(cls, value: bytes, later: bytes | None) -> "Deletion":
        """Return what `encode` wrote."""
        known = known_of(cls, orjson.loads(value) | orjson.loads(later or b"{}"))
        known["state"] = State(known["state"])
        known["place"] = known["place"] and tuple(known["place"])
        return cls(**known)


LATER: Final[dict[str, Any]] = {"vouched_for": None, "stays": False, "obeyed": 0, "refused": 0, "queued": {}}
"""Fields that came later, and what they are as a rule: a program that does not know them can take the state back."""


def known_of(kind: type[Any], found: dict[str, Any]) -> dict[str, Any]:
    """Return what this program knows of what was found of a dataclass: a newer one may have left more."""
    return {each.name: found[each.name] for each in fields(kind) if each.name in found}


def encode(one: Any) -> tuple[bytes, bytes | None]:
    """Return as JSON what every program knows of a dataclass and, apart, what is in `LATER` (None: all as a rule)."""
    known = {each.name: getattr(one, each.name) for each in fields(one)}
    came = {name: value for name in LATER.keys() & known.keys() if (value := known.pop(name)) != LATER[name]}
    return orjson.dumps(known), orjson.dumps(came, option=orjson.OPT_SORT_KEYS) if came else None


def digest(*parts: str | int | None, size: int = 16) -> str:
    """Return a hash of the parts, in hexadecimal; no two different lists of parts are read alike."""
    return hashlib.blake2b(orjson.dumps(parts), digest_size=size).hexdigest()


def person(target: str, customer: str) -> bytes:
    """Return a short key (16 bytes) for a customer at a target: ids may be longer than a state's key."""
    return hashlib.blake2b(f"{target}/{customer}".encode(), digest_size=16).digest()


def message(request: Request, *, hops: list[tuple[Role, str]] | None = None, serial: int = 0, since: int = 0) -> bytes:
    """Return the value of a record of the requests topic."""
    return orjson.dumps({"request": request, "reason": None, "hops": hops or [], "serial": serial, "since": since})


def read_message(record: Record) -> tuple[Kind, Message]:
    """Return kind and content of a record of the requests topic; raises RecordError where it is none."""
    kind = _KINDS.get(header(record.headers, KIND) or "")
    if kind is None:
        raise RecordError("a record of the requests topic is of no known kind")
    try:
        value: Message = orjson.loads(record.value or b"")
        _ = value["request"]["id"], value["request"]["target"], value["reason"], value["hops"], value["serial"]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise RecordError("a record of the requests topic cannot be read") from error
    return kind, value


def kind_of(kind: Kind) -> Headers:
    """Return the headers of a record of the requests topic."""
    return [(KIND, kind.encode())]


def send_clear(tx: Tx, topic: str, request: Request) -> None:
    """Ask the executor of the origin's system to pass the request on unless it is an echo."""
    key = f"{request['id']}:clear".encode()
    tx.send(topic, key, message(request), kind_of("clear"), partition_key=request["source"].encode())


def send_request(tx: Tx, topic: str, request: Request) -> None:
    """Give the request to the executor of its target."""
    key = request["id"].encode()
    tx.send(topic, key, message(request), kind_of("request"), partition_key=request["target"].encode())


def send_cancel(tx: Tx, topic: str, request: str, target: str, reason: str) -> None:
    """Tell the executor of the target that the request with this id is no longer wanted."""
    value = orjson.dumps({"request": {"id": request, "target": target}, "reason": reason, "hops": [], "serial": 0})
    tx.send(topic, f"{request}:cancel".encode(), value, kind_of("cancel"), partition_key=target.encode())


def send_check(tx: Tx, topic: str, request: Request, hops: list[tuple[Role, str]], serial: int, since: int = 0) -> None:
    """Ask the requests stage that owns the first of `hops`, which passes it on to the next."""
    key = f"{request['id']}:check".encode()
    value = message(request, hops=hops, serial=serial, since=since)
    tx.send(topic, key, value, kind_of("check"), partition_key=hops[0][1].encode())


def send_vouch(tx: Tx, topic: str, request: Request, serial: int, since: int = 0) -> None:
    """Tell the executor of the target that the request is still wanted."""
    key, value = request["id"].encode(), message(request, serial=serial, since=since)
    tx.send(topic, key, value, kind_of("vouch"), partition_key=request["target"].encode())


def forget(tx: Tx, topic: str, key: bytes, addressee: str) -> None:
    """Let compaction take what has been answered; the topic is then the table of what is open."""
    tx.send(topic, key, None, partition_key=addressee.encode())
