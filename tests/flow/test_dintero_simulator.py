"""dintero, read over real HTTP from a simulated Dintero that keeps the document's open questions open."""

import random
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import orjson
import pytest

from tests.flow.upstream import Upstream
from worker.errors import CredentialError
from worker.http import Lane
from worker.privacy import Hasher
from worker.simulator.dintero import Dintero as Simulator
from worker.sources import Row, Tombstone, normalizer
from worker.sources.dintero import Dintero, DinteroSettings

SECRETS = {"client_id": "dintero-test-client", "client_secret": "dintero-test-secret"}
START = 1_750_000_000.0


class Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now


@asynccontextmanager
async def reading(
    *, settings: dict[str, Any] | None = None, secrets: dict[str, str] = SECRETS, **options: Any
) -> AsyncGenerator[tuple[Simulator, Upstream, Clock], None]:
    """Start a simulated Dintero and a reader of it, on one clock."""
    clock = Clock()
    async with Simulator(clock=clock, **options) as simulator:
        references = {"client_id": {"env": "CLIENT_ID"}, "client_secret": {"env": "CLIENT_SECRET"}}
        given = {"url": simulator.url, "allow_private_addresses": True, "rate": 10_000, "burst": 1_000, **references}
        checked = DinteroSettings.model_validate({"aid": simulator.account, **given, **(settings or {})})
        async with Lane("shop", checked) as lane:
            yield simulator, Upstream(Dintero("shop", checked), lane, secrets, clock), clock


async def test_the_first_reading_takes_in_every_customer() -> None:
    """The first reading of `since` shows everybody."""
    async with reading(customers=250) as (simulator, upstream, _):
        await upstream.pages("since")
        assert upstream.customers == upstream.truth(simulator.customers())


async def test_what_customers_consented_to_is_read_by_channel() -> None:
    """Whether they did; when stays an attribute."""
    async with reading(customers=30) as (simulator, upstream, _):
        await upstream.pages("since")
        own = normalizer(Dintero, DinteroSettings.model_construct(), Hasher(b"pepper"))
        told = set()
        for id_, record in simulator.customers().items():
            body = orjson.loads(upstream.customers[id_])
            customer = upstream.adapter.normalize(Row(id_, body), own)
            told.add(tuple((consent["channel"], consent["granted"]) for consent in customer["consents"]))
            given = record["marketing_consent"]
            assert customer["attributes"]["marketing_consent"] == {
                channel: {"updated_at": given[channel]["updated_at"]} for channel in ("email", "sms")
            }
        assert told == {(("email", True), ("sms", False)), (("email", True), ("sms", True))}


@pytest.mark.parametrize("bound", ["inclusive", "exclusive"])
@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("tombstone_tokens", [False, True])
async def test_nothing_is_lost_whatever_the_document_leaves_open(
    bound: str, *, shuffled: bool, tombstone_tokens: bool
) -> None:
    """However the bound is meant and a page is ordered, what was read equals what is there once all is quiet."""
    options: dict[str, Any] = {"since": bound, "shuffled": shuffled, "tombstone_tokens": tombstone_tokens}
    async with reading(customers=120, settings={"page_size": 7}, **options) as (simulator, upstream, clock):
        await upstream.pages("since")
        for _ in range(25):
            clock.now += 1
            simulator.churn(6)
            await upstream.pages("since")
        clock.now += 60
        await upstream.pages("since")
        assert upstream.customers == upstream.truth(simulator.customers())
        assert upstream.deleted


@pytest.mark.parametrize("bound", ["inclusive", "exclusive"])
async def test_customers_of_one_time_are_read_across_the_border_of_a_page(bound: str) -> None:
    """Times that are shared by fewer customers than fill a page never hide one behind a page's border."""
    async with reading(customers=60, since=bound, shuffled=True, settings={"page_size": 10}) as (sim, upstream, clock):
        await upstream.pages("since")
        ids = list(sim.customers())
        for start in range(0, 56, 7):
            clock.now += 1
            sim.bulk_update(ids[start : start + 7])
        pages = await upstream.pages("since")
        assert upstream.customers == upstream.truth(sim.customers())
        assert not [page.note for page in pages if page.note]


@pytest.mark.parametrize("bound", ["inclusive", "exclusive"])
async def test_more_customers_of_one_time_than_fill_a_page_are_listed_instead(bound: str) -> None:
    """A page of changes that is all one time leads nowhere: everybody is listed, and the note says so."""
    async with reading(customers=90, since=bound, settings={"page_size": 20}) as (simulator, upstream, clock):
        await upstream.pages("since")
        clock.now += 10
        simulator.bulk_update(list(simulator.customers())[:70])
        pages = await upstream.pages("since")
        assert [page.note for page in pages if page.note] == [
            "20 customers with one time fill a page of changes: everybody is read by starting_after"
        ]
        assert upstream.customers == upstream.truth(simulator.customers())
        clock.now += 60
        await upstream.pages("since")
        quiet = await upstream.pages("since")
        assert [len(page.items) for page in quiet] == [0]


async def test_what_becomes_visible_late_is_found() -> None:
    """A change that shows up to `lookback` after its time is not lost, even behind later ones."""
    async with reading(customers=30) as (simulator, upstream, clock):
        await upstream.pages("since")
        late = next(iter(simulator.customers()))
        simulator.update(late, {"first_name": "Late"}, visible_after=20.0)
        for _ in range(30):
            clock.now += 1
            simulator.create()
            await upstream.pages("since")
        assert upstream.customers == upstream.truth(simulator.customers())
        assert b'"Late"' in upstream.customers[late]


@pytest.mark.parametrize("seed", range(12))
async def test_nothing_is_lost_when_all_of_it_happens_at_once(seed: int) -> None:
    """Shared times, late changes, tombstones, contacts and small pages, in any mixture: all is read in the end."""
    chance = random.Random(seed)
    options: dict[str, Any] = {"since": chance.choice(["inclusive", "exclusive"]), "shuffled": chance.random() < 0.5}
    size = chance.choice([1, 3, 10])
    async with reading(customers=25, seed=seed, settings={"page_size": size}, **options) as (
        simulator,
        upstream,
        clock,
    ):
        for _ in range(30):
            clock.now += chance.choice([0, 0.001, 1, 5])
            ids = list(simulator.customers())
            some = chance.sample(ids, chance.randrange(1, 15))
            late = chance.choice([0.0, 0.0, 1.0, 25.0])
            writes: list[Callable[[], object]] = [
                partial(simulator.bulk_update, some, {"status": "moved"}, visible_after=late),
                partial(simulator.delete, some[0], visible_after=late),
                partial(simulator.create, visible_after=late),
                partial(simulator.create, {"type": "contact", "contact_for": [{"id": id_} for id_ in some]}),
            ]
            with suppress(KeyError):  # a deletion of one of them was under way
                chance.choice(writes)()
            await upstream.page("since")
        for _ in range(3):
            clock.now += 60
            await upstream.pages("since")
        assert upstream.customers == upstream.truth(simulator.customers())


async def test_a_deletion_comes_as_a_tombstone() -> None:
    """A deleted customer comes as a tombstone with the time of its deletion, in the changes and in the listing."""
    async with reading(customers=5) as (simulator, upstream, clock):
        await upstream.pages("since")
        clock.now += 5
        gone = next(iter(simulator.customers()))
        simulator.delete(gone)
        changes = [item for page in await upstream.pages("since") for item in page.items]
        assert Tombstone(gone, round(clock.now * 1000)) in changes
        listed = [item for page in await upstream.pages("check") for item in page.items]
        assert Tombstone(gone, round(clock.now * 1000)) in listed
        assert upstream.customers == upstream.truth(simulator.customers())


async def test_pages_full_of_tombstones_lead_on_by_their_time_of_deletion() -> None:
    """Tombstones, which have no time of change, are paged by their time of deletion, without listing everybody."""
    async with reading(customers=40, settings={"page_size": 10}) as (simulator, upstream, clock):
        await upstream.pages("since")
        for customer_id in list(simulator.customers())[:35]:
            clock.now += 1
            simulator.delete(customer_id)
        pages = await upstream.pages("since")
        assert not [page.note for page in pages if page.note]
        assert len(upstream.deleted) == 35


async def test_the_check_lists_everybody_in_pages() -> None:
    """The check shows every customer, contacts included, and their number, which deleted ones are no part of."""
    async with reading(customers=45, settings={"page_size": 10}) as (simulator, upstream, _):
        other = next(iter(simulator.customers()))
        simulator.create({"type": "contact", "contact_for": [{"id": other}]})
        simulator.delete(list(simulator.customers())[7])
        pages = await upstream.pages("check")
        assert upstream.customers == upstream.truth(simulator.customers())
        assert {page.total for page in pages} == {len(upstream.customers)}


async def test_users_linked_from_a_contact_do_not_lead_a_page_astray() -> None:
    """Users that an answer includes because a contact links to them do not move the bound past what lies between."""
    async with reading(customers=40, settings={"page_size": 5}) as (simulator, upstream, clock):
        await upstream.pages("since")
        ids = list(simulator.customers())
        clock.now += 1
        simulator.create({"type": "contact", "contact_for": [{"id": ids[0]}]})
        for customer_id in ids[10:30]:
            clock.now += 0.1
            simulator.update(customer_id)
        clock.now += 0.1
        simulator.update(ids[0])
        await upstream.pages("since")
        assert upstream.customers == upstream.truth(simulator.customers())


async def test_a_plus_arrives_as_a_plus() -> None:
    """A phone number as a filter keeps its plus on the way."""
    async with reading(customers=0, settings={"phone_number": "+1555"}) as (simulator, upstream, _):
        wanted = simulator.create({"phone_number": "+15550100"})
        simulator.create({"phone_number": "+4755501001"})
        await upstream.pages("since")
        assert set(upstream.customers) == {wanted}
        assert "%2B1555" in simulator.requests[-1].query


async def test_every_filter_of_the_document_narrows_what_is_seen() -> None:
    """Type, search, e-mail and attributes narrow the listing to those that match all of them."""
    filters = {
        "type": "customer",
        "search": "Ada",
        "email": "ada@",
        "attributes_keys": ["segment"],
        "attributes_values": ["A"],
    }
    async with reading(settings=filters) as (simulator, upstream, _):
        ada = {"first_name": "Ada", "email": "ada@example.com", "type": "customer", "attributes": {"segment": "A"}}
        wanted = simulator.create(ada)
        email = {"email": "ada@example.org"}
        for other in ({"type": "other"}, {"email": "eve@example.com"}, {**email, "attributes": {"segment": "B"}}):
            simulator.create({**ada, **other})
        await upstream.pages("since")
        assert set(upstream.customers) == {wanted}


async def test_a_changed_customer_id_is_a_change_of_the_same_customer() -> None:
    """A new `customer_id` shows in the same customer's references, since the id stays."""
    async with reading(customers=1) as (simulator, upstream, clock):
        await upstream.pages("since")
        (id_,) = upstream.customers
        clock.now += 5
        simulator.update(id_, {"customer_id": "moved"})
        await upstream.pages("since")
        assert set(upstream.customers) == {id_}
        assert b'"moved"' in upstream.customers[id_]


async def test_a_wrong_secret_is_the_credential_s_fault() -> None:
    """A refused client secret is a credential error, which only a person can mend."""
    async with reading(secrets={**SECRETS, "client_secret": "wrong"}) as (_, upstream, _clock):
        with pytest.raises(CredentialError, match="it was refused"):
            await upstream.pages("since")
