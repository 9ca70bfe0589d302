"""What holds of every Payload CMS REST API: its filter language, its listings, its ids, its errors.

A filter that Payload does not understand is dangerous: a misspelled operator is refused, but a filter misspelled one
level up is ignored, and everything comes back. So is the first of an `and` and an `or` in one object. So a filter is
checked in full when the configuration is read, and a listing is held against what was asked: a page that is not in
order, or does not lie behind the cursor, is refused.

Source of the rules: Payload's documentation ("Querying your Documents", "REST API") and its use of the `qs` library
(nesting up to 10 deep, 1,000 parameters).
"""

import re
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote, urlencode

from worker.sources import Bad, Response
from worker.sources.reading import malformed, named, objects, parse, refuse, unusable

Document = dict[str, Any]
Place = tuple[int, int | str]
"""Where a row stands in a listing: its time in ms since the epoch (0 in a listing by id), and its id as it came."""

IDS: Final = {
    "number": re.compile(r"0|[1-9][0-9]{0,18}").fullmatch,
    "objectid": re.compile(r"[0-9a-f]{24}").fullmatch,
    "uuid": re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch,
}
"""What ids look like, by the database below: SQL, MongoDB, SQL with UUIDs."""
OPERATORS: Final = frozenset({
    "all",
    "contains",
    "equals",
    "exists",
    "greater_than",
    "greater_than_equal",
    "in",
    "intersects",
    "less_than",
    "less_than_equal",
    "like",
    "near",
    "not_equals",
    "not_in",
    "not_like",
    "within",
})
_LISTS: Final = frozenset({"all", "in", "not_in"})
_DEEPEST: Final = 8
"""Brackets after `where`: `qs` reads 10, and `[and][2]` is put around a configured filter."""
_MOST: Final = 200
_LONGEST: Final = 12 * 1024
"""Bytes as they are sent; the server takes 16 kB of address and headers, and answers 431 above."""
_LONGEST_ID: Final = 128
_PATH: Final = re.compile(r"[A-Za-z0-9_.]{1,100}").fullmatch
_FIELD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*").fullmatch


def check(where: dict[str, Any]) -> dict[str, Any]:
    """Return `where` if Payload will understand it; raises ValueError saying which part it will not."""
    parameters = tuple(encode("where", where))
    if not parameters:
        raise ValueError("the filter is empty; leave it out")
    if len(parameters) > _MOST or _sent(where) > _LONGEST:
        message = f"the filter is too long: at most {_MOST} comparisons, and {_LONGEST} bytes once percent-encoded"
        raise ValueError(message)
    for name, _ in parameters:
        if name.count("[") > _DEEPEST:
            raise ValueError(f"{name} is nested too deeply: the server reads no more than {_DEEPEST} levels")
    return where


def _sent(where: dict[str, Any]) -> int:
    """Return how long a filter is at most in an address, within our own conditions."""
    return len(urlencode(tuple(encode("where[and][2]", where)), quote_via=quote))


def encode(prefix: str, where: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the query parameters of a filter under `prefix`, not yet percent-encoded; raises ValueError as `check`."""
    if where.keys() >= {"and", "or"}:
        message = f"{prefix} has both and/or: the server heeds only the last; put the or into the list of the and"
        raise ValueError(message)
    for name, part in where.items():
        if name in {"and", "or"}:
            yield from _branches(f"{prefix}[{name}]", part)
        elif not _FIELD(name):
            raise ValueError(f"{name!r} is no field; write letters, digits and dots, or and/or with a list")
        else:
            yield from _comparisons(f"{prefix}[{name}]", part)


def _branches(prefix: str, part: object) -> Iterator[tuple[str, str]]:
    if not isinstance(part, list) or not part or not all(isinstance(branch, dict) and branch for branch in part):
        raise ValueError(f"{prefix} takes a list of filters")
    for index, branch in enumerate(part):
        yield from encode(f"{prefix}[{index}]", branch)


def _comparisons(prefix: str, part: object) -> Iterator[tuple[str, str]]:
    if not isinstance(part, dict) or not part:
        raise ValueError(f"{prefix} takes an operator and a value, for example {{equals: ...}}")
    for operator, value in part.items():
        if operator not in OPERATORS:
            raise ValueError(f"{prefix} has no operator {operator!r}; there are {', '.join(sorted(OPERATORS))}")
        yield from _values(f"{prefix}[{operator}]", operator, value)


def _values(prefix: str, operator: str, value: object) -> Iterator[tuple[str, str]]:
    if operator in _LISTS and isinstance(value, list) and value:
        for index, element in enumerate(value):
            yield f"{prefix}[{index}]", _scalar(prefix, element)
    else:
        yield prefix, _scalar(prefix, value)


def _scalar(prefix: str, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float) or (isinstance(value, str) and value):
        return str(value)
    message = f"{prefix} takes a text, a number, or true or false (a list for in, not_in, all); for null write exists"
    raise ValueError(message)


def listing(doing: str, response: Response) -> Document:
    """Return a listing with its `docs` and whether it `hasNextPage`; raises as an adapter's `read` does."""
    if response.status == HTTPStatus.BAD_REQUEST:
        refuse(response, doing, _unknown_fields(parse(response, doing)))
    if response.status != HTTPStatus.OK:
        refuse(response, doing)
    body = parse(response, doing)
    if not isinstance(body, dict) or not isinstance(body.get("docs"), list):
        raise malformed(doing, "the answer has no list of docs")
    if not isinstance(body.get("hasNextPage"), bool):
        raise malformed(doing, "hasNextPage does not say whether there is more")
    return body


def _unknown_fields(body: object) -> str:
    # Payload names the fields that cannot be queried; whatever else it says may repeat a value of the filter.
    errors = body.get("errors") if isinstance(body, dict) else None
    entries = [entry for error in objects(errors) for entry in objects(error.get("data"))]
    paths = [entry["path"] for entry in entries if isinstance(entry.get("path"), str) and _PATH(entry["path"])]
    return f"fields that cannot be queried: {', '.join(paths)}" if paths else ""


def documents(doing: str, body: Document) -> list[tuple[str | Bad, Document]]:
    """Return the docs of a listing with their ids, or as bad ones where those cannot be used.

    One without an id spoils the page: what is lost, nobody knows.
    """
    docs = [doc for doc in body["docs"] if isinstance(doc, dict) and named(doc.get("id"))]
    found: list[tuple[str | Bad, Document]] = [(id_of(doc) or unusable(doc["id"], doc), doc) for doc in docs]
    if len(found) < len(body["docs"]):
        raise malformed(doing, f"{len(body['docs']) - len(found)} of {len(body['docs'])} docs have no id")
    return found


def id_of(doc: Document) -> str | None:
    """Return the id of a doc as text: a number on SQL, a text on MongoDB; None where it has no usable one."""
    found = doc.get("id")
    if type(found) is int:
        return str(found)
    return found if type(found) is str and 0 < len(found) <= _LONGEST_ID and found.isprintable() else None


def total_of(doing: str, body: Document) -> int:
    """Return how many docs there are: of a page without a keyset all of them, else those behind the cursor."""
    total = body.get("totalDocs")
    if type(total) is not int or total < len(body["docs"]) or (total and not body["docs"]):
        raise malformed(doing, "totalDocs does not count the docs")
    return total


class Walk:
    """Where in the order of a feed the reading stands: (time, id) of the last row."""

    def __init__(self, doing: str, place: Place | None) -> None:
        self.doing = doing
        self.place = place
        self.moved = False

    def on(self, place: Place) -> None:
        """Go on to the next row; one that comes before the last is refused."""
        if self.place is not None and not _follows(self.place, place):
            raise malformed(self.doing, "the rows are not in the order asked for")
        self.moved = self.moved or place != self.place
        self.place = place


def _follows(before: Place, after: Place) -> bool:
    if before[0] != after[0]:
        return before[0] < after[0]
    left, right = before[1], after[1]
    if isinstance(left, int) and isinstance(right, int):
        return left <= right
    if isinstance(left, str) and isinstance(right, str) and _figures(left) and _figures(right):
        return left <= right
    return True


def _figures(id_: str) -> bool:
    # How a database orders texts is its own affair, except those of figures and small letters.
    return bool(IDS["objectid"](id_) or IDS["uuid"](id_))
