"""Concludes from an enumeration that has ended who is gone, if anything can be concluded (invariant 4).

Nobody is taken for deleted unless:

- this very owner read the enumeration from its start to its end, every page and every record of it;
- it showed as many customers as the upstream counts, where it counts, and not none at all;
- the customer was missing in two of them in a row, and was last seen under the present filter and credential;
- so few are missing that it is believable (the guard), or a person approved exactly these;
- a look-up says so too, where there is one, between two look-ups that find a customer who is there; where there is
  none, and a filter that they may have left, a person approved exactly these.

What is withheld is said: as an alarm, and as a plan that `rollcall sources approve` lets pass.

Look-ups take their time: they are done a part at a time, so that other feeds and the status have their turn, and end
where the source is paused. Where they are not answered a part gets smaller, so that some of it is done between two
failures; where that is of no use either, the enumeration proves nothing, and the next one is begun. What is left of a
plan that was approved stays approved, also for a successor.
"""

import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

import structlog

from worker import changes, telemetry
from worker.changes import Entry
from worker.checkpoint import Checkpoint
from worker.committer import Committer
from worker.condition import Condition
from worker.detection import Detector
from worker.errors import UpstreamUnavailableError
from worker.settings import SourceSettings
from worker.sources import Bad, Exists, Missing, Page, Tombstone, Unsure, Verdict
from worker.task import Task, Transaction
from worker.times import now_ms
from worker.upstream import Upstream
from worker.watch import WatchList

log = structlog.get_logger()

_CHUNK: Final = 5_000
_LOOKUPS_A_TRANSACTION: Final = 50
_TURN_SECONDS: Final = 10.0  # of look-ups, then it is the other feeds' turn
_TWICE: Final = 2
_CANARIES: Final = 3
_PATIENCE_SECONDS: Final = 60.0  # with what is not answered while it concludes


@dataclass
class Enumeration:
    """An enumeration under way; it may prove absence as long as there is no `flaw`.

    `mark` starts its marks: they stand by whom it has shown or, where it asks for customers one by one (`by_lookup`),
    by whom it did not find; `shown` counts those it has found then. `canaries`: some customers that are there.
    `uncounted`: it may have shown some whom the total leaves out. `ended`: it was read to its end; `everybody`: it has
    shown just those who live, and there are no marks; `counted`: its misses are counted, and what is left are look-ups,
    which may be repeated: of those after the id `confirmed`. `failing`: since when they fail (monotonic), if they do.
    `plan` is of the missing, less those who are settled; `unsure`: look-ups could not settle some of them. `tallied`:
    it is known whom it has shown.
    """

    mark: bytes
    moved: int
    by_lookup: bool = False
    total: int | None = None
    canaries: deque[str] = field(default_factory=lambda: deque(maxlen=_CANARIES))
    shown: int = 0
    uncounted: bool = False
    bad: bool = False
    ended: bool = False
    tallied: bool = False
    counted: bool = False
    looked_up: bool = False
    everybody: bool = False
    confirmed: bytes = b""
    failing: float | None = None
    unsure: bool = False
    plan: changes.PlanHash = field(default_factory=changes.PlanHash)
    flaw: str | None = None

    def spoil(self, flaw: str) -> None:
        """Let it prove nothing any more, because of `flaw`."""
        self.flaw = self.flaw or flaw

    def follow(self, page: Page) -> None:
        """Take in what a page says about the whole."""
        if page.total is not None and self.total is None:
            self.total = page.total
        self.uncounted = self.uncounted or page.uncounted
        self.bad = self.bad or Bad in set(map(type, page.items))
        there = (item.id for item in reversed(page.items) if not isinstance(item, Bad | Tombstone))
        self.canaries.extendleft(reversed(list(islice(there, _CANARIES))))


@dataclass
class _Missing:
    """Who was not shown: of those last seen under the present scope, and of those last seen under another one.

    `blind` counts those of both for whom there is no look-up.
    """

    ours: int = 0
    others: int = 0
    blind: int = 0
    plan: changes.PlanHash = field(default_factory=changes.PlanHash)
    other_plan: changes.PlanHash = field(default_factory=changes.PlanHash)


class Absence:
    """Draws the conclusions for one source."""

    def __init__(
        self,
        settings: SourceSettings,
        detector: Detector,
        task: Task,
        committer: Committer,
        upstream: Upstream,
        condition: Condition,
    ) -> None:
        """Prepare; the parts are those of the source's loop."""
        self._settings = settings
        self._detector = detector
        self._task = task
        self._committer = committer
        self._upstream = upstream
        self._condition = condition
        self._watch = WatchList(detector.source)
        self._together = _LOOKUPS_A_TRANSACTION
        self._log = log.bind(source=detector.source)

    @property
    def _checkpoint(self) -> Checkpoint:
        return self._detector.checkpoint

    async def begin(self, feed: str, *, resumed: bool, by_lookup: bool = False) -> Enumeration:
        """Begin an enumeration; one that is `resumed` was begun by an earlier owner and proves nothing."""
        mark = b"%s/%s/" % (self._detector.source.encode(), feed.encode())
        await self._committer.done(lambda tx: self._detector.begin(tx, mark))
        scan = Enumeration(mark, self._detector.moved, by_lookup)
        if resumed:
            scan.spoil("it was begun by an earlier owner")
        return scan

    async def conclude(self, feed: str, scan: Enumeration, recount: Callable[[], Awaitable[int | None]]) -> bool:
        """Conclude from an enumeration that has ended; return False as long as look-ups are left.

        `recount` asks the upstream once more how many there are.
        """
        if scan.flaw is None and not scan.by_lookup and not scan.tallied:
            await self._tally(scan)
        await self._committer.done(lambda tx: self._ended(tx, scan))  # after everything that it showed
        scan.tallied = True
        flaw = scan.flaw or ("it showed a record that cannot be read" if scan.bad else None)
        if flaw is not None:
            self._log.info("absence_not_concluded", feed=feed, reason=flaw)
            return True
        if self._paused:
            return False
        try:
            if not scan.counted and not await self._weigh(feed, scan, recount):
                return True
            return await self._confirm_next(scan)
        except UpstreamUnavailableError:
            self._together = max(1, self._together // 2)
            scan.failing = scan.failing or time.monotonic()
            if time.monotonic() - scan.failing >= _PATIENCE_SECONDS:
                scan.spoil(f"what it asked in the end was not answered for {_PATIENCE_SECONDS:.0f} s")
            raise

    async def _weigh(self, feed: str, scan: Enumeration, recount: Callable[[], Awaitable[int | None]]) -> bool:
        """Find out who is missing, and whether that can be; return whether they have to be looked up."""
        missing = await self._compare(scan)
        problem = await self._incomplete(scan, missing, recount)
        if problem is not None:
            self._condition.raise_alarm("listing", problem)
            return False
        held, adopted = self._held(scan, missing), self._unobserved(missing)
        self._condition.clear_alarm("listing", *(() if held else ("held",)))
        telemetry.HELD.labels(self._detector.source).set(missing.ours if held else 0)
        if missing.ours or adopted:
            await self._count(scan, adopted=adopted)
        self._checkpoint.scans[feed] = self._checkpoint.scans.get(feed, 0) + 1
        scan.counted, scan.plan = True, missing.plan
        if not held and not missing.ours:
            self._condition.clear_alarm("canary")
        return bool(missing.ours) and not held

    async def _tally(self, scan: Enumeration) -> None:
        """Find out how many different customers it has shown, and mark them unless they are just those who live."""
        detector, mark = self._detector, scan.mark
        notes = await self._committer.done(lambda tx: detector.notes(tx, mark))
        scan.everybody = not self._checkpoint.set_aside and detector.everybody(mark)
        for note in range(0 if scan.everybody else notes):
            await self._committer.done(lambda tx, note=note: detector.count(tx, mark, note), _CHUNK)  # type: ignore[misc]

    def _ended(self, tx: Transaction, scan: Enumeration) -> None:
        if scan.flaw is None and not scan.by_lookup and not scan.tallied:
            self._detector.forget_set_aside(tx, scan.mark)
            self._save(tx)

    async def _incomplete(
        self, scan: Enumeration, missing: _Missing, recount: Callable[[], Awaitable[int | None]]
    ) -> str | None:
        """Return why an enumeration that was read to its end cannot have shown everybody, None if it can."""
        live, shown = self._checkpoint.live, scan.shown if scan.by_lookup else self._detector.shown[scan.mark]
        if shown == 0 and (missing.ours or missing.others):
            what = "no look-up finds anybody any more" if scan.by_lookup else "the listing is empty"
            return f"{what}, though there were {live} customers: is the credential still good for all of them?"
        moved = self._detector.moved - scan.moved
        if scan.uncounted or changes.complete(marked=shown, total=scan.total, moved=moved):
            return None
        before, now, confirmed = scan.total, await recount(), not missing.blind
        if before is not None and now is not None and agrees(shown, before, now, moved, confirmed=confirmed):
            return None  # customers came or went while it was read
        return f"the listing showed {shown} customers, though the upstream counts {before}"

    def _whole(self, scan: Enumeration) -> bool:
        """Return whether so many were shown as there are, and nothing happened meanwhile that could hide a difference.

        Then nobody is missing, and the entries need not be gone through.
        """
        calm = scan.moved == self._detector.moved and not (scan.by_lookup or scan.looked_up)
        if not calm or self._checkpoint.set_aside or self._detector.shown[scan.mark] != self._checkpoint.live:
            return scan.everybody
        self._detector.learn(scan.mark)
        return True

    async def _compare(self, scan: Enumeration) -> _Missing:
        if self._whole(scan):
            return _Missing()
        found, scope = _Missing(), self._detector.scope
        async for identity, entry in self._unshown(scan):
            found.blind += not self._upstream.looks_up(identity.decode())
            if entry.scope == scope:
                found.ours += 1
                found.plan.add(identity)
            else:
                found.others += 1
                found.other_plan.add(identity)
        return found

    async def _unshown(self, scan: Enumeration) -> AsyncGenerator[tuple[bytes, Entry]]:
        """Yield the live customers that were not shown, and are not looked up yet, in the order of their ids.

        Of a watch list, only those who are still watched. A chunk at a time: others run in between.
        """
        prefix = self._detector.prefix
        start: bytes | None = prefix + scan.confirmed + b"\0" if scan.confirmed else prefix
        while start is not None:
            found: list[tuple[bytes, Entry]] = []
            with self._task.store.reading() as state:
                last, start = start, None
                for count, (key, raw) in enumerate(state.scan(prefix, last)):
                    if count == _CHUNK:
                        start = key
                        break
                    identity = key[len(prefix) :]
                    if state.marked(scan.mark + identity) != scan.by_lookup or not (entry := Entry.unpack(raw)).live:
                        continue
                    if not scan.by_lookup or self._watch.watches(state, identity.decode()):
                        found.append((identity, entry))
            for one in found:
                yield one
            await self._committer.done(lambda _: None)

    async def _count(self, scan: Enumeration, *, adopted: bool) -> None:
        """Count the misses; `adopted`: also of those last seen under another scope."""
        async for chunk in _chunks(self._unshown(scan), None if adopted else self._detector.scope):
            await self._committer.done(lambda tx, ids=chunk: self._miss(tx, ids, adopted=adopted), len(chunk))  # type: ignore[misc]

    async def _missed_again(self, scan: Enumeration, count: int) -> list[bytes]:
        """Return the next who were missed twice or more."""
        found: list[bytes] = []
        async with aclosing(self._unshown(scan)) as unshown:
            async for identity, entry in unshown:
                if entry.scope == self._detector.scope and entry.missed >= _TWICE:
                    found.append(identity)
                if len(found) == count:
                    break
        return found

    def _save(self, tx: Transaction) -> None:
        """Write the checkpoint with what is written anyway; alone it is worth no transaction."""
        if tx.changes or tx.outputs:
            self._detector.save(tx)

    def _miss(self, tx: Transaction, identities: list[bytes], *, adopted: bool) -> None:
        for one in identities:
            self._detector.missed(tx, one, adopt=adopted)
        self._save(tx)

    def _held(self, scan: Enumeration, missing: _Missing) -> bool:
        """Return whether so many are missing that a person has to approve it, and say so."""
        settings, checkpoint = self._settings, self._checkpoint
        live = scan.shown + missing.ours if scan.by_lookup else checkpoint.live
        count, fraction = settings.absence_guard_count, settings.absence_guard_fraction
        left = missing.ours and missing.blind and settings.filtered()
        much = left or changes.guard(missing.ours, live, count=count, fraction=fraction)
        if not much or missing.plan.value() == checkpoint.approved:
            checkpoint.held = None
            return False
        plan = missing.plan.value()
        checkpoint.held = {"plan": plan, "missing": missing.ours, "live": live}
        why = ", or have only left the filter: there is no look-up to tell" if left else ""
        text = f"{missing.ours} of {live} customers are missing{why}: held as plan {plan}, which needs approval"
        self._condition.raise_alarm("held", text)
        return True

    def _unobserved(self, missing: _Missing) -> bool:
        """Say who is not seen since filter or credential changed; return whether a person approved to count them."""
        checkpoint = self._checkpoint
        plan = missing.other_plan.value()
        approved = bool(missing.others) and plan == checkpoint.approved
        if approved or not missing.others:
            checkpoint.unobserved = None
            self._condition.clear_alarm("unobserved")
            return approved
        checkpoint.unobserved = {"plan": plan, "customers": missing.others}
        text = (
            f"{missing.others} customers are not seen under the present filter and credential, and are left as they "
            f"were: plan {plan} counts them as missing"
        )
        self._condition.raise_alarm("unobserved", text)
        return False

    async def _confirm_next(self, scan: Enumeration) -> bool:
        """Have the next of the missing confirmed; return False where that has to be gone on with."""
        together = self._together
        ids = await self._missed_again(scan, together)
        if ids and not await self._confirm(ids, scan):
            return not self._paused
        if len(ids) == together or (ids and scan.confirmed != ids[-1]):
            return False
        self._together = _LOOKUPS_A_TRANSACTION
        self._condition.clear_alarm("canary")
        if self._checkpoint.approved == scan.plan.value() and not scan.unsure:
            self._checkpoint.approved = None  # it is done
        return True

    @property
    def _paused(self) -> bool:
        return self._checkpoint.paused is not None

    async def _confirm(self, ids: list[bytes], scan: Enumeration) -> bool:
        """Look the missing up, one by one, between two looks at a customer that is known to be there.

        Of as many as there is time for. Returns False, having published nothing, if the source is paused or its
        credential replaced meanwhile, or no such canary is found: then nothing is proved.
        """
        credential = self._upstream.secrets
        if not await self._sound(scan):
            return False
        until = time.monotonic() + _TURN_SECONDS
        verdicts: list[tuple[str, Verdict]] = []
        for identity in ids:
            if self._paused or (verdicts and time.monotonic() > until):
                break
            verdicts.append((identity.decode(), await self._verdict(identity.decode())))
        if self._paused or not await self._sound(scan):
            return False
        if self._upstream.secrets != credential:  # which may see others
            scan.spoil("its credential was replaced meanwhile")
            return False
        self._condition.clear_alarm("canary")
        now = now_ms()
        if not await self._committer.done(lambda tx: self._bury(tx, verdicts, scan, now), len(verdicts)):
            return False
        scan.confirmed, scan.failing = ids[len(verdicts) - 1], None
        return True

    async def _verdict(self, customer_id: str) -> Verdict:
        if not self._upstream.looks_up(customer_id):
            return Missing(conclusive=False)
        return await self._upstream.lookup(customer_id)

    async def _sound(self, scan: Enumeration) -> bool:
        """Return whether look-ups find who is there; a single canary may have been deleted a moment ago."""
        for canary in tuple(scan.canaries):
            if self._paused:
                return False
            if not self._upstream.looks_up(canary) or isinstance(await self._upstream.lookup(canary), Exists):
                return True
            scan.canaries.remove(canary)
        self._condition.raise_alarm("canary", "customers of the listing are not found by look-up: nobody is gone")
        return False

    def _bury(self, tx: Transaction, verdicts: list[tuple[str, Verdict]], scan: Enumeration, now: int) -> bool:
        """Publish what the look-ups said, unless the source is paused; what is left of an approved plan is approved."""
        if self._paused:
            return False
        approved = self._checkpoint.approved == scan.plan.value()
        for customer_id, verdict in verdicts:
            match verdict:
                case Missing(conclusive):
                    self._detector.gone(tx, customer_id, "gone" if conclusive else "absent", now)
                case Exists(row, origin):
                    self._detector.row(tx, row, now, None, origin)
                case Unsure():
                    scan.unsure = True
                    continue  # it stays missed, and is asked for again after the next enumeration
            scan.plan.take(customer_id.encode())
        if approved:
            self._checkpoint.approved = scan.plan.value()
        self._save(tx)
        return True


def agrees(shown: int, before: int, now: int, moved: int, *, confirmed: bool) -> bool:
    """Return whether an enumeration can have shown everybody, by the upstream's counts `before` it and `now`.

    It shows as many as one of them, but for those who, as we know, came or went meanwhile (`moved`). Between the two
    lies what shows a part of those who went unnoticed, but also what a server shows that loses its customers on the
    way: that will do only where look-ups confirm who is missing.
    """
    if confirmed:
        return min(before, now) - moved <= shown <= max(before, now) + moved
    return any(changes.complete(marked=shown, total=count, moved=moved) for count in (before, now))


async def _chunks(found: AsyncIterator[tuple[bytes, Entry]], scope: bytes | None) -> AsyncIterator[list[bytes]]:
    """Yield ids many at a time: of those last seen under this scope, or of all (None)."""
    chunk: list[bytes] = []
    async for identity, entry in found:
        if scope in {None, entry.scope}:
            chunk.append(identity)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
