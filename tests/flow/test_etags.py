"""A page that the server says is unchanged is not sent again, and means the same (RFC 9110, section 13)."""

import hashlib
import os
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest
from aiohttp import web

from tests.flow.local import World, dintero_settings
from worker.simulator import Connect, Dintero
from worker.simulator.answers import Answer, Ask
from worker.sources.dintero import Dintero as Adapter
from worker.upstream import Upstream

os.environ["T_API"] = "connect-test-key"


class Tagged:
    """A connect API whose answers carry an ETag."""

    def __init__(self, behind: Connect) -> None:
        """Serve the customers of `behind`."""
        self._behind = behind
        self.statuses: Counter[int] = Counter()

    async def start(self) -> str:
        """Listen; return the URL."""
        app = web.Application()
        app.router.add_get("/customers", self._list)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Stop listening."""
        await self._runner.cleanup()

    async def _list(self, request: web.Request) -> web.Response:
        items = list(self._behind.customers().values())
        body = orjson.dumps({"items": items, "pagination": {}}, option=orjson.OPT_SORT_KEYS)
        tag = f'W/"{hashlib.sha256(body).hexdigest()}"'
        same = request.headers.get("If-None-Match") == tag
        self.statuses[304 if same else 200] += 1
        return web.Response(status=304 if same else 200, body=b"" if same else body, headers={"ETag": tag})


@asynccontextmanager
async def polled(folder: Path) -> AsyncGenerator[tuple[Connect, Tagged, World]]:
    """Run the API and a source that polls it; 20 customers are published."""
    async with Connect(seed=1, customers=20) as simulator:
        api = Tagged(simulator)
        world = World(folder, "connect", {"url": await api.start(), "key": {"env": "T_API"}, "interval": "10ms"})
        async with world.polling():
            await world.until(lambda: len(world.latest) == 20)
            yield simulator, api, world
        await api.stop()


async def test_an_unchanged_page_is_not_sent_again(tmp_path: Path) -> None:
    """It still shows its customers: nobody is missed; and a change is seen at once."""
    async with polled(tmp_path) as (simulator, api, world):
        await world.scans("scan", 5)
        assert api.statuses[200] == 1
        assert api.statuses[304] >= 4
        simulator.create()
        await world.until(lambda: len(world.latest) == 21)
        await world.scans("scan", 3)
    assert api.statuses[200] == 2
    assert world.reasons == {}


async def test_a_page_is_sent_again_under_another_credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may show others: that it is unchanged says nothing of what the new one sees."""
    monkeypatch.setattr("worker.upstream._SECRETS_SECONDS", 0.02)
    monkeypatch.setenv("T_API", "connect-test-key")
    async with polled(tmp_path) as (_, api, world):
        await world.scans("scan", 3)
        assert api.statuses[200] == 1
        monkeypatch.setenv("T_API", "another-key")
        await world.scans("scan", 5)
        await world.until(lambda: api.statuses[200] == 2)
        await world.scans("scan", 3)
    assert api.statuses[200] == 2
    assert len(world.events) == 20


class Counting(Dintero):
    """A dintero behind a server that tags bodies: a 304 has the count of now, as RFC 9110, section 15.4.5, allows."""

    async def answer(self, ask: Ask) -> Answer:
        """Answer a GET with 304 where the body is the one that is known."""
        answer = await super().answer(ask)
        if ask.method != "GET" or answer.status != 200:
            return answer
        answer.headers["ETag"] = f'W/"{hashlib.sha256(answer.body).hexdigest()}"'
        if ask.headers.get("If-None-Match") != answer.headers["ETag"]:
            return answer
        return Answer(304, b"", answer.headers, "text/plain")


async def test_an_unchanged_page_has_the_headers_that_came_with_that_word(tmp_path: Path) -> None:
    """The count of all may be another one though the page is not (RFC 9111, section 3.2); its own length it keeps."""
    async with Counting(seed=1, customers=40, client_id="client", client_secret="secret") as simulator:
        settings = World(tmp_path, "dintero", dintero_settings(simulator)).settings()
        adapter = Adapter("it", settings)
        upstream = Upstream("it", adapter, settings)
        await upstream.prepare()
        answers = []
        for _ in range(3):
            answers.append(await upstream.ask(adapter.request("check", None, upstream.moment())))
            simulator.create()
        await upstream.close()
        assert [request.status for request in simulator.requests if request.method == "GET"] == [200, 304, 304]
    assert {(answer.status, answer.body) for answer in answers} == {(200, answers[0].body)}
    assert [answer.headers["total-count"] for answer in answers] == ["40", "41", "42"]
    assert {(answer.headers["content-type"], answer.headers["content-length"]) for answer in answers} == {
        ("application/json; charset=utf-8", str(len(answers[0].body)))
    }


async def test_a_listing_of_unchanged_pages_is_held_against_the_count_of_now(tmp_path: Path) -> None:
    """Nothing seems to be cut short where customers were added, and every check is a proof."""
    async with Counting(seed=1, customers=40, client_id="client", client_secret="secret") as simulator:
        world = World(tmp_path, "dintero", dintero_settings(simulator, scan_interval="20ms"))
        async with world.polling():
            await world.until(lambda: len(world.latest) == 40)
            await world.scans("check", 2)
            for _ in range(3):
                simulator.create()
            await world.until(lambda: len(world.latest) == 43)
            await world.scans("check", 3)
    assert world.condition.alarm is None
