"""Which pairs are links, and how strong they are.

A pair is a link by how it stands. Where two sources have the same people, each of them once (`one_to_one`), it may be
one by exclusion: something speaks against it, such as another given name, but its score would link it, and neither of
the two may be anybody else in the other's source. That hangs on the other pairs of both, and on nothing else.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from handlers.dedupe.graph import source_of
from handlers.dedupe.scoring import Judge
from handlers.dedupe.settings import DedupeSettings
from handlers.dedupe.store import Pair, Store, Variant

_NEVER: Final = float("-inf")


class Links:
    """Looks at the pairs of one transaction's store."""

    def __init__(self, settings: DedupeSettings, judge: Judge, store: Store) -> None:
        """Take the threshold from `settings`, of which `judge` was made."""
        self._link = settings.link
        self._judge = judge
        self._store = store

    def standing(self, variant: Variant) -> float:
        """Return how a pair stands by itself."""
        return variant.standing(self._judge)

    def strength(self, pair: Pair) -> float:
        """Return how strong a link a pair is, minus infinity if it is none; none is weaker than one by exclusion."""
        variant = self._store.current(pair)
        if variant is not None and (standing := self.standing(variant)) >= self._link:
            return standing
        return self._link if self.by_exclusion(pair) else _NEVER

    def by_exclusion(self, pair: Pair) -> bool:
        """Return whether a pair is a link, but not by itself."""
        variant = self._candidate(pair)
        if variant is None or self.standing(variant) >= self._link:
            return False
        for name, other in ((pair.a, pair.b), (pair.b, pair.a)):
            for rival in self.rivals(name):
                if rival != other and source_of(rival) == source_of(other):
                    return False
        return True

    def any_by_exclusion(self, names: Iterable[str]) -> bool:
        """Return whether a link between any two of these customers is one by exclusion."""
        if not self._judge.some_are_one_to_one:
            return False
        among = set(names)
        pairs = (pair for name in among for pair in self._store.pairs(self._store.node(name)))
        return any(self.by_exclusion(pair) for pair in pairs if {pair.a, pair.b} <= among)

    def one_to_one(self, pair: Pair) -> bool:
        """Return whether two customers are of sources that have the same people, each of them once."""
        judge = self._judge
        return judge.some_are_one_to_one and judge.one_to_one(source_of(pair.a), source_of(pair.b))

    def rivals(self, name: str) -> Iterator[str]:
        """Yield who may be a customer by the score, of the sources that are one to one with its own."""
        if self._judge.some_are_one_to_one:
            for pair in self._store.pairs(self._store.node(name)):
                if self._candidate(pair) is not None:
                    yield pair.other(name)

    def _candidate(self, pair: Pair) -> Variant | None:
        """Return what counts of a pair of sources that are one to one, if the two may be one by the score."""
        variant = self._store.current(pair) if self.one_to_one(pair) else None
        return variant if variant is not None and variant.linked_but_for_doubt(self._judge) else None
