"""What consumes the events: duplicate customers (`dedupe`) and deletions carried downstream (`deletes`).

Each handler is one or more stages; this file is where the worker finds them by name.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, Protocol

from handlers import dedupe
from handlers.dedupe.settings import DedupeSettings
from handlers.deletes.executor import Executor
from handlers.deletes.requests import Requests
from handlers.deletes.settings import DeletesSettings
from handlers.deletes.targets.registry import credentials
from handlers.deletes.undo import from_settings
from worker.handling import Handler
from worker.privacy import Hasher
from worker.settings import HttpSettings
from worker.topics import Topics

GROUPS: Final[Mapping[str, list[str]]] = {
    "dedupe": ["keys", "pairs", "clusters"],
    "deletes": ["requests", "executor"],
}


class Settings(Protocol):
    """The settings of the built-in handlers."""

    @property
    def dedupe(self) -> DedupeSettings:
        """Return the settings of the duplicate search."""

    @property
    def deletes(self) -> DeletesSettings:
        """Return the settings of the deletions."""


def factory(
    stage: str, settings: Settings, topics: Topics, hasher: Hasher, sources: Collection[str] | None = None
) -> Callable[[], Handler]:
    """Return what makes the handler of `stage`; KeyError for another name.

    `sources`: the names of all that are polled, None where that is not known.
    """
    makers: dict[str, Callable[[], Any]] = {
        **dict(zip(GROUPS["dedupe"], dedupe.stages(settings.dedupe, topics, hasher), strict=True)),
        "requests": lambda: Requests(topics, settings.deletes),
        "executor": lambda: Executor(topics, settings.deletes, from_settings(settings.deletes), sources),
    }
    return makers[stage]


def version(stage: str, settings: Settings, topics: Topics, hasher: Hasher) -> int:
    """Return the format version of the state of `stage`."""
    return factory(stage, settings, topics, hasher)().version


def lanes(settings: Settings) -> dict[str, tuple[HttpSettings, Callable[[], Mapping[str, str]]]]:
    """Return, for each target of deletions, how it is spoken to and what gives the headers of its credential."""
    return {name: (target, credentials(target)) for name, target in settings.deletes.targets.items()}
