"""How right clusters are: of pairs, of whole clusters, and the worst one."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from math import comb


@dataclass(frozen=True)
class Rate:
    """Of what was found and what is true, what is both."""

    right: int
    found: int
    true: int

    @property
    def precision(self) -> float:
        """Return the share of what was found that is true."""
        return self.right / self.found if self.found else 1.0

    @property
    def recall(self) -> float:
        """Return the share of what is true that was found."""
        return self.right / self.true if self.true else 1.0

    @property
    def f1(self) -> float:
        """Return the harmonic mean of the two."""
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0


@dataclass(frozen=True)
class Measured:
    """What came of a data set.

    A pair is right if both customers are one person. A cluster (of two and more) is right if it has all customers of
    one person and no other. `wrong`: clusters with several people; of the worst of them, `people` and `customers`.
    """

    customers: int
    pairs: Rate
    clusters: Rate
    wrong: int
    people: int
    worst: int


def measure(truth: Mapping[str, str], clusters: Iterable[Collection[str]]) -> Measured:
    """Hold clusters against `truth`, the person by customer."""
    found = [frozenset(members) for members in clusters if len(members) > 1]
    by_person: dict[str, set[str]] = defaultdict(set)
    for customer, person in truth.items():
        by_person[person].add(customer)
    true = {frozenset(members) for members in by_person.values() if len(members) > 1}
    counts = [Counter(truth[member] for member in members) for members in found]
    right = sum(comb(count, 2) for people in counts for count in people.values())
    mixed = [(len(people), people.total()) for people in counts if len(people) > 1]
    return Measured(
        len(truth),
        Rate(right, sum(comb(len(members), 2) for members in found), sum(comb(len(members), 2) for members in true)),
        Rate(len(true.intersection(found)), len(found), len(true)),
        len(mixed),
        *max(mixed, default=(1, 0)),
    )
