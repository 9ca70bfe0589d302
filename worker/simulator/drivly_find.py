"""Which customers a Drivly listing shows, and in which order.

What a poller asks is a piece of an index; everything else is judged row by row. Ties that the sort leaves open come in
another order at every request, as they may from a database: pages by `updatedAt` alone lose some and repeat others.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import orjson

from worker.simulator.drivly_query import Paging
from worker.simulator.keyset import Piece, ReadId, piece
from worker.simulator.store import Row, View
from worker.simulator.where import compiled

Database = Literal["postgres", "sqlite", "mongodb"]
Found = tuple[list[Row], int]
NEWEST_FIRST = ["-createdAt"]


@dataclass(frozen=True, slots=True)
class Finder:
    """A listing's database: its field types, its ids, its way with ties and with nothing."""

    fields: Mapping[str, str]
    database: Database
    luck: random.Random
    read_id: ReadId

    def sort(self, asked: Any) -> list[str]:
        """Read `sort`: names that are unknown are left out, and with none left the newest come first."""
        named = asked.split(",") if isinstance(asked, str) else asked if isinstance(asked, list) else []
        return [name for name in named if name.removeprefix("-") in self.fields] or NEWEST_FIRST

    def find(self, view: View, where: Any, sort: list[str], paging: Paging) -> Found:
        """Return the rows of a page, and how many match in all. Raises QueryError and DatabaseError."""
        found = piece(view, where, sort, self.read_id)
        if found is not None:
            total = found.stop - found.start
            return self._page(found, sort, *paging.bounds(total)), total
        rows = self.ordered(self.matching(view, where), sort)
        start, stop = paging.bounds(len(rows))
        return rows[start:stop], len(rows)

    def matching(self, view: View, where: Any) -> list[Row]:
        """Return every row that matches, judged one by one. Raises QueryError and DatabaseError."""
        test = compiled(where, self.fields, strict_time=self.database == "sqlite")
        return [row for row in view.ordered if test(row)]

    def _page(self, found: Piece, sort: list[str], start: int, stop: int) -> list[Row]:
        """Cut the `start`th to `stop`th row out of a piece that rises."""
        falling = sort[0].startswith("-")
        low, high = (found.stop - stop, found.stop - start) if falling else (found.start + start, found.start + stop)
        if len(sort) == 1 and sort[0].removeprefix("-") == "updatedAt" and low < high:
            return self._tied(found, sort, low, high)
        return found.rows[low:high][::-1] if falling else found.rows[low:high]

    def _tied(self, found: Piece, sort: list[str], low: int, high: int) -> list[Row]:
        first, last = low, high
        while first > found.start and found.rows[first - 1].updated == found.rows[low].updated:
            first -= 1
        while last < found.stop and found.rows[last].updated == found.rows[high - 1].updated:
            last += 1
        rows = self.ordered(found.rows[first:last], sort)
        skip = last - high if sort[0].startswith("-") else low - first
        return rows[skip : skip + high - low]

    def ordered(self, rows: list[Row], sort: list[str]) -> list[Row]:
        """Sort a list of rows in place and return it; ties come as they please."""
        self.luck.shuffle(rows)
        for name in reversed(sort):
            rows.sort(key=self._column(name.removeprefix("-")), reverse=name.startswith("-"))
        return rows

    def _column(self, name: str) -> Callable[[Row], Any]:
        stored: dict[str, Callable[[Row], Any]] = {
            "id": lambda row: row.order,
            "updatedAt": lambda row: row.updated,
            "createdAt": lambda row: row.created,
        }
        return stored.get(name) or partial(self._member, name)

    def _member(self, name: str, row: Row) -> tuple[bool, Any]:
        """Return a sort key; Postgres puts what is null last, the others first."""
        value = row.document().get(name)
        if value is None:
            return self.database == "postgres", 0
        return self.database != "postgres", orjson.dumps(value).decode() if isinstance(value, list) else value
