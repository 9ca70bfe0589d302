"""What the executor keeps, and where: its state's keys, all of them, with everything loaded once a transaction.

Nothing here is searched but when a partition is taken up: whatever is wanted next (a deletion of a target, the oldest
call, the next group to judge) is the first key under a prefix, so that a hundred thousand waiting requests cost no more
than one.

    r/<request>                          a deletion; once it has ended, only what later questions need
    <queue>/<target>/<order><number>     the queues: a request is in at most one (see `Queue`)
    o/<customer><number>                 the open requests of one customer at one target, oldest first
    i/<customer>                         the newest request there, an open one if there is any: its states are published
    d/<customer>                         our own DELETE there, to know its echo by
    l/<customer><number>                 open duplicates that are to leave this customer as their winner
    t/<target>                           what is known of the target at present
    f/<request>, f/t/<target>            fields of these that came later (`model.LATER`)
    g/<group>, m/<group><number>         what is gathered or held together, and its members
    p/<group><time><number>              what has passed the guard by itself within the period
    b/<time><group>, s/<group>           groups to judge then; groups with members to move
    n/<plan>, x/<command>                what became of plans and commands
    j/<customer>                         the undo copy of our last deletion there, of which request, until when
    u/<time><number>                     undo copies to drop then, and what is published without
    z/<record key>                       what lies before the horizon, until all of that was read
    echo/<source>                        how many echoes of our own deletions were recognised there
    h, c                                 horizon, and the counter of arrivals
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, Literal

import orjson

from handlers.deletes.machine import State
from handlers.deletes.model import Decided, Deletion, encode, known_of, person
from worker.handling import Tx

#   q  may run from its order (time) on      k  asked whether it is still wanted, since
#   y  vouched for, since                    a  a call is under way, since
#   v  to be looked up again, from           e  waits for a canary, of this number or later
#   w  waits for its route, looked at then    h  waits by itself for a person, since
Queue = Literal["q", "k", "y", "a", "v", "e", "w", "h"]
_COUNTED: Final[tuple[Queue, ...]] = ("q", "v", "w", "h")

TargetState = Literal["paused", "circuit open", "waiting", "working"]

_WIDTH: Final = 8
_EVER: Final = 1 << 62


def number(value: int) -> bytes:
    """Return a number as bytes that sort as numbers do."""
    return value.to_bytes(_WIDTH, "big")


@dataclass(slots=True)
class Runtime:
    """A target as it is at present. Times are milliseconds since the epoch."""

    slots: int = 0  # deletions with a call under way, or waiting for a canary
    asked: int = 0  # checks under way or vouched for
    wait_until: int = 0
    laters: int = 0  # answers 'later' in a row
    paused: str | None = None
    probe_at: int = 0
    failures: int = 0  # in a row
    last: str = ""  # of the last calls, 1 is a failure
    opened: int = 0  # times in a row that the breaker has opened
    half_open: bool = False
    canary: int = 0  # number of the canary under way, 0: none
    canary_at: int = 0
    canaries: int = 0  # sent so far
    obeyed: int = 0  # when the newest DELETE was sent that it says is done, or will be
    refused: int = 0  # left to a person since then, because it refuses them alone
    queued: dict[str, int] = field(default_factory=dict)  # how many are in the queues that the first two do not count

    @property
    def in_turn(self) -> int:
        """Return how many deletions wait for their turn, or have it."""
        return self.slots + self.asked + self.queued.get("q", 0) + self.queued.get("v", 0)

    def state(self, now: int) -> TargetState:
        """Return how the target does at present."""
        if self.paused is not None:
            return "paused"
        if self.half_open:
            return "circuit open"
        return "waiting" if self.wait_until > now else "working"


@dataclass(frozen=True, slots=True)
class Copy:
    """An undo copy, as it is kept by customer: of which request, and until when (ms since the epoch)."""

    request: str
    content: str
    until: int


@dataclass(slots=True)
class Plan:
    """What is held together, to be decided on together. `upto`: members have lower numbers of arrival."""

    id: str
    upto: int
    count: int
    total: str
    held_at: int
    last: int  # when the last one joined
    reason: str
    open: bool = True


@dataclass(slots=True)
class Job:
    """A decision on a plan that is being carried out, some members at a time."""

    event: str
    upto: int
    decided: Decided


@dataclass(slots=True)
class Group:
    """What the guard judges together: the requests of one source for one target, by who may let them pass."""

    name: str
    target: str
    source: str
    passage: str  # auto, approval or recovered
    count: int = 0  # gathering
    total: str = "0"  # sum of the members' hashes
    passed: int = 0  # by themselves, within the period
    live: int | None = None
    due: int = 0
    told: str = ""  # what the status topic says of its plan
    marked: int | None = None  # members of the plan from here on are still to be marked as held
    plan: Plan | None = None
    job: Job | None = None


# Deletions as they were written last, with the very bytes: as long as the state has these, they need no decoding. One
# that is taken out to be worked on is not in here, so that nothing of an aborted transaction can stay.
Recent = dict[str, tuple[tuple[bytes, bytes | None], Deletion]]
_LATER: Final = b"f/"
_RECENT: Final = 4096


@dataclass(slots=True)
class Book:
    """Loads and keeps; writes back once, by `flush`."""

    tx: Tx
    recent: Recent = field(default_factory=dict)
    deletions: dict[str, Deletion] = field(default_factory=dict)
    changed: dict[str, Deletion] = field(default_factory=dict)
    runtimes: dict[str, Runtime] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    loaded: dict[bytes, bytes] = field(default_factory=dict)  # runtimes and groups as they were

    # Deletions

    def deletion(self, request: str) -> Deletion | None:
        """Return an open deletion, None where there is none such or it has ended."""
        found = self.deletions.get(request)
        if found is None:
            value = self.tx.get(b"r/" + request.encode())
            if value is None or not value.startswith(b'{"request":'):
                return None
            later = self.tx.get(_LATER + request.encode())
            written, known = self.recent.pop(request, (None, None))
            found = known if known is not None and written == (value, later) else Deletion.decode(value, later)
            self.deletions[request] = found
        return found

    def ended(self, request: str) -> dict[str, Any] | None:
        """Return what is left of a deletion that has ended (or was called off before it came)."""
        value = self.tx.get(b"r/" + request.encode())
        return None if value is None or value.startswith(b'{"request":') else orjson.loads(value)

    def change(self, deletion: Deletion) -> None:
        """Have it written at the end."""
        self.deletions[deletion.request["id"]] = self.changed[deletion.request["id"]] = deletion

    def shrink(self, request: str, rest: dict[str, Any]) -> None:
        """Keep only `rest` of a deletion that has ended."""
        self.deletions.pop(request, None)
        self.changed.pop(request, None)
        self.tx.put(b"r/" + request.encode(), orjson.dumps(rest))
        self._put_later(request, None)

    def arrive(self) -> int:
        """Return the next number of arrival."""
        value = int(self.tx.get(b"c") or b"0") + 1
        self.tx.put(b"c", b"%d" % value)
        return value

    # Queues

    def put(self, deletion: Deletion, queue: Queue | None, order: int = 0) -> None:
        """Move a deletion to a queue, or out of the one it is in."""
        target, last = deletion.request["target"], deletion.place
        if last is not None:
            self.tx.delete(self._place(target, last[0], last[1], deletion.n))
            self._count(target, last[0], -1)
        deletion.place = None if queue is None else (queue, order)
        if queue is not None:
            self.tx.put(self._place(target, queue, order, deletion.n), deletion.request["id"].encode())
            self._count(target, queue, 1)
        self.change(deletion)

    def first(self, queue: Queue, target: str, upto: int) -> Deletion | None:
        """Return the first deletion of a queue if its order is not above `upto`."""
        for found in self.queued(queue, target, upto, 1):
            return found
        return None

    def queued(self, queue: Queue, target: str, upto: int = _EVER, most: int | None = None) -> list[Deletion]:
        """Return the deletions of a queue whose order is not above `upto`, or the first `most` of them."""
        prefix = f"{queue}/{target}/".encode()
        stop = prefix + number(upto + 1)
        keys = [value for key, value in islice(self.tx.scan(prefix), most) if key < stop]
        found = [self.deletion(value.decode()) for value in keys]
        return [deletion for deletion in found if deletion is not None]

    def next_order(self, queue: Queue, target: str) -> int | None:
        """Return the order of the first of a queue."""
        prefix = f"{queue}/{target}/".encode()
        for key, _ in self.tx.scan(prefix):
            return int.from_bytes(key[len(prefix) : len(prefix) + _WIDTH], "big")
        return None

    def _place(self, target: str, queue: str, order: int, n: int) -> bytes:
        return f"{queue}/{target}/".encode() + number(order) + number(n)

    def _count(self, target: str, queue: str, by: int) -> None:
        runtime = self.runtime(target)
        if queue in {"a", "e"}:
            runtime.slots += by
        elif queue in {"k", "y"}:
            runtime.asked += by
        else:
            runtime.queued[queue] = runtime.queued.get(queue, 0) + by
            if not runtime.queued[queue]:
                del runtime.queued[queue]

    def recount(self, target: str) -> None:
        """Count the queues anew: a program that does not count all of them may have had the state."""
        count = {queue: sum(1 for _ in self.tx.scan(f"{queue}/{target}/".encode())) for queue in _COUNTED}
        self.runtime(target).queued = {queue: many for queue, many in count.items() if many}

    def requeue_held(self) -> None:
        """Have what is held by itself in its queue: a program that does not know that queue may have held it."""
        for _, request in list(self.tx.scan(b"o/")):
            value = self.tx.get(b"r/" + request) or b""
            if b'"state":"HELD"' not in value or b'"place":null' not in value:
                continue  # without decoding it
            deletion = self.deletion(request.decode())
            if (
                deletion is not None
                and deletion.state == State.HELD
                and (deletion.group, deletion.place) == (None, None)
            ):
                self.put(deletion, "h", deletion.since)

    # Customers

    def enlist(self, deletion: Deletion) -> None:
        """Note an open request of its customer, the newest there."""
        request, own = deletion.request, number(deletion.n)
        who = whom(deletion)
        self.tx.put(b"o/" + who + own, request["id"].encode())
        self.show(deletion)
        if request["winner"] is not None:
            self.tx.put(b"l/" + person(request["target"], request["winner"]) + own, request["id"].encode())

    def renumber(self, deletion: Deletion) -> None:
        """Give an open deletion in no queue a new number of arrival: what is gathered comes in that order."""
        shown = self.tx.get(b"i/" + whom(deletion))
        self.delist(deletion)
        deletion.n = self.arrive()
        self.enlist(deletion)
        if shown is not None:  # a newer request, it may be
            self.tx.put(b"i/" + whom(deletion), shown)
        self.change(deletion)

    def delist(self, deletion: Deletion) -> None:
        """Note that a request is not open any more."""
        request, own = deletion.request, number(deletion.n)
        self.tx.delete(b"o/" + whom(deletion) + own)
        if request["winner"] is not None:
            self.tx.delete(b"l/" + person(request["target"], request["winner"]) + own)

    def others(self, deletion: Deletion) -> list[Deletion]:
        """Return the other open requests for the same customer."""
        found = self._all(b"o/" + whom(deletion))
        return [other for other in found if other.n != deletion.n]

    def losers(self, deletion: Deletion) -> list[Deletion]:
        """Return the open requests for duplicates that are to leave the same customer."""
        return self._all(b"l/" + whom(deletion))

    def has_open_half(self, deletion: Deletion) -> bool:
        """Return whether it is for a duplicate whose winner is to go, or a loser of its own."""
        request = deletion.request
        if request["authority"] != "duplicate" or request["customer"] is None:
            return False
        return bool(self.losers(deletion) or self._all(b"o/" + person(request["target"], request["winner"] or "")))

    def winner_gone(self, deletion: Deletion) -> int:
        """Return when a duplicate's winner was last seen to be gone at the target, by our own doing or not; 0: never.

        Once its system has published our own DELETE, what the requests stage has read of it is newer.
        """
        request = deletion.request
        if request["winner"] is None:
            return 0
        who = person(request["target"], request["winner"])
        newest = self.ended((self.tx.get(b"i/" + who) or b"").decode()) or {}
        absent: int = newest["at"] if newest.get("state") == State.ALREADY_ABSENT else 0
        own = self._own(who)
        if own is None or own["echo"] is not None:
            return absent
        return max(absent, own["done"] or own.get("sent") or _EVER)

    def done(self, deletion: Deletion) -> tuple[str, int] | None:
        """Return which request of ours has deleted the same customer last, and when; None: none that we know of."""
        own = self._own(whom(deletion))
        return None if own is None or own["done"] is None else (own["request"], own["done"])

    def unsettled(self, deletion: Deletion) -> str | None:
        """Return which request of ours has sent the same customer a DELETE whose outcome is not known; None: none.

        Nor one that was sent before the customer was published as live: it is there, whatever became of that.
        """
        own = self._own(whom(deletion))
        if own is None or own["done"] is not None:
            return None
        return None if (deletion.request["seen_live"] or 0) > (own.get("sent") or _EVER) else own["request"]

    def _own(self, who: bytes) -> dict[str, Any] | None:
        """Return the note of our newest DELETE of a customer."""
        own: dict[str, Any] | None = orjson.loads(self.tx.get(b"d/" + who) or b"null")
        return own

    def show(self, deletion: Deletion) -> None:
        """Have a request be the one whose states are published for its customer."""
        self.tx.put(b"i/" + whom(deletion), deletion.request["id"].encode())

    def newest(self, deletion: Deletion) -> bool:
        """Return whether this is the request for its customer whose states are published."""
        return self.tx.get(b"i/" + whom(deletion)) == deletion.request["id"].encode()

    def _all(self, prefix: bytes) -> list[Deletion]:
        ids = [value.decode() for _, value in self.tx.scan(prefix)]
        return [deletion for deletion in map(self.deletion, ids) if deletion is not None]

    # Undo copies

    def copy(self, who: bytes) -> Copy | None:
        """Return the undo copy of a customer that is kept, by its short key."""
        value = self.tx.get(b"j/" + who)
        return None if value is None else Copy(**orjson.loads(value))

    def keep_copy(self, deletion: Deletion, until: int) -> None:
        """Keep the undo copy of a deletion, in place of an earlier one of the same customer."""
        if deletion.undo is not None:
            self.tx.put(b"j/" + whom(deletion), orjson.dumps(Copy(deletion.request["id"], deletion.undo, until)))

    def drop_copy(self, who: bytes) -> None:
        """Drop the undo copy of a customer."""
        self.tx.delete(b"j/" + who)

    # Targets and groups

    def runtime(self, target: str) -> Runtime:
        """Return what is known of a target at present."""
        found = self.runtimes.get(target)
        if found is None:
            value = self._load(b"t/" + target.encode()) or b"{}"
            later = self._load(_LATER + b"t/" + target.encode()) or b"{}"
            found = self.runtimes[target] = Runtime(**known_of(Runtime, orjson.loads(value) | orjson.loads(later)))
        return found

    def _load(self, key: bytes) -> bytes | None:
        value = self.tx.get(key)
        if value is not None:
            self.loaded[key] = value
        return value

    def targets(self) -> list[str]:
        """Return the targets that this partition has met."""
        return [key[2:].decode() for key, _ in self.tx.scan(b"t/")]

    def group(self, name: str) -> Group | None:
        """Return a group, None where there is none of that name."""
        if name not in self.groups:
            value = self._load(b"g/" + group_id(name))
            if value is None:
                return None
            self.groups[name] = _group(value)
        return self.groups[name]

    def written_groups(self) -> list[Group]:
        """Return all groups, to be looked at only, as they were written back last."""
        return [_group(value) for _, value in self.tx.scan(b"g/")]

    def flush(self) -> Iterator[Deletion]:
        """Write everything back; yields each changed deletion just before, for its state to be published."""
        if len(self.recent) > _RECENT:
            self.recent.clear()
        for deletion in list(self.changed.values()):
            yield deletion
            request, (value, later) = deletion.request["id"], encode(deletion)
            self.tx.put(b"r/" + request.encode(), value)
            self._put_later(request, later)
            self.recent[request] = (value, later), deletion
        self.changed.clear()
        for target, runtime in self.runtimes.items():
            value, later = encode(runtime)
            self._write(b"t/" + target.encode(), value)
            self._put_later(f"t/{target}", later)
        for name, group in self.groups.items():
            self._write(b"g/" + group_id(name), orjson.dumps(group))

    def _put_later(self, of: str, later: bytes | None) -> None:
        """Keep the fields that came later, or none; `of` is the rest of the key."""
        key = _LATER + of.encode()
        if later is not None:
            self._write(key, later)
        elif self.tx.get(key) is not None:
            self.tx.delete(key)

    def _write(self, key: bytes, value: bytes) -> None:
        if self.loaded.get(key) != value:
            self.tx.put(key, value)


def _group(value: bytes) -> Group:
    fields = orjson.loads(value)
    fields["plan"] = fields["plan"] and Plan(**fields["plan"])
    fields["job"] = fields["job"] and Job(**fields["job"])
    return Group(**fields)


def group_id(name: str) -> bytes:
    """Return the short key of a group."""
    return hashlib.blake2b(name.encode(), digest_size=_WIDTH).digest()


def whom(deletion: Deletion) -> bytes:
    """Return the short key of the customer that is to be deleted; of its origin where nobody knows it."""
    request = deletion.request
    if request["customer"] is None:
        return person(request["target"], f"\0{request['source']}/{request['origin']}")
    return person(request["target"], request["customer"])
