"""What the requests stage remembers of a customer, and whether a request is still wanted in view of it."""

import hashlib
from dataclasses import dataclass, field
from typing import Any

import orjson

from handlers.deletes.model import Request, Role
from worker.events import Reason
from worker.handling import State

_CUSTOMER = b"c/"


@dataclass(slots=True)
class Entry:
    """A customer as it was last published. Times are milliseconds since the epoch.

    References are kept after the customer is gone: without them a deletion could not be asked for again.
    """

    sequence: int
    live: bool
    changed: int  # the upstream's time of that version
    seen_live: int | None = None  # when it was last published as live
    references: list[tuple[str, str]] | None = None  # None: it was never seen live
    reason: Reason | None = None
    live_count: int | None = None
    requested: list[tuple[str, str]] = field(default_factory=list)  # (request, target) that its return calls off
    waiting: bool = False  # for the deletion that a departure, which was read already, follows from
    cluster: str = ""  # digest of its newest membership, empty while it is alone
    cluster_at: int | None = None
    losing: dict[str, Any] | None = None  # it is a duplicate, by that record: of whom, by which evidence
    duplicate: list[tuple[str, str]] = field(default_factory=list)  # (request, target) that its change calls off

    @classmethod
    def load(cls, state: State, key: bytes) -> "Entry | None":
        """Return what is known of a customer (by `<source>/<customer id>`), None where it was never seen."""
        value = state.get(_key(key))
        if value is None:
            return None
        fields: dict[str, Any] = orjson.loads(value)
        return cls(**fields)

    def save(self, state: State, key: bytes) -> None:
        """Keep it."""
        state.put(_key(key), orjson.dumps(self))


def objection(role: Role, entry: Entry | None, request: Request, since: int = 0) -> str | None:
    """Return why a request is no longer wanted, in view of one of the customers it is about; None if it still is.

    `since`: when the winner was last seen to be gone (ms since the epoch); its poller may not have noticed yet.
    """
    if role == "winner":
        there = entry is not None and entry.live and entry.changed > since
        return None if there else "the customer that was to stay is not there"
    if entry is None:
        return "the cluster is not known" if role == "subject" and request["cluster"] else None
    if role == "origin":
        back = entry.live and entry.sequence > request["sequence"]
        return "a newer version of the customer has been published" if back else None
    if entry.live and entry.changed > request["as_of"]:
        return "the customer to be deleted has changed since"
    known = request.get("cluster_at")  # an older program says when, and not which
    moved = known is not None and entry.cluster_at is not None and entry.cluster_at > known
    if moved or (request["cluster"] is not None and request["cluster"] != entry.cluster):
        return "the cluster has changed"
    return None


def _key(key: bytes) -> bytes:
    return _CUSTOMER + hashlib.blake2b(key, digest_size=16).digest()
