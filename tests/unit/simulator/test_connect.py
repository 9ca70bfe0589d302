"""The Connect simulator lists as the vendor's document says, in both editions, and has the API's traps."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from tests.unit.simulator.conftest import Asker, Clock, Reply
from worker.simulator import Connect, People

KEY = {"X-Api-Key": "connect-test-key"}


async def listed(ask: Asker, sim: Connect, query: str = "") -> Reply:
    """List with the right key."""
    return await ask(sim, f"/customers?{query}", headers=KEY)


async def scanned(ask: Asker, sim: Connect, limit: int, search: str = "") -> list[Any]:
    """Follow the cursors to the end."""
    items: list[Any] = []
    cursor = ""
    while True:
        reply = await listed(ask, sim, f"limit={limit}{search}{cursor}")
        items += reply.json["items"]
        following = reply.json["pagination"].get("nextCursor")
        if following is None:
            return items
        cursor = f"&cursor={quote(following)}"


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 1000])
async def test_cursors_lead_through_everybody_once(ask: Asker, limit: int) -> None:
    """Whether or not the last page is full, the last cursor is null."""
    async with Connect(customers=6) as sim:
        items = await scanned(ask, sim, limit)
        assert {item["customerId"]: item for item in items} == sim.customers()
        assert len(items) == 6


async def test_the_last_cursor_may_be_absent(ask: Asker) -> None:
    """Instead of null."""
    async with Connect(customers=1, null_cursor=False) as sim:
        assert (await listed(ask, sim)).json["pagination"] == {}


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "many"])
async def test_a_limit_outside_of_1_to_1000_is_refused(ask: Asker, limit: str) -> None:
    """With 400."""
    async with Connect(customers=1) as sim:
        assert (await listed(ask, sim, f"limit={limit}")).status == 400


async def test_the_key_is_needed(ask: Asker) -> None:
    """In X-Api-Key, for listing and look-up."""
    async with Connect(customers=1) as sim:
        for target in ("/customers", "/customers/x"):
            assert (await ask(sim, target)).status == 401
            assert (await ask(sim, target, headers={"X-Api-Key": "other"})).status == 401


async def test_a_look_up_confirms_an_absence(ask: Asker) -> None:
    """200 with the customer while it exists, then 404."""
    async with Connect(customers=2) as sim:
        key, customer = next(iter(sim.customers().items()))
        assert (await ask(sim, f"/customers/{key}", headers=KEY)).json == customer
        sim.delete(key)
        assert (await ask(sim, f"/customers/{key}", headers=KEY)).status == 404
        assert key not in {item["customerId"] for item in await scanned(ask, sim, 10)}


async def test_a_deletion_over_http_is_final(ask: Asker) -> None:
    """204, then 404: what a configured HTTP target meets."""
    async with Connect(customers=1) as sim:
        (key,) = sim.customers()
        statuses = [(await ask(sim, f"/customers/{key}", method="DELETE", headers=KEY)).status for _ in range(2)]
        assert (statuses, sim.customers()) == ([204, 404], {})


async def test_search_narrows_the_listing(ask: Asker) -> None:
    """Free text, over pages too."""
    async with Connect(customers=5) as sim:
        wanted = sim.create(person=People(7).vary(People(7).person(), email="needle@example.com"))
        assert [item["customerId"] for item in await scanned(ask, sim, 1, "&search=NEEDLE")] == [wanted]


async def test_there_is_no_change_time(ask: Asker) -> None:
    """Today's edition says neither when a customer was made nor when it changed."""
    async with Connect(customers=1) as sim:
        item = (await listed(ask, sim)).json["items"][0]
        assert not {"createdAt", "updatedAt"} & item.keys()


async def test_metadata_changes_its_order(ask: Asker) -> None:
    """The same members in another order are no change."""
    async with Connect(customers=1) as sim:
        metadata = [(await listed(ask, sim)).json["items"][0]["metadata"] for _ in range(20)]
        assert len({tuple(each) for each in metadata}) > 1
        assert all(each == metadata[0] for each in metadata)


async def test_a_cursor_expires(ask: Asker) -> None:
    """After its time, or at once by a fault: 400, and the first page is still there."""
    clock = Clock()
    async with Connect(customers=3, clock=clock, cursor_seconds=60) as sim:
        cursor = quote((await listed(ask, sim, "limit=1")).json["pagination"]["nextCursor"])
        clock.now += 60
        assert (await listed(ask, sim, f"limit=1&cursor={cursor}")).status == 200
        clock.now += 1
        assert (await listed(ask, sim, f"limit=1&cursor={cursor}")).json["message"] == "Cursor expired"
        sim.fault("expired_cursor")
        fresh = quote((await listed(ask, sim, "limit=1")).json["pagination"]["nextCursor"])
        assert (await listed(ask, sim, f"limit=1&cursor={fresh}")).status == 400


async def test_a_cursor_that_is_none_is_refused(ask: Asker) -> None:
    """It is opaque, and nothing to be made up."""
    async with Connect(customers=1) as sim:
        for cursor in ("abc", "%F0", "e30", "WzEsMiwzXQ"):
            assert (await listed(ask, sim, f"cursor={cursor}")).status == 400


async def test_a_cursor_may_repeat(ask: Asker) -> None:
    """A loop: the same page leads to itself."""
    async with Connect(customers=5) as sim:
        sim.fault("repeating_cursor")
        first = (await listed(ask, sim, "limit=2")).json
        cursor = first["pagination"]["nextCursor"]
        second = (await listed(ask, sim, f"limit=2&cursor={quote(cursor)}")).json
        assert second["pagination"]["nextCursor"] == cursor
        assert [item["customerId"] for item in second["items"]] == [item["customerId"] for item in first["items"]]


async def test_the_older_edition_pages_by_offset_and_total(ask: Asker) -> None:
    """It has time stamps, and its pages shift when an earlier customer goes: one is never listed."""
    async with Connect(customers=6, edition="offset") as sim:
        first = (await listed(ask, sim, "limit=3&offset=0")).json
        assert (first["total"], len(first["items"])) == (6, 3)
        assert {"createdAt", "updatedAt"} <= first["items"][0].keys()
        missed = list(sim.customers())[3]
        sim.delete(first["items"][0]["customerId"])
        second = (await listed(ask, sim, "limit=3&offset=3")).json
        assert missed not in {item["customerId"] for item in second["items"]}
        assert (await listed(ask, sim, "offset=many")).status == 400
        assert (await listed(ask, sim, "search=nobody")).json["total"] == 0


async def test_the_cursor_edition_does_not_shift(ask: Asker) -> None:
    """Who is there all the time is listed, whoever goes meanwhile."""
    async with Connect(customers=6) as sim:
        first = (await listed(ask, sim, "limit=3")).json
        kept = list(sim.customers())[3:]
        sim.delete(first["items"][0]["customerId"])
        second = (await listed(ask, sim, f"cursor={quote(first['pagination']['nextCursor'])}")).json
        assert [item["customerId"] for item in second["items"]] == kept


def test_a_customer_has_the_documents_fields() -> None:
    """All of them but those that some customers lack."""
    sim = Connect(customers=1)
    (item,) = sim.customers().values()
    document = {"customerId", "customerType", "name", "contact", "identity", "preferredLocale", "humanReadableId"}
    document |= {"referenceId", "billing", "users", "contactPerson", "shipping", "metadata"}
    assert item.keys() == document
    billing = {"method", "currency", "email", "address", "defaultPaymentProfileId", "autoPay"}
    assert item["billing"].keys() == billing
    assert item["shipping"].keys() == {"name", "address", "msisdn", "instructions"}
