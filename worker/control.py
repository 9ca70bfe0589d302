"""Carries out what operators order of the sources of one poll task.

Guarantees: an order takes effect in the transaction that moves the position behind it, in the order of the topic, and
is answered once; one that takes long (a whole source to be taken off) is remembered in that transaction and worked off
piece by piece, also by a successor. Customers who were handed over are known before their new source is polled.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import orjson
import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord

from worker import keys, orders, redelivery, telemetry
from worker.checkpoint import Checkpoint
from worker.condition import NOT_CONFIGURED, Condition
from worker.errors import RecordError, TransactionError
from worker.kafka import MARKERS_SECONDS, emptied, undecodable
from worker.leaving import Leaving
from worker.orders import Order, Outcome
from worker.poller import Source
from worker.task import POSITION, Task, Transaction
from worker.times import now_ms, rfc3339
from worker.watch import FEED, WatchList

log = structlog.get_logger()

_READ_MS: Final = 500

Said = tuple[Outcome, str] | None  # None: the answer comes later


class Control:
    """The orders for one task's sources."""

    def __init__(self, task: Task, sources: Mapping[str, Source]) -> None:
        """Prepare; `sources` are the configured ones of this task, by name."""
        self._task = task
        self._sources = sources
        self._where = TopicPartition(task.topics.control, task.partition)
        self._leaving = Leaving(task.topics)
        self._position = 0
        self._keep_at = 0.0

    async def prepare(self) -> None:
        """Finish what was begun, and say which sources are there no more; before any source is polled."""
        await self._work_off()
        if self._sources:
            await self._take_over()
        await self._task.transact(self._say_unconfigured)

    async def _take_over(self) -> None:
        """Take over whom others have handed to our sources in orders not carried out yet: polled first, they were new.

        The position stays: in its turn each such order is carried out once more, which changes nothing.
        """
        end = (await self._task.connection.ends([self._where]))[self._where]
        if self._kept() == end:
            return
        async with self._task.connection.reader("orders") as consumer:
            consumer.assign([self._where])
            consumer.seek(self._where, await self._start(consumer))
            while not self._task.stopping.is_set() and await consumer.position(self._where) < end:
                handed = [given for record in await self._read(consumer) if (given := self._handed(record)) is not None]
                if handed:
                    await self._task.transact(lambda tx, some=handed: self._adopt(tx, some))  # type: ignore[misc]

    def _handed(self, record: ConsumerRecord) -> Order | None:
        """Return the order in a record if it hands customers to one of our sources."""
        try:
            given = orders.read(record.key, record.value)
        except RecordError:
            return None  # it is set aside in its turn
        return given if given is not None and given["what"] == "adopt" and given["source"] in self._sources else None

    def _adopt(self, tx: Transaction, some: Iterable[Order]) -> None:
        for given in some:
            self._leaving.adopt(tx, given, WatchList(given["source"]))  # the sources have not counted theirs yet

    def _say_unconfigured(self, tx: Transaction) -> None:
        for key, raw in list(tx.scan(keys.CHECKPOINTS)):
            name = key.removeprefix(keys.CHECKPOINTS).decode()
            if name not in self._sources:
                record = Condition(name, "").record(Checkpoint.unpack(raw), now_ms()) | NOT_CONFIGURED
                tx.send(self._task.topics.status, b"source/" + name.encode(), orjson.dumps(record))

    async def run(self) -> None:
        """Carry orders out until the task is stopping."""
        async with self._task.connection.reader("orders") as consumer:
            consumer.assign([self._where])
            consumer.seek(self._where, await self._start(consumer))
            while not self._task.stopping.is_set():
                for record in await self._read(consumer):
                    if self._task.stopping.is_set() or not await self._taken(record):
                        return  # a successor carries it out: the sources are at their end
                await self._pass(await consumer.position(self._where))

    async def _read(self, consumer: AIOKafkaConsumer) -> list[ConsumerRecord]:
        """Return the next records."""
        try:
            read = await consumer.getmany(self._where, timeout_ms=_READ_MS, max_records=100)
        except UnicodeDecodeError:
            raise await undecodable(consumer, [self._where]) from None
        except KafkaError as error:
            message = f"the orders in {self._where.topic} cannot be read ({type(error).__name__})"
            raise TransactionError(message) from error
        records: list[ConsumerRecord] = read.get(self._where, [])
        return records

    async def _start(self, consumer: AIOKafkaConsumer) -> int:
        """Return where to read on; orders that were deleted unread are said, and there is no waiting for them."""
        first: int = (await consumer.beginning_offsets([self._where]))[self._where]
        end = (await consumer.end_offsets([self._where]))[self._where]
        kept = self._kept()
        self._position = first if kept is None else kept
        if first <= self._position <= end:
            return self._position
        if emptied(self._position, first, end):
            log.warning("input_emptied", topic=self._where.topic, position=self._position)
        else:
            log.error("orders_lost", topic=self._where.topic, partition=self._where.partition, position=self._position)
        await self._task.transact(lambda tx: self._move(tx, first))
        return first

    def _kept(self) -> int | None:
        with self._task.store.reading() as state:
            raw = state.get(POSITION + self._where.topic.encode())
        return None if raw is None else int(raw)

    async def _pass(self, position: int) -> None:
        """Keep now and then that the ends of transactions were passed: they are deleted as orders are."""
        now = time.monotonic()
        if position > self._position and (self._task.stopping.is_set() or now > self._keep_at):
            self._keep_at = now + MARKERS_SECONDS
            await self._task.transact(lambda tx: self._move(tx, position))

    def _move(self, tx: Transaction, position: int) -> None:
        tx.put(POSITION + self._where.topic.encode(), b"%d" % position)
        self._position = position

    async def _taken(self, record: ConsumerRecord) -> bool:
        """Carry out what is in a record; return whether that was done before its source came to its end."""
        try:
            await self.take(record.key, record.value, record.offset)
        except TransactionError:
            if not self._task.stopping.is_set() or self._task.dead is not None:
                raise
            return False
        return True

    async def take(self, key: bytes | None, value: bytes | None, offset: int) -> None:
        """Carry out the order in one record of the control topic, and move the position behind it."""
        try:
            given = orders.read(key, value)
        except RecordError as error:
            reason = error.message
            log.warning("order_set_aside", offset=offset, reason=reason)
            await self._task.transact(lambda tx: self._set_aside(tx, key, value, offset, reason))
            return

        def work(tx: Transaction) -> None:
            if given is not None:
                self._carry_out(tx, given)
            self._move(tx, offset + 1)

        source = None if given is None else self._sources.get(given["source"])
        if source is None:
            await self._task.transact(work)
            await self._work_off()
        else:
            await source.commit(work)

    def _set_aside(self, tx: Transaction, key: bytes | None, value: bytes | None, offset: int, reason: str) -> None:
        headers = [
            (redelivery.STAGE, self._task.stage.encode()),
            (redelivery.TOPIC, self._where.topic.encode()),
            (redelivery.PARTITION, b"%d" % self._where.partition),
            (redelivery.OFFSET, b"%d" % offset),
            (redelivery.REASON, reason.encode()),
        ]
        telemetry.DEAD_LETTERS.labels(self._task.stage).inc()
        key = key or b"control"
        tx.send_to(self._task.topics.deadletters, tx.partition(key), key, value, headers)  # of whatever size
        self._move(tx, offset + 1)

    def _carry_out(self, tx: Transaction, given: Order) -> None:
        source = self._sources.get(given["source"])
        if given["what"] == "adopt":
            self._leaving.adopt(tx, given, WatchList(given["source"]) if source is None else source.watch)
            return
        said = self._of_unconfigured(tx, given) if source is None else self._of_configured(tx, given, source)
        if said is not None:
            outcome, text = said
            log.info("order", order=given["id"], what=given["what"], source=given["source"], outcome=outcome)
            tx.send(self._task.topics.status, *orders.answer(given, outcome, text, now_ms()))

    def _of_unconfigured(self, tx: Transaction, given: Order) -> Said:
        if given["what"] not in {"forget", "delete", "rename"}:
            return "refused", f"{given['source']} is not configured where it would be polled"
        return self._leaving.begin(tx, given)

    def _of_configured(self, tx: Transaction, given: Order, source: Source) -> Said:
        said: Said
        match given["what"]:
            case "watch" | "unwatch":
                return self._watching(tx, given, source)
            case "pause" | "resume" | "resync" | "approve":
                said = _SIMPLE[given["what"]](source.detector.checkpoint, given)
            case "look up":
                said = _look_up(source, given)
            case _:
                name = source.name
                return (
                    "refused",
                    f"{name} is configured: take it out of the configuration first, and restart the pollers",
                )
        source.detector.save(tx)
        return said

    def _watching(self, tx: Transaction, given: Order, source: Source) -> Said:
        """Put ids on the watch list or take them off; a long list comes in parts, and is answered with the last."""
        if FEED not in source.feeds:
            return "refused", f"{source.name} is a source that lists its customers: there is nothing to watch"
        bad = [id_ for id_ in given["ids"] if source.adapter.lookup(id_) is None]
        if bad:
            return "refused", f"{bad[0]!r} is no id of {source.name}"
        if given["what"] == "watch":
            count = source.watch.add(tx, given["ids"])
        else:
            removed = source.watch.remove(tx, given["ids"])
            for id_ in removed:
                source.detector.unobserve(tx, id_)
            source.detector.save(tx)  # how many are set aside
            count = len(removed)
        key = keys.ORDERS + given["id"].encode()
        before: dict[str, int] = orjson.loads(tx.get(key) or b'{"count":0,"of":0}')
        count, of = before["count"] + count, before["of"] + len(given["ids"])
        if given["part"] < given["parts"]:
            tx.put(key, orjson.dumps({"count": count, "of": of}))
            return None
        tx.delete(key)
        rest = "were watched already" if given["what"] == "watch" else "were not watched"
        verb = "added" if given["what"] == "watch" else "removed"
        return "done", f"{count} {verb}, {of - count} {rest}; {source.watch.watched} are watched"

    # Jobs

    async def _work_off(self) -> None:
        """Do what was begun, piece by piece, until nothing of it is left, or the task is stopping."""
        while not self._task.stopping.is_set():
            with self._task.store.reading() as state:
                job = next(iter(state.scan(keys.JOBS)), None)
            if job is None:
                return
            await self._task.transact(lambda tx, key=job[0]: self._leaving.go_on(tx, key, now_ms()))  # type: ignore[misc]


def _pause(checkpoint: Checkpoint, given: Order) -> Said:
    if checkpoint.paused is not None:
        return "refused", f"{given['source']} is paused already, by {checkpoint.paused['who']}"
    checkpoint.paused = {"who": given["who"], "at": rfc3339(given["at"])}
    return "done", f"{given['source']} is paused: it is asked nothing until it is resumed"


def _resume(checkpoint: Checkpoint, given: Order) -> Said:
    if checkpoint.paused is None:
        return "refused", f"{given['source']} is not paused"
    checkpoint.paused = None
    return "done", f"{given['source']} goes on"


def _resync(checkpoint: Checkpoint, given: Order) -> Said:
    checkpoint.resync = True
    return "done", f"{given['source']} is read from the start; what differs is published"


def _approve(checkpoint: Checkpoint, given: Order) -> Said:
    """Let a plan of absences pass, as it was shown: as long as the very same customers are missing."""
    plans = {plan["plan"]: plan for plan in (checkpoint.held, checkpoint.unobserved) if plan is not None}
    if given["plan"] not in plans:
        now = f"held are {', '.join(sorted(plans))}" if plans else "no plan is held"
        return "refused", f"{given['source']} has no plan {given['plan']}: {now}"
    checkpoint.approved = given["plan"]
    return "done", "it is carried out when an enumeration shows once more that exactly these are missing"


_SIMPLE: Final[Mapping[str, Callable[[Checkpoint, Order], Said]]] = {
    "pause": _pause,
    "resume": _resume,
    "resync": _resync,
    "approve": _approve,
}


def _look_up(source: Source, given: Order) -> Said:
    bad = [id_ for id_ in given["ids"] if source.adapter.lookup(id_) is None]
    if bad or len(given["ids"]) != 1:
        what = f"{bad[0]!r} cannot be looked up there" if bad else "one customer is looked up at a time"
        return "refused", f"{source.name}: {what}; `rollcall resync {source.name}` reads all of it"
    checkpoint = source.detector.checkpoint
    if checkpoint.paused is not None:
        return "refused", f"{source.name} is paused"
    kept = {**given, "ids": []}
    checkpoint.wanted.append([kept, given["ids"][0]])
    return None
