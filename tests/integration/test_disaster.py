"""All topics of a deployment are lost: they are rebuilt from the upstream, and the versions go on."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from tests.waiting import until
from worker import config as configuration
from worker import inspect, sequences, service
from worker.config import Config
from worker.errors import UsageError
from worker.events import header
from worker.kafka import apply_topics
from worker.settings import KafkaSettings
from worker.simulator.drivly import Drivly

DEADLINE = 60.0
KEY = "users API-Key synthetic"


@pytest.fixture
async def world(
    kafka: KafkaSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[tuple[Drivly, Config]]:
    """Run a simulated system with five customers, and give a configuration that polls it."""
    monkeypatch.setenv("ROLLCALL_PEPPER", "synthetic")
    monkeypatch.setenv("CRM_KEY", KEY)
    system = Drivly(seed=7, authorization=KEY)
    await system.start()
    for _ in range(5):
        system.create()
    raw = {
        "prefix": "lost",
        "kafka": {"bootstrap": kafka.bootstrap, "partitions": kafka.partitions},
        "state_dir": str(tmp_path / "state"),
        "sources": {
            "crm": {
                "kind": "drivly",
                "url": f"{system.url}/api",
                "key": {"env": "CRM_KEY"},
                "interval": "100ms",
                "lookback": "200ms",
                "scan_interval": "300ms",
                "allow_private_addresses": True,
                "rate": 500,
                "burst": 100,
            }
        },
    }
    config = configuration.parse(raw)
    await apply_topics(config.file.kafka, config.topics)
    yield system, config
    await system.stop()


@asynccontextmanager
async def polling(config: Config) -> AsyncGenerator[None]:
    """Poll while the block runs."""
    stop = asyncio.Event()
    serving = asyncio.ensure_future(service.serve(config, ["poll"], stop=stop))
    try:
        yield
    finally:
        stop.set()
        await serving


async def versions(config: Config) -> dict[str, list[int]]:
    """Return the sequences of each customer's events, in order."""
    found: dict[str, list[int]] = {}
    for row in await inspect.records(config, config.topics.events):
        found.setdefault((row.key or b"").decode(), []).append(int(header(row.headers, "ce_sequence") or ""))
    return found


async def lose_everything(config: Config) -> None:
    """Delete every topic of a deployment, and make them anew."""
    admin = AIOKafkaAdminClient(bootstrap_servers=config.file.kafka.bootstrap)
    await admin.start()
    names = [spec.name for spec in config.topics.declared()]
    await admin.delete_topics(names)
    async with asyncio.timeout(DEADLINE):
        while set(names) & set(await admin.list_topics()):
            await asyncio.sleep(0.1)
    await admin.close()
    await apply_topics(config.file.kafka, config.topics)


async def test_topics_are_rebuilt_and_versions_go_on(world: tuple[Drivly, Config], tmp_path: Path) -> None:
    """Every live customer is there again, above every version that subscribers have seen; a new prefix starts at 1."""
    system, config = world
    first, *others = sorted(system.customers(), key=int)

    async def published(events: int) -> bool:
        return sum(map(len, (await versions(config)).values())) >= events

    async with polling(config):
        await until(lambda: published(5))
        system.update(int(first), {"consumerStatus": "SOLD"})
        await until(lambda: published(6))
        with pytest.raises(UsageError, match="1 poller is running"):
            await sequences.take_up(config, [], 0)
        system.delete(int(others[0]))
        await until(lambda: published(7))
    file = tmp_path / "sequences.jsonl"
    file.write_bytes(b"".join([one.line() async for one in sequences.known(config)]))
    before = await versions(config)
    assert before[f"crm/{first}"] == [1, 2]
    assert before[f"crm/{others[0]}"] == [1, 2]

    await lose_everything(config)
    done = await sequences.take_up(config, sequences.read(file), ahead=10)
    assert (done.taken, done.left) == (5, 0)
    again = await sequences.take_up(config, sequences.read(file), ahead=10)
    assert (again.taken, again.left) == (0, 5)
    async with polling(config):
        await until(lambda: published(4))
    after = await versions(config)
    assert after == {f"crm/{first}": [13], **{f"crm/{one}": [12] for one in others[1:]}}

    fresh = replace(config, file=config.file.model_copy(update={"prefix": "found"}))
    await apply_topics(fresh.file.kafka, fresh.topics)
    async with polling(fresh):

        async def all_there() -> bool:
            return len(await versions(fresh)) == 4

        await until(all_there)
    assert set(map(tuple, (await versions(fresh)).values())) == {(1,)}


@pytest.mark.parametrize(
    "line",
    [b"junk", b'{"key": "crm", "sequence": 1, "first_seen": 0}', b'{"key": "crm/1", "sequence": -1, "first_seen": 0}'],
)
def test_a_file_that_is_no_export_is_refused(tmp_path: Path, line: bytes) -> None:
    """With the line that is none."""
    file = tmp_path / "sequences.jsonl"
    file.write_bytes(sequences.Known("crm/1", 3, 0).line() + line + b"\n")
    with pytest.raises(UsageError, match="line 2 is not a customer's version"):
        list(sequences.read(file))
