"""Which partitions are ours: the group member, and the tasks that live and die with its assignment.

The member is used for assignment only. A partition given to us starts a task, one kept over a rebalance is
put on hold meanwhile, one taken away ends. Guarantees:

- a task initialises its producer only while a heartbeat of the current generation has just been answered; until then,
  and while the group decides anew, its start is put off;
- a fenced task is dropped and the group joined anew; no second producer with its id is started before that;
- a partition has one task at a time, and a worker that is stopping takes none up any more;
- a task that ended by itself is started again, with a growing pause; an error that no retry can help stops the worker;
- stopping takes the grace period at most and `_CLOSE_SECONDS` for closing what had to be cut, which is said; a member
  that fails has the whole worker stop at once, so that nobody waits for a second grace period after the first.
"""

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import KafkaError

from worker import telemetry
from worker.errors import (
    ConfigError,
    FencedError,
    KafkaUnavailableError,
    RollcallError,
    StateError,
    StoreError,
    TopicError,
    TransactionError,
)
from worker.kafka import Connection, bounded_stop
from worker.task import Task

log = structlog.get_logger()

_POLL_MS: Final = 500
_PAUSES: Final = (0.2, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # by the failures in a row
_PUT_OFF_SECONDS: Final = 0.5
# A task that ran this long had recovered: its next failure is a new one.
_STEADY_SECONDS: Final = 60.0
# For everything that was cancelled to close its clients: longer than each of them is given (kafka.CLOSE_TIMEOUT).
_CLOSE_SECONDS: Final = 12.0

Run = Callable[[Task], Awaitable[None]]


def _until(moment: float) -> float:
    """Return the seconds from now until a moment of the monotonic clock, 0 where it has passed."""
    return max(0.0, moment - time.monotonic())


class _PutOffError(RollcallError):
    """The group does not confirm just now that a partition is ours: its task cannot start yet."""


@dataclass
class _Owned:
    """A partition that is ours: the coroutine that works on it and, while it runs, its task.

    `granted` is set while the group has given it to us and does not decide anew.
    """

    work: asyncio.Task[None] | None = None
    task: Task | None = None
    failures: int = 0
    put_off: bool = False
    """Whether it was said already that its start is put off."""
    granted: asyncio.Event = field(default_factory=asyncio.Event)
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
        self._heard = 0.0  # when the newest heartbeat that was answered well was sent
        self._silent = False
        self._consumer: AIOKafkaConsumer | None = None
        self._fatal: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._rejoin = asyncio.Event()
        self._stopping = False
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
        """Be a member until `stop`; raises what no retry can help, and sets `stop` then.

        After `stop` it takes the grace period at most, and `_CLOSE_SECONDS` for closing what had to be cut.
        """
        stopped = asyncio.ensure_future(stop.wait())
        member = asyncio.ensure_future(self._be_member())
        try:
            await asyncio.wait([member, stopped], return_when=asyncio.FIRST_COMPLETED)
            if member.done():
                member.result()
        finally:
            stopped.cancel()
            stop.set()
            await self._wind_up(member)

    async def _be_member(self) -> None:
        while True:
            await self._leave()  # where it has to be joined anew
            try:
                await self._join()
            except KafkaUnavailableError as error:  # it was there when the worker started, and will be again
                self.log.warning("group_not_joined", reason=error.message)
                await asyncio.sleep(_PAUSES[-2])
            else:
                await self._poll()

    async def _wind_up(self, member: "asyncio.Future[None]") -> None:
        """Drain the tasks as a member still, then leave; all of it by one deadline."""
        self._stopping = True
        drained = time.monotonic() + self._grace
        closed = drained + _CLOSE_SECONDS
        await asyncio.gather(*(self._end(partition, drained, closed) for partition in list(self._owned)))
        if self._closing:
            await asyncio.wait(self._closing.values(), timeout=_until(closed))
        member.cancel()
        await asyncio.wait([member], timeout=_until(closed))
        leaving = asyncio.ensure_future(self._leave())
        await asyncio.wait([leaving], timeout=_until(closed))
        leaving.cancel()  # where it is done, nothing happens

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
        self._listen(self._consumer)
        self._consumer.subscribe([self._topic], listener=self)

    def _listen(self, consumer: AIOKafkaConsumer) -> None:
        """Note when heartbeats are answered: a worker that was halted knows by that, before it hears of it."""
        coordinator = consumer._coordinator  # ruff: ignore[private-member-access] - no public way to know
        beat = coordinator._do_heartbeat  # ruff: ignore[private-member-access]

        async def heartbeat() -> bool:
            sent = time.monotonic()
            answered = bool(await beat())
            if answered:
                self._heard = sent
            return answered

        coordinator._do_heartbeat = heartbeat  # ruff: ignore[private-member-access]

    def _is_ours(self, partition: int) -> bool:
        """Return whether, as far as can be known without asking, the group still counts us as the owner."""
        fresh = time.monotonic() - self._heard < self._connection.settings.session_timeout
        return fresh and partition in self._assigned

    async def _leave(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            self.joined.clear()
            await self.on_partitions_revoked(())  # aiokafka does not call it on stop()
            await bounded_stop(consumer.stop(), f"member of {self._group}")

    async def _poll(self) -> None:
        """Keep the membership alive until it has to be made anew."""
        while not self._rejoin.is_set():
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
            self._notice_silence()

    def _notice_silence(self) -> None:
        """Say once that the group does not answer, and that it does again: who has nothing to do notices nothing."""
        away = time.monotonic() - self._heard
        silent = bool(self._assigned) and away > self._connection.settings.session_timeout
        if silent and not self._silent:
            self.log.warning("group_silent", seconds=round(away))
        elif self._silent and not silent:
            self.log.info("group_heard_again")
        self._silent = silent

    # Called by aiokafka, which logs and swallows what is raised here: failures are kept for `_poll`.

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:  # ruff: ignore[unused-method-argument] - aiokafka's contract
        """Put every task on hold: the group decides anew."""
        self._assigned = set()
        for owned in self._owned.values():
            owned.granted.clear()
        timeout = self._connection.settings.commit_timeout
        await asyncio.gather(*(task.hold(timeout) for task in self.tasks.values()))

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Go on with what was kept, start what is new, end what is gone; without waiting for any of it."""
        mine = {where.partition for where in assigned}
        if self._consumer is not None:
            self._consumer.pause(*assigned)
        self._assigned, self._heard = mine, time.monotonic()
        gone = [partition for partition in self._owned if partition not in mine]
        self.log.info("partitions_assigned", partitions=sorted(mine), gone=sorted(gone))
        for partition in gone:
            ending = self._end_now(partition, self._closing.get(partition))
            closing = self._closing[partition] = asyncio.ensure_future(ending)
            closing.add_done_callback(partial(self._closed, partition))
        for partition in () if self._stopping else mine:
            owned = self._owned.get(partition)
            if owned is None or owned.work is None or owned.work.done():
                owned = self._start(partition)
            owned.granted.set()
            if owned.task is not None:
                owned.task.resume()
        self.joined.set()

    def _closed(self, partition: int, done: "asyncio.Future[None]") -> None:
        if self._closing.get(partition) is done:
            del self._closing[partition]

    def _note(self, done: "asyncio.Future[None]") -> None:
        if not done.cancelled() and (error := done.exception()) is not None and not self._fatal.done():
            self._fatal.set_exception(error)

    def _start(self, partition: int) -> _Owned:
        owned = self._owned[partition] = _Owned()
        owned.work = asyncio.ensure_future(self._own(partition, owned))
        owned.work.add_done_callback(self._note)
        return owned

    async def confirm(self, partition: int) -> None:
        """Raise _PutOffError unless the group, asked just now, counts us as the owner of `partition`."""
        consumer = self._consumer
        answered = False
        if consumer is not None and partition in self._assigned:
            try:
                async with asyncio.timeout(self._connection.settings.session_timeout):
                    answered = await consumer._coordinator._do_heartbeat()  # ruff: ignore[private-member-access] - no public way to ask now
            except TimeoutError:
                answered = False
        if not (answered and consumer is self._consumer and partition in self._assigned):
            message = f"the group does not confirm just now that partition {partition} of {self._topic} is ours"
            raise _PutOffError(message)

    async def _own(self, partition: int, owned: _Owned) -> None:
        """Work on a partition for as long as it is ours, starting its task again when it fails."""
        if (closing := self._closing.get(partition)) is not None:
            await asyncio.wait([closing])  # it was ours a moment ago: its store is still open
        while await self._granted(owned):
            started = time.monotonic()
            task = self._make(partition)
            try:
                await self._work(partition, owned, task)
            except FencedError as error:
                task.log.warning("task_fenced", reason=error.message)
                telemetry.TASK_STARTS.labels(task.stage, "fenced").inc()
                self._rejoin.set()
                return
            except _PutOffError as error:
                await self._put_off(task, owned, error)
                continue
            except StoreError as error:
                task.log.warning("store_failed", reason=error.message, hint=error.hint)
            except (ConfigError, TopicError, StateError):
                raise
            except RollcallError as error:
                task.log.warning("task_failed", error=type(error).__name__, reason=error.message, hint=error.hint)
            except (KafkaError, OSError, TimeoutError) as error:
                task.log.warning("task_failed", error=type(error).__name__)
            owned.failures = 0 if time.monotonic() - started > _STEADY_SECONDS else owned.failures + 1
            if not owned.stopping.is_set():
                telemetry.TASK_STARTS.labels(task.stage, "failed").inc()
                await self._pause(owned, _PAUSES[min(owned.failures, len(_PAUSES) - 1)])

    async def _granted(self, owned: _Owned) -> bool:
        """Wait while the group decides anew; return whether to work on the partition."""
        await owned.granted.wait()
        return not owned.stopping.is_set()

    async def _work(self, partition: int, owned: _Owned, task: Task) -> None:
        """Start a task, work on it, and close it in any case."""
        task.ours = partial(self._is_ours, partition)
        telemetry.show(task.stage)
        try:
            await task.start(lambda: self.confirm(partition))
            owned.task, owned.put_off = task, False
            telemetry.TASKS.labels(task.stage).inc()
            if not owned.granted.is_set():
                await task.hold(0)
            await self._run(task)
        except asyncio.CancelledError as error:
            if owned.stopping.is_set() or owned.work is None or owned.work.cancelling():
                raise
            raise TransactionError("something that it waited for was cancelled") from error
        finally:
            if owned.task is not None:
                owned.task = None
                telemetry.TASKS.labels(task.stage).dec()
            await task.close()
            gc.collect()  # a handler and its caches are a cycle, and those are looked for seldom (`collect_seldom`)

    async def _put_off(self, task: Task, owned: _Owned, error: _PutOffError) -> None:
        if not owned.put_off:
            task.log.info("task_start_put_off", reason=error.message)
        owned.put_off = True
        await self._pause(owned, _PUT_OFF_SECONDS)

    async def _pause(self, owned: _Owned, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await owned.stopping.wait()

    async def _end_now(self, partition: int, earlier: "asyncio.Future[None] | None") -> None:
        """End the work on a partition that is not ours any more; where it came and went, an `earlier` end as well."""
        now = time.monotonic()
        await self._end(partition, now, now + _CLOSE_SECONDS)
        if earlier is not None:
            await asyncio.wait([earlier])

    async def _end(self, partition: int, drained: float, closed: float) -> None:
        """End the work on a partition.

        Its task may finish until the moment `drained` what it has begun, and close until the moment `closed`.
        """
        owned = self._owned.pop(partition, None)
        if owned is None:  # a rebalance took it away in the same turn of the loop: `_closing` has its end
            return
        owned.stopping.set()
        owned.granted.set()
        if owned.work is None or owned.work.done():
            return
        if owned.task is not None and (patience := _until(drained)):
            owned.task.stopping.set()
            owned.task.resume()  # put on hold by a rebalance, it could not finish; a successor would fence it
            await asyncio.wait([owned.work], timeout=patience)
            if not owned.work.done():
                self.log.warning("task_cut_short", partition=partition, after_seconds=self._grace)
        if not owned.work.done():
            owned.work.cancel()
            await asyncio.wait([owned.work], timeout=_until(closed))
        if not owned.work.done():
            self.log.error("task_abandoned", partition=partition, after_seconds=_CLOSE_SECONDS)
