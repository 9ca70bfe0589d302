"""The watch list of a source that cannot be listed: whose turn it is, and what is on it.

On it (`Keys.listed`) is who is watched (`+`), or must not be taken up again unasked (`-`: removed by an operator),
and beside it (`Keys.fresh`) who was not looked up yet. A round goes over the list in the order of the ids, so whoever
is next is the one that was not seen for longest, and how far it got is all that has to be remembered: an unchanged
customer writes nothing. Those not looked up yet come first.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

from worker.handling import State
from worker.keys import Keys

FEED: Final = "watch"
_WATCHED: Final = b"+"
_REMOVED: Final = b"-"


class WatchList:
    """The watch list of one source, in the state of its poll task."""

    def __init__(self, source: str) -> None:
        """Only knows its keys, until it is loaded."""
        self.watched = self.not_looked_up = 0
        keys = Keys(source)
        self._listed, self._fresh = keys.listed, keys.fresh

    def load(self, state: State) -> None:
        """Count who is on the list; from now on that is kept up to date."""
        self.watched = sum(1 for _ in self.all(state))
        self.not_looked_up = sum(1 for _ in state.scan(self._fresh))

    def add(self, state: State, ids: Iterable[str], *, found: bool = False) -> int:
        """Watch more customers; return how many were not watched before.

        `found`: they were found in another customer's record; one that was removed is then left alone.
        """
        added = 0
        for identity in map(str.encode, ids):
            known = state.get(self._listed + identity)
            if known == _WATCHED or (known is not None and found):
                continue
            state.put(self._listed + identity, _WATCHED)
            state.put(self._fresh + identity, b"")
            added += 1
        self.watched += added
        self.not_looked_up += added
        return added

    def remove(self, state: State, ids: Iterable[str]) -> list[str]:
        """Watch customers no more; return who was watched."""
        removed = [id_ for id_ in ids if state.get(self._listed + id_.encode()) == _WATCHED]
        for id_ in removed:
            state.put(self._listed + id_.encode(), _REMOVED)
            self.looked_up(state, id_)
        self.watched -= len(removed)
        return removed

    def leave_out(self, state: State, ids: Iterable[str]) -> None:
        """Note customers as removed, unless something is known of them here."""
        for key in (self._listed + id_.encode() for id_ in ids):
            if state.get(key) is None:
                state.put(key, _REMOVED)

    def looked_up(self, state: State, customer_id: str) -> None:
        """Note that a customer was looked up."""
        key = self._fresh + customer_id.encode()
        if state.get(key) is not None:
            state.delete(key)
            self.not_looked_up -= 1

    def watches(self, state: State, customer_id: str) -> bool:
        """Return whether a customer is watched."""
        return state.get(self._listed + customer_id.encode()) == _WATCHED

    def fresh(self, state: State, count: int) -> list[str]:
        """Return the next of those that were not looked up yet."""
        return [key[len(self._fresh) :].decode() for key, _ in islice(state.scan(self._fresh), count)]

    def after(self, state: State, last: str | None, count: int) -> list[str]:
        """Return the next on the list after `last` (None: from the start)."""
        start = None if last is None else self._listed + last.encode() + b"\0"
        return list(islice(self.all(state, start), count))

    def all(self, state: State, start: bytes | None = None) -> Iterator[str]:
        """Yield who is watched, in order, from the key `start` on."""
        for key, value in state.scan(self._listed, start):
            if value == _WATCHED:
                yield key[len(self._listed) :].decode()
