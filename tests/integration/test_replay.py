"""Events of the past given once more: to whom, which ones, in which order, and once over interruptions."""

import copy
import dataclasses
from collections import Counter
from contextlib import suppress
from typing import Any

import orjson
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import RecordsToDelete
from aiokafka.errors import TopicAuthorizationFailedError

import handlers
from tests.integration.conftest import Deployment
from tests.integration.test_plugins import Picky, config_of, publish, running
from tests.waiting import until
from worker import inspect, rebuild, replay, tail
from worker.config import Config, parse
from worker.consumer import HandlerLoop
from worker.errors import KafkaUnavailableError, UsageError
from worker.events import header
from worker.handling import Outcome, Record, Skip
from worker.overview import overview
from worker.plugin_testkit import deletion, event
from worker.privacy import Hasher
from worker.reading import Moment, Span, Wanted, moment
from worker.redelivery import REPLAY
from worker.testkit import deleted, latest, person
from worker.times import now_ms, rfc3339
from worker.topics import TopicSpec

ALL = Span(Moment(edge="beginning"), Moment(edge="end"))
CUSTOMERS, VERSIONS = 10, 5


@pytest.fixture
async def past(deployment: Deployment) -> tuple[Deployment, str]:
    """Return a deployment with events of ten customers, a foreign record, and another service's topic."""
    rows = [event(person("crm", str(n)), v) for v in range(1, VERSIONS) for n in range(CUSTOMERS)]
    rows += [deletion("crm", str(n), VERSIONS) for n in range(CUSTOMERS)]
    await publish(deployment, *rows, event(person("shop", "1"), 1))
    await deployment.connection.publish(deployment.topics, [(deployment.topics.events, b"crm/1", b"\xff")])
    topic = f"billing-{deployment.topics.prefix}"
    async with deployment.connection.admin() as admin:
        await admin.create([TopicSpec(topic, "", "delete", deployment.topics.partitions, True, {})])
    return deployment, topic


async def versions(deployment: Deployment, topic: str) -> dict[str, list[int]]:
    """Return the sequences by key, in order, of the copies on a topic."""
    found: dict[str, list[int]] = {}
    for row in await deployment.read(topic):
        assert header(row.headers, REPLAY)
        found.setdefault(row.key.decode(), []).append(int(header(row.headers, "ce_sequence") or ""))
    return found


async def planned(config: Config, to: str, wanted: Wanted = Wanted(), span: Span = ALL) -> replay.Plan:  # ruff: ignore[function-call-in-default-argument] - it never changes
    """Return the plan of a replay."""
    return await replay.plan(config, await replay.target_of(config, to, with_deletes=False), wanted, span)


async def test_a_dry_run_counts_and_writes_nothing(past: tuple[Deployment, str]) -> None:
    """By type; foreign records are counted apart."""
    deployment, topic = past
    config = config_of(deployment)
    found = await replay.count(config, await planned(config, topic))
    assert found.wanted == Counter({
        "customer.created": CUSTOMERS + 1,
        "customer.updated": CUSTOMERS * (VERSIONS - 2),
        "customer.deleted": CUSTOMERS,
    })
    assert (found.read, found.foreign) == (CUSTOMERS * VERSIONS + 2, 1)
    assert await deployment.read(topic) == []


async def test_copies_are_marked_and_each_customer_is_in_order(past: tuple[Deployment, str]) -> None:
    """All of it, into another service's topic; nothing into ours."""
    deployment, topic = past
    config = config_of(deployment)
    before = len(await deployment.read(deployment.topics.events))
    plan = await planned(config, topic)
    await replay.run(config, plan, 1e9, lambda _: None)
    found = await versions(deployment, topic)
    assert found.pop("shop/1") == [1]
    assert found == {f"crm/{n}": list(range(1, VERSIONS + 1)) for n in range(CUSTOMERS)}
    assert plan.copied == CUSTOMERS * VERSIONS + 1
    assert len(await deployment.read(deployment.topics.events)) == before


async def test_only_what_is_wanted_is_copied(past: tuple[Deployment, str]) -> None:
    """By source, type and customer."""
    deployment, topic = past
    config = config_of(deployment)
    wanted = Wanted("crm", ("customer.updated",), "crm/3")
    await replay.run(config, await planned(config, topic, wanted), 1e9, lambda _: None)
    assert await versions(deployment, topic) == {"crm/3": list(range(2, VERSIONS))}


class Stopped(Exception):  # ruff: ignore[error-suffix-on-exception-name] - somebody pressed Ctrl-C
    """The replay is stopped."""


async def test_a_replay_that_was_stopped_goes_on_and_copies_nothing_twice(past: tuple[Deployment, str]) -> None:
    """After every single part."""
    deployment, topic = past
    config = config_of(deployment)
    plan = await planned(config, topic)

    def stop(_: replay.Plan) -> None:
        raise Stopped

    stops = 0
    while plan.passed < plan.total:
        with suppress(Stopped):
            await replay.run(config, plan, 7, stop)
        stops += 1
        row = next(row for row in await inspect.statuses(config) if row["name"] == plan.id)
        plan = replay.Plan.read(row)
    with pytest.raises(UsageError, match="is done: 51 copies were made"):
        await replay.resumed(config, plan.id)
    assert stops > 3
    assert sum(map(len, (await versions(deployment, topic)).values())) == CUSTOMERS * VERSIONS + 1


async def test_who_goes_on_with_old_news_copies_nothing_twice(past: tuple[Deployment, str]) -> None:
    """How far it has come is read again once everybody else is fenced; `status` shows it until it is done."""
    deployment, topic = past
    config = config_of(deployment)
    plan = await planned(config, topic)
    old = copy.deepcopy(plan)
    parts = 0

    def stop(_: replay.Plan) -> None:
        nonlocal parts
        parts += 1
        if parts == 3:
            raise Stopped

    with pytest.raises(Stopped):
        await replay.run(config, plan, 7, stop)
    assert 0 < plan.copied < CUSTOMERS * VERSIONS
    assert [row["name"] for row in await overview(config) if row["kind"] == "replay"] == [plan.id]
    await replay.run(config, old, 1e9, lambda _: None)
    assert old.copied == CUSTOMERS * VERSIONS + 1
    assert not [row for row in await overview(config) if row["kind"] == "replay"]
    found = await versions(deployment, topic)
    assert found.pop("shop/1") == [1]
    assert found == {f"crm/{n}": list(range(1, VERSIONS + 1)) for n in range(CUSTOMERS)}


async def test_what_was_deleted_before_it_was_read_is_named(past: tuple[Deployment, str]) -> None:
    """A replay that is gone on with too late says which offsets are gone and what to do; nothing is left out."""
    deployment, topic = past
    config = config_of(deployment)
    plan = await planned(config, topic)
    events = deployment.topics.events
    async with deployment.connection.admin() as admin:
        await admin.client.delete_records({TopicPartition(events, 0): RecordsToDelete(before_offset=3)})
    for replaying in (replay.run(config, plan, 1e9, lambda _: None), replay.count(config, plan)):
        with pytest.raises(UsageError) as raised:
            await replaying
        assert f"{events} has not kept 0-0 to 0-2" in raised.value.message
        assert "--from beginning" in (raised.value.hint or "")
    left = await planned(config, topic)
    await replay.run(config, left, 1e9, lambda _: None)
    assert left.passed == left.total == plan.total - 3


async def test_a_topic_that_cannot_be_read_is_said(
    past: tuple[Deployment, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an error of ours, not by aiokafka's."""
    deployment, topic = past
    config = config_of(deployment)
    plan = await planned(config, topic)

    async def refuse(*_: Any, **__: Any) -> None:  # ruff: ignore[unused-async] - in the other's place
        raise TopicAuthorizationFailedError

    monkeypatch.setattr(AIOKafkaConsumer, "getmany", refuse)
    with pytest.raises(KafkaUnavailableError, match="cannot be read"):
        await replay.count(config, plan)


async def test_a_group_of_another_service_is_set_back(past: tuple[Deployment, str]) -> None:
    """Its position is where the replay begins; it reads on by itself."""
    deployment, _ = past
    config = config_of(deployment)
    plan = await planned(config, "group:billing")
    assert await replay.set_back(config, plan) == dict.fromkeys(plan.start, None)
    assert (await replay.target_of(config, "billing", with_deletes=False)).kind == "group"
    assert await replay.set_back(config, plan) == plan.start


@pytest.mark.parametrize("start", ["1-1", "4", "now"])
async def test_no_position_of_a_group_is_moved_forward(past: tuple[Deployment, str], start: str) -> None:
    """Neither that of a partition the replay is not about, nor where the group has not read as far as it begins."""
    deployment, _ = past
    config = config_of(deployment)
    events = deployment.topics.events
    where = [TopicPartition(events, one) for one in range(deployment.topics.partitions)]
    consumer = await deployment.connection.consumer(group="lagging")
    consumer.assign(where)
    await consumer.commit(dict.fromkeys(where, 2))
    await consumer.stop()
    if start == "now":  # one partition has had nothing since
        start = rfc3339(max(row.timestamp for row in await deployment.read(events)) + 1)
        await publish(deployment, event(person("late", "1"), 1))
    span = Span(moment(start, now_ms()), Moment(edge="end"))
    plan = await planned(config, "group:lagging", span=span)
    before = await replay.set_back(config, plan)
    after = await replay.set_back(config, plan)
    assert before == dict.fromkeys(plan.start, 2)
    assert all(stands is not None and stands <= 2 for stands in after.values())
    assert start != "1-1" or after == {1: 1}


async def test_a_group_that_retention_has_overtaken_is_set_to_what_is_left(past: tuple[Deployment, str]) -> None:
    """Its old position is nowhere any more: a client there begins wherever its own settings say."""
    deployment, _ = past
    where = TopicPartition(deployment.topics.events, 0)
    consumer = await deployment.connection.consumer(group="away")
    consumer.assign([where])
    await consumer.commit({where: 1})
    await consumer.stop()
    async with deployment.connection.admin() as admin:
        await admin.client.delete_records({where: RecordsToDelete(before_offset=3)})
    assert (await planned(config_of(deployment), "group:away")).start[0] == 3


async def test_a_part_of_one_partition_is_nothing_of_another(past: tuple[Deployment, str]) -> None:
    """Whichever end of it names the partition."""
    config = config_of(past[0])
    for start, until_ in (("beginning", "1-3"), ("1-0", "end")):
        span = Span(moment(start, now_ms()), moment(until_, now_ms()))
        assert (await planned(config, "group:other", span=span)).start == {1: 0}
    with pytest.raises(UsageError, match="there is no partition 7"):
        await planned(config, "group:other", span=Span(moment("7-0", now_ms()), Moment(edge="end")))


async def test_tail_says_that_retention_has_overtaken_it(
    past: tuple[Deployment, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an error of ours: what was there when it began is not there any more."""
    deployment, _ = past
    events = deployment.topics.events
    show = tail._show

    async def deleted_meanwhile(consumer: AIOKafkaConsumer, *args: Any) -> None:
        async with deployment.connection.admin() as admin:
            await admin.client.delete_records({TopicPartition(events, 0): RecordsToDelete(before_offset=3)})
        consumer.seek(TopicPartition(events, 0), 0)  # what was fetched already is not shown
        await show(consumer, *args)

    monkeypatch.setattr(tail, "_show", deleted_meanwhile)
    with pytest.raises(UsageError, match=f"{events} has not kept"):
        await tail.tail(config_of(deployment), "events", tail.View(Wanted(), Moment(edge="beginning"), None, False))


async def test_deletions_are_requested_once_more_only_with_the_flag(past: tuple[Deployment, str]) -> None:
    """A deletion of the past, which asked for nothing then, asks for it now; others, and live customers, do not."""
    deployment, _ = past
    topics = deployment.topics
    api: dict[str, Any] = {"url": "https://shop.example.com/api", "key": {"env": "SHOP_KEY"}, "kind": "drivly"}
    config = parse({
        "prefix": topics.prefix,
        "kafka": {"bootstrap": deployment.connection.settings.bootstrap, "partitions": topics.partitions},
        "sources": {"crm": api | {"url": "https://crm.example.com/api"}},
        "handlers": {
            "deletes": {
                "undo_key": None,
                "targets": {"shop": api},
                "routes": [{"source": "crm", "target": "shop", "link": "same_id"}],
            }
        },
    })
    gone = [deleted("crm", str(n), VERSIONS) for n in range(2)]
    back = [latest(person("crm", "1"), VERSIONS + 1)]
    await deployment.connection.publish(topics, [(topics.latest, *row) for row in [*gone, *back]])
    with pytest.raises(UsageError, match="deletes nothing downstream unless"):
        await replay.target_of(config, "deletes", with_deletes=False)
    target = await replay.target_of(config, "deletes", with_deletes=True)
    make = handlers.factory("requests", config.file.handlers, topics, Hasher(b"pepper"))
    async with running(deployment, lambda task: HandlerLoop(make(), task, {}), "requests"):
        assert await deployment.read(topics.requests) == []
        plan = await replay.plan(config, target, Wanted("crm"), ALL)
        await replay.run(config, plan, 1e9, lambda _: None)

        async def requested() -> list[str]:
            rows = await deployment.read(topics.requests)
            values = [row.value for row in rows if row.value and b'"origin"' in row.value]
            return sorted(orjson.loads(value)["request"]["origin"] for value in values)

        wanted = [str(n) for n in range(CUSTOMERS) if n != 1]

        async def all_of_them() -> bool:
            return await requested() == wanted

        await until(all_of_them)
    assert plan.copied == CUSTOMERS
    assert await requested() == wanted


class Seen(Picky):
    """Stands in for the requests, as the loop sees it: keeps the keys that it is given."""

    stage = "requests"

    def __init__(self, deployment: Deployment) -> None:
        """Read the table of customers."""
        super().__init__(deployment)
        self.keys: list[bytes | None] = []

    def on_record(self, tx: Any, record: Record, now: int) -> Outcome:
        """Keep it."""
        self.keys.append(record.key)
        return Skip("seen")


async def test_no_copies_are_made_for_who_has_not_begun(past: tuple[Deployment, str]) -> None:
    """It begins behind what is there already: before its first start, and where its state was taken away.

    Once it has begun, it finds also what was copied while it was stopped. A replay that is gone on with is no other.
    """
    deployment, _ = past
    config, seen = config_of(deployment), Seen(deployment)
    target = await replay.target_of(config, "deletes", with_deletes=True)
    with pytest.raises(UsageError, match="requests has not begun"):
        await replay.plan(config, target, Wanted(), ALL)

    async def begin_and_read(copies: int) -> None:
        async def read() -> bool:  # ruff: ignore[unused-async] - `until` awaits it
            return len(seen.keys) == copies

        async with deployment.connection.admin() as admin:
            _, ids = await admin.topic_ids([deployment.topics.state("requests")])
        anew = dataclasses.replace(deployment, ids=deployment.ids | ids)
        async with running(anew, lambda task: HandlerLoop(seen, task, {}), "requests"):
            await until(read)

    def stop(_: replay.Plan) -> None:
        raise Stopped

    await begin_and_read(0)
    plan = await replay.plan(config, target, Wanted(), ALL)
    while not plan.copied:
        with suppress(Stopped):
            await replay.run(config, plan, 40, stop)
    begun = plan.copied
    assert 0 < begun < CUSTOMERS
    await begin_and_read(begun)

    await rebuild.empty(config, "requests", lambda _: None)
    with pytest.raises(UsageError, match="requests has not begun"):
        await replay.resumed(config, plan.id)
    await begin_and_read(begun)
    await replay.run(config, await replay.resumed(config, plan.id), 1e9, lambda _: None)
    await begin_and_read(CUSTOMERS)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nobody", "no handler, no topic and no group 'nobody'"),
        ("dedupe", "does not read"),
        ("keys", "does not read"),
        ("topic:nowhere", "no topic nowhere"),
    ],
)
async def test_what_cannot_take_a_replay_is_refused(deployment: Deployment, name: str, says: str) -> None:
    """Before anything is read."""
    with pytest.raises(UsageError) as raised:
        await replay.target_of(config_of(deployment), name, with_deletes=False)
    assert says in raised.value.message


async def test_our_own_topics_take_no_copies(deployment: Deployment) -> None:
    """Neither the public ones nor the internal ones."""
    for topic in (deployment.topics.events, deployment.topics.latest, deployment.topics.control):
        with pytest.raises(UsageError, match="Rollcall's own"):
            await replay.target_of(config_of(deployment), f"topic:{topic}", with_deletes=False)


async def test_an_empty_part_is_refused(deployment: Deployment) -> None:
    """Nothing between the two places."""
    with pytest.raises(UsageError, match="has no records between"):
        await planned(config_of(deployment), "group:billing")
