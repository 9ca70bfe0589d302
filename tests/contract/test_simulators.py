"""What every simulated system promises to the demo, the tests and the benchmarks that drive it."""

from __future__ import annotations

import asyncio
import re
from base64 import b64encode
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.simulator import Connect, Dintero, Drivly, MyKaarma, People, Person, Simulator
from worker.simulator.answers import Ask
from worker.sources import adapter_class, available
from worker.sources.documented import unknown

SYSTEMS = [Connect, Dintero, Drivly, MyKaarma]
ADDRESS = re.compile(r"[^@\s\"]+@([a-z.]+)", re.IGNORECASE)
BASIC = "Basic " + b64encode(b"rollcall:mykaarma-test-password").decode()
KEYLESS: dict[type[Simulator], Callable[..., Simulator]] = {
    Connect: partial(Connect, api_key=None),
    Dintero: Dintero,
    Drivly: partial(Drivly, authorization=None, database="sqlite"),
    MyKaarma: MyKaarma,
}
pytestmark = pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.kind)


def test_a_seed_gives_the_same_customers_and_the_same_history(system: type[Simulator]) -> None:
    """Churned alike, two of them are alike, ids included."""

    def run() -> tuple[Any, Any]:
        sim = system(seed=4, customers=20, clock=lambda: 1_750_000_000.0)
        sim.churn(60)
        return sim.customers(), sim.history

    assert run() == run()


def test_the_history_accounts_for_every_customer(system: type[Simulator]) -> None:
    """Replaying creations and deletions gives those that there are, each with versions 1, 2, 3, ..."""
    sim = system(seed=5, customers=20)
    sim.churn(200)
    alive: set[str] = set()
    versions: dict[str, int] = {}
    for change in sim.history:
        key = str(change.id)
        assert change.version == versions.get(key, 0) + 1
        versions[key] = change.version
        (alive.discard if change.op == "delete" else alive.add)(key)
    assert alive == set(sim.customers())
    assert {change.op for change in sim.history} == {"create", "update", "delete"}


def test_every_field_is_one_of_the_document(system: type[Simulator]) -> None:
    """What the adapters look for is what is served: nothing has another name here."""
    sim = system(seed=6, customers=100)
    sim.churn(50)
    named = {path.removeprefix("customerInfo.") for customer in sim.customers().values() for path in paths(customer)}
    assert unknown(named, adapter_class(system.kind, available()).fields) == {}


def paths(value: Any, above: str = "") -> Iterator[str]:
    """Yield the names of all fields in a record, as in `billing.email`; lists are none."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from paths(part, f"{above}.{name}" if above else name)
    elif isinstance(value, list):
        for part in value:
            yield from paths(part, above)
    else:
        yield above


def test_an_update_changes_what_is_served(system: type[Simulator]) -> None:
    """Made-up changes are real ones: a checker that compares documents sees them."""
    sim = system(seed=6, customers=10)
    before = sim.customers()
    sim.bulk_update([sim.store.ordered[0].id, sim.store.ordered[1].id])
    after = sim.customers()
    assert len([key for key in before if before[key] != after[key]]) == 2


def test_a_person_is_recognizable_in_every_system(system: type[Simulator]) -> None:
    """E-mail, family name and city of the same person are in each system's shape."""
    person = next(person for person in iter(People(9).person, None) if person.company is None)
    sim = system()
    sim.create(person=person)
    (customer,) = sim.customers().values()
    text = str(customer)
    assert person.email in text
    assert person.family in text


def test_every_address_is_at_a_reserved_domain(system: type[Simulator]) -> None:
    """No customer can be anybody."""
    domains = {
        found.lower() for each in system(customers=200).customers().values() for found in ADDRESS.findall(str(each))
    }
    assert domains == {"example.com", "example.org", "example.net"}


async def test_it_starts_stops_and_starts_again(system: type[Simulator]) -> None:
    """At a port of its own on 127.0.0.1, with the customers kept."""
    sim = system(customers=3)
    before = sim.customers()
    for _ in range(2):
        async with sim, aiohttp.ClientSession() as session, session.get(f"{sim.url}/_sim/stats") as response:
            assert (await response.json())["customers"] == 3
    assert sim.customers() == before


async def test_a_log_tells_what_was_asked(system: type[Simulator]) -> None:
    """Method, path, query and status, and a count of them."""
    async with system() as sim, aiohttp.ClientSession() as session:
        async with session.get(f"{sim.url}/nowhere?a=1") as response:
            assert response.status == 404
        (request,) = sim.requests
        assert (request.method, request.path, request.query, request.status) == ("GET", "/nowhere", "a=1", 404)
        assert sim.counts == {("GET", 404): 1}


async def test_an_error_has_the_systems_body(system: type[Simulator]) -> None:
    """A fault's status comes with the JSON that the system would send."""
    async with system() as sim, aiohttp.ClientSession() as session:
        sim.fault("status", status=503)
        async with session.get(sim.url) as response:
            assert response.status == 503
            assert await response.json()


PATHS = st.sampled_from([
    "/api/customers",
    "/api/customers/3",
    "/customers",
    "/customers/x",
    "/customer/v2/customer/x",
    "/v1/accounts/P12345678/customers/users",
    "/v1/accounts/P12345678/auth/token",
])
NAMES = st.sampled_from([
    *("where", "where[id]", "where[and][0][id]", "where[or][]", "where[updatedAt]", "where[email]", "where[leads]"),
    *("limit", "page", "sort", "select", "depth", "pagination", "cursor", "search", "offset", "excludeOrderType"),
    *("since_datetime", "starting_after", "include_deleted", "type", "email", "attributes_keys", "total"),
])
MORE = st.sampled_from(["", "[]", "[equals]", "[in]", "[greater_than]", "[like]", "[exists]", "[near]", "[0]"])
VALUES = st.one_of(
    st.text(max_size=8),
    st.sampled_from([
        "",
        "0",
        "-1",
        "1e999",
        "9" * 30,
        "nan",
        "{}",
        "[1]",
        '{"id":{"in":[1,null]}}',
        "2020-01-01",
        "%",
        "+",
    ]),
)
QUERIES = st.lists(st.tuples(NAMES, MORE, VALUES), max_size=4).map(
    lambda parts: "&".join(name + more + "=" + quote(value, safe="") for name, more, value in parts)
)
BODIES = st.one_of(st.binary(max_size=20), st.sampled_from([b"", b"{}", b"[]", b"null", b'{"requesterUserUUID":"x"}']))
METHODS = st.sampled_from(["GET", "POST", "PATCH", "DELETE", "PUT"])


@given(METHODS, PATHS, QUERIES, BODIES)
def test_whatever_is_asked_is_answered(
    system: type[Simulator], method: str, path: str, query: str, body: bytes
) -> None:
    """A simulator has no failures but those it imitates: the client's are 4xx, and a 500 is Payload's own."""
    sim = KEYLESS[system](customers=5)
    if isinstance(sim, Dintero):
        sim.tokens["t"] = float("inf")
    headers = {"Authorization": "Bearer t" if system is Dintero else BASIC}
    answer = asyncio.run(sim.answer(Ask(method, path, query, headers, body)))
    assert answer.status < 500 or (system is Drivly and answer.status == 500)


def test_planted_duplicates_share_what_they_were_given(system: type[Simulator]) -> None:
    """A variation of a person in another system keeps the e-mail, case aside, and nobody else has it."""
    people = People(1)
    persons: list[Person] = people.people(20)
    sim = system(seed=2, customers=20)
    sim.create(person=people.vary(persons[3], typo=True, case=True))
    holding = [each for each in sim.customers().values() if persons[3].email.casefold() in str(each).casefold()]
    assert len(holding) == 1
