"""Drivly's customers, as the Payload CMS REST API behind them serves them.

Imitates what the vendor's documents and Payload's own say and what a Payload 3.90 server was measured to do, traps included:
silent fallbacks, ties in arbitrary order, filters that are ignored when misspelled, loosely read ids, a DELETE that deletes
everything. `docs/simulators.md` lists them, and what is not imitated.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote

import orjson

from worker.simulator import drivly_shape as shapes
from worker.simulator import qs
from worker.simulator.answers import Answer, Ask, Layout, as_json
from worker.simulator.data import Person
from worker.simulator.keyset import piece
from worker.simulator.server import Simulator
from worker.simulator.store import Id, Row, View
from worker.simulator.where import DatabaseError, QueryError, compiled, iso, milliseconds, number

Database = Literal["postgres", "sqlite", "mongodb"]
ADDRESS_LIMIT = 16 * 1024
"""Bytes of request line and headers that Node takes."""
DEFAULT_LIMIT = 10
DEFAULT_DEPTH = 2
MESSAGES = {
    400: "Bad Request",
    403: "You are not allowed to perform this action.",
    404: "Not Found",
    500: "Something went wrong.",
}
FIELDS: dict[str, str] = {
    "id": "number",
    "updatedAt": "date",
    "createdAt": "date",
    **dict.fromkeys(shapes.TEXTS, "text"),
    **dict.fromkeys(shapes.NUMBERS, "number"),
    **dict.fromkeys(shapes.LISTS, "select"),
    **dict.fromkeys(shapes.RELATION, "relation"),
    **dict.fromkeys(shapes.RELATIONS, "relations"),
}
BLANK: dict[str, Any] = {
    **dict.fromkeys((*shapes.TEXTS, *shapes.NUMBERS, *shapes.RELATION)),
    **{name: [] for name in (*shapes.RELATIONS, *shapes.LISTS)},
}
"""What the SQL adapters serve for fields that hold nothing."""
LOOSE = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
"""What `parseFloat` reads of an id in a path; the rest of it is ignored."""
WHOLE = re.compile(r"-?\d{1,15}$", re.ASCII)


class Drivly(Simulator):
    """A simulated Drivly: `GET`, `POST`, `PATCH` and `DELETE` under `/api/customers`."""

    kind = "drivly"
    layout = Layout("docs", "id")
    settings = (*Simulator.settings, "authorization", "auth", "delete_seconds", "padding")

    def __init__(
        self,
        *,
        database: Database = "postgres",
        authorization: str | None = "users API-Key drivly-test-key",
        auth: Literal["forbid", "filter"] = "forbid",
        reuse_ids: bool | None = None,
        detail: shapes.Detail = "usual",
        nulls: bool = False,
        padding: int = 0,
        **common: Any,
    ) -> None:
        """A stopped Drivly; `common` are `Simulator`'s arguments.

        `database` decides the ids (numbers, or strings on mongodb), what an unreadable time does (500 on sqlite), and whether
        the highest id is given out again after its deletion (sqlite; `reuse_ids` overrides). `authorization` is the whole
        value of the header that is accepted (None accepts all); `auth` says what a wrong one gets: 403, or an empty list.
        `detail` is how many fields are filled in, `nulls` serves the others too (null or an empty list, as the SQL adapters
        do; else they are left out, as on mongodb), `padding` adds that many bytes to each customer as it is served.
        """
        self.database = database
        self.authorization = authorization
        self.auth = auth
        self.reuse_ids = database == "sqlite" if reuse_ids is None else reuse_ids
        self.detail: shapes.Detail = detail
        self.nulls = nulls
        self.padding = padding
        self.delete_seconds = 0.0
        """Seconds between a DELETE's look-up and its commit, in which another one may win."""
        self._fields = {**FIELDS, "id": "text"} if database == "mongodb" else FIELDS
        self._highest = 0
        self._moved: dict[tuple[str, int], int] = {}
        super().__init__(**common)

    # The customers

    def shape(self, person: Person) -> dict[str, Any]:
        """The person's fields; what is not filled in is left out."""
        return {name: value for name, value in shapes.shaped(person, self.random, self.detail).items() if value is not None}

    def new_id(self) -> Id:
        """The next number, or the next ObjectID on mongodb."""
        if self.reuse_ids and self.store.ordered:
            self._highest = self.store.ordered[-1].order
        self._highest += 1
        return f"65{self._highest:022x}" if self.database == "mongodb" else self._highest

    def order(self, key: Id) -> Any:
        """Customers are listed by id."""
        if isinstance(key, int):
            self._highest = max(self._highest, key)
        return key

    def document(self, key: Id, fields: Mapping[str, Any], created: int, updated: int) -> dict[str, Any]:
        """The customer at depth 0."""
        blank = BLANK if self.nulls else {}
        return {"id": key, **blank, **_without_own(fields), "updatedAt": iso(updated), "createdAt": iso(created)}

    def change(self, row: Row) -> dict[str, Any]:  # noqa: ARG002  # any customer changes alike
        """Another status and income, and sometimes another address."""
        changed = {
            "consumerStatus": self.random.choice(("NEW", "ACTIVE", "SOLD", "LOST")),
            "consumerIncome": self.random.randrange(20_000, 200_000),
        }
        if self.random.random() < 0.3:  # noqa: PLR2004  # a share
            moved = self.people.person()
            changed |= {"consumerPreviousAddressLine1": moved.street_line, "consumerPreviousAddressCity": moved.city}
        return changed

    def touch_related(self, field: str, number: int) -> None:
        """Changes a related document: it shows in embedded copies, and moves no customer's `updatedAt`."""
        self._moved[field, number] = self._moved.get((field, number), 0) + 1

    def served(self, row: Row) -> dict[str, Any]:
        """The customer as a listing at depth 0 serves it, padding included."""
        document: dict[str, Any] = orjson.loads(row.body + self._pad())
        return document

    # The API

    def error(self, status: int) -> bytes:
        """Payload's error body; the 500 never says whose fault it was."""
        return orjson.dumps({"errors": [{"message": MESSAGES.get(status, "Something went wrong.")}]})

    async def answer(self, ask: Ask) -> Answer:
        """Routes as Payload does."""
        size = len(ask.path) + len(ask.query) + sum(len(name) + len(value) + 4 for name, value in ask.headers.items())
        if size > ADDRESS_LIMIT:
            return Answer(431, b"", {"Connection": "close"})
        root, _, key = ask.path.removeprefix("/api/").removesuffix("/").partition("/")
        if not ask.path.startswith("/api/") or root != "customers" or "/" in key:
            return Answer(404, orjson.dumps({"message": f'Route not found "{ask.path}"'}))
        try:
            return await self._routed(ask, unquote(key))
        except QueryError as error:
            return _query_error(error)
        except (DatabaseError, orjson.JSONDecodeError):
            return self._failed(500)

    async def _routed(self, ask: Ask, key: str) -> Answer:
        allowed = self.authorization is None or ask.headers.get("Authorization") == self.authorization
        if not allowed and (self.auth == "forbid" or ask.method != "GET"):
            return self._failed(403)
        view = self.view(ask) if allowed else self.store.first(0)
        asked = qs.parse(ask.query)
        match ask.method, bool(key):
            case "GET", False:
                return self._list(view, asked)
            case "GET", True:
                return self._one(view, key, asked)
            case "DELETE", True:
                return await self._delete(view, key, asked)
            case "DELETE", False:
                return self._delete_many(view, asked)
            case "POST", False:
                return self._post(ask)
            case "PATCH", True:
                return self._patch(view, key, ask)
        return Answer(404, orjson.dumps({"message": f'Route not found "{ask.path}"'}))

    def _failed(self, status: int) -> Answer:
        return Answer(status, self.error(status))

    def _list(self, view: View, asked: dict[str, Any]) -> Answer:
        paging = Paging.read(asked)
        rows, total = self._find(view, _where(asked), self._sort(asked.get("sort")), paging.limit, paging.page)
        tail = orjson.dumps(paging.tail(total, len(rows)))
        return Answer(200, b'{"docs":[' + self._render(rows, asked) + b"]," + tail[1:])

    def _sort(self, sort: Any) -> list[str]:
        named = sort.split(",") if isinstance(sort, str) else sort if isinstance(sort, list) else []
        known = [name for name in named if name.removeprefix("-") in self._fields]
        return known or ["-createdAt"]

    def _find(self, view: View, where: Any, sort: list[str], limit: int, page: int) -> tuple[list[Row], int]:
        skip = (page - 1) * limit
        found = piece(view, where, sort, self._read_id)
        if found is not None:
            total = found.stop - found.start
            start, stop = min(skip, total), min(skip + limit, total) if limit else total
            return self._cut(found.rows, found.start, found.stop, start, stop, sort), total
        test = compiled(where, self._fields, strict_time=self.database == "sqlite")
        rows = self._sorted([row for row in view.ordered if test(row)], sort)
        return rows[skip : skip + limit] if limit else rows, len(rows)

    def _cut(self, rows: list[Row], low: int, high: int, start: int, stop: int, sort: list[str]) -> list[Row]:
        """The `start`th to `stop`th of rows[low:high], in the order of `sort`."""
        if sort[0].startswith("-"):
            low_cut, high_cut = high - stop, high - start
        else:
            low_cut, high_cut = low + start, low + stop
        if "id" in (name.removeprefix("-") for name in sort) or low_cut >= high_cut:
            cut = rows[low_cut:high_cut]
            return cut[::-1] if sort[0].startswith("-") else cut
        first, last = low_cut, high_cut
        while first > low and rows[first - 1].updated == rows[low_cut].updated:
            first -= 1
        while last < high and rows[last].updated == rows[high_cut - 1].updated:
            last += 1
        ordered = self._sorted(rows[first:last], sort)
        offset = last - high_cut if sort[0].startswith("-") else low_cut - first
        return ordered[offset : offset + high_cut - low_cut]

    def _sorted(self, rows: list[Row], sort: list[str]) -> list[Row]:
        """The rows in order; ties come as they please, differently at every request, as a database does it."""
        self.random.shuffle(rows)
        for name in reversed(sort):
            column = name.removeprefix("-")
            rows.sort(key=partial(self._comparable, column), reverse=name.startswith("-"))
        return rows

    def _comparable(self, column: str, row: Row) -> tuple[bool, Any]:
        if column == "id":
            return False, row.order
        if column in {"updatedAt", "createdAt"}:
            return False, row.updated if column == "updatedAt" else row.created
        value = row.document().get(column)
        if value is None:
            return self.database == "postgres", ""
        return self.database != "postgres", orjson.dumps(value).decode() if isinstance(value, list) else value

    def _one(self, view: View, key: str, asked: dict[str, Any]) -> Answer:
        row = self._loose(view, key)
        if row is None:
            return self._failed(404)
        return Answer(200, self._render([row], asked))

    async def _delete(self, view: View, key: str, asked: dict[str, Any]) -> Answer:
        row = self._loose(view, key)
        if row is None:
            return self._failed(404)
        await asyncio.sleep(self.delete_seconds)
        if self.store.get(row.id) is not row:
            if self.store.get(row.id) is None:
                return self._late_delete(row, asked)
            row = self.store.rows[row.id]
        self.delete(row.id)
        doc = self._render([row], asked)
        return Answer(200, b'{"doc":' + doc + b',"message":"Deleted successfully."}')

    def _late_delete(self, row: Row, asked: dict[str, Any]) -> Answer:
        """Another DELETE of the same id was quicker: any of three answers."""
        match self.random.randrange(3):
            case 0:
                return Answer(200, b'{"doc":' + self._render([row], asked) + b',"message":"Deleted successfully."}')
            case 1:
                return self._failed(404)
            case _:
                return self._failed(500)

    def _delete_many(self, view: View, asked: dict[str, Any]) -> Answer:
        where = _where(asked)
        if where is None:
            message = "Missing 'where' query of documents to delete."
            return as_json({"errors": [{"message": message}]}, 400)
        rows, _ = self._find(view, where, ["-createdAt"], 0, 1)
        rows = [row for row in rows if self.store.get(row.id) is not None]
        docs = self._render(rows, asked)
        for row in rows:
            self.delete(row.id)
        label = "Customer" if len(rows) == 1 else "Customers"
        message = f"Deleted {len(rows)} {label} successfully."
        return Answer(200, b'{"docs":[' + docs + b'],"errors":[],"message":' + orjson.dumps(message) + b"}")

    def _post(self, ask: Ask) -> Answer:
        fields = _json_object(ask.body)
        key = self.create(fields, at=_given(fields, "updatedAt"), created=_given(fields, "createdAt"))
        doc = self._render([self.store.rows[key]], qs.parse(ask.query))
        return Answer(201, b'{"doc":' + doc + b',"message":"Customer successfully created."}')

    def _patch(self, view: View, key: str, ask: Ask) -> Answer:
        row = self._loose(view, key)
        if row is None or self.store.get(row.id) is None:
            return self._failed(404)
        self.update(row.id, _json_object(ask.body))
        doc = self._render([self.store.rows[row.id]], qs.parse(ask.query))
        return Answer(200, b'{"doc":' + doc + b',"message":"Updated successfully."}')

    def _read_id(self, text: str) -> Id | None:
        if self.database == "mongodb":
            return text
        return int(text) if WHOLE.match(text) else None

    def _loose(self, view: View, key: str) -> Row | None:
        """Find the row of an id in a path, read as loosely as `parseFloat` does: `12abc` is 12, `abc` is a 500."""
        if self.database == "mongodb":
            return view.get(key)
        found = LOOSE.match(key)
        if found is None:
            raise DatabaseError
        value = float(found[0])
        return view.get(int(value)) if value.is_integer() else None

    # Rendering

    def _render(self, rows: list[Row], asked: dict[str, Any]) -> bytes:
        depth = _depth(asked.get("depth"))
        select = asked.get("select")
        if select is not None:
            return b",".join(orjson.dumps(self._embedded(_selected(self.served(row), select), depth)) for row in rows)
        if depth > 0:
            return b",".join(orjson.dumps(self._embedded(self.served(row), depth)) for row in rows)
        end = self._pad()
        return (end + b",").join([row.body for row in rows]) + end if rows else b""

    def _pad(self) -> bytes:
        return b',"companyServiceOrders":"' + b"." * self.padding + b'"}' if self.padding else b"}"

    def _embedded(self, document: dict[str, Any], depth: int) -> dict[str, Any]:
        if depth <= 0:
            return document
        for name in shapes.RELATION:
            if document.get(name) is not None:
                document[name] = self._related(name, document[name], depth)
        for name in shapes.RELATIONS:
            if document.get(name):
                document[name] = [self._related(name, link, depth) for link in document[name]]
        return document

    def _related(self, field: str, link: Any, depth: int) -> dict[str, Any]:
        moved = self._moved.get((field, link), 0)
        tenant: Any = {"id": 1, "name": "Tenant 1"} if depth > 1 else 1
        stamp = iso(1_700_000_000_000 + moved)
        return {"id": link, "name": f"{field} {link}", "revision": moved, "tenant": tenant, "updatedAt": stamp}


def _without_own(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in {"id", "updatedAt", "createdAt"}}


class Paging(NamedTuple):
    """What was asked for of a listing's pages, and the members that answer it; all as measured."""

    limit: int
    """0 is everything."""
    page: int
    asked_limit: Any
    asked_page: Any
    counted: bool

    @classmethod
    def read(cls, asked: dict[str, Any]) -> Paging:
        """Read `limit`, `page` and `pagination`: an empty, negative or unreadable limit is everything.

        Raises DatabaseError for fractions.
        """
        counted = asked.get("pagination") != "false"
        limit = _numeral(asked.get("limit", str(DEFAULT_LIMIT if counted else 0)))
        page = _numeral(asked.get("page", "1")) or 1
        whole = limit if isinstance(limit, int) else 0
        return cls(max(0, whole), max(1, page) if isinstance(page, int) else 1, limit, page, counted)

    def tail(self, total: int, found: int) -> dict[str, Any]:
        """Compute the members beside `docs`, of `total` matching customers and `found` ones on this page."""
        limit, page = self.asked_limit, self.asked_page
        paged = self.counted and limit != 0 and limit != "" and total > 0
        pages = math.ceil(total / limit) if paged and isinstance(limit, int) else 1
        readable = isinstance(page, int) and isinstance(limit, int)
        more = paged and readable and page < pages
        less = paged and readable and page > 1
        return {
            "hasNextPage": more,
            "hasPrevPage": less,
            "limit": limit,
            "nextPage": page + 1 if more else None,
            "page": page,
            "pagingCounter": _counter(page, limit) if paged else 1,
            "prevPage": page - 1 if less else None,
            "totalDocs": total if self.counted else found,
            "totalPages": pages,
        }


def _counter(page: int | str, limit: int | str) -> int | None:
    """The number of a page's first customer; what is no number makes it null."""
    return (page - 1) * limit + 1 if isinstance(page, int) and isinstance(limit, int) else None


def _numeral(text: Any) -> int | str:
    """An integer, or the text itself where it is none."""
    value = number(text) if isinstance(text, str) and text else None
    if isinstance(value, float) and not value.is_integer():
        raise DatabaseError
    return str(text) if value is None else int(value)


def _where(asked: dict[str, Any]) -> Any:
    """The `where`, also where it is JSON text; None where there is none. Raises JSONDecodeError for other text."""
    where = asked.get("where")
    if isinstance(where, str):
        return _texts(orjson.loads(where)) if where else None
    return where


def _texts(value: Any) -> Any:
    """JSON as the bracket syntax would have brought it: every value a text."""
    match value:
        case dict():
            return {name: _texts(member) for name, member in value.items()}
        case list():
            return [_texts(member) for member in value]
        case str():
            return value
        case _:
            return orjson.dumps(value).decode()


def _depth(text: Any) -> int:
    value = number(text) if isinstance(text, str) else None
    if not text:
        return DEFAULT_DEPTH
    return 0 if value is None else min(10, int(value))


def _selected(document: dict[str, Any], select: Any) -> dict[str, Any]:
    """Payload's `select`: `id` stays always, the time stamps only where they are asked for."""
    if isinstance(select, dict) and all(value == "false" for value in select.values()):
        return {name: value for name, value in document.items() if name == "id" or name not in select}
    chosen = select if isinstance(select, dict) else {}
    return {name: value for name, value in document.items() if name == "id" or chosen.get(name) == "true"}


def _query_error(error: QueryError) -> Answer:
    data = [{"path": path} for path in error.paths]
    return as_json({"errors": [{"name": "QueryError", "data": data, "message": str(error)}]}, 400)


def _given(fields: Mapping[str, Any], name: str) -> float | None:
    stamp = milliseconds(str(fields.get(name)))
    return None if stamp is None else stamp / 1000


def _json_object(body: bytes) -> dict[str, Any]:
    value = orjson.loads(body or b"{}")
    return value if isinstance(value, dict) else {}
