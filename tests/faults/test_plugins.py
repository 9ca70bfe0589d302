"""A plug-in's worker is killed where it stands, again and again: what it wrote counts once for each event."""

import os
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from aiokafka import TopicPartition

from tests.waiting import until
from worker import config as configuration
from worker import embedded
from worker.config import Config
from worker.demo.workers import Workers
from worker.kafka import Connection, apply_topics
from worker.plugin_testkit import event
from worker.testkit import person
from worker.topics import TopicSpec

CUSTOMERS, VERSIONS, KILLS = 24, 40, 3
PARTITIONS, OUTPUTS = 4, 3
WORKER, OUTPUT = "counter", "counted"
PLUGIN = """
import asyncio

async def handle(event, context):
    seen = (context.get("seen") or 0) + 1
    context.put("seen", seen)
    await asyncio.sleep(0.05)
    context.send("counted", event.key, [event.sequence, seen])
"""

pytestmark = pytest.mark.timeout(300)


def settings(bootstrap: str, folder: Path) -> dict[str, Any]:
    """Return the configuration of a deployment with one plug-in."""
    return {
        "kafka": {"bootstrap": bootstrap, "partitions": PARTITIONS, "session_timeout": "6s"},
        "state_dir": str(folder / "state"),
        "log": {"format": "json"},
        "listen": "127.0.0.1:0",
        "handlers": {"plugins": {WORKER: {"target": "counting:handle", "outputs": [OUTPUT]}}},
    }


async def counted(config: Config) -> dict[str, list[list[int]]]:
    """Return what the plug-in has published, by customer, in order."""
    found: dict[str, list[list[int]]] = {}
    consumer = await Connection(config.file.kafka).consumer()
    try:
        where = [TopicPartition(OUTPUT, one) for one in range(OUTPUTS)]
        consumer.assign(where)
        await consumer.seek_to_beginning(*where)
        ends = await consumer.end_offsets(where)
        while open_ := [one for one in where if await consumer.position(one) < ends[one]]:
            for rows in (await consumer.getmany(*open_, timeout_ms=500)).values():
                for row in rows:
                    found.setdefault(row.key.decode(), []).append(orjson.loads(row.value))
    finally:
        await consumer.stop()
    return found


async def test_a_killed_plugin_counts_every_event_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL in the middle of its work: state and outputs have each event once, in order, as if nothing had been."""
    (tmp_path / "counting.py").write_text(PLUGIN, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("ROLLCALL_PEPPER", "a pepper of the tests")
    async with embedded.cluster(tmp_path / "kafka") as kafka:
        path = tmp_path / "rollcall.yaml"
        path.write_text(yaml.safe_dump(settings(kafka.bootstrap, tmp_path)), encoding="utf-8")
        config = configuration.load(path)
        await apply_topics(config.file.kafka, config.topics)
        connection = Connection(config.file.kafka)
        async with connection.admin() as admin:
            await admin.create([TopicSpec(OUTPUT, "", "delete", OUTPUTS, True, {})])
        workers = Workers(path, tmp_path, {WORKER: ["handle", WORKER]})
        try:
            await workers.start_all()
            await workers.ready()
            events = [event(person("crm", str(n)), v) for v in range(1, VERSIONS + 1) for n in range(CUSTOMERS)]
            rows = [(config.topics.events, one.key or b"", one.value, list(one.headers)) for one in events]
            share = len(rows) // (KILLS + 1)

            async def more(than: int) -> bool:
                return sum(map(len, (await counted(config)).values())) > than

            await connection.publish(config.topics, rows[:share])
            for kill in range(KILLS):
                done = kill * share
                await until(lambda done=done: more(done), f"more than {done} events counted")  # type: ignore[misc]
                await connection.publish(config.topics, rows[done + share : done + 2 * share])  # so that it is at work
                await workers.kill(WORKER)
                await workers.start(WORKER)
            await until(lambda: more(len(events) - 1), "every event counted")
        finally:
            await workers.stop_all()
        found = await counted(config)
    once = [[number, number] for number in range(1, VERSIONS + 1)]
    assert found == {f"crm/{number}": once for number in range(CUSTOMERS)}
