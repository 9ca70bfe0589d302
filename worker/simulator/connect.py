"""connect's customers, as the Telness Tech Connect API lists them.

No change time and no tombstones: a listing by opaque cursor, or, in the older edition, by offset and total with time
stamps. The order of the keys in `metadata` changes from answer to answer. `docs/simulators.md` lists what is not
imitated.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote

import orjson

from worker.simulator.answers import Answer, Ask, Layout, as_json
from worker.simulator.data import Person, uuid
from worker.simulator.server import Simulator
from worker.simulator.store import Id, Row, View, by_order
from worker.simulator.where import iso

LIMITS = range(1, 1001)
DEFAULT_LIMIT = 100
CODES = {400: "BAD_REQUEST", 401: "UNAUTHORIZED", 404: "NOT_FOUND", 429: "TOO_MANY_REQUESTS"}


class RefusedError(Exception):
    """A request that the API refuses; the message goes into the answer."""


class Connect(Simulator):
    """A simulated Connect API: `GET /customers`, `GET` and `DELETE` of `/customers/{id}`."""

    kind = "connect"
    layout = Layout("items", "customerId")
    settings = (*Simulator.settings, "api_key", "cursor_seconds")

    def __init__(
        self,
        *,
        edition: Literal["cursor", "offset"] = "cursor",
        api_key: str | None = "connect-test-key",
        null_cursor: bool = True,
        cursor_seconds: float | None = None,
        **common: Any,
    ) -> None:
        """Make a stopped Connect; `common` are `Simulator`'s arguments.

        `edition` is today's (cursor) or the older one (offset, total, createdAt, updatedAt). `api_key` is what
        X-Api-Key must hold (None accepts all). The last page's `nextCursor` is null, or absent without `null_cursor`.
        A cursor is good for `cursor_seconds` (None: for ever).
        """
        self.edition = edition
        self.api_key = api_key
        self.null_cursor = null_cursor
        self.cursor_seconds = cursor_seconds
        super().__init__(**common)

    def shape(self, person: Person) -> dict[str, Any]:
        """Render a person in the document's fields."""
        address = _address(person)
        user = {"userId": uuid(self.random), "name": person.name, "role": "OWNER"}
        return {
            "customerType": "BUSINESS" if person.company else "CONSUMER",
            "name": person.company or person.name,
            "contact": {"email": person.email, "msisdn": person.phone},
            "identity": person.national_id,
            "preferredLocale": person.locale,
            "humanReadableId": f"{person.number % 100:02d}A-{person.number:04X}-X{person.number % 97:02d}",
            "referenceId": f"crm-customer-{person.number}",
            "billing": self._billing(person, address),
            "users": [user],
            "contactPerson": user,
            "shipping": {
                "name": person.name,
                "address": address,
                "msisdn": person.phone,
                "instructions": "Leave at front door",
            },
            "metadata": {
                "segment": self.random.choice("ABC"),
                "campaign": "spring",
                "store": str(self.random.randrange(9)),
            },
        }

    def _billing(self, person: Person, address: dict[str, Any]) -> dict[str, Any]:
        return {
            "method": self.random.choice(("E_INVOICE", "CARD", "DIRECT_DEBIT")),
            "currency": self.random.choice(("USD", "NOK", "SEK", "EUR")),
            "email": person.email,
            "address": address,
            "defaultPaymentProfileId": uuid(self.random),
            "autoPay": self.random.random() < 0.5,  # ruff: ignore[magic-value-comparison]  # a coin
        }

    def new_id(self) -> Id:
        """Draw a UUID."""
        return uuid(self.random)

    def document(self, key: Id, fields: Mapping[str, Any], created: int, updated: int) -> dict[str, Any]:
        """Render a customer; only the older edition has time stamps."""
        own = {"customerId", "createdAt", "updatedAt"}
        stamps = {"createdAt": iso(created), "updatedAt": iso(updated)} if self.edition == "offset" else {}
        return {"customerId": key, **{name: fields[name] for name in fields if name not in own}, **stamps}

    def change(self, row: Row) -> dict[str, Any]:
        """Change the billing method, and sometimes the address."""
        document = row.document()
        billing = {**document.get("billing", {}), "method": self.random.choice(("E_INVOICE", "CARD", "DIRECT_DEBIT"))}
        if self.random.random() < 0.3:  # ruff: ignore[magic-value-comparison]  # a share
            billing["address"] = _address(self.people.person())
        return {
            "billing": billing,
            "metadata": {**document.get("metadata", {}), "note": str(self.random.randrange(10**6))},
        }

    def error(self, status: int, message: str | None = None) -> bytes:
        """Render an error."""
        code = CODES.get(status, "INTERNAL_SERVER_ERROR")
        return orjson.dumps({"code": code, "message": message or code.replace("_", " ").capitalize()})

    async def answer(self, ask: Ask) -> Answer:
        """Route a request."""
        root, _, key = ask.path.removeprefix("/").partition("/")
        if root != "customers" or "/" in key or ask.method not in {"GET", "DELETE"}:
            return self._failed(404)
        if self.api_key is not None and ask.headers.get("X-Api-Key") != self.api_key:
            return self._failed(401)
        if key:
            return self._one(ask, unquote(key))
        try:
            return self._list(ask, dict(parse_qsl(ask.query))) if ask.method == "GET" else self._failed(405)
        except RefusedError as error:
            return self._failed(400, str(error))

    def _failed(self, status: int, message: str | None = None) -> Answer:
        return Answer(status, self.error(status, message))

    def _one(self, ask: Ask, key: str) -> Answer:
        row = self.view(ask).get(key)
        if row is None:
            return self._failed(404)
        if ask.method == "GET":
            return as_json(self._shuffled(row))
        self.delete(row.id)
        return Answer(204)

    def _list(self, ask: Ask, asked: dict[str, str]) -> Answer:
        limit = _limit(asked.get("limit"))
        view, search = self.view(ask), asked.get("search", "").casefold()
        if self.edition == "offset":
            return self._offset(view, search, limit, asked.get("offset", "0"))
        start = self._start(ask, asked.get("cursor"))
        rows = list(islice(_matching(view, start, search), limit + 1))
        after = rows[limit - 1].order if len(rows) > limit else None
        after = start if ask.fault("repeating_cursor") else after
        pagination = {} if after is None and not self.null_cursor else {"nextCursor": self._cursor(after)}
        return as_json({"items": [self._shuffled(row) for row in rows[:limit]], "pagination": pagination})

    def _offset(self, view: View, search: str, limit: int, offset: str) -> Answer:
        if not offset.isdecimal():
            raise RefusedError("offset must be a number")
        start = int(offset)
        rows = list(_matching(view, 0, search)) if search else view.ordered
        items = [self._shuffled(row) for row in rows[start : start + limit]]
        return as_json({"items": items, "total": len(rows), "limit": limit, "offset": start})

    def _cursor(self, after: int | None) -> str | None:
        if after is None:
            return None
        until = None if self.cursor_seconds is None else self.now() + self.cursor_seconds
        return urlsafe_b64encode(orjson.dumps(["c", after, until])).decode().rstrip("=")

    def _start(self, ask: Ask, cursor: str | None) -> int:
        if cursor is None:
            return 0
        try:
            mark, after, until = orjson.loads(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        except ValueError:
            mark, after, until = None, 0, None
        if mark != "c" or not isinstance(after, int):
            raise RefusedError("Invalid cursor")
        if ask.fault("expired_cursor") or (until is not None and until < self.now()):
            raise RefusedError("Cursor expired")
        return after

    def _shuffled(self, row: Row) -> dict[str, Any]:
        document = row.document()
        metadata = document.get("metadata")
        if isinstance(metadata, dict):
            names = list(metadata)
            self.luck.shuffle(names)
            document["metadata"] = {name: metadata[name] for name in names}
        return document


def _address(person: Person) -> dict[str, Any]:
    return {
        "street1": person.street_line,
        "city": person.city,
        "zip": person.postcode,
        "country": person.country,
        "state": person.state,
        "attention": person.name,
    }


def _limit(text: str | None) -> int:
    limit = DEFAULT_LIMIT if text is None else int(text) if text.isdecimal() else 0
    if limit not in LIMITS:
        raise RefusedError("limit must be between 1 and 1000")
    return limit


def _matching(view: View, after: int, search: str) -> Iterator[Row]:
    """Yield the rows behind a place in the listing that hold the text somewhere; all of them for none."""
    start = bisect_right(view.ordered, after, key=by_order)
    for row in islice(view.ordered, start, None):
        if not search or search in row.body.decode().casefold():
            yield row
