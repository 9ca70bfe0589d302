"""A plug-in on a real broker: exactly once over restarts, dead letters settled by the command line's way."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import orjson
import pytest
from aiokafka import TopicPartition
from structlog.testing import capture_logs

from handlers.plugins import Context, Event, Plugin, PluginSettings
from tests.integration.conftest import Deployment, owner
from tests.waiting import until
from worker import deadletters, rebuild
from worker.config import Config, parse
from worker.consumer import HandlerLoop
from worker.errors import TopicError
from worker.handling import Dead, Done, Input, Outcome, Record, Skip
from worker.kafka import Connection, apply_topics
from worker.plugin_testkit import deletion, event
from worker.plugins import PluginLoop
from worker.redelivery import Redelivery
from worker.task import Task
from worker.testkit import person
from worker.topics import TopicSpec, partition_of

DEADLINE = 30.0
NAME = "mine"


class Counting:
    """Counts events by customer into a topic; fails while it is told to."""

    failing = False

    async def handle(self, event: Event, context: Context) -> None:
        """Count, then fail or not: what a failed call has written must not count."""
        seen = (context.get("seen") or 0) + 1
        context.put("seen", seen)
        context.send(context.settings["to"], event.key, [event.sequence, seen])
        await asyncio.sleep(0)
        if Counting.failing:
            raise ConnectionError


@pytest.fixture
async def place(deployment: Deployment) -> tuple[Deployment, Plugin, str]:
    """Return a deployment with a plug-in, and the topic that this writes to, of another partition count."""
    topics = replace(deployment.topics, plugins=(NAME,))
    await apply_topics(deployment.connection.settings, topics)
    output = f"out-{topics.prefix}"
    async with deployment.connection.admin() as admin:
        await admin.create([TopicSpec(output, "", "delete", 3, True, {})])
        cluster_id, ids = await admin.topic_ids([spec.name for spec in topics.declared()])
    grown = replace(deployment, topics=topics, ids=ids, cluster_id=cluster_id)
    settings = PluginSettings(settings={"to": output}, outputs=[output], attempts=2, retry="1ms", replays=True)
    Counting.failing = False
    counting = Counting()

    async def handle(event: Event, context: Context) -> None:
        await counting.handle(event, context)

    return grown, Plugin(NAME, settings, handle), output


def config_of(deployment: Deployment) -> Config:
    """Return the configuration of a deployment, as the command line has it."""
    settings = deployment.connection.settings
    plugins = {name: {"target": "a:b"} for name in deployment.topics.plugins}
    return parse({
        "prefix": deployment.topics.prefix,
        "kafka": settings.model_dump(include={"bootstrap", "partitions", "max_record_bytes"}),
        "handlers": {"plugins": plugins},
    })


async def publish(deployment: Deployment, *records: Record) -> None:
    """Write events to where their keys lead."""
    rows = [(deployment.topics.events, one.key or b"", one.value, list(one.headers)) for one in records]
    await deployment.connection.publish(deployment.topics, rows)


@asynccontextmanager
async def running(deployment: Deployment, make: Callable[[Task], HandlerLoop], stage: str) -> AsyncGenerator[None]:
    """Run a stage on all partitions while the block runs."""
    tasks = [deployment.task(stage, partition) for partition in range(deployment.topics.partitions)]
    for task in tasks:
        await task.start(owner)
    work = [asyncio.ensure_future(make(task).run()) for task in tasks]
    try:
        await until(lambda: all(task.working for task in tasks))
        yield
        for task in tasks:
            task.stopping.set()
        await asyncio.wait_for(asyncio.gather(*work), DEADLINE)
    finally:
        for one in work:
            one.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        for task in tasks:
            await task.close()


async def counts(deployment: Deployment, output: str) -> dict[str, list[Any]]:
    """Return what was written to the output, by key, in order."""
    consumer = await deployment.connection.consumer()
    found: dict[str, list[Any]] = {}
    try:
        where = [TopicPartition(output, one) for one in range(3)]
        consumer.assign(where)
        await consumer.seek_to_beginning(*where)
        ends = await consumer.end_offsets(where)
        while any([await consumer.position(one) < ends[one] for one in where]):
            for rows in (await consumer.getmany(timeout_ms=200)).values():
                for row in rows:
                    found.setdefault(row.key.decode(), []).append(orjson.loads(row.value))
    finally:
        await consumer.stop()
    return found


async def test_state_and_outputs_survive_restarts_once(place: tuple[Deployment, Plugin, str]) -> None:
    """Two runs count on, each event once, in the partition where the topic's own count has it."""
    deployment, plugin, output = place
    for sequence in (1, 2):
        await publish(deployment, *(event(person("crm", str(number)), sequence) for number in range(20)))

        async def finished(wanted: int = sequence) -> bool:
            found = await counts(deployment, output)
            return len(found) == 20 and all(len(rows) == wanted for rows in found.values())

        async with running(deployment, lambda task: PluginLoop(plugin, task), NAME):
            await until(finished)
    assert set(map(str, (await counts(deployment, output)).values())) == {"[[1, 1], [2, 2]]"}


async def test_a_plugin_whose_state_was_taken_away_begins_anew(place: tuple[Deployment, Plugin, str]) -> None:
    """Under the same name, on the events where it says."""
    deployment, plugin, output = place
    await publish(deployment, *(event(person("crm", str(number)), 1) for number in range(10)))

    async def seen(times: int) -> bool:
        found = await counts(deployment, output)
        return len(found) == 10 and all(rows == [[1, 1]] * times for rows in found.values())

    async with running(deployment, lambda task: PluginLoop(plugin, task), NAME):
        await until(lambda: seen(1))
    lines: list[str] = []
    await rebuild.empty(config_of(deployment), NAME, lines.append)
    assert lines == [f"{deployment.topics.state(NAME)} is empty"]
    async with deployment.connection.admin() as admin:
        _, ids = await admin.topic_ids([deployment.topics.state(NAME)])
    anew = replace(deployment, ids=deployment.ids | ids)
    assert anew.ids != deployment.ids
    async with running(anew, lambda task: PluginLoop(plugin, task), NAME):
        await until(lambda: seen(2))


async def test_a_plugin_that_is_stopped_ends_soon_and_counts_nothing_twice(
    place: tuple[Deployment, Plugin, str],
) -> None:
    """It does not work off what it has read: what it has not begun is its successor's."""
    deployment, plugin, output = place
    await publish(deployment, *(event(person("crm", str(number)), 1) for number in range(1_000)))
    calls, running_loops = 0, list[PluginLoop]()

    async def handle(event: Event, context: Context) -> None:
        nonlocal calls
        calls += 1
        if calls == 20:
            for loop in running_loops:
                loop._task.stopping.set()
        await plugin.target(event, context)

    def make(task: Task) -> PluginLoop:
        running_loops.append(PluginLoop(replace(plugin, target=handle), task))
        return running_loops[-1]

    async with running(deployment, make, NAME):
        await until(lambda: calls >= 20)
    assert calls < 20 + deployment.topics.partitions * plugin.settings.concurrency

    async def finished() -> bool:
        return len(await counts(deployment, output)) == 1_000

    async with running(deployment, lambda task: PluginLoop(plugin, task), NAME):
        await until(finished)
    assert set(map(str, (await counts(deployment, output)).values())) == {"[[1, 1]]"}


async def test_what_a_plugin_has_read_but_not_begun_when_it_stops_is_its_successors(
    place: tuple[Deployment, Plugin, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of it is committed when SIGTERM comes; how far was read is kept then, and was further."""
    deployment, plugin, output = place
    await publish(deployment, *(event(person("crm", str(number)), 1) for number in range(1_000)))
    monkeypatch.setattr("worker.plugins._CHUNK", 20)

    def make(task: Task) -> PluginLoop:
        loop = PluginLoop(plugin, task)
        apply = loop._apply

        def stopped_meanwhile(*given: Any, **more: Any) -> None:
            task.stopping.set()
            apply(*given, **more)

        loop._apply = stopped_meanwhile  # type: ignore[method-assign]
        return loop

    async def counted(many: int) -> bool:
        return len(await counts(deployment, output)) >= many

    async with running(deployment, make, NAME):
        await until(lambda: counted(20))
    async with running(deployment, lambda task: PluginLoop(plugin, task), NAME):
        await until(lambda: counted(1_000))


async def test_a_dead_letter_is_retried_in_order_and_answered(place: tuple[Deployment, Plugin, str]) -> None:
    """The later event of that customer waits; after the retry both are there, and nothing waits any more."""
    deployment, plugin, output = place
    config = config_of(deployment)
    Counting.failing = True
    async with running(deployment, lambda task: PluginLoop(plugin, task), NAME):
        with capture_logs() as logs:
            await publish(deployment, event(person("crm", "1"), 1))
            (letter,) = await until(lambda: deadletters.waiting(config))
        assert (letter.stage, letter.record.key, letter.error) == (NAME, b"crm/1", "ConnectionError")
        (said,) = (entry for entry in logs if entry["event"] == "record_set_aside")
        assert (said["topic"], said["offset"]) == (letter.record.topic, letter.record.offset)
        assert said["error"] == "ConnectionError"
        await publish(deployment, event(person("crm", "1"), 2))
        failed = await deadletters.settle(config, [letter], "retry", "tester")
        assert failed[letter.name]["outcome"] == "failed"
        Counting.failing = False
        done = await deadletters.settle(config, [letter], "retry", "tester")
        assert done[letter.name]["outcome"] == "done"

        async def both() -> bool:
            return (await counts(deployment, output)).get("crm/1") == [[1, 1], [2, 2]]

        await until(both)
        again = await deadletters.settle(config, [letter], "retry", "tester")
        assert again[letter.name]["outcome"] == "superseded"
    assert await deadletters.waiting(config) == []


async def test_a_large_event_is_retried_where_large_records_are_allowed(place: tuple[Deployment, Plugin, str]) -> None:
    """By kafka.max_record_bytes, and by the topics themselves: nothing else has a limit of its own."""
    deployment, plugin, output = place
    settings = deployment.connection.settings.model_copy(update={"max_record_bytes": 3_000_000})
    deployment = replace(deployment, connection=Connection(settings))
    topics = deployment.topics
    async with deployment.connection.admin() as admin:
        raised = {"max.message.bytes": "4000000"}
        await admin.alter(dict.fromkeys((topics.events, topics.deadletters, topics.replays), raised))
    config = config_of(deployment)
    Counting.failing = True
    async with running(deployment, lambda task: PluginLoop(plugin, task), NAME):
        await publish(deployment, event(person("crm", "1", given="A" * 1_000_000), 1))
        (letter,) = await until(lambda: deadletters.waiting(config))
        Counting.failing = False
        told = await deadletters.settle(config, [letter], "retry", "tester")
        assert told[letter.name]["outcome"] == "done"
    assert await counts(deployment, output) == {"crm/1": [[1, 1]]}


async def test_an_edited_payload_takes_the_place_of_the_record(place: tuple[Deployment, Plugin, str]) -> None:
    """An event that cannot be read is mended by hand."""
    deployment, plugin, output = place
    config = config_of(deployment)
    good = event(person("crm", "1"), 1)
    async with running(deployment, lambda task: PluginLoop(plugin, task), NAME):
        await publish(deployment, replace(good, value=b"{torn"))
        (letter,) = await until(lambda: deadletters.waiting(config))
        assert letter.reason == "not a customer's event"
        done = await deadletters.settle(config, [letter], "retry", "tester", good.value)
        assert done[letter.name]["outcome"] == "done"
    assert await counts(deployment, output) == {"crm/1": [[1, 1]]}


async def test_a_discarded_letter_lets_the_next_event_pass(place: tuple[Deployment, Plugin, str]) -> None:
    """The plug-in goes on without it."""
    deployment, plugin, output = place
    config = config_of(deployment)
    Counting.failing = True
    async with running(deployment, lambda task: PluginLoop(plugin, task), NAME):
        await publish(deployment, event(person("crm", "1"), 1), deletion("crm", "1", 2))
        (letter,) = await until(lambda: deadletters.waiting(config))
        Counting.failing = False
        told = await deadletters.settle(config, [letter], "discard", "tester")
        assert told[letter.name]["outcome"] == "discarded"

        async def passed() -> bool:
            return (await counts(deployment, output)).get("crm/1") == [[2, 1]]

        await until(passed)


async def test_an_output_that_is_not_there_stops_the_plugin(place: tuple[Deployment, Plugin, str]) -> None:
    """It says which."""
    deployment, plugin, _ = place
    settings = plugin.settings.model_copy(update={"outputs": ["no.such.topic"]})
    task = deployment.task(NAME)
    await task.start(owner)
    with pytest.raises(TopicError, match=r"no topic no\.such\.topic to write to"):
        await PluginLoop(replace(plugin, settings=settings), task).run()
    await task.close()


class Picky:
    """A built-in stage as the loop sees it: knows the highest version by customer, and refuses odd ones at first."""

    stage = "keys"
    version = 1
    refusing = True

    def __init__(self, deployment: Deployment) -> None:
        """Read the table of customers."""
        self.inputs = (Input(deployment.topics.latest),)

    def open(self, *_: Any) -> None:
        """Do nothing."""

    def on_record(self, tx: Any, record: Record, now: int) -> Outcome:
        """Take a version unless a newer one has passed."""
        version = int(record.value or b"0")
        if version <= int(tx.get(record.key) or b"0"):
            return Skip("seen")
        if Picky.refusing and version % 2:
            return Dead("odd")
        tx.put(record.key, b"%d" % version)
        return Done()

    def on_reply(self, *_: Any) -> None:
        """Never called."""

    def on_timer(self, *_: Any) -> None:
        """Never called."""


async def test_a_built_in_stage_answers_superseded_where_a_newer_version_has_passed(deployment: Deployment) -> None:
    """One letter is out of date, another is handled, a third fails again and still waits."""
    config = config_of(deployment)
    Picky.refusing = True
    rows = [(b"a", b"1"), (b"a", b"2"), (b"b", b"3"), (b"c", b"5")]
    async with running(deployment, lambda task: HandlerLoop(Picky(deployment), task, {}), "keys"):
        latest = deployment.topics.latest
        await deployment.connection.publish(deployment.topics, [(latest, key, value) for key, value in rows])

        async def three() -> Any:
            found = await deadletters.waiting(config)
            return {letter.record.key: letter for letter in found} if len(found) == 3 else None

        letters = await until(three)
        still = await deadletters.settle(config, [letters[b"c"]], "retry", "tester")
        assert [answer["outcome"] for answer in still.values()] == ["failed"]
        Picky.refusing = False
        told = await deadletters.settle(config, [letters[b"a"], letters[b"b"]], "retry", "tester")
        assert [answer["outcome"] for answer in told.values()] == ["superseded", "done"]
        await deadletters.settle(config, [letters[b"c"]], "discard", "tester")
    assert await deadletters.waiting(config) == []


async def test_what_is_not_addressed_to_a_stage_is_passed_over(deployment: Deployment) -> None:
    """Foreign records on the topic of replays, and those of another stage, change nothing."""
    Picky.refusing = False
    replays = deployment.topics.replays
    record = Record(deployment.topics.latest, 0, 0, 0, b"a", b"1")
    rows = [
        (replays, b"a", b"junk"),
        (replays, b"a", b"1", Redelivery("pairs", "retry", record, "1", "0-0").headers()),
        (replays, b"a", b"4", Redelivery("keys", "retry", record, "2", "0-0").headers()),
    ]
    async with running(deployment, lambda task: HandlerLoop(Picky(deployment), task, {}), "keys"):
        await deployment.connection.publish(deployment.topics, rows)

        async def answered() -> list[bytes]:
            return [row.key for row in await deployment.read(deployment.topics.status) if row.value]

        assert await until(answered) == [b"command/2"]


class Owner(Picky):
    """A stage whose records are in the partition of somebody else's key; it notes in which task it handled what."""

    stage = "executor"

    def __init__(self, deployment: Deployment, task: Task, handled: list[tuple[int, bytes]]) -> None:
        """Read what is asked of targets."""
        self.inputs = (Input(deployment.topics.requests),)
        self._partition, self._handled = task.partition, handled

    def on_record(self, tx: Any, record: Record, now: int) -> Outcome:
        """Note it, if it is not refused."""
        outcome = super().on_record(tx, record, now)
        if isinstance(outcome, Done):
            self._handled.append((self._partition, record.key or b""))
        return outcome


async def test_a_dead_letter_goes_back_to_the_task_that_had_it(deployment: Deployment) -> None:
    """Not to where the record's own key leads: requests are in the partition of their target."""
    config = config_of(deployment)
    handled: list[tuple[int, bytes]] = []
    keys = [b"request-%d" % number for number in range(4)]
    homes = [number % 2 for number in range(4)]
    rows = [(deployment.topics.requests, key, b"1") for key in keys]
    Picky.refusing = True
    async with running(deployment, lambda task: HandlerLoop(Owner(deployment, task, handled), task, {}), "executor"):
        await deployment.connection.publish(deployment.topics, rows, homes)

        async def all_four() -> Any:
            found = await deadletters.waiting(config)
            return found if len(found) == 4 else None

        letters = await until(all_four)
        Picky.refusing = False
        told = await deadletters.settle(config, letters, "retry", "tester")
    assert {answer["outcome"] for answer in told.values()} == {"done"}
    assert sorted(handled) == sorted(zip(homes, keys, strict=True))
    assert {partition_of(key, 2) == home for key, home in zip(keys, homes, strict=True)} == {True, False}
