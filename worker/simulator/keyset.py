"""The queries that a poller sends, answered by bisection instead of row by row.

A where that is a conjunction of bounds on `updatedAt`, on `id`, or on the pair of both (the keyset) is one contiguous
piece of an index. Everything else returns None and goes to the general evaluator; a property test holds the two
together.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from worker.simulator.store import Id, Row, View, by_change, by_order
from worker.simulator.where import milliseconds

ReadId = Callable[[str], Id | None]
Bound = tuple[str, Any]
SIDES = {"greater_than": "after", "greater_than_equal": "from", "less_than": "before", "less_than_equal": "until"}


class Piece(NamedTuple):
    """A contiguous piece of one sorted list of rows."""

    rows: list[Row]
    start: int
    stop: int


class _Edge:
    """Below every id, or above every one."""

    def __init__(self, *, above: bool) -> None:
        self._above = above

    def __lt__(self, _other: object) -> bool:
        return not self._above

    def __gt__(self, _other: object) -> bool:
        return self._above


BELOW, ABOVE = _Edge(above=False), _Edge(above=True)


class _UnknownError(Exception):
    """The where is not a conjunction of bounds on one index."""


def piece(view: View, where: Any, sort: list[str], read_id: ReadId) -> Piece | None:
    """Find the rows that `where` selects as a piece of the index that `sort` asks for, or None where it is not one.

    `read_id` types an id and returns None for what cannot be one. The piece rises; a falling `sort` reads it backwards.
    """
    columns = [name.removeprefix("-") for name in sort]
    falling = {name.startswith("-") for name in sort}
    try:
        if columns in (["updatedAt"], ["updatedAt", "id"]) and len(falling) == 1:
            return _cut(view.changed, by_change, [_on_change(test, read_id) for test in _tests(where)])
        if columns == ["id"]:
            return _cut(view.ordered, by_order, [_on_id(test, read_id) for test in _tests(where)])
    except _UnknownError:
        return None
    return None


def _cut(rows: list[Row], key: Callable[[Row], Any], bounds: list[Bound]) -> Piece:
    start, stop = 0, len(rows)
    for side, bound in bounds:
        bisect = bisect_left if side in {"from", "before"} else bisect_right
        at = bisect(rows, bound, key=key)
        if side in {"from", "after"}:
            start = max(start, at)
        else:
            stop = min(stop, at)
    return Piece(rows, start, max(start, stop))


def _tests(where: Any) -> Iterator[dict[str, Any]]:
    """Yield the single tests of a conjunction; an `or` stays whole."""
    if where is not None and not isinstance(where, (dict, str)):
        raise _UnknownError
    for name, value in where.items() if isinstance(where, dict) else ():
        if name == "and" and isinstance(value, list):
            for part in value:
                yield from _tests(part)
        elif isinstance(value, dict):
            yield from ({name: {operator: want}} for operator, want in value.items())
        else:
            yield {name: value}


def keyset(stamp: str, key: str) -> dict[str, Any]:
    """Return the where that selects what comes after (stamp, key) in the order of (updatedAt, id)."""
    same = [{"updatedAt": {"equals": stamp}}, {"id": {"greater_than": key}}]
    return {"or": [{"updatedAt": {"greater_than": stamp}}, {"and": same}]}


def _on_change(test: dict[str, Any], read_id: ReadId) -> Bound:
    match test:
        case {"updatedAt": {**compared}}:
            side, text = _compared(compared)
            return side, (_stamp(text), BELOW if side in {"from", "before"} else ABOVE)
        case {"or": [{"updatedAt": {"greater_than": str(stamp)}}, {"and": [_, {"id": {"greater_than": str(text)}}]}]}:
            key = read_id(text)
            if key is not None and test == keyset(stamp, text):
                return "after", (_stamp(stamp), key)
    raise _UnknownError


def _on_id(test: dict[str, Any], read_id: ReadId) -> Bound:
    match test:
        case {"id": {**compared}}:
            side, text = _compared(compared)
            key = read_id(text)
            if key is not None:
                return side, key
    raise _UnknownError


def _compared(test: dict[Any, Any]) -> tuple[str, str]:
    ((operator, value),) = test.items()
    if operator not in SIDES or not isinstance(value, str):
        raise _UnknownError
    return SIDES[operator], value


def _stamp(text: str) -> int:
    stamp = milliseconds(text)
    if stamp is None:
        raise _UnknownError
    return stamp
