"""The secrets: every one that a role uses is there, and the pepper cannot be guessed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from handlers.deletes import undo
from worker import acls
from worker.config import Config
from worker.errors import ConfigError
from worker.settings import Secret

_SHORTEST_PEPPER: Final = 16


def problems(config: Config, roles: Sequence[str]) -> list[str]:
    """Return what is wrong with the secrets of these roles."""
    found = [*_pepper(config, roles)]
    if "executor" in roles:
        try:
            undo.from_settings(config.file.handlers.deletes)
        except ConfigError as error:
            found += error.problems
    for path, read in _readers(config, roles):
        try:
            read()
        except ValueError as error:
            found.append(f"{path}: {error}")
    return found


def _pepper(config: Config, roles: Sequence[str]) -> Iterator[str]:
    if not any(map(acls.is_worker, roles)):
        return
    try:
        length = len(config.file.pepper.read())
    except ValueError as error:
        yield f"pepper: {error}"
        return
    if length < _SHORTEST_PEPPER:
        yield (
            f"pepper: {length} characters can be guessed; of a new deployment make it by `openssl rand -hex 32`, that "
            "of a running one must stay"
        )


def readable(secrets: Mapping[str, Secret], *, lines: bool = False) -> bool:
    """Return whether a credential is there: where it is not, that is said once, and whoever needs it is not asked.

    `lines`: headers are made of it.
    """
    try:
        return "" not in [secret.read_line() if lines else secret.read() for secret in secrets.values()]
    except ValueError:
        return False


def _readers(config: Config, roles: Sequence[str]) -> Iterator[tuple[str, Callable[[], str]]]:
    """Yield (path, what reads it) of every secret that these roles use, the pepper and the undo key aside."""
    for name, secret in config.file.kafka.secrets().items():
        yield f"kafka.{name}", secret.read
    apis: dict[str, dict[str, Secret]] = {}
    if "poll" in roles:
        apis |= {f"sources.{name}": source.settings.secrets() for name, source in config.sources.items()}
    if "executor" in roles:
        targets = config.file.handlers.deletes.targets
        apis |= {f"handlers.deletes.targets.{name}": target.secrets() for name, target in targets.items()}
    for path, secrets in apis.items():
        for name, secret in secrets.items():
            yield f"{path}.{name}", secret.read_line
