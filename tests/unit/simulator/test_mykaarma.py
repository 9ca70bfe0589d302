"""The mykaarma simulator looks one customer up at a time, and has the API's traps."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest

from tests.unit.simulator.conftest import Asker, Clock, Reply
from worker.simulator import MyKaarma

BASIC = {"Authorization": "Basic " + b64encode(b"rollcall:mykaarma-test-password").decode()}
PATH = "/customer/v2/customer/"
REQUEST: dict[str, Any] = {"requesterUserUUID": "00000000-0000-4000-8000-000000000001", "dealerUUIDList": []}


async def looked_up(ask: Asker, sim: MyKaarma, key: Any, query: str = "", **body: Any) -> Reply:
    """Look one customer up as a subscriber."""
    return await ask(sim, f"{PATH}{key}{query}", method="POST", headers=BASIC, body={**REQUEST, **body})


async def test_a_look_up_answers_with_all_parts(ask: Asker) -> None:
    """Errors, warnings, the customer, orders, and addresses in two forms."""
    async with MyKaarma(customers=1, volatile_orders=False) as sim:
        (key,) = sim.customers()
        reply = await looked_up(ask, sim, key)
        assert reply.json == {"errors": [], "warnings": [], **sim.customers()[key]}
        parts = {"errors", "warnings", "customerInfo", "dealerOrderInfoList", "addressListV2", "addressList"}
        assert reply.json.keys() == parts
        assert reply.json["customerInfo"]["uuid"] == key


async def test_a_missing_and_a_hidden_customer_look_the_same(ask: Asker) -> None:
    """204 without a body: gone, unknown, not visible to the requester, or another dealer's."""
    async with MyKaarma(customers=4) as sim:
        gone, hidden, elsewhere, here = sim.customers()
        sim.delete(gone)
        sim.hide(hidden)
        dealer = sim.customers()[elsewhere]["customerInfo"]["dealerId"]
        replies = [
            await looked_up(ask, sim, "00000000-0000-4000-8000-00000000dead"),
            await looked_up(ask, sim, gone),
            await looked_up(ask, sim, hidden),
            await looked_up(ask, sim, elsewhere, dealerUUIDList=[sim.dealers[1 - dealer]]),
        ]
        assert {(reply.status, reply.body) for reply in replies} == {(204, b"")}
        assert (await looked_up(ask, sim, here, dealerUUIDList=sim.dealers)).status == 200
        sim.hide(hidden, hidden=False)
        assert (await looked_up(ask, sim, hidden)).status == 200


@pytest.mark.parametrize("with_data", [True, False])
async def test_a_200_may_carry_errors(ask: Asker, *, with_data: bool) -> None:
    """Beside a part of the data, or instead of all of it: neither is a deletion."""
    async with MyKaarma(customers=1) as sim:
        (key,) = sim.customers()
        sim.fault("errors", with_data=with_data)
        reply = await looked_up(ask, sim, key)
        assert reply.status == 200
        assert reply.json["errors"][0].keys() == {"errorCode", "errorTitle", "errorMessage"}
        left = reply.json.keys() - {"errors", "warnings"}
        assert left == ({"customerInfo", "dealerOrderInfoList", "addressList"} if with_data else set())


async def test_basic_authorization_is_needed(ask: Asker) -> None:
    """401 with errors."""
    async with MyKaarma(customers=1) as sim:
        reply = await ask(sim, PATH + "x", method="POST", body=REQUEST)
        assert (reply.status, reply.json["errors"][0]["errorTitle"]) == (401, "UNAUTHORIZED")


@pytest.mark.parametrize(
    "body", [None, [], {}, {"requesterUserUUID": 5}, {"requesterUserUUID": "x", "dealerUUIDList": 5}]
)
async def test_an_incomplete_request_is_refused(ask: Asker, body: Any) -> None:
    """400 with errors."""
    async with MyKaarma(customers=1) as sim:
        reply = await ask(sim, PATH + "x", method="POST", headers=BASIC, body=body)
        assert (reply.status, reply.json["errors"][0]["errorTitle"]) == (400, "BAD_REQUEST")


async def test_there_is_no_list(ask: Asker) -> None:
    """Nothing but a look-up is answered."""
    async with MyKaarma(customers=1) as sim:
        assert (await ask(sim, PATH, headers=BASIC)).status == 404
        assert (await ask(sim, "/customers", headers=BASIC)).status == 404


async def test_orders_are_volatile_and_the_rest_is_not(ask: Asker) -> None:
    """Two look-ups of an unchanged customer differ in its orders only, which carry card numbers."""
    clock = Clock()
    async with MyKaarma(seed=1, customers=10, clock=clock) as sim:
        key = next(key for key, customer in sim.customers().items() if customer["dealerOrderInfoList"])
        first = (await looked_up(ask, sim, key)).json
        clock.now += 1
        second = (await looked_up(ask, sim, key)).json
        orders = first.pop("dealerOrderInfoList"), second.pop("dealerOrderInfoList")
        assert orders[0] != orders[1]
        assert first == second
        assert orders[0][0]["transactions"][0]["ccNumber"] == "4111111111111111"
        excluded = (await looked_up(ask, sim, key, "?excludeOrderType=true")).json["dealerOrderInfoList"]
        assert all("order_type" not in order for order in excluded)


async def test_other_customers_are_named_in_answers(ask: Asker) -> None:
    """Some customers have secondary ones, whose guid can be looked up."""
    async with MyKaarma(seed=1) as sim:
        for _ in range(40):
            sim.create()
        links = [
            link["guid"] for each in sim.customers().values() for link in each["customerInfo"]["secondaryCustomerData"]
        ]
        assert links
        assert (await looked_up(ask, sim, links[0])).status == 200


async def test_an_update_reaches_into_the_customers_info(ask: Asker) -> None:
    """Names at the top level go where they belong."""
    async with MyKaarma(customers=1) as sim:
        (key,) = sim.customers()
        sim.update(key, {"fname": "Renamed", "addressList": []})
        reply = await looked_up(ask, sim, key)
        assert (reply.json["customerInfo"]["fname"], reply.json["addressList"]) == ("Renamed", [])
        assert reply.json["customerInfo"]["lname"]
