"""Absences at an API that lists as ever and answers look-ups badly: what it lists is published, and who is gone."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.flow.local import World
from worker.simulator import Connect
from worker.simulator.answers import Answer, Ask

pytestmark = pytest.mark.usefixtures("hurry")


@pytest.fixture
def hurry(hurry: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have little patience with look-ups, too."""
    monkeypatch.setattr("worker.absence._PATIENCE_SECONDS", 0.2)


class Throttling(Connect):
    """A connect that answers 429 to every so-manieth request, once `every` is set."""

    every = 0
    _asked = 0

    async def answer(self, ask: Ask) -> Answer:
        """Answer, or refuse."""
        self._asked += 1
        if self.every and self._asked % self.every == 0:
            return Answer(429, b"{}", headers={"Retry-After": "0"})
        return await super().answer(ask)


class Rotating(Connect):
    """A connect whose key is replaced by another one as soon as it is asked for the customer `rotate`."""

    rotate = ""

    async def answer(self, ask: Ask) -> Answer:
        """Answer, by one key or by the other."""
        if self.rotate and ask.path.endswith(self.rotate):
            self.api_key = os.environ["T_API"] = "another key"
        return await super().answer(ask)


@asynccontextmanager
async def published(folder: Path, api: Connect) -> AsyncGenerator[World]:
    """Poll a source whose only feed is a listing, and give it once all that the listing has is published."""
    os.environ["T_API"] = "connect-test-key"
    more: dict[str, Any] = {"interval": "20ms", "page_size": 20, "absence_guard_count": 40}
    world = World(folder, "connect", {"url": api.url, "key": {"env": "T_API"}, **more})
    async with world.polling():
        await world.until(lambda: len(world.latest) == len(api.customers()))
        yield world


@pytest.mark.parametrize("one", [False, True], ids=["all", "one of the listing"])
async def test_look_ups_that_fail_hold_up_no_listing(tmp_path: Path, *, one: bool) -> None:
    """Nobody is gone before they are answered, and who comes meanwhile is published."""
    async with Connect(seed=1, customers=40, api_key="connect-test-key") as api:
        async with published(tmp_path, api) as world:
            last = str(api.store.ordered[-1].id)
            gone = min(api.customers())
            failing = api.fault("status", status=500, path=f"/customers/{last}" if one else "/customers/.+")
            api.delete(gone)
            await world.until(lambda: failing.hits >= 3)
            new = api.create()
            await world.until(lambda: new in world.latest)
            assert one or world.reasons == {}
            api.clear_faults()
            await world.until(lambda: world.reasons == {gone: "gone"} and world.condition.alarm is None)
        world.check()


async def test_absences_are_confirmed_by_an_api_that_throttles(tmp_path: Path) -> None:
    """However few requests it answers in a row, there are never so many that must be."""
    async with Throttling(seed=1, customers=60, api_key="connect-test-key") as api:
        async with published(tmp_path, api) as world:
            gone = sorted(api.customers())[:30]
            for id_ in gone:
                api.delete(id_)
            api.every = 8
            await world.until(lambda: sorted(world.reasons) == gone)
            new = api.create()
            await world.until(lambda: new in world.latest)
        world.check()


async def test_what_another_credential_does_not_find_is_not_gone(tmp_path: Path) -> None:
    """Look-ups are answered under the one under which the listing was read, or prove nothing."""
    async with Rotating(seed=1, customers=40, api_key="connect-test-key") as api:
        async with published(tmp_path, api) as world:
            hidden = api.rotate = min(api.customers())
            api.delete(hidden)
            unobserved = await world.until(lambda: world.source.detector.checkpoint.unobserved)
            assert unobserved["customers"] == 1
        assert world.reasons == {}


async def test_an_outage_of_a_moment_costs_no_enumeration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known to be missing is asked for again, for a while."""
    monkeypatch.setattr("worker.absence._PATIENCE_SECONDS", 60.0)
    async with Connect(seed=1, customers=40, api_key="connect-test-key") as api:
        async with published(tmp_path, api) as world:
            failing = api.fault("status", status=503, path="/customers/.+", times=4)
            gone = min(api.customers())
            api.delete(gone)
            await world.until(lambda: failing.hits)
            scans = dict(world.source.detector.checkpoint.scans)
            await world.until(lambda: world.reasons == {gone: "gone"})
            assert world.source.detector.checkpoint.scans == scans
        world.check()
