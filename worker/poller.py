"""The poll loop: asks the sources that a task owns what is new, and commits what came of it.

For each source one coroutine asks and another commits: while a transaction is under way the next pages are fetched, and
all pages that wait are committed in one transaction. A source is asked one request at a time, so that an older answer
never overtakes a newer one. Guarantees:

- the checkpoint moves only in the transaction that holds what was read up to it;
- absence is concluded only from an enumeration that this very owner read from its start to its end, twice in a row, and
  never above the guard (invariant 4 of ARCHITECTURE.md);
- one source's trouble (outage, credential, unreadable page) stops that source alone, and says so.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import orjson
import structlog

from worker import changes, telemetry
from worker.changes import Entry
from worker.detection import Detector
from worker.errors import (
    CredentialError,
    CursorExpiredError,
    RollcallError,
    UpstreamError,
    UpstreamUnavailableError,
)
from worker.http import Lane, http_date
from worker.settings import SourceSettings
from worker.sources import (
    Adapter,
    Bad,
    Cursor,
    Exists,
    Feed,
    Missing,
    Moment,
    Page,
    Request,
    Response,
    Row,
    Stub,
    Tombstone,
    Unsure,
    Verdict,
)
from worker.task import Task, Transaction, now_ms

log = structlog.get_logger()

Result = TypeVar("Result")

_PAGES_AHEAD: Final = 20
_PAGES_A_TRANSACTION: Final = 20
_SAVE_SECONDS: Final = 30.0
_STATUS_SECONDS: Final = 60.0
_SECRETS_SECONDS: Final = 5.0
_CHUNK: Final = 5_000
_LOOKUPS_A_TRANSACTION: Final = 50
_BACKOFF: Final = (0.5, 60.0)
_CREDENTIAL_PAUSE: Final = 30.0
_UNAUTHORIZED: Final = 401
_NO_TASK: Final = "the poll task has ended"


class Committer:
    """Commits pieces of work in order, many in one transaction."""

    def __init__(self, task: Task) -> None:
        """Work on `task`; `run` must be running."""
        self._task = task
        self._queue: asyncio.Queue[tuple[Callable[[Transaction], Any], asyncio.Future[Any] | None]] = asyncio.Queue(
            _PAGES_AHEAD
        )

    async def put(self, work: Callable[[Transaction], Any]) -> None:
        """Have `work` committed some time soon, after all that was put before; waits while too much is waiting."""
        await self._queue.put((work, None))

    async def done(self, work: Callable[[Transaction], Result]) -> Result:
        """Have `work` committed, and return its result once it is."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        await self._queue.put((work, future))
        return await future

    async def run(self) -> None:
        """Commit what is put, until cancelled; raises what `Task.transact` raises."""
        while True:
            batch = [await self._queue.get()]
            while len(batch) < _PAGES_A_TRANSACTION and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            results = await self._task.transact(lambda tx, works=batch: [work(tx) for work, _ in works])  # type: ignore[misc]
            for (_, future), result in zip(batch, results, strict=True):
                if future is not None and not future.done():
                    future.set_result(result)


@dataclass
class _Enumeration:
    """An enumeration under way. `sound`: it may prove absence as far as is known yet."""

    mark: bytes
    moved: int
    sound: bool = True
    total: int | None = None
    canary: str | None = None
    flaw: str | None = None

    def spoil(self, flaw: str) -> None:
        """Let it prove nothing any more, because of `flaw`."""
        self.sound, self.flaw = False, self.flaw or flaw


@dataclass
class Status:
    """What `rollcall status` shows of a source."""

    state: str = "starting"
    message: str | None = None
    alarm: str | None = None
    polled: int | None = None
    published: float = field(default=0.0, repr=False)


class Source:
    """One source's loop."""

    def __init__(self, name: str, adapter: Adapter, settings: SourceSettings, detector: Detector, task: Task) -> None:
        """Prepare; `run` does the work."""
        self.name = name
        self._adapter = adapter
        self._settings = settings
        self._detector = detector
        self._task = task
        self._committer = Committer(task)
        self._lane = Lane(name, settings)
        self._status = Status()
        self._feeds = {feed.name: feed for feed in adapter.feeds()}
        self._due = dict.fromkeys(self._feeds, 0.0)
        self._cursors: dict[str, Cursor] = {}  # where to ask on: ahead of the checkpoint by what waits to be committed
        self._scans: dict[str, _Enumeration] = {}
        self._failures = 0
        self._server: tuple[int, float] | None = None
        self._secrets: dict[str, str] = {}
        self._secrets_at = -_SECRETS_SECONDS
        self._token: tuple[str, float] | None = None
        self._saved_at = time.monotonic()
        self.log = log.bind(source=name)

    async def run(self) -> None:
        """Poll until the task is stopping; raises what ends the task."""
        with self._task.store.reading() as state:
            again = self._detector.load(state.get(self._detector.position))
        self._cursors = dict(self._detector.checkpoint.cursors)
        if again:
            self.log.warning("source_republished", reason="its adapter, normalization or privacy policy has changed")
        committing = asyncio.ensure_future(self._committer.run())
        asking = asyncio.ensure_future(self._ask_on())
        try:
            await asyncio.wait([committing, asking], return_when=asyncio.FIRST_COMPLETED)
            if asking.done() and not committing.done():
                asking.result()
                await self._committed(self._last_words)
            elif not asking.done():
                committing.result()
        finally:
            for one in (asking, committing):
                one.cancel()
            for one in (asking, committing):
                with suppress(asyncio.CancelledError, RollcallError):
                    await one
            await self._lane.close()

    def _last_words(self, tx: Transaction) -> None:
        self._detector.save(tx)
        self._publish_status(tx)

    async def _committed(self, work: Callable[[Transaction], Result]) -> Result:
        return await self._committer.done(work)

    # Asking

    async def _ask_on(self) -> None:
        """Read whatever is due, one page of each feed in turn, and wait where nothing is."""
        await self._state("starting")
        while not self._task.stopping.is_set():
            if await self._attempt(self._credentials):
                for name, feed in self._feeds.items():
                    if self._ready(feed):
                        await self._attempt(lambda name=name: self._read(name))  # type: ignore[misc]
            await self._status_if_old()
            await self._wait(self._next_due() - time.monotonic())

    def _startable(self, feed: Feed) -> bool:
        return feed.after is None or feed.after in self._detector.checkpoint.read

    def _ready(self, feed: Feed) -> bool:
        due = self._due[feed.name] <= time.monotonic()
        return due and self._startable(feed) and not self._task.stopping.is_set()

    def _next_due(self) -> float:
        due = (self._due[feed.name] for feed in self._feeds.values() if self._startable(feed))
        return min(due, default=time.monotonic() + 1.0)

    async def _wait(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                await self._task.stopping.wait()

    async def _attempt(self, step: Callable[[], Awaitable[None]]) -> bool:
        """Run one step; on trouble with the upstream say so, wait, and return False."""
        try:
            await step()
        except CredentialError as error:
            await self._state("paused: credentials", error)
            await self._wait(_CREDENTIAL_PAUSE)
        except UpstreamUnavailableError as error:
            await self._state("backing off", error)
            await self._wait(max(error.retry_after or 0.0, self._backoff()))
        except UpstreamError as error:
            for scan in self._scans.values():
                scan.spoil("a page of it could not be read")
            await self._state("failing", error)
            await self._wait(self._backoff())
        else:
            self._failures = 0
            return True
        return False

    def _backoff(self) -> float:
        low, high = _BACKOFF
        self._failures += 1
        return float(min(high, low * 2 ** (self._failures - 1)) * random.uniform(0.5, 1.0))  # ruff: ignore[suspicious-non-cryptographic-random-usage] - jitter

    async def _credentials(self) -> None:
        """Read the secrets, now and then, and get a token where the API wants one."""
        if time.monotonic() - self._secrets_at >= _SECRETS_SECONDS:
            try:
                found = {name: secret.read() for name, secret in self._settings.secrets().items()}
            except ValueError as error:
                message = f"{self.name}: a secret cannot be read: {error}"
                raise CredentialError(message) from error
            if found != self._secrets:
                self._secrets, self._token = found, None
                self._detector.set_scope(self._filters(), found)
            self._secrets_at = time.monotonic()
        request = self._adapter.token_request(self._secrets)
        if request is not None and (self._token is None or time.monotonic() >= self._token[1]):
            answer = await self._send(request, {})
            token = self._adapter.read_token(answer)
            self._token = (token.value, time.monotonic() + 0.8 * token.expires_in)

    def _filters(self) -> str:
        scope = getattr(self._settings, "scope", None)
        return str(scope()) if callable(scope) else ""

    async def _send(self, request: Request, headers: Mapping[str, str]) -> Response:
        answer = await self._lane.fetch(
            request.method,
            request.path,
            query=request.query,
            json=request.json,
            headers={**headers, **dict(request.headers)},
        )
        date = http_date(answer.headers["date"]) if "date" in answer.headers else None
        if date is not None:
            self._server = (date, time.monotonic())
        return Response(answer.status, answer.headers, answer.body, answer.url)

    async def _ask(self, request: Request) -> Response:
        """Ask under our credential; a 401 renews it once."""
        for renewed in (False, True):
            token = None if self._token is None else self._token[0]
            response = await self._send(request, self._adapter.authorize(self._secrets, token))
            if response.status != _UNAUTHORIZED:
                return response
            if not renewed:
                self._secrets_at, self._token = -_SECRETS_SECONDS, None
                await self._credentials()
        message = f"{self.name}: {response.url} answered 401 to our credential, also after renewing it"
        raise CredentialError(message, hint="Mend the secret; it is read again every half minute.")

    def _moment(self) -> Moment:
        server = None
        if self._server is not None:
            server = self._server[0] + int((time.monotonic() - self._server[1]) * 1000)
        return Moment(now_ms(), server)

    # Reading feeds

    async def _read(self, name: str) -> None:
        """Read the next page of a feed and hand it on to be committed."""
        feed = self._feeds[name]
        cursor = self._cursors.get(name)
        scan = await self._enumeration(feed, cursor) if feed.enumerates else None
        moment = self._moment()
        request = self._adapter.request(name, cursor, moment)
        if request is None:
            self._due[name] = time.monotonic() + feed.interval
            return
        response = await self._ask(request)
        try:
            page = self._adapter.read(name, cursor, moment, response)
        except CursorExpiredError as error:
            self._cursors.pop(name, None)
            self._scans.pop(name, None)
            self.log.warning("cursor_expired", feed=name, reason=error.message)
            return
        await self._take(feed, page, scan)

    async def _take(self, feed: Feed, page: Page, scan: _Enumeration | None) -> None:
        """Take a page in: commit it, read what it only named, and conclude where it was the last one."""
        if page.note:
            self._status.message = page.note
        if scan is not None:
            self._follow(scan, page)
        now = now_ms()
        mark = None if scan is None else scan.mark
        if any(isinstance(item, Stub) for item in page.items):
            for customer_id in await self._committed(lambda tx: self._apply(tx, page, now, mark)):
                await self._look_again(customer_id, mark)
            await self._committer.put(lambda tx: self._move(tx, feed, page.cursor))
        else:
            await self._committer.put(lambda tx: self._whole(tx, feed, page, now, mark))
        self._cursors[feed.name] = page.cursor
        if page.more:
            self._due[feed.name] = time.monotonic()
            return
        if scan is not None:
            await self._conclude(feed, scan)
            await self._committed(lambda _: self._detector.checkpoint.cursors.pop(feed.name, None))
            self._cursors.pop(feed.name, None)
            self._scans.pop(feed.name, None)
        await self._ended(feed)

    async def _ended(self, feed: Feed) -> None:
        """Note that a feed was read to its end: it is due again after its interval."""
        checkpoint = self._detector.checkpoint
        if feed.name not in checkpoint.read:
            checkpoint.read.append(feed.name)
        self._due[feed.name] = time.monotonic() + feed.interval
        self._status.polled = now_ms()
        telemetry.POLLED.labels(self.name).set_to_current_time()
        await self._state("degraded" if checkpoint.set_aside else "running")

    def _apply(self, tx: Transaction, page: Page, now: int, mark: bytes | None) -> list[str]:
        """Write what a page changes; return the ids whose records have to be read."""
        detector = self._detector
        wanted = []
        for item in page.items:
            match item:
                case Row():
                    detector.row(tx, item, now, mark)
                case Stub():
                    if detector.stub(tx, item, mark):
                        wanted.append(item.id)
                case Tombstone():
                    detector.tombstone(tx, item, now)
                case Bad():
                    detector.bad(tx, item, mark)
        return wanted

    def _whole(self, tx: Transaction, feed: Feed, page: Page, now: int, mark: bytes | None) -> None:
        self._apply(tx, page, now, mark)
        self._move(tx, feed, page.cursor)

    def _move(self, tx: Transaction, feed: Feed, cursor: Cursor) -> None:
        """Move the checkpoint past a page, in the transaction that holds (the last of) what the page changed."""
        self._detector.checkpoint.cursors[feed.name] = cursor
        self._save(tx)

    def _save(self, tx: Transaction) -> None:
        """Move the checkpoint with what was written; alone only now and then: an unchanged page writes nothing."""
        if tx.changes or tx.outputs or time.monotonic() - self._saved_at > _SAVE_SECONDS:
            self._detector.save(tx)
            self._saved_at = time.monotonic()
        for outcome, count in self._detector.counts.items():
            telemetry.ROWS.labels(self.name, outcome).inc(count)
        self._detector.counts.clear()
        telemetry.LIVE.labels(self.name).set(self._detector.checkpoint.live)

    async def _look_again(self, customer_id: str, mark: bytes | None) -> None:
        """Read the record of a customer that was only named."""
        match await self._lookup(customer_id):
            case Exists(row):
                now = now_ms()
                await self._committer.put(lambda tx: self._one(tx, row, now, mark))
            case Missing() | Unsure():
                return  # gone in between: the next enumeration tells

    def _one(self, tx: Transaction, row: Row, now: int, mark: bytes | None) -> None:
        self._detector.row(tx, row, now, mark)
        self._save(tx)

    async def _lookup(self, customer_id: str) -> Verdict:
        request = self._adapter.lookup(customer_id)
        if request is None:
            return Unsure("there is no look-up for it")
        return self._adapter.read_lookup(customer_id, await self._ask(request))

    # Enumerations

    async def _enumeration(self, feed: Feed, cursor: Cursor | None) -> _Enumeration:
        """Return the enumeration that this page belongs to; one resumed from an earlier owner proves nothing."""
        scan = self._scans.get(feed.name)
        if scan is None:
            mark = b"%s/%s/" % (self.name.encode(), feed.name.encode())
            await self._committed(lambda tx: tx.unmark(mark))
            scan = self._scans[feed.name] = _Enumeration(mark, self._detector.moved)
            if cursor is not None:
                scan.spoil("it was begun by an earlier owner")
        return scan

    def _follow(self, scan: _Enumeration, page: Page) -> None:
        if page.total is not None and scan.total is None:
            scan.total = page.total
        for item in page.items:
            if isinstance(item, Bad):
                scan.spoil("it showed a record that cannot be read")
            elif not isinstance(item, Tombstone):
                scan.canary = item.id

    async def _conclude(self, feed: Feed, scan: _Enumeration) -> None:
        """Conclude from an enumeration that has ended which customers are absent, if it may."""
        await self._committed(lambda _: None)
        checkpoint = self._detector.checkpoint
        marked, missing, plan = await self._compare(scan)
        moved = self._detector.moved - scan.moved
        if not scan.sound:
            self.log.info("absence_not_concluded", feed=feed.name, reason=scan.flaw)
            return
        if marked == 0 and checkpoint.live:
            await self._alarm(f"the listing is empty, though there were {checkpoint.live} customers")
            return
        if not changes.complete(marked=marked, total=scan.total, moved=moved):
            await self._alarm(f"the listing showed {marked} customers, though the upstream counts {scan.total}")
            return
        checkpoint.scans[feed.name] = checkpoint.scans.get(feed.name, 0) + 1
        if await self._held(missing, plan):
            return
        if self._status.alarm is not None:
            self._status.alarm = None
            await self._committer.put(self._publish_status)
        async for chunk in self._missing(scan):
            again = await self._committed(lambda tx, chunk=chunk: self._miss(tx, chunk))  # type: ignore[misc]
            for start in range(0, len(again), _LOOKUPS_A_TRANSACTION):
                if not await self._confirm(again[start : start + _LOOKUPS_A_TRANSACTION], scan):
                    return

    async def _compare(self, scan: _Enumeration) -> tuple[int, int, str]:
        """Return how many live customers were shown, how many were not, and a hash of who was not."""
        shown, missing, plan = 0, 0, changes.PlanHash()
        async for live, identity, marked in self._walk(scan):
            shown += marked
            if live and not marked:
                missing += 1
                plan.add(identity)
        return shown, missing, plan.value()

    async def _walk(self, scan: _Enumeration) -> AsyncIterator[tuple[bool, bytes, bool]]:
        """Yield (live and seen under this scope, id, marked) of every entry, a chunk at a time: others run between."""
        prefix = self._detector.prefix
        start: bytes | None = prefix
        while start is not None:
            rows: list[tuple[bool, bytes, bool]] = []
            with self._task.store.reading() as state:
                last, start = start, None
                for key, raw in state.scan(prefix, last):
                    if len(rows) == _CHUNK:
                        start = key
                        break
                    entry, identity = Entry.unpack(raw), key[len(prefix) :]
                    ours = entry.live and entry.scope == self._detector.scope
                    rows.append((ours, identity, state.marked(scan.mark + identity)))
            for row in rows:
                yield row
            await asyncio.sleep(0)

    async def _missing(self, scan: _Enumeration) -> AsyncIterator[list[bytes]]:
        chunk: list[bytes] = []
        async for live, identity, marked in self._walk(scan):
            if live and not marked:
                chunk.append(identity)
            if len(chunk) == _CHUNK:
                yield chunk
                chunk = []
        if chunk:
            yield chunk

    def _miss(self, tx: Transaction, identities: list[bytes]) -> list[str]:
        """Count the miss; return who was missed for the second time in a row, or more."""
        again = [identity.decode() for identity in identities if self._detector.missed(tx, identity) > 1]
        self._save(tx)
        return again

    async def _held(self, missing: int, plan: str) -> bool:
        """Return whether so many are missing that a person has to approve it, and say so."""
        settings, checkpoint = self._settings, self._detector.checkpoint
        held = changes.guard(
            missing,
            checkpoint.live,
            count=settings.absence_guard_count,
            fraction=settings.absence_guard_fraction,
        )
        if not held or plan == checkpoint.approved:
            checkpoint.held = None
            telemetry.HELD.labels(self.name).set(0)
            return False
        checkpoint.held = {"plan": plan, "missing": missing, "live": checkpoint.live}
        telemetry.HELD.labels(self.name).set(missing)
        await self._alarm(f"{missing} of {checkpoint.live} customers are missing: held as plan {plan} for approval")
        return True

    async def _confirm(self, ids: list[str], scan: _Enumeration) -> bool:
        """Look the missing up, one by one, between two looks at a customer that is known to be there.

        Returns False, having published nothing, if that canary is not found: then nothing is proved.
        """
        if scan.canary is None or not await self._canary(scan.canary):
            return False
        verdicts = [(customer_id, await self._verdict(customer_id)) for customer_id in ids]
        if not await self._canary(scan.canary):
            return False
        now = now_ms()
        await self._committed(lambda tx: self._bury(tx, verdicts, now))
        return True

    async def _verdict(self, customer_id: str) -> Verdict:
        if self._adapter.lookup(customer_id) is None:
            return Missing(conclusive=False)
        return await self._lookup(customer_id)

    async def _canary(self, customer_id: str) -> bool:
        if self._adapter.lookup(customer_id) is None or isinstance(await self._lookup(customer_id), Exists):
            return True
        await self._alarm("a customer of the listing is not found by look-up: no absence is concluded")
        return False

    def _bury(self, tx: Transaction, verdicts: list[tuple[str, Verdict]], now: int) -> None:
        for customer_id, verdict in verdicts:
            match verdict:
                case Missing(conclusive):
                    self._detector.gone(tx, customer_id, "gone" if conclusive else "absent", now)
                case Exists(row):
                    self._detector.row(tx, row, now, None)
                case Unsure():
                    pass  # it stays missed, and is asked for again after the next enumeration
        self._save(tx)

    # Saying how it goes

    async def _alarm(self, text: str) -> None:
        if self._status.alarm != text:
            self.log.error("source_alarm", alarm=text)
        self._status.alarm = text
        await self._committer.put(self._publish_status)

    async def _state(self, state: str, error: RollcallError | None = None) -> None:
        """Say which state the source is in, where that has changed."""
        status = self._status
        if status.state == state and error is None:
            return
        changed = status.state != state
        if changed:
            telemetry.STATE.labels(self.name, status.state).set(0)
            telemetry.STATE.labels(self.name, state).set(1)
        if error is not None and (changed or status.message != error.message):
            self.log.warning("source_trouble", state=state, reason=error.message, hint=error.hint)
        elif changed:
            self.log.info("source_state", state=state)
        status.state, status.message = state, None if error is None else error.message
        if changed:
            await self._committer.put(self._publish_status)

    async def _status_if_old(self) -> None:
        if time.monotonic() - self._status.published > _STATUS_SECONDS:
            await self._committer.put(self._publish_status)

    def _publish_status(self, tx: Transaction) -> None:
        status, checkpoint = self._status, self._detector.checkpoint
        status.published = time.monotonic()
        value = {
            "kind": "source",
            "source": self.name,
            "adapter": self._adapter.kind,
            "state": status.state,
            "message": status.message,
            "alarm": status.alarm,
            "live": checkpoint.live,
            "set_aside": checkpoint.set_aside,
            "held": checkpoint.held,
            "scans": checkpoint.scans,
            "polled_at": None if status.polled is None else changes.rfc3339(status.polled),
            "at": changes.rfc3339(now_ms()),
        }
        tx.send(self._task.topics.status, f"source/{self.name}".encode(), orjson.dumps(value))
