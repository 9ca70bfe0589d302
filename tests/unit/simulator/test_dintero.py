"""The Dintero simulator has the vendor's feed, filters and tokens, and what its document leaves open as options."""

from __future__ import annotations

from base64 import b64encode
from typing import Any
from urllib.parse import quote

import pytest

from tests.unit.simulator.conftest import Asker, Clock, Reply
from worker.simulator import Dintero, DuplicateEmailError, People

ACCOUNT = "/v1/accounts/P12345678"
USERS = f"{ACCOUNT}/customers/users"
CLIENT = {"Authorization": "Basic " + b64encode(b"dintero-test-client:dintero-test-secret").decode()}
GRANT = {"grant_type": "client_credentials", "audience": f"https://api.example.com{ACCOUNT}"}


async def token(ask: Asker, sim: Dintero) -> dict[str, str]:
    """Fetch a token, as a header."""
    reply = await ask(sim, f"{ACCOUNT}/auth/token", method="POST", headers=CLIENT, body=GRANT)
    return {"Authorization": f"Bearer {reply.json['access_token']}"}


async def listed(ask: Asker, sim: Dintero, query: str = "") -> Reply:
    """List with a token of its own."""
    return await ask(sim, f"{USERS}?{query}", headers=await token(ask, sim))


async def ids(ask: Asker, sim: Dintero, query: str = "") -> list[str]:
    """List the ids of a page."""
    return [user["id"] for user in (await listed(ask, sim, query)).json]


# Tokens


async def test_a_token_is_given_for_client_credentials(ask: Asker) -> None:
    """With the type and the seconds it lasts."""
    async with Dintero() as sim:
        reply = await ask(sim, f"{ACCOUNT}/auth/token", method="POST", headers=CLIENT, body=GRANT)
        assert (reply.status, reply.json["token_type"], reply.json["expires_in"]) == (200, "Bearer", 86_400)
        assert reply.json["access_token"].count(".") == 2


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({}, GRANT, 401),
        ({"Authorization": "Basic " + b64encode(b"dintero-test-client:wrong").decode()}, GRANT, 401),
        ({"Authorization": "Basic ***"}, GRANT, 401),
        (CLIENT, {**GRANT, "grant_type": "password"}, 400),
        (CLIENT, {**GRANT, "audience": "https://api.example.com"}, 400),
        (CLIENT, None, 400),
    ],
)
async def test_a_wrong_token_request_is_refused(ask: Asker, headers: Any, body: Any, status: int) -> None:
    """401 for the client, 400 for the rest, each with the vendor's error object."""
    async with Dintero() as sim:
        reply = await ask(sim, f"{ACCOUNT}/auth/token", method="POST", headers=headers, body=body)
        assert (reply.status, reply.json["error"].keys()) == (status, {"message", "code", "errors"})


async def test_a_token_expires_or_is_revoked(ask: Asker) -> None:
    """401 after its time by the server's clock, or by a fault before; a new one works."""
    clock = Clock()
    async with Dintero(clock=clock, token_seconds=100) as sim:
        bearer = await token(ask, sim)
        assert (await ask(sim, USERS, headers=bearer)).status == 200
        clock.now += 100
        assert (await ask(sim, USERS, headers=bearer)).status == 401
        bearer = await token(ask, sim)
        sim.fault("token_expired", times=1)
        assert [(await ask(sim, USERS, headers=bearer)).status for _ in range(2)] == [401, 401]
        assert (await listed(ask, sim)).status == 200


async def test_the_account_is_part_of_the_address(ask: Asker) -> None:
    """Another account is forbidden, and what is no account id is refused."""
    async with Dintero() as sim:
        bearer = await token(ask, sim)
        assert (await ask(sim, "/v1/accounts/T12345678/customers/users", headers=bearer)).status == 403
        assert (await ask(sim, "/v1/accounts/X1/customers/users", headers=bearer)).status == 400
        assert (await ask(sim, "/v1/customers/users", headers=bearer)).status == 404
    with pytest.raises(ValueError, match="P or T and eight digits"):
        Dintero(account="Q1")


# Listing


async def test_paging_tokens_lead_through_everybody(ask: Asker) -> None:
    """A plain array; the last element's token asks for the next page; 10 are the default."""
    async with Dintero(customers=25) as sim:
        assert len((await listed(ask, sim)).json) == 10
        seen: list[str] = []
        page = (await listed(ask, sim, "limit=7")).json
        while page:
            seen += [user["id"] for user in page]
            page = (await listed(ask, sim, f"limit=7&starting_after={quote(page[-1]['paging_token'])}")).json
        assert seen == list(sim.customers())


async def test_a_listing_goes_on_behind_an_id_too(ask: Asker) -> None:
    """The document calls `starting_after` an object id."""
    async with Dintero(customers=3) as sim:
        everybody = list(sim.customers())
        assert await ids(ask, sim, f"starting_after={everybody[0]}") == everybody[1:]
        assert (await listed(ask, sim, "starting_after=none")).status == 400


@pytest.mark.parametrize("limit", ["0", "101", "-1", "many"])
async def test_a_limit_outside_of_1_to_100_is_refused(ask: Asker, limit: str) -> None:
    """With 400 and the vendor's error object."""
    async with Dintero() as sim:
        reply = await listed(ask, sim, f"limit={limit}")
        assert (reply.status, reply.json["error"]["code"]) == (400, "BAD_REQUEST")


@pytest.mark.parametrize("asked", ["total=true", "include=total-count", "includes=total-count"])
async def test_the_total_is_a_header_on_request(ask: Asker, asked: str) -> None:
    """Of all that match, not of the page."""
    async with Dintero(customers=12) as sim:
        sim.delete(next(iter(sim.customers())))
        assert "total-count" not in (await listed(ask, sim)).headers
        assert (await listed(ask, sim, f"limit=1&{asked}")).headers["total-count"] == "11"
        assert (await listed(ask, sim, f"include_deleted=true&{asked}")).headers["total-count"] == "12"


# Changes


@pytest.mark.parametrize(("since", "found"), [("inclusive", 2), ("exclusive", 1)])
async def test_the_bound_may_be_included_or_not(ask: Asker, since: Any, found: int) -> None:
    """The document does not say; a user changed at the bound is in the answer or is not."""
    clock = Clock()
    async with Dintero(clock=clock, since=since) as sim:
        for _ in range(3):
            clock.now += 1
            sim.create()
        middle = list(sim.customers().values())[1]
        changed = await ids(ask, sim, f"since_datetime={quote(middle['updated_at'])}")
        assert changed == list(sim.customers())[-found:]


async def test_changes_cannot_be_paged_by_token(ask: Asker) -> None:
    """`since_datetime` and `starting_after` together are refused, and so is a time that is none."""
    async with Dintero(customers=1) as sim:
        (key,) = sim.customers()
        assert (await listed(ask, sim, f"since_datetime=2020-01-01T00:00:00Z&starting_after={key}")).status == 400
        assert (await listed(ask, sim, "since_datetime=yesterday")).status == 400


async def test_a_full_page_of_one_time_cannot_advance(ask: Asker) -> None:
    """Asked for the newest time seen, an inclusive feed answers with the same page for ever."""
    async with Dintero(clock=Clock()) as sim:
        for _ in range(8):
            sim.create()
        first = (await listed(ask, sim, "limit=5&since_datetime=2020-01-01T00:00:00Z")).json
        newest = max(user["updated_at"] for user in first)
        assert await ids(ask, sim, f"limit=5&since_datetime={quote(newest)}") == [user["id"] for user in first]


async def test_the_order_inside_a_page_may_be_any(ask: Asker) -> None:
    """Shuffled, a page holds the same users."""
    async with Dintero(seed=1, customers=20, shuffled=True) as sim:
        pages = [await ids(ask, sim, "limit=20&since_datetime=2020-01-01T00:00:00Z") for _ in range(5)]
        assert len({tuple(page) for page in pages}) > 1
        assert {frozenset(page) for page in pages} == {frozenset(sim.customers())}


async def test_a_tombstone_has_ids_and_times_only(ask: Asker) -> None:
    """It is shown on request, has no `updated_at`, and stands at its deletion in the feed of changes."""
    clock = Clock()
    async with Dintero(clock=clock) as sim:
        gone, kept = sim.create(), sim.create()
        clock.now += 60
        sim.delete(gone)
        assert await ids(ask, sim) == [kept]
        since = quote(sim.customers()[str(kept)]["updated_at"])
        last = (await listed(ask, sim, f"include_deleted=true&since_datetime={since}")).json[-1]
        fields = {"id", "customer_id", "created_at", "created_by", "deleted_at", "deleted_by", "paging_token"}
        assert (last["id"], last.keys()) == (gone, fields)
        assert last["deleted_at"] == "2025-06-15T15:07:40.000Z"
        assert await ids(ask, sim, f"since_datetime={since}") == [kept]


async def test_a_tombstone_may_lack_its_paging_token(ask: Asker) -> None:
    """By the letter of the document."""
    async with Dintero(customers=1, tombstone_tokens=False) as sim:
        sim.churn(0)
        sim.delete(next(iter(sim.customers())))
        (tombstone,) = (await listed(ask, sim, "include_deleted=true")).json
        assert "paging_token" not in tombstone


async def test_the_customer_id_may_change(ask: Asker) -> None:
    """The UUID stays."""
    async with Dintero(customers=1) as sim:
        (key,) = sim.customers()
        sim.update(key, {"customer_id": "renumbered"})
        (user,) = (await listed(ask, sim)).json
        assert (user["id"], user["customer_id"]) == (key, "renumbered")


# Filters


async def test_contacts_are_left_out_unless_asked_for(ask: Asker) -> None:
    """`type=contact` and `type=any` show them, with the users that they link to."""
    async with Dintero() as sim:
        customer = sim.create({"type": "customer", "email": "c@example.com"})
        company = sim.create({"type": "company"})
        contact = sim.create({"type": "contact", "contact_for": [{"id": customer}]})
        assert await ids(ask, sim) == [customer, company]
        assert await ids(ask, sim, "type=contact") == [customer, contact]
        assert await ids(ask, sim, "type=any") == [customer, company, contact]
        assert await ids(ask, sim, "type=company") == [company]
        assert (await listed(ask, sim, "type=friend")).status == 400


async def test_texts_match_by_prefix_and_a_plus_must_be_encoded(ask: Asker) -> None:
    """A bare `+` reads as a space and finds nobody, with 200."""
    async with Dintero() as sim:
        key = sim.create({"email": "First+tag@example.com", "phone_number": "+12025550123", "first_name": "Åse"})
        sim.create({"email": "other@example.com", "phone_number": "+12025550199"})
        for query in (
            "email=first%2Btag",
            "email=FIRST",
            "phone_number=%2B1202555012",
            "search=%C3%A5s",
            "search=%2B12025550123",
        ):
            assert await ids(ask, sim, query) == [key], query
        for query in ("email=first+tag", "phone_number=+12025550123", "email=tag", "search=ase"):
            assert await ids(ask, sim, query) == [], query


async def test_search_matches_name_number_id_and_email(ask: Asker) -> None:
    """Each from its beginning."""
    person = {"first_name": "Kari", "last_name": "Berg", "customer_id": "ID-77", "email": "kb@example.com"}
    async with Dintero() as sim:
        key = sim.create(person)
        for term in ("kar", "berg", "kari%20b", "id-7", "kb@"):
            assert await ids(ask, sim, f"search={term}") == [key]


async def test_tags_attributes_and_tokens_narrow_the_listing(ask: Asker) -> None:
    """All of them must match."""
    async with Dintero() as sim:
        key = sim.create({
            "tags": ["vip", "new"],
            "attributes": {"color": "mint", "size": 4},
            "tokens": [{"type": "card", "value": "T1"}],
        })
        sim.create({"tags": ["new"], "attributes": {"color": "white"}})
        queries = ("tag_id=vip", "attributes_keys=color,size", "attributes_keys=color&attributes_values=mint")
        for query in (*queries, "token_value=T1", "token_type=card", "token_type=card&tag_id=vip"):
            assert await ids(ask, sim, query) == [key], query
        for query in ("tag_id=vip&token_type=app", "attributes_keys=color&attributes_values=red"):
            assert await ids(ask, sim, query) == [], query


async def test_at_most_four_attributes_may_be_named(ask: Asker) -> None:
    """And a value needs its key."""
    async with Dintero() as sim:
        assert (await listed(ask, sim, "attributes_keys=a,b,c,d")).status == 200
        assert (await listed(ask, sim, "attributes_keys=a,b,c,d,e")).status == 400
        assert (await listed(ask, sim, "attributes_values=a")).status == 400


# One e-mail address a type


async def test_an_email_is_unique_within_a_type_case_aside(ask: Asker) -> None:
    """409 over HTTP, an error in process; another type, or a deleted user's address, is free."""
    async with Dintero() as sim:
        key = sim.create({"email": "customer@example.com"})
        with pytest.raises(DuplicateEmailError):
            sim.create({"email": "CUStOMer@EXAMPLE.com"})
        with pytest.raises(DuplicateEmailError):
            sim.create(person=People(1).vary(People(1).person(), email="Customer@example.com", company=None))
        bearer = await token(ask, sim)
        reply = await ask(sim, USERS, method="POST", headers=bearer, body={"email": "CUSTOMER@example.com"})
        assert (reply.status, reply.json["error"]["code"]) == (409, "CONFLICT")
        sim.create({"email": "customer@example.com", "type": "contact"})
        sim.update(key, {"email": "customer@EXAMPLE.com"})
        sim.delete(key)
        reply = await ask(sim, USERS, method="POST", headers=bearer, body={"email": "customer@example.com"})
        assert (reply.status, reply.json["email"]) == (200, "customer@example.com")


async def test_one_user_can_be_read_and_deleted(ask: Asker) -> None:
    """404 afterwards, and for a tombstone."""
    async with Dintero(customers=1) as sim:
        (key,) = sim.customers()
        bearer = await token(ask, sim)
        statuses = [
            (await ask(sim, f"{USERS}/{key}", method=method, headers=bearer)).status
            for method in ("GET", "DELETE", "GET", "DELETE")
        ]
        assert statuses == [200, 204, 404, 404]
