"""Run handlers without Kafka: topics, state and HTTP replies in memory, time by hand.

For the tests of handlers, ours and those of others. It keeps the contract of `worker.handling` to the letter: what a
handler did to its transaction is kept whole or dropped whole, calls are made only after it was kept, each input is in
order and inputs interleave in any order (by a seed), a crash forgets calls under way and opens the state again.

It does not imitate Kafka's own behaviour (fencing, compaction, retention, rebalances): that is tested on a real broker.
"""

import bisect
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import orjson
from prometheus_client import Counter

from worker.errors import RecordTooLargeError
from worker.events import (
    CREATED,
    DELETED,
    UPDATED,
    Contact,
    Customer,
    EventType,
    Headers,
    Kind,
    Reason,
    customer_key,
    event_headers,
)
from worker.handling import CALLED_OFF, Call, Handler, Lines, Outcome, Record, Reply, Retry
from worker.telemetry import Metric
from worker.topics import partition_of


def person(
    source: str,
    customer_id: str,
    *,
    given: str | None = None,
    family: str | None = None,
    born: str | None = None,
    emails: Sequence[str] = (),
    phones: Sequence[str] = (),
    address: tuple[str, str, str] | None = None,
    kind: Kind = "person",
    first_seen: str = "2025-01-01T00:00:00.000Z",
) -> Customer:
    """Return a normalized customer. E-mails and phones are taken as normalized; `address` is (line, city, postcode)."""
    name = {
        "given": given,
        "middle": None,
        "family": family,
        "suffix": None,
        "full": " ".join(filter(None, (given, family))),
    }
    parts = {"line1": None, "line2": None, "city": None, "region": None, "postcode": None, "country": "US"}
    if address is not None:
        parts |= dict(zip(("line1", "city", "postcode"), address, strict=True))
    place = {"value": parts, "normalized": parts, "label": None, "preferred": True}
    return {
        "source": source,
        "id": customer_id,
        "kind": kind,
        "name": name if given or family else None,  # type: ignore[typeddict-item]
        "company": None,
        "emails": [_contact(email) for email in emails],
        "phones": [_contact(phone) for phone in phones],
        "addresses": [place] if address is not None else [],  # type: ignore[list-item]
        "date_of_birth": born,
        "locale": None,
        "status": None,
        "references": [],
        "identifiers": [],
        "consents": [],
        "tags": [],
        "metadata": {},
        "attributes": {},
        "created_at": None,
        "updated_at": None,
        "first_seen": first_seen,
    }


def latest(customer: Customer, sequence: int, time: str = "2025-01-01T00:00:00.000Z") -> tuple[bytes, bytes, Headers]:
    """Return (key, value, headers) of a customer on `customers.latest`."""
    key = customer_key(customer["source"], customer["id"])
    type_: EventType = CREATED if sequence == 1 else UPDATED
    headers = event_headers(key=key, source=customer["source"], type_=type_, sequence=sequence, time=time)
    return key, orjson.dumps(customer), headers


def deleted(
    source: str, customer_id: str, sequence: int, reason: Reason = "tombstone", time: str = "2025-01-01T00:00:00.000Z"
) -> tuple[bytes, None, Headers]:
    """Return (key, None, headers) of a deletion on `customers.latest`."""
    key = customer_key(source, customer_id)
    headers = event_headers(key=key, source=source, type_=DELETED, sequence=sequence, time=time, reason=reason)
    return key, None, headers


def _contact(value: str) -> Contact:
    return {"value": value, "normalized": value, "label": None, "preferred": False}


class MemoryState:
    """An ordered map of bytes with one open transaction at a time."""

    def __init__(self) -> None:
        """Start empty."""
        self.data: dict[bytes, bytes] = {}
        self._keys: list[bytes] = []
        self._undo: dict[bytes, bytes | None] = {}

    def get(self, key: bytes) -> bytes | None:
        """Return the value of `key`."""
        return self.data.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        """Set `key`; ValueError for a key or value that LMDB would refuse."""
        if not 1 <= len(key) <= 500:  # ruff: ignore[magic-value-comparison] - the limit of the contract
            raise ValueError(f"a key has 1 to 500 bytes, not {len(key)}")
        self._undo.setdefault(key, self.data.get(key))
        self._set(key, value)

    def delete(self, key: bytes) -> None:
        """Remove `key`."""
        self._undo.setdefault(key, self.data.get(key))
        self._set(key, None)

    def scan(self, prefix: bytes, start: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, value) under `prefix` in order, from `start` on."""
        index = bisect.bisect_left(self._keys, max(prefix, start or prefix))
        while index < len(self._keys) and self._keys[index].startswith(prefix):
            key = self._keys[index]
            yield key, self.data[key]
            index += 1

    def commit(self) -> None:
        """Keep what was written."""
        self._undo.clear()

    def _set(self, key: bytes, value: bytes | None) -> None:
        known = key in self.data
        if value is None:
            if known:
                del self.data[key]
                self._keys.pop(bisect.bisect_left(self._keys, key))
            return
        if not known:
            bisect.insort(self._keys, key)
        self.data[key] = value


class MemoryTx(MemoryState):
    """A transaction over a state of its own, which remembers what was sent and asked for."""

    def __init__(self) -> None:
        """Start with an empty state."""
        super().__init__()
        self.sent: list[tuple[str, bytes, bytes | None, Headers, bytes]] = []
        self.calls: list[Call] = []
        self.measured: dict[tuple[Metric | str, ...], float] = {}
        self.log = Lines()
        self._left: list[Callable[[], None]] = []

    def send(
        self,
        topic: str,
        key: bytes,
        value: bytes | None,
        headers: Headers | None = None,
        *,
        partition_key: bytes | None = None,
    ) -> None:
        """Remember a record; the last part is what its partition is computed from."""
        self.sent.append((topic, key, value, list(headers or ()), key if partition_key is None else partition_key))

    def call(self, call: Call) -> None:
        """Remember a call."""
        self.calls.append(call)

    def measure(self, metric: Metric, value: float, *labels: str) -> None:
        """Remember a measurement: a gauge's newest, a counter's sum."""
        before = self.measured.get((metric, *labels), 0) if isinstance(metric, Counter) else 0
        self.measured[metric, *labels] = before + value

    def at_end(self, work: Callable[[], None]) -> None:
        """Have `work` done before the next commit."""
        self._left.append(work)

    def commit(self) -> None:
        """Do what was left to the end of the transaction, the last first, and keep what was written."""
        while self._left:
            self._left.pop()()
        super().commit()


class MemoryPollTx(MemoryTx):
    """A transaction of a poll task: marks beside it, and records only up to `max_bytes` of key and value."""

    def __init__(self, max_bytes: int = 1_000_000) -> None:
        """Start with an empty state and no marks."""
        super().__init__()
        self.marks: set[bytes] = set()
        self.notes: dict[bytes, bytes] = {}
        self.max_bytes = max_bytes

    def mark(self, key: bytes) -> bool:
        """Set a mark; return whether it is new."""
        new = key not in self.marks
        self.marks.add(key)
        return new

    def marked(self, key: bytes) -> bool:
        """Return whether a mark is set."""
        return key in self.marks

    def note(self, key: bytes, value: bytes) -> None:
        """Set a note."""
        self.notes[key] = value

    def noted(self, key: bytes) -> bytes | None:
        """Return a note, None if there is none."""
        return self.notes.get(key)

    def unmark(self, prefix: bytes) -> None:
        """Remove the marks and notes that start with `prefix`."""
        self.marks = {key for key in self.marks if not key.startswith(prefix)}
        self.notes = {key: value for key, value in self.notes.items() if not key.startswith(prefix)}

    def check_size(self, topic: str, key: bytes, value: bytes | None, headers: Headers | None) -> None:
        """Raise RecordTooLargeError as a real transaction does."""
        size = len(key) + len(value or b"") + sum(len(name) + len(content) for name, content in headers or ())
        if size > self.max_bytes:
            raise RecordTooLargeError(f"a record for {topic} takes {size} bytes", size=size)

    def partition(self, key: bytes) -> int:
        """Return the one partition that there is."""
        del key
        return 0

    def send_to(self, topic: str, partition: int, key: bytes, value: bytes | None, headers: Headers | None) -> None:
        """Remember a record."""
        del partition
        self.send(topic, key, value, headers)


@dataclass
class _Task:
    handler: Handler
    partition: int
    tx: MemoryTx = field(default_factory=MemoryTx)
    positions: dict[str, int] = field(default_factory=dict)
    under_way: list[Call] = field(default_factory=list)
    timer: int | None = None


class Harness:
    """Some handlers, each on all partitions, over topics in memory.

    `make` returns a new handler (it is called once for each partition and after each crash); `answer` gives the reply
    to a call, or None for one that never comes; `now` is milliseconds since the epoch and moves by `advance` only.
    Up to `batch` records, a number drawn at random, share a transaction.
    """

    def __init__(
        self,
        make: Sequence[Callable[[], Handler]],
        *,
        partitions: int = 4,
        answer: Callable[[Call], Reply | None] | None = None,
        seed: int = 0,
        now: int = 1_700_000_000_000,
        batch: int = 1,
    ) -> None:
        """Build it and open every task."""
        self._batch = batch
        self.now = now
        self.partitions = partitions
        self.topics: dict[str, list[list[Record]]] = defaultdict(lambda: [[] for _ in range(partitions)])
        self.outcomes: list[tuple[str, Record, Outcome]] = []
        self._answer = answer or (lambda _: None)
        self._random = random.Random(seed)  # ruff: ignore[suspicious-non-cryptographic-random-usage] - a schedule, not a secret
        self._make = list(make)
        self._tasks: list[_Task] = []
        for maker in self._make:
            for partition in range(partitions):
                task = _Task(maker(), partition)
                self._tasks.append(task)
                self._open(task, fresh=True)

    def publish(self, topic: str, key: bytes, value: bytes | None, headers: Headers | None = None) -> None:
        """Append a record from outside."""
        self._append(topic, key, value, list(headers or ()), key)

    def records(self, topic: str) -> list[Record]:
        """Return every record of a topic, partition by partition."""
        return [record for log in self.topics[topic] for record in log]

    def table(self, topic: str) -> dict[bytes, bytes]:
        """Return the newest non-null value by key, as compaction would leave it."""
        newest = {record.key: record.value for record in self.records(topic) if record.key is not None}
        return {key: value for key, value in newest.items() if value is not None}

    def run(self, limit: int = 1_000_000) -> None:
        """Work until nothing is left to do at the present time; AssertionError after `limit` steps."""
        if self.work(limit) == limit and self.work(1):
            raise AssertionError(f"not at rest after {limit} steps")

    def work(self, steps: int) -> int:
        """Take up to so many steps at the present time; return how many there were to take."""
        for taken in range(steps):
            possible = [step for task in self._tasks for step in self._steps(task)]
            if not possible:
                return taken
            self._random.choice(possible)()
        return steps

    def repeat(self, topic: str, partition: int, offset: int) -> None:
        """Append a copy of an earlier record to its partition: a stale message."""
        log = self.topics[topic][partition]
        log.append(replace(log[offset], offset=len(log), timestamp=self.now))

    def advance(self, milliseconds: int) -> None:
        """Let time pass, firing each timer when it is due, and work until at rest."""
        end = self.now + milliseconds
        while True:
            self.run()
            due = [task.timer for task in self._tasks if task.timer is not None and task.timer <= end]
            if not due:
                break
            self.now = max(self.now, min(due))
        self.now = end

    def crash(self, stage: str) -> None:
        """Kill the tasks of a stage: calls under way are forgotten (they may have been carried out), state is kept."""
        for task in self._tasks:
            if task.handler.stage == stage:
                task.handler = next(maker for maker in (m() for m in self._make) if maker.stage == stage)
                task.under_way.clear()
                self._open(task, fresh=False)

    def forget(self, stage: str) -> None:
        """Lose the state of a stage, positions included, and open it again."""
        for task in self._tasks:
            if task.handler.stage == stage:
                task.tx, task.positions = MemoryTx(), {}
                task.under_way.clear()
                self._open(task, fresh=True)

    def redeliver(self, stage: str, topic: str, count: int) -> None:
        """Give the last `count` records of an input to a stage once more, as after a position was set back."""
        for task in self._tasks:
            if task.handler.stage == stage:
                task.positions[topic] = max(0, task.positions[topic] - count)

    def _open(self, task: _Task, *, fresh: bool) -> None:
        ends = {given.topic: len(self.topics[given.topic][task.partition]) for given in task.handler.inputs}
        if fresh:
            for given in task.handler.inputs:
                task.positions[given.topic] = 0 if given.start == "earliest" else ends[given.topic]
        task.timer = task.handler.open(task.tx, task.partition, ends, self.now)
        self._commit(task)

    def _steps(self, task: _Task) -> Iterator[Callable[[], None]]:
        for given in task.handler.inputs:
            if task.positions[given.topic] < len(self.topics[given.topic][task.partition]):
                yield lambda topic=given.topic: self._records(task, topic)  # type: ignore[misc]
        for call in task.under_way:
            yield lambda call=call: self._reply(task, call)  # type: ignore[misc]
        if task.timer is not None and task.timer <= self.now:
            yield lambda: self._timer(task)

    def _records(self, task: _Task, topic: str) -> None:
        """Give records to a task in one transaction, up to one that cannot be handled now."""
        start = task.positions[topic]
        size = self._random.randint(1, self._batch) if self._batch > 1 else 1
        for record in self.topics[topic][task.partition][start : start + size]:
            outcome = task.handler.on_record(task.tx, record, self.now)
            self.outcomes.append((task.handler.stage, record, outcome))
            if isinstance(outcome, Retry):
                self.now += int(outcome.after * 1000)
                break
            task.positions[topic] += 1
        self._commit(task)

    def _reply(self, task: _Task, call: Call) -> None:
        task.under_way.remove(call)
        late = call.latest is not None and self.now > call.latest
        reply = Reply(None, error=CALLED_OFF, sent=False) if late else self._answer(call)
        if reply is not None:
            task.handler.on_reply(task.tx, call, reply, self.now)
            self._commit(task)

    def _timer(self, task: _Task) -> None:
        task.timer = task.handler.on_timer(task.tx, self.now)
        self._commit(task)

    def _commit(self, task: _Task) -> None:
        task.tx.commit()
        sent, task.tx.sent = task.tx.sent, []
        for topic, key, value, headers, partition_key in sent:
            self._append(topic, key, value, headers, partition_key)
        task.under_way += task.tx.calls
        task.tx.calls.clear()

    def _append(self, topic: str, key: bytes, value: bytes | None, headers: Headers, partition_key: bytes) -> None:
        partition = partition_of(partition_key, self.partitions)
        log = self.topics[topic][partition]
        log.append(Record(topic, partition, len(log), self.now, key, value, headers))
