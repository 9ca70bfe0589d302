"""Finds the customers that are one person, as they stream by: match keys, pairs, clusters.

`stages` gives the three handlers. The clusters are a function of the live customers alone, whatever the order in which
they came, were changed, were deleted or were given again.
"""

from collections.abc import Callable, Sequence

from handlers.dedupe.clusters import Clusters
from handlers.dedupe.keys import Keys
from handlers.dedupe.pairs import Comparer, Pairs
from handlers.dedupe.profile import Hasher, Refiner
from handlers.dedupe.resolve import Rules
from handlers.dedupe.settings import DedupeSettings
from worker.handling import Handler
from worker.topics import Topics

__all__ = ["Clusters", "Comparer", "DedupeSettings", "Keys", "Pairs", "Refiner", "Rules", "stages"]


def stages(settings: DedupeSettings, topics: Topics, hasher: Hasher) -> Sequence[Callable[[], Handler]]:
    """Return what makes the handlers of the three stages, in the order in which the data flows.

    The partitions of one stage share what is made of the settings, and what the clusters remember of comparisons.
    """
    refiner, comparer, rules = Refiner(settings, hasher), Comparer(settings), Rules(settings)
    return (
        lambda: Keys(topics, refiner),
        lambda: Pairs(topics, comparer),
        lambda: Clusters(topics, rules),
    )
