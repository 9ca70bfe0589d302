"""The loop of a plug-in: its handler runs with no transaction open, then what it wrote is committed with the position.

See `handlers.plugins` for what is guaranteed, and why nothing that the handler read can have changed in between.
"""

import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition

from handlers.parking import Batch, Runner
from handlers.plugins import Caller, Plugin, PluginSettings, load
from worker.consumer import HandlerLoop
from worker.errors import TopicError, TransactionError
from worker.events import Headers
from worker.handling import Call, Dead, Input, Outcome, Record, Reply, Skip, Tx
from worker.task import Task, Transaction, check_size
from worker.times import now_ms
from worker.topics import Topics, partition_of

_CHUNK: Final = 200
_HURRY_MS: Final = 5


class PluginStage:
    """A plug-in as a stage of the loop, which takes its events from `PluginLoop` alone."""

    def __init__(self, name: str, settings: PluginSettings, topics: Topics) -> None:
        """`topics` names what it reads."""
        self.stage = name
        self.version = settings.version
        self.inputs = (Input(topics.events, settings.start),)

    def open(self, tx: Tx, partition: int, ends: Mapping[str, int], now: int) -> int | None:  # ruff: ignore[unused-method-argument] - by contract
        """Nothing is to be done at the start."""
        return None

    def on_record(self, tx: Tx, record: Record, now: int) -> Outcome:  # ruff: ignore[unused-method-argument] - by contract
        """Never called: an event is handled before the transaction."""
        return Dead("a plug-in's event came by way of a transaction")

    def on_reply(self, tx: Tx, call: Call, reply: Reply, now: int) -> None:
        """Never called: a plug-in makes its calls itself."""

    def on_timer(self, tx: Tx, now: int) -> int | None:  # ruff: ignore[unused-method-argument] - by contract
        """No timer is set here."""
        return None


def find(name: str, settings: PluginSettings) -> Plugin:
    """Return a plug-in, looked for in the present folder too; raises ConfigError."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    return load(name, settings)


class PluginLoop(HandlerLoop):
    """Runs a plug-in on one started task."""

    def __init__(self, plugin: Plugin, task: Task) -> None:
        """Make the handler of this partition; raises ConfigError where it does not take its settings."""
        super().__init__(PluginStage(plugin.name, plugin.settings, task.topics), task, {})
        self._plugin = plugin
        self._partitions: dict[str, int] = {}
        self._waiting = True
        handle, self._instance = plugin.make()
        caller = Caller(plugin, handle, self._check, self._wait)
        self._runner = Runner(caller, plugin.name, plugin.settings.concurrency, task.stopping.is_set)

    async def run(self) -> None:
        """Handle until the task is stopping; an instance that is an async context manager is entered meanwhile.

        Raises TopicError where an output is not there, TransactionError where the instance fails to enter or to leave.
        """
        await self._find_outputs()
        async with self._entered():
            await super().run()

    @asynccontextmanager
    async def _entered(self) -> AsyncGenerator[None]:
        if not hasattr(self._instance, "__aenter__"):
            yield
            return
        ours: BaseException | None = None
        try:
            async with self._instance:
                try:
                    yield
                except BaseException as error:
                    ours = error
                    raise
        except Exception as error:
            if ours is not None:  # what ended the work goes before what leaving fails with
                raise ours from ours.__cause__
            message = f"{self._plugin.name}: to enter or to leave it failed with {type(error).__name__}"
            raise TransactionError(message) from error

    async def _find_outputs(self) -> None:
        async with self._task.connection.admin() as admin:
            found = await admin.found(self._plugin.settings.outputs) if self._plugin.settings.outputs else {}
        missing = [topic for topic in self._plugin.settings.outputs if topic not in found]
        if missing:
            message = f"{self._plugin.name}: there is no topic {', '.join(missing)} to write to"
            raise TopicError(message, hint="Make it first: Rollcall makes its own topics only.")
        self._partitions = {topic: given.partitions for topic, given in found.items()}

    def _check(self, topic: str, key: bytes, value: bytes | None, headers: Headers) -> None:
        check_size(self._task.connection.settings.max_record_bytes, topic, key, value, headers)

    async def _wait(self, seconds: float) -> bool:
        """Wait, unless the work has to end: return whether it goes on."""
        return not await self._task.stopping_within(seconds)

    def _read(self, key: bytes) -> bytes | None:
        with self._task.store.reading() as state:
            return state.get(key)

    def _scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        with self._task.store.reading() as state:
            yield from state.scan(prefix)

    def _patience(self) -> int:
        return _HURRY_MS if self._waiting else super()._patience()

    async def _step(self, consumer: AIOKafkaConsumer, inputs: Sequence[TopicPartition]) -> None:
        """Handle what waited behind a settled dead letter first."""
        batch = await self._runner.drain(self._read, self._scan)
        self._waiting = batch is not None
        if batch is not None:
            await self._transact(partial(self._apply, batch=batch))
        await super()._step(consumer, inputs)

    async def _handle(self, consumer: AIOKafkaConsumer, where: TopicPartition, records: Sequence[Record]) -> None:
        """Handle records of one input, a part at a time; an unfinished one is given again, or is the successor's."""
        replays = where.topic == self._task.topics.replays
        for start in range(0, len(records), _CHUNK):
            if self._task.stopping.is_set():
                consumer.seek(where, records[start].offset)  # how far was read is kept when stopping
                return
            chunk = records[start : start + _CHUNK]
            batch = await self._runner.handle(chunk, self._read, replays=replays)
            if batch.count:
                await self._transact(partial(self._apply, batch=batch, where=where, end=chunk[batch.count - 1].offset))
            if batch.count < len(chunk):
                consumer.seek(where, chunk[batch.count].offset)
                return

    def _apply(self, tx: Transaction, batch: Batch, where: TopicPartition | None = None, end: int = 0) -> None:
        for key, value in batch.writes.items():
            if value is None:
                tx.delete(key)
            else:
                tx.put(key, value)
        for topic, key, value, headers in batch.sent:
            tx.send_to(topic, partition_of(key, self._partitions[topic]), key, value, headers)
        for record, error, reason in batch.buried:
            self.bury(tx, record, error, reason)
        for given, outcome, message in batch.answers:
            self.answer(tx, given, outcome, message, now_ms())
        for outcome_ in batch.outcomes:
            self._count(outcome_.reason if isinstance(outcome_, Skip) else type(outcome_).__name__.lower())
        if where is not None:
            self._move(tx, where, end + 1)


def runner(plugin: Plugin) -> Callable[[Task], Awaitable[None]]:
    """Return what runs a plug-in on a task."""

    async def run(task: Task) -> None:
        await PluginLoop(plugin, task).run()

    return run
