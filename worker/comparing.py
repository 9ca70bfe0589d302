"""Workers with different configurations under one prefix, as during a rolling update: whoever starts later says so.

Two configurations are a supported state: a partition is worked on as its owner's configuration says, and a source that
this one does not name is left as it is. Each worker compares what decides on results (sources and handlers) with what
the last one of its stages wrote when it started, by hashes: no setting travels, and nobody writes twice, so that two
that stay different do not talk for ever.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson
import structlog

from worker import inspect
from worker.config import Config
from worker.kafka import Connection
from worker.times import now_ms, rfc3339

log = structlog.get_logger()

KIND: Final = "configuration"
_SIZE: Final = 8


def parts(config: Config) -> dict[str, str]:
    """Return a hash for each source and handler as it is configured, by its path in the file."""
    handlers = config.file.handlers.model_dump(mode="json")
    plugins = {f"handlers.plugins.{name}": one for name, one in handlers.pop("plugins").items()}
    sources = {f"sources.{name}": one.settings.model_dump(mode="json") for name, one in config.sources.items()}
    named = sources | {f"handlers.{name}": one for name, one in handlers.items()} | plugins
    return {path: _digest(value) for path, value in sorted(named.items())}


def differing(mine: Mapping[str, str], theirs: Mapping[str, str]) -> list[str]:
    """Return the paths that are not the same, or that only one of the two has."""
    return sorted(path for path in mine.keys() | theirs.keys() if mine.get(path) != theirs.get(path))


async def compare(config: Config, stages: Sequence[str]) -> list[str]:
    """Say what differs from the configuration that the last worker of these stages started with, and return it.

    Whatever goes wrong with that is a warning: no worker ends over it.
    """
    try:
        return await _compare(config, stages)
    except Exception as error:  # ruff: ignore[blind-except] - nobody awaits the outcome while the worker runs
        log.warning("configuration_not_compared", error=type(error).__name__)
        return []


async def _compare(config: Config, stages: Sequence[str]) -> list[str]:
    key = f"{KIND}/{','.join(sorted(stages))}"
    rows = [row for row in await inspect.statuses(config) if row.get("kind") == KIND and row.get("key") == key]
    mine = parts(config)
    found = differing(mine, rows[0]["parts"]) if rows else []
    if found:
        log.warning("configuration_differs", paths=found, since=rows[0]["at"])
    if found or not rows:
        value = orjson.dumps({"kind": KIND, "key": key, "parts": mine, "at": rfc3339(now_ms())})
        await Connection(config.file.kafka).publish(config.topics, [(config.topics.status, key.encode(), value)])
    return found


def _digest(value: Any) -> str:
    text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(text, digest_size=_SIZE).hexdigest()
