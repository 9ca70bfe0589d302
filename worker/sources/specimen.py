"""An adapter with a small API to talk to, and how the checks of the contract read it.

It is to `worker.sources.contract` what a poller is in production: one request at a time, the cursor handed back as a
checkpoint would, the credential added to each request.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

import orjson

from worker.normalize import Hasher, Normalizer
from worker.settings import SourceSettings
from worker.sources import Adapter, Cursor, Exists, Item, Moment, Page, Request, Response, Row, Verdict, normalizer

MOST_PAGES: Final = 1_000


@dataclass(frozen=True)
class Exchange:
    """One page of a reading: what was asked from which cursor, what was answered, what was read."""

    feed: str
    cursor: Cursor | None
    request: Request
    response: Response
    page: Page


@dataclass(frozen=True)
class Specimen:
    """An adapter and an API for it to talk to.

    `answer` answers a request that carries its credential, and changes nothing. `customers` are the ids of those that
    the API shows: ten or more, so that a `page_size` of three in `settings` makes several pages. `absent` is an id of
    the right shape that it does not know, None where the adapter has no look-up. `settings` are as in the
    configuration; `secrets` the values of the secrets that they refer to. `moment` is the time at which it is asked.
    """

    adapter: type[Adapter]
    settings: Mapping[str, Any]
    secrets: Mapping[str, str]
    answer: Callable[[Request], Response]
    customers: frozenset[str]
    absent: str | None
    moment: Moment
    name: str = "specimen"
    hasher: Hasher = field(default_factory=lambda: Hasher(b"a pepper for checks"))

    @cached_property
    def checked(self) -> SourceSettings:
        """The settings, read as the configuration is."""
        return self.adapter.Settings.model_validate(self.settings)

    @cached_property
    def normalizer(self) -> Normalizer:
        """The normalizer of the source."""
        return normalizer(self.adapter, self.checked, self.hasher)

    @cached_property
    def token(self) -> str | None:
        """An access token, where the API has any."""
        request = self.make().token_request(self.secrets)
        return None if request is None else self.make().read_token(self.answer(request)).value

    def make(self) -> Adapter:
        """Return the adapter."""
        return self.adapter(self.name, self.checked)

    def ask(self, request: Request) -> Response:
        """Send a request with the credential."""
        credential = self.make().authorize(self.secrets, self.token)
        return self.answer(replace(request, headers=(*request.headers, *credential.items())))

    def reading(self, feed: str, cursor: Cursor | None = None) -> Iterator[Exchange]:
        """Read a feed from a cursor to its end."""
        adapter = self.make()
        for _ in range(MOST_PAGES):
            request = adapter.request(feed, cursor, self.moment)
            if request is None:
                return
            response = self.ask(request)
            page = adapter.read(feed, cursor, self.moment, response)
            yield Exchange(feed, cursor, request, response, page)
            if not page.more:
                return
            cursor = orjson.loads(orjson.dumps(page.cursor))
        raise AssertionError(f"{feed}: no end after {MOST_PAGES} pages")

    def exchanges(self) -> Iterator[Exchange]:
        """Read every feed from its start."""
        for feed in self.make().feeds():
            yield from self.reading(feed.name)

    def lookups(self) -> Iterator[tuple[str, Request]]:
        """Yield the look-up of each customer, and of the absent one; nothing where the adapter has none."""
        for customer_id in [*sorted(self.customers), *([] if self.absent is None else [self.absent])]:
            request = self.make().lookup(customer_id)
            if request is not None:
                yield customer_id, request

    def look_up(self, customer_id: str, request: Request) -> Verdict:
        """Look one customer up."""
        return self.make().read_lookup(customer_id, self.ask(request))

    def rows(self) -> list[Row]:
        """Return every customer's record, from the feeds or else by look-up."""
        items: list[Item] = [item for exchange in self.exchanges() for item in exchange.page.items]
        rows = {item.id: item for item in items if isinstance(item, Row)}
        for customer_id, request in self.lookups():
            verdict = None if customer_id in rows else self.look_up(customer_id, request)
            if isinstance(verdict, Exists):
                rows[customer_id] = verdict.row
        return list(rows.values())
