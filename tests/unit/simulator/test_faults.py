"""Every fault does what it is called, to the requests that it is meant for, and ends when it should."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from yarl import URL

from tests.unit.simulator.conftest import Asker, Clock, Reply
from worker.simulator import Drivly
from worker.simulator.faults import KINDS

LIST = "/api/customers?depth=0&sort=id&limit=3"


@pytest_asyncio.fixture
async def sim() -> AsyncIterator[Drivly]:
    """Serve a Drivly with five customers."""
    async with Drivly(authorization=None, customers=5, clock=Clock()) as running:
        yield running


async def raw(sim: Drivly, target: str = LIST) -> Reply:
    """Ask without decompressing, on a connection of its own."""
    url = URL(sim.url + target, encoded=True)
    async with (
        aiohttp.ClientSession(auto_decompress=False) as session,
        session.get(url, allow_redirects=False) as response,
    ):
        return Reply(response.status, response.headers.copy(), await response.read())


# Which requests, and how often


async def test_a_fault_ends_after_its_times(sim: Drivly, ask: Asker) -> None:
    """Two times means two requests."""
    fault = sim.fault("status", status=503, times=2)
    assert [(await ask(sim, LIST)).status for _ in range(3)] == [503, 503, 200]
    assert (fault.hits, sim.faults.hits) == (2, {"status": 2})


async def test_a_fault_lasts_until_it_is_cleared(sim: Drivly, ask: Asker) -> None:
    """Without times, and by its own number."""
    fault, other = sim.fault("status", status=503), sim.fault("latency", seconds=0)
    assert (await ask(sim, LIST)).status == 503
    sim.clear_faults(fault.number)
    assert (await ask(sim, LIST)).status == 200
    assert list(sim.faults) == [other]


async def test_a_fault_meets_only_what_it_matches(sim: Drivly, ask: Asker) -> None:
    """Method and path are both looked at; the path is searched in the whole address."""
    sim.fault("status", status=503, method="GET", path="customers/2")
    assert (await ask(sim, "/api/customers/2")).status == 503
    assert (await ask(sim, "/api/customers/1")).status == 200
    assert (await ask(sim, "/api/customers/2", method="DELETE")).status == 200


async def test_a_fault_may_skip_the_first(sim: Drivly, ask: Asker) -> None:
    """The third page of a listing can be the one that fails."""
    sim.fault("status", status=500, skip=2, times=1)
    assert [(await ask(sim, LIST)).status for _ in range(4)] == [200, 200, 500, 200]


async def test_chance_comes_from_the_seed(ask: Asker) -> None:
    """The same seed fails the same requests, another one others."""

    async def run(seed: int) -> list[int]:
        async with Drivly(seed=seed, authorization=None) as sim:
            sim.fault("status", status=500, probability=0.5)
            return [(await ask(sim, LIST)).status for _ in range(20)]

    assert await run(1) == await run(1)
    assert await run(1) != await run(2)
    assert set(await run(1)) == {200, 500}


async def test_faults_compose(sim: Drivly, ask: Asker) -> None:
    """A null and a missing id in the same answer."""
    sim.fault("nulls")
    sim.fault("missing_ids")
    first = (await ask(sim, LIST)).json["docs"][0]
    assert set(first.values()) == {None}
    assert "id" not in first


def test_an_unknown_fault_is_refused() -> None:
    """And the message names those that there are."""
    with pytest.raises(ValueError, match="no fault is called 'flood'; there are status,"):
        Drivly().fault("flood")


# Instead of an answer


async def test_a_status_may_have_a_body_and_headers_of_its_own(sim: Drivly, ask: Asker) -> None:
    """Else it has the system's."""
    sim.fault("status", status=418, body="short and stout", headers={"X-Pot": "tea"}, times=1)
    reply = await ask(sim, LIST)
    assert (reply.status, reply.body, reply.headers["X-Pot"]) == (418, b"short and stout", "tea")


async def test_retry_after_comes_in_seconds_or_as_a_date(sim: Drivly, ask: Asker) -> None:
    """The date is counted from the simulator's clock, as its `Date` is."""
    sim.fault("retry_later", seconds=7, times=1)
    reply = await ask(sim, LIST)
    assert (reply.status, reply.headers["Retry-After"]) == (429, "7")
    sim.fault("retry_later", status=503, seconds=90, date=True)
    reply = await ask(sim, LIST)
    wait = parsedate_to_datetime(reply.headers["Retry-After"]) - parsedate_to_datetime(reply.headers["Date"])
    assert (reply.status, wait.total_seconds()) == (503, 90)


async def test_a_proxy_answers_instead(sim: Drivly, ask: Asker) -> None:
    """With HTML and 200, or with a way to somewhere else."""
    sim.fault("html", times=1)
    reply = await ask(sim, LIST)
    assert (reply.status, reply.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert reply.body.startswith(b"<!DOCTYPE html>")
    sim.fault("redirect", location="https://login.example.com/")
    reply = await ask(sim, LIST)
    assert (reply.status, reply.headers["Location"]) == (302, "https://login.example.com/")


async def test_an_answer_may_never_come(sim: Drivly) -> None:
    """The client waits until it gives up."""
    sim.fault("never")
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(0.05)) as session:
        with pytest.raises(TimeoutError):
            await session.get(sim.url + LIST)


# Fewer customers, or older ones


async def test_an_outage_shortens_the_listing(sim: Drivly, ask: Asker) -> None:
    """Only the first rows, with a total to match and status 200; look-ups miss the others too."""
    sim.fault("short", keep=2)
    reply = await ask(sim, LIST)
    assert ([doc["id"] for doc in reply.json["docs"]], reply.json["totalDocs"]) == ([1, 2], 2)
    assert (await ask(sim, "/api/customers/4")).status == 404
    assert len(sim.customers()) == 5


async def test_a_listing_may_be_empty(sim: Drivly, ask: Asker) -> None:
    """As a revoked key leaves it, with nobody deleted."""
    sim.fault("empty", path="customers[?]")
    assert (await ask(sim, LIST)).json["docs"] == []
    assert (await ask(sim, "/api/customers/4")).status == 200


async def test_a_replica_may_be_stale(sim: Drivly, ask: Asker) -> None:
    """It shows the customers of the moment at which the fault was set."""
    sim.fault("stale", times=1)
    sim.delete(1)
    sim.update(2, {"email": "new@example.com"})
    old = (await ask(sim, LIST)).json["docs"]
    assert old[0]["id"] == 1
    assert old[1]["email"] != "new@example.com"
    new = (await ask(sim, LIST)).json["docs"]
    assert (new[0]["id"], new[0]["email"]) == (2, "new@example.com")


# A spoiled answer


async def test_a_connection_is_cut_in_mid_answer(sim: Drivly, ask: Asker) -> None:
    """Fewer bytes than announced; or none at all, with the work done."""
    sim.fault("cut", fraction=0.5, times=1)
    with pytest.raises(aiohttp.ClientPayloadError):
        await ask(sim, LIST)
    sim.fault("cut", bytes=0, method="DELETE", times=1)
    async with aiohttp.ClientSession() as session:
        session._retry_connection = False  # else aiohttp repeats the deletion by itself, and gets a 404
        with pytest.raises((aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)):
            await session.delete(f"{sim.url}/api/customers/1")
    assert "1" not in sim.customers()
    assert sim.counts["DELETE", 0] == 1


async def test_json_is_truncated_under_a_good_length(sim: Drivly, ask: Asker) -> None:
    """HTTP is content, the parser is not."""
    sim.fault("truncated", fraction=0.9)
    with pytest.raises(json.JSONDecodeError):
        _ = (await ask(sim, LIST)).json


@pytest.mark.parametrize("field", ["id", "email", "updatedAt"])
async def test_a_field_has_the_wrong_type(sim: Drivly, ask: Asker, field: str) -> None:
    """Of the first customer, or of as many as are asked for."""
    sim.fault("wrong_types", field=field, value=[1], count=2)
    docs = (await ask(sim, LIST)).json["docs"]
    assert [doc[field] == [1] for doc in docs] == [True, True, False]


async def test_all_fields_have_the_wrong_type(sim: Drivly, ask: Asker) -> None:
    """Except the id, so that the record can be named."""
    sim.fault("wrong_types")
    spoiled, sound = (await ask(sim, LIST)).json["docs"][:2]
    assert spoiled["id"] == 1
    assert all(type(spoiled[name]) is not type(sound[name]) for name in spoiled if name != "id" and name in sound)


async def test_ids_are_missing_or_come_twice(sim: Drivly, ask: Asker) -> None:
    """Within one page."""
    sim.fault("missing_ids", times=1)
    assert ["id" in doc for doc in (await ask(sim, LIST)).json["docs"]] == [False, True, True]
    sim.fault("duplicate_ids", times=1)
    assert [doc["id"] for doc in (await ask(sim, LIST)).json["docs"]] == [1, 2, 3, 1]


async def test_values_are_huge_or_deep_or_not_a_number(sim: Drivly, ask: Asker) -> None:
    """Each is JSON that some parser takes and another refuses."""
    sim.fault("huge", field="email", bytes=1_000_000, times=1)
    assert len((await ask(sim, LIST)).json["docs"][0]["email"]) == 1_000_000
    sim.fault("deep", field="email", levels=5_000, times=1)
    assert b'"email":' + b"[" * 5_000 in (await ask(sim, LIST)).body
    sim.fault("nan", field="consumerIncome", times=1)
    assert b'"consumerIncome":NaN' in (await ask(sim, LIST)).body


async def test_the_charset_is_not_the_announced_one(sim: Drivly, ask: Asker) -> None:
    """UTF-16 that says it is UTF-8."""
    sim.fault("charset")
    reply = await ask(sim, LIST)
    assert reply.headers["Content-Type"] == "application/json; charset=utf-8"
    assert json.loads(reply.body.decode("utf-16"))["totalDocs"] == 5


async def test_a_small_answer_may_be_a_bomb(sim: Drivly) -> None:
    """A few kilobytes that decompress to what was asked for."""
    sim.fault("gzip_bomb", bytes=5_500_000)
    response = await raw(sim)
    body = response.body
    assert len(body) < 20_000
    assert response.headers["Content-Encoding"] == "gzip"
    assert zlib.decompress(body, wbits=31) == b" " * 5_500_000 == gzip.decompress(body)


async def test_the_work_may_be_done_and_the_answer_an_error(sim: Drivly, ask: Asker) -> None:
    """A deletion that answers 500 has deleted."""
    sim.fault("answer_after", status=500, method="DELETE")
    reply = await ask(sim, "/api/customers/1", method="DELETE")
    assert (reply.status, reply.json) == (500, {"errors": [{"message": "Something went wrong."}]})
    assert "1" not in sim.customers()


async def test_a_kept_connection_may_be_gone(sim: Drivly) -> None:
    """Closed behind a whole answer that did not say so."""
    sim.fault("drop", times=1)
    response = await raw(sim)
    assert response.status == 200
    assert "Connection" not in response.headers
    assert response.json["totalDocs"] == 5


async def test_latency_delays_and_changes_nothing(sim: Drivly, ask: Asker) -> None:
    """The answer is the one that would have come at once."""
    before = (await ask(sim, LIST)).body
    fault = sim.fault("latency", seconds=0.01)
    assert (await ask(sim, LIST)).body == before
    assert fault.hits == 1


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in {"never", "cut"}])
async def test_no_fault_breaks_the_simulator(sim: Drivly, ask: Asker, kind: str) -> None:
    """On a listing, a look-up, an unknown customer and an error alike, it answers, and is well afterwards."""
    options: dict[str, Any] = {"seconds": 0} if kind in {"latency", "retry_later"} else {}
    sim.fault(kind, **({"bytes": 1000} if kind in {"huge", "gzip_bomb"} else options))
    for target in (LIST, "/api/customers/1", "/api/customers/99", "/api/customers?where[x][equals]=1"):
        await raw(sim, target)
    sim.clear_faults()
    assert (await ask(sim, LIST)).status == 200
