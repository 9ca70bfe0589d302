"""The part that the simulated systems share: a real HTTP server on 127.0.0.1, faults, and a log of what was asked.

A simulator is driven in process through its methods, or over HTTP through `/_sim/` (see `control`). All of it lives
in one event loop; call the methods from there. The server's `Date` follows the simulator's clock.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections import Counter, deque
from contextlib import suppress
from email.utils import formatdate
from typing import Any, ClassVar, NamedTuple, Self

from aiohttp import web

from worker.simulator import control
from worker.simulator.answers import HTML, Answer, Ask, Layout, spoil
from worker.simulator.customers import Customers
from worker.simulator.faults import BEFORE, Fault, Faults
from worker.simulator.store import View

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


class Simulator(Customers):
    """One simulated upstream system: start it, change its customers, give it faults, ask what it saw."""

    layout: ClassVar[Layout]
    settings: ClassVar[tuple[str, ...]] = ("clock_offset",)
    """Attributes that the control API may set."""

    def __init__(self, **common: Any) -> None:
        """Make a stopped simulator; `common` are `Customers`' arguments."""
        super().__init__(**common)
        self.faults = Faults(self.seed)
        self.requests: deque[Request] = deque(maxlen=LOG)
        self.counts: Counter[tuple[str, int]] = Counter()
        """Requests by method and status."""
        self.url = ""
        """Where the server listens, without a slash at the end; empty before `start`."""
        self.keep_alive = 5.0
        """Seconds after which an idle connection is closed, as Node does; read at `start`."""
        self._stopped = asyncio.Event()
        self._runner: web.ServerRunner | None = None
        self._churn: asyncio.Task[None] | None = None
        self._stale: dict[int, View] = {}
        self._date = (0, "")

    @abstractmethod
    async def answer(self, ask: Ask) -> Answer:
        """Answer as the system does."""

    @abstractmethod
    def error(self, status: int) -> bytes:
        """Render the system's body for an error with this status."""

    def fault(self, kind: str, **settings: Any) -> Fault:
        """Set a fault (see `faults`); `stale` and `short` take effect on the customers of this moment."""
        fault = self.faults.set(kind, **settings)
        if kind == "stale":
            self.store.settle(self.now())
            self._stale[fault.number] = self.store.copy()
        return fault

    def clear_faults(self, number: int | None = None) -> None:
        """End one fault, or all of them."""
        self.faults.clear(number)
        for stale in [stale for stale in self._stale if number in {None, stale}]:
            del self._stale[stale]

    def view(self, ask: Ask) -> View:
        """Return the customers that this request can see."""
        for fault in ask.faults:
            if fault.kind == "stale":
                return self._stale[fault.number]
            if fault.kind in {"short", "empty"}:
                return self.store.first(int(fault.option("keep", 1)) if fault.kind == "short" else 0)
        return self.store

    def keep_churning(self, rate: float) -> None:
        """Churn `rate` times a second from now on, until called with 0 or stopped."""
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

    # Serving

    async def start(self, port: int = 0) -> Self:
        """Listen on 127.0.0.1, at a free port unless one is given; `url` says where."""
        server = web.Server(
            self._serve,
            keepalive_timeout=self.keep_alive,
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
        """Stop listening and churning, and close every connection. The customers stay."""
        self.keep_churning(0)
        self._stopped.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> Self:
        """Start."""
        return await self.start()

    async def __aexit__(self, *_exc: object) -> None:
        """Stop."""
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
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), timeout=0.2)

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
