"""First poll: every customer of an API into Kafka, from the first request to the last committed record.

    python -m benchmarks.poll [--customers 30000] [--rounds 3] [--systems rollcall,airbyte,dlt,floor]

All read the same pages (100 customers of 1.4 kB each) off the same server. Rollcall does all it does: it detects,
normalizes, writes two topics and a changelog of fingerprints, moves its checkpoint, exactly once. Airbyte's CDK and dlt
produce each record as they read it to one topic, at least once; the floor (aiohttp, orjson, aiokafka) writes a
transaction a page.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from benchmarks import results
from benchmarks.measure import PEERS, ROOT, broker, process, topic, upstream
from worker import config as configuration
from worker.kafka import apply_topics

PARTITIONS = 4
SYSTEMS = ("rollcall", "airbyte", "dlt", "floor")
NAMES = {
    "rollcall": "Rollcall",
    "airbyte": "Airbyte CDK",
    "dlt": "dlt",
    "floor": "floor",
}


def configuration_of(
    bootstrap: str,
    url: str,
    folder: Path,
    prefix: str,
    sources: Sequence[str] = ("crm",),
    partitions: int = PARTITIONS,
    **source: Any,
) -> Path:
    """Write a configuration with sources at `url`."""
    os.environ |= {"BENCH_KEY": "users API-Key bench", "ROLLCALL_PEPPER": "a pepper for the benchmark"}
    api = {"url": f"{url}/api", "rate": 100_000, "burst": 10_000, "allow_private_addresses": True}
    drivly = {"kind": "drivly", "key": {"env": "BENCH_KEY"}, "page_size": 100, "lookback": "1d"}
    content = {
        "prefix": prefix,
        "kafka": {"bootstrap": bootstrap, "partitions": partitions},
        "state_dir": str(folder / "state"),
        "log": {"format": "json"},
        "sources": {name: {**drivly, **api, **source} for name in sources},
    }
    path = folder / "rollcall.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


async def prepare(system: str, bootstrap: str, url: str, folder: Path, run: str) -> tuple[list[Any], str]:
    """Return (the command, the topic that it writes)."""
    if system == "rollcall":
        path = configuration_of(bootstrap, url, folder, run)
        config = configuration.load(path)
        await apply_topics(config.file.kafka, config.topics)
        return [sys.executable, "-m", "worker.cli", "--config", path, "poll"], config.topics.events
    script = ROOT / "benchmarks/peers" / f"poll_{system}.py"
    await make_topic(bootstrap, run)
    return [PEERS, script, bootstrap, url, run, str(folder)], run


async def make_topic(bootstrap: str, name: str, partitions: int = PARTITIONS) -> None:
    """Make a plain topic."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, partitions, 1)])
    finally:
        await admin.close()


async def once(system: str, bootstrap: str, customers: int, run: str) -> dict[str, float]:
    """Run one system once; return its figures."""
    with tempfile.TemporaryDirectory(prefix="rollcall-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        async with upstream(customers) as url:
            command, written = await prepare(system, bootstrap, url, folder, run)
            async with (
                topic(bootstrap, written, PARTITIONS) as watched,
                process(command, log=folder / "log") as sampled,
            ):
                end = await watched.finished(customers)
                first = await asked_at(url)
                sampled.sample()
                found = await watched.count()
                if found != customers:
                    raise RuntimeError(f"{system} wrote {found} records of {customers}")
                took = end - first
                return {
                    "records": customers,
                    "seconds": took,
                    "rate": customers / took,
                    "cpu_us": 1e6 * sampled.used(first, end) / customers,
                    "rss_mb": sampled.rss,
                }


async def asked_at(url: str) -> float:
    """Return when the first page was asked for."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/stats") as response:
        return float((await response.json(content_type=None))["first"])


async def main(arguments: argparse.Namespace) -> None:
    """Run all systems in turn, round after round."""
    stamp = int(time.time())
    async with broker(arguments.bootstrap) as bootstrap:
        for number in range(arguments.rounds):
            for system in arguments.systems.split(","):
                figures = await once(system, bootstrap, arguments.customers, f"poll{stamp}-{system}-{number}")
                results.add("poll", "", NAMES[system], **figures)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--customers", type=int, default=30_000)
    parser.add_argument("--bootstrap", help="a running broker; default: an embedded one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    asyncio.run(main(parser.parse_args()))
