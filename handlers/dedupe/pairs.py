"""The second stage, one task a partition of the match keys: which customers that share a key look like one person.

A bucket is the customers that share a match key; every newcomer is compared with each of them. Above
`generic.bucket` members the key identifies nobody: everything it supported is retracted, and until it has shrunk again
its members are only counted, so that a hot key costs no more than any other. What a bucket supports is a function of
its present members alone, so what it supported before is computed again instead of being remembered.
"""

import struct
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from handlers.dedupe.comparand import Profile, parse
from handlers.dedupe.profile import KEY_BYTES
from handlers.dedupe.scoring import Comparison, Judge, Scorer
from handlers.dedupe.settings import DedupeSettings
from handlers.dedupe.wire import BLOCKED, CLASH, LIFTED, NEED_SHIFT, SAME_SOURCE, Leave, Link, Member, Unlink, link_key
from worker.handling import Call, Dead, Done, Input, Outcome, Record, Reply, Skip, Tx
from worker.topics import Topics

_COUNT: Final = struct.Struct(">Q")


class Comparand(NamedTuple):
    """A member as it is compared."""

    customer: bytes
    version: int
    profile: Profile


class Pairs:
    """See the module."""

    stage = "pairs"
    version = 1

    def __init__(self, topics: Topics, settings: DedupeSettings) -> None:
        """`topics` names where links go."""
        self.inputs = (Input(topics.keys),)
        self._links = topics.links
        self._limit = settings.generic.bucket
        self._review = settings.review
        self._compare = Scorer(settings).compare
        self._judge = Judge(settings)

    def open(self, tx: Tx, partition: int, ends: Mapping[str, int], now: int) -> int | None:  # ruff: ignore[unused-method-argument]
        """Nothing is to be done at the start."""
        return None

    def on_record(self, tx: Tx, record: Record, now: int) -> Outcome:  # ruff: ignore[unused-method-argument]
        """Take a customer that enters, changes in or leaves a bucket."""
        where = record.key or b""
        if len(where) <= KEY_BYTES:
            return Dead("the key is too short")
        stored = tx.get(b"m" + where)
        before = Member.decode(stored) if stored is not None else None
        try:
            if record.value is None:
                return self._leave(tx, record, where, before, Leave.read(record.headers))
            return self._enter(tx, record, where, before, Member.decode(record.value))
        except ValueError:
            return Dead("not a message of the keys stage")

    def on_reply(self, tx: Tx, call: Call, reply: Reply, now: int) -> None:
        """No calls are made here."""

    def on_timer(self, tx: Tx, now: int) -> int | None:  # ruff: ignore[unused-method-argument]
        """No timer is set here."""
        return None

    def _enter(self, tx: Tx, record: Record, where: bytes, before: Member | None, member: Member) -> Outcome:
        if member.version <= (before.version if before is not None else _number(tx.get(b"x" + where))):
            return Skip("seen")
        bucket, customer = _Bucket(self, tx, where[:KEY_BYTES], record.offset), where[KEY_BYTES:]
        new = _comparand(customer, member)
        old = _comparand(customer, before) if before is not None else None
        if bucket.count > self._limit:
            bucket.resize(bucket.count + (before is None))
        else:
            others = bucket.members(but=customer)
            if len(others) + 1 > self._limit:
                bucket.disown(others)
                bucket.resize(len(others) + 1)
            else:
                bucket.meet(old, new, others)
        tx.put(b"m" + where, record.value or b"")
        if member.wants_ack:
            self.acknowledge(tx, where, new.profile.scope, member.version)
        return Done()

    def _leave(self, tx: Tx, record: Record, where: bytes, before: Member | None, leave: Leave) -> Outcome:
        if leave.version <= (before.version if before is not None else _number(tx.get(b"x" + where))):
            return Skip("seen")
        tx.put(b"x" + where, _COUNT.pack(leave.version))
        if before is not None:
            self._remove(tx, record, where, before)
        if leave.wants_ack:
            self.acknowledge(tx, where, leave.scope, leave.version)
        return Done()

    def _remove(self, tx: Tx, record: Record, where: bytes, before: Member) -> None:
        bucket, customer = _Bucket(self, tx, where[:KEY_BYTES], record.offset), where[KEY_BYTES:]
        tx.delete(b"m" + where)
        if bucket.count <= self._limit:
            bucket.meet(_comparand(customer, before), None, bucket.members(but=customer))
            return
        bucket.resize(bucket.count - 1)
        if bucket.count <= self._limit:
            bucket.own(bucket.members(but=customer))

    def supports(self, comparison: Comparison, tag: bytes) -> bool:
        """Return whether a bucket with keys of kind `tag` has anything to say on a pair."""
        if comparison.clash and tag == b"E":
            return True
        if comparison.block is not None:
            return False
        return self._judge.standing(comparison.fields, comparison.need, comparison.best()) >= self._review

    def compare(self, a: Comparand, b: Comparand) -> Comparison:
        """Compare two members; the order does not matter."""
        return self._compare(*((a.profile, b.profile) if a.customer < b.customer else (b.profile, a.profile)))

    def acknowledge(self, tx: Tx, where: bytes, scope: str, version: int) -> None:
        """Tell the clusters that the bucket has seen this version of the customer."""
        tx.send(self._links, b"a" + where, None, [("v", b"%d" % version)], partition_key=scope.encode())

    def send(self, tx: Tx, key: bytes, pair: tuple[Comparand, Comparand], said: Link | Unlink) -> None:
        """Tell the clusters about a pair."""
        a, b = pair
        scope = a.profile.scope.encode()
        if isinstance(said, Link):
            tx.send(self._links, link_key(key, a.customer, b.customer), said.encode(), partition_key=scope)
        else:
            tx.send(self._links, link_key(key, a.customer, b.customer), None, said.headers(), partition_key=scope)


class _Bucket:
    """One bucket during one record, whose offset is `stamp`."""

    def __init__(self, pairs: Pairs, tx: Tx, key: bytes, stamp: int) -> None:
        self._pairs = pairs
        self._tx = tx
        self._key = key
        self._stamp = stamp
        # The members are only counted while there are too many of them.
        self.count = _number(tx.get(b"g" + key))

    def resize(self, count: int) -> None:
        """Note the number of members of a bucket that has, or had, too many."""
        self.count = count
        if count > self._pairs._limit:  # ruff: ignore[private-member-access] - the bucket is a part of the stage
            self._tx.put(b"g" + self._key, _COUNT.pack(count))
        else:
            self._tx.delete(b"g" + self._key)

    def members(self, but: bytes) -> list[Comparand]:
        """Return the members, less one customer."""
        found = self._tx.scan(b"m" + self._key)
        start = 1 + KEY_BYTES
        return [_comparand(key[start:], Member.decode(value)) for key, value in found if key[start:] != but]

    def meet(self, old: Comparand | None, new: Comparand | None, others: Iterable[Comparand]) -> None:
        """Say what has changed between a customer, as it was and as it is, and the others."""
        for other in others:
            if new is not None and self._say(new, other):
                continue
            if old is not None and self._supported(old, other):
                self._retract(old, other, gone=True)

    def own(self, members: list[Comparand]) -> None:
        """Support every pair of the members: there are few enough again."""
        for at, one in enumerate(members):
            for other in members[:at]:
                self._say(one, other)

    def disown(self, members: list[Comparand]) -> None:
        """Retract whatever was supported: there are too many members now."""
        for at, one in enumerate(members):
            for other in members[:at]:
                if self._supported(one, other):
                    self._retract(one, other, gone=False)

    def _supported(self, one: Comparand, other: Comparand) -> bool:
        return self._pairs.supports(self._pairs.compare(one, other), self._key[:1])

    def _say(self, one: Comparand, other: Comparand) -> bool:
        comparison = self._pairs.compare(one, other)
        if not self._pairs.supports(comparison, self._key[:1]):
            return False
        pair = _ordered(one, other)
        flags = (
            comparison.need << NEED_SHIFT
            | BLOCKED * bool(comparison.block)
            | CLASH * comparison.clash
            | LIFTED * comparison.lifted
            | SAME_SOURCE * comparison.same_source
        )
        agreed = "".join(sorted(chr(key[0]) for key in comparison.agreed))
        weight = comparison.agreed.get(self._key, 0.0)
        versions = (pair[0].version, pair[1].version)
        said = Link(versions, self._stamp, comparison.fields, weight, agreed, flags)
        self._pairs.send(self._tx, self._key, pair, said)
        return True

    def _retract(self, one: Comparand, other: Comparand, *, gone: bool) -> None:
        pair = _ordered(one, other)
        said = Unlink((pair[0].version, pair[1].version), self._stamp, gone)
        self._pairs.send(self._tx, self._key, pair, said)


def _ordered(one: Comparand, other: Comparand) -> tuple[Comparand, Comparand]:
    return (one, other) if one.customer < other.customer else (other, one)


def _comparand(customer: bytes, member: Member) -> Comparand:
    return Comparand(customer, member.version, parse(member.keys, member.profile))


def _number(value: bytes | None) -> int:
    return 0 if value is None else int(_COUNT.unpack(value)[0])
