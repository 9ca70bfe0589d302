"""Writes what the clusters stage says to its public topics, with the headers that are due."""

from collections.abc import Sequence
from hashlib import blake2b

import orjson

from handlers.dedupe.events import (
    REVIEW,
    IdentityType,
    Membership,
    Merged,
    Proof,
    Review,
    Split,
    WinnerChanged,
    identity_headers,
    identity_type,
)
from handlers.dedupe.lineage import Shape
from handlers.dedupe.store import Node, Pair
from worker.handling import Record, Tx
from worker.times import rfc3339
from worker.topics import Topics


class Publisher:
    """Sends with one transaction; `rebuilt`: what is said now was said before, as far as anybody remembers."""

    def __init__(self, tx: Tx, topics: Topics, now: int) -> None:
        """`now` is when it is said (ms since the epoch)."""
        self.rebuilt = False
        self._tx = tx
        self._topics = topics
        self._now = now
        self._origin = b"", 0, 0
        self._count = 0

    def follow(self, record: Record, *, rebuilt: bool) -> None:
        """Take `record` as the cause of what is said from now on: it makes the events' ids."""
        self.rebuilt = rebuilt
        self._origin = b"", record.partition, record.offset
        self._count = 0

    def give_up(self, customer: str, version: int) -> None:
        """Take it as the cause that a change of a customer is done without its evidence: no record sets that off."""
        self.rebuilt = False
        self._origin = customer.encode() + b":", 0, version
        self._count = 0

    def membership(self, node: Node, cluster: str | None, shape: Shape | None, path: list[Proof]) -> str:
        """Publish a customer's membership if it differs from the last one; return its digest, empty for none."""
        if cluster is None or shape is None:
            if node.cluster is not None or self.rebuilt:
                self._tx.send(self._topics.clusters, node.name.encode(), None)
            return ""
        membership: Membership = {
            "cluster": cluster,
            "winner": shape.winner,
            "size": len(shape.members),
            "path": path,
        }
        value = orjson.dumps(membership)
        digest = blake2b(value, digest_size=8).hexdigest()
        if digest != node.digest:
            self._tx.send(self._topics.clusters, node.name.encode(), value)
        return digest

    def identity(self, events: Sequence[Merged | Split | WinnerChanged]) -> None:
        """Publish what has happened to clusters."""
        for event in events:
            self._send(identity_type(event), event["cluster"], orjson.dumps(event))

    def review(self, cluster: str, pair: Pair, wanted: list[object] | None, *, same_source: bool) -> None:
        """Publish that a pair is to be looked at, or (`wanted` is None) no longer."""
        reason, score = wanted or pair.review or ("", 0.0)
        event: Review = {
            "status": "closed" if wanted is None else "open",
            "reason": str(reason),
            "a": pair.a,
            "b": pair.b,
            "score": float(str(score)),
            "sources": "same" if same_source else "several",
            "rebuilt": self.rebuilt,
        }
        self._send(REVIEW, cluster, orjson.dumps(event))

    def _send(self, type_: IdentityType, cluster: str, value: bytes) -> None:
        self._count += 1
        origin = b"%s%d:%d:%d" % (*self._origin, self._count)
        time = rfc3339(self._now)
        self._tx.send(self._topics.identity, cluster.encode(), value, identity_headers(type_, cluster, time, origin))
