"""What a request asks of Drivly, read as Payload reads it: pages, `where`, `depth`, `select`; all of it measured."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import orjson

from worker.simulator.where import DatabaseError, number

DEFAULT_LIMIT = 10
DEFAULT_DEPTH = 2
DEEPEST = 10
LARGEST = 2**53
"""Above it, JavaScript's numbers are no longer whole."""


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

    def bounds(self, total: int) -> tuple[int, int]:
        """Return the first place of the page and the one behind its last, of `total`."""
        start = min((self.page - 1) * self.limit, total)
        return start, min(start + self.limit, total) if self.limit else total

    def tail(self, total: int, found: int) -> dict[str, Any]:
        """Compute the members beside `docs`, of `total` matching customers and `found` ones on this page."""
        limit, page = self.asked_limit, self.asked_page
        paged = self.counted and bool(limit) and total > 0
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
    """Return the number of a page's first customer; what is no number makes it null."""
    return (page - 1) * limit + 1 if isinstance(page, int) and isinstance(limit, int) else None


def _numeral(text: Any) -> int | str:
    """Read an integer, or return the text itself where it is none."""
    value = number(text) if isinstance(text, str) and text else None
    if value is not None and (value != value // 1 or abs(value) > LARGEST):
        raise DatabaseError
    return str(text) if value is None else int(value)


def read_where(asked: dict[str, Any]) -> Any:
    """Return the `where`, also one that is JSON text; None where there is none. Raises JSONDecodeError."""
    where = asked.get("where")
    if isinstance(where, str):
        return _texts(orjson.loads(where)) if where else None
    return where


def _texts(value: Any) -> Any:
    """Turn JSON into what the bracket syntax would have brought: every value a text."""
    match value:
        case dict():
            return {name: _texts(member) for name, member in value.items()}
        case list():
            return [_texts(member) for member in value]
        case str():
            return value
        case _:
            return orjson.dumps(value).decode()


def read_depth(text: Any) -> int:
    """Return how deep relations are embedded; what is no number embeds none."""
    value = number(text) if isinstance(text, str) else None
    if not text:
        return DEFAULT_DEPTH
    return 0 if value is None else int(min(DEEPEST, value))


def selected(document: dict[str, Any], select: Any) -> dict[str, Any]:
    """Apply Payload's `select`: `id` stays always, the time stamps only where they are asked for."""
    if isinstance(select, dict) and all(value == "false" for value in select.values()):
        return {name: value for name, value in document.items() if name == "id" or name not in select}
    chosen = select if isinstance(select, dict) else {}
    return {name: value for name, value in document.items() if name == "id" or chosen.get(name) == "true"}


EVERYTHING = Paging(0, 1, 0, 1, counted=True)
