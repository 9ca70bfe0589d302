"""The plug-ins: each is found, and takes its settings, as the worker that is to run it would have it."""

from collections.abc import Sequence

from worker import plugins
from worker.config import Config
from worker.errors import ConfigError


async def problems(config: Config, roles: Sequence[str]) -> list[str]:  # ruff: ignore[unused-async] - a class may want a running loop, as in a worker
    """Return what is wrong with the plug-ins among these roles, having loaded each and made it once."""
    found: list[str] = []
    for name, settings in config.file.handlers.plugins.items():
        if name in roles:
            try:
                plugins.find(name, settings)
            except ConfigError as error:
                found += error.problems
    return found
