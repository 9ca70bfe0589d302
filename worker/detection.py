"""One source's changes, from what an adapter read to what is written: state, events, the latest customers.

Everything happens on the transaction it is given, so that what is detected, what is published and what is remembered
are committed together. Pure but for that: `now` is an argument.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Final, Protocol

import orjson

from worker import changes, redelivery
from worker.changes import Change, Decision, Entry
from worker.checkpoint import NORMALIZATION, Checkpoint, own, tag
from worker.errors import RecordTooLargeError, StateError
from worker.events import DELETED, UPDATED, Reason, customer_key
from worker.handling import Tx
from worker.keys import Keys
from worker.privacy import Hasher
from worker.publish import SizedTx, publish
from worker.roll import Notes, Roll, clear
from worker.settings import SourceSettings
from worker.sources import Adapter, Bad, Origin, Row, Stub, Tombstone, Unsure, normalizer
from worker.sources.reading import size_of
from worker.times import milliseconds
from worker.topics import POLL, Topics

SORTED: Final = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS
_COUNTED: Final = 2
# The outcome, in `Detector.counts`, of records that are dead letters now.
SET_ASIDE: Final = "set_aside"
# In bytes: with the source's name and a feed's before it, a key stays within LMDB's limit.
_LONGEST_ID: Final = 400

# Records that are taken in step by step: of more, the data leave the caches, and take memory.
_AT_ONCE: Final = 100


class PollTx(SizedTx, Notes, Protocol):
    """What detection needs beside a handler's transaction: marks that stay on this machine, and a size check."""

    def marked(self, key: bytes) -> bool:
        """Return whether a mark is set."""


class Detector:
    """Detects the changes of one source."""

    def __init__(self, source: str, adapter: Adapter, settings: SourceSettings, hasher: Hasher, topics: Topics) -> None:
        """Start without a checkpoint: `load` one first."""
        self.source = source
        self.adapter = adapter
        self.scope = b"\0\0\0\0"
        versions = [adapter.version, NORMALIZATION]
        rules = tag(adapter, settings)
        self._fresh = Checkpoint(hasher.check(), rules, versions=versions, settings=own(settings))
        self.checkpoint = self._fresh
        self.outdated = False  # the state was made by a newer version than this one
        self.moved = 0
        self.shown: Counter[bytes] = Counter()  # by mark: how many customers an enumeration has shown, once counted
        self.counts: dict[str, int] = {}
        self._rolls = _Rolls()
        self._sum: int | None = 0  # of the hashes of all live customers' ids, None where it is not known yet
        self._hasher = hasher
        self._topics = topics
        self._normalizer = normalizer(adapter, settings, hasher)
        keys = Keys(source)
        self._prefix, self._aside, self._position = keys.entries, keys.aside, keys.checkpoint
        self._fingerprint = hasher.fingerprints(self.checkpoint.tag.encode())
        self._content = hasher.fingerprints(b"set aside")
        self._origin: Origin | None = None  # of what is being taken in
        self._saved = b""

    @property
    def prefix(self) -> bytes:
        """Return what the keys of this source's entries start with."""
        return self._prefix

    def load(self, raw: bytes | None) -> bool:
        """Take up the checkpoint in the state; return whether everything has to be published anew.

        Raises StateError where it was made under another pepper. Where a newer version made it, `outdated` is set, and
        nothing must be read: two versions that take turns would publish everything again and again.
        """
        if raw is None:
            return False
        found = Checkpoint.unpack(raw)
        fresh, self.checkpoint = self._fresh, found
        if found.pepper != fresh.pepper:
            message = f"source {self.source}: the state was made under another pepper ({found.pepper})"
            hint = "Give ROLLCALL_PEPPER its old value; a new pepper needs a new topic prefix and a resync."
            raise StateError(message, hint=hint)
        self._saved = raw
        self._sum = None if found.live else 0
        self.outdated = any(made > ours for made, ours in zip(found.versions, fresh.versions, strict=False))
        if self.outdated or (found.tag, found.settings) == (fresh.tag, fresh.settings):
            return False
        again = found.tag != fresh.tag
        self.start_over()
        return again

    def start_over(self) -> None:
        """Have everything read from the start, by what this version and its settings say."""
        checkpoint, fresh = self.checkpoint, self._fresh
        checkpoint.republishing = checkpoint.republishing or checkpoint.tag != fresh.tag
        checkpoint.tag, checkpoint.versions, checkpoint.settings = fresh.tag, fresh.versions, fresh.settings
        checkpoint.cursors.clear()
        checkpoint.read.clear()
        self.outdated = False

    @property
    def position(self) -> bytes:
        """Return the key of the checkpoint."""
        return self._position

    def set_scope(self, filters: str, secrets: Mapping[str, str]) -> bool:
        """Set what customers are seen under: the filter and the credential.

        Returns whether it is another one than before: everything then has to be read from the start, or else a customer
        that is not seen under the new one would stay unobserved until it changes.
        """
        self.scope = self._hasher.field(orjson.dumps([filters, sorted(secrets.items())]))
        before, self.checkpoint.scope = self.checkpoint.scope, self.scope.hex()
        if before in {None, self.checkpoint.scope}:
            return False
        self.checkpoint.cursors.clear()
        self.checkpoint.read.clear()
        return True

    def save(self, tx: Tx) -> None:
        """Write the checkpoint if it has changed."""
        raw = self.checkpoint.pack()
        if raw != self._saved:
            tx.put(self._position, raw)
            self._saved = raw

    def row(self, tx: PollTx, row: Row, now: int, mark: bytes | None, origin: Origin | None = None) -> None:
        """Take in a record; `mark` starts the marks of the enumeration that showed it, None where none did.

        `origin` is for its dead letter, where it cannot be used.
        """
        self.rows(tx, (row,), now, mark, origin)

    def rows(self, tx: PollTx, rows: Sequence[Row], now: int, mark: bytes | None, origin: Origin | None = None) -> None:
        """Take in the records of a page, as `row` does with one.

        Each step is taken for a hundred of them before the next one, and so finds its code in the processor's caches:
        that takes a seventh off a first poll.
        """
        self._origin = origin
        if len(rows) > 1 and len({row.id for row in rows}) < len(rows):
            for row in rows:  # whoever stands there twice is read in order
                self._take(tx, (row,), now, mark)
            return
        for start in range(0, len(rows), _AT_ONCE):
            self._take(tx, rows[start : start + _AT_ONCE], now, mark)

    def _take(self, tx: PollTx, rows: Sequence[Row], now: int, mark: bytes | None) -> None:
        made = []
        for row, raw, fingerprint in self._sift(tx, rows, mark):
            try:
                parts = changes.rewritten(self.adapter.normalize(row, self._normalizer))
            except Exception as error:  # ruff: ignore[blind-except] - see _unreadable
                self._unreadable(tx, row, error)
            else:
                made.append((row, raw, fingerprint, parts))
        hashed = [self._hasher.fields(parts.values()) for *_, parts in made]
        for one, hashes in zip(made, hashed, strict=True):
            self._enter(tx, *one, hashes, now)

    def _sift(self, tx: PollTx, rows: Sequence[Row], mark: bytes | None) -> list[tuple[Row, bytes | None, bytes]]:
        """Note whom a page shows; return what is not as it was.

        That is (record, what is known of its customer, fingerprint).
        """
        get, prefix, essence, fingerprint = tx.get, self._prefix, self.adapter.essence, self._fingerprint
        scope, shown, news, same = self.scope, [], [], 0
        for row in rows:
            identity = row.id.encode()
            if len(identity) > _LONGEST_ID:
                self._shown(tx, row.id, mark, row.body)
                continue
            shown.append(row.id)
            try:
                found = fingerprint(orjson.dumps(essence(row), option=SORTED))
            except Exception as error:  # ruff: ignore[blind-except] - see _unreadable
                self._unreadable(tx, row, error)
                continue
            raw = get(prefix + identity)
            if not changes.unchanged(raw, scope, found):
                news.append((row, raw, found))
                continue
            same += 1
            if self.checkpoint.set_aside:
                self._mended(tx, identity)
        if same:
            self.counts["unchanged"] = self.counts.get("unchanged", 0) + same
        if mark is not None:
            self._rolls[mark].extend(tx, shown)
        return news

    def _enter(
        self,
        tx: PollTx,
        row: Row,
        raw: bytes | None,
        fingerprint: bytes,
        parts: dict[str, bytes],
        hashes: bytes,
        now: int,
    ) -> None:
        """Take in a record that is not as it was; `raw` is what is known of its customer."""
        if raw is not None and self._another(raw, parts, hashes):
            self.gone(tx, row.id, "absent", now)
            raw = tx.get(self._prefix + row.id.encode())
        decision = changes.seen(
            None if raw is None else Entry.unpack(raw),
            parts,
            fingerprint=fingerprint,
            hashes=hashes,
            updated=row.updated,
            scope=self.scope,
            now=now,
        )
        self._settle(tx, row.id, decision, parts, row.updated, now, row.body)

    def _another(self, raw: bytes, parts: Mapping[str, bytes], hashes: bytes) -> bool:
        """Return whether an id has been given to another customer: one created after all that is known of it.

        Only where the adapter says that its upstream uses ids again, and not while everything is published anew. A time
        of creation that is otherwise another one was corrected.
        """
        if not getattr(self.adapter, "recycles_ids", False) or self.checkpoint.republishing:
            return False
        entry = Entry.unpack(raw)
        before, after = (changes.hash_of("created_at", known) for known in (entry.hashes, hashes))
        if not entry.live or before == after or self._hasher.field(b"null") in {before, after}:
            return False
        created = milliseconds(orjson.loads(parts["created_at"]))
        return created is not None and created > (entry.first_seen if entry.updated is None else entry.updated)

    def stub(self, tx: PollTx, stub: Stub, mark: bytes | None, origin: Origin | None = None) -> bool:
        """Take in word that a customer exists; return whether its record has to be read."""
        self._origin = origin
        identity = self._shown(tx, stub.id, mark)
        if identity is None:
            return False
        raw = tx.get(self._prefix + identity)
        decision = changes.exists(Entry.unpack(raw) if raw is not None else None, stub.updated, self.scope)
        if decision is None or (self.checkpoint.set_aside and tx.get(self._aside + identity) is not None):
            return True
        if decision.entry is not None:
            tx.put(self._prefix + identity, decision.entry.pack())
        return False

    def gone(self, tx: PollTx, customer_id: str, reason: Reason, now: int, deleted: int | None = None) -> None:
        """Publish a deletion, unless the customer is not (or no longer) alive."""
        identity = _identity(customer_id)
        raw = tx.get(self._prefix + identity)
        entry = Entry.unpack(raw) if raw is not None else None
        if entry is None or not entry.live:
            self._mended(tx, identity)
            return
        self._settle(tx, customer_id, changes.gone(entry, reason, deleted), {}, deleted, now)

    def tombstone(self, tx: PollTx, tombstone: Tombstone, now: int) -> None:
        """Take in a tombstone."""
        self.gone(tx, tombstone.id, "tombstone", now, tombstone.deleted)

    def missed(self, tx: PollTx, identity: bytes, *, adopt: bool = False) -> int:
        """Count an enumeration that did not show a customer; return how many in a row did not.

        `adopt`: count one that was last seen under another filter or credential, too. Beyond the second time nothing
        is written: as long as they are held, the same are missing again and again.
        """
        raw = tx.get(self._prefix + identity)
        known = Entry.unpack(raw) if raw is not None else None
        if known is not None and adopt:
            known = replace(known, scope=self.scope)
        entry = changes.missed(known, self.scope) if known is not None else None
        if entry is None:
            return 0
        if entry.missed <= _COUNTED:
            tx.put(self._prefix + identity, entry.pack())
        return entry.missed

    def unobserve(self, tx: PollTx, customer_id: str) -> None:
        """Note that a customer is not looked at any more: whatever is seen or not, it is never taken for absent."""
        self.nothing_aside(tx, customer_id)
        raw = tx.get(self._prefix + customer_id.encode())
        if raw is not None:
            tx.put(self._prefix + customer_id.encode(), replace(Entry.unpack(raw), scope=bytes(4)).pack())

    def bad(self, tx: PollTx, bad: Bad, mark: bytes | None, origin: Origin | None = None) -> None:
        """Set a record aside that cannot be read: once, until it changes."""
        self._origin = origin
        if self._shown(tx, bad.id, mark, bad.record) is not None:
            self._set_aside(tx, bad.id, bad.reason, bad.size, bad.record)

    def unsure(self, tx: PollTx, customer_id: str, verdict: Unsure) -> None:
        """Set a customer aside whose look-up proves nothing: once, however the answer's words change."""
        answer = verdict.answer
        record, origin = (None, None) if answer is None else (answer.body, answer.origin)
        self.bad(tx, Bad(customer_id, verdict.reason, 0, record), None, origin)

    def nothing_aside(self, tx: PollTx, customer_id: str) -> None:
        """Forget what was set aside of a customer: its record is not there any more, or is not asked for."""
        self._mended(tx, _identity(customer_id))

    def forget_set_aside(self, tx: PollTx, mark: bytes) -> None:
        """Forget the records set aside that an enumeration did not show, where no customer was published of them."""
        if not self.checkpoint.set_aside:
            return
        for key, _ in list(tx.scan(self._aside)):
            identity = key[len(self._aside) :]
            raw = tx.get(self._prefix + identity)
            if not tx.marked(mark + identity) and (raw is None or not Entry.unpack(raw).live):
                self._mended(tx, identity)

    def begin(self, tx: PollTx, mark: bytes) -> None:
        """Begin an enumeration whose marks start with `mark`."""
        clear(tx, mark)
        self.shown.pop(mark, None)
        self._rolls[mark] = Roll(mark)

    def everybody(self, mark: bytes) -> bool:
        """Return whether an enumeration has shown the live customers, each of them once, and nobody else."""
        roll, live = self._rolls[mark], self.checkpoint.live
        if roll.count != live or roll.sum != self._sum:
            return False
        self.shown[mark] = live
        return True

    def notes(self, tx: PollTx, mark: bytes) -> int:
        """Return how many notes there are of whom an enumeration has shown, for `count`."""
        return self._rolls[mark].notes(tx)

    def count(self, tx: PollTx, mark: bytes, note: int) -> None:
        """Mark the customers of a note as shown; it does not matter if that is done twice."""
        for customer_id in self._rolls[mark].noted(tx, note):
            if tx.mark(mark + _identity(customer_id)):
                self.shown[mark] += 1

    def learn(self, mark: bytes) -> None:
        """Keep the sum of the ids that an enumeration has shown: the caller knows them to be all live customers."""
        roll = self._rolls[mark]
        if roll.count == self.checkpoint.live:
            self._sum = roll.sum

    def _shown(self, tx: PollTx, customer_id: str, mark: bytes | None, record: object = None) -> bytes | None:
        """Note a customer as shown; return its id as it stands in keys, None (it is set aside) if it is too long."""
        identity = customer_id.encode()
        if long := len(identity) > _LONGEST_ID:
            identity = _identity(customer_id)
        if mark is not None:
            self._rolls[mark].add(tx, customer_id, identity)
        if long:
            self._set_aside(tx, customer_id, "id_too_long", len(customer_id.encode()), record)
            return None
        return identity

    def _unreadable(self, tx: PollTx, row: Row, error: Exception) -> None:
        """Set a record aside over which its adapter stumbled: one record never stops a source.

        Only the error's class is kept, since its text may quote the record.
        """
        self._set_aside(tx, row.id, type(error).__name__, size_of(row.body), row.body)

    def _set_aside(self, tx: Tx, customer_id: str, reason: str, size: int, record: object) -> None:
        """Set a record aside; that is news where its reason or size is another one than before."""
        self._not_missed(tx, _identity(customer_id))
        key = self._aside + _identity(customer_id)
        detail = {"source": self.source, "id": customer_id, "reason": reason, "size": size}
        packed = orjson.dumps(detail)
        known = tx.get(key)
        if known == packed:
            return
        if known is None:
            self.checkpoint.set_aside += 1
        tx.put(key, packed)
        headers = [(redelivery.STAGE, POLL.encode()), (redelivery.REASON, reason.encode())]
        letter = orjson.dumps({**detail, **self._found(record)})
        tx.send(self._topics.deadletters, customer_key(self.source, customer_id), letter, headers)
        self._count(SET_ASIDE)

    def _found(self, record: object) -> dict[str, object]:
        """Return what a dead letter says of a record, or of an answer, beside the reason: nothing of its content."""
        found: dict[str, object] = {} if self._origin is None else asdict(self._origin)
        if isinstance(record, bytes):
            found["size"] = len(record)
            found["hash"] = self._content(record).hex()
        elif record is not None:
            with suppress(orjson.JSONEncodeError):  # it nests too deeply
                found["hash"] = self._content(orjson.dumps(record, option=SORTED)).hex()
        return found

    def _not_missed(self, tx: Tx, identity: bytes) -> None:
        """Forget the misses of a customer whose record was there, though it cannot be used."""
        raw = tx.get(self._prefix + identity)
        if raw is not None and (entry := Entry.unpack(raw)).missed:
            tx.put(self._prefix + identity, replace(entry, missed=0).pack())

    def _mended(self, tx: Tx, identity: bytes) -> None:
        """Forget that a customer's record was set aside, and settle its dead letter."""
        known = tx.get(self._aside + identity) if self.checkpoint.set_aside else None
        if known is None:
            return
        tx.delete(self._aside + identity)
        self.checkpoint.set_aside -= 1
        settle_letter(tx, self._topics, self.source, known)

    def _count(self, outcome: str) -> None:
        self.counts[outcome] = self.counts.get(outcome, 0) + 1

    def _settle(
        self,
        tx: PollTx,
        customer_id: str,
        decision: Decision,
        parts: dict[str, bytes],
        updated: int | None,
        now: int,
        record: object = None,
    ) -> None:
        change, identity = decision.change, customer_id.encode()
        if change is not None:
            try:
                live = self.checkpoint.live - 1 if change.type == DELETED else None
                key = customer_key(self.source, customer_id)
                publish(tx, self._topics, key, change, parts, updated=updated, live=live, now=now)
            except RecordTooLargeError as error:
                self._set_aside(tx, customer_id, "too_large", error.size, record)
                return
            self._follow(change, identity)
        if decision.entry is not None:
            tx.put(self._prefix + identity, decision.entry.pack())
            self._count("unchanged" if change is None else change.type)
            if self.checkpoint.set_aside:
                self._mended(tx, identity)

    def _follow(self, change: Change, identity: bytes) -> None:
        if change.type == UPDATED:
            return
        step = -1 if change.type == DELETED else 1
        self.checkpoint.live += step
        self.moved += 1
        if self._sum is not None:
            self._sum += step * hash(identity)


class _Rolls(dict[bytes, Roll]):  # ruff: ignore[subclass-builtin] - only to make what is missing, and for speed
    """Whom the enumerations have shown, by mark."""

    def __missing__(self, mark: bytes) -> Roll:
        roll = self[mark] = Roll(mark)
        return roll


def settle_letter(tx: Tx, topics: Topics, source: str, aside: bytes) -> None:
    """Settle the dead letter of a record that was set aside, of which the state has `aside`."""
    key = customer_key(source, orjson.loads(aside)["id"])
    tx.send(topics.deadletters, key, None, redelivery.mended_headers())


def _identity(customer_id: str) -> bytes:
    """Return an id as it stands in keys: itself, or where that is too long, a hash that is no id (no UTF-8)."""
    identity = customer_id.encode()
    return identity if len(identity) <= _LONGEST_ID else b"\xff" + hashlib.blake2b(identity, digest_size=16).digest()
