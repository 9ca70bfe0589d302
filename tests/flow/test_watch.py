"""Watch lists, gone round over real HTTP: in turn, within the rate, and nobody is taken for deleted wrongly."""

import gc
import os
from collections import Counter
from collections.abc import AsyncGenerator, Generator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tests.flow.local import TOPICS, World
from worker.errors import UpstreamUnavailableError
from worker.simulator import MyKaarma
from worker.simulator.mykaarma import PATH
from worker.task import Transaction
from worker.watch import FEED

os.environ |= {"T_USER": "rollcall", "T_PASSWORD": "mykaarma-test-password"}


pytestmark = pytest.mark.usefixtures("hurry")


@pytest.fixture
async def dealer() -> AsyncGenerator[MyKaarma]:
    """Give a simulated myKaarma with forty customers."""
    async with MyKaarma(seed=1, customers=40) as simulator:
        yield simulator


@pytest.fixture
def world(dealer: MyKaarma, tmp_path: Path) -> Generator[World]:
    """Give a source of it; in the end each customer's sequences are 1, 2, 3, ..., each once."""
    raw = {
        "url": dealer.url,
        "username": {"env": "T_USER"},
        "password": {"env": "T_PASSWORD"},
        "requester_user_uuid": str(UUID(int=7)),
        "dealer_uuids": dealer.dealers,
        "interval": "10ms",
    }
    made = World(tmp_path, "mykaarma", raw)
    yield made
    made.check()


async def watch(world: World, ids: Sequence[str]) -> None:
    """Put customers on the watch list, as an order does."""

    def work(tx: Transaction) -> None:
        world.source.watch.add(tx, ids)

    await world.source.commit(work)


async def unwatch(world: World, ids: Sequence[str]) -> None:
    """Take customers off the watch list, as an order does."""

    def work(tx: Transaction) -> None:
        for id_ in world.source.watch.remove(tx, ids):
            world.source.detector.unobserve(tx, id_)

    await world.source.commit(work)


async def rounds(world: World, more: int = 1) -> None:
    """Wait until so many more whole rounds have ended, each begun after now."""
    before = world.source.detector.checkpoint.scans.get(FEED, 0)
    await world.until(lambda: world.source.detector.checkpoint.scans.get(FEED, 0) > before + more)


def asked(dealer: MyKaarma, since: int = 0) -> list[str]:
    """Return who was looked up, in order."""
    return [request.path.removeprefix(PATH) for request in list(dealer.requests)[since:]]


async def test_who_is_watched_is_published_and_nobody_else(world: World, dealer: MyKaarma) -> None:
    """A change is found in the next round; orders that move are none."""
    ids = sorted(dealer.customers())[:15]
    async with world.polling():
        await watch(world, ids)
        await world.until(lambda: sorted(world.latest) == ids)
        dealer.update(ids[3], {"company": "Example 7"})
        await world.until(lambda: (world.latest[ids[3]]["company"] or {}).get("name") == "Example 7")
        await rounds(world, 2)
    assert len(world.events) == 16


async def test_each_is_looked_up_in_turn(world: World, dealer: MyKaarma) -> None:
    """Whoever was not seen for longest is next; so after a while everybody was asked for equally often."""
    ids = sorted(dealer.customers())
    async with world.polling():
        await watch(world, ids)
        await rounds(world, 3)
    counts = Counter(asked(dealer))
    assert set(counts) == set(ids)
    assert max(counts.values()) - min(counts.values()) <= 1


async def test_a_successor_goes_on_where_the_round_was(world: World, dealer: MyKaarma, tmp_path: Path) -> None:
    """The part of the round that was done is not done again, although nothing was written for an unchanged customer."""
    ids = sorted(dealer.customers())
    async with world.polling():
        await watch(world, ids)
        await rounds(world)
    async with world.polling(rate=20, burst=16, interval="10ms"):
        seen = len(dealer.requests)
        await world.until(lambda: len(dealer.requests) >= seen + 16)
    first = asked(dealer, seen)
    async with world.polling():
        seen = len(dealer.requests)
        await world.until(lambda: len(dealer.requests) > seen)  # it knows the rounds that were
        await rounds(world)
    rest = asked(dealer, seen)
    begun = (ids.index(rest[0]) - ids.index(first[0])) % len(ids)
    assert 0 < begun <= len(first)


async def test_unchanged_customers_write_nothing(world: World, dealer: MyKaarma) -> None:
    """However many rounds there are."""
    async with world.polling():
        await watch(world, sorted(dealer.customers()))
        await rounds(world, 2)
        told = {"state": "running", "live": 40, "watched": 40, "not_looked_up": 0}
        await world.until(lambda: told.items() <= world.status.items())
        before = world.task.transactions
        await rounds(world, 4)
        assert world.task.transactions == before


async def test_new_ones_are_looked_up_first(world: World, dealer: MyKaarma) -> None:
    """Before the round goes on."""
    ids = sorted(dealer.customers())
    async with world.polling():
        await watch(world, ids[:30])
        await rounds(world)
        seen = len(dealer.requests)
        await watch(world, ids[30:])
        await world.until(lambda: len(world.latest) == 40)
        positions = [asked(dealer, seen).index(id_) for id_ in ids[30:]]
    assert max(positions) < 16 + 10


async def test_a_customer_that_is_not_found_in_two_rounds_is_absent(world: World, dealer: MyKaarma) -> None:
    """Never `gone`: the same answer may mean that we may not see it. A return is another life of the same customer."""
    ids = sorted(dealer.customers())
    async with world.polling():
        await watch(world, ids)
        await world.until(lambda: len(world.latest) == 40)
        dealer.delete(ids[5])
        await world.until(lambda: world.reasons == {ids[5]: "absent"})
        dealer.create(id=ids[5])
        await world.until(lambda: len(world.latest) == 40)
    sequences = [headers["ce_sequence"] for key, _, headers in world.events if key.endswith(ids[5])]
    assert sequences == ["1", "2", "3"]


async def test_a_round_is_concluded_a_part_at_a_time(
    world: World, dealer: MyKaarma, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every part of those who are missing is published, and nobody else."""
    monkeypatch.setattr("worker.absence._LOOKUPS_A_TRANSACTION", 2)
    ids = sorted(dealer.customers())
    async with world.polling():
        await watch(world, ids)
        await world.until(lambda: len(world.latest) == 40)
        for id_ in ids[5:10]:
            dealer.delete(id_)
        await world.until(lambda: len(world.reasons) == 5)
        await rounds(world)
    assert world.reasons == dict.fromkeys(ids[5:10], "absent")


async def test_a_customer_that_was_missed_once_is_not_absent(world: World, dealer: MyKaarma) -> None:
    """Only two rounds in a row count."""
    ids = sorted(dealer.customers())
    async with world.polling():
        await watch(world, ids)
        await world.until(lambda: len(world.latest) == 40)
        for _ in range(3):
            fault = dealer.fault("status", status=204, body="", path=ids[5], times=1)
            await world.until(lambda fault=fault: fault.hits)  # type: ignore[misc]
            await rounds(world, 2)
    assert world.reasons == {}


async def test_a_revoked_requester_deletes_nobody(world: World, dealer: MyKaarma) -> None:
    """It gets 204 for all: an alarm, and when the right is back everything goes on."""
    async with world.polling():
        await watch(world, sorted(dealer.customers()))
        await world.until(lambda: len(world.latest) == 40)
        for id_ in dealer.customers():
            dealer.hide(id_)
        await world.until(lambda: "no look-up finds anybody" in (world.condition.alarm or ""))
        seen = len(dealer.requests)
        await world.until(lambda: len(dealer.requests) > seen + 200)
        for id_ in dealer.customers():
            dealer.hide(id_, hidden=False)
        await world.until(lambda: world.condition.alarm is None)
    assert world.reasons == {}
    assert len(world.events) == 40


async def test_a_new_requester_who_sees_nobody_is_an_alarm(world: World, dealer: MyKaarma) -> None:
    """Nobody was seen under the new one yet, and nobody is taken for deleted."""
    async with world.polling():
        await watch(world, sorted(dealer.customers()))
        await world.until(lambda: len(world.latest) == 40)
    for id_ in dealer.customers():
        dealer.hide(id_)
    async with world.polling(requester_user_uuid=str(UUID(int=8))):
        await world.until(lambda: "no look-up finds anybody" in (world.condition.alarm or ""))
    assert len(world.events) == 40


async def test_who_is_not_found_by_a_new_requester_waits_for_a_person(world: World, dealer: MyKaarma) -> None:
    """It may be gone, or not in the new one's sight: that is said, and an approved plan counts it as missing."""
    ids = sorted(dealer.customers())
    async with world.polling():
        await watch(world, ids)
        await world.until(lambda: len(world.latest) == 40)
    dealer.delete(ids[5])
    async with world.polling(requester_user_uuid=str(UUID(int=8))):
        unobserved = await world.until(lambda: world.source.detector.checkpoint.unobserved)
        assert unobserved["customers"] == 1
        assert "1 customers are not seen under the present filter" in (world.condition.alarm or "")
        await rounds(world, 3)
        assert world.reasons == {}
        world.source.detector.checkpoint.approved = unobserved["plan"]
        await world.until(lambda: world.reasons == {ids[5]: "absent"})
        await world.until(lambda: world.condition.alarm is None)


async def test_many_missing_at_once_are_held(world: World, dealer: MyKaarma) -> None:
    """A dealer that is taken away looks like this; who approves the plan says that it is true."""
    ids = sorted(dealer.customers())
    async with world.polling():
        await watch(world, ids)
        await world.until(lambda: len(world.latest) == 40)
        for id_ in ids[:15]:
            dealer.hide(id_)
        held = await world.until(lambda: world.source.detector.checkpoint.held)
        assert (held["missing"], held["live"]) == (15, 40)
        await rounds(world, 3)
        assert world.reasons == {}
        world.source.detector.checkpoint.approved = held["plan"]
        await world.until(lambda: len(world.reasons) == 15)
        assert world.condition.alarm is None
    assert set(world.reasons) == set(ids[:15])


async def test_errors_are_no_deletion(world: World, dealer: MyKaarma) -> None:
    """A 200 that carries errors instead of data proves nothing, and neither does a 500."""
    async with world.polling():
        await watch(world, sorted(dealer.customers()))
        await world.until(lambda: len(world.latest) == 40)
        dealer.fault("errors")
        await rounds(world, 3)
        dealer.clear_faults()
        fault = dealer.fault("status", status=500)
        await world.until(lambda: world.condition.state == "circuit open" and fault.hits > 5)
        dealer.clear_faults()
        await world.until(lambda: world.condition.state == "running")
        await rounds(world, 2)
    assert world.reasons == {}


async def test_errors_beside_a_part_of_a_customer_take_nothing_from_him(world: World, dealer: MyKaarma) -> None:
    """It is set aside and stays published as it was, until it is answered whole."""
    ids = sorted(dealer.customers())[:8]
    async with world.polling():
        await watch(world, ids)
        await world.until(lambda: len(world.latest) == 8)
        fault = dealer.fault("errors", with_data=True, path=ids[0])
        await world.until(lambda: world.status["set_aside"] == 1)
        await rounds(world, 2)
        dealer.clear_faults()
        await world.until(lambda: world.status["set_aside"] == 0)
    assert fault.hits > 2
    assert len(world.events) == 8


async def test_one_look_up_that_always_fails_stops_nobody_else(world: World, dealer: MyKaarma) -> None:
    """The rounds go on, and it is not taken for deleted."""
    ids = sorted(dealer.customers())
    async with world.polling():
        await watch(world, ids)
        await world.until(lambda: len(world.latest) == 40)
        dealer.fault("status", status=500, path=ids[20])
        await rounds(world, 2)
        dealer.update(ids[39], {"company": "Example 8"})
        await world.until(lambda: (world.latest[ids[39]]["company"] or {}).get("name") == "Example 8")
    assert world.reasons == {}


@pytest.mark.parametrize("many", [1, 8])
async def test_look_ups_that_fail_before_anybody_else_is_asked_stop_nobody_else(
    world: World, dealer: MyKaarma, many: int
) -> None:
    """Who was just added is looked up first, and together: none of the others is answered meanwhile."""
    ids = sorted(dealer.customers())
    async with world.polling():
        await watch(world, ids)
        await world.until(lambda: len(world.latest) == 40)
        for id_ in ids[:many]:
            dealer.fault("status", status=500, path=id_)

        def add_again(tx: Transaction) -> None:
            world.source.watch.remove(tx, ids[:many])
            world.source.watch.add(tx, ids[:many])

        await world.source.commit(add_again)
        await rounds(world, 2)
        await world.until(lambda: len(world.records(TOPICS.deadletters)) == many)
    assert world.reasons == {}


async def test_who_is_met_by_429_is_not_given_up(world: World, dealer: MyKaarma) -> None:
    """It says that we ask too often, and nothing about the customer."""
    async with world.polling():
        await watch(world, sorted(dealer.customers()))
        await world.until(lambda: len(world.latest) == 40)
        fault = dealer.fault("retry_later", status=429, seconds=0, probability=0.5)
        await world.until(lambda: fault.hits > 100)
    assert world.records(TOPICS.deadletters) == []


async def test_a_look_up_that_proves_nothing_sets_the_customer_aside(world: World, dealer: MyKaarma) -> None:
    """Once, however often it is made; the others go on, and it is taken back when it can be read or is not there."""
    ids = sorted(dealer.customers())
    reading = dealer.fault("status", status=400, body="{}", path=ids[20])
    dealer.fault("errors", path=ids[21])
    dealer.fault("status", status=400, body="{}", path=ids[22])
    async with world.polling():
        await watch(world, ids)
        await world.until(lambda: len(world.latest) == 37)
        await world.until(lambda: world.status["state"] == "degraded")
        await rounds(world, 2)
        assert world.status["set_aside"] == 3
        letters = {key: value for key, value, _ in world.records(TOPICS.deadletters)}
        assert set(letters) == {f"it/{id_}" for id_ in ids[20:23]}
        assert len(world.records(TOPICS.deadletters)) == 3
        letter = letters[f"it/{ids[20]}"]
        assert letter["reason"] == "the look-up was answered 400 without a customer"
        assert (letter["path"], letter["status"], letter["size"]) == (f"{PATH}{ids[20]}", 400, 2)
        dealer.delete(ids[0])
        await world.until(lambda: world.reasons == {ids[0]: "absent"})
        dealer.clear_faults()
        dealer.fault("status", status=204, body="", path=ids[20])
        dealer.fault("status", status=400, body="{}", path=ids[22])
        await world.until(lambda: world.status["set_aside"] == 1)
        await unwatch(world, [ids[22]])
        await world.until(lambda: world.status["set_aside"] == 0 and world.status["state"] == "running")
    assert reading.hits > 2
    assert set(world.latest) == set(ids[1:]) - {ids[20], ids[22]}


async def test_look_ups_that_fail_leave_nothing_behind(
    world: World, dealer: MyKaarma, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither errors nor views of the store, of which there may be few, although the collector seldom looks for any."""
    monkeypatch.setattr("worker.breaker._PAUSE", (0.001, 0.002))
    ids = sorted(dealer.customers())[:8]
    async with world.polling():
        await watch(world, ids)
        await world.until(lambda: len(world.latest) == 8)
        gc.collect()
        gc.disable()
        try:
            fault = dealer.fault("status", status=500)
            await world.until(lambda: fault.hits >= 40 * len(ids))
            left = sum(isinstance(found, UpstreamUnavailableError) for found in gc.get_objects())
        finally:
            gc.enable()
        dealer.clear_faults()
        await rounds(world)
    assert left < 2 * len(ids)


async def test_a_round_of_two_owners_proves_nothing(world: World, dealer: MyKaarma) -> None:
    """Only whole rounds of one owner count, however often owners change."""
    ids = sorted(dealer.customers())
    async with world.polling():
        await watch(world, ids)
        await world.until(lambda: len(world.latest) == 40)
    dealer.delete(ids[39])
    for _ in range(4):
        async with world.polling(rate=20, burst=16):
            seen = len(dealer.requests)
            await world.until(lambda seen=seen: len(dealer.requests) > seen + 20)  # type: ignore[misc]
    assert world.reasons == {}
    async with world.polling():
        await world.until(lambda: world.reasons == {ids[39]: "absent"})


async def test_secondary_customers_are_watched_where_that_is_configured(world: World, dealer: MyKaarma) -> None:
    """One that an operator removed is not taken up again by itself."""
    one, other = sorted(dealer.customers())[:2]
    dealer.update(one, {"secondaryCustomerData": [{"fname": "A", "guid": other}]})
    async with world.polling():
        await watch(world, [one])
        await rounds(world)
        assert set(world.latest) == {one}
    async with world.polling(follow_secondary=True):
        await world.until(lambda: set(world.latest) == {one, other})
        await world.source.commit(lambda tx: world.source.watch.remove(tx, [other]))
        seen = len(dealer.requests)
        await rounds(world, 3)
        assert other not in asked(dealer, seen)[8:]
    assert set(world.latest) == {one, other}


async def test_who_is_removed_from_the_list_is_not_taken_for_absent(world: World, dealer: MyKaarma) -> None:
    """It stays as it was published, also when it is deleted later."""
    ids = sorted(dealer.customers())[:12]
    async with world.polling():
        await watch(world, ids)
        await world.until(lambda: len(world.latest) == 12)
        await unwatch(world, ids[:2])
        dealer.delete(ids[0])
        await rounds(world, 3)
    assert sorted(world.latest) == ids
    assert world.status["watched"] == 10


async def test_who_is_removed_after_the_round_did_not_find_him_is_no_alarm(world: World, dealer: MyKaarma) -> None:
    """Only those who are still watched count as not seen."""
    ids = sorted(dealer.customers())[:12]
    async with world.polling():
        await watch(world, ids)
        await world.until(lambda: len(world.latest) == 12)
        slow = dealer.fault("latency", seconds=1, path=ids[11], times=2)  # the second eight wait for it
        dealer.delete(ids[0])

        def missed() -> bool:
            with world.task.store.reading() as state:
                return state.marked(f"it/{FEED}/{ids[0]}".encode())

        await world.until(missed)
        await unwatch(world, ids[:1])
        assert missed()
        await rounds(world)
        assert slow.hits
    assert {value["alarm"] for _, value, _ in world.records(TOPICS.status)} == {None}


async def test_who_is_watched_again_and_is_gone_waits_for_a_person(world: World, dealer: MyKaarma) -> None:
    """Nobody looked at it meanwhile, so that it is not found proves nothing; but that is said."""
    ids = sorted(dealer.customers())[:12]
    async with world.polling():
        await watch(world, ids)
        await world.until(lambda: len(world.latest) == 12)
        await unwatch(world, ids[:1])
        await rounds(world)  # or an answer that was under way would still be heard: then it was seen
        dealer.delete(ids[0])
        await watch(world, ids[:1])
        unobserved = await world.until(lambda: world.source.detector.checkpoint.unobserved)
    assert unobserved["customers"] == 1
    assert world.reasons == {}


async def test_another_credential_is_taken_up_while_it_runs(world: World, dealer: MyKaarma, tmp_path: Path) -> None:
    """A wrong password pauses the source and says so; the file with the right one is read again."""
    secret = tmp_path / "password"
    secret.write_text("wrong")
    settings: dict[str, Any] = {"password": {"file": str(secret)}}
    async with world.polling(**settings):
        await watch(world, sorted(dealer.customers()))
        await world.until(lambda: world.condition.state == "paused: credentials")
        secret.write_text("mykaarma-test-password\n")
        await world.until(lambda: len(world.latest) == 40)
        await world.until(lambda: world.condition.state == "running")
        dealer.password = "another"
        await world.until(lambda: world.condition.state == "paused: credentials")
        secret.write_text("another")
        await world.until(lambda: world.condition.state == "running")
        await rounds(world, 2)
    assert len(world.events) == 40
