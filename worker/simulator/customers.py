"""The customers of a simulated system: made up, changed, deleted, with their history; no socket, no HTTP.

A system says how it shapes a person, and what it gives as ids and leaves as tombstones; the writes, their stamps, late
commits, and the truth that a checker compares with, are the same for all.
"""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import orjson

from worker.simulator.data import People, Person
from worker.simulator.store import Change, Id, Row, Store

Fields = Mapping[str, Any]


class Customers(ABC):
    """One system's customers and what can be done to them; call everything from one event loop."""

    kind: ClassVar[str]

    def __init__(self, *, seed: int = 0, clock: Callable[[], float] = time.time, customers: int = 0) -> None:
        """Make up `customers` of them; `seed` decides all chance, `clock` gives seconds since the epoch."""
        self.seed = seed
        self.clock = clock
        self.clock_offset = 0.0
        """Seconds by which the system's clock, and so every stamp, is off."""
        self.random = random.Random(f"{self.kind} {seed}")
        """Chance of the customers: the same writes give the same customers, whatever is asked meanwhile."""
        self.luck = random.Random(f"{self.kind} serving {seed}")
        """Chance of the answers."""
        self.people = People(seed)
        self.store = Store()
        self._serial = 0
        if customers:
            self.populate(customers)

    # What a system says of itself

    @abstractmethod
    def shape(self, person: Person) -> dict[str, Any]:
        """Render a person in this system's fields, without ids and time stamps."""

    @abstractmethod
    def new_id(self) -> Id:
        """Return an id for a new customer."""

    @abstractmethod
    def document(self, key: Id, fields: Fields, created: int, updated: int) -> dict[str, Any]:
        """Render a customer as this system serves it; the stamps are milliseconds since the epoch."""

    @abstractmethod
    def change(self, row: Row) -> dict[str, Any]:
        """Make up a realistic change to a customer, as fields."""

    def order(self, key: Id) -> Any:
        """Return the customer's place in the listing order; creation order unless a system says otherwise."""
        row = self.store.get(key)
        self._serial += 1
        return row.order if row else self._serial

    def tombstone(self, row: Row, stamp: int) -> Row | None:  # ruff: ignore[unused-method-argument]  # a hook: most systems leave nothing
        """Return what is left of a customer deleted at `stamp` milliseconds; None where nothing is."""
        return None

    def check(self, key: Id | None, document: Fields) -> None:  # ruff: ignore[empty-method-without-abstract-decorator]  # a hook: most systems take everything
        """Refuse what the system would not store for this customer (None: a new one), by a ValueError."""

    # Writes

    def now(self) -> float:
        """Return the server's time, in seconds since the epoch."""
        return self.clock() + self.clock_offset

    def create(
        self,
        fields: Fields | None = None,
        *,
        person: Person | None = None,
        id: Id | None = None,  # ruff: ignore[builtin-argument-shadowing]  # the word every caller uses
        at: float | None = None,
        created: float | None = None,
        visible_after: float = 0.0,
    ) -> Id:
        """Create a customer and return its id.

        Without `person` and `fields` it is a new synthetic person; `fields` go over the person's. `at` and `created`
        (seconds since the epoch, the time of change and that of creation) set the stamps, as an import does; with
        `visible_after` it commits that many seconds after its stamp.
        """
        shaped = self.shape(person or self.people.person()) if person or fields is None else {}
        key = self.new_id() if id is None else id
        updated = _milliseconds(self.now() if at is None else at)
        born = updated if created is None else _milliseconds(created)
        document = {**shaped, **(fields or {})}
        self.check(None, document)

        def commit(time: float) -> None:
            self.store.put(time, "create", [self._row(key, document, born, updated)])

        self._write([key], visible_after, commit)
        return key

    def populate(self, count: int) -> list[Id]:
        """Create `count` synthetic customers at once, a millisecond apart, the last one now."""
        first = _milliseconds(self.now()) - count
        rows = []
        for number in range(count):
            stamp = first + number
            rows.append(self._row(self.new_id(), self.shape(self.people.person()), stamp, stamp))
        self.store.put(self.now(), "create", rows)
        return [row.id for row in rows]

    def update(self, key: Id, fields: Fields | None = None, *, visible_after: float = 0.0) -> None:
        """Change a customer: `fields` go over its own; None makes a realistic change. KeyError if there is none."""
        self.bulk_update([key], fields, visible_after=visible_after)

    def bulk_update(self, ids: Iterable[Id], fields: Fields | None = None, *, visible_after: float = 0.0) -> None:
        """Change many customers in one transaction with one stamp. KeyError if one of them does not exist."""
        stamp = _milliseconds(self.now())
        wanted = list(dict.fromkeys(ids))
        self.store.unlock(wanted, self.now())
        for key in wanted:
            self.check(key, {**self.live(key).document(), **(fields or {})})

        def commit(time: float) -> None:
            rows = [row for row in map(self.store.get, wanted) if row is not None and not row.tombstone]
            self.store.put(time, "update", [self._changed(row, fields, stamp) for row in rows])

        self._write(wanted, visible_after, commit)

    def delete(self, key: Id, *, visible_after: float = 0.0) -> None:
        """Delete a customer. KeyError if there is none."""
        stamp = _milliseconds(self.now())
        self.store.unlock([key], self.now())
        self.live(key)

        def commit(time: float) -> None:
            row = self.store.get(key)
            if row is not None and not row.tombstone:
                self._bury(time, row, stamp)

        self._write([key], visible_after, commit)

    def churn(self, count: int) -> None:
        """Make `count` random writes: of ten, six updates, three creations and a deletion."""
        for _ in range(count):
            dice = self.random.random()
            row = self.any()
            if row is None or dice < 0.3:  # ruff: ignore[magic-value-comparison]  # the shares said above
                self.create()
            elif dice < 0.4:  # ruff: ignore[magic-value-comparison]
                self.delete(row.id)
            else:
                self.update(row.id)

    def any(self) -> Row | None:
        """Pick a live customer by chance; None where there are none."""
        for _ in range(20 if self.store.ordered else 0):
            row = self.random.choice(self.store.ordered)
            if not row.tombstone:
                return row
        return None

    def _write(self, ids: list[Id], visible_after: float, commit: Callable[[float], None]) -> None:
        now = self.now()
        self.store.settle(now)
        if visible_after > 0:
            self.store.later(now + visible_after, ids, commit)
        else:
            commit(now)

    def _row(self, key: Id, fields: Fields, created: int, updated: int) -> Row:
        body = orjson.dumps(self.document(key, fields, created, updated))[:-1]
        return Row(key, self.order(key), created, updated, self.store.next_version(key), body)

    def _changed(self, row: Row, fields: Fields | None, stamp: int) -> Row:
        changed = {**row.document(), **(self.change(row) if fields is None else fields)}
        return self._row(row.id, changed, row.created, stamp)

    def _bury(self, time: float, row: Row, stamp: int) -> None:
        left = self.tombstone(row, stamp)
        if left is None:
            self.store.remove(time, row)
        else:
            self.store.put(time, "delete", [left])

    def live(self, key: Id) -> Row:
        """Find a customer that exists; KeyError otherwise."""
        row = self.store.get(key)
        if row is None or row.tombstone:
            raise KeyError(f"{self.kind} has no customer {key!r}")
        return row

    # What is so

    def customers(self) -> dict[str, dict[str, Any]]:
        """Return every customer as it is served now, by its id as text."""
        self.store.settle(self.now())
        return {str(row.id): self.served(row) for row in self.store.ordered if not row.tombstone}

    def served(self, row: Row) -> dict[str, Any]:
        """Render one row as the listing serves it."""
        return row.document()

    @property
    def history(self) -> list[Change]:
        """Every committed write, in order; append-only."""
        self.store.settle(self.now())
        return self.store.history


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
