"""Payload's `where`: nested and/or lists of typed comparisons, answered row by row.

This is the slow, general evaluator; `keyset` gives the same answer by bisection for the shapes a poller sends, and a
property test holds the two together. The odd answers are Payload's: 3.90.2 was asked the same, see
`tests/unit/simulator/payload.json`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from fnmatch import translate
from functools import lru_cache
from operator import ge, gt, le, lt
from typing import Any

from worker.simulator.store import Row

Predicate = Callable[[Row], bool]
Read = Callable[[Row], Any]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)
ISO = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?(Z|[+-]\d\d:\d\d)?)?$", re.ASCII
)
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$", re.ASCII)
COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "greater_than": gt,
    "greater_than_equal": ge,
    "less_than": lt,
    "less_than_equal": le,
}
LISTED = {"in", "not_in"}
PATTERNS = {"like", "not_like", "contains"}
GEOMETRY = {"all", "near", "within", "intersects"}
"""Operators that Payload knows but that fail on every field of a customer."""
OPERATORS = {*COMPARISONS, *LISTED, *PATTERNS, *GEOMETRY, "equals", "not_equals", "exists"}


class QueryError(Exception):
    """A field or an operator that cannot be queried; `paths` names them."""

    def __init__(self, paths: list[str]) -> None:
        """Remember the offending `paths` for the answer's body."""
        plural = "path" if len(paths) == 1 else "paths"
        super().__init__(f"The following {plural} cannot be queried: " + ", ".join(paths))
        self.paths = paths


class DatabaseError(Exception):
    """A value that the database refuses: Payload answers 500, as for everything."""


def milliseconds(text: str) -> int | None:
    """Read an ISO 8601 time as milliseconds since the epoch; None where it is no such time."""
    found = ISO.match(text)
    if found is None:
        return None
    year, month, day, hour, minute, second, fraction, zone = found.groups()
    try:
        moment = datetime(
            int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0), tzinfo=UTC
        )
    except ValueError:
        return None
    return (moment - EPOCH) // MILLISECOND + int((fraction or "0").ljust(3, "0")[:3]) - _offset(zone)


def _offset(zone: str | None) -> int:
    if zone is None or zone == "Z":
        return 0
    sign = -1 if zone[0] == "-" else 1
    return sign * (int(zone[1:3]) * 60 + int(zone[4:6])) * 60_000


def iso(stamp: int) -> str:
    """Write milliseconds since the epoch as Payload does: ISO 8601, milliseconds, `Z`."""
    second, rest = divmod(stamp, 1000)
    return f"{_to_the_second(second)}.{rest:03d}Z"


@lru_cache(maxsize=4096)
def _to_the_second(second: int) -> str:
    return f"{EPOCH + timedelta(seconds=second):%Y-%m-%dT%H:%M:%S}"


def number(text: str) -> float | int | None:
    """Read a decimal number as JavaScript's `Number` does ("" is 0); None where that is NaN."""
    text = text.strip()
    if NUMBER.match(text) is None:
        return None if text else 0
    return float(text) if set(text) & set(".eE") else int(text)


def compiled(where: Any, fields: Mapping[str, str], *, strict_time: bool = False) -> Predicate:
    """Turn a parsed `where` into a predicate; one that is no object is ignored, as Payload does.

    `fields` gives each field's type; with `strict_time` an unreadable time is refused (SQLite), else it matches nothing
    (Postgres). Raises QueryError for unknown fields and operators, DatabaseError for values that a database refuses.
    """
    bad: list[str] = []
    _check(where, fields, bad)
    if bad:
        raise QueryError(bad)
    return _object(where, fields, strict_time=strict_time)


def _check(where: Any, fields: Mapping[str, str], bad: list[str]) -> None:
    for name, value in _entries(where):
        if name.lower() in {"and", "or"} and isinstance(value, list):
            for part in value:
                _check(part, fields, bad)
        elif isinstance(value, dict):
            bad.extend(f"{name}.{operator}" for operator in value if operator not in OPERATORS)
            if name not in fields and value.keys() & OPERATORS:
                bad.append(name)
        elif isinstance(value, list):
            bad.append(name)
        elif value:
            bad.append(f"{name}.0")


def _entries(where: Any) -> list[tuple[str, Any]]:
    if isinstance(where, list):
        return [(str(index), value) for index, value in enumerate(where)]
    return list(where.items()) if isinstance(where, dict) else []


def _object(where: Any, fields: Mapping[str, str], *, strict_time: bool) -> Predicate:
    """Join every test of an object; of its `and` and `or` lists only the last one counts (measured)."""
    tests: list[Predicate] = []
    lists: list[Predicate] = []
    for name, value in _entries(where):
        if isinstance(value, list):
            parts = [_object(part, fields, strict_time=strict_time) for part in value]
            lists = [_some(parts) if name.lower() == "or" else _every(parts)]
        elif isinstance(value, dict):
            tests.extend(_test(name, fields[name], operator, value[operator], strict_time) for operator in value)
    return _every([*tests, *lists])


def _test(name: str, kind: str, operator: str, want: Any, strict_time: bool) -> Predicate:  # ruff: ignore[boolean-type-hint-positional-argument]  # handed on
    read = _reader(name)
    if operator in GEOMETRY or (not isinstance(want, str) and operator not in LISTED):
        raise DatabaseError
    if operator == "exists":
        return lambda row: (read(row) not in (None, [])) is (want == "true")
    if operator in PATTERNS and kind in {"text", "select"} and (kind, operator) != ("select", "contains"):
        return _pattern(read, operator, want)
    if operator in LISTED:
        return _listed(read, kind, operator, want)
    if kind == "date":
        return _timed(read, operator, want, strict_time=strict_time)
    return _compared(read, kind, operator, _typed(kind, want))


def _typed(kind: str, text: str) -> Any:
    return number(text) if kind in {"number", "relation", "relations"} else text


def _timed(read: Read, operator: str, text: str, *, strict_time: bool) -> Predicate:
    stamp = milliseconds(text)
    if stamp is None and strict_time and text not in {"", "null"}:
        raise DatabaseError
    return _never if stamp is None else _compared(read, "date", operator, stamp)


def _listed(read: Read, kind: str, operator: str, want: Any) -> Predicate:
    values = [_element(kind, item) for item in (want if isinstance(want, list) else str(want).split(","))]
    if operator == "in":
        return lambda row: any(have in values for have in _many(read(row)))
    if kind == "relations":
        return lambda row: any(have not in values for have in _many(read(row)) or [None])
    return lambda row: any(have not in values for have in _many(read(row)))


def _element(kind: str, text: Any) -> Any:
    if kind == "date":
        return milliseconds(str(text))
    value = _typed(kind, str(text))
    if value is None or (not text and kind == "number"):
        raise DatabaseError
    return value


def _compared(read: Read, kind: str, operator: str, want: Any) -> Predicate:
    if operator in {"equals", "like", "contains"}:
        return lambda row: want in (_many(read(row)) or [None])
    if operator in {"not_equals", "not_like"}:
        if want is None:
            return lambda row: read(row) is not None
        return lambda row: any(have != want for have in _many(read(row)) or [None])
    compare = COMPARISONS[operator]
    if want is None or kind in {"select", "relations"}:
        return _never
    return lambda row: any(
        compare(have, want) for have in _many(read(row)) if isinstance(have, str) is isinstance(want, str)
    )


def _pattern(read: Read, operator: str, want: str) -> Predicate:
    """Match SQL's LIKE without regard to case: each word anywhere, or (`not_like`, measured) the whole value."""
    words = want.split(" ") if operator == "like" else [want]
    around = "" if operator == "not_like" else "%"
    tests = [re.compile(_like(f"{around}{word}{around}"), re.IGNORECASE | re.DOTALL) for word in words]
    if operator == "not_like":
        return lambda row: any(tests[0].match(str(have)) is None for have in _many(read(row)))
    return lambda row: any(all(test.match(str(have)) for test in tests) for have in _many(read(row)))


def _like(pattern: str) -> str:
    escaped = pattern.replace("[", "[[]").replace("*", "[*]").replace("?", "[?]")
    return translate(escaped.replace("%", "*").replace("_", "?"))


def _many(have: Any) -> list[Any]:
    return have if isinstance(have, list) else [] if have is None else [have]


def _reader(name: str) -> Read:
    if name == "id":
        return lambda row: row.id
    if name == "updatedAt":
        return lambda row: row.updated
    if name == "createdAt":
        return lambda row: row.created
    return lambda row: row.document().get(name)


def _every(parts: list[Predicate]) -> Predicate:
    return parts[0] if len(parts) == 1 else lambda row: all(part(row) for part in parts)


def _some(parts: list[Predicate]) -> Predicate:
    return lambda row: any(part(row) for part in parts) or not parts


def _never(_row: Row) -> bool:
    return False
