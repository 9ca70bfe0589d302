"""A whole deployment that may be hurt: three brokers behind proxies, upstreams, workers, and a reader that follows."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

import yaml
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from tests.faults import around
from tests.faults.checking import Verdict, check_clusters, check_readers, check_stream, histories, of, table
from tests.faults.deleting import check_deletions
from tests.faults.fleet import Fleet
from tests.faults.proxy import Network, Proxy, proxies
from tests.faults.reading import Follower, Log, ends, read_all
from tests.faults.upstreams import CLUB, CRM, EXECUTOR_KEY, KEY, SHOP, TELCO, World
from worker import config as configuration
from worker import embedded
from worker.config import Config
from worker.embedded import layout
from worker.kafka import apply_topics
from worker.topics import Topics

ROOT: Final = Path(__file__).parents[2]
PEPPER: Final = "a pepper of the tests"
PARTITIONS: Final = 4
_MANY: Final = 1_000_000
_NODES: Final = 3


def settings(bootstrap: str, world: World) -> dict[str, Any]:
    """Return the workers' configuration: short times, and no guard, since after an outage much is deleted at once."""
    upstreams = world.upstreams
    api = {"allow_private_addresses": True, "rate": 200, "burst": 50, "timeout": "5s"}
    source = {**api, "interval": "1s", "scan_interval": "4s", "absence_guard_count": _MANY}
    drivly = {**source, "kind": "drivly", "key": {"env": "SOAK_KEY"}, "lookback": "3s"}
    club, telco = upstreams[CLUB].sim, upstreams[TELCO].sim
    target = {**api, "kind": "drivly", "url": f"{world.shop.url}/api", "key": {"env": "SOAK_EXECUTOR_KEY"}}
    return {
        "kafka": {
            "bootstrap": bootstrap,
            "partitions": PARTITIONS,
            "transaction_timeout": "6s",
            "commit_timeout": "5s",
            "request_timeout": "8s",
            "start_timeout": "15s",
        },
        "grace": "15s",
        "log": {"format": "json"},
        "sources": {
            CRM: {**drivly, "url": f"{upstreams[CRM].sim.url}/api"},
            SHOP: {**drivly, "url": f"{world.shop.url}/api"},
            CLUB: {
                **source,
                "kind": "dintero",
                "url": club.url,
                "aid": club.account,  # type: ignore[attr-defined]
                "client_id": {"env": "SOAK_CLIENT"},
                "client_secret": {"env": "SOAK_SECRET"},
                "lookback": "3s",
            },
            TELCO: {**source, "kind": "connect", "url": telco.url, "key": {"env": "SOAK_TELCO_KEY"}, "interval": "2s"},
        },
        "handlers": {
            "deletes": {
                "targets": {SHOP: {**target, "undo": False, "max_attempts": 1000}},
                "routes": [
                    {
                        "source": CRM,
                        "target": SHOP,
                        "link": "reference",
                        "reference": "customerId",
                        "classes": {"absent": "auto"},
                    }
                ],
                "guard": {"window": "500ms", "count": _MANY, "cap": _MANY},
                "breaker": {"pause": "1s", "longest": "4s"},
                "backoff": "500ms",
                "probe": "2s",
                "tick": "500ms",
                "catch_up": "2s",
            },
        },
    }


def environment(world: World) -> dict[str, str]:
    """Return the secrets that the configuration refers to."""
    club, telco = world.upstreams[CLUB].sim, world.upstreams[TELCO].sim
    return {
        "ROLLCALL_PEPPER": PEPPER,
        "SOAK_KEY": KEY,
        "SOAK_EXECUTOR_KEY": EXECUTOR_KEY,
        "SOAK_CLIENT": club.client_id,  # type: ignore[attr-defined]
        "SOAK_SECRET": club.client_secret,  # type: ignore[attr-defined]
        "SOAK_TELCO_KEY": telco.api_key,  # type: ignore[attr-defined]
    }


@dataclass
class Site:
    """A running deployment."""

    folder: Path
    config: Config
    world: World
    kafka: embedded.Cluster
    network: Network
    proxies: list[Proxy]
    fleet: Fleet
    follower: Follower
    following: "asyncio.Future[None]"
    """The follower at work."""
    inside: str
    """Bootstrap addresses that lead past the proxies."""
    small: int | None
    """The broker whose disk can be filled, where the machine lets us make one."""
    down: int | None = None
    """The broker that a fault has taken away: one at a time, or nothing can be written."""

    @property
    def topics(self) -> Topics:
        """Return the names of the topics."""
        return self.config.topics

    async def verdict(self, *, whole: bool = True) -> Verdict:
        """Read everything that is committed and check it; unless `whole` only what is quickly checked."""
        topics, verdict = self.topics, Verdict()
        public = [topics.events, topics.latest, topics.clusters, topics.identity, topics.deletions, topics.receipts]
        log = await read_all(self.inside, _partitions(*public, topics.deadletters, *self._states()))
        check_stream(verdict, self.world, log, topics)
        events, receipts = histories(of(log, topics.events)), of(log, topics.receipts)
        check_deletions(verdict, self.world, events, receipts)
        around.check_ledger(verdict, of(log, topics.deletions), receipts)
        if whole:
            shown = table(of(log, topics.clusters))
            check_clusters(verdict, table(of(log, topics.latest)), shown, PEPPER)
            check_readers(verdict, self.follower.log, log)
            around.check_lineage(verdict, of(log, topics.identity), shown)
            around.check_places(verdict, log, public, PARTITIONS)
            around.check_envelopes(verdict, events, histories(of(log, topics.latest)))
            await self._check_kafka(verdict, log)
        return verdict

    def _states(self) -> list[str]:
        return [spec.name for spec in self.topics.declared() if ".state." in spec.name]

    async def _check_kafka(self, verdict: Verdict, log: Log) -> None:
        """Check that nothing is half done in Kafka: no open transaction, no position beside its group's offset."""
        names = [spec.name for spec in self.topics.declared()]
        around.check_closed(verdict, *(await ends(self.inside, _partitions(*names))))
        admin = AIOKafkaAdminClient(bootstrap_servers=self.inside)
        await admin.start()
        try:
            for stage, topic in self.inputs().items():
                found = await admin.list_consumer_group_offsets(self.topics.group(stage))
                group = {where: offset.offset for where, offset in found.items()}
                around.check_offsets(verdict, log, self.topics.state(stage), topic, group)
        finally:
            await admin.close()

    def inputs(self) -> dict[str, str]:
        """Return the primary input of each handler stage."""
        topics = self.topics
        return {
            "keys": topics.latest,
            "pairs": topics.keys,
            "clusters": topics.links,
            "requests": topics.latest,
            "executor": topics.requests,
        }

    async def check_stores(self, verdict: Verdict) -> None:
        """Stop the workers and check the store that each partition's last owner has closed."""
        await self.fleet.stop_all()
        owners = {}
        restored = [(event["timestamp"], name, event) for name, event in self.fleet.events() if "keys" in event]
        for _, name, event in sorted(restored, key=itemgetter(0)):
            if event["event"] == "task_restored":
                owners[event["stage"], event["partition"]] = self.fleet.workers[name]
        log = await read_all(self.inside, _partitions(*self._states()))
        for (stage, partition), worker in owners.items():
            folder = worker.state / "slot-0" / stage / str(partition)
            if not (folder / "open").exists():
                changelog = TopicPartition(self.topics.state(stage), partition)
                around.check_store(verdict, folder, log[changelog])
                verdict.stores += 1

    def complaints(self) -> list[str]:
        """Return what workers have logged that is no event: tracebacks, warnings of Python; not why they have ended."""
        return [
            f"{name}: {event['text']}"
            for name, event in self.fleet.events()
            if event["event"] == "raw" and not event["text"].startswith(("rollcall: ", "  "))
        ]


def _partitions(*topics: str) -> list[TopicPartition]:
    """Return every partition of topics."""
    return [TopicPartition(topic, partition) for topic in topics for partition in range(PARTITIONS)]


@asynccontextmanager
async def _small_disk(folder: Path) -> AsyncIterator[bool]:
    """Give a broker a small disk (a tmpfs); yield whether that can be done here: it takes root."""
    folder.mkdir(parents=True)
    mounting = await asyncio.create_subprocess_exec(
        *("mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", str(folder)), stderr=asyncio.subprocess.DEVNULL
    )
    mounted = await mounting.wait() == 0
    try:
        yield mounted
    finally:
        if mounted:
            unmounting = await asyncio.create_subprocess_exec("umount", "--lazy", str(folder))
            await unmounting.wait()


def _brokers(folder: Path) -> tuple[dict[str, str], list[tuple[int, int]], str]:
    """Lay a cluster out whose brokers name their proxies as their addresses.

    Returns the brokers' configuration, (port of the proxy, port of the broker) of each, and the inner addresses.
    """
    plan = layout.plan(folder, _NODES)
    plan.write("plaintext", {})
    outside = [ports.client for ports in layout.free_ports(_NODES)]
    for node, (ports, port) in enumerate(zip(plan.ports, outside, strict=True), start=1):
        names = f"listeners=CLIENT://127.0.0.1:{port},INTERNAL://127.0.0.1:{ports.internal}\n"
        (plan.node_folder(node) / "advertised.properties").write_text(names, encoding="ascii")
    config = {
        "config.providers": "file",
        "config.providers.file.class": "org.apache.kafka.common.config.provider.FileConfigProvider",
        "advertised.listeners": "${file:advertised.properties:listeners}",
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    }
    inside = ",".join(f"127.0.0.1:{ports.internal}" for ports in plan.ports)
    return config, [(port, ports.client) for port, ports in zip(outside, plan.ports, strict=True)], inside


@asynccontextmanager
async def site(folder: Path, *, seed: int, customers: int, workers: Mapping[str, int]) -> AsyncIterator[Site]:
    """Run a deployment with so many `customers` in each upstream and so many `workers` of each role."""
    world, network = World(seed), Network()
    os.environ |= environment(world)
    config, ports, inside = _brokers(folder / "kafka")
    async with AsyncExitStack() as stack:
        small = await stack.enter_async_context(_small_disk(folder / "kafka" / f"node-{_NODES}" / "data"))
        relays = await stack.enter_async_context(proxies(network, ports))
        kafka = await stack.enter_async_context(embedded.cluster(folder / "kafka", nodes=_NODES, config=config))
        await world.start(customers)
        stack.push_async_callback(world.stop)
        content = settings(",".join(f"127.0.0.1:{port}" for port, _ in ports), world)
        path = folder / "rollcall.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        checked = configuration.load(path)
        await apply_topics(checked.file.kafka, checked.topics)
        topics = checked.topics
        fleet = Fleet(folder, content, ROOT)
        stack.push_async_callback(fleet.stop_all)
        read = (topics.events, topics.latest, topics.receipts, topics.keys, topics.links, topics.requests)
        follower = Follower(inside, _partitions(*read), events=topics.events)
        following = asyncio.ensure_future(follower.run())
        stack.push_async_callback(_cancelled, following)
        full = _NODES - 1 if small else None
        running = Site(folder, checked, world, kafka, network, relays, fleet, follower, following, inside, full)
        for role in (
            "handler",
            "poller",
        ):  # handlers first: what was deleted before they came is none of their business
            for number in range(1, workers[role] + 1):
                await fleet.start(f"{role}-{number}")
            await _ready(fleet, role)
        yield running


async def _cancelled(task: "asyncio.Future[None]") -> None:
    task.cancel()
    await asyncio.wait([task])


async def _ready(fleet: Fleet, role: str) -> None:
    """Wait until every task of a role has been taken up."""
    wanted = PARTITIONS * (1 if role == "poller" else 5)
    async with asyncio.timeout(120):
        while (
            len({
                (event["stage"], event["partition"])
                for name, event in fleet.events()
                if event["event"] == "task_restored" and name.startswith(role)
            })
            < wanted
        ):
            if dead := fleet.dead():
                raise AssertionError(dead)
            await asyncio.sleep(0.3)
