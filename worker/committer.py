"""Commits what a source has found: in order, many pieces in one transaction, and not more in memory than a few pages.

While a transaction is under way the next pages are fetched and wait here. Guarantee: pieces are committed in the order
in which they were put, each whole; whoever puts more than fits waits; once it has ended, nobody does.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeVar

from worker.errors import TransactionError
from worker.task import Task, Transaction

Result = TypeVar("Result")

# In customers: what may wait, and what one transaction may hold.
_WAITING: Final = 4_000
_TOGETHER: Final = 2_000
_LIGHTEST: Final = 100

_Piece = tuple[Callable[[Transaction], Any], int, "asyncio.Future[Any] | None"]


class Committer:
    """Commits pieces of work, each a function of the transaction that holds it."""

    def __init__(self, task: Task) -> None:
        """Work on `task`; `run` must be running."""
        self._task = task
        self._pieces: deque[_Piece] = deque()
        self._weight = 0
        self._changed = asyncio.Condition()
        self._ended: Exception | None = None

    async def put(self, work: Callable[[Transaction], Any], customers: int = 0) -> None:
        """Have `work` committed soon, after all that was put before; waits while too much is waiting.

        `customers` is how many it is about, by which is judged how much fits.
        """
        await self._add(work, customers, None)

    async def done(self, work: Callable[[Transaction], Result], customers: int = 0) -> Result:
        """Have `work` committed, and return its result once it is; raises what has ended `run`."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        await self._add(work, customers, future)
        return await future

    async def _add(
        self, work: Callable[[Transaction], Any], customers: int, future: "asyncio.Future[Any] | None"
    ) -> None:
        weight = max(customers, _LIGHTEST)
        async with self._changed:
            await self._changed.wait_for(lambda: self._ended or not self._pieces or self._weight + weight <= _WAITING)
            if self._ended is not None:
                raise self._ended
            self._pieces.append((work, weight, future))
            self._weight += weight
            self._changed.notify_all()

    async def run(self) -> None:
        """Commit what is put, until cancelled; raises what `Task.transact` raises."""
        batch: list[_Piece] = []
        try:
            while True:
                batch = await self._next()
                await self._commit(batch)
        except BaseException as error:
            message = "the source came to its end before this was committed"
            self._ended = error if isinstance(error, Exception) else TransactionError(message)
            await self._turn_away(batch, self._ended)
            raise

    async def _commit(self, batch: list[_Piece]) -> None:
        results = await self._task.transact(lambda tx: [work(tx) for work, _, _ in batch])
        for (_, _, future), result in zip(batch, results, strict=True):
            if future is not None and not future.done():
                future.set_result(result)

    async def _turn_away(self, batch: list[_Piece], ended: Exception) -> None:
        """Tell everybody who waits that nothing more is committed."""
        for _, _, future in (*batch, *self._pieces):
            if future is not None and not future.done():
                future.set_exception(ended)
        async with self._changed:
            self._changed.notify_all()

    async def _next(self) -> list[_Piece]:
        """Return the next pieces that go into one transaction: one at least, however heavy it is."""
        async with self._changed:
            await self._changed.wait_for(lambda: bool(self._pieces))
            batch: list[_Piece] = []
            weight = 0
            while self._pieces and (not batch or weight + self._pieces[0][1] <= _TOGETHER):
                batch.append(self._pieces.popleft())
                weight += batch[-1][1]
            self._weight -= weight
            self._changed.notify_all()
            return batch
