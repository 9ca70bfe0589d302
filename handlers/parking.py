"""Runs a plug-in over events of one partition: customer by customer in order, several customers at once.

An event that the handler failed on is a dead letter, and stands at the head of its customer's queue in the state; later
events of that customer wait behind it, so that its handler never sees them out of order. A retry or a discard takes the
head away; what waits is then handled in order, a part at a time, while newer events line up behind.

Nothing is written here: a `Batch` says what has to be, in one transaction.
"""

import asyncio
import base64
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

import orjson

from handlers.plugins import Caller, Effect, customer_hash
from worker.events import Headers
from worker.handling import Dead, Done, Outcome, Record, Skip
from worker.redelivery import Redelivery
from worker.times import rfc3339
from worker.topics import DAY_MS

_QUEUE: Final = b"k"
_PLACE: Final = b"q"
_DRAINING: Final = b"d"
_PART: Final = 200
# Half of what the dead letters' topic keeps: what nobody has settled by then is written there once more, with the next
# event of its customer; by our decision (`Dead`), and its reason says over which error.
_RENEWED_MS: Final = 15 * DAY_MS
_STILL: Final = "its customer's events wait behind it since"

Read = Callable[[bytes], bytes | None]
Scan = Callable[[bytes], Iterator[tuple[bytes, bytes]]]


@dataclass
class Batch:
    """What has to be written for so many records (`count`, from the first one on).

    `buried`: records that are dead letters now, the error's class (`Dead` where it was decided), and why.
    `answers`: what became of retries and discards.
    """

    count: int = 0
    writes: dict[bytes, bytes | None] = field(default_factory=dict)
    sent: list[tuple[str, bytes, bytes | None, Headers]] = field(default_factory=list)
    buried: list[tuple[Record, str, str]] = field(default_factory=list)
    answers: list[tuple[Redelivery, str, str]] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)

    def add(self, other: "Batch") -> None:
        """Take in what has to be written for another record."""
        self.writes |= other.writes
        self.sent += other.sent
        self.buried += other.buried
        self.answers += other.answers
        self.outcomes += other.outcomes


@dataclass(slots=True)
class _Queue:
    """A customer's queue: places from `first` up to `next`.

    `letter` says where the record of the dead letter at its head stood, `reason` why it is one.
    """

    first: int = 0
    next: int = 0
    letter: list[Any] | None = None
    reason: str = ""

    @property
    def empty(self) -> bool:
        return self.first == self.next


class _View:
    """The state as one customer's events see it: with what the earlier ones among them have written."""

    def __init__(self, read: Read, key: bytes) -> None:
        self._read = read
        self._hash = customer_hash(key)
        self._writes: dict[bytes, bytes | None] = {}

    def get(self, key: bytes) -> bytes | None:
        return self._writes[key] if key in self._writes else self._read(key)

    def keep(self, batch: Batch) -> None:
        self._writes |= batch.writes

    def queue(self) -> _Queue | None:
        raw = self.get(_QUEUE + self._hash)
        return None if raw is None else _Queue(*orjson.loads(raw))

    def store(self, batch: Batch, queue: _Queue) -> None:
        """Write the queue, or that there is none any more; whoever drains it finds it by its mark."""
        packed = orjson.dumps([queue.first, queue.next, queue.letter, queue.reason])
        batch.writes[_QUEUE + self._hash] = None if queue.empty else packed
        drains = not queue.empty and queue.letter is None
        batch.writes[_DRAINING + self._hash] = b"1" if drains else None

    def place(self, number: int) -> bytes:
        return _PLACE + self._hash + b"%010d" % number


class Runner:
    """Runs one plug-in on one partition."""

    def __init__(
        self, caller: Caller, name: str, concurrency: int, stopping: Callable[[], bool] = lambda: False
    ) -> None:
        """`concurrency`: customers that are handled at once; `stopping`: whether no further event is to be begun."""
        self._caller = caller
        self._name = name
        self._slots = asyncio.Semaphore(concurrency)
        self._stopping = stopping

    async def handle(self, records: Sequence[Record], read: Read, *, replays: bool) -> Batch:
        """Handle events, or (`replays`) records that are given once more; the batch ends before an unfinished one.

        Raises StoreError where the state cannot be read.
        """
        groups: dict[bytes, list[int]] = {}
        for number, record in enumerate(records):
            groups.setdefault(record.key or b"", []).append(number)
        done: dict[int, Batch] = {}

        async def work(key: bytes, numbers: list[int]) -> None:
            view = _View(read, key)
            async with self._slots:
                for number in numbers:
                    take = self._again if replays else self._take
                    finished = None if self._stopping() else await take(records[number], view)
                    if finished is None:
                        return
                    view.keep(finished)
                    done[number] = finished

        try:
            async with asyncio.TaskGroup() as tasks:
                for key, numbers in groups.items():
                    tasks.create_task(work(key, numbers))
        except ExceptionGroup as several:  # whoever calls knows each by its class: the first one stands for all
            raise several.exceptions[0] from None
        whole = Batch()
        while whole.count in done:
            whole.add(done[whole.count])
            whole.count += 1
        return whole

    async def _take(self, record: Record, view: _View) -> Batch | None:
        """Handle an event, or have it wait behind its customer's dead letter."""
        queue = view.queue()
        if queue is not None:
            parked = Batch(outcomes=[Skip("parked")])
            if queue.letter is not None:
                head, last = (_unpack(view.get(view.place(one)) or b"") for one in (queue.first, queue.next - 1))
                if _periods(head, record) > _periods(head, last):
                    parked.buried.append((head, "Dead", f"{queue.reason}; {_STILL} {rfc3339(head.timestamp)}"))
            self._append(parked, view, queue, record)
            return parked
        effect = await self._caller.call(record, view.get)
        batch = _written(effect)
        if batch is not None and isinstance(effect.outcome, Dead):
            self._dies(batch, view, _Queue(), record, effect.error, effect.outcome.reason)
        return batch

    def _append(self, batch: Batch, view: _View, queue: _Queue, record: Record) -> None:
        batch.writes[view.place(queue.next)] = _pack(record)
        view.store(batch, replace(queue, next=queue.next + 1))

    def _dies(self, batch: Batch, view: _View, queue: _Queue, record: Record, error: str, reason: str) -> None:
        """Bury a record, at the head of its customer's queue; one without a key is no customer's, and nothing waits."""
        batch.buried.append((record, error, reason))
        if not record.key:
            return
        if queue.empty:
            batch.writes[view.place(0)] = _pack(record)
            queue = _Queue(0, 1)
        view.store(batch, replace(queue, letter=_coordinates(record), reason=reason))

    async def _again(self, carrier: Record, view: _View) -> Batch | None:
        """Handle a record that is given once more."""
        given = Redelivery.read(carrier)
        if given is None or given.to != self._name:
            return Batch(outcomes=[Skip("not_ours")])
        if given.verb == "replay":
            return await self._take(given.record, view)
        queue = view.queue()
        if queue is None or queue.letter != _coordinates(given.record):
            return Batch(answers=[(given, "superseded", "it does not wait any more")], outcomes=[Skip("superseded")])
        let_be = Batch(answers=[(given, "discarded", "it is let be")], outcomes=[Done()])
        batch = let_be if given.verb == "discard" else await self._retry(given, view)
        if batch is not None and batch.answers[0][1] != "failed":
            batch.writes[view.place(queue.first)] = None
            view.store(batch, _Queue(queue.first + 1, queue.next))
        return batch

    async def _retry(self, given: Redelivery, view: _View) -> Batch | None:
        effect = await self._caller.call(given.record, view.get)
        batch = _written(effect)
        if batch is not None and effect.outcome is not None:
            failed = isinstance(effect.outcome, Dead)
            message = effect.outcome.reason if isinstance(effect.outcome, Dead) else "it was handled"
            batch.answers.append((given, "failed" if failed else "done", message))
        return batch

    async def drain(self, read: Read, scan: Scan) -> Batch | None:
        """Handle a part of what waits behind dead letters that are settled; None where nothing waits."""
        mark = next((key for key, _ in scan(_DRAINING)), None)
        if mark is None:
            return None
        batch = Batch()
        first = scan(_PLACE + mark[len(_DRAINING) :])
        waiting = [_unpack(value) for (_, value), _ in zip(first, range(_PART), strict=False)]
        view = _View(read, waiting[0].key or b"")
        for record in waiting:
            if self._stopping():
                break
            effect = await self._caller.call(record, view.get)
            one, queue = _written(effect), view.queue() or _Queue()
            if one is None:
                break
            if isinstance(effect.outcome, Dead):
                self._dies(one, view, queue, record, effect.error, effect.outcome.reason)
            else:
                one.writes[view.place(queue.first)] = None
                view.store(one, replace(queue, first=queue.first + 1))
            view.keep(one)
            batch.add(one)
            if isinstance(effect.outcome, Dead):
                break
        return batch


def _written(effect: Effect) -> Batch | None:
    """Return what an event writes; None where it was not finished."""
    if effect.outcome is None:
        return None
    return Batch(writes=dict(effect.changes), sent=list(effect.sent), outcomes=[effect.outcome])


def _periods(head: Record, record: Record) -> int:
    """Return how many times a dead letter was due to be written once more when a record came."""
    return (record.timestamp - head.timestamp) // _RENEWED_MS


def _coordinates(record: Record) -> list[Any]:
    return [record.topic, record.partition, record.offset]


def _pack(record: Record) -> bytes:
    headers = [[name, _text(given)] for name, given in record.headers]
    return orjson.dumps([*_coordinates(record), record.timestamp, _text(record.key), _text(record.value), headers])


def _unpack(raw: bytes) -> Record:
    topic, partition, offset, timestamp, *parts, headers = orjson.loads(raw)
    key, value = (_bytes(part) for part in parts)
    own = [(name, _bytes(given)) for name, given in headers]
    return Record(topic, partition, offset, timestamp, key, value, cast("Headers", own))


def _text(part: bytes | None) -> str | None:
    """Return bytes as JSON takes them; a header's may be null as well, where another program has written it."""
    return None if part is None else base64.b64encode(part).decode()


def _bytes(part: str | None) -> bytes | None:
    return None if part is None else base64.b64decode(part)
