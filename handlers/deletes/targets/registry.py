"""The kinds of targets, by their settings."""

from collections.abc import Mapping
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


def credentials(settings: DrivlyTarget | HttpTarget) -> Mapping[str, str]:
    """Return the headers that every call to this target carries; raises ValueError where a secret is not there.

    For the loop that makes the calls: a handler never sees a secret.
    """
    secrets = {name: secret.read() for name, secret in settings.secrets().items()}
    return target_of(settings).authorize(secrets)
