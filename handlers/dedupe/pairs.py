"""The second stage, one task a partition of the match keys: which customers that share a key look like one person.

A bucket is the customers that share a match key; every newcomer is compared with each of them. Above `generic.bucket`
members the key identifies nobody: everything it supported is retracted, and until it has shrunk again its members are
only counted, so that a hot key costs no more than any other. What a bucket supports is a function of its present
members alone, so what it supported before is computed again instead of being remembered.

The state, by key: `c<customer>` a customer as it came, once for all its buckets in this partition, or only the version
of one that has left them all; `m<match key><customer>` nothing, for a customer in a bucket; `m<match key>` how many
these are, if they are too many.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from handlers.dedupe.comparand import Profile, parse
from handlers.dedupe.graph import source_of
from handlers.dedupe.profile import KEY_BYTES
from handlers.dedupe.scoring import VALUE_TAGS, Judge, Scorer
from handlers.dedupe.settings import DedupeSettings
from handlers.dedupe.sieve import Glance, Sieve, glance
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
    ack_key,
    link_key,
    read_head,
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


class Comparer:
    """Says what buckets have to say of two profiles."""

    def __init__(self, settings: DedupeSettings) -> None:
        """Take from `settings` how large a bucket may be, what is sorted out at a glance, and the threshold."""
        self.limit = settings.generic.bucket
        self.hopeless = Sieve(settings).hopeless
        self._review = settings.review
        self._compare = Scorer(settings).compare
        self._judge = Judge(settings)

    def one_to_one(self, one: bytes, other: bytes) -> bool:
        """Return whether two customers are of sources that have the same people, each of them once."""
        if not self._judge.some_are_one_to_one:
            return False
        return self._judge.one_to_one(source_of(one.decode()), source_of(other.decode()))

    def compare(self, a: Profile, b: Profile) -> Finding:
        """Compare two members, the one first that comes first in the order of their keys."""
        comparison, judge = self._compare(a, b), self._judge
        fields, best = comparison.fields, comparison.best()
        supported = comparison.block is None and (
            judge.standing(fields, comparison.need, best) >= self._review
            or (judge.one_to_one(a.source, b.source) and judge.linked_but_for_doubt(fields, best))
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
        return Finding(by_email, supported, fields, agreed, flags, comparison.agreed)


class Pairs:
    """See the module."""

    stage = "pairs"
    version = 5

    def __init__(self, topics: Topics, comparer: Comparer) -> None:
        """`topics` names where links go."""
        self.inputs = (Input(topics.keys),)
        self.comparer = comparer
        self._links = topics.links

    def open(self, tx: Tx, partition: int, ends: Mapping[str, int], now: int) -> int | None:  # ruff: ignore[unused-method-argument]
        """Nothing is to be done at the start."""
        return None

    def on_record(self, tx: Tx, record: Record, now: int) -> Outcome:  # ruff: ignore[unused-method-argument]
        """Take a customer that enters, changes in or leaves buckets."""
        customer = record.key
        if not customer:
            return Dead("there is no key")
        try:
            if record.value is None:
                return self._leave(tx, record, customer, Leave.read(record.headers))
            return self._take(tx, record, customer, record.value)
        except ValueError:
            return Dead("not a message of the keys stage")

    def on_reply(self, tx: Tx, call: Call, reply: Reply, now: int) -> None:
        """No calls are made here."""

    def on_timer(self, tx: Tx, now: int) -> int | None:  # ruff: ignore[unused-method-argument]
        """No timer is set here."""
        return None

    def _take(self, tx: Tx, record: Record, customer: bytes, value: bytes) -> Outcome:
        version, wants_ack, keys = read_head(value)
        before, last, left = _known(tx, customer)
        if version <= last:
            return Skip("seen")
        meeting = _Meeting(self, tx, record.offset, customer, before, value)
        meeting.look(value)  # what cannot be read is refused before anything is written
        scope = meeting.comparand(customer, value).profile.scope
        for key in keys:
            bucket = _Bucket(meeting, key)
            if key in left:
                bucket.renew()
            else:
                bucket.enter()
        for key in left:
            if key not in keys:
                _Bucket(meeting, key).leave()
        tx.put(b"c" + customer, value)
        if wants_ack:
            self._acknowledge(tx, record, scope, version)
        return Done()

    def _leave(self, tx: Tx, record: Record, customer: bytes, leave: Leave) -> Outcome:
        before, last, left = _known(tx, customer)
        if leave.version <= last:
            return Skip("seen")
        meeting = _Meeting(self, tx, record.offset, customer, before, None)
        for key in left:
            _Bucket(meeting, key).leave()
        tx.put(b"c" + customer, _COUNT.pack(leave.version))
        if leave.wants_ack:
            self._acknowledge(tx, record, leave.scope, leave.version)
        return Done()

    def _acknowledge(self, tx: Tx, record: Record, scope: str, version: int) -> None:
        """Tell the clusters that the buckets of this partition have seen this version of the customer."""
        key = ack_key(record.partition, record.key or b"")
        tx.send(self._links, key, None, [("v", b"%d" % version)], partition_key=scope.encode())

    def send(self, tx: Tx, key: bytes, pair: tuple[Comparand, Comparand], said: Link | Unlink) -> None:
        """Tell the clusters about a pair."""
        a, b = pair
        scope = a.profile.scope.encode()
        if isinstance(said, Link):
            tx.send(self._links, link_key(key, a.customer, b.customer), said.encode(), partition_key=scope)
        else:
            tx.send(self._links, link_key(key, a.customer, b.customer), None, said.headers(), partition_key=scope)


@dataclass(slots=True, eq=False)
class _Meeting:
    """What one record's customer, as it was `before` and is `after` it, meets: each member is read and compared once.

    Nothing of it is kept for the next record, since who is met then is somebody else, mostly. `stamp` is the record's
    offset.
    """

    pairs: Pairs
    tx: Tx
    stamp: int
    customer: bytes
    before: bytes | None
    after: bytes | None
    _members: dict[bytes, bytes] = field(default_factory=dict)
    _looked: dict[bytes, tuple[Glance, dict[bytes, bool]]] = field(default_factory=dict)
    _comparands: dict[tuple[bytes, bytes], Comparand] = field(default_factory=dict)
    _findings: dict[tuple[Profile, Profile], Finding] = field(default_factory=dict)

    def member(self, name: bytes) -> bytes:
        """Return another member, as it is encoded."""
        found = self._members.get(name)
        if found is None:
            found = self.tx.get(b"c" + name)
            if found is None:
                raise AssertionError("a bucket has a member that is in no bucket")
            self._members[name] = found
        return found

    def look(self, value: bytes) -> tuple[Glance, dict[bytes, bool]]:
        """Return what is looked at of a member, as it is encoded, and for whom of others it was hopeless or not."""
        found = self._looked.get(value)
        if found is None:
            found = self._looked[value] = glance(value), {}
        return found

    def candidates(self, customer: bytes, value: bytes | None, names: Iterable[bytes]) -> list[bytes]:
        """Return who of others has to be compared with a member, as it is encoded."""
        if value is None:
            return []
        one, looked = self.look(value)
        found, comparer = [], self.pairs.comparer
        for name in names:
            without = looked.get(name)
            if without is None:
                without = not comparer.one_to_one(customer, name) and comparer.hopeless(one, self.member(name))
                looked[name] = without
            if not without:
                found.append(name)
        return found

    def comparand(self, name: bytes, value: bytes) -> Comparand:
        """Return a customer, which is encoded in `value`, as it is compared."""
        found = self._comparands.get((name, value))
        if found is None:
            member = Member.decode(value)
            found = self._comparands[name, value] = Comparand(name, member.version, parse(member.keys, member.profile))
        return found

    def compare(self, one: Comparand, other: Comparand) -> Finding:
        """Compare two customers; the order does not matter."""
        pair = (one.profile, other.profile) if one.customer < other.customer else (other.profile, one.profile)
        found = self._findings.get(pair)
        if found is None:
            found = self._findings[pair] = self.pairs.comparer.compare(*pair)
        return found


class _Bucket:
    """One bucket during one record.

    `others` are its members but the record's customer, unless it is `crowded`: while it has too many they are only
    counted, under the bucket's own key, which precedes those of the members.
    """

    __slots__ = ("_key", "_meeting", "_tx", "count", "crowded", "others")

    def __init__(self, meeting: _Meeting, key: bytes) -> None:
        self._meeting = meeting
        self._tx = meeting.tx
        self._key = key
        self.crowded = False
        self.count = 0
        self.others: list[bytes] = []
        self._read()

    def _read(self) -> None:
        customer = self._meeting.customer
        for key, value in self._tx.scan(b"m" + self._key):
            name = key[_HEAD:]
            if not name:
                self.crowded, self.count = True, _number(value)
                return
            if name != customer:
                self.others.append(name)

    def enter(self) -> None:
        """Take the customer in."""
        if self.crowded:
            self._resize(self.count + 1)
            if not self.crowded:  # the limit was raised
                self._meet(None, self._meeting.after)
        elif len(self.others) >= self._meeting.pairs.comparer.limit:
            self._disown()
            self._resize(len(self.others) + 1)
        elif self.others:
            self._meet(None, self._meeting.after)
        self._tx.put(b"m" + self._key + self._meeting.customer, b"")

    def renew(self) -> None:
        """Say what the customer's change means to the others."""
        if self.crowded and self.count <= self._meeting.pairs.comparer.limit:  # the limit was raised
            self._resize(self.count)
            self._meet(None, self._meeting.after)
        elif len(self.others) >= self._meeting.pairs.comparer.limit:  # the limit was lowered
            self._meet(self._meeting.before, None)
            self._disown()
            self._resize(len(self.others) + 1)
        elif self.others:
            self._meet(self._meeting.before, self._meeting.after)

    def leave(self) -> None:
        """Let the customer go."""
        self._tx.delete(b"m" + self._key + self._meeting.customer)
        if self.crowded:
            self._resize(self.count - 1)
        elif self.others:
            self._meet(self._meeting.before, None)
            if len(self.others) > self._meeting.pairs.comparer.limit:  # the limit was lowered
                self._disown()
                self._resize(len(self.others))

    def _resize(self, count: int) -> None:
        """Note the number of members of a bucket that has, or had, too many."""
        if count > self._meeting.pairs.comparer.limit:
            self._tx.put(b"m" + self._key, _COUNT.pack(count))
        else:
            self._tx.delete(b"m" + self._key)
            self.crowded = False
            self._read()
            self._own()

    def _meet(self, before: bytes | None, after: bytes | None) -> None:
        """Say what has changed between the customer, as it was and as it is, and the others."""
        meeting = self._meeting
        customer = meeting.customer
        new, old = (meeting.candidates(customer, value, self.others) for value in (after, before))
        is_ = meeting.comparand(meeting.customer, after) if new and after is not None else None
        was = meeting.comparand(meeting.customer, before) if old and before is not None else None
        for name in dict.fromkeys((*new, *old)):
            other = meeting.comparand(name, meeting.member(name))
            if is_ is not None and name in new and self._say(is_, other):
                continue
            if was is not None and name in old and self._supported(was, other):
                self._retract(was, other, gone=True)

    def _disown(self) -> None:
        """Retract whatever was supported: there are too many members now.

        A value in common is retracted from all pairs, since other settings may have supported what these do not.
        """
        every = self._key[0] in VALUE_TAGS
        for one, other in self._pairs_within(every=every):
            if every or self._supported(one, other):
                self._retract(one, other, gone=False)

    def _own(self) -> None:
        """Support every pair of the members: there are few enough again."""
        for one, other in self._pairs_within():
            self._say(one, other)

    def _pairs_within(self, *, every: bool = False) -> Iterator[tuple[Comparand, Comparand]]:
        """Yield the pairs of members that have to be compared, or every one."""
        meeting = self._meeting
        for place, name in enumerate(self.others, 1):
            value, rest = meeting.member(name), self.others[place:]
            for other in rest if every else meeting.candidates(name, value, rest):
                yield meeting.comparand(name, value), meeting.comparand(other, meeting.member(other))

    def _supported(self, one: Comparand, other: Comparand) -> bool:
        return self._supports(self._meeting.compare(one, other))

    def _supports(self, finding: Finding) -> bool:
        return finding.by_email if self._key[:1] == b"E" else finding.by_others

    def _say(self, one: Comparand, other: Comparand) -> bool:
        finding = self._meeting.compare(one, other)
        if not self._supports(finding):
            return False
        pair = _ordered(one, other)
        weight = finding.weights.get(self._key, 0.0)
        versions = (pair[0].version, pair[1].version)
        said = Link(versions, self._meeting.stamp, finding.fields, weight, finding.agreed, finding.flags)
        self._meeting.pairs.send(self._tx, self._key, pair, said)
        return True

    def _retract(self, one: Comparand, other: Comparand, *, gone: bool) -> None:
        pair = _ordered(one, other)
        said = Unlink((pair[0].version, pair[1].version), self._meeting.stamp, gone)
        self._meeting.pairs.send(self._tx, self._key, pair, said)


def _ordered(one: Comparand, other: Comparand) -> tuple[Comparand, Comparand]:
    return (one, other) if one.customer < other.customer else (other, one)


def _known(tx: Tx, customer: bytes) -> tuple[bytes | None, int, list[bytes]]:
    """Return a customer of this partition as it is known, with its newest version and its match keys here.

    Of one that has left only the version is known, 0 if it was never here.
    """
    before = tx.get(b"c" + customer)
    if before is None or len(before) == _COUNT.size:
        return None, _number(before), []
    version, _, keys = read_head(before)
    return before, version, keys


def _number(value: bytes | None) -> int:
    return 0 if value is None else int(_COUNT.unpack(value)[0])
