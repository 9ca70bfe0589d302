"""What a handler is, and what may come of one record: the contract between the handlers and the loop that runs them.

A handler is a pure decision over one partition: it reads and writes state, sends records and asks for HTTP calls only
through the transaction it is given, and takes the time as an argument. The loop commits all of it (outputs, state and
input position) in one Kafka transaction or none of it. HTTP calls that a handler asks for are made after the
transaction that asked for them has been committed, never inside one; what they answered comes back by `on_reply`.

After any failure the same input is given again against the same state, so a handler never sees half of its own work.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

import orjson

from worker.errors import RecordError
from worker.events import Headers
from worker.telemetry import Metric

STOPPING: Final = "stopping"
"""Why a call was not made (`Reply.error`) that was asked for while the worker was on its way out."""
CALLED_OFF: Final = "CalledOffError"
"""What a reply's `error` says where the call was not wanted any more when its turn came: nobody was asked anything."""
UNASKED: Final = frozenset({STOPPING, CALLED_OFF})
"""Both: such a reply says nothing of the target."""


@dataclass(slots=True)  # a frozen one takes four times as long to make, and one is made of every record
class Record:
    """A record of a topic, not to be changed; `timestamp` is in milliseconds since the epoch."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


def decoded(record: Record) -> Any:
    """Return what a record of our topics says, None for a null; raises RecordError for one that is no JSON."""
    try:
        return orjson.loads(record.value or b"null")
    except orjson.JSONDecodeError as error:
        message = f"{record.topic}, partition {record.partition}, offset {record.offset} is no JSON"
        hint = "Another program has written there: who may write is in `rollcall acls`. What comes after it is intact."
        raise RecordError(message, hint=hint) from error


@dataclass(frozen=True, slots=True)
class Input:
    """A topic that a handler reads.

    `start`: where a task without any state begins, the topic's beginning or its end as it is then.
    """

    topic: str
    start: Literal["earliest", "latest"] = "earliest"


@dataclass(frozen=True, slots=True)
class Call:
    """An HTTP call that a handler wants made once its transaction is committed.

    `id` comes back with the reply and is unique among the calls under way; `lane` names the target whose rate limit,
    breaker and session serve it. `path` is below the target's base URL, already encoded. After `latest` (milliseconds
    since the epoch) it is not sent any more, should the rate limit have held it up: the reply says CALLED_OFF then.
    """

    id: str
    lane: str
    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    json: object | None = None
    headers: tuple[tuple[str, str], ...] = ()
    latest: int | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of a call: a status with headers (names in lower case) and body, or no answer at all.

    `status` is None where the call got no answer (`error` says why: `timeout`, `connection`, `STOPPING`, ...), in which
    case it may or may not have been carried out; `sent` is False only if it certainly never left.
    """

    status: int | None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    error: str | None = None
    sent: bool = True


@dataclass(frozen=True, slots=True)
class Done:
    """The record was handled."""


@dataclass(frozen=True, slots=True)
class Skip:
    """The record needs nothing done; `reason` is a short fixed word for the metrics, such as `seen`."""

    reason: str


@dataclass(frozen=True, slots=True)
class Retry:
    """Not now: give the same record again after `after` seconds; the records behind it wait."""

    after: float


@dataclass(frozen=True, slots=True)
class Dead:
    """The record can never be handled: it goes to the dead letters; `reason` holds no customer data."""

    reason: str


Outcome = Done | Skip | Retry | Dead


class State(Protocol):
    """The state of one task: an ordered map of bytes, written with the transaction."""

    def get(self, key: bytes) -> bytes | None:
        """Return the value of `key`, None where there is none; writes of this transaction are seen."""

    def put(self, key: bytes, value: bytes) -> None:
        """Set `key`. Keys are 1 to 500 bytes (LMDB's limit of 511 less our own prefix)."""

    def delete(self, key: bytes) -> None:
        """Remove `key`; nothing happens where there is none."""

    def scan(self, prefix: bytes, start: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, value) of the keys with `prefix`, in byte order, from `start` on.

        Writes of this transaction are seen. Do not write under the prefix while the iterator is open.
        """


class Lines:
    """Lines for the log, which are written once the transaction is committed: (level, name, fields) each."""

    __slots__ = ("said",)

    def __init__(self) -> None:
        """Start with none."""
        self.said: list[tuple[Literal["info", "warning"], str, dict[str, Any]]] = []

    def info(self, event: str, **fields: Any) -> None:
        """Have a line written that says how things go."""
        self.said.append(("info", event, fields))

    def warning(self, event: str, **fields: Any) -> None:
        """Have a line written that somebody should read."""
        self.said.append(("warning", event, fields))


class Tx(State, Protocol):
    """The transaction that a handler works in; `log` has the lines that it writes (`worker.logevents`)."""

    log: Lines

    def send(
        self,
        topic: str,
        key: bytes,
        value: bytes | None,
        headers: Headers | None = None,
        *,
        partition_key: bytes | None = None,
    ) -> None:
        """Publish a record with this transaction; its partition is murmur2 of `partition_key`, by default of `key`."""

    def call(self, call: Call) -> None:
        """Have an HTTP call made once this transaction is committed; the answer comes by `on_reply`."""

    def measure(self, metric: Metric, value: float, *labels: str) -> None:
        """Once this transaction is committed, set a gauge to `value`, or have a counter count so many more.

        A gauge shows this until the task leaves the worker: its labels have to be ones that no other task sets.
        """

    def at_end(self, work: Callable[[], None]) -> None:
        """Have `work` done after all that the handler does in this transaction, as part of it; the last one first.

        So a handler does once what many records of a transaction call for. If `work` raises, the transaction fails
        and its records are given again, fewer at a time.
        """


class Handler(Protocol):
    """One stage of a handler, run once for each partition of its primary input.

    The loop calls, always within a transaction: `open` once after the state was restored; `on_record` for each record,
    in order within each input; `on_reply` for each answer; `on_timer` when the time that the last `on_timer` (or
    `open`) returned has come. `now` is milliseconds since the epoch. Only one call runs at a time.
    """

    @property
    def stage(self) -> str:
        """The stage's name: of its group, its transactional ids and its state topic."""

    @property
    def version(self) -> int:
        """The version of the state's format; state of another one is refused, with what to do about it."""

    @property
    def inputs(self) -> tuple[Input, ...]:
        """What it reads: the primary input first (the group's subscription), further ones with it by partition."""

    def open(self, tx: Tx, partition: int, ends: Mapping[str, int], now: int) -> int | None:
        """Take up a partition. `ends` has the end offset of each input now.

        Returns when `on_timer` is first wanted, in milliseconds since the epoch, or None.
        """

    def on_record(self, tx: Tx, record: Record, now: int) -> Outcome:
        """Handle one record. `Dead` and `Retry` must be returned before anything is written to `tx`."""

    def on_reply(self, tx: Tx, call: Call, reply: Reply, now: int) -> None:
        """Take the answer of a call."""

    def on_timer(self, tx: Tx, now: int) -> int | None:
        """Do what is due; return when to be called next, in milliseconds since the epoch, or None for never."""
