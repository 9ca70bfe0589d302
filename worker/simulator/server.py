"""The part that the simulated systems share: a real HTTP server on 127.0.0.1, the customers behind it, faults and a log.

A simulator is driven in process through its methods, or over HTTP through `/_sim/` (see `control`). All of it lives in one
event loop; call the methods from there. The server's `Date` follows the simulator's clock.
"""

from __future__ import annotations

import asyncio
import random
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from email.utils import formatdate
from typing import Any, ClassVar, NamedTuple, Self

import orjson
from aiohttp import web

from worker.simulator import control
from worker.simulator.answers import HTML, Answer, Ask, Layout, spoil
from worker.simulator.data import People, Person
from worker.simulator.faults import BEFORE, Fault, Faults
from worker.simulator.store import Change, Id, Row, Store, View

Fields = Mapping[str, Any]
KEEP_ALIVE = 5.0
"""Seconds after which an idle connection is closed, as Node does."""
LOG = 20_000
"""Requests remembered."""


class Request(NamedTuple):
    """One request as the simulator saw it."""

    time: float
    method: str
    path: str
    query: str
    """As it came, percent-encoded."""
    status: int
    """0 where no answer was sent."""


class Simulator(ABC):
    """One simulated upstream system: start it, change its customers, give it faults, ask what it saw."""

    kind: ClassVar[str]
    layout: ClassVar[Layout]
    settings: ClassVar[tuple[str, ...]] = ("clock_offset",)
    """Attributes that the control API may set."""

    def __init__(self, *, seed: int = 0, clock: Callable[[], float] = time.time, customers: int = 0) -> None:
        """A stopped simulator with `customers` synthetic ones; `seed` decides all chance, `clock` gives seconds."""
        self.seed = seed
        self.clock = clock
        self.clock_offset = 0.0
        """Seconds by which the server's clock, its stamps and its `Date` are off."""
        self.random = random.Random(f"{self.kind} {seed}")
        self.people = People(seed)
        self.store = Store()
        self.faults = Faults(seed)
        self.requests: deque[Request] = deque(maxlen=LOG)
        self.counts: Counter[tuple[str, int]] = Counter()
        self._stopped = asyncio.Event()
        self._serial = 0
        self._runner: web.ServerRunner | None = None
        self._churn: asyncio.Task[None] | None = None
        self._stale: dict[int, View] = {}
        self._date = (0, "")
        self.url = ""
        """Where the server listens, without a slash at the end; empty before `start`."""
        if customers:
            self.populate(customers)

    # What a system says of itself

    @abstractmethod
    def shape(self, person: Person) -> dict[str, Any]:
        """The person as this system's fields, without ids and time stamps."""

    @abstractmethod
    def new_id(self) -> Id:
        """An id for a new customer."""

    @abstractmethod
    def document(self, key: Id, fields: Fields, created: int, updated: int) -> dict[str, Any]:
        """A customer as this system serves it; the stamps are milliseconds since the epoch."""

    @abstractmethod
    def change(self, row: Row) -> dict[str, Any]:
        """A realistic change to a customer, as fields."""

    @abstractmethod
    async def answer(self, ask: Ask) -> Answer:
        """What the system answers."""

    @abstractmethod
    def error(self, status: int) -> bytes:
        """The system's body for an error with this status."""

    def order(self, key: Id) -> Any:
        """The customer's place in the listing order; creation order unless a system says otherwise."""
        row = self.store.get(key)
        self._serial += 1
        return row.order if row else self._serial

    def tombstone(self, row: Row, stamp: int) -> Row | None:  # noqa: ARG002  # a hook: most systems leave nothing
        """What is left of a customer deleted at `stamp` milliseconds; None where nothing is."""
        return None

    def check(self, key: Id | None, document: Fields) -> None:  # noqa: B027  # a hook: most systems take everything
        """Refuse what the system would not store for this customer (None: a new one), by a ValueError."""

    # Writes

    def now(self) -> float:
        """The server's time, in seconds since the epoch."""
        return self.clock() + self.clock_offset

    def create(
        self,
        fields: Fields | None = None,
        *,
        person: Person | None = None,
        id: Id | None = None,  # noqa: A002  # the word every caller uses
        at: float | None = None,
        created: float | None = None,
        visible_after: float = 0.0,
    ) -> Id:
        """Creates a customer and returns its id.

        Without `person` and `fields` it is a new synthetic person; `fields` go over the person's. `at` and `created`
        (seconds since the epoch, the time of change and that of creation) set the stamps, as an import does; with
        `visible_after` it commits that many seconds after its stamp.
        """
        shaped = self.shape(person or self.people.person()) if person or fields is None else {}
        key = self.new_id() if id is None else id
        updated = _milliseconds(self.now() if at is None else at)
        born = updated if created is None else _milliseconds(created)
        document = {**shaped, **(fields or {})}
        self.check(None, document)

        def commit(time: float) -> None:
            self.store.put(time, "create", [self._row(key, document, born, updated)])

        self._write([key], visible_after, commit)
        return key

    def populate(self, count: int) -> list[Id]:
        """Creates `count` synthetic customers at once, a millisecond apart, the last one now."""
        first = _milliseconds(self.now()) - count
        rows = []
        for number in range(count):
            stamp = first + number
            rows.append(self._row(self.new_id(), self.shape(self.people.person()), stamp, stamp))
        self.store.put(self.now(), "create", rows)
        return [row.id for row in rows]

    def update(self, id: Id, fields: Fields | None = None, *, visible_after: float = 0.0) -> None:  # noqa: A002
        """Changes a customer: `fields` go over its own; None makes a realistic change. KeyError if there is none."""
        self.bulk_update([id], fields, visible_after=visible_after)

    def bulk_update(self, ids: Iterable[Id], fields: Fields | None = None, *, visible_after: float = 0.0) -> None:
        """Changes many customers in one transaction with one stamp. KeyError if one of them does not exist."""
        stamp = _milliseconds(self.now())
        wanted = list(dict.fromkeys(ids))
        self.store.unlock(wanted, self.now())
        for key in wanted:
            self.check(key, {**self._live(key).document(), **(fields or {})})

        def commit(time: float) -> None:
            rows = [row for row in map(self.store.get, wanted) if row is not None and not row.tombstone]
            self.store.put(time, "update", [self._changed(row, fields, stamp) for row in rows])

        self._write(wanted, visible_after, commit)

    def delete(self, id: Id, *, visible_after: float = 0.0) -> None:  # noqa: A002
        """Deletes a customer. KeyError if there is none."""
        stamp = _milliseconds(self.now())
        self.store.unlock([id], self.now())
        self._live(id)

        def commit(time: float) -> None:
            row = self.store.get(id)
            if row is not None and not row.tombstone:
                self._bury(time, row, stamp)

        self._write([id], visible_after, commit)

    def churn(self, count: int) -> None:
        """Makes `count` random writes: of ten, six updates, three creations and a deletion."""
        for _ in range(count):
            dice = self.random.random()
            row = self._any()
            if row is None or dice < 0.3:  # noqa: PLR2004  # the shares said above
                self.create()
            elif dice < 0.4:  # noqa: PLR2004
                self.delete(row.id)
            else:
                self.update(row.id)

    def keep_churning(self, rate: float) -> None:
        """Churns `rate` times a second from now on, until called with 0 or stopped."""
        if self._churn is not None:
            self._churn.cancel()
        self._churn = asyncio.get_running_loop().create_task(self._churning(rate)) if rate > 0 else None

    async def _churning(self, rate: float) -> None:
        loop = asyncio.get_running_loop()
        start, done = loop.time(), 0
        while True:
            due = int((loop.time() - start) * rate)
            self.churn(due - done)
            done = due
            await asyncio.sleep(max(1 / rate, 0.01))

    def _any(self) -> Row | None:
        for _ in range(20 if self.store.ordered else 0):
            row = self.random.choice(self.store.ordered)
            if not row.tombstone:
                return row
        return None

    def _write(self, ids: list[Id], visible_after: float, commit: Callable[[float], None]) -> None:
        now = self.now()
        self.store.settle(now)
        if visible_after > 0:
            self.store.later(now + visible_after, ids, commit)
        else:
            commit(now)

    def _row(self, key: Id, fields: Fields, created: int, updated: int) -> Row:
        body = orjson.dumps(self.document(key, fields, created, updated))[:-1]
        return Row(key, self.order(key), created, updated, self.store.next_version(key), body)

    def _changed(self, row: Row, fields: Fields | None, stamp: int) -> Row:
        changed = {**row.document(), **(self.change(row) if fields is None else fields)}
        return self._row(row.id, changed, row.created, stamp)

    def _bury(self, time: float, row: Row, stamp: int) -> None:
        left = self.tombstone(row, stamp)
        if left is None:
            self.store.remove(time, row)
        else:
            self.store.put(time, "delete", [left])

    def _live(self, key: Id) -> Row:
        row = self.store.get(key)
        if row is None or row.tombstone:
            message = f"{self.kind} has no customer {key!r}"
            raise KeyError(message)
        return row

    # What is so

    def customers(self) -> dict[str, dict[str, Any]]:
        """Every customer as it is served now, by its id as text."""
        self.store.settle(self.now())
        return {str(row.id): self.served(row) for row in self.store.ordered if not row.tombstone}

    def served(self, row: Row) -> dict[str, Any]:
        """One row as the listing serves it."""
        return row.document()

    @property
    def history(self) -> list[Change]:
        """Every committed write, in order; append-only."""
        self.store.settle(self.now())
        return self.store.history

    def fault(self, kind: str, **settings: Any) -> Fault:
        """Sets a fault (see `faults`); `stale` and `short` take effect on the customers of this moment."""
        fault = self.faults.set(kind, **settings)
        if kind == "stale":
            self.store.settle(self.now())
            self._stale[fault.number] = self.store.copy()
        return fault

    def clear_faults(self, number: int | None = None) -> None:
        """Ends one fault, or all of them."""
        self.faults.clear(number)
        for stale in [stale for stale in self._stale if number in {None, stale}]:
            del self._stale[stale]

    def view(self, ask: Ask) -> View:
        """The customers that this request can see."""
        for fault in ask.faults:
            if fault.kind == "stale":
                return self._stale[fault.number]
            if fault.kind in {"short", "empty"}:
                return self.store.first(int(fault.option("keep", 1)) if fault.kind == "short" else 0)
        return self.store

    # Serving

    async def start(self, port: int = 0) -> Self:
        """Listens on 127.0.0.1, at a free port unless one is given; `url` says where."""
        server = web.Server(
            self._serve,
            keepalive_timeout=KEEP_ALIVE,
            access_log=None,
            max_line_size=1 << 20,
            max_field_size=1 << 20,
        )
        self._stopped.clear()
        self._runner = web.ServerRunner(server, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def stop(self) -> None:
        """Stops listening and churning, and closes every connection. The customers stay."""
        self.keep_churning(0)
        self._stopped.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> Self:
        """Starts."""
        return await self.start()

    async def __aexit__(self, *_exc: object) -> None:
        """Stops."""
        await self.stop()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        target = request.raw_path
        path, _, query = target.partition("?")
        body = await request.read() if request.body_exists else b""
        self.store.settle(self.now())
        if path.startswith("/_sim/"):
            return await self._send(request, control.answer(self, request.method, path, query, body))
        ask = Ask(request.method, path, query, request.headers, body)
        if self.faults:
            ask.faults = self.faults.take(ask.method, target)
        answer = await self._answer(ask, request)
        sent = answer.status if answer is not None and answer.cut_at != 0 else 0
        self.requests.append(Request(self.now(), ask.method, path, query, sent))
        self.counts[ask.method, sent] += 1
        return await self._send(request, answer)

    async def _answer(self, ask: Ask, request: web.BaseRequest) -> Answer | None:
        for fault in ask.faults:
            if fault.kind == "latency":
                await asyncio.sleep(float(fault.option("seconds", 1.0)))
            elif fault.kind == "never":
                await self._hang(request)
                return None
            elif fault.kind in BEFORE:
                return self._instead(fault)
        answer = await self.answer(ask)
        for fault in ask.faults:
            spoil(answer, fault, self.layout)
        return answer

    async def _hang(self, request: web.BaseRequest) -> None:
        while not self._stopped.is_set() and request.transport is not None and not request.transport.is_closing():
            await asyncio.wait([asyncio.ensure_future(self._stopped.wait())], timeout=0.2)

    def _instead(self, fault: Fault) -> Answer:
        match fault.kind:
            case "redirect":
                location = str(fault.option("location", "http://127.0.0.1:1/elsewhere"))
                return Answer(int(fault.option("status", 302)), b"", {"Location": location})
            case "html":
                return Answer(int(fault.option("status", 200)), HTML, content_type="text/html; charset=utf-8")
            case "retry_later":
                status = int(fault.option("status", 429))
                return Answer(status, self.error(status), {"Retry-After": self._retry_after(fault)})
            case _:
                status = int(fault.option("status", 500))
                body = fault.option("body", None)
                headers = dict(fault.option("headers", {}))
                return Answer(status, self.error(status) if body is None else str(body).encode(), headers)

    def _retry_after(self, fault: Fault) -> str:
        seconds = int(fault.option("seconds", 1))
        return formatdate(self.now() + seconds, usegmt=True) if fault.option("date", False) else str(seconds)

    async def _send(self, request: web.BaseRequest, answer: Answer | None) -> web.StreamResponse:
        if answer is None or answer.cut_at == 0:
            return _hang_up(request)
        headers = {"Date": self._http_date(), "Content-Type": answer.content_type, **answer.headers}
        if answer.cut_at is None and not answer.drop:
            return web.Response(status=answer.status, body=answer.body, headers=headers)
        headers["Content-Length"] = str(len(answer.body))
        response = web.StreamResponse(status=answer.status, headers=headers)
        await response.prepare(request)
        await response.write(answer.body[: answer.cut_at])
        if answer.cut_at is None:
            await response.write_eof()
        if request.transport is not None:
            request.transport.close()
        return response

    def _http_date(self) -> str:
        second = int(self.now())
        if second != self._date[0]:
            self._date = (second, formatdate(second, usegmt=True))
        return self._date[1]


def _hang_up(request: web.BaseRequest) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
