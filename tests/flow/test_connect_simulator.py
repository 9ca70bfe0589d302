"""connect, read over real HTTP from a simulated Connect API of either edition."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.flow.upstream import Upstream
from worker.errors import CredentialError, CursorExpiredError, MalformedPageError, RefusedError
from worker.http import Lane
from worker.simulator.connect import Connect as Simulator
from worker.sources import Exists, Missing, Unsure
from worker.sources.connect import Connect, ConnectSettings

NOW = 1_750_000_000.0
SECRETS = {"key": "connect-test-key"}


@asynccontextmanager
async def reading(
    *, settings: dict[str, Any] | None = None, secrets: dict[str, str] = SECRETS, **options: Any
) -> AsyncGenerator[tuple[Simulator, Upstream], None]:
    """Start a simulated Connect API and a reader of it."""
    async with Simulator(clock=lambda: NOW, **options) as simulator:
        given = {
            "url": simulator.url,
            "allow_private_addresses": True,
            "rate": 10_000,
            "burst": 1_000,
            "key": {"env": "KEY"},
        }
        checked = ConnectSettings.model_validate({**given, **(settings or {})})
        async with Lane("telco", checked) as lane:
            yield simulator, Upstream(Connect("telco", checked), lane, secrets, lambda: NOW)


@pytest.mark.parametrize("edition", ["cursor", "offset"])
@pytest.mark.parametrize("null_cursor", [True, False])
@pytest.mark.parametrize("customers", [0, 1, 20, 41])
async def test_a_scan_reads_every_customer_of_either_edition(
    edition: str, *, null_cursor: bool, customers: int
) -> None:
    """A scan shows everybody, whether the API pages by cursor or by offset, and however it ends."""
    options: dict[str, Any] = {"edition": edition, "null_cursor": null_cursor, "customers": customers}
    async with reading(settings={"page_size": 20}, **options) as (simulator, upstream):
        pages = await upstream.pages("scan")
        assert upstream.customers == upstream.truth(simulator.customers())
        assert len(pages) == max(1, -(-customers // 20))


async def test_the_older_edition_says_how_many_there_are() -> None:
    """The older edition's total is handed on, so that a listing cut short proves nothing."""
    async with reading(edition="offset", customers=30, settings={"page_size": 20}) as (_, upstream):
        assert [page.total for page in await upstream.pages("scan")] == [30, 30]


async def test_a_second_scan_of_the_same_customers_shows_no_change() -> None:
    """The order of the keys in metadata, which is another one each time, changes no fingerprint."""
    async with reading(customers=30) as (_, upstream):
        await upstream.pages("scan")
        before = dict(upstream.customers)
        await upstream.pages("scan")
        assert upstream.customers == before


async def test_a_look_up_and_a_listing_say_the_same() -> None:
    """A customer that is looked up has the fingerprint that it has in the listing."""
    async with reading(customers=3) as (_, upstream):
        await upstream.pages("scan")
        for customer_id, essence in upstream.customers.items():
            verdict = await upstream.lookup(customer_id)
            assert isinstance(verdict, Exists)
            assert upstream.essence(verdict.row) == essence


async def test_a_customer_that_is_gone_is_missing_for_sure() -> None:
    """A look-up of a deleted customer is conclusive."""
    async with reading(customers=3) as (simulator, upstream):
        gone = next(iter(simulator.customers()))
        simulator.delete(gone)
        assert await upstream.lookup(gone) == Missing(conclusive=True)


@pytest.mark.parametrize("customer_id", ["a/b", "a b", "ä?x=1#y", "50%", "..a"])
async def test_an_id_reaches_the_server_as_it_is(customer_id: str) -> None:
    """Whatever characters an id has, it is that customer who is looked up."""
    async with reading() as (simulator, upstream):
        simulator.create(id=customer_id)
        verdict = await upstream.lookup(customer_id)
        assert isinstance(verdict, Exists)
        assert verdict.row.id == customer_id


async def test_an_expired_cursor_starts_the_scan_over() -> None:
    """A cursor that the server no longer takes is told from a request that it refuses."""
    async with reading(customers=30, settings={"page_size": 10}) as (simulator, upstream):
        await upstream.page("scan")
        simulator.fault("expired_cursor", times=1)
        with pytest.raises(CursorExpiredError, match="the cursor was answered 400"):
            await upstream.page("scan")


async def test_a_cursor_that_leads_in_a_circle_is_found_out() -> None:
    """A server that hands out the same cursor again and again is not followed for ever."""
    async with reading(customers=30, settings={"page_size": 10}) as (simulator, upstream):
        await upstream.page("scan")
        simulator.fault("repeating_cursor")
        with pytest.raises(MalformedPageError, match="the cursor repeats"):
            await upstream.pages("scan")


async def test_a_search_narrows_the_scan() -> None:
    """A configured search reaches the server, whatever characters it has."""
    async with reading(customers=20, settings={"search": "Ö & +1"}) as (simulator, upstream):
        wanted = simulator.create({"name": "Ö & +1"})
        await upstream.pages("scan")
        assert set(upstream.customers) == {wanted}


async def test_a_refused_request_is_not_an_expired_cursor() -> None:
    """A 400 to a request without a cursor is a refusal: starting over would not help."""
    async with reading(customers=3) as (simulator, upstream):
        simulator.fault("answer_after", status=400)
        with pytest.raises(RefusedError):
            await upstream.page("scan")


@pytest.mark.parametrize("status", [400, 409, 418])
async def test_an_odd_answer_to_a_look_up_proves_nothing(status: int) -> None:
    """Only 404 says that a customer is gone."""
    async with reading(customers=1) as (simulator, upstream):
        (customer_id,) = simulator.customers()
        simulator.fault("answer_after", status=status)
        assert isinstance(await upstream.lookup(customer_id), Unsure)


async def test_a_forbidden_key_is_the_credential_s_fault() -> None:
    """403 stops the source until a person has mended the key."""
    async with reading(customers=1) as (simulator, upstream):
        simulator.fault("status", status=403)
        with pytest.raises(CredentialError):
            await upstream.page("scan")
