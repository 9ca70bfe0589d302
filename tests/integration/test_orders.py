"""What operators order of sources, on a real broker: given once, carried out once, answered."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import UUID

import orjson
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import RecordsToDelete
from structlog.testing import capture_logs

from tests.integration.conftest import PARTITIONS, Deployment, owner
from tests.integration.polling import Poller
from tests.waiting import until
from worker import deadletters, inspect, ordering, orders
from worker.control import Control
from worker.errors import UnavailableError, UsageError
from worker.kafka import Connection
from worker.settings import KafkaSettings
from worker.simulator import Connect, Drivly, MyKaarma
from worker.times import rfc3339
from worker.topics import partition_of

KEY = "users API-Key x"
os.environ |= {"T_KEY": KEY, "T_API": "connect-test-key", "T_USER": "rollcall", "T_PASSWORD": "mykaarma-test-password"}


@pytest.fixture
def poller(kafka: KafkaSettings, tmp_path: Path) -> Poller:
    """Return a deployment that is not configured yet."""
    return Poller(kafka, tmp_path)


def crm(simulator: Drivly) -> dict[str, object]:
    """Return the settings of a drivly source."""
    return {"kind": "drivly", "url": f"{simulator.url}/api", "key": {"env": "T_KEY"}, "lookback": "1s"}


def dealer(simulator: MyKaarma) -> dict[str, object]:
    """Return the settings of a mykaarma source."""
    return {
        "kind": "mykaarma",
        "url": simulator.url,
        "username": {"env": "T_USER"},
        "password": {"env": "T_PASSWORD"},
        "requester_user_uuid": str(UUID(int=7)),
        "dealer_uuids": simulator.dealers,
    }


async def test_a_watch_list_is_filled_from_the_command_line(poller: Poller) -> None:
    """Who is on it is looked up and published; the list shows what is known of each."""
    async with MyKaarma(seed=1, customers=20) as simulator:
        await poller.configure({"dealer": dealer(simulator)})
        ids = sorted(simulator.customers())
        unknown, odd = str(UUID(int=99)), ids[9]
        simulator.fault("status", status=400, path=odd)
        file = poller.folder / "ids.txt"
        file.write_text("\n".join(["# some of them", *ids[:10], "", unknown]))
        async with poller.running():
            code, output, errors = await poller.rollcall("watch", "add", "dealer", ids[10], "--file", str(file))
            assert (code, errors) == (0, "")
            assert output == "done: 12 added, 0 were watched already; 12 are watched\n"

            async def published() -> bool:
                return sorted(await poller.latest("dealer")) == [*ids[:9], ids[10]]

            await until(published)
            code, output, _ = await poller.rollcall("watch", "remove", "dealer", ids[0], ids[19])
            assert output == "done: 1 removed, 1 were not watched; 11 are watched\n"
            code, output, _ = await poller.rollcall("watch", "list", "dealer")
            shown = dict(line.split("  ") for line in output.splitlines())
            assert shown == dict.fromkeys(ids[1:11], "live") | {unknown: "not found", odd: "set aside"}
            assert sorted(await poller.latest("dealer")) == [*ids[:9], ids[10]]
        assert len(await poller.events("dealer")) == 10


async def test_bad_ids_are_refused_by_name_and_nothing_is_done(poller: Poller) -> None:
    """Before anything is written: no poller has to run for that."""
    async with MyKaarma(seed=1, customers=1) as simulator:
        await poller.configure({"dealer": dealer(simulator)})
        good = str(UUID(int=1))
        code, output, errors = await poller.rollcall("watch", "add", "dealer", good, "12abc", "../users")
        assert (code, output) == (2, "")
        assert "2 of 3 are no ids of dealer: '12abc', '../users'" in errors
        assert await ordering.watched(poller.config, "dealer") == []


async def test_an_order_waits_for_the_poller(poller: Poller) -> None:
    """Given while none runs, it is not answered in time; the next one carries it out."""
    async with MyKaarma(seed=1, customers=3) as simulator:
        await poller.configure({"dealer": dealer(simulator)})
        ids = sorted(simulator.customers())
        wanted = ordering.given("watch", "dealer", ids=ids)
        with pytest.raises(UnavailableError, match="not answered within"):
            await ordering.carry_out(poller.config, wanted, 0.5)
        async with poller.running():

            async def published() -> bool:
                return sorted(await poller.latest("dealer")) == ids

            await until(published)
        assert [known for _, known in await ordering.watched(poller.config, "dealer")] == ["live"] * 3


async def test_a_long_list_is_taken_whole(poller: Poller) -> None:
    """Many thousands of ids take several records, which are given in one transaction and answered once."""
    async with MyKaarma(seed=1, customers=0) as simulator:
        await poller.configure({"dealer": {**dealer(simulator), "rate": 0.01, "burst": 1}})
        ids = [str(UUID(int=number)) for number in range(100_000)]
        async with poller.running():
            wanted = ordering.given("watch", "dealer", ids=ordering.watchable(poller.config, "dealer", ids))
            answer = await ordering.carry_out(poller.config, wanted, 60)
            assert answer["message"] == "100000 added, 0 were watched already; 100000 are watched"
        assert len(await ordering.watched(poller.config, "dealer")) == 100_000


async def test_a_paused_source_is_asked_nothing_until_it_is_resumed(poller: Poller) -> None:
    """Also by the next owner."""
    async with Drivly(seed=1, customers=5, authorization=KEY) as simulator:
        await poller.configure({"crm": crm(simulator)})
        async with poller.running():
            await poller.state("crm", "running")
            assert (await poller.rollcall("pause", "crm", "--who", "ann"))[:2] == (
                0,
                "done: crm is paused: it is asked nothing until it is resumed\n",
            )
            assert (await poller.rollcall("pause", "crm"))[:2] == (1, "refused: crm is paused already, by ann\n")
            await poller.state("crm", "paused")
        asked = len(simulator.requests)
        simulator.create()
        async with poller.running():
            row = await poller.state("crm", "paused")
            assert row["message"].startswith("paused by ann at ")
            assert len(simulator.requests) == asked
            assert (await poller.rollcall("resume", "crm"))[0] == 0

            async def caught_up() -> bool:
                return len(await poller.latest("crm")) == 6

            await until(caught_up)


async def test_a_resync_reads_everything_and_publishes_what_differs(poller: Poller) -> None:
    """A row written with a time in the past is found although no sweep is due; the others are not published again."""
    async with Drivly(seed=1, customers=30, authorization=KEY) as simulator:
        await poller.configure({"crm": {**crm(simulator), "scan_interval": "1h"}})
        async with poller.running():

            async def count(wanted: int) -> bool:
                return len(await poller.latest("crm")) == wanted

            await until(lambda: count(30))
            await poller.state("crm", "running")
            simulator.create(at=1_000_000_000)
            assert (await poller.rollcall("resync", "crm"))[0] == 0
            await until(lambda: count(31))
        assert len(await poller.events("crm")) == 31


async def test_one_customer_is_looked_up_on_request(poller: Poller) -> None:
    """What it came to is the answer; one that is not found is not taken for deleted."""
    async with Drivly(seed=1, customers=30, authorization=KEY) as simulator:
        await poller.configure({"crm": {**crm(simulator), "scan_interval": "1h"}})
        async with poller.running():
            await poller.state("crm", "running")
            answers = {}
            simulator.delete(7)
            for customer_id in ("5", "7", "12abc"):
                code, output, errors = await poller.rollcall("resync", "crm", "--id", customer_id)
                answers[customer_id] = code, output or errors
        assert answers["5"] == (0, "done: crm/5 is there, as it was published\n")
        assert answers["7"][1].startswith("done: crm/7 is not found")
        assert answers["12abc"][0] == 2
        assert len(await poller.latest("crm")) == 30


async def test_a_plan_of_absences_passes_when_it_is_approved(poller: Poller) -> None:
    """As it was shown, and no other."""
    async with Connect(seed=1, customers=60, api_key="connect-test-key") as simulator:
        settings = {"kind": "connect", "url": simulator.url, "key": {"env": "T_API"}}
        await poller.configure({"telco": settings})
        async with poller.running():
            await poller.state("telco", "running")

            async def count(wanted: int) -> bool:
                return len(await poller.latest("telco")) == wanted

            await until(lambda: count(60))
            for customer_id in list(simulator.customers())[:20]:
                simulator.delete(customer_id)

            async def held() -> dict[str, object]:
                return (await poller.status("telco")).get("held") or {}

            plan = await until(held)
            assert (plan["missing"], plan["live"]) == (20, 60)
            code, output, _ = await poller.rollcall("sources", "approve", "telco", "0123456789ab")
            assert (code, output) == (1, f"refused: telco has no plan 0123456789ab: held are {plan['plan']}\n")
            assert (await poller.rollcall("sources", "approve", "telco", plan["plan"]))[0] == 0
            await until(lambda: count(40))

            async def calm() -> bool:
                row = await poller.status("telco")
                return row["held"] is None and row["alarm"] is None

            await until(calm)
        gone = [headers["ce_reason"] for _, headers, _ in await poller.events("telco") if "ce_reason" in headers]
        assert gone == ["gone"] * 20


async def leave(poller: Poller, simulator: Drivly, *command: str) -> str:
    """Poll a source, take it out of the configuration, and give a command; return the answer."""
    await poller.configure({"crm": crm(simulator)})
    async with poller.running():

        async def full() -> bool:
            return len(await poller.latest("crm")) == 8

        await until(full)
        code, _, errors = await poller.rollcall(*command)
        assert code == 2
        assert "is configured" in errors
    await poller.configure({})
    async with poller.running():
        row = await poller.state("crm", "not configured")
        assert row["live"] == 8
        assert len(await poller.latest("crm")) == 8
        code, output, errors = await poller.rollcall(*command)
        assert (code, errors) == (0, "")

        async def unsaid() -> bool:
            return not await poller.status("crm")

        await until(unsaid)
        assert (await poller.rollcall(*command))[0] == 1
    return output


async def test_a_source_that_is_forgotten_leaves_its_customers_on_the_topics(poller: Poller) -> None:
    """And goes on with their sequences where it comes back."""
    async with Drivly(seed=1, customers=8, authorization=KEY) as simulator:
        output = await leave(poller, simulator, "sources", "forget", "crm")
        assert output == "done: 8 customers are forgotten; they stay on the topics as they are\n"
        assert len(await poller.latest("crm")) == 8
        assert len(await poller.events("crm")) == 8
        await poller.configure({"crm": crm(simulator)})
        async with poller.running():

            async def again() -> bool:
                return len(await poller.events("crm")) == 16

            await until(again)
        types = {(headers["ce_type"], headers["ce_sequence"]) for _, headers, _ in await poller.events("crm")}
        assert types == {("customer.created", "1"), ("customer.created", "2")}


async def test_a_source_that_is_deleted_has_its_customers_published_as_deleted(poller: Poller) -> None:
    """By the weakest reason, and only when it is said twice that it is meant."""
    async with Drivly(seed=1, customers=8, authorization=KEY) as simulator:
        output = await leave(poller, simulator, "sources", "delete", "crm", "--yes")
        assert output == "done: 8 customers were published as deleted\n"
        assert await poller.latest("crm") == {}
        ends = [event for event in await poller.events("crm") if event[1]["ce_sequence"] == "2"]
        assert [headers["ce_reason"] for _, headers, _ in ends] == ["absent"] * 8
        assert sorted(data["live"] for _, _, data in ends) == list(range(8))
        assert (await poller.rollcall("sources", "delete", "crm"))[0] == 2


NAMES = ("shop", "abc")


@pytest.mark.parametrize("name", NAMES)
async def test_a_source_that_is_renamed_goes_on_under_its_new_name(poller: Poller, name: str) -> None:
    """Its customers were first seen when they were, whichever partition the new name leads to."""
    assert {partition_of(one.encode(), PARTITIONS) for one in NAMES} == set(range(PARTITIONS))
    async with Drivly(seed=1, customers=8, authorization=KEY) as simulator:
        await leave(poller, simulator, "sources", "rename", "crm", name)
        before = {id_: data["first_seen"] for id_, _, data in await poller.events("crm")}
        await poller.configure({name: crm(simulator)})
        async with poller.running():

            async def there() -> bool:
                return len(await poller.latest(name)) == 8

            await until(there)
        assert await poller.latest("crm") == {}
        events = await poller.events(name)
        assert {id_: data["first_seen"] for id_, _, data in events} == before
        assert {headers["ce_type"] for _, headers, _ in events} == {"customer.created"}


async def test_whom_a_source_takes_over_is_known_before_it_is_polled(poller: Poller) -> None:
    """However many orders stand before those that hand customers over: they are taken in their turn once more."""
    async with Drivly(seed=1, customers=8, authorization=KEY) as simulator:
        await poller.configure({"shop": crm(simulator)})
        ids = sorted(simulator.customers())
        before = [orders.order(f"order-{number}", "resync", "shop", who="me", at=1) for number in range(100)]
        handed = orders.order("order-100", "adopt", "shop", who="me", at=1, ids=ids, seen=[7_000] * len(ids))
        rows = [(poller.config.topics.control, b"shop", orjson.dumps(order)) for order in (*before, handed)]
        await Connection(poller.config.file.kafka).publish(poller.config.topics, [*rows, (rows[0][0], b"shop", b"x")])
        async with poller.running():

            async def set_aside() -> bool:  # the last of them
                return bool(await deadletters.waiting(poller.config))

            await until(set_aside)
            assert sorted(await poller.latest("shop")) == ids
        assert {data["first_seen"] for _, _, data in await poller.events("shop")} == {rfc3339(7_000)}
        answers = [row for row in await inspect.statuses(poller.config) if row.get("kind") == "command"]
        assert {row["outcome"] for row in answers} == {"done"}
        assert len(answers) == len(before)


async def test_a_renamed_watch_list_is_watched_under_its_new_name(poller: Poller) -> None:
    """Nobody has to fill it again."""
    async with MyKaarma(seed=1, customers=5) as simulator:
        await poller.configure({"dealer": dealer(simulator)})
        ids = sorted(simulator.customers())
        async with poller.running():
            await ordering.carry_out(poller.config, ordering.given("watch", "dealer", ids=ids), 30)
        await poller.configure({})
        async with poller.running():
            answer = await ordering.carry_out(poller.config, ordering.given("rename", "dealer", name="garage"), 30)
            assert answer["outcome"] == "done"
        await poller.configure({"garage": dealer(simulator)})
        async with poller.running():

            async def there() -> bool:
                return sorted(await poller.latest("garage")) == ids

            await until(there)


async def test_what_cannot_be_ordered_is_refused_at_the_terminal(poller: Poller) -> None:
    """A source that is not configured, or that has no watch list."""
    async with Drivly(seed=1, authorization=KEY) as simulator:
        await poller.configure({"crm": crm(simulator)})
        with pytest.raises(UsageError, match="there is no source 'shop'; there are crm"):
            ordering.configured(poller.config, "shop")
        with pytest.raises(UsageError, match="nothing to watch"):
            ordering.watchable(poller.config, "crm", ["1"])


async def test_a_worker_stops_amid_many_orders(poller: Poller) -> None:
    """What was not carried out by then is left to a successor; nothing waits for a source that has ended."""
    async with Drivly(seed=1, customers=5, authorization=KEY) as simulator:
        await poller.configure({"crm": crm(simulator)}, grace="15s")
        given = [orders.order(f"order-{number}", "resync", "crm", who="me", at=1) for number in range(200)]

        async def answered() -> int:
            rows = await inspect.statuses(poller.config)
            return len({row["id"] for row in rows if row.get("kind") == "command"})

        with capture_logs() as logs:
            async with poller.running():
                await until(lambda: poller.latest("crm"))
                rows = [(poller.config.topics.control, b"crm", orjson.dumps(order)) for order in given]
                await Connection(poller.config.file.kafka).publish(poller.config.topics, rows)
                await until(answered)
        assert not {"task_cut_short", "task_failed"} & {line["event"] for line in logs}
        async with poller.running():
            await until(lambda: _all(answered, len(given)))


async def _all(count: Callable[[], Awaitable[int]], expected: int) -> bool:
    return await count() == expected


async def _controlled(deployment: Deployment, position: int) -> list[str]:
    """Read orders until so far, then stop; return what was logged meanwhile."""
    task = deployment.task("poll")
    await task.start(owner)
    key = b"\x00p/" + deployment.topics.control.encode()

    def reached() -> bool:
        with task.store.reading() as state:
            return state.get(key) == b"%d" % position

    with capture_logs() as logs:
        running = asyncio.ensure_future(Control(task, {}).run())
        await until(reached)
        task.stopping.set()
        await running
    await task.close()
    return [line["event"] for line in logs]


async def test_orders_that_were_read_and_then_deleted_are_not_lost(deployment: Deployment) -> None:
    """The end of a transaction takes an offset behind the last order, and is passed with it."""
    topic = deployment.topics.control
    await _handed_over(deployment, topic)
    assert "order_set_aside" in await _controlled(deployment, 3)
    where = TopicPartition(topic, 0)
    async with deployment.connection.admin() as admin:
        await admin.client.delete_records({where: RecordsToDelete(3)})
    assert "orders_lost" not in await _controlled(deployment, 3)


async def _handed_over(deployment: Deployment, topic: str) -> None:
    """Write two records that are no orders, in one transaction, as what a renamed source hands over is."""
    writer = deployment.task("keys", folder="writer")
    await writer.start(owner)
    await writer.transact(lambda tx: [tx.send_to(topic, 0, b"crm", b"x", None) for _ in range(2)])
    await writer.close()


async def test_what_is_no_order_is_set_aside_whatever_its_size(deployment: Deployment) -> None:
    """The headers of a dead letter come on top of a record that was as large as may be written."""
    topic = deployment.topics.control
    client = AIOKafkaProducer(
        bootstrap_servers=deployment.connection.settings.bootstrap, max_request_size=2 * 1024 * 1024
    )
    await client.start()
    await client.send_and_wait(topic, b"x" * 1_000_000, b"crm", 0)
    await client.stop()
    assert "order_set_aside" in await _controlled(deployment, 1)
    (letter,) = await deployment.read(deployment.topics.deadletters)
    assert (letter.key, len(letter.value)) == (b"crm", 1_000_000)
