"""One source's changes, from what an adapter read to what is written: state, events, the latest customers.

Everything happens on the transaction it is given, so that what is detected, what is published and what is remembered
are committed together. Pure but for that: `now` is an argument.

The state of a poll task, by key: `c/<source>/<id>` an entry of `changes` for each customer ever seen, `b/<source>/<id>`
what is set aside, `s/<source>` the checkpoint.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Protocol

import orjson

from worker import changes
from worker.changes import Change, Decision, Entry, rfc3339
from worker.errors import RecordTooLargeError, StateError
from worker.events import DELETED, Customer, Reason, customer_key, event_headers
from worker.handling import Tx
from worker.normalize import Normalizer
from worker.privacy import Hasher
from worker.settings import SourceSettings, Treatment
from worker.sources import Adapter, Bad, Row, Stub, Tombstone
from worker.topics import Topics

# Raised when the normalization of any field changes for all sources: everything is then published anew.
NORMALIZATION: Final = 1
_SORTED: Final = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS


class PollTx(Tx, Protocol):
    """What detection needs beside a handler's transaction: marks that stay on this machine, and a size check."""

    def mark(self, key: bytes) -> bool:
        """Set a mark; return whether it is new."""

    def check_size(self, topic: str, key: bytes, value: bytes | None, headers: list[tuple[str, bytes]] | None) -> None:
        """Raise RecordTooLargeError if the record cannot be sent."""


@dataclass
class Checkpoint:
    """How far a source was read, and what that rests on. `cursors` and `scans` are by feed.

    `scans` counts the enumerations that ended; `read` names the feeds that were read to their end once; `held` is the
    plan of absences that waits for a person, `approved` the one that a person approved.
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

    def pack(self) -> bytes:
        """Return it as JSON."""
        return orjson.dumps(asdict(self))


def policy(adapter: Adapter, settings: SourceSettings) -> dict[str, Treatment]:
    """Return the privacy policy of a source: what its adapter ships, and what the configuration puts over it."""
    return {**adapter.privacy, **settings.privacy}


def _tag(adapter: Adapter, settings: SourceSettings) -> str:
    """Return what a record's fingerprint depends on beside the record: whatever changes what is published of it."""
    rules = sorted(policy(adapter, settings).items())
    parts = [adapter.kind, adapter.version, NORMALIZATION, settings.region, rules]
    return hashlib.blake2b(orjson.dumps(parts), digest_size=8).hexdigest()


class Detector:
    """Detects the changes of one source."""

    def __init__(self, source: str, adapter: Adapter, settings: SourceSettings, hasher: Hasher, topics: Topics) -> None:
        """Start without a checkpoint: `load` one first."""
        self.source = source
        self.adapter = adapter
        self.scope = b"\0\0\0\0"
        self.checkpoint = Checkpoint(hasher.check(), _tag(adapter, settings))
        self.moved = 0
        self.counts: dict[str, int] = {}
        self._hasher = hasher
        self._topics = topics
        self._normalizer = Normalizer(settings.region, hasher, policy(adapter, settings))
        self._prefix = b"c/%s/" % source.encode()
        self._aside = b"b/%s/" % source.encode()
        self._position = b"s/%s" % source.encode()
        self._tag = self.checkpoint.tag.encode()
        self._saved = b""

    @property
    def prefix(self) -> bytes:
        """Return what the keys of this source's entries start with."""
        return self._prefix

    def load(self, raw: bytes | None) -> bool:
        """Take up the checkpoint in the state; return whether everything has to be read and published anew.

        Raises StateError where it was made under another pepper.
        """
        if raw is None:
            return False
        found = Checkpoint(**orjson.loads(raw))
        fresh, self.checkpoint = self.checkpoint, found
        if found.pepper != fresh.pepper:
            message = f"source {self.source}: the state was made under another pepper ({found.pepper})"
            hint = "Give ROLLCALL_PEPPER its old value; a new pepper needs a new topic prefix and a resync."
            raise StateError(message, hint=hint)
        self._saved = raw
        if found.tag == fresh.tag:
            return False
        self.checkpoint.tag = fresh.tag
        self.checkpoint.cursors.clear()
        self.checkpoint.read.clear()
        return True

    @property
    def position(self) -> bytes:
        """Return the key of the checkpoint."""
        return self._position

    def set_scope(self, filters: str, secrets: Mapping[str, str]) -> None:
        """Set what customers are seen under: the filter and the credential."""
        self.scope = self._hasher.field(orjson.dumps([filters, sorted(secrets.items())]))

    def save(self, tx: Tx) -> None:
        """Write the checkpoint if it has changed."""
        raw = self.checkpoint.pack()
        if raw != self._saved:
            tx.put(self._position, raw)
            self._saved = raw

    def row(self, tx: PollTx, row: Row, now: int, mark: bytes | None) -> None:
        """Take in a record; `mark` starts the marks of the enumeration that showed it, None where none did."""
        identity = row.id.encode()
        if mark is not None:
            tx.mark(mark + identity)
        essence = orjson.dumps(self.adapter.essence(row), option=_SORTED)
        fingerprint = self._hasher.fingerprint(self._tag + essence)
        key = self._prefix + identity
        raw = tx.get(key)
        if changes.unchanged(raw, self.scope, fingerprint):
            self._count("unchanged")
            return
        customer = self.adapter.normalize(row, self._normalizer)
        parts = changes.rewritten(customer)
        decision = changes.seen(
            Entry.unpack(raw) if raw is not None else None,
            customer,
            fingerprint=fingerprint,
            hashes=b"".join(map(self._hasher.field, parts.values())),
            updated=row.updated,
            scope=self.scope,
            now=now,
        )
        self._settle(tx, row.id, decision, parts, row.updated, now)

    def stub(self, tx: PollTx, stub: Stub, mark: bytes | None) -> bool:
        """Take in word that a customer exists; return whether its record has to be read."""
        identity = stub.id.encode()
        if mark is not None:
            tx.mark(mark + identity)
        raw = tx.get(self._prefix + identity)
        decision = changes.exists(Entry.unpack(raw) if raw is not None else None, stub.updated, self.scope)
        if decision is None:
            return True
        if decision.entry is not None:
            tx.put(self._prefix + identity, decision.entry.pack())
        return False

    def gone(self, tx: PollTx, customer_id: str, reason: Reason, now: int, deleted: int | None = None) -> None:
        """Publish a deletion, unless the customer is not (or no longer) alive."""
        raw = tx.get(self._prefix + customer_id.encode())
        decision = changes.gone(Entry.unpack(raw) if raw is not None else None, reason, deleted)
        self._settle(tx, customer_id, decision, {}, deleted, now)

    def tombstone(self, tx: PollTx, tombstone: Tombstone, now: int) -> None:
        """Take in a tombstone."""
        self.gone(tx, tombstone.id, "tombstone", now, tombstone.deleted)

    def missed(self, tx: PollTx, identity: bytes) -> int:
        """Count an enumeration that did not show a customer; return how many in a row did not."""
        raw = tx.get(self._prefix + identity)
        entry = changes.missed(Entry.unpack(raw), self.scope) if raw is not None else None
        if entry is None:
            return 0
        tx.put(self._prefix + identity, entry.pack())
        return entry.missed

    def bad(self, tx: PollTx, bad: Bad, mark: bytes | None) -> None:
        """Set a record aside that cannot be read: once, until it changes."""
        if mark is not None:
            tx.mark(mark + bad.id.encode())
        self._set_aside(tx, bad.id, bad.reason, bad.size)

    def _set_aside(self, tx: Tx, customer_id: str, reason: str, size: int) -> None:
        key = self._aside + customer_id.encode()
        detail = {"source": self.source, "id": customer_id, "reason": reason, "size": size}
        packed = orjson.dumps(detail)
        known = tx.get(key)
        if known == packed:
            return
        if known is None:
            self.checkpoint.set_aside += 1
        tx.put(key, packed)
        headers = [("rollcall-stage", b"poll"), ("rollcall-error", reason.encode())]
        tx.send(self._topics.deadletters, customer_key(self.source, customer_id), packed, headers)
        self._count("set_aside")

    def _count(self, outcome: str) -> None:
        self.counts[outcome] = self.counts.get(outcome, 0) + 1

    def _settle(  # noqa: PLR0913, PLR0917 - one decision and what it is about
        self, tx: PollTx, customer_id: str, decision: Decision, parts: dict[str, bytes], updated: int | None, now: int
    ) -> None:
        change = decision.change
        if change is not None:
            try:
                self._publish(tx, customer_id, change, parts, updated, now)
            except RecordTooLargeError as error:
                self._set_aside(tx, customer_id, "too_large", error.size)
                return
            self._follow(tx, customer_id, change)
        if decision.entry is not None:
            tx.put(self._prefix + customer_id.encode(), decision.entry.pack())
            self._count("unchanged" if change is None else change.type)

    def _follow(self, tx: Tx, customer_id: str, change: Change) -> None:
        if change.type != "customer.updated":
            self.checkpoint.live += -1 if change.type == DELETED else 1
            self.moved += 1
        aside = self._aside + customer_id.encode()
        if self.checkpoint.set_aside and tx.get(aside) is not None:
            tx.delete(aside)
            self.checkpoint.set_aside -= 1

    def _publish(  # noqa: PLR0913, PLR0917 - see _settle
        self, tx: PollTx, customer_id: str, change: Change, parts: dict[str, bytes], updated: int | None, now: int
    ) -> None:
        """Send the event and the newest customer, or neither: the larger one is checked first."""
        key = customer_key(self.source, customer_id)
        headers = event_headers(
            key=key,
            source=self.source,
            type_=change.type,
            sequence=change.sequence,
            time=rfc3339(now if updated is None else updated),
            reason=change.reason,
        )
        live = self.checkpoint.live - 1 if change.type == DELETED else None
        customer = None if change.customer is None else _customer_json(change.customer, parts)
        data = b'{"source":%s,"id":%s,"customer":%s,"changed":%s,"first_seen":"%s","detected_at":"%s","reason":%s,"live":%s}' % (
            orjson.dumps(self.source),
            orjson.dumps(customer_id),
            customer or b"null",
            orjson.dumps(change.changed),
            rfc3339(change.first_seen).encode(),
            rfc3339(now).encode(),
            orjson.dumps(change.reason),
            orjson.dumps(live),
        )
        tx.check_size(self._topics.events, key, data, headers)
        if live is not None:
            headers.append(("ce_live", b"%d" % live))
        tx.send(self._topics.events, key, data, headers)
        tx.send(self._topics.latest, key, customer, headers)


def _customer_json(customer: Customer, parts: dict[str, bytes]) -> bytes:
    """Put a customer's JSON together of its fields, which were written for hashing already."""
    fields = b",".join(b'"%s":%s' % (name.encode(), part) for name, part in parts.items())
    head = orjson.dumps({"source": customer["source"], "id": customer["id"], "first_seen": customer["first_seen"]})
    return b"%s,%s}" % (head[:-1], fields)
