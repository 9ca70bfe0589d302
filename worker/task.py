"""A task: one partition, one transactional producer, one state store, and one way to change all three.

Everything that Rollcall runs is such a task, whether it polls or handles. `start` fences the partition's earlier owner
and only then reads state; `transact` commits outputs, state and position together or not at all. Guarantees:

- a task that lost its partition publishes nothing any more (the broker refuses its producer: `FencedError`);
- after any other error inside a transaction its outcome counts as unknown, and the task is finished: its successor
  reads from Kafka what became of it;
- no transaction is open while anything else is waited for.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, TypeVar

import structlog
from aiokafka import TopicPartition
from prometheus_client import Gauge

from worker import telemetry
from worker.errors import FencedError, RecordTooLargeError, RollcallError, StateError, TransactionError
from worker.events import Headers
from worker.handling import Call, Lines
from worker.kafka import Connection, Encoded, TransactionalProducer, bounded_stop
from worker.state import Identity, Store, StoreTransaction
from worker.times import now_ms
from worker.topics import DAY_MS, Topics, partition_of, remedy

log = structlog.get_logger()

Result = TypeVar("Result")

_partition_of = lru_cache(1_024)(partition_of)  # of the keys that come again and again, such as scopes

# Keys of the runtime's own in a task's state start with a zero byte.
VERSION_KEY: Final = b"\x00version"
POSITION: Final = b"\x00p/"  # and a topic: how far it was read
# Half of the state topics' delete.retention.ms: an older store may have missed tombstones that are gone since.
STORE_AGE_MS: Final = 15 * DAY_MS
_RESTORE_BATCH: Final = 20_000
_RESTORE_STALL: Final = 30.0
_REPORT_SECONDS: Final = 1.0
_OVERHEAD: Final = 128  # what a record takes beside its key, value and headers, at most


def check_size(limit: int, topic: str, key: bytes, value: bytes | None, headers: Headers | None) -> None:
    """Raise RecordTooLargeError if a record takes more than `limit` bytes."""
    size = len(key) + len(value or b"") + _OVERHEAD
    if headers:
        for name, content in headers:
            size += len(name) + len(content) + 4
    if size > limit:
        message = f"a record for {topic} takes {size} bytes, more than kafka.max_record_bytes ({limit})"
        raise RecordTooLargeError(message, size=size)


class Transaction(StoreTransaction):
    """What one transaction writes: the state's changes, records for topics, and calls to make once it is committed."""

    __slots__ = ("_left", "_max_bytes", "_partitions", "calls", "group_offsets", "log", "measured", "outputs")

    def __init__(self, state: StoreTransaction, partitions: int, max_bytes: int) -> None:
        """Write through `state`; topics have `partitions`, a record at most `max_bytes`."""
        super().__init__(state.txn, state.database, state.scratch)
        self.outputs: dict[tuple[str, int], list[Encoded]] = {}
        self.calls: list[Call] = []
        self.measured: list[tuple[telemetry.Metric, float, tuple[str, ...]]] = []
        self.log = Lines()
        self.group_offsets: dict[TopicPartition, int] = {}
        self._partitions = partitions
        self._max_bytes = max_bytes
        self._left: list[Callable[[], None]] = []

    def partition(self, key: bytes) -> int:
        """Return the partition of a key."""
        return _partition_of(key, self._partitions)

    def send(
        self,
        topic: str,
        key: bytes,
        value: bytes | None,
        headers: Headers | None = None,
        *,
        partition_key: bytes | None = None,
    ) -> None:
        """Publish a record; RecordTooLargeError where the broker would refuse it, before anything is written."""
        self.check_size(topic, key, value, headers)
        self.send_to(topic, self.partition(key if partition_key is None else partition_key), key, value, headers)

    def send_to(self, topic: str, partition: int, key: bytes, value: bytes | None, headers: Headers | None) -> None:
        """Publish a record, already checked, to a partition."""
        where = (topic, partition)
        rows = self.outputs.get(where)
        if rows is None:
            rows = self.outputs[where] = []
        rows.append((key, value, headers or []))

    def check_size(self, topic: str, key: bytes, value: bytes | None, headers: Headers | None) -> None:
        """Raise RecordTooLargeError if the broker would refuse this record."""
        check_size(self._max_bytes, topic, key, value, headers)

    def call(self, call: Call) -> None:
        """Have an HTTP call made once this is committed."""
        self.calls.append(call)

    def measure(self, metric: telemetry.Metric, value: float, *labels: str) -> None:
        """Have a metric show this once this is committed."""
        self.measured.append((metric, value, labels))

    def at_end(self, work: Callable[[], None]) -> None:
        """Have `work` done by `settle`."""
        self._left.append(work)

    def settle(self) -> None:
        """Do what was left to the end, the last first."""
        while self._left:
            self._left.pop()()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a changelog has been read: in offsets, since an offset is what can be known beforehand."""

    percent: int
    per_second: int
    seconds_left: int

    @classmethod
    def of(cls, start: int, reached: int, end: int, seconds: float) -> "Progress":
        """Return how far `reached` is on the way from `start` to `end`, after so many seconds."""
        done = reached - start
        rate = done / max(seconds, 0.001)
        left = (end - reached) / rate if rate else 0.0
        return cls(100 * done // (end - start), round(rate), round(left))


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """What a task is: its stage, the format version of its state, where its store lies, and the ids it belongs to."""

    stage: str
    version: int
    folder: Path
    cluster_id: str
    topic_id: str


class Task:
    """One partition of a stage, from fencing to closing. Not to be used again after an error or `close`."""

    def __init__(self, connection: Connection, topics: Topics, spec: TaskSpec, partition: int) -> None:
        """Prepare; nothing happens before `start`."""
        self.stage = spec.stage
        self.partition = partition
        self.topics = topics
        self.connection = connection
        self._spec = spec
        self._changelog = TopicPartition(topics.state(spec.stage), partition)
        self._lock = asyncio.Lock()
        self._open = asyncio.Event()
        self._open.set()
        self._gauges: set[tuple[Gauge, tuple[str, ...]]] = set()
        self._dead: Exception | None = None
        self.stopping = asyncio.Event()
        self.working = False  # set by the loop that has taken the task up
        self.ours: Callable[[], bool] = lambda: True  # whether the group counts us as the owner, as far as is known
        self._store: Store | None = None
        self._versioned = False  # whether the state says which format it has
        self._producer: TransactionalProducer | None = None
        self.log = log.bind(stage=spec.stage, partition=partition)

    @property
    def store(self) -> Store:
        """Return the store of a started task."""
        if self._store is None:
            raise RuntimeError("the task has not been started")
        return self._store

    async def start(self, confirm: Callable[[], Awaitable[None]]) -> None:
        """Fence, then restore. `confirm` raises a RollcallError unless the group counts us as the owner right now.

        Raises that, FencedError, KafkaUnavailableError, StateError.
        """
        await confirm()
        self._producer = await self.connection.producer(self.topics.transactional_id(self.stage, self.partition))
        await confirm()
        identity = Identity(self._spec.cluster_id, self._spec.topic_id)
        folder = self._spec.folder / self.stage / str(self.partition)
        self._store = Store(folder, identity, oldest=now_ms() - STORE_AGE_MS)
        if self._store.wiped:
            telemetry.STORE_WIPES.labels(self.stage).inc()
            self.log.info("store_read_anew", reason=self._store.wiped)
        await self._restore(self._store)
        self._check_version()
        await self._producer.know([self._changelog.topic])

    async def _restore(self, store: Store) -> None:
        """Read the changelog from where the store stands to its end.

        The end is taken as a `read_uncommitted` consumer sees it, after our producer ended the predecessor's open
        transaction, and is reached by position: transaction markers take offsets too.
        """
        started, start = time.monotonic(), store.offset
        end = (await self.connection.ends([self._changelog]))[self._changelog]
        if store.offset > end:
            message = (
                f"the local store of {self.stage}/{self.partition} is ahead of its changelog {self._changelog.topic} "
                f"({store.offset} > {end})"
            )
            hint = "The topic lost committed records (an unclean leader election?). Remove the local state to go on."
            raise StateError(message, hint=hint)
        count = await self._read_changelog(store, end) if store.offset < end else 0
        took = time.monotonic() - started
        telemetry.RESTORE_SECONDS.labels(self.stage).observe(took)
        keys = store.entries()
        self.log.info("task_restored", start=start, offset=end, records=count, seconds=round(took, 3), keys=keys)

    async def _read_changelog(self, store: Store, end: int) -> int:
        where, count, start = self._changelog, 0, store.offset
        consumer = await self.connection.consumer(max_partition_fetch_bytes=8 * 1024 * 1024, check_crcs=False)
        try:
            consumer.assign([where])
            consumer.seek(where, start)
            started = moved = reported = time.monotonic()
            while (position := await consumer.position(where)) < end:
                records = (await consumer.getmany(where, timeout_ms=500, max_records=_RESTORE_BATCH)).get(where, [])
                reached = await consumer.position(where)
                if reached > position:
                    moved = time.monotonic()
                elif time.monotonic() - moved > _RESTORE_STALL:
                    message = f"{where.topic}/{where.partition} cannot be read on from offset {position} of {end}"
                    raise TransactionError(message, hint="Is a replica missing, or a transaction left open there?")
                newest = max((record.timestamp for record in records), default=now_ms())
                store.apply(((record.key, record.value) for record in records), reached, newest)
                count += len(records)
                telemetry.RESTORE_RECORDS.labels(self.stage).inc(len(records))
                how_far = Progress.of(start, reached, end, time.monotonic() - started)
                telemetry.RESTORE_LEFT.labels(self.stage, str(self.partition)).set(how_far.seconds_left)
                if time.monotonic() - reported > _REPORT_SECONDS:
                    reported = time.monotonic()
                    self.log.info(
                        "task_restoring",
                        records=count,
                        percent=how_far.percent,
                        per_second=how_far.per_second,
                        seconds_left=how_far.seconds_left,
                    )
        finally:
            telemetry.RESTORE_LEFT.labels(self.stage, str(self.partition)).set(0)
            await bounded_stop(consumer.stop(), "restore consumer")
        return count

    def _check_version(self) -> None:
        with self.store.reading() as state:
            found = state.get(VERSION_KEY)
        self._versioned = found is not None
        if found is None or int(found) == self._spec.version:
            return
        message = (
            f"the state of {self.stage} has format {int(found)}, this version of Rollcall writes {self._spec.version}"
        )
        newer = int(found) > self._spec.version
        hint = (
            "It was written by a newer version of Rollcall: run that one, or set an earlier state generation."
            if newer
            else remedy(self.stage)
        )
        raise StateError(message, hint=hint)

    async def stopping_within(self, seconds: float) -> bool:
        """Wait until the task is to come to an end, but not longer than `seconds`; return whether it is."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.stopping.wait()
        return self.stopping.is_set()

    async def transact(self, work: Callable[[Transaction], Result]) -> Result:
        """Run `work` on a transaction and commit what it wrote; return what it returned.

        `work` may run on the event loop for a while, and does not wait for anything. What it raises is raised here, and
        nothing was written then. Where nothing was written to Kafka, Kafka is not spoken to. While the partition is on
        hold (a rebalance) this waits. Raises FencedError or TransactionError, after which the task is finished.
        """
        await self._open.wait()
        async with self._lock:
            if self._dead is not None:
                raise self._dead
            store = self.store
            try:
                with store.guarded():
                    tx = self._transaction(store)
                    result = work(tx)
                if tx.changes or tx.outputs:
                    if not self._versioned:  # nothing was ever committed, or by a version that forgot to say it
                        tx.put(VERSION_KEY, b"%d" % self._spec.version)
                    await self._commit(tx, store)
                    self._versioned = True
                else:
                    store.commit(store.offset, now_ms())
                self._show(tx)
            except (FencedError, TransactionError, StateError, asyncio.CancelledError) as error:
                self._dead = error if isinstance(error, RollcallError) else TransactionError("it was cut short")
                raise
            finally:
                store.abort()
            return result

    def _transaction(self, store: Store) -> Transaction:
        return Transaction(store.begin(), self.topics.partitions, self.connection.settings.max_record_bytes)

    async def _commit(self, tx: Transaction, store: Store) -> None:
        if self._producer is None:
            raise RuntimeError("the task has not been started")
        where = (self._changelog.topic, self.partition)
        outputs = tx.outputs | {where: [(key, value, []) for key, value in tx.changes.items()]}
        started = time.monotonic()
        try:
            ends = await self._producer.transact(outputs, tx.group_offsets, self.topics.group(self.stage))
        except FencedError:
            telemetry.TRANSACTIONS.labels(self.stage, "fenced").inc()
            raise
        except TransactionError:
            telemetry.TRANSACTIONS.labels(self.stage, "failed").inc()
            raise
        end = ends.get(where)
        if end is not None and end <= store.offset:
            message = (
                f"{where[0]}/{self.partition} ends at {end} after a commit, and the state of {self.stage} holds it "
                f"up to {store.offset}: the topic was made anew under the running task"
            )
            raise StateError(message, hint="What it held is lost: docs/recover.md says what to do for which stage.")
        store.commit(store.offset if end is None else end, now_ms())
        telemetry.TRANSACTIONS.labels(self.stage, "committed").inc()
        telemetry.TRANSACTION_SECONDS.labels(self.stage).observe(time.monotonic() - started)
        telemetry.RECORDS_OUT.labels(self.stage).inc(sum(map(len, tx.outputs.values())))

    def _show(self, tx: Transaction) -> None:
        """Have the metrics show what was measured, and the log what was said."""
        for level, event, fields in tx.log.said:
            getattr(self.log, level)(event, **fields)
        for metric, value, labels in tx.measured:
            if isinstance(metric, Gauge):
                metric.labels(*labels).set(value)
                self._gauges.add((metric, labels))
            else:
                metric.labels(*labels).inc(value)

    @property
    def dead(self) -> Exception | None:
        """Return why the task is finished, None while it is not."""
        return self._dead

    async def hold(self, patience: float) -> None:
        """Start no further transaction, and wait up to `patience` seconds for the open one to end."""
        self._open.clear()
        try:
            async with asyncio.timeout(patience), self._lock:
                pass
        except TimeoutError:
            self.log.warning("transaction_outlasts_hold", seconds=patience)

    def resume(self) -> None:
        """Go on after `hold`: the group gave us the same partition again."""
        self._open.set()

    async def close(self) -> None:
        """Close the producer (an open transaction is left to the successor, who ends it) and the store."""
        self._dead = self._dead or TransactionError("the task was closed")
        while self._gauges:
            gauge, labels = self._gauges.pop()
            gauge.remove(*labels)
        self._open.set()  # whoever waits for a transaction is told
        try:
            if self._producer is not None:
                await self._producer.close()
        finally:  # also where this is cut short: a store is open once, or the next task finds it taken
            if self._store is not None:
                self._store.close()
