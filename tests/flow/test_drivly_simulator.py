"""drivly, read over real HTTP from a simulated Payload server with its traps.

What is claimed of the three feeds is shown here: the head misses what becomes visible late, the tail does not; neither
sees a deletion or a row dated back, the sweep sees both.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import pytest

from tests.flow.upstream import Upstream
from worker.errors import CredentialError, MalformedPageError, RefusedError, UpstreamError, UpstreamUnavailableError
from worker.http import Lane
from worker.simulator.drivly import Drivly as Simulator
from worker.sources import Bad, Exists, Missing, Row, Stub, Tombstone, Unsure
from worker.sources.drivly import Drivly, DrivlySettings
from worker.sources.payload import check

START = 1_750_000_000.0
SECRETS = {"key": "users API-Key drivly-test-key"}
DATABASES = pytest.mark.parametrize("database", ["postgres", "sqlite", "mongodb"])


class Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now


class Reader(Upstream):
    """A reader that also notes what the sweep lists."""

    def __init__(self, *args: Any) -> None:
        """Read as `Upstream` does."""
        super().__init__(*args)
        self.listed: dict[str, int | None] = {}

    def _take(self, item: Row | Stub | Tombstone | Bad) -> None:
        if isinstance(item, Stub):
            self.listed[item.id] = item.updated
        else:
            super()._take(item)


@asynccontextmanager
async def reading(
    *, settings: dict[str, Any] | None = None, secrets: dict[str, str] = SECRETS, root: str = "/api", **options: Any
) -> AsyncGenerator[tuple[Simulator, Reader, Clock], None]:
    """Start a simulated Drivly and a reader of it, on one clock."""
    clock = Clock()
    async with Simulator(clock=clock, **options) as simulator:
        given = {"url": simulator.url + root, "allow_private_addresses": True, "rate": 10_000, "burst": 1_000}
        checked = DrivlySettings.model_validate({**given, "key": {"env": "KEY"}, "page_size": 7, **(settings or {})})
        async with Lane("deals", checked) as lane:
            yield simulator, Reader(Drivly("deals", checked), lane, secrets, clock), clock


def stamps(simulator: Simulator) -> dict[str, int]:
    """Return when each customer last changed, in ms since the epoch."""
    return {str(row.id): row.updated for row in simulator.store.ordered}


@DATABASES
@pytest.mark.parametrize("customers", [0, 1, 7, 8, 120])
async def test_the_head_takes_in_every_customer(database: str, customers: int) -> None:
    """A first reading of the head shows everybody, field by field, whatever the database below."""
    async with reading(database=database, customers=customers) as (simulator, upstream, _):
        pages = await upstream.pages("head")
        assert upstream.customers == upstream.truth(simulator.customers())
        assert sum(len(page.items) for page in pages) == customers


@DATABASES
async def test_one_stamp_on_many_rows_loses_none(database: str) -> None:
    """Sixty customers changed at one moment are read once each, in pages of seven."""
    async with reading(database=database, customers=100) as (simulator, upstream, clock):
        await upstream.pages("head")
        clock.now += 5
        simulator.bulk_update(list(simulator.store.rows)[10:70], {"consumerStatus": "TIED"})
        pages = await upstream.pages("head")
        assert sum(len(page.items) for page in pages) == 60
        assert upstream.customers == upstream.truth(simulator.customers())


@DATABASES
async def test_rows_that_move_while_they_are_read_are_not_passed_over(database: str) -> None:
    """With changes between any two pages, everybody who is still there has been read when all is quiet."""
    async with reading(database=database, customers=150) as (simulator, upstream, clock):
        while (await upstream.page("head")).more:
            clock.now += 0.001
            simulator.churn(3)
        await upstream.pages("head")
        there = upstream.truth(simulator.customers())
        assert {id_: seen for id_, seen in upstream.customers.items() if id_ in there} == there


async def test_what_becomes_visible_late_is_caught_by_the_tail() -> None:
    """A row committed after one with a later stamp is behind the head's cursor, and before the tail's."""
    async with reading(customers=20) as (simulator, upstream, clock):
        late = str(simulator.create(visible_after=20))
        clock.now += 1
        simulator.create()
        await upstream.pages("head")
        clock.now += 25
        await upstream.pages("head")
        assert late not in upstream.customers
        clock.now += 10
        await upstream.pages("tail")
        assert upstream.customers == upstream.truth(simulator.customers())


async def test_the_tail_never_overtakes_the_lookback() -> None:
    """The tail reads nothing younger than the lookback, and everything once it is older."""
    async with reading(customers=5, settings={"lookback": "10s"}) as (simulator, upstream, clock):
        await upstream.pages("head")
        clock.now += 60
        await upstream.pages("head")
        young = str(simulator.create())
        clock.now += 9
        upstream.customers.clear()
        await upstream.pages("head")
        assert set(upstream.customers) == {young}
        upstream.customers.clear()
        await upstream.pages("tail")
        assert len(upstream.customers) == 5
        clock.now += 2
        await upstream.pages("head")
        await upstream.pages("tail")
        assert upstream.customers == upstream.truth(simulator.customers())


@DATABASES
async def test_the_sweep_sees_deletions_and_rows_dated_back(database: str) -> None:
    """The sweep lists exactly who is there, with the total, and with the time that tells a row dated back."""
    async with reading(database=database, customers=60) as (simulator, upstream, clock):
        await upstream.pages("head")
        clock.now += 1
        for key in list(simulator.store.rows)[::7]:
            simulator.delete(key)
        backdated = str(simulator.create(at=START - 86_400))
        await upstream.pages("head")
        assert backdated not in upstream.customers
        pages = await upstream.pages("sweep")
        assert upstream.listed == stamps(simulator)
        assert upstream.listed[backdated] == (START - 86_400) * 1000
        assert {page.total for page in pages} == {len(simulator.customers())}


async def test_a_row_of_the_future_does_not_stop_the_head() -> None:
    """A customer stamped years ahead is left to the sweep, and what changes today is still read at once."""
    async with reading(customers=10) as (simulator, upstream, clock):
        future = str(simulator.create(at=START + 10**8))
        await upstream.pages("head")
        clock.now += 1
        today = str(simulator.create())
        await upstream.pages("head")
        assert today in upstream.customers
        assert future not in upstream.customers
        await upstream.pages("sweep")
        assert future in upstream.listed


async def test_only_the_configured_customers_are_read() -> None:
    """The configured filter holds in every feed, and its total is that of the filter."""
    where = {"or": [{"consumerStatus": {"equals": "SOLD"}}, {"consumerStatus": {"in": ["NEW", "LOST"]}}]}
    async with reading(customers=80, settings={"where": where}) as (simulator, upstream, _):
        await upstream.pages("head")
        wanted = {id_: doc for id_, doc in simulator.customers().items() if doc["consumerStatus"] != "ACTIVE"}
        assert 0 < len(wanted) < 80
        assert upstream.customers == upstream.truth(wanted)
        pages = await upstream.pages("sweep")
        assert set(upstream.listed) == set(wanted)
        assert {page.total for page in pages} == {len(wanted)}


@pytest.mark.parametrize("letter", ["x", "\N{LATIN SMALL LETTER O WITH STROKE}"])
@pytest.mark.parametrize("values", [1, 12, 80])
async def test_the_longest_filter_fits_into_an_address(letter: str, values: int) -> None:
    """A filter as long as a configuration may have is still answered, with our own bounds around it."""
    length = (12 * 1024 // values - 70) // len(quote(letter))
    where = {"or": [{"companyName": {"equals": letter * length}} for _ in range(values)]}
    with pytest.raises(ValueError, match="too long"):
        check({"or": [*where["or"], {"companyName": {"equals": letter * 300}}]})
    async with reading(customers=10, settings={"where": where}) as (_, upstream, _):
        assert await upstream.pages("head")
        assert await upstream.pages("sweep")


async def test_a_filter_of_an_unknown_field_is_named() -> None:
    """A field that the server does not have is refused, with its name."""
    async with reading(customers=1, settings={"where": {"color": {"equals": "mint"}}}) as (_, upstream, _):
        with pytest.raises(RefusedError, match="fields that cannot be queried: color"):
            await upstream.pages("head")


@DATABASES
async def test_customers_are_looked_up(database: str) -> None:
    """A look-up shows the customer as the listing does; one who is gone is missing for certain."""
    async with reading(database=database, customers=5) as (simulator, upstream, _):
        keys = list(simulator.store.rows)
        verdict = await upstream.lookup(str(keys[0]))
        assert isinstance(verdict, Exists)
        assert upstream.essence(verdict.row) == upstream.truth(simulator.customers())[str(keys[0])]
        simulator.delete(keys[0])
        assert await upstream.lookup(str(keys[0])) == Missing(conclusive=True)


async def test_a_look_up_at_a_wrong_address_proves_nothing() -> None:
    """A 404 of something else than the API is no deletion."""
    async with reading(customers=5, root="/wrong") as (_, upstream, _):
        assert isinstance(await upstream.lookup("1"), Unsure)


async def test_a_refused_key_is_told() -> None:
    """A wrong key gets 403, which of a single customer may also mean that only this one is not to be seen."""
    async with reading(customers=5, secrets={"key": "wrong"}) as (_, upstream, _):
        for ask in (upstream.pages("head"), upstream.pages("sweep")):
            with pytest.raises(CredentialError, match="credential"):
                await ask
        assert isinstance(await upstream.lookup("1"), Unsure)


async def test_a_key_that_sees_nothing_shows_an_empty_source() -> None:
    """Where access filters, a wrong key sees nobody: an empty listing, which is for the poller to doubt."""
    async with reading(customers=5, secrets={"key": "wrong"}, auth="filter") as (_, upstream, _):
        assert [list(page.items) for page in await upstream.pages("head")] == [[]]
        assert [page.total for page in await upstream.pages("sweep")] == [0]


@pytest.mark.parametrize("feed", ["head", "sweep"])
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("html", MalformedPageError),
        ("truncated", MalformedPageError),
        ("missing_ids", MalformedPageError),
        ("nan", MalformedPageError),
        ("redirect", RefusedError),
        ("cut", UpstreamUnavailableError),
        ("status", UpstreamUnavailableError),
    ],
)
async def test_a_fault_fails_the_page_and_leaves_the_cursor(feed: str, fault: str, error: type[UpstreamError]) -> None:
    """After a page that could not be read, the same page is read again, and nobody is lost."""
    async with reading(customers=40) as (simulator, upstream, _):
        await upstream.page(feed)
        before = upstream.cursors[feed]
        simulator.fault(fault, times=1)
        with pytest.raises(error):
            await upstream.page(feed)
        assert upstream.cursors[feed] == before
        while (await upstream.page(feed)).more:
            pass
        assert set(upstream.customers or upstream.listed) == set(simulator.customers())


async def test_a_server_that_ignores_the_keyset_is_found_out() -> None:
    """A page served again is refused instead of being read for ever."""
    async with reading(customers=40) as (simulator, upstream, _):
        first = await upstream.page("head")
        assert first.more
        feed, cursor = "head", upstream.cursors["head"]
        again = upstream.adapter.request(feed, None, upstream._moment())
        assert again is not None
        response = await upstream.ask(again)
        with pytest.raises(MalformedPageError, match="order"):
            upstream.adapter.read(feed, cursor, upstream._moment(), response)
        assert simulator.counts["GET", 200] == 2
