"""Which partitions are ours: the group member, and the tasks that live and die with its assignment.

The member is used for assignment only. A partition given to us starts a task, one kept over a rebalance is
put on hold meanwhile, one taken away ends. Guarantees:

- a task initialises its producer only while a heartbeat of the current generation has just been answered;
- a fenced task is dropped and the group joined anew; no second producer with its id is started before that;
- a task that ended by itself is started again, with a growing pause; an error that no retry can help stops the worker;
- stopping takes no longer than the grace period, and what it had to cut is said.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import KafkaError

from worker import telemetry
from worker.errors import ConfigError, FencedError, RollcallError, StateError, TopicError
from worker.kafka import Connection, bounded_stop
from worker.task import Task

log = structlog.get_logger()

_POLL_MS: Final = 500
_PAUSES: Final = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
# A task that ran this long had recovered: its next failure is a new one.
_STEADY_SECONDS: Final = 60.0

Run = Callable[[Task], Awaitable[None]]


@dataclass
class _Owned:
    """A partition that is ours: the coroutine that works on it and, while it runs, its task."""

    work: asyncio.Task[None] | None = None
    task: Task | None = None
    failures: int = 0
    stopping: asyncio.Event = field(default_factory=asyncio.Event)


class Membership(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """One member of one group, with a task for every partition it is given."""

    def __init__(
        self,
        connection: Connection,
        group: str,
        topic: str,
        make: Callable[[int], Task],
        run: Run,
        *,
        grace: float,
    ) -> None:
        """Join `group` over the partitions of `topic`.

        `make` prepares the task of a partition; `run` works on a started one and ends soon after its `stopping` is set.
        `grace`: seconds that a task is given to come to an end by itself.
        """
        self._connection = connection
        self._group = group
        self._topic = topic
        self._make = make
        self._run = run
        self._grace = grace
        self._owned: dict[int, _Owned] = {}
        self._closing: dict[int, asyncio.Future[None]] = {}
        self._assigned: set[int] = set()
        self._consumer: AIOKafkaConsumer | None = None
        self._fatal: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._rejoin = asyncio.Event()
        self.joined = asyncio.Event()
        self.log = log.bind(group=group)

    @property
    def name(self) -> str:
        """Return the group's name."""
        return self._group

    @property
    def tasks(self) -> dict[int, Task]:
        """Return the tasks that are running, by partition."""
        return {partition: owned.task for partition, owned in self._owned.items() if owned.task is not None}

    @property
    def ready(self) -> bool:
        """Return whether the group was joined and every partition that is ours is being worked on."""
        tasks = [owned.task for owned in self._owned.values()]
        return self.joined.is_set() and all(task is not None and task.working for task in tasks)

    async def serve(self, stop: asyncio.Event) -> None:
        """Be a member until `stop`; raises what no retry can help."""
        try:
            while not stop.is_set():
                await self._leave()  # where it has to be joined anew
                await self._join()
                await self._poll(stop)
        finally:
            await asyncio.gather(*(self._end(partition, drain=True) for partition in list(self._owned)))
            await asyncio.gather(*self._closing.values())
            await self._leave()

    async def _join(self) -> None:
        settings = self._connection.settings
        self._consumer = await self._connection.consumer(
            group=self._group,
            auto_offset_reset="latest",  # the member reads nothing; positions are the tasks' own
            partition_assignment_strategy=(StickyPartitionAssignor,),
            session_timeout_ms=int(settings.session_timeout * 1000),
            heartbeat_interval_ms=int(settings.heartbeat_interval * 1000),
            rebalance_timeout_ms=int(settings.rebalance_timeout * 1000),
        )
        self._rejoin.clear()
        self._consumer.subscribe([self._topic], listener=self)

    async def _leave(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            self.joined.clear()
            await self.on_partitions_revoked(())  # aiokafka does not call it on stop()
            await bounded_stop(consumer.stop(), f"member of {self._group}")

    async def _poll(self, stop: asyncio.Event) -> None:
        """Keep the membership alive until `stop`, or until it has to be made anew."""
        while not (stop.is_set() or self._rejoin.is_set()):
            if self._fatal.done():
                self._fatal.result()
            consumer = self._consumer
            if consumer is None:
                return
            try:
                await consumer.getmany(timeout_ms=_POLL_MS)  # everything is paused: raises the coordinator's errors
            except KafkaError as error:
                self.log.warning("group_membership_lost", error=type(error).__name__)
                return

    # Called by aiokafka, which logs and swallows what is raised here: failures are kept for `_poll`.

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:  # ruff: ignore[unused-method-argument] - aiokafka's contract
        """Put every task on hold: the group decides anew."""
        self._assigned = set()
        timeout = self._connection.settings.commit_timeout
        await asyncio.gather(*(task.hold(timeout) for task in self.tasks.values()))

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Go on with what was kept, start what is new, end what is gone; without waiting for any of it."""
        mine = {where.partition for where in assigned}
        if self._consumer is not None:
            self._consumer.pause(*assigned)
        self._assigned = mine
        gone = [partition for partition in self._owned if partition not in mine]
        self.log.info("partitions_assigned", partitions=sorted(mine), gone=sorted(gone))
        for partition in gone:
            self._closing[partition] = asyncio.ensure_future(self._end(partition, drain=False))
        for partition in mine:
            owned = self._owned.get(partition)
            if owned is None or owned.work is None or owned.work.done():
                self._start(partition)
            elif owned.task is not None:
                owned.task.resume()
        self.joined.set()

    def _note(self, done: "asyncio.Future[None]") -> None:
        if not done.cancelled() and (error := done.exception()) is not None and not self._fatal.done():
            self._fatal.set_exception(error)

    def _start(self, partition: int) -> None:
        owned = self._owned[partition] = _Owned()
        owned.work = asyncio.ensure_future(self._own(partition, owned))
        owned.work.add_done_callback(self._note)

    async def confirm(self, partition: int) -> None:
        """Raise FencedError unless the group, asked just now, counts us as the owner of `partition`."""
        consumer = self._consumer
        answered = False
        if consumer is not None and partition in self._assigned:
            try:
                async with asyncio.timeout(self._connection.settings.session_timeout):
                    answered = await consumer._coordinator._do_heartbeat()  # ruff: ignore[private-member-access] - no public way to ask now
            except TimeoutError:
                answered = False
        if not (answered and consumer is self._consumer and partition in self._assigned):
            message = f"partition {partition} of {self._topic} is not ours any more"
            raise FencedError(message)

    async def _own(self, partition: int, owned: _Owned) -> None:
        """Work on a partition for as long as it is ours, starting its task again when it fails."""
        loop = asyncio.get_running_loop()
        if (closing := self._closing.pop(partition, None)) is not None:
            await closing  # it was ours a moment ago: its store is still open
        while not owned.stopping.is_set():
            started = loop.time()
            task = self._make(partition)
            try:
                await task.start(lambda: self.confirm(partition))
                owned.task = task
                telemetry.TASKS.labels(task.stage).inc()
                if partition not in self._assigned:
                    await task.hold(0)
                await self._run(task)
            except FencedError as error:
                task.log.warning("task_fenced", reason=error.message)
                telemetry.TASK_STARTS.labels(task.stage, "fenced").inc()
                self._rejoin.set()
                return
            except (ConfigError, TopicError, StateError):
                raise
            except RollcallError as error:
                task.log.warning("task_failed", error=type(error).__name__, reason=error.message)
            except (KafkaError, OSError, TimeoutError) as error:
                task.log.warning("task_failed", error=type(error).__name__)
            finally:
                if owned.task is not None:
                    owned.task = None
                    telemetry.TASKS.labels(task.stage).dec()
                await task.close()
            if owned.stopping.is_set():
                return
            owned.failures = 0 if loop.time() - started > _STEADY_SECONDS else owned.failures + 1
            telemetry.TASK_STARTS.labels(task.stage, "failed").inc()
            await self._pause(owned)

    async def _pause(self, owned: _Owned) -> None:
        seconds = _PAUSES[min(owned.failures, len(_PAUSES)) - 1]
        try:
            async with asyncio.timeout(seconds):
                await owned.stopping.wait()
        except TimeoutError:
            return

    async def _end(self, partition: int, *, drain: bool) -> None:
        """End the work on a partition; with `drain` it may finish what it has begun, within the grace period."""
        owned = self._owned.pop(partition)
        owned.stopping.set()
        if owned.work is None or owned.work.done():
            return
        if drain and owned.task is not None:
            owned.task.stopping.set()
            await asyncio.wait([owned.work], timeout=self._grace)
        if not owned.work.done():
            if drain:
                self.log.warning("task_cut_short", partition=partition, after_seconds=self._grace)
            owned.work.cancel()
            await asyncio.wait([owned.work], timeout=self._grace)
