"""A client that sends addresses as they are written, for the simulators' tests."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest_asyncio
from yarl import URL

from worker.simulator import Simulator


@dataclass(frozen=True)
class Reply:
    """What came back, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The parsed body."""
        return json.loads(self.body)


Asker = Callable[..., Awaitable[Reply]]


@pytest_asyncio.fixture
async def ask() -> AsyncIterator[Asker]:
    """Give a function that asks a simulator for an address and reads the answer to its end."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10)) as session:

        async def asker(
            sim: Simulator,
            target: str,
            *,
            method: str = "GET",
            headers: Mapping[str, str] | None = None,
            body: Any = None,
        ) -> Reply:
            url = URL(sim.url + target, encoded=True)
            async with session.request(method, url, headers=headers, json=body, allow_redirects=False) as response:
                return Reply(response.status, dict(response.headers), await response.read())

        yield asker


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: float = 1_750_000_000.0) -> None:
        """Start at `now`, in seconds since the epoch."""
        self.now = now

    def __call__(self) -> float:
        """Tell the time."""
        return self.now
