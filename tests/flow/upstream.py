"""A reader for flow tests: it asks an upstream over real HTTP through an adapter, and keeps what it was told.

It does what a poller does with an adapter, less state and Kafka: one request at a time, the cursor handed back as it
was given (through JSON, as a checkpoint keeps it), the server's clock taken from `Date`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from worker.http import Lane
from worker.sources import Adapter, Bad, Cursor, Moment, Page, Request, Response, Row, Stub, Tombstone, Verdict
from worker.times import http_date

SORTED = orjson.OPT_SORT_KEYS
MOST_PAGES = 2_000


class Upstream:
    """One source, read through its adapter."""

    def __init__(self, adapter: Adapter, lane: Lane, secrets: Mapping[str, str], clock: Callable[[], float]) -> None:
        """Read by `adapter` over `lane`; `clock` gives seconds."""
        self.adapter = adapter
        self.customers: dict[str, bytes] = {}
        self.deleted: set[str] = set()
        self.cursors: dict[str, Cursor | None] = {}
        self._lane = lane
        self._secrets = secrets
        self._clock = clock
        self._ahead: int | None = None
        self._token: str | None = None

    async def pages(self, feed: str) -> list[Page]:
        """Read a feed to its end, from where it stood (an enumeration: from the start)."""
        enumerates = {known.name: known.enumerates for known in self.adapter.feeds()}[feed]
        pages: list[Page] = []
        while not pages or pages[-1].more:
            assert len(pages) < MOST_PAGES, "the feed does not end"
            pages.append(await self.page(feed))
        if enumerates:
            self.cursors[feed] = None
        return pages

    async def page(self, feed: str) -> Page:
        """Read one page, take in what it says, and move the cursor."""
        cursor, moment = self.cursors.get(feed), self._moment()
        request = self.adapter.request(feed, cursor, moment)
        assert request is not None, "nothing is due"
        page = self.adapter.read(feed, cursor, moment, await self.ask(request))
        for item in page.items:
            self._take(item)
        self.cursors[feed] = orjson.loads(orjson.dumps(page.cursor))
        return page

    def _moment(self) -> Moment:
        now = round(self._clock() * 1000)
        return Moment(now, now + self._ahead if self._ahead is not None else None)

    def _take(self, item: Row | Stub | Tombstone | Bad) -> None:
        match item:
            case Row():
                self.customers[item.id] = self.essence(item)
            case Tombstone():
                self.customers.pop(item.id, None)
                self.deleted.add(item.id)
            case _:
                raise AssertionError(item)

    def essence(self, row: Row) -> bytes:
        """Return what would be fingerprinted."""
        return orjson.dumps(self.adapter.essence(row), option=SORTED)

    def truth(self, customers: Mapping[str, dict[str, Any]]) -> dict[str, bytes]:
        """Return what `customers` should be, given the upstream's own records by id."""
        return {id_: self.essence(Row(id_, record)) for id_, record in customers.items()}

    async def lookup(self, customer_id: str) -> Verdict:
        """Look one customer up."""
        request = self.adapter.lookup(customer_id)
        assert request is not None, "the adapter does not look it up"
        return self.adapter.read_lookup(customer_id, await self.ask(request))

    async def ask(self, request: Request) -> Response:
        """Send a request with the credential, and return the answer."""
        asks_for_token = self.adapter.token_request(self._secrets)
        if self._token is None and asks_for_token is not None:
            self._token = self.adapter.read_token(await self._send(asks_for_token, {})).value
        return await self._send(request, self.adapter.authorize(self._secrets, self._token))

    async def _send(self, request: Request, credential: Mapping[str, str]) -> Response:
        headers = {**dict(request.headers), **credential}
        answer = await self._lane.fetch(
            request.method, request.path, query=request.query, json=request.json, headers=headers
        )
        server = http_date(answer.headers["date"])
        assert server is not None
        self._ahead = server - round(self._clock() * 1000)
        return Response(answer.status, answer.headers, answer.body, answer.url)
