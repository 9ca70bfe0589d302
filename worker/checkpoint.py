"""How far a source was read, and what that rests on: the part of a poll task's state that is there once a source."""

import hashlib
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final

import orjson

from worker.settings import SourceSettings
from worker.sources import Adapter, policy

# Raised when the normalization of any field changes for all sources: everything is then published anew.
NORMALIZATION: Final = 1
_SORTED: Final = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS


@dataclass
class Checkpoint:
    """How far a source was read, and what that rests on. `cursors` and `scans` are by feed.

    `scans` counts the enumerations that ended; `read` names the feeds that were read to their end once; `held` is the
    plan of absences that waits for a person, `unobserved` that of customers not seen since the filter or the credential
    changed, `approved` the one that a person approved. `versions` are the adapter's and the normalization's; `settings`
    and `scope` are hashes of the adapter's own settings, and of what decides who is seen. `republishing`: everything is
    being published anew. `resync`: everything has to be read from the start. `paused` says who paused the source, and
    when; `wanted` are look-ups that were asked for, as (order, customer id).
    """

    pepper: str
    tag: str
    cursors: dict[str, dict[str, Any]] = field(default_factory=dict)
    scans: dict[str, int] = field(default_factory=dict)
    read: list[str] = field(default_factory=list)
    live: int = 0
    set_aside: int = 0
    held: dict[str, Any] | None = None
    approved: str | None = None
    versions: list[int] = field(default_factory=list)
    settings: str | None = None
    scope: str | None = None
    unobserved: dict[str, Any] | None = None
    republishing: bool = False
    paused: dict[str, Any] | None = None
    resync: bool = False
    wanted: list[list[Any]] = field(default_factory=list)

    def pack(self) -> bytes:
        """Return it as JSON."""
        return orjson.dumps(asdict(self))

    @staticmethod
    def unpack(raw: bytes) -> "Checkpoint":
        """Read what `pack` wrote; parts that only a newer version knows are left out."""
        return Checkpoint(**{name: value for name, value in orjson.loads(raw).items() if name in _PARTS})


_PARTS: Final = frozenset(part.name for part in fields(Checkpoint))


def own(settings: SourceSettings) -> str:
    """Return a hash of the settings that only this kind of source has: what they say decides what is read, and how."""
    secrets = settings.secrets()
    names = {name for name in type(settings).model_fields if name not in SourceSettings.model_fields}
    said = settings.model_dump(mode="json", include=names - set(secrets))
    return hashlib.blake2b(orjson.dumps(said, option=_SORTED), digest_size=8).hexdigest()


def tag(adapter: Adapter, settings: SourceSettings) -> str:
    """Return what a record's fingerprint depends on beside the record: whatever changes what is published of it."""
    rules = sorted(policy(adapter, settings).items())
    parts = [adapter.kind, adapter.version, NORMALIZATION, settings.region, rules]
    return hashlib.blake2b(orjson.dumps(parts), digest_size=8).hexdigest()
