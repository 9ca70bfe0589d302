"""What a membership guarantees over rebalances and on the way down, on a real broker."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import lmdb
import pytest
from aiokafka import TopicPartition
from structlog.testing import capture_logs

from tests.integration.conftest import PARTITIONS, Deployment, owner
from tests.waiting import until
from worker import membership
from worker.errors import StateError, StoreError
from worker.membership import Membership
from worker.task import Task, Transaction

SECONDS = 40.0


@dataclass
class Worker:
    """A member of the group of pollers, as a worker process has it."""

    deployment: Deployment
    name: str
    made: list[Task] = field(default_factory=list)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    fail: asyncio.Event = field(default_factory=asyncio.Event)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    broken: set[int] = field(default_factory=set)
    """Partitions whose state no retry can help."""
    grace: float = SECONDS

    def __post_init__(self) -> None:
        """Make the member."""
        topics = self.deployment.topics
        args = self.deployment.connection, topics.group("poll"), topics.state("poll"), self._make, self._run
        self.member = Membership(*args, grace=self.grace)
        self.serving: asyncio.Future[None] | None = None

    def _make(self, partition: int) -> Task:
        task = self.deployment.task("poll", partition, folder=self.name)
        self.made.append(task)
        return task

    async def _run(self, task: Task) -> None:
        task.working = True
        while not task.stopping.is_set():
            if task.partition in self.broken:
                raise StateError("it is of a later version")
            if self.fail.is_set() and task.dead is not None:
                raise task.dead
            await asyncio.sleep(0.05)
        await self.release.wait()

    @property
    def partitions(self) -> set[int]:
        """Return the partitions that it works on."""
        return {partition for partition, task in self.member.tasks.items() if task.working}

    def start(self) -> None:
        """Begin to serve."""
        self.serving = asyncio.ensure_future(self.member.serve(self.stop))

    async def end(self) -> None:
        """Stop, and wait until it has ended."""
        self.stop.set()
        self.release.set()
        if self.serving is not None:
            await self.serving


@asynccontextmanager
async def workers(deployment: Deployment, *names: str) -> AsyncGenerator[list[Worker]]:
    """Run members until all partitions are worked on."""
    running = [Worker(deployment, name) for name in names]
    for worker in running:
        worker.start()
    try:
        await until(lambda: sum(len(worker.partitions) for worker in running) == PARTITIONS)
        await until(lambda: all(worker.partitions for worker in running))
        yield running
    finally:
        await asyncio.gather(*(worker.end() for worker in running))


async def test_a_worker_that_drains_takes_nothing_up_any_more(deployment: Deployment) -> None:
    """The group gives it the partitions of a worker that left; they stay with nobody until it has left too."""
    async with workers(deployment, "first", "second") as (first, second):
        first.stop.set()
        await second.end()
        await until(lambda: len(first.member._assigned) == PARTITIONS)
        made = len(first.made)
        await first.end()
        assert len(first.made) == made
        assert first.member.tasks == {}


async def test_an_unanswered_heartbeat_puts_a_start_off(deployment: Deployment) -> None:
    """A coordinator that is away for a moment does not make the worker leave the group and all its partitions."""
    worker = Worker(deployment, "only")
    worker.start()
    try:
        await until(lambda: worker.member._consumer is not None)
        consumer = worker.member._consumer
        coordinator = consumer._coordinator
        beat, silent = coordinator._do_heartbeat, [False] * 3

        async def heartbeat() -> bool:
            return silent.pop() if silent else await beat()

        coordinator._do_heartbeat = heartbeat
        with capture_logs() as logs:
            await until(lambda: worker.partitions == set(range(PARTITIONS)))
        put_off = [entry["partition"] for entry in logs if entry["event"] == "task_start_put_off"]
        assert len(put_off) == len(set(put_off))  # said once, however often it is tried
        assert worker.member._consumer is consumer
    finally:
        await worker.end()


async def test_a_close_that_is_cut_short_closes_the_store(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task cancelled while its producer closes leaves no open store behind: the next one could not open it."""

    async def never() -> None:
        await asyncio.Event().wait()

    task = deployment.task("poll")
    await task.start(owner)
    await task.transact(lambda tx: tx.put(b"a", b"1"))
    with monkeypatch.context() as patch:
        patch.setattr(task._producer, "close", never)
        closing = asyncio.ensure_future(task.close())
        await asyncio.wait([closing], timeout=0.1)
        closing.cancel()
        await asyncio.wait([closing])
    again = deployment.task("poll")
    await again.start(owner)
    assert again.store.wiped is None
    await again.close()
    await task._producer.close()


async def test_a_store_that_fails_is_read_anew_by_a_new_task(deployment: Deployment) -> None:
    """Damage on the disk neither ends the worker nor counts as the fault of the record that met it."""
    async with workers(deployment, "only") as (worker,):
        damaged = worker.member.tasks[0]
        await damaged.transact(lambda tx: tx.put(b"a", b"1"))

        def work(tx: Transaction) -> None:
            raise lmdb.CorruptedError("a page that cannot be")

        with pytest.raises(StoreError):
            await damaged.transact(work)
        worker.fail.set()
        await until(lambda: worker.member.tasks.get(0, damaged) is not damaged and 0 in worker.partitions)
        assert worker.member.tasks[0].store.wiped == "it could not be read or written"
        with worker.member.tasks[0].store.reading() as state:
            assert state.get(b"a") == b"1"


async def test_a_member_that_fails_has_its_fellows_stop_before_it_has_drained(deployment: Deployment) -> None:
    """One grace period is enough for the whole worker: nobody begins to drain when another has finished."""
    worker = Worker(deployment, "only")
    worker.start()
    try:
        await until(lambda: worker.partitions == set(range(PARTITIONS)))
        worker.broken.add(0)
        await until(worker.stop.is_set)
        assert worker.serving is not None
        assert not worker.serving.done()  # the other partition is still being drained
    finally:
        with pytest.raises(StateError):
            await worker.end()


async def test_a_rebalance_in_progress_does_not_keep_a_task_from_draining(deployment: Deployment) -> None:
    """A task that is on hold when the worker is to stop still commits what it has begun, within the grace period."""
    worker = Worker(deployment, "only", grace=8.0)

    async def finishes(task: Task) -> None:
        task.working = True
        await task.stopping.wait()
        await task.transact(lambda tx: tx.put(b"a", b"1"))

    worker.member._run = finishes
    worker.start()
    await until(lambda: worker.partitions == set(range(PARTITIONS)))
    await worker.member.on_partitions_revoked(())
    with capture_logs() as logs:
        await worker.end()
    assert [entry for entry in logs if entry["event"] == "task_cut_short"] == []
    assert len(await deployment.read(deployment.topics.state("poll"))) == 2 * PARTITIONS  # with the format's version


async def test_what_a_rebalance_takes_as_the_worker_stops_is_ended_once(deployment: Deployment) -> None:
    """Both in one turn of the loop: the worker leaves as it should."""
    worker = Worker(deployment, "only")
    worker.start()
    await until(lambda: worker.partitions == set(range(PARTITIONS)))
    worker.release.set()
    await worker.member.on_partitions_assigned([])
    await worker.member._wind_up(asyncio.ensure_future(asyncio.sleep(SECONDS)))
    assert worker.member.tasks == {}
    await worker.end()


async def test_a_partition_that_comes_and_goes_has_one_task_at_a_time(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it does while its first task still closes: that one's store is open so long."""
    counts = {"open": 0, "most": 0}
    start, close = Task.start, Task.close

    async def counted(task: Task, confirm: Callable[[], Awaitable[None]]) -> None:
        counts["open"] += 1
        counts["most"] = max(counts["most"], counts["open"])
        await start(task, confirm)

    async def slow(task: Task) -> None:
        await asyncio.sleep(1.0)
        await close(task)
        counts["open"] -= 1

    monkeypatch.setattr(Task, "start", counted)
    monkeypatch.setattr(Task, "close", slow)
    async with workers(deployment, "only") as (worker,):
        whole = [TopicPartition(deployment.topics.state("poll"), one) for one in range(PARTITIONS)]
        for mine in ([], whole, [], whole):
            await worker.member.on_partitions_assigned(mine)
            await asyncio.sleep(0.1)
        await until(lambda: worker.partitions == set(range(PARTITIONS)))
        assert counts["most"] == PARTITIONS


async def test_a_task_that_does_not_end_is_cut_and_named(deployment: Deployment) -> None:
    """After the grace period it is cancelled, and the log says which partition that was."""
    worker = Worker(deployment, "only", grace=0.3)
    worker.start()
    await until(lambda: worker.partitions == set(range(PARTITIONS)))
    worker.stop.set()
    assert worker.serving is not None
    with capture_logs() as logs:
        await asyncio.wait_for(worker.serving, SECONDS)
    cut = [entry["partition"] for entry in logs if entry["event"] == "task_cut_short"]
    assert sorted(cut) == list(range(PARTITIONS))
    assert worker.member.tasks == {}


async def test_what_cannot_even_be_cancelled_is_left_behind(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing is bounded as a whole, and what was abandoned is named as such."""
    monkeypatch.setattr(membership, "_CLOSE_SECONDS", 0.5)
    worker = Worker(deployment, "only", grace=0.1)
    freed = asyncio.Event()

    async def deaf(task: Task) -> None:
        task.working = True
        while not freed.is_set():
            with suppress(asyncio.CancelledError):
                await freed.wait()

    worker.member._run = deaf
    worker.start()
    await until(lambda: worker.partitions == set(range(PARTITIONS)))
    works = [owned.work for owned in worker.member._owned.values()]
    worker.stop.set()
    assert worker.serving is not None
    with capture_logs() as logs:
        await asyncio.wait_for(worker.serving, SECONDS)
    abandoned = [entry["partition"] for entry in logs if entry["event"] == "task_abandoned"]
    assert sorted(abandoned) == list(range(PARTITIONS))
    freed.set()
    await asyncio.wait([work for work in works if work is not None], timeout=SECONDS)
