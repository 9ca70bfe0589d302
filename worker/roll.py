"""Whom an enumeration has shown, at next to no cost where it has shown exactly those who are there.

A mark for each customer shown would cost more than all the rest of an unchanged re-poll. So the ids are only noted, a
thousand at a time, and their hashes are added up: where number and sum are those of the live customers, everybody was
shown once and nobody else. Only where they are not are the notes made into marks, one by one, to find out who is
missing. Nothing of it is in Kafka, and what is held in memory is one note.

The sums are of Python's own hashes (SipHash with 64 bits, under another key in each process): that two different sets
of customers agree in number and sum by chance has odds of about one in 10^19, and would delay the word that somebody is
gone to the next enumeration. Nobody is ever taken for gone because of a sum.
"""

from typing import Final, Protocol

import orjson

from worker.errors import StateError

_TOGETHER: Final = 1_000
_NOTES: Final = b"\0"


class Notes(Protocol):
    """Where notes and marks are kept: on this machine only."""

    def mark(self, key: bytes) -> bool:
        """Set a mark; return whether it is new."""

    def unmark(self, prefix: bytes) -> None:
        """Remove all marks and notes that start with `prefix`."""

    def note(self, key: bytes, value: bytes) -> None:
        """Set a note."""

    def noted(self, key: bytes) -> bytes | None:
        """Return a note."""


class Roll:
    """The customers that one enumeration has shown; `mark` starts its marks, one for each id as it stands in keys."""

    __slots__ = ("_ids", "_mark", "_notes", "count", "sum")

    def __init__(self, mark: bytes) -> None:
        """Start with nobody. `count` and `sum` are of everybody shown, twice where somebody was shown twice."""
        self.count = 0
        self.sum = 0
        self._mark = mark
        self._notes = 0
        self._ids: list[str] = []

    def add(self, tx: Notes, customer_id: str, identity: bytes) -> None:
        """Note that a customer was shown; `identity` is the id as it stands in keys."""
        self._ids.append(customer_id)
        self.count += 1
        self.sum += hash(identity)
        if len(self._ids) >= _TOGETHER:
            self._write(tx)

    def extend(self, tx: Notes, ids: list[str]) -> None:
        """Note that customers were shown, not more of them than a page holds, whose ids stand in keys as they are."""
        self._ids += ids
        self.count += len(ids)
        self.sum += sum(hash(one.encode()) for one in ids)
        if len(self._ids) >= _TOGETHER:
            self._write(tx)

    def _write(self, tx: Notes) -> None:
        tx.note(self._key(self._notes), orjson.dumps(self._ids))
        self._notes += 1
        self._ids.clear()

    def _key(self, number: int) -> bytes:
        return b"%s%s%d" % (_NOTES, self._mark, number)

    def notes(self, tx: Notes) -> int:
        """Return how many notes there are, all of them written."""
        if self._ids:
            self._write(tx)
        return self._notes

    def noted(self, tx: Notes, number: int) -> list[str]:
        """Return the ids of one note; raises StateError where it is lost: its customers would seem to be missing."""
        raw = tx.noted(self._key(number))
        if raw is None:
            message = "what an enumeration has shown is not in the local store any more"
            raise StateError(message, hint="Does something else write to state_dir? The store is read anew from Kafka.")
        ids: list[str] = orjson.loads(raw)
        return ids


def clear(tx: Notes, mark: bytes) -> None:
    """Remove the marks and notes of an enumeration."""
    tx.unmark(mark)
    tx.unmark(_NOTES + mark)
