"""Payload's `where`: nested and/or lists of typed comparisons, answered row by row.

This is the slow, general evaluator; `keyset` gives the same answer by bisection for the shapes a poller sends, and a property
test holds the two together. Values are typed by field as Payload's SQL adapters type them: a number or a time that cannot be
read matches nothing (a time is an error on SQLite), an unknown field or operator is a `QueryError`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from worker.simulator.store import Row

Predicate = Callable[[Row], bool]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)
ISO = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?(Z|[+-]\d\d:\d\d)?)?$",
)
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$")
UNREADABLE = object()
"""A time that is none: equal to nothing, above and below nothing."""
COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "greater_than": lambda have, want: have > want,
    "greater_than_equal": lambda have, want: have >= want,
    "less_than": lambda have, want: have < want,
    "less_than_equal": lambda have, want: have <= want,
}
OPERATORS = {*COMPARISONS, "equals", "not_equals", "in", "not_in", "exists", "like", "not_like", "contains"}


class QueryError(Exception):
    """A field or an operator that cannot be queried; `paths` names them."""

    def __init__(self, paths: list[str]) -> None:
        """Remember the offending `paths` for the answer's body."""
        super().__init__("The following path cannot be queried: " + ", ".join(paths))
        self.paths = paths


class TimeError(Exception):
    """A time that SQLite's adapter cannot read: the server fails with 500 there."""


def milliseconds(text: str) -> int | None:
    """An ISO 8601 time as milliseconds since the epoch, or None where it is no such time."""
    found = ISO.match(text)
    if found is None:
        return None
    year, month, day, hour, minute, second, fraction, zone = found.groups()
    try:
        parts = [int(part or 0) for part in (year, month, day, hour, minute, second)]
        moment = datetime(*parts[:6], tzinfo=UTC)  # type: ignore[arg-type, misc]  # six ints, counted above
    except ValueError:
        return None
    return (moment - EPOCH) // MILLISECOND + int((fraction or "0").ljust(3, "0")[:3]) - _offset(zone)


def _offset(zone: str | None) -> int:
    if zone is None or zone == "Z":
        return 0
    sign = -1 if zone[0] == "-" else 1
    return sign * (int(zone[1:3]) * 60 + int(zone[4:6])) * 60_000


def iso(stamp: int) -> str:
    """Milliseconds since the epoch as Payload writes them: ISO 8601, milliseconds, `Z`."""
    moment = EPOCH + timedelta(milliseconds=stamp)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{stamp % 1000:03d}Z"


class Compiler:
    """Turns one `where` into a predicate, collecting every path that cannot be queried."""

    def __init__(self, fields: Mapping[str, str], *, strict_time: bool = False) -> None:
        """`fields` gives each field's type; with `strict_time` an unreadable time raises `TimeError`."""
        self._fields = fields
        self._strict_time = strict_time
        self._bad: list[str] = []

    def compile(self, where: Any) -> Predicate:
        """The predicate of a parsed `where`; anything that is no object is ignored, as Payload does.

        Raises QueryError for unknown fields and operators, TimeError as said above.
        """
        predicate = self._object(where)
        if self._bad:
            raise QueryError(self._bad)
        return predicate

    def _object(self, where: Any) -> Predicate:
        if not isinstance(where, dict):
            return lambda _row: True
        return _every([self._entry(name, value) for name, value in where.items()])

    def _entry(self, name: str, value: Any) -> Predicate:
        if name.lower() in {"and", "or"} and isinstance(value, list):
            parts = [self._object(part) for part in value]
            return _every(parts) if name.lower() == "and" or not parts else _some(parts)
        kind = self._fields.get(name)
        if kind is None:
            self._bad.append(name)
        if not isinstance(value, dict):
            return lambda _row: True
        return _every([self._operator(name, kind or "text", operator, want) for operator, want in value.items()])

    def _operator(self, name: str, kind: str, operator: str, want: Any) -> Predicate:
        if operator not in OPERATORS:
            self._bad.append(f"{name}.{operator}")
            return _never
        read = _reader(name)
        if operator == "exists":
            wanted = want == "true"
            return lambda row: (read(row) is not None) is wanted
        if operator in {"like", "not_like", "contains"} and kind in {"text", "select"}:
            return _textual(read, operator, str(want))
        return self._typed(read, kind, operator, want)

    def _typed(self, read: Callable[[Row], Any], kind: str, operator: str, want: Any) -> Predicate:
        if operator in {"in", "not_in"}:
            listed = want if isinstance(want, list) else str(want).split(",")
            values = [value for value in (self._value(kind, item) for item in listed) if value is not None]
            return lambda row: any(_equals(read(row), value) for value in values) is (operator == "in")
        value = self._value(kind, want)
        if value is UNREADABLE:
            return _never
        if operator in {"like", "contains", "equals"}:
            return lambda row: _equals(read(row), value)
        if operator in {"not_equals", "not_like"}:
            return lambda row: not _equals(read(row), value)
        if value is None:
            return _never
        return _ordered(read, COMPARISONS[operator], value)

    def _value(self, kind: str, want: Any) -> Any:
        text = str(want)
        if kind == "date":
            stamp = milliseconds(text)
            if stamp is None and self._strict_time:
                raise TimeError
            return UNREADABLE if stamp is None else stamp
        if kind in {"number", "relation", "relations"}:
            return number(text)
        return text


def number(text: str) -> float | int | None:
    """A decimal number as JavaScript's `Number` reads it ("" is 0), or None where it would be NaN."""
    text = text.strip()
    if NUMBER.match(text) is None:
        return None if text else 0
    return float(text) if set(text) & set(".eE") else int(text)


def _reader(name: str) -> Callable[[Row], Any]:
    if name == "id":
        return lambda row: row.id
    if name == "updatedAt":
        return lambda row: row.updated
    if name == "createdAt":
        return lambda row: row.created
    return lambda row: row.document().get(name)


def _equals(have: Any, want: Any) -> bool:
    if isinstance(have, list):
        return want in have
    return bool(have == want)


def _ordered(read: Callable[[Row], Any], compare: Callable[[Any, Any], bool], want: Any) -> Predicate:
    def predicate(row: Row) -> bool:
        have = read(row)
        try:
            return have is not None and compare(have, want)
        except TypeError:
            return False

    return predicate


def _textual(read: Callable[[Row], Any], operator: str, want: str) -> Predicate:
    words = [want.lower()] if operator == "contains" else want.lower().split(" ")

    def predicate(row: Row) -> bool:
        have = read(row)
        text = " ".join(have).lower() if isinstance(have, list) else str(have).lower()
        return have is not None and all(word in text for word in words)

    return (lambda row: not predicate(row)) if operator == "not_like" else predicate


def _every(parts: list[Predicate]) -> Predicate:
    if len(parts) == 1:
        return parts[0]
    return lambda row: all(part(row) for part in parts)


def _some(parts: list[Predicate]) -> Predicate:
    return lambda row: any(part(row) for part in parts)


def _never(_row: Row) -> bool:
    return False
