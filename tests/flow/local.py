"""A poll task without Kafka: a real store, real HTTP, the real loop; only the commit goes into memory.

What a transaction writes is kept whole or not at all, as with Kafka; a task that is started anew finds in its store
what was committed before. What Kafka does beyond that (fencing, restoring) is tested on a real broker.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson

from worker.condition import Condition
from worker.detection import Detector
from worker.events import Headers
from worker.kafka import Connection
from worker.poller import Source
from worker.privacy import Hasher
from worker.settings import KafkaSettings
from worker.simulator import Dintero
from worker.sources import adapter_class, available
from worker.state import Identity, Store
from worker.task import Task, TaskSpec, Transaction
from worker.topics import Topics

TOPICS = Topics(partitions=1)
HASHER = Hasher(b"pepper")
PATIENCE = 30.0


def dintero_settings(loyalty: Dintero, **more: Any) -> dict[str, Any]:
    """Return the settings of a source that reads a simulated dintero; `more` go over them."""
    os.environ |= {"T_CLIENT": "client", "T_SECRET": "secret"}
    secrets = {"client_id": {"env": "T_CLIENT"}, "client_secret": {"env": "T_SECRET"}}
    return {"url": loyalty.url, "aid": loyalty.account, **secrets, "interval": "20ms", **more}


Sent = tuple[bytes, bytes | None, Headers]


class LocalTask(Task):
    """A poll task whose topics are lists."""

    def __init__(self, folder: Path, topics: dict[str, list[Sent]], max_bytes: int = 1_000_000) -> None:
        """Keep state in `folder`, records in `topics`."""
        connection = Connection(KafkaSettings(max_record_bytes=max_bytes))
        super().__init__(connection, TOPICS, TaskSpec("poll", 1, folder, "cluster", "topic"), 0)
        self.sent = topics
        self._store = Store(folder / "poll" / "0", Identity("cluster", "topic"), oldest=0)
        self.transactions = 0

    async def _commit(self, tx: Transaction, store: Store) -> None:
        await asyncio.sleep(0)
        self.transactions += 1
        for (topic, _), records in tx.outputs.items():
            self.sent.setdefault(topic, []).extend(records)
        store.commit(store.offset + len(tx.changes) + 1, 1)


class World:
    """One source of a simulated upstream, polled into lists."""

    def __init__(self, folder: Path, kind: str, raw: dict[str, Any]) -> None:
        """`raw` is the source's part of the configuration, less its kind."""
        self.topics: dict[str, list[Sent]] = {}
        self.kind = adapter_class(kind, available())
        self.raw = {"allow_private_addresses": True, "rate": 5_000, "burst": 1_000, **raw, "kind": kind}
        self._folder = folder
        self.task: LocalTask
        self.source: Source

    def settings(self, **changed: Any) -> Any:
        """Return the source's settings."""
        return self.kind.Settings.model_validate(self.raw | changed)

    @asynccontextmanager
    async def polling(self, adapter: Any = None, **changed: Any) -> AsyncGenerator[Source]:
        """Poll for as long as the context lasts; what was changed in the configuration may be given."""
        settings = self.settings(**changed)
        made = (adapter or self.kind)("it", settings)
        self.task = LocalTask(self._folder, self.topics)
        detector = Detector("it", made, settings, HASHER, TOPICS)
        self.source = Source("it", made, settings, detector, self.task)
        running = asyncio.ensure_future(self.source.run())
        try:
            yield self.source
        finally:
            self.task.stopping.set()
            try:
                async with asyncio.timeout(PATIENCE):
                    await running
            finally:
                running.cancel()
                await self.task.close()

    async def until(self, condition: Callable[[], Any]) -> Any:
        """Wait until a condition gives something, and return it."""
        async with asyncio.timeout(PATIENCE):
            while not (found := condition()):
                if self.task.dead is not None:
                    raise self.task.dead
                await asyncio.sleep(0.01)
        return found

    async def scans(self, feed: str, more: int = 1) -> None:
        """Wait until so many more enumerations have ended and led to a conclusion."""
        wanted = self.source.detector.checkpoint.scans.get(feed, 0) + more
        await self.until(lambda: self.source.detector.checkpoint.scans.get(feed, 0) >= wanted)

    @property
    def condition(self) -> Condition:
        """Return the source's condition."""
        return self.source.condition

    def records(self, topic: str) -> list[tuple[str, Any, dict[str, str]]]:
        """Return (key, value, headers) of what was sent to a topic."""
        return [
            (
                key.decode(),
                None if value is None else orjson.loads(value),
                {name: raw.decode() for name, raw in headers},
            )
            for key, value, headers in self.topics.get(topic, [])
        ]

    @property
    def events(self) -> list[tuple[str, Any, dict[str, str]]]:
        """Return the events."""
        return self.records(TOPICS.events)

    @property
    def latest(self) -> dict[str, Any]:
        """Return the live customers by id, as the table has them."""
        newest = {key.partition("/")[2]: value for key, value, _ in self.records(TOPICS.latest)}
        return {id_: value for id_, value in newest.items() if value is not None}

    @property
    def reasons(self) -> dict[str, str]:
        """Return why the customers that are deleted were: by id."""
        newest = {key.partition("/")[2]: headers for key, _, headers in self.records(TOPICS.latest)}
        return {id_: headers["ce_reason"] for id_, headers in newest.items() if "ce_reason" in headers}

    @property
    def status(self) -> dict[str, Any]:
        """Return the newest status."""
        return dict(self.records(TOPICS.status)[-1][1])

    def check(self) -> None:
        """Raise AssertionError unless each customer's sequences are 1, 2, 3, ..., each once."""
        last: dict[str, int] = {}
        for key, _, headers in self.events:
            assert int(headers["ce_sequence"]) == last.get(key, 0) + 1, key
            last[key] = int(headers["ce_sequence"])
