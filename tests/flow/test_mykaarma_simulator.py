"""mykaarma, looked up over real HTTP from a simulated myKaarma whose orders never stand still."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import orjson
import pytest

from tests.flow.upstream import Upstream
from worker.http import Lane
from worker.simulator.mykaarma import CARD
from worker.simulator.mykaarma import MyKaarma as Simulator
from worker.sources import Exists, Missing, Unsure
from worker.sources.mykaarma import Mykaarma, MykaarmaSettings

NOW = 1_750_000_000.0
SECRETS = {"username": "rollcall", "password": "mykaarma-test-password"}
REQUESTER = str(UUID(int=7))


@asynccontextmanager
async def looking(
    *, settings: dict[str, Any] | None = None, **options: Any
) -> AsyncGenerator[tuple[Simulator, Upstream], None]:
    """Start a simulated myKaarma and a reader of it."""
    async with Simulator(clock=lambda: NOW, **options) as simulator:
        references = {"username": {"env": "USER"}, "password": {"env": "PASSWORD"}}
        given = {"url": simulator.url, "allow_private_addresses": True, "rate": 10_000, "burst": 1_000, **references}
        given |= {"requester_user_uuid": REQUESTER, "dealer_uuids": simulator.dealers}
        checked = MykaarmaSettings.model_validate({**given, **(settings or {})})
        async with Lane("dealer", checked) as lane:
            yield simulator, Upstream(Mykaarma("dealer", checked), lane, SECRETS, lambda: NOW)


async def found(upstream: Upstream, customer_id: str) -> bytes:
    """Look a customer up who is there, and return what would be fingerprinted."""
    verdict = await upstream.lookup(customer_id)
    assert isinstance(verdict, Exists), verdict
    return upstream.essence(verdict.row)


async def test_a_customer_is_looked_up_by_uuid() -> None:
    """A look-up shows the customer, with the requester and the dealers in the request."""
    async with looking(customers=3) as (simulator, upstream):
        for customer_id, answer in simulator.customers().items():
            assert answer["customerInfo"]["fname"].encode() in await found(upstream, customer_id)


async def test_orders_and_stamps_that_move_change_nothing() -> None:
    """Two look-ups of an unchanged customer are the same, although its orders differ in each of them."""
    async with looking(customers=20, volatile_orders=True) as (simulator, upstream):
        ids = list(simulator.customers())
        first = [await found(upstream, id_) for id_ in ids]
        assert [await found(upstream, id_) for id_ in ids] == first


async def test_configured_orders_are_taken_in_without_card_numbers() -> None:
    """With `orders` a changed order is a change; a card number is in no row either way."""
    async with looking(customers=20, settings={"orders": True}) as (simulator, upstream):
        ids = list(simulator.customers())
        first = [await found(upstream, id_) for id_ in ids]
        assert [await found(upstream, id_) for id_ in ids] != first
        assert any(b"dealerOrder_id" in essence for essence in first)
        assert CARD.encode() in orjson.dumps(simulator.customers())
        assert not any(CARD.encode() in essence for essence in first)


async def test_the_order_of_what_is_listed_changes_nothing() -> None:
    """Communications and addresses in another order are the same customer."""
    async with looking(customers=1) as (simulator, upstream):
        ((customer_id, answer),) = simulator.customers().items()
        first = await found(upstream, customer_id)
        entries = answer["customerInfo"]["communications"]
        simulator.update(customer_id, {"communications": entries[::-1]})
        assert await found(upstream, customer_id) == first


async def test_204_may_also_mean_hidden() -> None:
    """A customer that is gone and one that is hidden look the same: missing, but not conclusively."""
    async with looking(customers=2) as (simulator, upstream):
        gone, hidden = simulator.customers()
        simulator.delete(gone)
        simulator.hide(hidden)
        assert await upstream.lookup(gone) == Missing(conclusive=False)
        assert await upstream.lookup(hidden) == Missing(conclusive=False)


async def test_another_dealer_s_customer_is_not_visible() -> None:
    """Only customers of the configured dealers are seen."""
    async with looking(customers=4, settings={"dealer_uuids": [str(UUID(int=9))]}) as (simulator, upstream):
        assert [await upstream.lookup(id_) for id_ in simulator.customers()] == [Missing(conclusive=False)] * 4


async def test_errors_instead_of_data_are_no_deletion() -> None:
    """A 200 that carries errors and no customer proves nothing."""
    async with looking(customers=1) as (simulator, upstream):
        (customer_id,) = simulator.customers()
        simulator.fault("errors")
        assert await upstream.lookup(customer_id) == Unsure(
            "the look-up was answered 200 without a customer (errorCode 50010)"
        )


async def test_errors_beside_data_leave_the_customer_there() -> None:
    """A 200 that carries errors and the whole customer shows the customer."""
    async with looking(customers=1) as (simulator, upstream):
        (customer_id,) = simulator.customers()
        before = await found(upstream, customer_id)
        simulator.fault("errors", with_data=True, without=["dealerOrderInfoList"])  # it is not kept
        assert await found(upstream, customer_id) == before


@pytest.mark.parametrize("part", ["customerInfo", "addressListV2", "addressList", "dealerOrderInfoList"])
async def test_errors_in_place_of_a_part_prove_nothing(part: str) -> None:
    """What is missing beside errors was not read: the customer has not lost it."""
    async with looking(customers=1, settings={"orders": True}) as (simulator, upstream):
        (customer_id,) = simulator.customers()
        simulator.fault("errors", with_data=True, without=[part])
        assert isinstance(await upstream.lookup(customer_id), Unsure)


@pytest.mark.parametrize("fault", ["nulls", "missing_ids", "truncated", "html", "charset", "redirect"])
async def test_a_spoiled_answer_is_no_deletion(fault: str) -> None:
    """Whatever is done to an answer, it never says that a customer is gone."""
    async with looking(customers=1) as (simulator, upstream):
        (customer_id,) = simulator.customers()
        simulator.fault(fault)
        assert not isinstance(await upstream.lookup(customer_id), Missing)


@pytest.mark.parametrize("excluded", [True, False])
async def test_order_types_can_be_excluded(*, excluded: bool) -> None:
    """`exclude_order_type` reaches the server as excludeOrderType."""
    async with looking(customers=1, settings={"exclude_order_type": excluded}) as (simulator, upstream):
        (customer_id,) = simulator.customers()
        await found(upstream, customer_id)
        assert simulator.requests[-1].query == f"excludeOrderType={str(excluded).lower()}"


async def test_secondary_customers_are_named_only_if_configured() -> None:
    """The guids of secondary customers are told where the settings ask for it, and nowhere else."""
    for follow in (False, True):
        async with looking(customers=1, settings={"follow_secondary": follow}) as (simulator, upstream):
            (other,) = simulator.customers()
            named = [{"guid": other}, {"guid": "no-uuid"}, {"guid": None}, {"guid": other}]
            verdict = await upstream.lookup(str(simulator.create({"secondaryCustomerData": named})))
            assert isinstance(verdict, Exists)
            assert isinstance(upstream.adapter, Mykaarma)
            assert upstream.adapter.related(verdict.row) == ((other,) if follow else ())
