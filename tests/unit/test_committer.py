"""What becomes of pieces that are put while a committer ends, and afterwards."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from worker.committer import Committer
from worker.errors import FencedError, TransactionError
from worker.task import Task


class Stub:
    """A task whose transactions wait until they are let go, and may fail then."""

    def __init__(self) -> None:
        """Let none go yet."""
        self.go = asyncio.Event()
        self.error: Exception | None = None

    async def transact(self, work: Callable[[Any], Any]) -> Any:
        """Run `work` once it may."""
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return work(None)


async def _ended(stub: Stub, end: Callable[["asyncio.Future[None]"], object]) -> list[BaseException]:
    """End a committer with three pieces in it and put a fourth; return what whoever put them was given."""
    committer = Committer(cast("Task", stub))
    running = asyncio.ensure_future(committer.run())
    heavy = [asyncio.ensure_future(committer.done(lambda _: None, 4_000)) for _ in range(3)]
    await asyncio.sleep(0.01)
    end(running)
    await asyncio.wait([running])
    late = asyncio.ensure_future(committer.done(lambda _: None))
    async with asyncio.timeout(5):
        found = await asyncio.gather(*heavy, late, return_exceptions=True)
    await asyncio.gather(running, return_exceptions=True)
    return [one for one in found if isinstance(one, BaseException)]


async def test_whoever_waits_for_a_committer_that_was_cancelled_is_told() -> None:
    """What is in its transaction, what waits, what waits for room, and what comes later."""
    found = await _ended(Stub(), lambda running: running.cancel())
    assert [type(error) for error in found] == [TransactionError] * 4


async def test_whoever_waits_is_given_what_ended_it() -> None:
    """A fence stays a fence for everybody, or the partition would be taken up again at once."""
    stub = Stub()
    stub.error = FencedError("another worker owns it")
    found = await _ended(stub, lambda _: stub.go.set())
    assert found == [stub.error] * 4


async def test_a_put_after_the_end_is_refused() -> None:
    """It is not taken, as if somebody would commit it."""
    committer = Committer(cast("Task", Stub()))
    running = asyncio.ensure_future(committer.run())
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running])
    with pytest.raises(TransactionError):
        await committer.put(lambda _: None)
