"""The second stage, one task a partition of the match keys: which customers that share a key look like one person.

A bucket is the customers that share a match key; every newcomer is compared with each of them. Above
`generic.bucket` members the key identifies nobody: everything it supported is retracted, and until it has shrunk again
its members are only counted, so that a hot key costs no more than any other. What a bucket supports is a function of
its present members alone, so what it supported before is computed again instead of being remembered.
"""

import struct
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from handlers.dedupe.comparand import Profile, parse
from handlers.dedupe.profile import KEY_BYTES
from handlers.dedupe.scoring import Judge, Scorer
from handlers.dedupe.settings import DedupeSettings
from handlers.dedupe.sieve import glance, hopeless
from handlers.dedupe.wire import (
    BLOCKED,
    CLASH,
    LIFTED,
    NEED_SHIFT,
    SAME_SOURCE,
    Leave,
    Link,
    Member,
    Unlink,
    link_key,
    read_version,
)
from worker.handling import Call, Dead, Done, Input, Outcome, Record, Reply, Skip, Tx
from worker.topics import Topics

_COUNT: Final = struct.Struct(">Q")
_HEAD: Final = 1 + KEY_BYTES


class Comparand(NamedTuple):
    """A member as it is compared."""

    customer: bytes
    version: int
    profile: Profile


class Finding(NamedTuple):
    """What buckets say of two profiles, whichever bucket it is: those of e-mail addresses, and all others.

    `fields`, `agreed` and `flags` are those of a `Link`, `weights` what each value in common adds.
    """

    by_email: bool
    by_others: bool
    fields: tuple[float, ...]
    agreed: str
    flags: int
    weights: dict[bytes, float]


class Pairs:
    """See the module."""

    stage = "pairs"
    version = 3

    def __init__(self, topics: Topics, settings: DedupeSettings) -> None:
        """`topics` names where links go."""
        self.inputs = (Input(topics.keys),)
        self._links = topics.links
        self.limit = settings.generic.bucket
        self.vetoes = settings.vetoes
        self._review = settings.review
        self._compare = Scorer(settings).compare
        self._judge = Judge(settings)
        # Two who meet do so under several keys: what is said of them is worked out once.
        self._find = lru_cache(8_192)(self._found)

    def open(self, tx: Tx, partition: int, ends: Mapping[str, int], now: int) -> int | None:  # ruff: ignore[unused-method-argument]
        """Nothing is to be done at the start."""
        return None

    def on_record(self, tx: Tx, record: Record, now: int) -> Outcome:  # ruff: ignore[unused-method-argument]
        """Take a customer that enters, changes in or leaves a bucket."""
        where = record.key or b""
        if len(where) <= KEY_BYTES:
            return Dead("the key is too short")
        try:
            if record.value is None:
                return self._leave(tx, record, where, Leave.read(record.headers))
            return self._enter(tx, record, where, record.value)
        except ValueError:
            return Dead("not a message of the keys stage")

    def on_reply(self, tx: Tx, call: Call, reply: Reply, now: int) -> None:
        """No calls are made here."""

    def on_timer(self, tx: Tx, now: int) -> int | None:  # ruff: ignore[unused-method-argument]
        """No timer is set here."""
        return None

    def _enter(self, tx: Tx, record: Record, where: bytes, value: bytes) -> Outcome:
        version, wants_ack = read_version(value)
        if next(tx.scan(b"m" + where[:KEY_BYTES]), None) is None:  # most are the first to come
            if version <= _last(tx, where, None):
                return Skip("seen")
        elif not self._join(tx, record, where, version, value):
            return Skip("seen")
        tx.put(b"m" + where, value)
        if wants_ack:
            self.acknowledge(tx, where, _comparand(where[KEY_BYTES:], value).profile.scope, version)
        return Done()

    def _join(self, tx: Tx, record: Record, where: bytes, version: int, value: bytes) -> bool:
        """Say what a member's new version means to the others in its bucket; False if it is none."""
        bucket, customer = _Bucket(self, tx, where[:KEY_BYTES], record.offset), where[KEY_BYTES:]
        before = bucket.take(customer)
        if version <= _last(tx, where, before):
            return False
        if bucket.crowded:
            bucket.resize(bucket.count + (before is None))
        elif len(bucket.others) >= self.limit:
            bucket.disown()
            bucket.resize(len(bucket.others) + 1)
        elif bucket.others:
            bucket.meet(customer, before, value)
        return True

    def _leave(self, tx: Tx, record: Record, where: bytes, leave: Leave) -> Outcome:
        bucket, customer = _Bucket(self, tx, where[:KEY_BYTES], record.offset), where[KEY_BYTES:]
        before = bucket.take(customer)
        if leave.version <= _last(tx, where, before):
            return Skip("seen")
        tx.put(b"x" + where, _COUNT.pack(leave.version))
        if before is not None:
            tx.delete(b"m" + where)
            if bucket.crowded:
                bucket.resize(bucket.count - 1)
            else:
                bucket.meet(customer, before, None)
        if leave.wants_ack:
            self.acknowledge(tx, where, leave.scope, leave.version)
        return Done()

    def compare(self, a: Comparand, b: Comparand) -> Finding:
        """Compare two members; the order does not matter."""
        return self._find(*((a.profile, b.profile) if a.customer < b.customer else (b.profile, a.profile)))

    def _found(self, a: Profile, b: Profile) -> Finding:
        comparison = self._compare(a, b)
        supported = comparison.block is None and (
            self._judge.standing(comparison.fields, comparison.need, comparison.best()) >= self._review
        )
        flags = (
            comparison.need << NEED_SHIFT
            | BLOCKED * bool(comparison.block)
            | CLASH * comparison.clash
            | LIFTED * comparison.lifted
            | SAME_SOURCE * comparison.same_source
        )
        agreed = "".join(sorted(chr(key[0]) for key in comparison.agreed))
        by_email = supported or comparison.clash
        return Finding(by_email, supported, comparison.fields, agreed, flags, comparison.agreed)

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
    """One bucket during one record, whose offset is `stamp`.

    Its members are `others`, as they are encoded, unless it is `crowded`: while it has too many they are only counted,
    under the bucket's own key, which precedes those of the members.
    """

    __slots__ = ("_key", "_pairs", "_stamp", "_tx", "count", "crowded", "others")

    def __init__(self, pairs: Pairs, tx: Tx, key: bytes, stamp: int) -> None:
        self._pairs = pairs
        self._tx = tx
        self._key = key
        self._stamp = stamp
        self.crowded = False
        self.count = 0
        self.others: dict[bytes, bytes] = {}
        self._read()

    def _read(self) -> None:
        for key, value in self._tx.scan(b"m" + self._key):
            if len(key) > _HEAD:
                self.others[key[_HEAD:]] = value
            elif self.count == 0:
                self.crowded, self.count = True, _number(value)
                return

    def take(self, customer: bytes) -> bytes | None:
        """Return a member as it is known, None if it is not one; it is not among the others any more."""
        return self._tx.get(b"m" + self._key + customer) if self.crowded else self.others.pop(customer, None)

    def resize(self, count: int) -> None:
        """Note the number of members of a bucket that has, or had, too many."""
        if count > self._pairs.limit:
            self._tx.put(b"m" + self._key, _COUNT.pack(count))
        else:
            self._tx.delete(b"m" + self._key)
            self.crowded, self.count = False, -1
            self._read()
            self._own()

    def meet(self, customer: bytes, before: bytes | None, after: bytes | None) -> None:
        """Say what has changed between a customer, as it was and as it is, and the others."""
        new, old = self._candidates(after), self._candidates(before)
        is_ = _comparand(customer, after) if new and after is not None else None
        was = _comparand(customer, before) if old and before is not None else None
        for name in dict.fromkeys((*new, *old)):
            other = _comparand(name, self.others[name])
            if is_ is not None and name in new and self._say(is_, other):
                continue
            if was is not None and name in old and self._supported(was, other):
                self._retract(was, other, gone=True)

    def disown(self) -> None:
        """Retract whatever was supported: there are too many members now."""
        for one, other in self._pairs_within():
            if self._supported(one, other):
                self._retract(one, other, gone=False)

    def _own(self) -> None:
        """Support every pair of the members: there are few enough again."""
        for one, other in self._pairs_within():
            self._say(one, other)

    def _pairs_within(self) -> Iterator[tuple[Comparand, Comparand]]:
        members = dict(self.others)
        for name, value in members.items():
            del self.others[name]
            one = _comparand(name, value)
            for other in self._candidates(value):
                yield one, _comparand(other, self.others[other])
        self.others = members

    def _candidates(self, value: bytes | None) -> list[bytes]:
        """Return the others that have to be compared with a member."""
        if value is None or not self.others:
            return []
        one, vetoes = glance(value), self._pairs.vetoes
        return [name for name, other in self.others.items() if not hopeless(one, other, vetoes)]

    def _supported(self, one: Comparand, other: Comparand) -> bool:
        return self._supports(self._pairs.compare(one, other))

    def _supports(self, finding: Finding) -> bool:
        return finding.by_email if self._key[:1] == b"E" else finding.by_others

    def _say(self, one: Comparand, other: Comparand) -> bool:
        finding = self._pairs.compare(one, other)
        if not self._supports(finding):
            return False
        pair = _ordered(one, other)
        weight = finding.weights.get(self._key, 0.0)
        versions = (pair[0].version, pair[1].version)
        said = Link(versions, self._stamp, finding.fields, weight, finding.agreed, finding.flags)
        self._pairs.send(self._tx, self._key, pair, said)
        return True

    def _retract(self, one: Comparand, other: Comparand, *, gone: bool) -> None:
        pair = _ordered(one, other)
        said = Unlink((pair[0].version, pair[1].version), self._stamp, gone)
        self._pairs.send(self._tx, self._key, pair, said)


def _ordered(one: Comparand, other: Comparand) -> tuple[Comparand, Comparand]:
    return (one, other) if one.customer < other.customer else (other, one)


def _comparand(customer: bytes, value: bytes) -> Comparand:
    return Comparand(customer, *_parsed(value))


@lru_cache(8_192)
def _parsed(value: bytes) -> tuple[int, Profile]:
    member = Member.decode(value)
    return member.version, parse(member.keys, member.profile)


def _last(tx: Tx, where: bytes, before: bytes | None) -> int:
    """Return the newest version that is known of a customer in a bucket, also after it has left."""
    return _number(tx.get(b"x" + where)) if before is None else read_version(before)[0]


def _number(value: bytes | None) -> int:
    return 0 if value is None else int(_COUNT.unpack(value)[0])
