"""Change detection: what an upstream's record means, given what was known of that customer before.

Pure: no clock, no IO. What is known of a customer is an `Entry` of about a hundred bytes: its sequence, a fingerprint
of the upstream's record and a short hash of each normalized field, so that `changed` needs no old copy. An unchanged
record costs a fingerprint and a comparison of bytes (`unchanged`), nothing else.

Guarantees: a customer's sequence rises by one with each event and is never used again, also over deletion and
re-creation (a deleted customer leaves its entry as a grave); the same input against the same entry gives the same
event.
"""

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson

from worker.events import CREATED, DELETED, FIELDS, UPDATED, EventType, Reason

_LAYOUT: Final = struct.Struct("<BBIqq4s16s")
_FLAGS: Final = 1
_SCOPE: Final = 22  # and then, up to the end of the layout, the fingerprint
_HASH_BYTES: Final = 4
_LIVE: Final = 1
_FORMAT: Final = 1
_NEVER: Final = -(2**63)
_EMPTY: Final = frozenset({b"null", b"[]", b"{}"})


# These three are made for every customer. Nobody changes one; they are not frozen because to make a frozen one costs
# three times as much.


@dataclass(slots=True)
class Entry:
    """What is known of one customer.

    `missed`: how many enumerations in a row did not show it. `first_seen` and `updated` (the upstream's change time, or
    None) are milliseconds since the epoch. `scope`: short hash of the filter and credential it was last seen under.
    `hashes`: four bytes for each of `events.FIELDS`, empty for a grave.
    """

    live: bool
    missed: int
    sequence: int
    first_seen: int
    updated: int | None
    scope: bytes
    fingerprint: bytes
    hashes: bytes

    def pack(self) -> bytes:
        """Return the entry as bytes."""
        updated = _NEVER if self.updated is None else self.updated
        head = (_FORMAT, self.live | self.missed << 1, self.sequence, self.first_seen, updated)
        return _LAYOUT.pack(*head, self.scope, self.fingerprint) + self.hashes

    @staticmethod
    def unpack(raw: bytes) -> "Entry":
        """Read what `pack` wrote."""
        _, flags, sequence, first_seen, updated, scope, fingerprint = _LAYOUT.unpack_from(raw)
        return Entry(
            live=bool(flags & _LIVE),
            missed=flags >> 1,
            sequence=sequence,
            first_seen=first_seen,
            updated=None if updated == _NEVER else updated,
            scope=scope,
            fingerprint=fingerprint,
            hashes=raw[_LAYOUT.size :],
        )


def grave(sequence: int, first_seen: int) -> Entry:
    """Return the entry of a customer of whom no more is known than that."""
    return Entry(False, 0, sequence, first_seen, None, bytes(4), bytes(16), b"")


def unchanged(raw: bytes | None, scope: bytes, fingerprint: bytes) -> bool:
    """Return whether a packed entry is live, not missed, and says the very same under the same scope."""
    return raw is not None and raw[_SCOPE : _LAYOUT.size] == scope + fingerprint and raw[_FLAGS] == _LIVE


@dataclass(slots=True)
class Change:
    """An event to publish."""

    type: EventType
    sequence: int
    changed: list[str]
    first_seen: int
    reason: Reason | None = None


@dataclass(slots=True)
class Decision:
    """What follows: the entry to write (None: leave it) and the event to publish (None: none)."""

    entry: Entry | None
    change: Change | None


def seen(
    entry: Entry | None,
    parts: Mapping[str, bytes],
    *,
    fingerprint: bytes,
    hashes: bytes,
    updated: int | None,
    scope: bytes,
    now: int,
) -> Decision:
    """Decide on a record that is not `unchanged`.

    `parts` are the fields as `rewritten` gives them, `hashes` those of `parts`; `now` (ms since the epoch) is when it
    was first seen if it is new.
    A record whose fingerprint is known already brings no event: only its scope moves, or it is back from being missed.
    """
    first_seen = now if entry is None else entry.first_seen
    sequence = 0 if entry is None else entry.sequence
    same = entry is not None and entry.live and entry.fingerprint == fingerprint
    fresh = Entry(
        live=True,
        missed=0,
        sequence=sequence if same else sequence + 1,
        first_seen=first_seen,
        updated=updated,
        scope=scope,
        fingerprint=fingerprint,
        hashes=hashes,
    )
    if same:
        return Decision(fresh, None)
    if entry is None or not entry.live:
        changed = [name for name, part in parts.items() if part not in _EMPTY]
        return Decision(fresh, Change(CREATED, fresh.sequence, changed, first_seen))
    return Decision(fresh, Change(UPDATED, fresh.sequence, differing(entry.hashes, hashes), first_seen))


def exists(entry: Entry | None, updated: int | None, scope: bytes) -> Decision | None:
    """Decide on word that a customer exists, without its record.

    Returns None where the record has to be read: it is unknown, was deleted, or changed since.
    """
    if entry is None or not entry.live or entry.updated != updated or entry.scope != scope:
        return None
    return Decision(replace(entry, missed=0) if entry.missed else None, None)


def missed(entry: Entry, scope: bytes) -> Entry | None:
    """Return the entry of a live customer that one more complete enumeration did not show.

    None where that means nothing: it is dead, or was last seen under another filter or credential (unobserved).
    """
    if not entry.live or entry.scope != scope:
        return None
    return replace(entry, missed=min(entry.missed + 1, 100))


def buried(entry: Entry) -> Entry:
    """Return a live customer's entry as a grave."""
    return replace(entry, live=False, missed=0, fingerprint=bytes(16), hashes=b"")


def gone(entry: Entry | None, reason: Reason, deleted: int | None = None) -> Decision:
    """Decide on a deletion; the grave keeps the sequence.

    `deleted`: when the upstream says that it happened, in ms since the epoch; a tombstone older than the record that we
    have is of an earlier life and means nothing.
    """
    stale = entry is not None and deleted is not None and entry.updated is not None and deleted < entry.updated
    if entry is None or not entry.live or stale:
        return Decision(None, None)
    sequence = entry.sequence + 1
    change = Change(DELETED, sequence, [], entry.first_seen, reason)
    return Decision(replace(buried(entry), sequence=sequence, updated=deleted), change)


def rewritten(customer: Mapping[str, Any]) -> dict[str, bytes]:
    """Return each field of a customer as JSON with sorted keys: what is hashed, and what the event is made of."""
    return {name: orjson.dumps(customer[name], option=orjson.OPT_SORT_KEYS) for name in FIELDS}


def differing(before: bytes, after: bytes) -> list[str]:
    """Return the names of the fields whose hashes differ; all of them where `before` is of another length."""
    if len(before) != len(after):
        return list(FIELDS)
    step = _HASH_BYTES
    return [name for index, name in enumerate(FIELDS) if before[index * step :][:step] != after[index * step :][:step]]


def hash_of(name: str, hashes: bytes) -> bytes:
    """Return the hash of one field."""
    return hashes[FIELDS.index(name) * _HASH_BYTES :][:_HASH_BYTES]


def guard(missing: int, live: int, *, count: int, fraction: float) -> bool:
    """Return whether so many absences at once must be held for a person: more than max(count, fraction of live)."""
    return missing > max(count, fraction * live)


def complete(*, marked: int, total: int | None, moved: int) -> bool:
    """Return whether an enumeration showed as many customers as the upstream says it has.

    `marked`: different customers shown; `moved`: customers created or deleted while it ran.
    """
    return total is None or abs(marked - total) <= moved


class PlanHash:
    """A hash of who is missing: a sum of hashes, so that who is settled can be taken out of it."""

    def __init__(self) -> None:
        """Start with nobody."""
        self._sum = 0

    def add(self, identity: bytes) -> None:
        """Add an id."""
        self._sum += _number(identity)

    def take(self, identity: bytes) -> None:
        """Take an id out that was added."""
        self._sum -= _number(identity)

    def value(self) -> str:
        """Return the hash of those who are in it, in hexadecimal, in whatever order they came and went."""
        return f"{self._sum % 2**48:012x}"


def _number(identity: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(identity, digest_size=6).digest(), "big")
