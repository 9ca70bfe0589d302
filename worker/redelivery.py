"""Records that are given to a stage once more: a dead letter that is retried or discarded, a copy that is replayed.

They travel on the internal topic `replays`: a dead letter in the partition in which its record stood, a copy in the one
that its key leads to. Headers say to which stage they go, what for, and where the record first stood. Every stage reads
that topic beside its inputs and passes over what is not its own. A retry keeps the record's bytes and headers, which
are under the privacy policy already; a replayed copy has the header `rollcall-replay` besides, which stays on it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from worker import answers
from worker.events import Headers, header
from worker.handling import Record
from worker.topics import POLL

REPLAY: Final = "rollcall-replay"
# What the value of `rollcall-replay` ends with on a replay that may delete downstream.
WITH_DELETES: Final = ";with-deletes"

# What is to be done with it.
#   retry    handle a dead letter once more; the answer goes to the status topic
#   discard  let a plug-in's dead letter be, and go on with what waits behind it
#   replay   handle a copy, where the stage takes any
Verb = Literal["retry", "discard", "replay"]
_VERBS: Final[dict[str, Verb]] = {verb: verb for verb in get_args(Verb)}

_TO: Final = "rollcall-to"
_VERB: Final = "rollcall-verb"
_ORIGIN: Final = "rollcall-origin"
_COMMAND: Final = "rollcall-command"
_LETTER: Final = "rollcall-letter"
_WHO: Final = "rollcall-who"
_OWN: Final = frozenset({_TO, _VERB, _ORIGIN, _COMMAND, _LETTER, _WHO})

DEAD: Final = "rollcall-dead-"
STAGE: Final = f"{DEAD}stage"
TOPIC: Final = f"{DEAD}topic"
PARTITION: Final = f"{DEAD}partition"
OFFSET: Final = f"{DEAD}offset"
ERROR: Final = f"{DEAD}error"
REASON: Final = f"{DEAD}reason"
RESOLVED: Final = f"{DEAD}resolved"
OUTCOME: Final = f"{DEAD}outcome"


@dataclass(frozen=True, slots=True)
class Redelivery:
    """A record that is given to stage `to` once more; `record` is as it first stood on its topic.

    `command` is the id of the operator's command and `letter` the dead letter's name, both empty on a replay.
    """

    to: str
    verb: Verb
    record: Record
    command: str = ""
    letter: str = ""
    who: str = ""

    def headers(self) -> Headers:
        """Return the headers that it travels with."""
        record = self.record
        return [
            *((name, value) for name, value in record.headers if not name.startswith(DEAD) and name not in _OWN),
            (_TO, self.to.encode()),
            (_VERB, self.verb.encode()),
            (_ORIGIN, f"{record.partition}/{record.offset}/{record.topic}".encode()),
            (_COMMAND, self.command.encode()),
            (_LETTER, self.letter.encode()),
            (_WHO, self.who.encode()),
        ]

    @classmethod
    def read(cls, carrier: Record) -> "Redelivery | None":
        """Return what a record of the topic `replays` carries, None where it carries nothing that can be read."""
        headers = carrier.headers
        to, verb = header(headers, _TO), _VERBS.get(header(headers, _VERB) or "")
        partition, _, rest = (header(headers, _ORIGIN) or "").partition("/")
        offset, _, topic = rest.partition("/")
        if not (to and verb and partition.isdecimal() and offset.isdecimal() and topic):
            return None
        own = [(name, value) for name, value in headers if name not in _OWN]
        record = Record(topic, int(partition), int(offset), carrier.timestamp, carrier.key, carrier.value, own)
        said = (header(headers, name) or "" for name in (_COMMAND, _LETTER, _WHO))
        return cls(to, verb, record, *said)


def letter_headers(record: Record, stage: str, error: str, reason: str) -> Headers:
    """Return the headers of a dead letter: the record's own, and what was wrong with it."""
    return [
        *((name, value) for name, value in record.headers if not name.startswith(DEAD)),
        (STAGE, stage.encode()),
        (TOPIC, record.topic.encode()),
        (PARTITION, b"%d" % record.partition),
        (OFFSET, b"%d" % record.offset),
        (ERROR, error.encode()),
        (REASON, reason.encode()),
    ]


def letter_key(record: Record) -> bytes:
    """Return the key of a record's dead letter: its own, or where it has none, its place."""
    return record.key or b"%s/%d/%d" % (record.topic.encode(), record.partition, record.offset)


def resolved_headers(letter: str, stage: str, outcome: str) -> Headers:
    """Return the headers of the record, without a value, that says what became of a dead letter."""
    return [(STAGE, stage.encode()), (RESOLVED, letter.encode()), (OUTCOME, outcome.encode())]


def mended_headers() -> Headers:
    """Return the headers of the record, without a value, that says that nothing of its key is set aside any more.

    Of a customer of an upstream: it is not known where its dead letter stands.
    """
    return [(STAGE, POLL.encode()), (OUTCOME, b"done")]


def answer(given: Redelivery, outcome: str, message: str, now: int) -> tuple[bytes, bytes]:
    """Return key and value of the answer on the status topic; `now` in milliseconds since the epoch."""
    said = {"id": given.command, "what": given.verb, "who": given.who, "name": f"{given.to} {given.letter}"}
    return answers.answer(said, outcome, message, now)


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter: its name, `<partition>-<offset>` on the dead letters' topic, and what it says of the record."""

    name: str
    stage: str
    error: str
    reason: str
    at: int  # milliseconds since the epoch
    record: Record  # as it stood on its topic; that of an upstream stands at no place

    @classmethod
    def read(cls, row: Record) -> "Letter":
        """Read a record of the dead letters' topic; what it does not say is empty."""
        said = {name: header(row.headers, name) or "" for name in (STAGE, TOPIC, PARTITION, OFFSET, ERROR, REASON)}
        own = [(name, value) for name, value in row.headers if not name.startswith(DEAD)]
        partition, offset = (int(said[name]) if said[name].isdecimal() else 0 for name in (PARTITION, OFFSET))
        record = Record(said[TOPIC], partition, offset, row.timestamp, row.key, row.value, own)
        name = f"{row.partition}-{row.offset}"
        return cls(name, said[STAGE], said[ERROR], said[REASON], row.timestamp, record)


def open_letters(rows: Iterable[Record]) -> list[Letter]:
    """Return the dead letters of which nothing has become yet, in the order in which they came by partition.

    Of one that was written again, since nobody had settled it for so long, it is the newest, which is settled under an
    older name as well. Of a customer of an upstream it is the newest, too, whose record may have become bad in another
    way: that is settled under its own name. One without a value says that it was mended there.
    """
    found: dict[str, Letter] = {}
    names: dict[tuple[object, ...], str] = {}
    places: dict[str, tuple[object, ...]] = {}
    for row in rows:
        resolved = header(row.headers, RESOLVED)
        if resolved is not None:
            found.pop(names.get(places.get(resolved, ()), resolved), None)
            continue
        letter = Letter.read(row)
        record = letter.record
        place = (letter.stage, *((record.topic, record.partition, record.offset) if record.topic else (record.key,)))
        found.pop(names.get(place, ""), None)
        if record.topic or record.value is not None:
            found[letter.name] = letter
            names[place] = letter.name
            if record.topic:
                places[letter.name] = place
    return list(found.values())


def chosen(
    letters: Sequence[Letter], *, stage: str | None = None, source: str | None = None, key: str | None = None
) -> list[Letter]:
    """Return those of a stage, of a source (by the start of the key) or with a key."""
    return [
        letter
        for letter in letters
        if stage in {None, letter.stage}
        and (source is None or (letter.record.key or b"").startswith(f"{source}/".encode()))
        and (key is None or letter.record.key == key.encode())
    ]
