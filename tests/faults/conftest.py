"""A whole deployment of real processes that a test may kill: the demo's world, a broker and workers."""

import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from worker import config as configuration
from worker import embedded, inspect
from worker.config import Config
from worker.demo import checks, settings
from worker.demo.workers import ROLES, Workers
from worker.demo.world import KEY, World
from worker.kafka import apply_topics


@dataclass(frozen=True)
class Site:
    """A running deployment."""

    world: World
    config: Config
    workers: Workers
    kafka: embedded.Cluster

    async def topics(self) -> checks.Topics:
        """Return every committed record of the topics that are checked."""
        names = ("events", "latest", "clusters", "receipts", "deadletters")
        read = {}
        for name in names:
            topic = getattr(self.config.topics, name)
            read[name] = [record async for record in inspect.read_all(self.config, topic)]
        return checks.Topics(**read)

    async def wrong(self) -> list[str]:
        """Return everything that differs from how it must be, now."""
        return [
            f"{check.name}: {line}" for check in checks.run(self.world, await self.topics()) for line in check.wrong
        ]


def merged(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `over` put over it, dictionaries into each other."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return result


@asynccontextmanager
async def site(  # ruff: ignore[undocumented-public-function] - see Site
    folder: Path,
    *,
    customers: int,
    seed: int = 1,
    nodes: int = 1,
    over: Mapping[str, Any] | None = None,
    roles: Mapping[str, Sequence[str]] = ROLES,
) -> AsyncGenerator[Site]:
    world = World(seed)
    os.environ |= {"DEMO_KEY": KEY, "ROLLCALL_PEPPER": "a pepper of the tests"}
    async with embedded.cluster(folder / "kafka", nodes=nodes) as kafka:
        await world.start(customers)
        path = folder / "rollcall.yaml"
        content = merged(settings(kafka.bootstrap, world) | {"state_dir": str(folder / "state")}, over or {})
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        config = configuration.load(path)
        await apply_topics(config.file.kafka, config.topics)
        workers = Workers(path, folder, roles)
        try:
            await workers.start_all()
            await workers.ready()
            yield Site(world, config, workers, kafka)
        finally:
            await workers.stop_all()
            await world.stop()
