"""The kinds of targets, by their settings."""

from collections.abc import Callable, Mapping
from typing import assert_never

from handlers.deletes.settings import DrivlyTarget, HttpTarget
from handlers.deletes.targets.contract import Target
from handlers.deletes.targets.drivly import Drivly
from handlers.deletes.targets.http import Http


def target_of(settings: DrivlyTarget | HttpTarget) -> Target:
    """Return the target that these settings describe."""
    match settings:
        case DrivlyTarget():
            return Drivly(settings)
        case HttpTarget():
            return Http(settings)
        case _:
            assert_never(settings)


def credentials(settings: DrivlyTarget | HttpTarget) -> Callable[[], Mapping[str, str]]:
    """Return what gives the headers that every call to this target carries, with each secret as it is at that moment.

    What is returned raises ValueError where a secret is not there, or is no line. For the loop that makes the calls: a
    handler never sees a secret.
    """
    target, references = target_of(settings), settings.secrets()
    return lambda: target.authorize({name: secret.read_line() for name, secret in references.items()})
