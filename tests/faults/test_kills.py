"""Real workers, killed where they stand, again and again: every invariant holds afterwards."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.faults.conftest import Site, site
from worker.demo.world import CRM, SHOP

DEADLINE = 90.0
# While a poller is down more customers are deleted than the guards let pass at once: that is not what is tested here.
NO_GUARD = {
    "sources": {name: {"absence_guard_count": 1000} for name in (CRM, SHOP)},
    "handlers": {"deletes": {"guard": {"count": 1000, "cap": 1000}}},
}


async def right(deployment: Site) -> list[str]:
    """Wait until nothing is wrong; return what still is at the deadline."""
    deadline = time.monotonic() + DEADLINE
    while (wrong := await deployment.wrong()) and time.monotonic() < deadline:
        await asyncio.sleep(0.5)
    return wrong


async def meanwhile(churn: Awaitable[None], fault: Callable[[], Awaitable[None]]) -> int:
    """Let faults happen for as long as the churn goes on; return how many there were."""
    churning = asyncio.ensure_future(churn)
    count = 0
    while not churning.done():
        await fault()
        count += 1
    await churning
    return count


@pytest.mark.timeout(300)
async def test_workers_killed_all_the_time(tmp_path: Path) -> None:
    """Pollers and handlers killed by SIGKILL, in mid-transaction as often as not: nothing lost, twice or out of order."""
    chance = random.Random(1)
    async with site(tmp_path, customers=200, over=NO_GUARD) as deployment:

        async def kill_one() -> None:
            await asyncio.sleep(chance.uniform(0.5, 3.0))
            name = chance.choice(deployment.workers.names)
            await deployment.workers.kill(name)
            await deployment.workers.start(name)

        kills = await meanwhile(deployment.world.churn(15), kill_one)
        assert kills >= 5
        assert await right(deployment) == []
        assert len(deployment.world.carried) > 0
