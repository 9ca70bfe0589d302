"""What a rebuild publishes: memberships and what is told of them stay together, wherever it is cut short."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any, NamedTuple, Self

import orjson
import pytest

from worker import inspect, rebuild, service
from worker.config import Config, parse
from worker.errors import RollcallError, TopicError, TransactionError, UsageError
from worker.events import Headers, header
from worker.handling import Record
from worker.kafka import Outputs
from worker.topics import STAGES, Topics, remedy


def membership(cluster: str, *names: str) -> dict[bytes, bytes]:
    """Return the memberships of a cluster, whose winner is the first."""
    path = [{"a": names[0], "b": name, "score": 1.0} for name in names[1:]]
    value = orjson.dumps({"cluster": cluster, "winner": names[0], "size": len(names), "path": path})
    return {name.encode(): value for name in names}


OLD = (
    membership("one", "crm/1", "shop/1", "crm/2", "shop/2")  # falls apart in two that are new
    | membership("two", "crm/3", "shop/3")  # has a third one now, out of another
    | membership("three", "crm/4", "shop/4", "web/4")
    | membership("four", "crm/5", "shop/5")  # is gone: one was deleted
    | membership("same", "crm/9", "shop/9")
)
NEW = (
    membership("one-a", "crm/1", "shop/1")
    | membership("one-b", "shop/2", "crm/2")
    | membership("two", "shop/3", "crm/3", "web/4")
    | membership("three", "crm/4", "shop/4")
    | membership("five", "crm/6", "shop/6")
    | membership("six", "crm/7", "shop/7")
    | membership("same", "crm/9", "shop/9")
)
LIVE = {key: b"{}" for key in (OLD | NEW) if key != b"shop/5"}
REVIEWED = {"a": "crm/10", "b": "crm/11", "reason": "score", "score": 9.0, "status": "open", "rebuilt": False}


class Counted(bytes):
    """A value that counts how many such there are at once, and how many there have been."""

    now, most, ever = 0, 0, 0

    def __new__(cls, value: bytes) -> Self:
        """Count it."""
        Counted.now, Counted.ever = Counted.now + 1, Counted.ever + 1
        Counted.most = max(Counted.most, Counted.now)
        return super().__new__(cls, value)

    def __del__(self) -> None:
        """Count it no more."""
        Counted.now -= 1


class Row(NamedTuple):
    """A record, as far as it is looked at."""

    key: bytes
    value: bytes | None


class World:
    """What is on the topics, and a producer that may fail after so many transactions."""

    def __init__(self, config: Config, made: Topics) -> None:
        self.config, self.made = config, made
        self.tables = {config.topics.clusters: dict(OLD), made.clusters: dict(NEW), config.topics.latest: LIVE}
        self.told: list[tuple[Headers, dict[str, Any]]] = []
        self.left: int | None = None
        self.transactions = 0

    async def read_all(self, config: Config, topic: str) -> AsyncIterator[Row]:
        """Stand in for what is read of a table."""
        for key, value in list(self.tables[topic].items()):
            yield Row(key, Counted(value) if topic == config.topics.latest else value)

    async def records(self, config: Config, topic: str) -> list[Record]:
        """Stand in for what is read of the log."""
        headers = [("ce_type", b"customer.review")]
        if topic == self.made.identity:
            return [Record(topic, 0, 0, 0, b"k", orjson.dumps(REVIEWED), headers)]
        return [Record(topic, 0, 0, 0, b"k", orjson.dumps(event), given) for given, event in self.told]

    async def producer(self, _: str) -> "World":
        """Stand in for a connection's."""
        return self

    async def transact(self, outputs: Outputs, *_: object) -> None:
        """Write all of it, or fail."""
        if self.left is not None and self.transactions >= self.left:
            raise TransactionError("cut short")
        self.transactions += 1
        for (topic, _partition), rows in outputs.items():
            for key, value, headers in rows:
                if topic != self.config.topics.clusters:
                    self.told.append((headers, orjson.loads(value or b"")))
                elif value is None:
                    del self.tables[topic][key or b""]
                else:
                    self.tables[topic][key or b""] = value

    async def close(self) -> None:
        """Nothing is to be done."""

    def events(self) -> list[str]:
        """Return what was told, in an order of its own."""
        return sorted(orjson.dumps(event).decode() for _, event in self.told)

    def ids(self) -> list[str | None]:
        """Return the events' ids, in an order of their own."""
        return sorted(header(headers, "ce_id") or "" for headers, _ in self.told)


@pytest.fixture
def worlds(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what makes a world, in which every part is a transaction of its own."""
    config = parse({"handlers": {}})
    made = rebuild.Next(config.path, config.file, config.sources).topics
    monkeypatch.setattr(rebuild, "_BATCH", 1)

    def make() -> World:
        world = World(config, made)
        monkeypatch.setattr(inspect, "read_all", world.read_all)
        monkeypatch.setattr(inspect, "records", world.records)
        monkeypatch.setattr(rebuild, "Connection", lambda _: world)
        return world

    return make


async def test_cut_short_anywhere_everything_is_told_once(worlds: Any) -> None:
    """After any number of its transactions: the second run tells the rest."""
    whole: World = worlds()
    found = await rebuild.publish_difference(whole.config, whole.made)
    assert (found.changed, found.removed, found.events, found.reviews) == (13, 2, 8, 1)
    assert whole.tables[whole.config.topics.clusters] == NEW
    assert len(set(whole.ids())) == len(whole.told) == 8
    for number in range(whole.transactions):
        cut: World = worlds()
        cut.left = number
        with pytest.raises(TransactionError):
            await rebuild.publish_difference(cut.config, cut.made)
        cut.left = None
        await rebuild.publish_difference(cut.config, cut.made)
        assert cut.tables[cut.config.topics.clusters] == NEW
        assert cut.events() == whole.events()
        assert len(set(cut.ids())) == len(cut.told)
    assert whole.transactions == 6  # "two" has its third one from "three"


async def test_nothing_is_told_where_nothing_differs(worlds: Any) -> None:
    """Done once, it is done."""
    world: World = worlds()
    await rebuild.publish_difference(world.config, world.made)
    told = world.transactions
    found = await rebuild.publish_difference(world.config, world.made)
    assert (found.changed, found.removed, found.events, world.transactions) == (0, 0, 0, told)


async def test_what_is_told_again_later_has_an_id_of_its_own(worlds: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """There and back, and there again: who drops the ids that were seen already misses nothing."""
    world: World = worlds()
    clock = iter(range(3))
    monkeypatch.setattr(rebuild, "now_ms", lambda: next(clock))
    told, clusters, made = [], world.config.topics.clusters, world.made.clusters
    for tables in ((OLD, NEW), (NEW, OLD), (OLD, NEW)):
        world.tables[clusters], world.tables[made] = map(dict, tables)
        await rebuild.publish_difference(world.config, world.made)
        told.append(len(world.told))
    again = {header(headers, "ce_id") for headers, _ in world.told}
    assert (len(again), told[2] - told[1]) == (len(world.told), told[0] - 1)  # the review is open already


async def test_of_the_customers_only_the_keys_are_kept(worlds: Any) -> None:
    """There are as many as there are: what they hold is let go one by one."""
    world: World = worlds()
    Counted.most = Counted.ever = 0
    await rebuild.publish_difference(world.config, world.made)
    assert Counted.ever == len(LIVE)
    assert Counted.most <= 2


async def test_many_parts_share_a_transaction(worlds: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as fit."""
    monkeypatch.setattr(rebuild, "_BATCH", 1_000)
    world: World = worlds()
    await rebuild.publish_difference(world.config, world.made)
    assert world.transactions == 1


@pytest.mark.parametrize("stage", [*STAGES, "mine"])
async def test_what_an_error_names_as_the_way_out_is_one(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No command that would be refused; for the poller none: its versions are nowhere else."""
    config = parse({"handlers": {"plugins": {"mine": {"target": "a:b"}}}})
    way = re.search(r"`rollcall rebuild (\w+)( --empty)?`", remedy(stage))
    assert (way is None) == (stage == "poll")
    monkeypatch.setattr(rebuild, "Connection", _reached)
    for attempt, offered in (
        (rebuild.rebuild, way and not way[2]),
        (rebuild.empty, way and way[2]),
    ):
        with pytest.raises(Reached if offered else UsageError) as raised:
            await attempt(config, stage, lambda _: None)  # type: ignore[operator]
        if not offered and attempt is rebuild.rebuild:
            assert remedy(stage) in str(raised.value)


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_signal_ends_the_rebuild(monkeypatch: pytest.MonkeyPatch, *, at_once: bool) -> None:
    """The stages take it, and end by it; also where the block ends before they do."""
    told = asyncio.Event()

    async def serve(*_: Any, stop: asyncio.Event) -> None:
        asyncio.get_running_loop().call_soon(stop.set)
        await stop.wait()
        if not at_once:
            await told.wait()

    async def work() -> None:
        async with asyncio.timeout(5), rebuild._at_work(parse({"handlers": {}})):
            await asyncio.sleep(60 if at_once else 0.05)
            asyncio.get_running_loop().call_later(0.05, told.set)

    monkeypatch.setattr(service, "serve", serve)
    with pytest.raises(RollcallError, match="was stopped"):
        await work()


async def test_what_ends_the_stages_ends_the_rebuild(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own error is raised; and the end of the block is no stop."""
    broken = False

    async def serve(*_: Any, stop: asyncio.Event) -> None:
        if broken:
            raise TopicError("a topic is gone")
        await stop.wait()

    monkeypatch.setattr(service, "serve", serve)
    async with rebuild._at_work(parse({"handlers": {}})):
        await asyncio.sleep(0)
    broken = True
    with pytest.raises(TopicError, match="a topic is gone"):
        async with asyncio.timeout(5), rebuild._at_work(parse({"handlers": {}})):
            await asyncio.sleep(60)


class Reached(Exception):  # ruff: ignore[error-suffix-on-exception-name] - not an error
    """It was begun."""


def _reached(*_: Any) -> None:
    raise Reached
