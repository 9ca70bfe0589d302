"""What the comparisons share: processes whose CPU and memory are sampled, a broker, and topics that are watched.

Nothing is measured by the systems themselves. A process's CPU and memory come from /proc, and the end of a run is when
the last committed record stood in the topic as a `read_committed` reader sees it, so that all are held to one rule.
"""

import asyncio
import os
import sys
import time
from bisect import bisect_left
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiokafka import AIOKafkaConsumer, TopicPartition

from benchmarks.machine import cpu_seconds, memory
from worker import embedded

EVERY = 0.05
"""Seconds between two samples."""

ROOT = Path(__file__).parent.parent
PEERS = Path(os.environ.get("BENCH_VENV", ROOT / ".cache/bench")) / "bin/python"


def surroundings() -> dict[str, str]:
    """Return the environment of a process that imports the benchmarks, and that build of Rollcall that we import."""
    path = [part for part in (os.environ.get("PYTHONPATH"), str(ROOT)) if part]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


def children(pid: int) -> list[int]:
    """Return a process and all that it has started, as far as they live."""
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return [pid]
    return [pid, *(grandchild for child in found for grandchild in children(int(child)))]


@dataclass
class Sampled:
    """A process under watch: CPU seconds and the most memory so far, by time (CLOCK_MONOTONIC)."""

    pid: int
    times: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    rss: float = 0.0
    anonymous: float = 0.0

    def sample(self) -> None:
        """Take one sample; nothing where the process has ended."""
        try:
            pids = children(self.pid)
            used = sum(cpu_seconds(pid, children=True) for pid in pids)
            sizes = [memory(pid) for pid in pids]
        except (OSError, LookupError):
            return
        self.times.append(time.monotonic())
        self.cpu.append(used)
        self.rss = max(self.rss, sum(size for size, _ in sizes))
        self.anonymous = max(self.anonymous, sum(size for _, size in sizes))

    def used(self, start: float, end: float) -> float:
        """Return the CPU seconds between two moments."""
        return self._at(end) - self._at(start)

    def _at(self, moment: float) -> float:
        place = bisect_left(self.times, moment)
        if place == 0 or place == len(self.times):
            return self.cpu[min(place, len(self.cpu) - 1)]
        before, after = self.times[place - 1], self.times[place]
        share = (moment - before) / (after - before)
        return self.cpu[place - 1] + share * (self.cpu[place] - self.cpu[place - 1])


@asynccontextmanager
async def process(
    command: Sequence[str | Path], *, log: Path, environment: Mapping[str, str] | None = None
) -> AsyncGenerator[Sampled]:
    """Run a process of the project's root and sample it; it is ended with the context."""
    with log.open("ab") as out:
        child = await asyncio.create_subprocess_exec(
            *map(str, command),
            stdout=out,
            stderr=out,
            cwd=ROOT,
            env={**surroundings(), **(environment or {})},
        )
    sampled = Sampled(child.pid)

    async def watch() -> None:
        while child.returncode is None:
            sampled.sample()
            await asyncio.sleep(EVERY)

    watching = asyncio.ensure_future(watch())
    try:
        yield sampled
        if child.returncode:
            raise RuntimeError(f"{command[1]} ended with {child.returncode}: see {log}")
    finally:
        watching.cancel()
        if child.returncode is None:
            child.terminate()
            try:
                async with asyncio.timeout(30):
                    await child.wait()
            except TimeoutError:
                child.kill()
                await child.wait()


def upstream(customers: int, *more: str) -> AbstractAsyncContextManager[str]:
    """Run the server of `upstream.py` and give its URL."""
    return _serving("benchmarks.upstream", "--customers", str(customers), *more)


def simulator(customers: int, seed: int = 1) -> AbstractAsyncContextManager[str]:
    """Run a simulated connect in a process of its own and give its URL."""
    command = ("worker.simulator", "connect", "--seed", str(seed), "--customers", str(customers))
    return _serving(*command, "--print-url", "--until-stdin-ends")


@asynccontextmanager
async def _serving(*command: str) -> AsyncGenerator[str]:
    """Run a server that prints its URL and ends with its input; yield the URL."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *command),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env=surroundings(),
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        async with asyncio.timeout(120):
            line = await child.stdout.readline()
        yield line.decode().strip()
    finally:
        child.stdin.close()
        await child.wait()


@asynccontextmanager
async def broker(given: str | None) -> AsyncGenerator[str]:
    """Yield the address of a broker: the `given` one, or an embedded one that lives as long as the context."""
    if given:
        yield given
        return
    async with embedded.cluster() as kafka:
        yield kafka.bootstrap


class Topic:
    """A topic as a `read_committed` reader sees it."""

    def __init__(self, consumer: AIOKafkaConsumer, name: str, partitions: int) -> None:
        """Watch through a started consumer."""
        self._consumer = consumer
        self._where = [TopicPartition(name, number) for number in range(partitions)]

    async def size(self) -> int:
        """Return the sum of the partitions' ends, markers of transactions included."""
        return sum((await self._consumer.end_offsets(self._where)).values())

    async def count(self) -> int:
        """Return how many records there are."""
        self._consumer.assign(self._where)
        await self._consumer.seek_to_beginning(*self._where)
        ends = await self._consumer.end_offsets(self._where)
        found = 0
        while any([await self._consumer.position(one) < ends[one] for one in self._where]):
            for records in (await self._consumer.getmany(timeout_ms=200, max_records=20_000)).values():
                found += len(records)
        self._consumer.unsubscribe()
        return found

    async def finished(self, at_least: int, alive: Callable[[], Awaitable[None]] | None = None) -> float:
        """Wait until `at_least` records are there and no more come for a second; return when the last came."""
        size, moved = 0, time.monotonic()
        while True:
            now = await self.size()
            if now != size:
                size, moved = now, time.monotonic()
            if size >= at_least and time.monotonic() - moved > 1.0:
                return moved
            if time.monotonic() - moved > 90.0:
                raise RuntimeError(f"only {size} of {at_least} records came")
            if alive is not None:
                await alive()
            await asyncio.sleep(EVERY / 2)


@asynccontextmanager
async def topic(bootstrap: str, name: str, partitions: int) -> AsyncGenerator[Topic]:
    """Watch a topic."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        enable_auto_commit=False,
        isolation_level="read_committed",
        max_partition_fetch_bytes=4 * 1024 * 1024,
    )
    await consumer.start()
    try:
        yield Topic(consumer, name, partitions)
    finally:
        await consumer.stop()
