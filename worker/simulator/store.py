"""The rows behind a simulated system, and what happened to them.

Rows are immutable and kept as serialized JSON in two sorted lists (listing order, and time of change), so that a page
is a bisection and a join. Writes may commit later than their stamp, as a database transaction does. Every commit is
appended to `history`, the record that an independent checker reads.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import orjson

Id = int | str
REBUILD_ABOVE = 64
"""From this many rows in one write on, sorting the index again is cheaper than inserting one by one."""


class Row(NamedTuple):
    """One version of one customer, as it is served."""

    id: Id
    order: Any
    """Place in the system's own listing order."""
    created: int
    """Milliseconds since the epoch."""
    updated: int
    """Milliseconds since the epoch; a tombstone's is its time of deletion."""
    version: int
    body: bytes
    """The JSON object without its closing brace, so that a page is one join."""
    tombstone: bool = False

    def document(self) -> dict[str, Any]:
        """Return the row as parsed JSON; a fresh object at every call."""
        document: dict[str, Any] = orjson.loads(self.body + b"}")
        return document


class Change(NamedTuple):
    """One committed write, in commit order."""

    time: float
    """Seconds since the epoch at which the write became visible."""
    op: str
    """`create`, `update` or `delete`."""
    id: Id
    version: int
    """1, 2, 3, ... of this id, going on over deletion and re-creation."""


class _Pending(NamedTuple):
    visible: float
    number: int
    ids: tuple[Id, ...]
    commit: Callable[[float], None]


def by_order(row: Row) -> Any:
    """Return the sort key of the listing order."""
    return row.order


def by_change(row: Row) -> tuple[int, Any]:
    """Return the sort key of the order of change: (updated, listing order)."""
    return row.updated, row.order


class View:
    """What a request can see: the live rows, or an older or shortened copy of them."""

    def __init__(self, rows: dict[Id, Row], ordered: list[Row], changed: list[Row]) -> None:
        self.rows, self.ordered, self.changed = rows, ordered, changed

    def get(self, key: Id) -> Row | None:
        """Return the row with this id, tombstones included, or None."""
        return self.rows.get(key)

    def first(self, count: int) -> View:
        """Keep only the first `count` rows of the listing order: what an outage behind the API leaves."""
        kept = self.ordered[:count]
        return View({row.id: row for row in kept}, kept, sorted(kept, key=by_change))

    def copy(self) -> View:
        """Copy the rows of this moment, unmoved by later writes: a stale replica."""
        return View(dict(self.rows), self.ordered.copy(), self.changed.copy())


class Store(View):
    """The live rows of one simulated system and their history."""

    def __init__(self) -> None:
        super().__init__({}, [], [])
        self.history: list[Change] = []
        self._pending: list[_Pending] = []
        self._graves: dict[Id, int] = {}
        self._numbers = 0

    def next_version(self, key: Id) -> int:
        """Return the version that the next write of this id gets."""
        row = self.rows.get(key)
        return (row.version if row else self._graves.get(key, 0)) + 1

    def later(self, visible: float, ids: Iterable[Id], commit: Callable[[float], None]) -> None:
        """Run `commit(visible)` once the clock reaches `visible` seconds, or another write needs one of `ids`."""
        self._numbers += 1
        insort(self._pending, _Pending(visible, self._numbers, tuple(ids), commit))

    def settle(self, now: float) -> None:
        """Commit what has become visible by `now` seconds."""
        while self._pending and self._pending[0].visible <= now:
            due = self._pending.pop(0)
            due.commit(due.visible)

    def unlock(self, ids: Iterable[Id], now: float) -> None:
        """Commit writes that still hold one of `ids`: a later write waits for the row, as in a database."""
        wanted = set(ids) if self._pending else set()
        for held in [held for held in self._pending if wanted.intersection(held.ids)]:
            self._pending.remove(held)
            held.commit(now)

    def put(self, time: float, op: str, rows: list[Row]) -> None:
        """Commit new versions of `rows` at `time` seconds, under one name of operation."""
        old = [row for row in (self.rows.get(new.id) for new in rows) if row is not None]
        self._drop(old)
        self._add(rows)
        for row in rows:
            self.rows[row.id] = row
            self.history.append(Change(time, op, row.id, row.version))

    def remove(self, time: float, row: Row) -> None:
        """Commit a deletion that leaves nothing to be read."""
        self._drop([row])
        del self.rows[row.id]
        self._graves[row.id] = row.version + 1
        self.history.append(Change(time, "delete", row.id, row.version + 1))

    def _drop(self, rows: list[Row]) -> None:
        if len(rows) > REBUILD_ABOVE:
            gone = {row.id for row in rows}
            self.ordered[:] = [row for row in self.ordered if row.id not in gone]
            self.changed[:] = [row for row in self.changed if row.id not in gone]
            return
        for row in rows:
            del self.ordered[bisect_left(self.ordered, row.order, key=by_order)]
            del self.changed[bisect_left(self.changed, by_change(row), key=by_change)]

    def _add(self, rows: list[Row]) -> None:
        if len(rows) > REBUILD_ABOVE:
            self.ordered.extend(rows)
            self.ordered.sort(key=by_order)
            self.changed.extend(rows)
            self.changed.sort(key=by_change)
            return
        for row in rows:
            insort(self.ordered, row, key=by_order)
            insort(self.changed, row, key=by_change)
