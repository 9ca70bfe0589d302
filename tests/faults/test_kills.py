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

        kills = await meanwhile(deployment.world.churn(25), kill_one)
        assert kills >= 5
        assert await right(deployment) == []
        assert len(deployment.world.carried) > 0


@pytest.mark.timeout(300)
async def test_a_worker_that_was_stopped_past_its_time_is_fenced(tmp_path: Path) -> None:
    """A poller stopped for longer than the transaction time-out wakes up to find its partitions gone."""
    import signal  # ruff: ignore[import-outside-top-level] - of this test only

    roles = {"one": ["poll"], "two": ["poll"], "handlers": ["handle"]}
    over = {"kafka": {"transaction_timeout": "4s", "commit_timeout": "3s", "session_timeout": "6s"}, **NO_GUARD}
    async with site(tmp_path, customers=100, roles=roles, over=over) as deployment:

        async def stall() -> None:
            for name in ("one", "two"):
                deployment.workers.signal(name, signal.SIGSTOP)
                await asyncio.sleep(12)
                deployment.workers.signal(name, signal.SIGCONT)
                await asyncio.sleep(3)

        await meanwhile(deployment.world.churn(28), stall)
        assert await right(deployment) == []
        assert deployment.workers.died() == []


@pytest.mark.timeout(300)
async def test_workers_stopped_politely_finish_what_they_began(tmp_path: Path) -> None:
    """SIGTERM ends a worker within its grace period with exit code 0, and its successor goes on."""
    async with site(tmp_path, customers=100, over=NO_GUARD) as deployment:

        async def restart() -> None:
            for name in ("poller", "handlers"):
                await asyncio.sleep(2)
                assert await deployment.workers.stop(name) == 0
                await deployment.workers.start(name)
                await deployment.workers.ready()  # before it listens for the signal, a process just ends by it

        await meanwhile(deployment.world.churn(10), restart)
        assert await right(deployment) == []
