"""Finds the customers that are one person, as they stream by: match keys, pairs, clusters.

`stages` gives the three handlers. The clusters are a function of the live customers alone, whatever the order in which
they came, were changed, were deleted or were given again.
"""

from collections.abc import Callable, Sequence

from handlers.dedupe.clusters import Clusters
from handlers.dedupe.keys import Keys
from handlers.dedupe.pairs import Pairs
from handlers.dedupe.profile import Hasher
from handlers.dedupe.settings import DedupeSettings
from worker.handling import Handler
from worker.topics import Topics

__all__ = ["Clusters", "DedupeSettings", "Keys", "Pairs", "stages"]


def stages(settings: DedupeSettings, topics: Topics, hasher: Hasher) -> Sequence[Callable[[], Handler]]:
    """Return what makes the handlers of the three stages, in the order in which the data flows."""
    return (
        lambda: Keys(topics, settings, hasher),
        lambda: Pairs(topics, settings),
        lambda: Clusters(topics, settings),
    )
