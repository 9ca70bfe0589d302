"""The Drivly simulator gives the answers that a real Payload server gave: `payload.json` is its recording.

Recorded by `python tests/unit/simulator/test_against_payload.py URL AUTHORIZATION >
tests/unit/simulator/payload.json` from `payload` 3.90.2 with `@payloadcms/db-sqlite`, an empty database, `users` with
`useAPIKey`, and the collections `tenants` (name), `leads` (name, tenant -> tenants) and `customers` (the fields of
CUSTOMERS: texts, the number consumerIncome, leads -> leads with hasMany, address -> tenants, companyType as a select
with hasMany).
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from yarl import URL

from worker.simulator import Drivly

CUSTOMERS: list[dict[str, Any]] = [
    {
        "customerId": f"C{n}",
        "email": f"a.b{n}@example.com",
        "consumerFirstName": "Ann Lee" if n % 2 else None,
        "consumerIncome": n * 1000 if n % 4 else None,
        "leads": [1, 2] if n % 3 == 0 else [1] if n % 3 == 1 else [],
        "address": 1 if n % 2 else None,
        "companyType": ["Dealer"] if n % 2 else ["Dealer", "Partner"] if n % 4 == 0 else [],
    }
    for n in range(12)
]
PAGES = [
    "limit=0|limit=|limit=-1|limit=abc|limit=2.5|limit=1&page=5|limit=5&page=9|limit=5&page=0|limit=5&page=x|limit=5&page=1.5",
    "pagination=false&limit=2|pagination=false|limit=0&page=3|limit=1e1|limit=5&page=3|limit=5|page=2",
    "sort=foo|sort=-foo|sort=foo,id|sort=id,foo|sort=|sort[]=id|sort=%20id|sort=-id|sort=updatedAt,id|sort=-updatedAt,-id",
    "sort=consumerFirstName,id|sort=-consumerFirstName,id|sort=consumerIncome,id|select=id|select[foo]=true",
]
WHERES = [
    "[foo][equals]=1|[email][foo]=1|[email]=x|[email][]=x|[and][email][equals]=a|[and]=x|=x|=|[]=x|[and][0]=|[and][]=x|[or][]=",
    "[or][0][id][equals]=3&where[and][0][id][equals]=4|[and][0][id][equals]=4&where[or][0][id][equals]=3",
    "[id][equals]=3&where[or][0][id][equals]=4|[AND][0][id][equals]=3|[and][1][id][equals]=3",
    "[and][0][or][0][and][0][or][0][and][0][or][0][id][equals]=3|[and][0][or][0][and][0][or][0][id][equals]=3",
    "[or][0][id][equals]=3&where[or][1][and][0][id][greater_than]=5&where[or][1][and][1][id][less_than_equal]=7",
    "[id][greater_than]=10|[id][greater_than]=abc|[id][equals]=12abc|[id][greater_than]=|[id][greater_than]=5.5|[id][in]=1,2,x",
    "[id][in][0]=1&where[id][in][1]=2|[id][not_in]=1,2|[id][in]=|[id][not_equals]=x|[id][like]=1|[id][all]=1",
    "[id][near]=1|[id][equals]=3&where[id][not_equals]=3|[id][less_than]=3&where[email][contains]=b1|[id][exists]=true",
    "[consumerIncome][greater_than]=9000|[consumerIncome][greater_than_equal]=9000|[consumerIncome][less_than]=2000",
    "[consumerIncome][greater_than]=x|[consumerIncome][equals]=x|[consumerIncome][not_equals]=x|[consumerIncome][not_equals]=5000",
    "[consumerFirstName][exists]=true|[consumerFirstName][exists]=false|[consumerFirstName][exists]=x",
    "[consumerFirstName][equals]=null|[consumerFirstName][not_equals]=Ann%20Lee|[consumerFirstName][not_equals]=zz",
    "[consumerFirstName][like]=lee%20ann|[consumerFirstName][like]=A_n|[consumerFirstName][contains]=n%20l",
    "[consumerFirstName][not_like]=ann|[consumerFirstName][not_like]=ann%20lee|[consumerFirstName][greater_than]=A",
    "[consumerFirstName][less_than]=B|[consumerFirstName][not_in]=zz|[email][like]=|[email][contains]=%25|[email][like]=A.B1%40",
    "[email][equals]=A.B1%40example.com|[email][in]=a.b1%40example.com|[email][equals]=a.b1%40example.com",
    "[leads][equals]=1|[leads][equals]=2|[leads][in]=1,9|[leads][contains]=2|[leads][not_equals]=1|[leads][not_in]=1",
    "[leads][not_in]=1,2|[leads][exists]=true|[leads][exists]=false|[leads][like]=1|[address][equals]=1|[address][exists]=true",
    "[companyType][equals]=Dealer|[companyType][in]=Dealer|[companyType][contains]=Dealer",
    "[companyType][like]=Deal|[companyType][not_equals]=Dealer|[companyType][not_in]=Dealer|[companyType][exists]=false",
    "[updatedAt][greater_than]=2020-01-01T00:00:00+00:00|[updatedAt][greater_than]=2020-01-01T00%3A00%3A00%2B00%3A00",
    "[updatedAt][greater_than]=2020-01-01|[updatedAt][greater_than]=2020-01-01%2000:00|[updatedAt][greater_than]=yesterday",
    "[updatedAt][greater_than]=1700000000000|[updatedAt][greater_than]=|[updatedAt][less_than]=null|[updatedAt][exists]=true",
    "[updatedAt][not_equals]=yesterday|[updatedAt][greater_than]=2020-13-01|[updatedAt][in]=2020-01-01|[updatedAt][in]=x",
    "[updatedAt][not_in]=x|[updatedAt][greater_than][0]=2020-01-01|[updatedAt][less_than]=2020-01-01",
    "[updatedAt][greater_than]=2020-01-01T00:00:00.0000001Z|[updatedAt][greater_than]=2020-01-01T00:00:00.000Z",
    "=%7B%7D|=%7B%22id%22%3A%7B%22equals%22%3A3%7D%7D|=%7B%22and%22%3A%5B%7B%22id%22%3A%7B%22greater_than%22%3A9%7D%7D%5D%7D",
]
OTHERS = ("where.id.equals=3", "Where[id][equals]=3", "filter[id][equals]=3")
ONES = ("1", "1abc", "1.9", "abc", "999", "%201", "0x1", "-1", "1/", "1/2", "1%2F2")
SELECTS = (
    "select[id]=true",
    "select[id]=true&select[email]=true",
    "select[email]=false",
    "select=id",
    "select[foo]=true",
)
DEPTHS = ("depth=0", "depth=1", "depth=2", "depth=-1", "depth=x", "depth=", "depth=99")


def targets() -> list[str]:
    """List every address that is asked, from `/api/customers` on."""
    listed = [query for line in PAGES for query in line.split("|")]
    filtered = [f"limit=20&sort=id&where{where}" for line in WHERES for where in line.split("|")]
    filtered += [f"limit=20&sort=id&{other}" for other in OTHERS]
    lists = [f"?depth=0&select[id]=true&{query}" for query in (*listed, *filtered) if "select" not in query]
    lists += [f"?depth=0&{query}" for query in listed if "select" in query]
    ones = [f"/{key}?depth=0&select[id]=true" for key in ONES]
    ones += [
        f"/1?depth=0&{select}&select[customerId]=false" if "false" in select else f"/1?depth=0&{select}"
        for select in SELECTS
    ]
    return [*lists, *ones, *(f"/1?select[leads]=true&{depth}" for depth in DEPTHS)]


def essence(status: int, body: bytes) -> dict[str, Any]:
    """Reduce an answer to what does not depend on when it was given, nor on fields that the recording lacks."""
    parsed = json.loads(body) if body else {}
    if status == 400:  # a text's JavaScript methods show as paths: an accident that nobody relies on
        return {"status": status, "name": parsed["errors"][0]["name"]}
    if "docs" in parsed:
        return {"status": status, "ids": [doc["id"] for doc in parsed.pop("docs")], "rest": parsed}
    if status != 200:
        return {"status": status, "body": parsed}
    known = {"id", "email"}
    shown = {name: parsed[name] for name in parsed if name in known}
    leads = parsed.get("leads", [])
    return {
        "status": status,
        "shown": shown,
        "hidden": "email" not in parsed,
        "leads": [_nesting(lead) for lead in leads],
    }


def _nesting(link: Any) -> int:
    """Count how deep a relation is embedded: 0 for an id."""
    return 1 + _nesting(link.get("tenant")) if isinstance(link, dict) else 0


async def record(url: str, authorization: str) -> dict[str, Any]:
    """Fill an empty server with CUSTOMERS and ask it every target."""
    async with aiohttp.ClientSession(url, headers={"Authorization": authorization}) as session:
        await _fill(session)
        answers = {}
        for target in targets():
            async with session.get(URL(f"/api/customers{target}", encoded=True)) as response:
                answers[target] = essence(response.status, await response.read())
    return answers


async def _fill(session: aiohttp.ClientSession) -> None:
    rows = [("tenants", {"name": "T"}), ("leads", {"name": "A", "tenant": 1}), ("leads", {"name": "B", "tenant": 1})]
    for collection, fields in [*rows, *(("customers", customer) for customer in CUSTOMERS)]:
        async with session.post(f"/api/{collection}", json=fields) as response:
            response.raise_for_status()


def _recorded() -> dict[str, Any]:
    answers: dict[str, Any] = json.loads(Path(__file__).with_name("payload.json").read_text())
    return answers


RECORDED = {} if __name__ == "__main__" else _recorded()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """Open a client of a simulated Drivly on SQLite that holds the recording's customers."""
    ticks = count(1_700_000_000)
    async with (
        Drivly(database="sqlite", authorization=None, clock=lambda: float(next(ticks))) as sim,
        aiohttp.ClientSession(sim.url) as client,
    ):
        for fields in CUSTOMERS:
            sim.create(fields)
        yield client


def test_every_target_is_in_the_recording() -> None:
    """The list of targets and the recording have not drifted apart."""
    assert set(targets()) == set(RECORDED)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("target", RECORDED)
async def test_the_simulator_answers_as_payload_did(session: aiohttp.ClientSession, target: str) -> None:
    """Status, customers in order, pagination, selected fields and embedding are those of the real server."""
    async with session.get(URL(f"/api/customers{target}", encoded=True)) as response:
        assert essence(response.status, await response.read()) == RECORDED[target]


if __name__ == "__main__":
    answered = asyncio.run(record(*sys.argv[1:3]))
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(answered[name], sort_keys=True)}" for name in sorted(answered))
    print("{\n" + lines + "\n}")  # ruff: ignore[print]  # its only output
