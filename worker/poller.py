"""The poll loop: asks one source what is new, and has committed what came of it.

One coroutine asks and another commits: while a transaction is under way the next pages are fetched. A source is asked
one page at a time, so that an older answer never overtakes a newer one. Guarantees:

- the checkpoint moves only in the transaction that holds what was read up to it;
- what is withheld, and why, is said in the source's status;
- one source's trouble (outage, credential, unreadable page) stops that source alone, and one feed's that feed alone.
"""

import asyncio
import gc
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, Final, TypeVar, cast

import structlog

from worker import telemetry
from worker.absence import Absence, Enumeration
from worker.breaker import IN_A_ROW, Breaker, backoff
from worker.committer import Committer
from worker.condition import Condition
from worker.detection import SET_ASIDE, Detector
from worker.errors import (
    CredentialError,
    CursorExpiredError,
    RollcallError,
    UpstreamError,
    UpstreamUnavailableError,
)
from worker.orders import answer
from worker.rounds import Rounds
from worker.settings import SourceSettings
from worker.sources import Adapter, Bad, Cursor, Exists, Feed, Missing, Page, Row, Stub, Tombstone, Unsure, Verdict
from worker.status import Status
from worker.task import Task, Transaction
from worker.times import now_ms
from worker.upstream import Upstream
from worker.watch import FEED, WatchList

log = structlog.get_logger()

Result = TypeVar("Result")

_SAVE_SECONDS: Final = 30.0
_CREDENTIAL_PAUSE: Final = 30.0
_IDLE: Final = 60.0
_LONGEST_WAIT: Final = 3_600.0
# New objects after which the collector looks for garbage: more than the pages that are held at a time have.
_COLLECTED: Final = 100_000


class Source:
    """One source's loop."""

    def __init__(self, name: str, adapter: Adapter, settings: SourceSettings, detector: Detector, task: Task) -> None:
        """Prepare; `run` does the work."""
        self.name = name
        self.adapter = adapter
        self.detector = detector
        self.condition = Condition(name, adapter.kind)
        self.watch = WatchList(name)
        self._settings = settings
        self._task = task
        self._committer = Committer(task)
        self._upstream = Upstream(name, adapter, settings)
        self._absence = Absence(settings, detector, task, self._committer, self._upstream, self.condition)
        parts = self.watch, detector, task, self._committer, self._upstream, self._absence
        self._rounds = Rounds(*parts, self._save)
        self.feeds = {feed.name: feed for feed in adapter.feeds()} or {FEED: Feed(FEED, settings.interval)}
        changes = tuple(feed.name for feed in self.feeds.values() if not feed.enumerates)
        self.condition.following = changes or tuple(self.feeds)
        watch = self.watch if FEED in self.feeds else None
        self._status = Status(task.topics.status, detector, self._committer, self.condition, watch)
        self._due = dict.fromkeys(self.feeds, 0.0)
        self._cursors: dict[str, Cursor] = {}  # where to ask on: ahead of the checkpoint by what waits to be committed
        self._scans: dict[str, Enumeration] = {}
        self._failures = dict.fromkeys((*self.feeds, ""), 0)
        self._pages = dict.fromkeys(self.feeds, 0)  # of the present reading
        self._expired: dict[str, int] = {}  # by feed: after how many pages its cursor expired, until more were read
        self._breaker = Breaker()
        self._under: dict[str, str] = {}
        self._saved_at = time.monotonic()
        self._wake = asyncio.Event()
        self.log = log.bind(source=name)

    async def run(self) -> None:
        """Poll until the task is stopping; raises what ends the task."""
        _spare_collector()
        with self._task.store.reading() as state:
            again = self.detector.load(state.get(self.detector.position))
            self.watch.load(state)
        self._cursors = dict(self.detector.checkpoint.cursors)
        self.condition.take_up(self.detector.checkpoint, now_ms())
        if again:
            self.log.warning("source_republished", reason="its adapter, normalization or privacy policy has changed")
        committing = asyncio.ensure_future(self._committer.run())
        asking = asyncio.ensure_future(self._ask_on())
        stopping = asyncio.ensure_future(self._task.stopping.wait())
        try:
            await asyncio.wait([committing, asking, stopping], return_when=asyncio.FIRST_COMPLETED)
            if not committing.done():
                if asking.done():
                    asking.result()
                asking.cancel()  # what it waits for was not read, and will be read again
                await asyncio.wait([asking])
                asking = asyncio.ensure_future(self._committer.done(self._last_words))
                await asyncio.wait([committing, asking], return_when=asyncio.FIRST_COMPLETED)
            if committing.done():
                committing.result()
        finally:
            for one in (asking, committing, stopping):
                one.cancel()
            await asyncio.gather(asking, committing, stopping, return_exceptions=True)
            self.condition.hide()
            await self._upstream.close()

    def _last_words(self, tx: Transaction) -> None:
        self.detector.save(tx)
        self._status.publish(tx)

    async def commit(self, work: Callable[[Transaction], Result]) -> Result:
        """Have an operator's order committed between what was read before and after it, and look at what is due."""
        result = await self._committer.done(work)
        self._wake.set()
        return result

    # What is due

    async def _ask_on(self) -> None:
        """Read whatever is due, one page of each feed in turn, and wait where nothing is."""
        await self._status.tell()
        while not self._task.stopping.is_set():
            if self.detector.checkpoint.resync:
                await self._committer.done(self._resync)
            if self._halted():
                self._spoil("the source was paused meanwhile")
                await self._status.tell()
                await self._wait(_IDLE)
                continue
            if await self._attempt("", self._prepare):
                await self._attempt("", self._look_wanted_up)
                for name, feed in self.feeds.items():
                    if self._ready(feed):
                        await self._attempt(name, lambda feed=feed: self._read(feed))  # type: ignore[misc]
            await self._status.tell()
            await self._wait(self._next_due() - time.monotonic())

    def _halted(self) -> bool:
        """Return whether the source must not be asked anything, and say why."""
        paused, condition = self.detector.checkpoint.paused, self.condition
        if paused is not None:
            condition.begin("paused", RollcallError(f"paused by {paused['who']} at {paused['at']}"))
        else:
            condition.end("paused")
        if self.detector.outdated:
            message = f"{self.name}: its state was made by a newer version of Rollcall or of its adapter"
            hint = f"Run that version, or `rollcall resync {self.name}` to publish everything anew by this one."
            condition.begin("paused: newer state", RollcallError(message, hint=hint))
        else:
            condition.end("paused: newer state")
        return paused is not None or self.detector.outdated

    def _resync(self, tx: Transaction) -> None:
        """Have everything read from the start, because an operator asked for it."""
        self.detector.start_over()
        self.detector.checkpoint.resync = False
        self._start_over()
        self.detector.save(tx)

    def _start_over(self) -> None:
        """Read everything from the start, and at once; enumerations under way prove nothing."""
        self._cursors.clear()
        self._scans.clear()
        self._expired.clear()
        self._pages = dict.fromkeys(self.feeds, 0)
        self._rounds.spoil("it was started over")
        self._due = dict.fromkeys(self.feeds, 0.0)

    def _spoil(self, flaw: str) -> None:
        """Let no enumeration under way prove anything."""
        for scan in self._scans.values():
            scan.spoil(flaw)
        self._rounds.spoil(flaw)

    def _startable(self, feed: Feed) -> bool:
        return feed.after is None or feed.after in self.detector.checkpoint.read

    def _ready(self, feed: Feed) -> bool:
        due = self._due[feed.name] <= time.monotonic()
        return due and self._startable(feed) and not self._task.stopping.is_set() and not self._halted()

    def _next_due(self) -> float:
        due = (self._due[feed.name] for feed in self.feeds.values() if self._startable(feed))
        return min(due, default=time.monotonic() + 1.0)

    async def _wait(self, seconds: float) -> None:
        """Wait so long, or until the task is stopping, or something has changed."""
        if seconds <= 0 or self._task.stopping.is_set() or self._wake.is_set():
            self._wake.clear()
            await asyncio.sleep(0)
            return
        waits = [asyncio.ensure_future(event.wait()) for event in (self._wake, self._task.stopping)]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._wake.clear()
            for one in waits:
                one.cancel()

    async def _attempt(self, feed: str, step: Callable[[], Awaitable[None]]) -> bool:
        """Take one step; on trouble with the upstream say so, see to it that it is not asked too soon, return False."""
        condition = self.condition
        try:
            await step()
        except CredentialError as error:
            condition.begin("paused: credentials", error)
            await self._pause(_CREDENTIAL_PAUSE)
        except UpstreamUnavailableError as error:
            await self._unanswered(feed, error)
        except UpstreamError as error:
            await self._fail(feed, error)
        except RollcallError:
            raise
        except Exception as error:  # ruff: ignore[blind-except] - an adapter's bug; its text may quote a record
            await self._fail(feed, RollcallError(f"{self.name}: its adapter failed ({type(error).__name__})"))
        else:
            if feed:
                self._breaker.answered()
                condition.end("circuit open", "backing off", "paused: credentials")
            condition.end("backing off", about=feed)
            if feed not in self._expired:
                self._failures[feed] = 0
                condition.end("failing", about=feed)
            return True
        return False

    async def _fail(self, feed: str, error: RollcallError) -> None:
        """Leave a feed alone for a while that was answered with something of no use."""
        self.condition.begin("failing", error, about=feed)
        if not feed:
            await self._back_off(error)
            return
        if feed in self._scans:
            self._scans[feed].spoil("a page of it could not be read")
        self._put_off(feed)

    async def _unanswered(self, feed: str, error: UpstreamUnavailableError) -> None:
        """Leave a feed alone for a while that was not answered; the whole API where it asks for that, or seems down."""
        if not feed or error.retry_after is not None or self._breaker.failures + 1 >= IN_A_ROW:
            await self._back_off(error)
            return
        self._breaker.failed(0.0)
        self.condition.begin("backing off", error, about=feed)
        self._put_off(feed)

    def _put_off(self, feed: str) -> None:
        self._failures[feed] += 1
        self._due[feed] = time.monotonic() + backoff(self._failures[feed], _chance())

    async def _back_off(self, error: RollcallError) -> None:
        """Wait before the upstream is asked anything again: as long as it asks for, but not for ever."""
        pause = self._breaker.failed(_chance())
        wanted = error.retry_after if isinstance(error, UpstreamUnavailableError) else None
        self.condition.end("circuit open", "backing off")
        self.condition.begin("circuit open" if self._breaker.state == "open" else "backing off", error)
        await self._pause(min(max(wanted or 0.0, pause), _LONGEST_WAIT))
        self._breaker.waited()

    async def _pause(self, seconds: float) -> None:
        """Ask nothing for so long, whatever is ordered meanwhile; that shows in the status."""
        until = time.monotonic() + seconds
        await self._status.tell()
        while (left := until - time.monotonic()) > 0 and not self._task.stopping.is_set():
            await self._wait(left)
            self._halted()
            await self._status.tell()

    async def _prepare(self) -> None:
        """Have a credential; where it, or the filter, is another one than before, everything is read from the start."""
        await self._upstream.prepare()
        if self._upstream.secrets == self._under:
            return
        await self._committer.done(lambda _: None)  # what was read under the old one
        self._under = self._upstream.secrets
        if self.detector.set_scope(self._filters(), self._under):
            self.log.warning("source_scope_changed", reason="its filter or credential is another one: it is read anew")
            self._start_over()

    def _filters(self) -> str:
        """Return what decides, beside the credential, which customers are seen."""
        scope = self._settings.scope()
        return f"{self._settings.url} {self.detector.checkpoint.settings if scope is None else scope}"

    # Reading feeds

    async def _read(self, feed: Feed) -> None:
        """Read the next page of a feed and hand it on to be committed."""
        if feed.name == FEED:
            if await self._rounds.step():
                self._ended(feed)
            return
        cursor = self._cursors.get(feed.name)
        scan = await self._enumeration(feed, cursor) if feed.enumerates else None
        if scan is not None and scan.ended:
            await self._conclude(feed, scan)
            return
        moment = self._upstream.moment()
        request = self.adapter.request(feed.name, cursor, moment)
        if request is None:
            self._due[feed.name] = time.monotonic() + feed.interval
            return
        response = await self._upstream.ask(request)
        if self._upstream.secrets != self._under:
            return  # it was answered to another credential than the cursor is of
        try:
            page = self.adapter.read(feed.name, cursor, moment, response)
        except CursorExpiredError as error:
            self._expire(feed.name)
            self.log.warning("cursor_expired", feed=feed.name, reason=error.message)
            raise
        await self._take(feed, replace(page, origin=response.origin), scan)

    def _expire(self, feed: str) -> None:
        """Have a feed start over; it is failing until it gets further than now: its cursors may never last so long."""
        self._cursors.pop(feed, None)
        self._scans.pop(feed, None)
        self._expired[feed] = max(self._pages[feed], self._expired.get(feed, 0))
        self._pages[feed] = 0

    def _got_on(self, feed: str, pages: int) -> None:
        """Note how many pages of a feed's present reading were read."""
        self._pages[feed] = pages
        if pages > self._expired.get(feed, pages):
            del self._expired[feed]

    async def _enumeration(self, feed: Feed, cursor: Cursor | None) -> Enumeration:
        scan = self._scans.get(feed.name)
        if scan is None:
            scan = self._scans[feed.name] = await self._absence.begin(feed.name, resumed=cursor is not None)
        return scan

    async def _take(self, feed: Feed, page: Page, scan: Enumeration | None) -> None:
        """Take a page in: commit it, read what it only named, and conclude where it was the last one."""
        if page.note is not None or not page.more:  # where an adapter had to fall back is said until the reading ends
            self.condition.say(page.note, about=feed.name)
        if scan is not None:
            scan.follow(page)
        now, mark, size = now_ms(), None if scan is None else scan.mark, len(page.items)
        if Stub in set(map(type, page.items)):
            for customer_id in await self._committer.done(lambda tx: self._named(tx, page, now, mark), size):
                if self._halted():
                    return  # the page is read again afterwards
                if scan is not None:
                    scan.looked_up = True
                await self._look_up(customer_id)
                await self._status.tell()
            await self._committer.put(lambda tx: self._move(tx, feed, page.cursor))
        else:
            await self._committer.put(lambda tx: self._whole(tx, feed, page, now, mark), size)
        self._cursors[feed.name] = page.cursor
        self._due[feed.name] = time.monotonic() + self._pace(size)
        self._got_on(feed.name, self._pages[feed.name] + 1)
        if page.more:
            return
        if scan is None:
            self._ended(feed)
            return
        scan.ended = True
        await self._conclude(feed, scan)

    async def _conclude(self, feed: Feed, scan: Enumeration) -> None:
        """Conclude from an enumeration that was read to its end: a part at a time, and what fails is tried again."""
        if not await self._absence.conclude(feed.name, scan, lambda: self._count(feed)):
            return
        await self._committer.done(lambda _: self.detector.checkpoint.cursors.pop(feed.name, None))
        self._cursors.pop(feed.name, None)
        self._scans.pop(feed.name, None)
        self._ended(feed)

    def _pace(self, size: int) -> float:
        """Return how long to wait after so many customers: only where everything is published anew."""
        return size / self._settings.republish_rate if self.detector.checkpoint.republishing else 0.0

    async def _count(self, feed: Feed) -> int | None:
        """Ask how many customers there are now, where the first page of the feed says so."""
        moment = self._upstream.moment()
        request = self.adapter.request(feed.name, None, moment)
        if request is None:
            return None
        return self.adapter.read(feed.name, None, moment, await self._upstream.ask(request)).total

    def _ended(self, feed: Feed) -> None:
        """Note that a feed was read to its end: it is due again after its interval."""
        checkpoint = self.detector.checkpoint
        self._pages[feed.name] = 0
        self._expired.pop(feed.name, None)
        if feed.name not in checkpoint.read:
            checkpoint.read.append(feed.name)
        if checkpoint.republishing and set(checkpoint.read) >= set(self.feeds):
            checkpoint.republishing = False
            self.log.info("source_republished_whole")
        self._due[feed.name] = time.monotonic() + feed.interval
        self.condition.ended(feed.name, now_ms(), enumerates=feed.enumerates)

    def _apply(self, tx: Transaction, page: Page, now: int, mark: bytes | None) -> list[str]:
        """Write what a page changes; return the ids whose records have to be read."""
        detector, origin = self.detector, page.origin
        wanted: list[str] = []
        if set(map(type, page.items)) == {Row}:
            detector.rows(tx, cast("Sequence[Row]", page.items), now, mark, origin)
            return wanted
        for item in page.items:
            match item:
                case Row():
                    detector.row(tx, item, now, mark, origin)
                case Stub():
                    if detector.stub(tx, item, mark, origin):
                        wanted.append(item.id)
                case Tombstone():
                    detector.tombstone(tx, item, now)
                case Bad():
                    detector.bad(tx, item, mark, origin)
        return wanted

    def _named(self, tx: Transaction, page: Page, now: int, mark: bytes | None) -> list[str]:
        """Write what a page changes, its counts with it, but not that it was read; return whom else to read."""
        wanted = self._apply(tx, page, now, mark)
        self._save(tx)
        return wanted

    def _whole(self, tx: Transaction, feed: Feed, page: Page, now: int, mark: bytes | None) -> None:
        self._apply(tx, page, now, mark)
        self._move(tx, feed, page.cursor)

    def _move(self, tx: Transaction, feed: Feed, cursor: Cursor) -> None:
        """Move the checkpoint past a page, in the transaction that holds (the last of) what the page changed."""
        self.detector.checkpoint.cursors[feed.name] = cursor
        self._save(tx)

    def _save(self, tx: Transaction) -> None:
        """Move the checkpoint with what was written; alone only now and then: an unchanged page writes nothing."""
        if tx.changes or tx.outputs or time.monotonic() - self._saved_at > _SAVE_SECONDS:
            self.detector.save(tx)
            self._saved_at = time.monotonic()
        for outcome, count in self.detector.counts.items():
            telemetry.ROWS.labels(self.name, outcome).inc(count)
            if outcome.startswith("customer."):
                telemetry.EVENTS.labels(self.name, outcome).inc(count)
            if outcome == SET_ASIDE:
                telemetry.DEAD_LETTERS.labels(self._task.stage).inc(count)
        self.detector.counts.clear()
        telemetry.LIVE.labels(self.name).set(self.detector.checkpoint.live)

    async def _look_up(self, customer_id: str) -> None:
        """Read the record of a customer that was only named, and is noted as shown already."""
        verdict = await self._upstream.lookup(customer_id)
        now = now_ms()
        match verdict:
            case Exists():
                await self._committer.put(lambda tx: self._one(tx, verdict, now))
            case Unsure():
                await self._committer.put(lambda tx: self._unsure(tx, customer_id, verdict))
            case Missing():
                return  # gone in between: the next enumeration tells

    def _one(self, tx: Transaction, found: Exists, now: int) -> None:
        self.detector.row(tx, found.row, now, None, found.origin)
        self._save(tx)

    def _unsure(self, tx: Transaction, customer_id: str, verdict: Unsure) -> None:
        self.detector.unsure(tx, customer_id, verdict)
        self._save(tx)

    # What an operator asked for

    async def _look_wanted_up(self) -> None:
        """Look up whom an operator asked for, and answer in the transaction that takes in what came of it."""
        for wanted in list(self.detector.checkpoint.wanted):
            if self._halted():
                return  # that is answered afterwards
            verdict = await self._upstream.lookup(wanted[1])
            now = now_ms()
            await self._committer.done(lambda tx: self._answer(tx, wanted, verdict, now))  # ruff: ignore[function-uses-loop-variable] - awaited

    def _answer(self, tx: Transaction, wanted: list[Any], verdict: Verdict, now: int) -> None:
        given, customer_id = wanted
        match verdict:
            case Exists(row, origin):
                before = sum(map(len, tx.outputs.values()))
                self.detector.row(tx, row, now, None, origin)
                news = sum(map(len, tx.outputs.values())) > before
                text = "is there, and has changed" if news else "is there, as it was published"
            case Missing():
                text = "is not found; that it is gone is concluded by enumerations only"
            case Unsure(reason):
                text = f"could not be looked up: {reason}"
        tx.send(self._task.topics.status, *answer(given, "done", f"{self.name}/{customer_id} {text}", now))
        self.detector.checkpoint.wanted.remove(wanted)
        self.detector.save(tx)


@cache
def _spare_collector() -> None:
    """Have the garbage collector leave pages alone.

    A page of a thousand customers is many thousands of objects, none of them garbage, and all gone with the page. To go
    through them, and through the whole program with them, cost as much as to parse them.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECTED, 10, 10)


def _chance() -> float:
    return random.random()  # ruff: ignore[suspicious-non-cryptographic-random-usage] - jitter
