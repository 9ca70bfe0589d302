"""A poll task without Kafka, over real HTTP: sources, a store on disk, and a list for the log of each topic.

Only the commit of `worker.task.Task` is another one: what a piece of work wrote goes into the lists. The upstreams are
the simulators, asked over HTTP by the real `Source`. `World.check` holds the events against the table at the end.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, cast

import orjson

from tests.flow.local import HASHER, TOPICS, LocalTask, Sent
from tests.waiting import until
from worker.changes import Entry
from worker.detection import Detector
from worker.errors import TransactionError
from worker.events import CREATED, DELETED, header
from worker.poller import Source
from worker.simulator.drivly import Drivly as Upstream
from worker.simulator.server import Request
from worker.sources import Row, normalizer
from worker.sources.drivly import Drivly, DrivlySettings
from worker.state import Store
from worker.task import Transaction

KEY: Final = "users API-Key one"
Event = tuple[str, str, int]


class Log:
    """What was committed to Kafka: it outlives the workers."""

    def __init__(self) -> None:
        """Start empty."""
        self.topics: defaultdict[str, list[Sent]] = defaultdict(list)
        self.attempts = 0

    def events(self) -> list[Event]:
        """Return (key, type, sequence) of every event, in order."""
        return [
            (key.decode(), header(headers, "ce_type") or "", int(header(headers, "ce_sequence") or 0))
            for key, _, headers in self.topics[TOPICS.events]
        ]

    def table(self, topic: str) -> dict[str, Any]:
        """Return the newest value by key that is not null."""
        newest = {key.decode(): value for key, value, _ in self.topics[topic]}
        return {key: orjson.loads(value) for key, value in newest.items() if value is not None}


class PollTask(LocalTask):
    """A poll task that commits into a log.

    `fail_at`: the number of the attempt to commit at which Kafka fails; `commit_seconds`: what a commit takes, in which
    pages pile up as they do before Kafka.
    """

    def __init__(
        self, folder: Path, log: Log, *, fail_at: int | None = None, commit_seconds: float = 0.005, **more: Any
    ) -> None:
        """Open the store; `more` is for any such task."""
        super().__init__(folder, log.topics, **more)
        self.fail_at = fail_at
        self._commit_seconds = commit_seconds
        self._committed = log

    async def _commit(self, tx: Transaction, store: Store) -> None:
        self._committed.attempts += 1
        await asyncio.sleep(self._commit_seconds)
        if self.fail_at is not None and self._committed.attempts >= self.fail_at:
            raise TransactionError("a transaction failed")
        await super()._commit(tx, store)


class World:
    """Sources, their upstreams, and one worker that polls them."""

    def __init__(self, folder: Path) -> None:
        """Start with nothing."""
        self.folder = folder
        self.log = Log()
        self.upstreams: dict[str, Upstream] = {}
        self.settings: dict[str, DrivlySettings] = {}
        self.adapters: dict[str, type[Drivly]] = {}
        self.task: PollTask | None = None
        self.detectors: dict[str, Detector] = {}
        self._running: asyncio.Future[Any] | None = None

    async def add(self, name: str = "crm", customers: int = 7, adapter: type[Drivly] = Drivly, **more: Any) -> Upstream:
        """Start an upstream and configure a source of it; `more` are settings, or the simulator's `auth`."""
        auth = more.pop("auth", "forbid")
        upstream = Upstream(seed=len(self.upstreams), customers=customers, authorization=KEY, auth=auth)
        await upstream.start()
        self.key_file(name).write_text(KEY)
        quick = {"interval": 0.02, "scan_interval": 0.05, "lookback": 1.0, "page_size": 3, "rate": 1e6, "burst": 1000}
        common = {"url": f"{upstream.url}/api", "key": {"file": self.key_file(name)}, "allow_private_addresses": True}
        self.settings[name] = DrivlySettings.model_validate({**quick, **common, **more})
        self.upstreams[name], self.adapters[name] = upstream, adapter
        return upstream

    def key_file(self, name: str = "crm") -> Path:
        """Return where a source's key stands."""
        return self.folder / f"{name}.key"

    # The worker

    def start(self, **task: Any) -> None:
        """Start polling, as a worker that has been given the partition."""
        self.task = PollTask(self.folder, self.log, **task)
        sources = []
        for name, settings in self.settings.items():
            adapter = self.adapters[name](name, settings)
            self.detectors[name] = Detector(name, adapter, settings, HASHER, TOPICS)
            sources.append(Source(name, adapter, settings, self.detectors[name], self.task).run())
        self._running = asyncio.gather(*sources)

    async def stop(self) -> None:
        """Stop in order."""
        if self.task is not None:
            self.task.stopping.set()
        await self._ended(10)

    async def kill(self) -> None:
        """End the worker in the middle of whatever it does; what it had not committed is lost."""
        if self._running is not None:
            self._running.cancel()
        await self._ended(10)

    async def failed(self) -> None:
        """Wait until the worker has ended because Kafka failed."""
        await until(lambda: self._running is not None and self._running.done(), "the worker's end")
        await self._ended(10)

    async def _ended(self, seconds: float) -> None:
        if self._running is not None:
            with suppress(TransactionError, asyncio.CancelledError):
                async with asyncio.timeout(seconds):
                    await self._running
            self._running = None
        if self.task is not None:
            self.task.store.close()
            self.task = None

    @property
    def ended(self) -> bool:
        """Return whether the worker has ended by itself."""
        return self._running is None or self._running.done()

    # What is so, and what was published

    def truth(self, name: str = "crm") -> dict[str, Any]:
        """Return every customer of an upstream as it has to be published, by key."""
        settings = self.settings[name]
        adapter = Drivly(name, settings)
        normal = normalizer(adapter, settings, HASHER)
        found: dict[str, Any] = {}
        for customer_id, document in self.upstreams[name].customers().items():
            customer: Any = adapter.normalize(Row(customer_id, document), normal)
            del customer["first_seen"]
            found[f"{name}/{customer_id}"] = orjson.loads(orjson.dumps(customer))
        return found

    def latest(self, name: str = "crm") -> dict[str, Any]:
        """Return `customers.latest` of a source, by key, without when we met the customer."""
        table = self.log.table(TOPICS.latest)
        rows = {key: customer for key, customer in table.items() if key.startswith(f"{name}/")}
        return {key: {k: v for k, v in row.items() if k != "first_seen"} for key, row in rows.items()}

    async def settled(self, name: str = "crm") -> None:
        """Wait until `customers.latest` is what the upstream has."""
        try:
            await until(lambda: self.latest(name) == self.truth(name), f"{name} to be published as it is")
        except AssertionError as error:
            latest, truth = self.latest(name), self.truth(name)
            differing = {key for key in latest.keys() | truth.keys() if latest.get(key) != truth.get(key)}
            message = f"{error}; {len(differing)} differ: {sorted(differing)[:5]}, status {self.status(name)}"
            raise AssertionError(message) from None

    def status(self, name: str = "crm") -> dict[str, Any]:
        """Return the newest status of a source."""
        return cast("dict[str, Any]", self.log.table(TOPICS.status).get(f"source/{name}", {}))

    def alarms(self, name: str = "crm") -> set[str | None]:
        """Return every alarm that a source has raised, and None where it had none."""
        key, records = f"source/{name}".encode(), self.log.topics[TOPICS.status]
        return {orjson.loads(value or b"{}").get("alarm") for of, value, _ in records if of == key}

    async def state(self, state: str, name: str = "crm") -> None:
        """Wait until a source says that it is in a state."""
        await until(lambda: self.status(name).get("state") == state, f"{name} {state}, {self.status(name)}")

    async def alarm(self, words: str, name: str = "crm") -> None:
        """Wait until a source raises an alarm with these words."""
        await until(lambda: words in (self.status(name).get("alarm") or ""), f"an alarm {words!r}")

    def deleted(self, name: str = "crm") -> list[str]:
        """Return the ids of the customers whose deletion was published."""
        events = [key for key, type_, _ in self.log.events() if type_ == DELETED]
        return [key.partition("/")[2] for key in events if key.startswith(f"{name}/")]

    def sweeps(self, name: str = "crm", since: int = 0) -> int:
        """Return how many sweeps have begun, of the requests after the first `since`."""
        asked = list(self.upstreams[name].requests)[since:]
        return sum("select" in request.query and "greater_than" not in request.query for request in asked)

    def sweeping(self, name: str = "crm", since: int = 0) -> bool:
        """Return whether a sweep has gone beyond its first page, in the requests after the first `since`."""
        asked = list(self.upstreams[name].requests)[since:]
        return any("select" in request.query and "greater_than" in request.query for request in asked)

    def missed(self, customer_id: int, name: str = "crm") -> int:
        """Return how many enumerations in a row did not show a customer."""
        if self.task is None:
            return 0
        with self.task.store.reading() as state:
            raw = state.get(b"c/%s/%d" % (name.encode(), customer_id))
        return 0 if raw is None else Entry.unpack(raw).missed

    async def followed(self, name: str = "crm") -> None:
        """Wait until the tail, too, has read all there is: the upstream's clock is put forward for it."""
        upstream, cursors = self.upstreams[name], self.detectors[name].checkpoint.cursors
        upstream.clock_offset += 5
        newest = str(upstream.store.changed[-1].id)
        await until(lambda: str(cursors.get("tail", {}).get("id")) == newest, "the tail")

    async def swept(self, times: int, name: str = "crm") -> None:
        """Wait until so many more sweeps have ended, each begun after now."""
        before = self.sweeps(name)
        await until(lambda: self.sweeps(name) > before + times, f"{times} sweeps")

    async def swept_once(self, name: str = "crm") -> None:
        """Wait until the first sweep is over: with a long interval it was the only one."""
        await until(lambda: self.detectors[name].checkpoint.scans, "the first sweep")

    def lookups(self, customer_id: object, name: str = "crm") -> list[Request]:
        """Return the look-ups of a customer."""
        asked = self.upstreams[name].requests
        return [request for request in asked if request.path == f"/api/customers/{customer_id}"]

    def check(self) -> None:
        """Check what must hold at every moment: each customer's events in order, once, without a gap, as the table."""
        counts: Counter[str] = Counter()
        alive: set[str] = set()
        for key, type_, sequence in self.log.events():
            counts[key] += 1
            assert sequence == counts[key], f"{key}: event {counts[key]} has sequence {sequence}"
            assert (type_ == CREATED) == (key not in alive), f"{key}: {type_} out of place"
            alive = alive - {key} if type_ == DELETED else alive | {key}
        assert alive == set(self.log.table(TOPICS.latest))


@asynccontextmanager
async def world(folder: Path) -> AsyncGenerator[World]:
    """Give a world, and check and end it."""
    made = World(folder)
    try:
        yield made
        made.check()
    finally:
        await made.kill()
        for upstream in made.upstreams.values():
            await upstream.stop()
