"""What a changed configuration does to a source: it is read anew, and never read as a deletion of many."""

import os
import time
from collections.abc import AsyncGenerator, Generator
from itertools import groupby
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.flow.local import TOPICS, World, dintero_settings
from worker.simulator import Connect, Dintero, Drivly
from worker.simulator.answers import Ask
from worker.simulator.store import View
from worker.sources.connect import Connect as Adapter

KEY = "users API-Key x"
os.environ |= {"T_KEY": KEY, "T_API": "connect-test-key"}

pytestmark = pytest.mark.usefixtures("hurry")


@pytest.fixture
async def telco() -> AsyncGenerator[Connect]:
    """Give a simulated connect with forty customers."""
    async with Connect(seed=1, customers=40, api_key="connect-test-key") as simulator:
        yield simulator


@pytest.fixture
def world(telco: Connect, tmp_path: Path) -> Generator[World]:
    """Give a source of it; in the end each customer's sequences are 1, 2, 3, ..., each once."""
    raw = {"url": telco.url, "key": {"env": "T_API"}, "interval": "20ms", "page_size": 10}
    made = World(tmp_path, "connect", raw)
    yield made
    made.check()


async def full(world: World, count: int = 40) -> None:
    """Wait until so many customers are published, and a scan has ended."""
    await world.until(lambda: len(world.latest) == count)
    await world.scans("scan")


async def test_a_narrower_filter_deletes_nobody(world: World, telco: Connect) -> None:
    """A customer not seen any more is left as it was, and counted; a person may count it out, others may not."""
    chosen = min(telco.customers())
    async with world.polling():
        await full(world)
    async with world.polling(search=chosen):
        await world.until(lambda: world.source.detector.checkpoint.unobserved)
        await world.scans("scan", 4)
        unobserved = world.source.detector.checkpoint.unobserved
        assert unobserved is not None
        assert unobserved["customers"] == 39
        assert "39 customers are not seen under the present filter" in (world.condition.alarm or "")
        assert len(world.latest) == 40
        assert len(world.events) == 40
        telco.clear_faults()
        world.source.detector.checkpoint.approved = unobserved["plan"]
        await world.scans("scan", 4)
        # The look-up, which knows no filter, finds them.
        assert len(world.latest) == 40


async def test_a_wider_filter_takes_everybody_in(world: World, telco: Connect) -> None:
    """Nobody who was seen before is published again."""
    chosen = min(telco.customers())
    async with world.polling(search=chosen):
        await full(world, 1)
    async with world.polling():
        await full(world)
        await world.scans("scan", 2)
    assert len(world.events) == 40


async def test_customers_deleted_while_the_credential_changed_wait_for_a_person(world: World, telco: Connect) -> None:
    """They were never seen under the new one: that they are missing proves nothing, until their plan is approved."""
    gone = sorted(telco.customers())[:3]
    async with world.polling():
        await full(world)
    for id_ in gone:
        telco.delete(id_)
    telco.api_key = os.environ["T_API2"] = "another"
    async with world.polling(key={"env": "T_API2"}):
        unobserved = await world.until(lambda: world.source.detector.checkpoint.unobserved)
        assert unobserved["customers"] == 3
        await world.scans("scan", 3)
        assert world.reasons == {}
        world.source.detector.checkpoint.approved = unobserved["plan"]
        await world.until(lambda: world.reasons == dict.fromkeys(gone, "gone"))
        assert world.condition.alarm is None


async def test_another_adapter_version_publishes_everything_anew_at_its_pace(world: World) -> None:
    """As updates, none of them twice, and no faster than allowed."""

    class Newer(Adapter):
        version = Adapter.version + 1

    async with world.polling():
        await full(world)
    async with world.polling(Newer, republish_rate=100.0):
        loop = world.until(lambda: len(world.events) == 80)
        started = world.task.transactions
        await loop
        assert world.task.transactions > started
        await world.until(lambda: not world.source.detector.checkpoint.republishing)
        await world.scans("scan", 2)
    assert len(world.events) == 80
    assert {headers["ce_type"] for _, _, headers in world.events[40:]} == {"customer.updated"}


async def test_an_older_version_waits_rather_than_publish_everything_again(world: World) -> None:
    """While two versions take turns only the newer one publishes; a resync lets the older one go on."""

    class Newer(Adapter):
        version = Adapter.version + 1

    async with world.polling(Newer):
        await full(world)
    async with world.polling():
        await world.until(lambda: world.status["state"] == "paused: newer state")
        assert "made by a newer version" in world.status["message"]

        def resync(_: Any) -> None:
            world.source.detector.checkpoint.resync = True

        await world.source.commit(resync)
        await world.until(lambda: world.condition.state == "running")
        await full(world)
        await world.until(lambda: len(world.events) == 80)
    assert len(world.events) == 80


async def test_another_privacy_policy_publishes_everything_anew(world: World) -> None:
    """What it drops is in no event any more."""
    async with world.polling():
        await full(world)
    async with world.polling(privacy={"billing": "drop"}):
        await world.until(lambda: len(world.events) == 80)
    assert all(b"billing" not in (value or b"") for _, value, _ in world.topics[TOPICS.latest][40:])


async def test_another_setting_has_everything_read_anew_and_publishes_what_differs(tmp_path: Path) -> None:
    """A row that only the new filter shows is found although its time lies behind the cursor."""
    async with Drivly(seed=1, customers=30, authorization=KEY) as crm:
        raw = {
            "url": f"{crm.url}/api",
            "key": {"env": "T_KEY"},
            "interval": "20ms",
            "scan_interval": "50ms",
            "lookback": "1s",
        }
        world = World(tmp_path, "drivly", raw)
        async with world.polling(where={"id": {"less_than_equal": 10}}):
            await world.until(lambda: len(world.latest) == 10)
            await world.scans("sweep", 2)
        async with world.polling():
            await world.until(lambda: len(world.latest) == 30)
            await world.scans("sweep", 2)
            assert world.condition.alarm is None
        assert len(world.events) == 30
        looked_up = [request for request in crm.requests if request.path.startswith("/api/customers/")]
        assert not looked_up, "each one was looked up, though pages show them all"
        world.check()


async def test_a_scan_goes_on_after_a_crash_but_proves_no_absence(world: World, telco: Connect) -> None:
    """What it shows is published; who is missing in it is not counted."""
    async with world.polling():
        await full(world)
    telco.delete(min(telco.customers()))
    for _ in range(6):
        async with world.polling(rate=5, burst=2):
            seen = len(telco.requests)
            await world.until(lambda seen=seen: len(telco.requests) >= seen + 3)  # type: ignore[misc]
    assert world.reasons == {}
    async with world.polling():
        await world.until(lambda: set(world.reasons.values()) == {"gone"})


async def test_an_expired_cursor_starts_the_scan_over(world: World, telco: Connect) -> None:
    """And that scan may prove an absence again."""
    async with world.polling():
        await full(world)
        fault = telco.fault("expired_cursor", times=3)
        await world.until(lambda: fault.hits == 3)
        telco.delete(min(telco.customers()))
        await world.until(lambda: set(world.reasons.values()) == {"gone"})


async def test_a_cursor_that_always_expires_is_said_and_asked_for_less_and_less(
    world: World, telco: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first page, which is read each time, is no end of the trouble: only one beyond where it expired is."""
    pauses: list[int] = []
    monkeypatch.setattr("worker.poller.backoff", lambda failures, _: pauses.append(failures) or 0.01)
    telco.fault("expired_cursor", path="cursor=")
    async with world.polling():
        await world.until(lambda: len(pauses) >= 6)
        telco.clear_faults()
        await world.until(lambda: world.condition.state == "running")
        await full(world)
    told = [value for key, value, _ in world.records(TOPICS.status) if key == "source/it"]
    failing = [value["message"] for value in told if value["state"] == "failing"]
    assert set(failing) == {"it: reading a page of the scan: the cursor was answered 400"}
    assert [state for state, _ in groupby(value["state"] for value in told)].count("failing") == 1
    assert pauses == list(range(1, len(pauses) + 1))


@pytest.mark.parametrize("status", [429, 401])
async def test_no_order_cuts_a_pause_short(
    world: World, telco: Connect, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the API asked for, or a refused credential, is kept to; that the source was paused shows all the same."""
    monkeypatch.setattr("worker.poller._CREDENTIAL_PAUSE", 600)
    telco.fault("status", status=status, headers={"Retry-After": "600"})
    state = "backing off" if status == 429 else "paused: credentials"
    async with world.polling():
        checkpoint = world.source.detector.checkpoint
        await world.until(lambda: world.topics.get(TOPICS.status) and world.status["state"] == state)
        asked = len(telco.requests)
        for paused in ({"who": "ann", "at": "now"}, None, {"who": "bob", "at": "now"}, None):
            await world.source.commit(lambda _, paused=paused: setattr(checkpoint, "paused", paused))
            told = "paused" if paused else state
            await world.until(lambda told=told: world.status["state"] == told)  # type: ignore[misc]
        assert len(telco.requests) == asked


async def test_a_cursor_that_repeats_is_said_and_ends_nothing(world: World, telco: Connect) -> None:
    """The source is failing until the upstream is mended."""
    async with world.polling():
        await full(world)
        telco.fault("repeating_cursor")
        await world.until(lambda: world.condition.state == "failing")
        telco.clear_faults()
        await world.until(lambda: world.condition.state == "running")
    assert world.reasons == {}


async def test_tombstones_and_check_scans_agree(tmp_path: Path) -> None:
    """dintero: deletions are published by their tombstones, once, and the check scan raises no alarm."""
    async with Dintero(seed=1, customers=40, client_id="client", client_secret="secret") as loyalty:
        world = World(tmp_path, "dintero", dintero_settings(loyalty, scan_interval="50ms", lookback="1s"))
        async with world.polling():
            await world.until(lambda: len(world.latest) == len(loyalty.customers()))
            for id_ in sorted(loyalty.customers())[:3]:
                loyalty.delete(id_)
            loyalty.churn(30)
            await world.until(lambda: set(world.latest) == set(loyalty.customers()))
            await world.scans("check", 3)
            assert world.condition.alarm is None
        assert set(world.reasons.values()) == {"tombstone"}
        world.check()


def loyalty_world(folder: Path, loyalty: Dintero, **filters: Any) -> World:
    """Return a source of a simulated dintero, with filters."""
    return World(folder, "dintero", dintero_settings(loyalty, scan_interval="30ms", lookback="0s", **filters))


async def test_users_that_come_along_with_a_contact_are_no_customers_of_another_type(tmp_path: Path) -> None:
    """dintero: they raise no alarm while they are linked, and are not published as deleted afterwards."""
    async with Dintero(seed=1, customers=20, client_id="client", client_secret="secret") as loyalty:
        linked = min(loyalty.customers())
        contacts = {
            loyalty.create({"type": "contact", "email": f"c{number}@example.com", "contact_for": [{"id": linked}]})
            for number in range(4)
        }
        world = loyalty_world(tmp_path, loyalty, type="contact")
        async with world.polling():
            await world.until(lambda: set(world.latest) == contacts)
            await world.scans("check", 3)
            assert world.condition.alarm is None
            for contact in contacts:
                loyalty.update(contact, {"contact_for": []})
            await world.scans("check", 4)
            assert world.condition.alarm is None
        assert set(world.latest) == contacts
        assert world.reasons == {}
        world.check()


async def test_users_that_a_contact_brings_past_a_filter_raise_no_alarm(tmp_path: Path) -> None:
    """dintero: the API's total leaves them out; once they come no more, they wait for a person."""
    async with Dintero(seed=1, customers=20, client_id="client", client_secret="secret") as loyalty:
        linked = min(loyalty.customers())
        contact = loyalty.create({"type": "contact", "email": "shop@example.com", "contact_for": [{"id": linked}]})
        world = loyalty_world(tmp_path, loyalty, email="shop@")
        async with world.polling():
            await world.until(lambda: set(world.latest) == {linked, contact})
            await world.scans("check", 3)
            assert world.condition.alarm is None
            loyalty.update(contact, {"contact_for": []})
            await world.until(lambda: world.source.detector.checkpoint.held)
            assert world.reasons == {}


@pytest.mark.parametrize("odd", ["x" * 256, "two\nlines", "x" * 600_000], ids=["long", "lines", "endless"])
async def test_a_customer_whose_id_cannot_be_used_stops_nobody_else(world: World, telco: Connect, odd: str) -> None:
    """It is set aside and the others are published; once it is gone, all is well."""
    telco.create(id=odd)
    async with world.polling():
        await world.until(lambda: len(world.latest) == 40)
        await world.until(lambda: world.condition.state == "degraded")
        news = telco.create()
        await world.until(lambda: news in world.latest)
        telco.delete(odd)
        await world.until(lambda: world.condition.state == "running")
    assert world.reasons == {}
    letter, settled = world.records(TOPICS.deadletters)
    assert (letter[0], settled[1]) == (settled[0], None)


class Losing(Dintero):
    """A simulated dintero that can lose its customers at the second page of a listing, until they were counted."""

    losing = lost = False
    counted = 0

    def view(self, ask: Ask) -> View:
        """Return the customers that this request can see."""
        if "since_datetime" in ask.query:
            return self.store
        self.lost = self.lost or (self.losing and "starting_after" in ask.query)
        seen = self.store.first(0) if self.lost else self.store
        self.lost = self.lost and "total=true" not in ask.query
        self.counted += "total=true" in ask.query
        return seen


async def test_a_server_that_loses_its_customers_during_a_listing_deletes_nobody(tmp_path: Path) -> None:
    """dintero: that it counts none any more afterwards does not make the listing that was cut a whole one."""
    async with Losing(seed=1, customers=30, client_id="client", client_secret="secret") as loyalty:
        world = loyalty_world(tmp_path, loyalty, page_size=20)
        async with world.polling():
            await world.until(lambda: len(world.latest) == 30)
            await world.scans("check")
            loyalty.losing = True
            said = "the listing showed 20 customers, though the upstream counts 30"
            await world.until(lambda: world.condition.alarm == said)
            loyalty.counted = 0
            await world.until(lambda: loyalty.counted > 8)
            assert world.reasons == {}
            loyalty.losing = False
            await world.until(lambda: world.condition.alarm is None)
        assert len(world.latest) == 30


async def test_who_leaves_a_filter_where_there_is_no_look_up_waits_for_a_person(tmp_path: Path) -> None:
    """dintero: however few are missing, they may live on outside of the filter; a person may know that they do not."""
    async with Dintero(seed=1, customers=0, client_id="client", client_secret="secret") as loyalty:
        ids = [loyalty.create({"email": f"shop.c{number}@example.com"}) for number in range(30)]
        world = loyalty_world(tmp_path, loyalty, email="shop.")
        async with world.polling():
            await world.until(lambda: len(world.latest) == 30)
            await world.scans("check")
            loyalty.update(ids[0], {"email": "private@example.com"})
            await world.until(lambda: world.source.detector.checkpoint.held)
            await world.scans("check", 4)
            held = world.source.detector.checkpoint.held
            assert held is not None
            assert held["missing"] == 1
            said = "1 of 30 customers are missing, or have only left the filter: there is no look-up to tell: held as"
            assert said in (world.condition.alarm or "")
            assert world.reasons == {}
            world.source.detector.checkpoint.approved = held["plan"]
            await world.until(lambda: world.reasons == {ids[0]: "absent"})
            await world.until(lambda: world.condition.alarm is None)
        world.check()


async def test_an_id_that_is_used_again_is_another_customer(tmp_path: Path) -> None:
    """The first one is published as deleted, by the weakest reason, the second one as created; sequences go on."""
    async with Drivly(seed=1, customers=5, authorization=KEY, database="sqlite") as crm:
        raw = {"url": f"{crm.url}/api", "key": {"env": "T_KEY"}, "interval": "20ms", "scan_interval": "50ms"}
        world = World(tmp_path, "drivly", raw)
        async with world.polling():
            await world.until(lambda: len(world.latest) == 5)
        crm.delete(5)
        assert crm.create(at=time.time() + 1) == 5
        async with world.polling():
            await world.until(lambda: len(world.events) == 7)
            await world.scans("sweep", 2)
        ends = [(headers["ce_type"], headers["ce_sequence"]) for _, _, headers in world.events[5:]]
        assert ends == [("customer.deleted", "2"), ("customer.created", "3")]
        assert world.events[5][2]["ce_reason"] == "absent"
        assert len(world.latest) == 5
        world.check()


async def test_checkpoints_of_another_version_are_read_as_far_as_they_are_known(world: World) -> None:
    """A part that only a newer version knows does not keep this one from starting."""
    async with world.polling():
        await full(world)

        def work(tx: Any) -> None:
            raw = orjson.loads(tx.get(b"s/it"))
            tx.put(b"s/it", orjson.dumps({**raw, "invented": 1}))

        await world.task.transact(work)
        world.source.detector._saved = b""
    async with world.polling():
        await full(world)
    assert len(world.events) == 40
