"""The Drivly simulator has every trap that the real server has; what a recording shows is in `test_against_payload`."""

from __future__ import annotations

import asyncio
import re
from typing import Any
from urllib.parse import quote

import pytest

from tests.unit.simulator.conftest import Asker, Clock
from worker.simulator import Drivly

KEY = {"Authorization": "users API-Key drivly-test-key"}
LIST = "/api/customers"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def open_drivly(**options: Any) -> Drivly:
    """Make a Drivly that asks for no key."""
    return Drivly(authorization=None, **options)


def behind(stamp: str, key: Any) -> str:
    """Write the keyset filter as a poller sends it."""
    first = f"where[and][0][or][0][updatedAt][greater_than]={quote(stamp)}"
    same = f"where[and][0][or][1][and][0][updatedAt][equals]={quote(stamp)}"
    return f"{first}&{same}&where[and][0][or][1][and][1][id][greater_than]={key}"


async def paged(ask: Asker, sim: Drivly, sort: str, limit: int) -> list[Any]:
    """Read all pages by their number."""
    ids: list[Any] = []
    for page in range(1, 1_000):
        reply = await ask(sim, f"{LIST}?depth=0&select[id]=true&limit={limit}&sort={sort}&page={page}")
        ids += [doc["id"] for doc in reply.json["docs"]]
        if not reply.json["hasNextPage"]:
            return ids
    raise AssertionError(ids)


async def walked(ask: Asker, sim: Drivly, limit: int, churn: int = 0) -> list[Any]:
    """Read everything by the keyset, with writes between the pages."""
    ids: list[Any] = []
    stamp, key = "1970-01-01T00:00:00.000Z", 0
    while True:
        reply = await ask(sim, f"{LIST}?depth=0&limit={limit}&sort=updatedAt,id&{behind(stamp, key)}")
        docs = reply.json["docs"]
        if not docs:
            return ids
        ids += [doc["id"] for doc in docs]
        stamp, key = docs[-1]["updatedAt"], docs[-1]["id"]
        sim.churn(churn)
        churn = max(0, churn - 1)


# Authorization


async def test_the_whole_header_value_is_the_key(ask: Asker) -> None:
    """A key without its prefix is a wrong key, and a wrong key is 403, never 401."""
    async with Drivly(customers=1) as sim:
        assert (await ask(sim, LIST, headers=KEY)).status == 200
        for wrong in ({}, {"Authorization": "drivly-test-key"}, {"Authorization": "users API-Key other"}):
            reply = await ask(sim, LIST, headers=wrong)
            assert reply.status == 403
            assert reply.json == {"errors": [{"message": "You are not allowed to perform this action."}]}


async def test_a_revoked_key_may_list_nobody_instead_of_failing(ask: Asker) -> None:
    """Where the server filters by access, a wrong key gets 200 and an empty list, a look-up 404, a deletion 403."""
    async with Drivly(customers=3, auth="filter") as sim:
        reply = await ask(sim, LIST)
        assert (reply.status, reply.json["docs"], reply.json["totalDocs"]) == (200, [], 0)
        assert (await ask(sim, f"{LIST}/1")).status == 404
        assert (await ask(sim, f"{LIST}/1", method="DELETE")).status == 403
        assert len(sim.customers()) == 3


# Order and pages


async def test_ties_lose_and_repeat_rows_unless_the_sort_includes_the_id(ask: Asker) -> None:
    """60 rows with one stamp, paged by 3 with nothing moving: by time alone some come twice and some never."""
    async with open_drivly(seed=3, clock=Clock()) as sim:
        everybody = [sim.create() for _ in range(60)]
        by_time = await paged(ask, sim, "updatedAt", 3)
        assert len(by_time) == 60
        assert set(by_time) < set(everybody)
        assert await paged(ask, sim, "updatedAt,id", 3) == everybody


async def test_page_numbers_over_moving_rows_lose_rows(ask: Asker) -> None:
    """A row that was read and then changes shifts the rest down by one, past the next page's start."""
    async with open_drivly(customers=6) as sim:
        first = (await ask(sim, f"{LIST}?limit=3&sort=updatedAt,id&depth=0")).json["docs"]
        sim.update(first[0]["id"])
        second = (await ask(sim, f"{LIST}?limit=3&sort=updatedAt,id&depth=0&page=2")).json["docs"]
        assert {doc["id"] for doc in first + second} == {1, 2, 3, 5, 6}


async def test_a_watermark_fails_over_ties(ask: Asker) -> None:
    """`greater_than` skips the rest of a bulk update, `greater_than_equal` reads its first page for ever."""
    async with open_drivly(customers=9) as sim:
        sim.bulk_update(range(1, 10))
        page = f"{LIST}?limit=3&sort=updatedAt,id&depth=0"
        first = (await ask(sim, page)).json["docs"]
        mark = quote(first[-1]["updatedAt"])
        assert (await ask(sim, f"{page}&where[updatedAt][greater_than]={mark}")).json["docs"] == []
        assert (await ask(sim, f"{page}&where[updatedAt][greater_than_equal]={mark}")).json["docs"] == first


async def test_the_keyset_reads_everything_once(ask: Asker) -> None:
    """Whatever the page size: with ties over several pages, every row comes once."""
    async with open_drivly(customers=7) as sim:
        sim.bulk_update(range(1, 6))
        for limit in (1, 2, 3, 100):
            assert sorted(await walked(ask, sim, limit)) == list(range(1, 8))


async def test_the_keyset_misses_nobody_while_rows_move(ask: Asker) -> None:
    """Rows that change during the reading come again; those that stay come for sure."""
    async with open_drivly(seed=5, customers=40) as sim:
        seen = await walked(ask, sim, 7, churn=20)
        assert set(map(str, seen)) >= set(sim.customers())


async def test_a_bound_leaves_out_what_is_newer(ask: Asker) -> None:
    """A tail cursor's upper bound is inclusive and combines with the keyset."""
    async with open_drivly(customers=5) as sim:
        bound = quote(sim.customers()["3"]["updatedAt"])
        query = f"{behind('1970-01-01T00:00:00.000Z', 0)}&where[and][1][updatedAt][less_than_equal]={bound}"
        docs = (await ask(sim, f"{LIST}?depth=0&sort=updatedAt,id&{query}")).json["docs"]
        assert [doc["id"] for doc in docs] == [1, 2, 3]


# Time stamps


async def test_stamps_are_iso_with_milliseconds_and_z(ask: Asker) -> None:
    """That is how Payload writes them."""
    async with open_drivly(customers=1) as sim:
        doc = (await ask(sim, f"{LIST}/1?depth=0")).json
        assert TIME.fullmatch(doc["updatedAt"])
        assert TIME.fullmatch(doc["createdAt"])


async def test_an_import_may_stamp_the_past(ask: Asker) -> None:
    """A POST that sets `updatedAt` makes a new row that lies behind every cursor."""
    async with open_drivly(customers=1) as sim:
        imported = {"email": "i@example.com", "updatedAt": "2001-02-03T04:05:06.000Z"}
        reply = await ask(sim, LIST, method="POST", body=imported)
        assert (reply.status, reply.json["message"]) == (201, "Customer successfully created.")
        key = reply.json["doc"]["id"]
        assert sim.customers()[str(key)]["updatedAt"] == "2001-02-03T04:05:06.000Z"
        assert sim.customers()[str(key)]["createdAt"] > "2001-02-03"
        assert (await walked(ask, sim, 10))[0] == key


async def test_a_late_commit_hides_behind_a_later_stamp(ask: Asker) -> None:
    """A cursor that has passed the later stamp never sees the row that commits afterwards."""
    clock = Clock()
    async with open_drivly(clock=clock) as sim:
        late = sim.create({}, visible_after=1.1)
        clock.now += 0.5
        seen = sim.create({})
        stamp = sim.customers()[str(seen)]["updatedAt"]
        clock.now += 1
        assert str(late) in sim.customers()
        assert (await ask(sim, f"{LIST}?sort=updatedAt,id&{behind(stamp, seen)}")).json["docs"] == []


async def test_a_related_documents_change_moves_no_stamp(ask: Asker) -> None:
    """The embedded copy shows the change, `updatedAt` does not."""
    async with open_drivly() as sim:
        key = sim.create({"address": 4})
        before = (await ask(sim, f"{LIST}/{key}?depth=1")).json
        sim.touch_related("address", 4)
        after = (await ask(sim, f"{LIST}/{key}?depth=1")).json
        assert before["address"] != after["address"]
        assert before["updatedAt"] == after["updatedAt"]


async def test_the_date_header_follows_the_simulators_clock(ask: Asker) -> None:
    """A server whose clock is off says so in its `Date`, and stamps by it."""
    async with open_drivly(clock=Clock(1_750_000_000)) as sim:
        sim.clock_offset = 3600
        key = sim.create({})
        reply = await ask(sim, LIST)
        assert reply.headers["Date"] == "Sun, 15 Jun 2025 16:06:40 GMT"
        assert sim.customers()[str(key)]["updatedAt"] == "2025-06-15T16:06:40.000Z"


# Filters


async def test_a_time_that_is_not_encoded_matches_nobody_on_postgres(ask: Asker) -> None:
    """`+00:00` reads as a space: 200 and an empty list, as if there were no changes."""
    async with open_drivly(customers=3) as sim:
        for time in ("2020-01-01T00:00:00.000+00:00", "yesterday", "1700000000"):
            reply = await ask(sim, f"{LIST}?where[updatedAt][greater_than]={time}")
            assert (reply.status, reply.json["docs"]) == (200, [])


async def test_a_misspelled_filter_is_ignored(ask: Asker) -> None:
    """One letter off, and everything comes back with 200."""
    async with open_drivly(customers=3) as sim:
        for filtered in ("Where[id][equals]=1", "where.id.equals=1", "filter[id][equals]=1"):
            assert (await ask(sim, f"{LIST}?{filtered}")).json["totalDocs"] == 3


async def test_an_address_over_16_kilobytes_is_431_without_a_body(ask: Asker) -> None:
    """Node refuses it before Payload sees it."""
    async with open_drivly(customers=1) as sim:
        assert (await ask(sim, f"{LIST}?x={'a' * 15_000}")).status == 200
        reply = await ask(sim, f"{LIST}?x={'a' * 16_384}")
        assert (reply.status, reply.body) == (431, b"")


# Shapes


async def test_related_documents_are_embedded_unless_depth_is_0(ask: Asker) -> None:
    """Two levels by default, ids at depth 0."""
    async with open_drivly() as sim:
        sim.create({"leads": [4, 5], "address": 7})
        deep = (await ask(sim, LIST)).json["docs"][0]
        assert [lead["id"] for lead in deep["leads"]] == [4, 5]
        assert deep["address"]["tenant"]["name"] == "Tenant 1"
        flat = (await ask(sim, f"{LIST}?depth=0")).json["docs"][0]
        assert (flat["leads"], flat["address"]) == ([4, 5], 7)


async def test_ids_are_strings_on_mongodb(ask: Asker) -> None:
    """An ObjectID is compared as text, and its keyset works the same."""
    async with open_drivly(database="mongodb", customers=5) as sim:
        ids = await walked(ask, sim, 2)
        assert ids == sorted(ids)
        assert all(re.fullmatch(r"[0-9a-f]{24}", key) for key in ids)
        assert (await ask(sim, f"{LIST}/{ids[0]}?depth=0")).json["id"] == ids[0]


async def test_the_sql_adapters_serve_what_is_empty_as_null(ask: Asker) -> None:
    """Every documented field is there."""
    async with open_drivly(nulls=True) as sim:
        key = sim.create({"email": "a@example.com"})
        doc = (await ask(sim, f"{LIST}/{key}?depth=0")).json
        assert (doc["phone"], doc["leads"], doc["companyType"]) == (None, [], [])


# Deletion


async def test_a_deletion_answers_with_the_document_and_then_with_404(ask: Asker) -> None:
    """200 once with what was deleted, 404 ever after, for the look-up too."""
    async with open_drivly(customers=2) as sim:
        gone = sim.customers()["2"]
        reply = await ask(sim, f"{LIST}/2?depth=0", method="DELETE")
        assert (reply.status, reply.json) == (200, {"doc": gone, "message": "Deleted successfully."})
        for method in ("DELETE", "GET"):
            again = await ask(sim, f"{LIST}/2", method=method)
            assert (again.status, again.json) == (404, {"errors": [{"message": "Not Found"}]})


async def test_an_id_is_read_loosely(ask: Asker) -> None:
    """`12abc` deletes customer 12, and what is no number at all is the server's fault."""
    async with open_drivly(customers=12) as sim:
        assert (await ask(sim, f"{LIST}/12abc", method="DELETE")).status == 200
        assert "12" not in sim.customers()
        assert (await ask(sim, f"{LIST}/abc", method="DELETE")).status == 500


async def test_concurrent_deletions_of_one_customer_answer_in_any_mix(ask: Asker) -> None:
    """One deletes; the others say 200, 404 or 500."""
    async with open_drivly(seed=2, customers=8) as sim:
        sim.delete_seconds = 0.05
        statuses: set[int] = set()
        for key in list(sim.customers()):
            replies = await asyncio.gather(*(ask(sim, f"{LIST}/{key}", method="DELETE") for _ in range(4)))
            statuses |= {reply.status for reply in replies}
            assert 200 in {reply.status for reply in replies}
        assert statuses == {200, 404, 500}
        assert [change.op for change in sim.history].count("delete") == 8


@pytest.mark.parametrize(("database", "given"), [("sqlite", 3), ("postgres", 4)])
async def test_sqlite_gives_the_highest_id_out_again(ask: Asker, database: Any, given: int) -> None:
    """A new customer may carry a deleted one's id."""
    async with open_drivly(database=database, customers=3) as sim:
        await ask(sim, f"{LIST}/3", method="DELETE")
        reply = await ask(sim, LIST, method="POST", body={"email": "new@example.com"})
        assert reply.json["doc"]["id"] == given


async def test_a_deletion_by_an_empty_filter_deletes_everybody(ask: Asker) -> None:
    """`DELETE /api/customers?where={}`: never send one without an id."""
    async with open_drivly(customers=5) as sim:
        assert (await ask(sim, LIST, method="DELETE")).status == 400
        reply = await ask(sim, f"{LIST}?where={quote('{}')}", method="DELETE")
        assert (reply.status, reply.json["message"]) == (200, "Deleted 5 Customers successfully.")
        assert sim.customers() == {}


async def test_a_deletion_by_a_filter_deletes_what_matches(ask: Asker) -> None:
    """A query that filters makes a deletion a mass deletion."""
    async with open_drivly(customers=5) as sim:
        reply = await ask(sim, f"{LIST}?where[id][greater_than]=3", method="DELETE")
        assert (reply.status, sorted(sim.customers())) == (200, ["1", "2", "3"])


async def test_a_patch_changes_and_stamps(ask: Asker) -> None:
    """The row moves to the end of the order of change."""
    async with open_drivly(customers=3) as sim:
        reply = await ask(sim, f"{LIST}/1?depth=0", method="PATCH", body={"phone": "+12025550100"})
        assert (reply.status, reply.json["doc"]["phone"]) == (200, "+12025550100")
        assert (await walked(ask, sim, 10))[-1] == 1


async def test_a_patch_may_correct_the_time_of_creation(ask: Asker) -> None:
    """Only that of creation: that of the change is the server's own."""
    async with open_drivly(customers=3) as sim:
        body = dict.fromkeys(("createdAt", "updatedAt"), "2001-02-03T04:05:06.000Z")
        doc = (await ask(sim, f"{LIST}/1?depth=0", method="PATCH", body=body)).json["doc"]
        assert doc["createdAt"] == "2001-02-03T04:05:06.000Z"
        assert doc["updatedAt"] > "2001-02-04"
        sim.update(1)
        assert sim.customers()["1"]["createdAt"] == "2001-02-03T04:05:06.000Z"
        assert (await ask(sim, f"{LIST}?where[createdAt][equals]={body['createdAt']}")).json["totalDocs"] == 1


# The server


async def test_every_500_has_one_body(ask: Asker) -> None:
    """Nobody can tell from it whose fault it was."""
    async with open_drivly(customers=1) as sim:
        sim.fault("status", status=500)
        reply = await ask(sim, LIST)
        assert reply.json == {"errors": [{"message": "Something went wrong."}]}


async def test_an_idle_connection_is_closed_after_five_seconds() -> None:
    """As Node does; shortened here."""
    sim = open_drivly(customers=1)
    assert sim.keep_alive == 5
    sim.keep_alive = 0.05
    async with sim:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(sim.url.rpartition(":")[2]))
        writer.write(b"GET /api/customers/1?depth=0 HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        assert answer.startswith(b"HTTP/1.1 200 OK")


async def test_other_addresses_are_unknown_routes(ask: Asker) -> None:
    """A wrong base gives 404 to everything."""
    async with open_drivly(customers=1) as sim:
        for target in ("/customers", "/api/custommers", "/api/customers/1/2", "/"):
            assert (await ask(sim, target)).status == 404
