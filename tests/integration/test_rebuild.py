"""The duplicate search's state built anew: what differs is published, and nothing else."""

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from handlers.dedupe.explain import open_reviews
from handlers.dedupe.graph import founder_id
from tests.integration.conftest import Deployment
from tests.integration.test_plugins import Picky, running
from tests.waiting import until
from worker import deadletters, inspect, rebuild, service
from worker.config import Config, parse
from worker.consumer import HandlerLoop
from worker.errors import RollcallError, UsageError
from worker.handling import Done, Outcome, Record
from worker.kafka import apply_topics
from worker.testkit import deleted, latest, person
from worker.topics import REBUILT

DEADLINE = 90.0


@pytest.fixture
def config(deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Return a configuration for a deployment's duplicate search."""
    monkeypatch.setenv("ROLLCALL_PEPPER", "synthetic")
    return parse(raw(deployment, tmp_path, 1))


def raw(deployment: Deployment, folder: Path, generation: int, **dedupe: Any) -> dict[str, Any]:
    """Return it before it is checked, with settings of the duplicate search."""
    kafka = deployment.connection.settings
    return {
        "prefix": deployment.topics.prefix,
        "kafka": {"bootstrap": kafka.bootstrap, "partitions": kafka.partitions},
        "state_dir": str(folder / "workers"),
        "handlers": {"dedupe_generation": generation, "dedupe": dedupe},
    }


@asynccontextmanager
async def handling(config: Config) -> AsyncGenerator[asyncio.Event]:
    """Run the stages of dedupe while the block runs, or until the event is set."""
    stop = asyncio.Event()
    serving = asyncio.ensure_future(service.serve(config, REBUILT, stop=stop))
    try:
        yield stop
    finally:
        stop.set()
        await serving


async def clusters(config: Config) -> set[frozenset[str]]:
    """Return the published clusters of more than one."""
    groups: dict[str, set[str]] = {}
    rows = {row.key: row.value for row in await inspect.records(config, config.topics.clusters)}
    for key, value in rows.items():
        if value is not None:
            groups.setdefault(orjson.loads(value)["cluster"], set()).add((key or b"").decode())
    return {frozenset(group) for group in groups.values()}


async def reviews(config: Config) -> dict[tuple[str, str], Any]:
    """Return the pairs that are to be looked at, as published."""
    rows = await inspect.records(config, config.topics.identity)
    return {(event["a"], event["b"]): event for event in open_reviews(rows)}


def twice(number: int) -> Sequence[tuple[bytes, bytes | None, Any]]:
    """Return one person as two customers of two sources."""
    how: dict[str, Any] = {
        "given": f"Ada{number}",
        "family": f"Byron{number}",
        "born": f"19{70 + number}-02-03",
        "emails": [f"ada{number}@example.com"],
        "phones": [f"+1555010{number:04}"],
    }
    return [latest(person(source, str(number), **how), 1) for source in ("crm", "shop")]


async def publish(deployment: Deployment, rows: Sequence[tuple[bytes, bytes | None, Any]]) -> None:
    """Write customers to the table."""
    await deployment.connection.publish(deployment.topics, [(deployment.topics.latest, *row) for row in rows])


async def test_only_what_differs_is_published(deployment: Deployment, config: Config, tmp_path: Path) -> None:
    """A membership that was lost from the topic comes back, one that is foreign goes; the next generation works on."""
    people = [frozenset({f"crm/{n}", f"shop/{n}"}) for n in range(4)]
    await publish(deployment, [row for n in range(3) for row in twice(n)])
    await publish(
        deployment, [latest(person("crm", id_, family="Young", emails=["zoe@example.com"]), 1) for id_ in ("20", "21")]
    )

    async def found(wanted: int) -> bool:
        return await clusters(config) == set(people[:wanted])

    lines: list[str] = []
    async with handling(config) as stop:
        await until(lambda: found(3))
        topics = deployment.topics
        alien = b'{"cluster": "x", "winner": "crm/8", "size": 2, "path": []}'
        spoiled = [(topics.clusters, b"crm/0", None), (topics.clusters, b"shop/0", None)]
        spoiled += [(topics.clusters, b"crm/8", alien), (topics.clusters, b"crm/9", alien)]  # type: ignore[list-item]
        await deployment.connection.publish(topics, spoiled)
        asked = await reviews(config)
        assert list(asked) == [("crm/20", "crm/21")]
        forgotten = {**asked["crm/20", "crm/21"], "status": "closed"}
        false = {**forgotten, "status": "open", "a": "crm/8", "b": "crm/9"}
        events = [
            (topics.identity, founder_id(event["a"]).encode(), orjson.dumps(event), [("ce_type", b"customer.review")])
            for event in (forgotten, false)
        ]
        await deployment.connection.publish(topics, events)
        assert list(await reviews(config)) == [("crm/8", "crm/9")]
        before = len(await inspect.records(config, topics.clusters))

        def tell(line: str) -> None:
            lines.append(line)
            if "stop every worker" in line:
                stop.set()

        difference = await rebuild.rebuild(config, "dedupe", tell)
    assert (difference.generation, difference.changed, difference.removed) == (2, 2, 2)
    assert (difference.events, difference.reviews) == (4, 2)
    assert {pair: {**event, "rebuilt": False} for pair, event in (await reviews(config)).items()} == asked
    assert len(await inspect.records(config, topics.clusters)) == before + 4
    assert await found(3)
    settled = Counter(row.key for row in await inspect.records(config, topics.clusters))
    identity = [orjson.loads(row.value or b"") for row in await inspect.records(config, topics.identity)]
    assert [event["rebuilt"] for event in identity].count(True) == 4
    assert any("caught up" in line for line in lines)

    following = parse(raw(deployment, tmp_path, 2))
    assert following.topics.clusters == topics.clusters
    async with handling(following):
        await publish(deployment, twice(3))
        await until(lambda: found(4))
    counts = Counter(row.key for row in await inspect.records(config, topics.clusters))
    assert {key for key, count in counts.items() if count != settled[key]} == {b"crm/3", b"shop/3"}


def pairs(*numbers: int) -> set[frozenset[str]]:
    """Return the clusters of so many people of whom each is two customers."""
    return {frozenset({f"crm/{n}", f"shop/{n}"}) for n in numbers}


async def together(config: Config, *numbers: int) -> bool:
    """Return whether exactly these people are published as one each."""
    return await clusters(config) == pairs(*numbers)


async def departed(config: Config) -> set[str]:
    """Return of whom the deletes were told that they have left a cluster."""
    return {(row.key or b"").decode() for row in await inspect.records(config, config.topics.departures)}


async def test_every_rebuild_applies_the_settings_of_its_day(
    deployment: Deployment, config: Config, tmp_path: Path
) -> None:
    """The second one begins anew as well; and it is the way back: with the new number and the old settings."""
    await publish(deployment, [row for n in range(3) for row in twice(n)])
    async with handling(config):
        await until(lambda: together(config, 0, 1, 2))
    strict = parse(raw(deployment, tmp_path, 1, link=100))
    assert (await rebuild.rebuild(strict, "dedupe", lambda _: None)).removed == 6
    assert await together(config)
    assert (await rebuild.rebuild(config, "dedupe", lambda _: None)).changed == 6
    assert await together(config, 0, 1, 2)

    await rebuild.rebuild(strict, "dedupe", lambda _: None)
    async with handling(parse(raw(deployment, tmp_path, 2, link=100))):
        await publish(deployment, [*twice(3), latest(person("web", "9"), 1)])
    assert await together(config)
    back = await rebuild.rebuild(parse(raw(deployment, tmp_path, 2)), "dedupe", lambda _: None)
    assert (back.generation, back.changed) == (3, 8)
    async with handling(parse(raw(deployment, tmp_path, 3))):
        await publish(deployment, twice(4))
        await until(lambda: together(config, 0, 1, 2, 3, 4))


async def test_a_rebuild_waits_for_the_one_that_is_at_work(
    deployment: Deployment, config: Config, tmp_path: Path
) -> None:
    """The topics of a generation are not taken away from under whoever works with it."""
    await publish(deployment, twice(0))
    lines: list[str] = []
    following = parse(raw(deployment, tmp_path, 2))
    await apply_topics(deployment.connection.settings, following.topics)
    async with handling(following) as stop:
        await until(lambda: clusters(config))

        def tell(line: str) -> None:
            lines.append(line)
            stop.set()

        await rebuild.rebuild(config, "dedupe", tell)
    assert "generation 2 is at work" in lines[0]
    assert await clusters(config) == pairs(0)


@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM])
async def test_a_rebuild_that_is_told_to_stop_ends(
    deployment: Deployment, config: Config, tmp_path: Path, name: signal.Signals
) -> None:
    """While it waits for the workers to stop; it publishes nothing, and the next one begins anew."""
    await publish(deployment, twice(0))
    async with handling(config) as stop:
        await until(lambda: together(config, 0))

        def tell(line: str) -> None:
            if "stop every worker" in line:
                signal.raise_signal(name)

        with pytest.raises(RollcallError, match="the rebuild was stopped"):
            async with asyncio.timeout(DEADLINE):
                await rebuild.rebuild(parse(raw(deployment, tmp_path, 1, link=100)), "dedupe", tell)
        assert not stop.is_set()
    assert await together(config, 0)
    assert (await rebuild.rebuild(config, "dedupe", lambda _: None)).generation == 2


class Able(Picky):
    """A stage of the next generation, which can handle what the one at work cannot; it notes what it was given."""

    def __init__(self, deployment: Deployment, handled: list[bytes | None]) -> None:
        """Read the table of customers."""
        super().__init__(deployment)
        self._handled = handled

    def on_record(self, tx: Any, record: Record, now: int) -> Outcome:
        """Take all."""
        self._handled.append(record.value)
        return Done()


@pytest.mark.parametrize(
    ("value", "outcome", "left"), [(None, "failed", 1), (b"4", "done", 0)], ids=["as it is", "mended"]
)
async def test_the_generation_at_work_answers_retries_alone(
    deployment: Deployment, config: Config, value: bytes | None, outcome: str, left: int
) -> None:
    """One that is being built handles them as well, with the value that was mended, and neither answers nor settles."""
    made = rebuild.Next(config.path, config.file, config.sources).topics
    await apply_topics(deployment.connection.settings, made)
    async with deployment.connection.admin() as admin:
        _, ids = await admin.topic_ids([spec.name for spec in made.declared()])
    beside = replace(deployment, topics=made, ids=deployment.ids | ids)
    Picky.refusing = True
    handled: list[bytes | None] = []

    async def both() -> bool:  # ruff: ignore[unused-async] - `until` awaits it
        return {*handled} == {b"3", value or b"3"} and len(handled) == 2

    async with running(deployment, lambda task: HandlerLoop(Picky(deployment), task, {}), "keys"):
        await deployment.connection.publish(deployment.topics, [(deployment.topics.latest, b"crm/1", b"3")])
        (letter,) = await until(lambda: deadletters.waiting(config))
        async with running(beside, lambda task: HandlerLoop(Able(beside, handled), task, {}), "keys"):
            answers = await deadletters.settle(config, [letter], "retry", "tester", value)
            await until(both)
    assert [answer["outcome"] for answer in answers.values()] == [outcome]
    assert len(await deadletters.waiting(config)) == left
    status = await deployment.read(deployment.topics.status)
    assert len([row for row in status if (row.key or b"").startswith(b"command/")]) == 1


async def test_deletions_that_nobody_has_handled_are_not_swallowed(
    deployment: Deployment, config: Config, tmp_path: Path
) -> None:
    """A rebuild tells the deletes nothing, so it ends before it publishes, and goes on only where it is told so."""
    await publish(deployment, [row for n in range(3) for row in twice(n)])
    async with handling(config):
        await until(lambda: together(config, 0, 1, 2))
    await publish(deployment, [deleted("crm", "0", 2)])
    lines: list[str] = []
    with pytest.raises(UsageError, match=r"left deletions unhandled \(keys\)"):
        await rebuild.rebuild(config, "dedupe", lines.append)
    assert not lines  # nothing was begun

    async with handling(config) as stop:
        await until(lambda: together(config, 1, 2))
        assert await departed(config) == {"crm/0"}
        loop = asyncio.get_running_loop()
        late: list[asyncio.Future[None]] = []

        async def delete_late() -> None:
            stop.set()
            while sum([await admin.members(config.topics.group(stage)) for stage in REBUILT]):
                await asyncio.sleep(0.1)
            await publish(deployment, [deleted("crm", "1", 2)])

        def tell(line: str) -> None:
            if "stop every worker" in line:
                late.append(loop.create_task(delete_late()))

        async with deployment.connection.admin() as admin:
            with pytest.raises(UsageError, match="left deletions unhandled"):
                await rebuild.rebuild(config, "dedupe", tell)
            await late[0]
    assert await together(config, 1, 2)  # nothing was published

    async with handling(config):
        await until(lambda: together(config, 2))
        assert await departed(config) == {"crm/0", "crm/1"}
    await publish(deployment, [deleted("crm", "2", 2)])
    found = await rebuild.rebuild(config, "dedupe", lambda _: None, behind=True)
    assert found.removed == 2
    assert await departed(config) == {"crm/0", "crm/1"}


@pytest.mark.parametrize("handler", ["deletes", "requests", "mine"])
async def test_what_does_not_follow_from_the_table_is_refused(config: Config, handler: str) -> None:
    """The deletes' state, and a plug-in's, is nowhere else."""
    with pytest.raises(UsageError, match="cannot be rebuilt"):
        await rebuild.rebuild(config, handler, lambda _: None)
