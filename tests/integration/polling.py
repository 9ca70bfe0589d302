"""A poller as production runs it, in this process: the real worker over a real broker and simulated upstreams."""

import asyncio
import itertools
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import yaml

from tests import programs
from tests.waiting import until
from worker import config as configuration
from worker import inspect, service
from worker.config import Config
from worker.kafka import apply_topics
from worker.settings import KafkaSettings
from worker.simulator import Drivly

QUICK = {"allow_private_addresses": True, "rate": 5_000, "burst": 1_000, "interval": "100ms", "scan_interval": "300ms"}
_numbers = itertools.count()


@asynccontextmanager
async def linked(customers: int, key: str) -> AsyncGenerator[dict[str, Drivly]]:
    """Run two upstreams, `crm` and `shop`; every customer of the first names one of the second."""
    async with (
        Drivly(seed=2, customers=customers, authorization=key) as shop,
        Drivly(seed=1, customers=0, authorization=key) as crm,
    ):
        for customer_id in shop.customers():
            crm.create({"customerId": customer_id})
        yield {"crm": crm, "shop": shop}


class Poller:
    """A deployment of its own, whose configuration may change between two runs of its worker."""

    def __init__(self, kafka: KafkaSettings, folder: Path) -> None:
        """Keep everything in `folder`, under a prefix of its own."""
        os.environ["ROLLCALL_PEPPER"] = "pepper"
        self.folder = folder
        self.path = folder / "rollcall.yaml"
        self._kafka = {"bootstrap": kafka.bootstrap, "partitions": kafka.partitions, "session_timeout": "6s"}
        self._prefix = f"poller{next(_numbers)}"
        self.config: Config

    async def configure(
        self,
        sources: dict[str, Any],
        deletes: dict[str, Any] | None = None,
        plugins: dict[str, Any] | None = None,
        **more: Any,
    ) -> None:
        """Write the configuration, with these sources, deletions, plug-ins and what more, and make the topics."""
        quick = {name: {**QUICK, **settings} for name, settings in sources.items()}
        content = {
            "prefix": self._prefix,
            "kafka": self._kafka,
            "state_dir": str(self.folder / "state"),
            "sources": quick,
            "handlers": {"deletes": deletes or {}, "plugins": plugins or {}},
            "log": {"level": "warning"},
            **more,
        }
        self.path.write_text(yaml.safe_dump(content), encoding="utf-8")
        self.config = configuration.load(self.path)
        await apply_topics(self.config.file.kafka, self.config.topics)

    @asynccontextmanager
    async def running(self, *stages: str) -> AsyncGenerator[None]:
        """Poll (or run these stages) for as long as the context lasts."""
        stop = asyncio.Event()
        serving = asyncio.ensure_future(service.serve(self.config, stages or ["poll"], stop=stop))
        try:
            yield
        finally:
            stop.set()
            await serving

    async def latest(self, source: str) -> dict[str, Any]:
        """Return the live customers of a source by id, from `customers.latest`."""
        newest: dict[str, Any] = {}
        async for record in inspect.read_all(self.config, self.config.topics.latest):
            name, _, id_ = record.key.decode().partition("/")
            if name == source:
                newest[id_] = record.value
        return {id_: orjson.loads(value) for id_, value in newest.items() if value is not None}

    async def events(self, source: str) -> list[tuple[str, dict[str, str], Any]]:
        """Return (id, headers, data) of a source's events; each customer's sequences are 1, 2, 3, ..., each once."""
        found: list[tuple[str, dict[str, str], Any]] = []
        last: dict[str, int] = {}
        async for record in inspect.read_all(self.config, self.config.topics.events):
            name, _, id_ = record.key.decode().partition("/")
            if name == source:
                headers = {header: raw.decode() for header, raw in record.headers}
                assert int(headers["ce_sequence"]) == last.get(id_, 0) + 1, f"{source}/{id_}"
                last[id_] = int(headers["ce_sequence"])
                found.append((id_, headers, orjson.loads(record.value)))
        return found

    async def status(self, source: str) -> dict[str, Any]:
        """Return the newest status of a source."""
        rows = await inspect.statuses(self.config)
        return next((row for row in rows if row.get("kind") == "source" and row["source"] == source), {})

    async def state(self, source: str, state: str) -> dict[str, Any]:
        """Wait until a source says that it is in a state, and return its status."""

        async def reached() -> dict[str, Any]:
            row = await self.status(source)
            return row if row.get("state") == state else {}

        found: dict[str, Any] = await until(reached)
        return found

    async def rollcall(self, *arguments: str) -> tuple[int, str, str]:
        """Run the command line; return exit code, output and errors."""
        return await programs.rollcall(self.path, *arguments)
