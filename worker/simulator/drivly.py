"""Drivly's customers, as the Payload CMS REST API behind them serves them.

Imitates what the vendor's documents and Payload's own say and what a Payload 3.90 server was measured to do, traps
included: silent fallbacks, ties in arbitrary order, filters that are ignored when misspelled, loosely read ids, a
DELETE that deletes everything. `docs/simulators.md` lists them, and what is not imitated.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import unquote

import orjson

from worker.simulator import drivly_shape as shapes
from worker.simulator import qs
from worker.simulator.answers import Answer, Ask, Layout, as_json
from worker.simulator.data import Person
from worker.simulator.drivly_find import NEWEST_FIRST, Database, Finder
from worker.simulator.drivly_query import EVERYTHING, Paging, read_depth, read_where, selected
from worker.simulator.server import Simulator
from worker.simulator.store import Id, Row, View
from worker.simulator.where import DatabaseError, QueryError, iso, milliseconds

ADDRESS_LIMIT = 16 * 1024
"""Bytes of request line and headers that Node takes."""
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
        """Make a stopped Drivly; `common` are `Simulator`'s arguments.

        `database` decides the ids (numbers, or strings on mongodb), what an unreadable time does (500 on sqlite), and
        whether the highest id is given out again after its deletion (sqlite; `reuse_ids` overrides). `authorization`
        is the whole value of the header that is accepted (None accepts all); `auth` says what a wrong one gets: 403,
        or an empty list. `detail` is how many fields are filled in, `nulls` serves the others too (null or an empty
        list, as the SQL adapters do; else they are left out, as on mongodb), `padding` adds that many bytes to each
        customer as it is served.
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
        self._highest = 0
        self._moved: dict[tuple[str, int], int] = {}
        super().__init__(**common)
        fields = {**FIELDS, "id": "text"} if database == "mongodb" else FIELDS
        self.finder = Finder(fields, database, self.luck, self._read_id)

    # The customers

    def shape(self, person: Person) -> dict[str, Any]:
        """Render a person in the document's fields; what is not filled in is left out."""
        return {
            name: value for name, value in shapes.shaped(person, self.random, self.detail).items() if value is not None
        }

    def new_id(self) -> Id:
        """Take the next number, or the next ObjectID on mongodb."""
        if self.reuse_ids and self.store.ordered:
            self._highest = self.store.ordered[-1].order
        self._highest += 1
        return f"65{self._highest:022x}" if self.database == "mongodb" else self._highest

    def order(self, key: Id) -> Any:
        """List customers by id."""
        if isinstance(key, int):
            self._highest = max(self._highest, key)
        return key

    def document(self, key: Id, fields: Mapping[str, Any], created: int, updated: int) -> dict[str, Any]:
        """Render a customer at depth 0."""
        blank = BLANK if self.nulls else {}
        return {"id": key, **blank, **_without_own(fields), "updatedAt": iso(updated), "createdAt": iso(created)}

    def change(self, row: Row) -> dict[str, Any]:  # ruff: ignore[unused-method-argument]  # any customer changes alike
        """Another status and income, and sometimes another address."""
        changed = {
            "consumerStatus": self.random.choice(("NEW", "ACTIVE", "SOLD", "LOST")),
            "consumerIncome": self.random.randrange(20_000, 200_000),
        }
        if self.random.random() < 0.3:  # ruff: ignore[magic-value-comparison]  # a share
            moved = self.people.person()
            changed |= {"consumerPreviousAddressLine1": moved.street_line, "consumerPreviousAddressCity": moved.city}
        return changed

    def _changed(self, row: Row, fields: Mapping[str, Any] | None, stamp: int) -> Row:
        """Take another time of creation too, as Payload's newer releases do."""
        created = milliseconds(str((fields or {}).get("createdAt")))
        return super()._changed(row if created is None else row._replace(created=created), fields, stamp)

    def touch_related(self, field: str, number: int) -> None:
        """Change a related document: it shows in embedded copies, and moves no customer's `updatedAt`."""
        self._moved[field, number] = self._moved.get((field, number), 0) + 1

    def served(self, row: Row) -> dict[str, Any]:
        """Render a customer as a listing at depth 0 serves it, padding included."""
        document: dict[str, Any] = orjson.loads(row.body + self._pad())
        return document

    # The API

    def error(self, status: int) -> bytes:
        """Render Payload's error body; the 500 never says whose fault it was."""
        return orjson.dumps({"errors": [{"message": MESSAGES.get(status, "Something went wrong.")}]})

    async def answer(self, ask: Ask) -> Answer:
        """Route as Payload does."""
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
        asked = qs.parse(ask.query)
        if ask.method == "GET":
            view = self.view(ask) if allowed else self.store.first(0)
            return self._one(view, key, asked) if key else self._list(view, asked)
        return await self._written(ask, key, asked)

    async def _written(self, ask: Ask, key: str, asked: dict[str, Any]) -> Answer:
        match ask.method, bool(key):
            case "DELETE", True:
                return await self._delete(key, asked)
            case "DELETE", False:
                return self._delete_many(asked)
            case "POST", False:
                return self._post(ask, asked)
            case "PATCH", True:
                return self._patch(key, ask, asked)
        return Answer(404, orjson.dumps({"message": f'Route not found "{ask.path}"'}))

    def _failed(self, status: int) -> Answer:
        return Answer(status, self.error(status))

    def _list(self, view: View, asked: dict[str, Any]) -> Answer:
        paging = Paging.read(asked)
        rows, total = self.finder.find(view, read_where(asked), self.finder.sort(asked.get("sort")), paging)
        tail = orjson.dumps(paging.tail(total, len(rows)))
        return Answer(200, b'{"docs":[' + self._render(rows, asked) + b"]," + tail[1:])

    def _one(self, view: View, key: str, asked: dict[str, Any]) -> Answer:
        row = self._loose(view, key)
        if row is None:
            return self._failed(404)
        return Answer(200, self._render([row], asked))

    async def _delete(self, key: str, asked: dict[str, Any]) -> Answer:
        row = self._loose(self.store, key)
        if row is None:
            return self._failed(404)
        await asyncio.sleep(self.delete_seconds)
        self.store.unlock([row.id], self.now())
        if self.store.get(row.id) is None:
            return self._late_delete(row, asked)
        self.delete(row.id)
        return self._deleted(row, asked)

    def _deleted(self, row: Row, asked: dict[str, Any]) -> Answer:
        return Answer(200, b'{"doc":' + self._render([row], asked) + b',"message":"Deleted successfully."}')

    def _late_delete(self, row: Row, asked: dict[str, Any]) -> Answer:
        """Answer as when another DELETE of the same id was quicker: in one of three ways."""
        dice = self.luck.randrange(3)
        return self._deleted(row, asked) if dice == 0 else self._failed(404 if dice == 1 else 500)

    def _delete_many(self, asked: dict[str, Any]) -> Answer:
        where = read_where(asked)
        if where is None:
            message = "Missing 'where' query of documents to delete."
            return as_json({"errors": [{"message": message}]}, 400)
        rows, _ = self.finder.find(self.store, where, NEWEST_FIRST, EVERYTHING)
        docs = self._render(rows, asked)
        for row in rows:
            self.delete(row.id)
        label = "Customer" if len(rows) == 1 else "Customers"
        message = f"Deleted {len(rows)} {label} successfully."
        return Answer(200, b'{"docs":[' + docs + b'],"errors":[],"message":' + orjson.dumps(message) + b"}")

    def _post(self, ask: Ask, asked: dict[str, Any]) -> Answer:
        fields = _json_object(ask.body)
        key = self.create(fields, at=_given(fields, "updatedAt"), created=_given(fields, "createdAt"))
        doc = self._render([self.store.rows[key]], asked)
        return Answer(201, b'{"doc":' + doc + b',"message":"Customer successfully created."}')

    def _patch(self, key: str, ask: Ask, asked: dict[str, Any]) -> Answer:
        row = self._loose(self.store, key)
        if row is None:
            return self._failed(404)
        self.update(row.id, _json_object(ask.body))
        doc = self._render([self.store.rows[row.id]], asked)
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
        depth = read_depth(asked.get("depth"))
        select = asked.get("select")
        if select is not None:
            return b",".join(orjson.dumps(self._embedded(selected(self.served(row), select), depth)) for row in rows)
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


def _query_error(error: QueryError) -> Answer:
    data = [{"path": path} for path in error.paths]
    return as_json({"errors": [{"name": "QueryError", "data": data, "message": str(error)}]}, 400)


def _given(fields: Mapping[str, Any], name: str) -> float | None:
    stamp = milliseconds(str(fields.get(name)))
    return None if stamp is None else stamp / 1000


def _json_object(body: bytes) -> dict[str, Any]:
    value = orjson.loads(body or b"{}")
    return value if isinstance(value, dict) else {}
