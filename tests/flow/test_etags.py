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

from tests.flow.local import World
from worker.simulator import Connect

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
