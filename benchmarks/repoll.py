"""An unchanged re-poll of many customers by the real poller on a real broker, held against the floor in the same run.

    python -m benchmarks.repoll [CUSTOMERS] [PASSES]

A simulated connect source, which has no change times: every poll reads everything. `floor_repoll.py` is the floor:
fetch, parse, hash and look up, and nothing else. Both are measured by their own CPU seconds a pass, in turn, against
the same simulator. Exits 1 where the ratio is above 1.5 or the poller's anonymous memory above 200 MB.
"""

import asyncio
import os
import sys
import tempfile
import time
from asyncio.subprocess import PIPE
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import orjson
import yaml

from benchmarks.machine import anonymous_mb, cpu_seconds, machine
from benchmarks.measure import simulator
from worker import config as configuration
from worker import embedded, inspect
from worker.config import Config
from worker.demo.workers import Workers
from worker.kafka import apply_topics

KEY = "connect-test-key"
PAGE = 1000
MOST_RATIO, MOST_MB = 1.5, 200
FLOOR = Path(__file__).with_name("floor_repoll.py")


@dataclass(slots=True)
class Measured:
    """Seconds by the clock and of CPU until all was read once, CPU seconds of a pass after that, the most memory.

    Memory is anonymous memory, in MB.
    """

    first: float = 0.0
    first_cpu: float = 0.0
    cpu: float = 0.0
    memory: float = 0.0


async def floor(url: str, folder: Path, passes: int) -> float:
    """Return the CPU seconds of a pass of the floor."""
    await asyncio.to_thread(folder.mkdir)
    arguments = (str(FLOOR), url, KEY, str(folder), str(passes))
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=PIPE)
    output, _ = await process.communicate()
    return float(orjson.loads(output)["cpu"])


async def live(config: Config) -> int:
    """Return how many customers the source says that it has."""
    rows = [row for row in await inspect.statuses(config) if row.get("kind") == "source"]
    return int(rows[0]["live"]) if rows else 0


async def pages(url: str) -> int:
    """Return how many pages the simulator has answered."""
    async with aiohttp.ClientSession() as session, session.get(url + "/_sim/stats") as response:
        stats = await response.json()
    return sum(stats["requests"].values())


async def poll(url: str, folder: Path, customers: int, passes: int) -> Measured:
    """Let the real poller take everything in, then measure unchanged passes."""
    os.environ |= {"ROLLCALL_PEPPER": "pepper", "BENCH_KEY": KEY}
    source = {"kind": "connect", "url": url, "key": {"env": "BENCH_KEY"}, "interval": "1ms", "page_size": PAGE}
    free = {"rate": 1e6, "burst": 1000, "allow_private_addresses": True}
    async with embedded.cluster(folder / "kafka") as kafka:
        path = folder / "rollcall.yaml"
        content = {
            "kafka": {"bootstrap": kafka.bootstrap, "partitions": 2},
            "state_dir": str(folder / "state"),
            "sources": {"telco": source | free},
        }
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        config = configuration.load(path)
        await apply_topics(config.file.kafka, config.topics)
        workers = Workers(path, folder, {"poller": ["poll"]})
        await workers.start_all()
        try:
            return await _measure(workers, url, config, customers, passes)
        finally:
            await workers.stop_all()


async def _measure(workers: Workers, url: str, config: Config, customers: int, passes: int) -> Measured:
    found, begun, pid, whole = Measured(), time.monotonic(), workers.pid("poller"), -(-customers // PAGE)
    while await live(config) < customers:
        found.memory = max(found.memory, anonymous_mb(pid))
        if died := workers.died():
            raise SystemExit("\n".join(died))
        await asyncio.sleep(0.2)
    found.first, found.first_cpu = time.monotonic() - begun, cpu_seconds(pid)
    await _reach(url, await pages(url) + 2 * whole, pid, found)  # the first pass ends, and one that is not measured
    at, used = await pages(url), cpu_seconds(pid)
    await _reach(url, at + passes * whole, pid, found)
    found.cpu = (cpu_seconds(pid) - used) * whole / (await pages(url) - at)
    return found


async def _reach(url: str, wanted: int, pid: int, found: Measured) -> None:
    """Wait until so many pages were answered, and watch the poller's memory."""
    while await pages(url) < wanted:
        found.memory = max(found.memory, anonymous_mb(pid))
        await asyncio.sleep(0.1)


async def main(customers: int, passes: int) -> int:
    """Run both; return the exit code."""
    folder = Path(tempfile.mkdtemp(prefix="rollcall-repoll-"))
    async with simulator(customers) as url:
        below = await floor(url, folder / "floor", passes)
        ours = await poll(url, folder, customers, passes)
    ratio, each = ours.cpu / below, 1e6 / customers
    print(machine())
    print(f"customers               {customers}")
    print(f"first poll              {ours.first:.1f} s, {ours.first_cpu:.1f} s of CPU, start included")
    print(f"anonymous memory, most  {ours.memory:.0f} MB (at most {MOST_MB})")
    print(f"floor, CPU a pass       {below:.2f} s ({below * each:.1f} us a customer)")
    print(f"poller, CPU a pass      {ours.cpu:.2f} s ({ours.cpu * each:.1f} us a customer)")
    print(f"ratio                   {ratio:.2f} (at most {MOST_RATIO})")
    return 0 if ratio <= MOST_RATIO and ours.memory <= MOST_MB else 1


if __name__ == "__main__":
    given = [int(argument) for argument in sys.argv[1:]]
    raise SystemExit(asyncio.run(main(*(given + [100_000, 10][len(given) :]))))
