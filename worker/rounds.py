"""Goes round a watch list: looks customers up, a few at a time, and takes in what came of it.

A round is an enumeration: it may prove absence as one does, only that an answer "there is none such" may also mean that
we may not see the customer. Guarantees: a customer is missing only if two whole rounds of one uninterrupted owner did
not find it; an answer that proves nothing proves no absence, and sets the customer aside until there is one that can
be read; one look-up that keeps failing stops no round.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Protocol, cast

from worker.absence import Absence, Enumeration
from worker.committer import Committer
from worker.detection import Detector
from worker.errors import UpstreamError
from worker.sources import Exists, Missing, Origin, Row, Unsure, Verdict
from worker.task import Task, Transaction
from worker.times import now_ms
from worker.upstream import Upstream
from worker.watch import FEED, WatchList

_TOGETHER: Final = 8


class Following(Protocol):
    """An adapter that finds further customers in a customer's record."""

    def related(self, row: Row) -> Sequence[str]:
        """Return the ids of other customers to be watched as well."""


class Rounds:
    """The rounds of one source."""

    def __init__(
        self,
        watch: WatchList,
        detector: Detector,
        task: Task,
        committer: Committer,
        upstream: Upstream,
        absence: Absence,
        save: Callable[[Transaction], None],
    ) -> None:
        """Prepare; the parts are those of the source's loop. `save` writes the checkpoint, now and then."""
        self._watch = watch
        self._detector = detector
        self._task = task
        self._committer = committer
        self._upstream = upstream
        self._absence = absence
        self._save = save
        self._scan: Enumeration | None = None
        self._last: str | None = None

    async def step(self) -> bool:
        """Look the next customers up; return whether a round has ended."""
        await self._committer.done(lambda _: None)  # the list as it is now
        if self._detector.checkpoint.paused is not None:
            return False
        if fresh := self._fresh():
            await self._look(fresh, None)
            return False
        scan = await self._round()
        if not scan.ended:
            if ids := self._following():
                await self._look(ids, scan)
                return False
            scan.ended = True
        if not await self._absence.conclude(FEED, scan, self._uncounted):
            return False
        self._scan = self._last = None
        await self._committer.put(self._over)
        return True

    def _fresh(self) -> list[str]:
        with self._task.store.reading() as state:
            return self._watch.fresh(state, _TOGETHER)

    def _following(self) -> list[str]:
        with self._task.store.reading() as state:
            return self._watch.after(state, self._last, _TOGETHER)

    @staticmethod
    async def _uncounted() -> None:
        return None

    def spoil(self, flaw: str) -> None:
        """Let the present round prove nothing."""
        if self._scan is not None:
            self._scan.spoil(flaw)

    async def _round(self) -> Enumeration:
        """Return the present round, or a new one; where an earlier owner was cut short, it is gone on with."""
        if self._scan is None:
            self._last = self._detector.checkpoint.cursors.get(FEED, {}).get("after")
            self._scan = await self._absence.begin(FEED, resumed=self._last is not None, by_lookup=True)
        return self._scan

    def _over(self, tx: Transaction) -> None:
        self._detector.checkpoint.cursors.pop(FEED, None)
        self._save(tx)

    async def _look(self, ids: Sequence[str], scan: Enumeration | None) -> None:
        """Look some up at once; what was answered is kept, and the first failure is raised after that."""
        answers = await asyncio.gather(*map(self._upstream.lookup, ids), return_exceptions=True)
        found: list[tuple[str, Verdict]] = []
        failed: list[BaseException] = []
        for customer_id, answer in zip(ids, answers, strict=True):
            if isinstance(answer, BaseException):
                failed.append(answer)
            elif not failed or scan is None:  # a round goes on where the first failure was
                found.append((customer_id, answer))
        if found:
            now = now_ms()
            await self._committer.done(lambda tx: self._take(tx, found, scan, now), len(found))
            if scan is not None:
                self._last = found[-1][0]
        if failed:
            if len(failed) == len(ids):
                await self._witness(ids)
            try:
                raise failed[0]
            finally:  # its traceback refers to this frame: names for it here would keep both, and all that it holds
                del answer, answers, failed

    async def _witness(self, ids: Sequence[str]) -> None:
        """Look up one customer more, to tell an API that is down from look-ups that fail (`Upstream.lookup`)."""
        with self._task.store.reading() as state:
            others = [one for one in self._watch.after(state, None, len(ids) + 1) if one not in ids]
        with suppress(UpstreamError):
            if others:
                await self._upstream.lookup(others[0])

    def _take(self, tx: Transaction, found: Sequence[tuple[str, Verdict]], scan: Enumeration | None, now: int) -> None:
        checkpoint = self._detector.checkpoint
        for customer_id, verdict in found:
            if not self._watch.watches(tx, customer_id):
                continue  # removed meanwhile
            match verdict:
                case Exists(row, origin):
                    self._see(tx, row, origin, scan, now)
                case Missing():
                    self._detector.nothing_aside(tx, customer_id)
                    if scan is not None:
                        tx.mark(scan.mark + customer_id.encode())
                case Unsure():
                    self._detector.unsure(tx, customer_id, verdict)
            self._watch.looked_up(tx, customer_id)
        if scan is not None:
            checkpoint.cursors[FEED] = {"after": found[-1][0]}
        self._save(tx)

    def _see(self, tx: Transaction, row: Row, origin: Origin | None, scan: Enumeration | None, now: int) -> None:
        self._detector.row(tx, row, now, None, origin)
        if scan is not None:
            scan.shown += 1
            scan.canaries.appendleft(row.id)
        adapter = self._detector.adapter
        if hasattr(adapter, "related"):
            related = cast("Following", adapter).related(row)
            self._watch.add(tx, related, found=True)
