"""The poll loop against a real API: nothing is lost, nothing comes twice, and nobody is taken for deleted wrongly."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from structlog.testing import capture_logs

from tests.flow.local import TOPICS
from tests.flow.poll_world import KEY, World, world
from tests.waiting import until
from worker import absence, poller, telemetry, upstream
from worker.absence import Enumeration
from worker.errors import UpstreamUnavailableError
from worker.events import CREATED, DELETED, UPDATED
from worker.orders import order
from worker.simulator.drivly import Drivly as Upstream
from worker.sources import Bad, Cursor, Feed, Moment, Page, Response
from worker.sources.drivly import Drivly

SWEEP = "select"
SWEEP_LATER = "select.*greater_than"
SWEEP_FIRST = "select(?!.*greater_than)"
LAST_PAGE = r"select.*greater_than(\]|%5D)=9\b"  # of twelve customers
CHANGES = "sort=updatedAt"
LOOKUP = r"/customers/\d+"
pytestmark = pytest.mark.usefixtures("hurry")


def created(crm: Upstream) -> bool:
    """Make a customer upstream; return False."""
    crm.create()
    return False


def churned(crm: Upstream) -> bool:
    """Change something upstream; return False."""
    crm.churn(1)
    return False


@pytest.fixture
async def here(tmp_path: Path) -> AsyncGenerator[World]:
    """Give an empty world."""
    async with world(tmp_path) as made:
        yield made


# What changes


async def test_what_is_there_at_the_start_is_published_once(here: World) -> None:
    """Page by page, as created; the sweep waits, or it would look everybody up, one by one."""
    crm = await here.add(customers=10)
    for number in range(10, 0, -1):
        crm.update(number)
    here.start()
    await here.settled()
    await here.swept_once()
    assert sorted(here.log.events()) == sorted((f"crm/{number}", CREATED, 1) for number in range(1, 11))
    assert not [request for request in crm.requests if request.path.count("/") > 2]


async def test_an_unchanged_upstream_writes_nothing_to_kafka(here: World) -> None:
    """However often it is asked: pages, sweeps and status are not worth a transaction."""
    crm = await here.add()
    here.start()
    await here.settled()
    await here.state("running")
    await until(lambda: here.status()["live"] == 7, "the count to be told")
    await here.swept(2)
    before, asked = here.task.transactions, sum(crm.counts.values())
    await here.swept(5)
    assert sum(crm.counts.values()) >= asked + 20
    assert here.task.transactions == before


async def test_whatever_happens_upstream_is_published(here: World) -> None:
    """Creations, updates and deletions, mixed, until the table is what the upstream has."""
    crm = await here.add(customers=12)
    here.start()
    await here.settled()
    for _ in range(8):
        crm.churn(5)
        await here.swept(1)
    await here.settled()
    assert {type_ for _, type_, _ in here.log.events()} == {CREATED, UPDATED, DELETED}


async def test_a_bulk_update_with_one_stamp_is_read_across_pages(here: World) -> None:
    """Ten rows share a time, a page holds three."""
    crm = await here.add(customers=12)
    here.start()
    await here.settled()
    crm.bulk_update(range(2, 12), {"consumerStatus": "SOLD"})
    await here.settled()
    assert [type_ for _, type_, _ in here.log.events()].count(UPDATED) == 10


async def test_a_row_that_becomes_visible_late_is_found(here: World) -> None:
    """Though the head has passed its stamp, and no sweep looks."""
    crm = await here.add(scan_interval=3600)
    here.start()
    await here.settled()
    await here.swept_once()
    late = crm.create(visible_after=0.4)
    crm.update(3)
    await until(lambda: str(late) in crm.customers(), "it to become visible")
    await here.settled()
    assert [key for key, _, _ in here.log.events()[-2:]] == ["crm/3", f"crm/{late}"], "the head has passed it"


async def test_a_row_that_is_written_with_a_time_in_the_past_is_found(here: World) -> None:
    """By the sweep: neither head nor tail looks there again."""
    crm = await here.add()
    here.start()
    await here.settled()
    await here.followed()
    number = crm.create(at=crm.now() - 86_400)
    await here.settled()
    assert here.lookups(number)


async def test_an_update_with_a_time_in_the_past_is_found(here: World) -> None:
    """The sweep sees that the time is another one."""
    crm = await here.add()
    here.start()
    await here.settled()
    await here.followed()
    offset, crm.clock_offset = crm.clock_offset, -86_400.0
    crm.update(3, {"consumerStatus": "SOLD"})
    crm.clock_offset = offset
    await here.settled()


async def test_a_re_created_customer_goes_on_with_its_sequence(here: World) -> None:
    """The id is the same, and so is the count."""
    crm = await here.add()
    here.start()
    await here.settled()
    crm.delete(3)
    await here.settled()
    crm.create(id=3)
    await here.settled()
    mine = [(type_, sequence) for key, type_, sequence in here.log.events() if key == "crm/3"]
    assert mine == [(CREATED, 1), (DELETED, 2), (CREATED, 3)]


async def test_an_id_that_was_given_to_another_customer_ends_the_first_ones_life(here: World) -> None:
    """On SQLite the highest id is used again: whoever has it now was created later than all that is known of it."""
    crm = await here.add()
    crm.reuse_ids = True
    here.start()
    await here.settled()
    crm.delete(7)
    assert crm.create() == 7
    await here.settled()
    mine = [(type_, sequence) for key, type_, sequence in here.log.events() if key == "crm/7"]
    assert mine == [(CREATED, 1), (DELETED, 2), (CREATED, 3)]


async def test_a_time_of_creation_that_is_corrected_deletes_nobody(here: World) -> None:
    """Whether of one or, as after an import that was mended, of all."""
    crm = await here.add(customers=40)
    here.start()
    await here.settled()
    crm.bulk_update(range(1, 41), {"createdAt": "2020-01-01T00:00:00.000Z"})
    await here.settled()
    assert Counter(type_ for _, type_, _ in here.log.events()) == {CREATED: 40, UPDATED: 40}


# Who is gone


async def test_a_deletion_needs_two_sweeps_and_a_look_up_between_two_canaries(here: World) -> None:
    """And is published as `gone`."""
    crm = await here.add()
    here.start()
    await here.settled()
    await here.swept(1)
    before = len(crm.requests)
    crm.delete(3)
    await until(here.deleted, "the deletion")
    assert here.deleted() == ["3"]
    asked = list(crm.requests)[before:]
    assert here.sweeps(since=before) >= 2
    found = [(request.path.rpartition("/")[2], request.status) for request in asked if request.path.count("/") == 3]
    place = found.index(("3", 404))
    assert found[place - 1][1] == found[place + 1][1] == 200
    assert found[place - 1][0] != "3"


async def test_an_empty_listing_deletes_nobody(here: World) -> None:
    """A revoked key may show nothing, with a 200: this is an alarm, and over when the key is good again."""
    crm = await here.add(auth="filter")
    here.start()
    await here.settled()
    crm.authorization = "another"
    await here.alarm("the listing is empty")
    await here.swept(4)
    assert here.deleted() == []
    crm.authorization = KEY
    await until(lambda: here.status().get("alarm") is None, "the alarm to be over")
    assert len(here.log.events()) == 7


async def test_a_short_listing_deletes_nobody(here: World) -> None:
    """Whoever it leaves out is found by look-up."""
    crm = await here.add(customers=9)
    here.start()
    await here.settled()
    crm.fault("short", keep=4, path=SWEEP)
    await until(lambda: len(here.lookups(9)) > 2, "those who are missing to be looked up")
    assert here.deleted() == []


async def test_a_listing_that_ends_before_its_total_concludes_nothing(here: World) -> None:
    """The upstream counts nine and shows four."""
    crm = await here.add(customers=9)
    here.start()
    await here.settled()
    await here.swept(1)
    crm.fault("empty", path=SWEEP_LATER)
    await here.alarm("though the upstream counts 9")
    await here.swept(3)
    assert here.deleted() == []
    assert not here.lookups(9)
    crm.clear_faults()
    await until(lambda: here.status().get("alarm") is None, "the alarm to be over")


async def test_a_mass_deletion_is_held_as_one_plan(here: World) -> None:
    """The same customers are the same plan, sweep after sweep, and over a restart; others are another one."""
    crm = await here.add(customers=9, absence_guard_count=3, absence_guard_fraction=0.1)
    here.start()
    await here.settled()
    for number in range(1, 5):
        crm.delete(number)
    await here.alarm("4 of 9 customers are missing")
    plan = here.status()["held"]["plan"]
    await here.swept(3)
    await here.stop()
    here.start()
    await here.swept(3)
    assert here.status()["held"] == {"plan": plan, "missing": 4, "live": 9}
    assert here.deleted() == []
    crm.delete(5)
    await here.alarm("5 of 9 customers are missing")
    assert here.status()["held"]["plan"] != plan
    assert here.deleted() == []


async def test_a_mass_deletion_that_was_approved_is_carried_out_once(here: World) -> None:
    """The approval is for these customers, this time: when they return and go again, it is asked for again."""
    crm = await here.add(customers=9, absence_guard_count=3, absence_guard_fraction=0.1)
    here.start()
    await here.settled()
    for _ in range(2):
        for number in range(1, 5):
            crm.delete(number)
        await until(lambda: (here.status().get("held") or {}).get("missing") == 4, "the plan")
        assert here.status()["live"] == 9
        here.detectors["crm"].checkpoint.approved = here.status()["held"]["plan"]
        await here.settled()
        for number in range(1, 5):
            crm.create(id=number)
        await here.settled()


async def test_an_approval_lets_no_other_plan_pass(here: World) -> None:
    """Others have gone missing since the plan was shown: nobody has approved of those."""
    crm = await here.add(customers=12, absence_guard_count=3, absence_guard_fraction=0.1)
    here.start()
    await here.settled()
    plans = []
    for gone in (4, 8):
        for number in range(gone - 3, gone + 1):
            crm.delete(number)
        await until(lambda gone=gone: (here.status().get("held") or {}).get("missing") == gone, "the plan")  # type: ignore[misc]
        plans.append(here.status()["held"]["plan"])
    here.detectors["crm"].checkpoint.approved = plans[0]
    await here.swept(3)
    assert here.deleted() == []
    assert here.status()["held"]["plan"] == plans[1]


def held(here: World) -> set[tuple[str, int]]:
    """Return every plan that was held, each with how many were missing."""
    said = (orjson.loads(value or b"{}").get("held") for _, value, _ in here.log.topics[TOPICS.status])
    return {(plan["plan"], plan["missing"]) for plan in said if plan is not None}


@pytest.mark.parametrize("trouble", [503, 429, "killed"])
async def test_an_approved_plan_is_carried_out_whatever_comes_between(
    here: World, monkeypatch: pytest.MonkeyPatch, trouble: int | str
) -> None:
    """What is left of it stays approved, over a look-up that fails and over a restart: nobody is asked again."""
    monkeypatch.setattr(absence, "_LOOKUPS_A_TRANSACTION", 3)
    crm = await here.add(customers=12, absence_guard_count=3, absence_guard_fraction=0.1)
    here.start()
    await here.settled()
    for number in range(1, 9):
        crm.delete(number)
    await until(lambda: (here.status().get("held") or {}).get("missing") == 8, "the plan")
    if trouble == "killed":
        crm.fault("latency", seconds=5, path="/customers/5", times=1)
    else:
        crm.fault("status", status=trouble, path="/customers/5", times=1)
    before = held(here)
    here.detectors["crm"].checkpoint.approved = here.status()["held"]["plan"]
    if trouble == "killed":
        await until(lambda: len(here.deleted()) == 3, "a part of it")
        await here.kill()
        here.start()
    await here.settled()
    await here.swept(2)
    assert held(here) == before
    assert here.detectors["crm"].checkpoint.approved is None


async def test_a_pause_ends_the_look_ups_of_who_is_missing(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one under way is the last; nobody more is published as gone, and what was read before proves nothing."""
    monkeypatch.setattr(poller, "_IDLE", 0.02)
    crm = await slowly_missed(here)
    await until(lambda: here.lookups(5), "look-ups of who is missing")
    asked = await paused(here)
    crm.clear_faults()
    here.detectors["crm"].checkpoint.paused = None
    await here.settled()
    again = [
        request for request in list(crm.requests)[asked:] if request.path.count("/") > 2 or "select" in request.query
    ]
    assert "select" in again[0].query


async def test_a_pause_ends_the_look_ups_of_a_page(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those whom it only names; it is read again afterwards."""
    monkeypatch.setattr(poller, "_IDLE", 0.02)
    crm = await here.add(customers=30, page_size=30, interval=60)
    here.start()
    await here.settled()
    crm.fault("latency", seconds=0.05, path=LOOKUP)
    for number in range(1, 31):
        crm.update(number)
    await until(lambda: here.lookups(5), "look-ups of who was named")
    await paused(here)
    crm.clear_faults()
    here.detectors["crm"].checkpoint.paused = None
    await here.settled()


async def test_a_pause_ends_the_look_ups_that_were_ordered(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is not looked up yet is when it is resumed, and every order is answered."""
    monkeypatch.setattr(poller, "_IDLE", 0.02)
    crm = await here.add(scan_interval=60)
    here.start()
    await here.settled()
    await here.swept_once()
    crm.fault("latency", seconds=0.5, path=LOOKUP)
    given = [{**order(str(number), "look up", "crm", who="ann", at=0), "ids": []} for number in range(1, 6)]
    here.detectors["crm"].checkpoint.wanted += [[one, one["id"]] for one in given]
    await until(lambda: here.lookups(2), "the second look-up")
    await paused(here)
    assert not here.lookups(5)
    here.detectors["crm"].checkpoint.paused = None
    answered = {f"command/{number}" for number in range(1, 6)}
    await until(lambda: here.log.table(TOPICS.status).keys() >= answered, "the answers")


async def slowly_missed(here: World) -> Upstream:
    """Have thirty of forty customers missing, at a source that is slow to look them up; return it."""
    crm = await here.add(customers=40, absence_guard_count=40)
    here.start()
    await here.settled()
    crm.fault("latency", seconds=0.05, path=LOOKUP)
    for number in range(1, 31):
        crm.delete(number)
    return crm


async def paused(here: World) -> int:
    """Pause the source, and see that it is asked nothing from then on; return how often it was asked in all."""
    crm = here.upstreams["crm"]
    here.detectors["crm"].checkpoint.paused = {"who": "ann", "at": "2025-01-31T12:00:00Z"}
    asked, gone = len(crm.requests), here.deleted()
    await here.state("paused")
    await asyncio.sleep(0.3)
    assert len(crm.requests) <= asked + 1
    assert here.deleted() == gone
    return len(crm.requests)


@pytest.mark.parametrize(("bound", "value"), [("_LOOKUPS_A_TRANSACTION", 3), ("_TURN_SECONDS", 0.1)])
async def test_a_conclusion_holds_up_neither_changes_nor_the_status(
    here: World, monkeypatch: pytest.MonkeyPatch, bound: str, value: float
) -> None:
    """However many have to be looked up, and however slowly: it is done a part at a time."""
    monkeypatch.setattr(absence, bound, value)
    monkeypatch.setattr("worker.status._COUNTS_SECONDS", 0.05)
    crm = await slowly_missed(here)
    await until(here.deleted, "the first deletion")
    crm.create(id=77)
    await until(lambda: "crm/77" in here.latest() and here.status()["live"] < 40, "the change, and a status")
    assert len(here.deleted()) < 20
    crm.clear_faults()
    await here.settled()


async def test_a_sweep_is_tallied_once(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where what follows has to be tried again: whom it has shown would be counted on top of the living."""
    tally, count = absence.Absence._tally, poller.Source._count
    tallied: list[Enumeration] = []
    failed: list[Feed] = []

    async def tallying(self: absence.Absence, scan: Enumeration) -> None:
        tallied.append(scan)
        await tally(self, scan)

    async def failing(self: poller.Source, feed: Feed) -> int | None:
        if len(failed) < 2:
            failed.append(feed)
            message = "no answer"
            raise UpstreamUnavailableError(message)
        return await count(self, feed)

    monkeypatch.setattr(absence.Absence, "_tally", tallying)
    monkeypatch.setattr(poller.Source, "_count", failing)
    crm = await here.add(customers=9)
    here.start()
    await here.settled()
    crm.fault("empty", path=SWEEP_LATER)
    await here.alarm("though the upstream counts 9")
    assert len(failed) == 2
    assert len(tallied) == len({id(scan) for scan in tallied})


async def test_look_ups_that_find_nobody_prove_nothing(here: World) -> None:
    """Where even a customer of the listing is not found, the look-up is what is broken."""
    crm = await here.add()
    here.start()
    await here.settled()
    crm.fault("status", status=404, path=LOOKUP)
    crm.delete(3)
    await here.alarm("not found by look-up")
    await here.swept(3)
    assert here.deleted() == []
    crm.clear_faults()
    await until(lambda: here.deleted() == ["3"], "the deletion")


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status", "status": 404, "body": "<html>not found</html>"},
        {"kind": "status", "status": 404, "body": '{"message":"Route not found"}'},
        {"kind": "status", "status": 500},
        {"kind": "html"},
        {"kind": "redirect"},
        {"kind": "cut"},
    ],
    ids=lambda fault: f"{fault['kind']} {fault.get('status', '')} {fault.get('body', '')}"[:20],
)
async def test_only_the_apis_own_404_says_that_somebody_is_gone(here: World, fault: dict[str, Any]) -> None:
    """Anything else leaves the customer missing, until the look-up works again."""
    crm = await here.add()
    here.start()
    await here.settled()
    settings = {name: value for name, value in fault.items() if name != "kind"}
    crm.fault(fault["kind"], path="/customers/3", **settings)
    crm.delete(3)
    await until(lambda: len(here.lookups(3)) >= 4, "four look-ups")
    assert here.deleted() == []
    crm.clear_faults()
    await until(lambda: here.deleted() == ["3"], "the deletion")


async def test_a_look_up_that_fails_does_not_count_a_miss_twice(here: World) -> None:
    """However often the look-ups after a sweep are repeated, it is one sweep."""
    crm = await here.add(scan_interval=1)
    here.start()
    await here.settled()
    failing = crm.fault("status", status=503, path="/customers/5")
    crm.delete(5)
    await until(lambda: here.missed(5) == 1, "the first to be missed once")
    before = len(crm.requests)
    crm.delete(2)
    await until(lambda: failing.hits >= 3, "look-ups of the first")
    crm.clear_faults()
    await until(lambda: "2" in here.deleted(), "the deletion of the second")
    assert here.sweeps(since=before) >= 2


async def test_deletions_while_the_listing_is_read_are_found(here: World) -> None:
    """They are in its total and not on its pages: no alarm, and no waiting for a quiet hour."""
    crm = await here.add(customers=24)
    here.start()
    await here.settled()
    await here.swept(1)
    for number in range(24, 14, -1):
        before = len(crm.requests)
        await until(lambda before=before: here.sweeping(since=before), "a sweep under way")  # type: ignore[misc]
        crm.delete(number)
        await here.swept(1)
    await here.settled()
    assert here.alarms() == {None}


# Trouble


@pytest.mark.parametrize("kind", ["html", "truncated", "missing_ids", "nan", "redirect", "deep"])
async def test_a_page_that_cannot_be_read_never_moves_the_checkpoint(here: World, kind: str) -> None:
    """The source says that it is failing, and goes on where it was when the page is good again."""
    crm = await here.add(scan_interval=3600)
    here.start()
    await here.settled()
    await here.swept_once()
    crm.fault(kind, path=CHANGES)
    await here.state("failing")
    ids = [crm.create() for _ in range(5)]
    asked = len(crm.requests)
    await until(lambda: len(crm.requests) > asked + 3, "more tries")
    assert not [key for key in here.latest() if key in {f"crm/{number}" for number in ids}]
    crm.clear_faults()
    await here.settled()
    await here.state("running")


@pytest.mark.parametrize("kind", ["status", "cut", "drop"])
async def test_a_page_that_fails_in_the_middle_of_a_sweep_is_asked_for_again(here: World, kind: str) -> None:
    """Nobody is taken for missing because of it, and who is gone is found."""
    crm = await here.add(customers=12)
    here.start()
    await here.settled()
    crm.fault(kind, path=SWEEP_LATER, probability=0.5)
    crm.delete(11)
    await here.settled()
    crm.clear_faults()
    await here.settled()
    assert here.deleted() == ["11"]


async def test_a_sweep_with_a_page_that_could_not_be_read_proves_nothing(here: World) -> None:
    """It is read to its end, and whom it does not show is not missed; the next two have to be whole."""
    crm = await here.add(customers=12)
    here.start()
    await here.settled()
    page = crm.fault("html", path=SWEEP_LATER, skip=1)
    await until(lambda: page.hits, "the page")
    crm.delete(11)
    crm.create()  # so that it shows as many as there were
    crm.clear_faults()
    before = len(crm.requests)
    following = crm.fault("status", status=503, path=SWEEP_FIRST)
    await until(lambda: following.hits, "the sweep to be over and the next one to begin")
    assert here.missed(11) == 0
    crm.clear_faults()
    await here.settled()
    assert here.sweeps(since=before) >= 2


async def test_a_sweep_that_shows_a_record_without_a_usable_id_proves_nothing(here: World) -> None:
    """It may be anybody's: as many as there should be are shown, and yet one of them is missing by its id."""
    odd = {"3"}

    class Odd(Drivly):
        def read(self, feed: str, cursor: Cursor | None, moment: Moment, response: Response) -> Page:
            page = super().read(feed, cursor, moment, response)
            items = [
                Bad("3.5", "its id is no id", 0) if feed == "sweep" and one.id in odd else one for one in page.items
            ]
            return replace(page, items=items)

    crm = await here.add(adapter=Odd)
    here.start()
    await here.settled()
    crm.delete(5)
    await here.swept(4)
    assert here.deleted() == []
    assert here.lookups(3) == here.lookups(5) == []
    odd.clear()
    await here.settled()
    assert here.deleted() == ["5"]


async def test_a_failing_sweep_does_not_hold_up_changes(here: World) -> None:
    """Its pages are asked for at their own pace."""
    crm = await here.add()
    here.start()
    await here.settled()
    crm.fault("html", path=SWEEP)
    await here.state("failing")
    crm.create()
    await here.settled()
    assert here.status()["state"] == "failing"
    crm.clear_faults()
    await here.state("running")


async def test_a_feed_that_is_never_answered_is_said_once_and_holds_up_nothing(here: World) -> None:
    """A page over which the server fails each time: changes are published, and the state does not come and go."""
    crm = await here.add()
    here.start()
    await here.settled()
    await here.state("running")
    failing = crm.fault("status", status=500, path=SWEEP_LATER)
    await here.state("backing off")
    hits = failing.hits
    with capture_logs() as lines:
        await until(lambda: failing.hits >= hits + 6, "more tries")
        crm.create()
        await here.settled()
    assert [line["event"] for line in lines if line["event"].startswith("source_")] == []
    crm.clear_faults()
    await here.state("running")


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("date", [True, False], ids=["date", "seconds"])
async def test_an_api_that_asks_to_wait_is_left_alone(
    here: World,
    status: int,
    date: bool,  # ruff: ignore[boolean-type-hint-positional-argument]
) -> None:
    """For as long as it asks, by whichever feed it was told."""
    crm = await here.add()
    here.start()
    await here.settled()
    crm.fault("retry_later", status=status, seconds=2 if date else 1, date=date, times=1)
    await here.state("backing off")
    told = next(place for place, request in enumerate(crm.requests) if request.status == status)
    await until(lambda: len(crm.requests) > told + 1, "the next request")
    waited = crm.requests[told + 1].time - crm.requests[told].time
    assert waited >= 0.9
    await here.state("running")


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_credential_pauses_the_source_until_it_is_mended(here: World, status: int) -> None:
    """It says so, and takes a rotated secret up by itself."""
    crm = await here.add()
    here.start()
    await here.settled()
    crm.authorization = "users API-Key two"
    if status == 401:
        crm.fault("status", status=401)
    await here.state("paused: credentials")
    assert str(status) in here.status()["message"]
    crm.create()
    crm.clear_faults()
    here.key_file().write_text("users API-Key two\n")
    await here.settled()
    await here.state("running")
    assert here.deleted() == []


async def test_a_secret_that_is_not_there_pauses_the_source(here: World) -> None:
    """Until it is."""
    await here.add()
    here.key_file().unlink()
    here.start()
    await here.state("paused: credentials")
    assert str(here.key_file()) in here.status()["message"]
    here.key_file().write_text(KEY)
    await here.settled()


async def test_a_secret_that_no_header_can_carry_pauses_the_source(here: World) -> None:
    """It is the secret that is named, and not the network."""
    await here.add()
    here.key_file().write_text(f"{KEY}\nX-Other: 1")
    here.start()
    await here.state("paused: credentials")
    assert "has a line break" in here.status()["message"]
    here.key_file().write_text(KEY)
    await here.settled()


async def test_after_a_credential_has_changed_nobody_is_missed_before_he_was_seen(here: World) -> None:
    """Who is not seen under the new one is unobserved; who was seen and goes is found as ever."""
    crm = await here.add(customers=9)
    here.start()
    await here.settled()
    crm.authorization = "users API-Key two"
    crm.fault("short", keep=6, path="customers")
    here.key_file().write_text("users API-Key two")
    await here.state("running")
    await here.swept(4)
    assert here.deleted() == []
    crm.clear_faults()
    await here.swept(2)
    crm.delete(9)
    await until(lambda: here.deleted() == ["9"], "the deletion")


async def test_a_page_that_was_answered_to_a_renewed_credential_ends_no_sweep_of_the_old_one(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new one may see others: everything is read from the start under it, and the mixed sweep proves nothing."""
    monkeypatch.setattr(upstream, "_SECRETS_SECONDS", 3600)  # only a 401 has the secret read again
    crm = await here.add(customers=12)
    crm.authorization = None
    here.start()
    await here.settled()
    await here.swept(1)
    here.key_file().write_text("users API-Key two")
    refused = crm.fault("status", status=401, path=LAST_PAGE, times=1)
    blind = crm.fault("empty", path=LAST_PAGE, skip=1, times=1)
    await until(lambda: refused.hits and blind.hits, "the page to be answered to the new one")
    await here.swept(2)
    assert here.alarms() == {None}
    assert here.deleted() == []


async def test_one_sources_trouble_is_its_own(here: World) -> None:
    """Whatever happens to one, the other is polled as ever."""
    crm = await here.add("crm")
    shop = await here.add("shop")
    here.start()
    await here.settled("crm")
    await here.settled("shop")
    crm.fault("never")
    shop.create()
    shop.delete(2)
    await here.settled("shop")
    await crm.stop()
    shop.create()
    await here.settled("shop")
    await until(lambda: here.status("crm")["state"] in {"backing off", "circuit open"}, "it to be said")
    assert here.status("shop")["state"] == "running"


async def test_an_adapter_that_stumbles_fails_its_source_alone(here: World) -> None:
    """A bug is said by its class; the worker and the other sources go on."""

    class Stumbling(Drivly):
        def read(self, feed: str, cursor: Cursor | None, moment: Moment, response: Response) -> Page:
            return {"canary": super().read(feed, cursor, moment, response)}["page"]

    await here.add("crm", adapter=Stumbling)
    await here.add("shop")
    here.start()
    await here.settled("shop")
    await here.state("failing", "crm")
    assert "KeyError" in here.status("crm")["message"]
    assert not here.ended


async def test_a_private_address_fails_its_source_alone(here: World) -> None:
    """The other is polled."""
    await here.add("crm", allow_private_addresses=False)
    await here.add("shop")
    here.start()
    await here.settled("shop")
    await here.state("failing", "crm")
    assert "private address" in here.status("crm")["message"]


async def test_a_record_that_cannot_be_used_is_set_aside_and_the_others_go_on(here: World) -> None:
    """The source is degraded until the record is mended."""
    before = telemetry.REGISTRY.get_sample_value("rollcall_dead_letters_total", {"stage": "poll"}) or 0
    crm = await here.add(scan_interval=3600)  # a sweep, which reads other pages, would find it mended
    here.start()
    await here.settled()
    await here.swept_once()
    crm.fault("deep", levels=300, path=CHANGES)
    crm.update(3)
    await here.state("degraded")
    letters = [orjson.loads(value) for _, value, _ in here.log.topics[TOPICS.deadletters] if value is not None]
    assert {(letter["path"], letter["status"]) for letter in letters} == {("/api/customers", 200)}
    crm.clear_faults()
    for number in range(1, 8):
        crm.update(number)
    await here.settled()
    await here.state("running")
    assert here.status()["set_aside"] == 0
    counted = telemetry.REGISTRY.get_sample_value("rollcall_dead_letters_total", {"stage": "poll"})
    assert counted == before + sum(value is not None for _, value, _ in here.log.topics[TOPICS.deadletters])
    assert here.log.table(TOPICS.deadletters) == {}, "what was mended is settled"


async def test_a_customer_who_is_set_aside_makes_no_listing_too_long(here: World) -> None:
    """It is listed as before, and counted once: there is nothing to look at but its record."""
    crm = await here.add()
    here.start(max_bytes=20_000)
    await here.settled()
    await here.swept(2)
    crm.update(3, {"companyServiceOrders": "x" * 30_000})
    await here.state("degraded")
    await here.swept(3)
    assert here.alarms() == {None}


async def test_a_record_that_was_set_aside_and_is_deleted_is_forgotten(here: World) -> None:
    """No event tells of a customer that was never published, and the source is well again."""
    crm = await here.add()
    here.start(max_bytes=60_000)
    await here.settled()
    large = crm.create({"companyServiceOrders": "x" * 70_000})
    await here.state("degraded")
    assert here.status()["set_aside"] == 1
    crm.delete(large)
    await here.state("running")
    assert f"crm/{large}" not in {key for key, _, _ in here.log.events()}


async def test_a_look_up_that_proves_nothing_sets_the_customer_aside(here: World) -> None:
    """It is there, but cannot be read: the source is degraded until it can, also for a new owner."""
    crm = await here.add()
    here.start()
    await here.settled()
    await here.followed()
    crm.fault("status", status=400, path=LOOKUP)
    crm.create(at=crm.now() - 86_400)
    await here.state("degraded")
    await here.kill()
    here.start()
    await here.swept(1)
    assert here.detectors["crm"].checkpoint.set_aside == 1
    crm.clear_faults()
    await here.settled()
    await until(lambda: here.detectors["crm"].checkpoint.set_aside == 0, "it to be forgotten")
    assert here.alarms() == {None}


async def test_a_look_up_that_is_forbidden_stops_nobody_else(here: World) -> None:
    """The key has just read the listing: what is wrong is about this customer, and it is not taken for deleted."""
    crm = await here.add()
    here.start()
    await here.settled()
    await here.followed()
    hidden = crm.create(at=crm.now() - 86_400)
    crm.fault("status", status=403, path=rf"/customers/{hidden}\b")
    await here.state("degraded")
    crm.fault("status", status=403, path=r"/customers/3\b")
    crm.delete(3)
    await until(lambda: len(here.lookups(3)) > 2, "a customer who is missing to be looked up")
    news = crm.create()
    await until(lambda: f"crm/{news}" in here.latest(), "a change to be published")
    assert here.deleted() == []
    crm.clear_faults()
    await here.settled()
    assert here.deleted() == ["3"]


async def test_a_record_that_is_too_large_for_a_look_up_stops_no_sweep(here: World) -> None:
    """It is set aside, as one that is too large for Kafka, and the others' changes are found."""
    crm = await here.add(max_response_bytes=30_000)
    here.start()
    await here.settled()
    await here.followed()
    large = crm.create({"companyServiceOrders": "x" * 40_000}, at=crm.now() - 86_400)
    late = crm.create(at=crm.now() - 86_400)
    await until(lambda: f"crm/{late}" in here.latest(), "the other one")
    await here.state("degraded")
    scans = here.detectors["crm"].checkpoint.scans["sweep"]
    await until(lambda: here.detectors["crm"].checkpoint.scans["sweep"] > scans, "a sweep")
    crm.delete(large)
    await here.settled()
    await here.state("running")


# Restarts


async def test_a_restart_goes_on_where_it_was(here: World) -> None:
    """Nothing comes twice; what happened meanwhile is found."""
    crm = await here.add(customers=10)
    here.start()
    await here.settled()
    await here.stop()
    events = len(here.log.events())
    crm.update(4)
    here.start()
    await here.settled()
    assert here.log.events()[events:] == [("crm/4", UPDATED, 2)]


async def test_a_sweep_that_an_earlier_owner_began_proves_nothing(here: World) -> None:
    """The new owner reads it to its end, and then two of its own."""
    crm = await here.add(customers=12)
    here.start()
    await here.settled()
    await here.swept(1)
    stuck = crm.fault("never", path=SWEEP_LATER, skip=1)
    await until(lambda: stuck.hits, "the sweep to be stuck")
    crm.delete(12)
    crm.delete(1)
    crm.create(at=crm.now() - 86_400, id=2000)
    await here.kill()
    crm.clear_faults()
    here.start()
    before = len(crm.requests)
    await here.settled()
    assert here.sweeps(since=before) >= 2
    assert sorted(here.deleted()) == ["1", "12"]


@pytest.mark.parametrize("place", range(1, 7))
async def test_the_checkpoint_is_never_ahead_of_what_was_published(here: World, place: int) -> None:
    """Kafka is slow, fails at one commit after the other, and a new owner begins; only the head could find a loss."""
    crm = await here.add(customers=80, page_size=1, lookback=3600)
    crm.fault("html", path=SWEEP)
    for commits in (place, 2, 1):
        here.start(fail_at=here.log.attempts + commits, commit_seconds=0.1)
        await until(lambda: here.ended or created(crm), "Kafka to fail")
        await here.failed()
    here.start()
    await here.settled()


async def test_a_kill_at_any_moment_loses_nothing(here: World) -> None:
    """In the middle of pages, sweeps and look-ups."""
    crm = await here.add(customers=10)
    for number in range(8):
        here.start()
        asked = len(crm.requests) + number * 3
        await until(lambda asked=asked: len(crm.requests) > asked, "some requests")  # type: ignore[misc]
        await here.kill()
        crm.churn(4)
    here.start()
    await here.settled()


async def test_the_count_of_the_living_is_right_after_any_restart(here: World) -> None:
    """It is written with the events that change it."""
    crm = await here.add(customers=10)
    for commits in range(1, 6):
        here.start(fail_at=here.log.attempts + commits)
        await until(lambda: here.ended or churned(crm), "Kafka to fail")
        await here.failed()
    here.start()
    await here.settled()
    await until(lambda: here.detectors["crm"].checkpoint.live == len(here.truth()), "the count")
    await here.stop()
    assert here.status()["live"] == len(here.truth())


async def test_stopping_while_kafka_fails_does_not_hang(here: World) -> None:
    """The last words cannot be said; the task ends all the same."""
    await here.add()
    here.start()
    await here.settled()
    assert here.task is not None
    here.task.fail_at = 0
    await here.stop()
