"""A simulator as a process of its own is driven over HTTP and ends when it is told to."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
import pytest

from worker.simulator import People


@asynccontextmanager
async def process(*arguments: str) -> AsyncGenerator[tuple[asyncio.subprocess.Process, str]]:
    """Run a simulator until the block ends; give the process and its line."""
    command = (sys.executable, "-m", "worker.simulator", *arguments)
    pipe = asyncio.subprocess.PIPE
    running = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    try:
        assert running.stdout is not None
        line = await asyncio.wait_for(running.stdout.readline(), 30)
        yield running, line.decode().strip()
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()


async def call(method: str, url: str, body: Any = None) -> Any:
    """Send a control request, and give its status and JSON."""
    async with aiohttp.ClientSession() as session, session.request(method, url, json=body) as response:
        return response.status, await response.json()


@pytest.mark.parametrize("kind", ["connect", "dintero", "drivly", "mykaarma"])
async def test_it_says_where_it_is_and_stops_on_sigterm(kind: str) -> None:
    """One line of JSON once it answers; exit code 0."""
    async with process(kind, "--seed", "1", "--customers", "5") as (running, line):
        told = json.loads(line)
        assert told["kind"] == kind
        status, stats = await call("GET", f"{told['url']}/_sim/stats")
        assert (status, stats["customers"]) == (200, 5)
        running.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(running.wait(), 10) == 0


async def test_it_ends_with_whoever_started_it() -> None:
    """When its standard input closes; options of the system are given by name."""
    options = ("--print-url", "--until-stdin-ends", "--option", "edition=offset", "--option", "api_key=null")
    async with process("connect", *options, "--churn", "50") as (running, url):
        _, page = await call("GET", f"{url}/customers")
        assert "total" in page
        assert running.stdin is not None
        running.stdin.close()
        assert await asyncio.wait_for(running.wait(), 10) == 0


async def test_everything_can_be_done_over_http() -> None:
    """Writes, faults, settings, and the truth, history and log in pages."""
    async with process("drivly", "--option", "authorization=null", "--print-url") as (_, url):
        sim = f"{url}/_sim"
        assert await call("POST", f"{sim}/customers", {"fields": {"email": "a@example.com"}}) == (200, {"ids": [1]})
        assert await call("POST", f"{sim}/customers", {"count": 3}) == (200, {"ids": [2, 3, 4]})
        assert await call("POST", f"{sim}/populate", {"count": 2}) == (200, {"ids": [5, 6]})
        assert await call("PATCH", f"{sim}/customers/1", {"fields": {"email": "b@example.com"}}) == (200, {})
        assert await call("POST", f"{sim}/bulk", {"count": 2, "fields": {"companyName": "x"}}) == (200, {"ids": [1, 2]})
        assert await call("DELETE", f"{sim}/customers/4") == (200, {})
        _, page = await call("GET", f"{sim}/truth?limit=3")
        assert (list(page["customers"]), page["customers"]["1"]["email"]) == (["1", "2", "3"], "b@example.com")
        _, rest = await call("GET", f"{sim}/truth?after={page['next']}")
        assert (list(rest["customers"]), rest["next"]) == (["5", "6"], None)
        _, history = await call("GET", f"{sim}/history?after=6")
        assert [change[1:] for change in history["history"]] == [
            ["update", 1, 2],
            ["update", 1, 3],
            ["update", 2, 2],
            ["delete", 4, 2],
        ]
        assert (history["next"], history["total"]) == (10, 10)


async def test_faults_and_settings_are_set_over_http() -> None:
    """Control requests meet no faults themselves and are not in the log."""
    async with process("drivly", "--customers", "3", "--option", "authorization=null", "--print-url") as (_, url):
        sim = f"{url}/_sim"
        _, fault = await call("POST", f"{sim}/faults", {"kind": "status", "status": 503, "times": 5})
        assert (await call("GET", f"{url}/api/customers"))[0] == 503
        _, told = await call("GET", f"{sim}/faults")
        assert told["hits"] == {"status": 1}
        assert told["faults"][0]["fault"] == fault["fault"]
        await call("DELETE", f"{sim}/faults/{fault['fault']}")
        assert (await call("GET", f"{url}/api/customers?limit=1"))[0] == 200
        _, settings = await call("PATCH", f"{sim}/settings", {"authorization": "other", "clock_offset": 60})
        assert settings["authorization"] == "other"
        assert (await call("GET", f"{url}/api/customers"))[0] == 403
        _, log = await call("GET", f"{sim}/requests")
        assert [request[1:] for request in log["requests"]] == [
            ["GET", "/api/customers", "", 503],
            ["GET", "/api/customers", "limit=1", 200],
            ["GET", "/api/customers", "", 403],
        ]
        _, churned = await call("POST", f"{sim}/churn", {"count": 20})
        assert churned["history"] == 23
        _, stats = await call("GET", f"{sim}/stats")
        assert stats["requests"] == {"GET 200": 1, "GET 403": 1, "GET 503": 1}


async def test_a_person_made_elsewhere_can_be_planted_over_http() -> None:
    """As the JSON of a `Person`: the same somebody in two processes."""
    person = People(3).person()
    async with process("dintero", "--print-url") as (_, url):
        body = {"person": json.loads(orjson.dumps(person)), "fields": {"status": "planted"}}
        _, created = await call("POST", f"{url}/_sim/customers", body)
        _, page = await call("GET", f"{url}/_sim/truth")
        user = page["customers"][created["ids"][0]]
        assert (user["email"], user["date_of_birth"], user["status"]) == (person.email, str(person.birth), "planted")


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "nothing", None, 404),
        ("DELETE", "customers/9", None, 404),
        ("POST", "faults", {"kind": "flood"}, 400),
        ("POST", "customers", {"unknown": 1}, 400),
        ("PATCH", "settings", {"store": 1}, 400),
    ],
)
async def test_a_wrong_control_request_says_so(method: str, path: str, body: Any, status: int) -> None:
    """With a reason."""
    async with process("drivly", "--print-url") as (_, url):
        told, answer = await call(method, f"{url}/_sim/{path}", body)
        assert told == status
        assert answer["error"]
