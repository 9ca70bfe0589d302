"""The first stage, one task a partition of `customers.latest`: which match keys a customer has.

Guarantees: an event is handled once, by its sequence; what goes on is the difference to what went on before, and the
node record of a change precedes, in its topic, whatever the buckets make of that change, since both leave here in one
transaction. A change of what is compared asks every partition with buckets concerned for an acknowledgement, and tells
the clusters how many to expect: that is how they know when all evidence on a customer's last version is in.
"""

import struct
from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import blake2b
from typing import Final, NamedTuple

import orjson

from handlers.dedupe.profile import Raw, Refined, Refiner, extract, split_keys
from handlers.dedupe.wire import Leave, Member, NodeMessage, sequence_of, version_of
from worker.events import DELETED, header
from worker.handling import Call, Dead, Done, Input, Outcome, Record, Reply, Skip, Tx
from worker.topics import Topics, partition_of

MAX_KEY: Final = 400
_STATE: Final = struct.Struct(">QQBB16s")
# Twelve bits of a match key say in which partition its bucket is.
_PLACES: Final = 4096


class Known(NamedTuple):
    """What is remembered of a customer: the version seen, the identity version, the match keys, two digests."""

    version: int
    identity: int
    live: bool
    scope: str
    keys: tuple[bytes, ...]
    digests: bytes

    def encode(self) -> bytes:
        """Return it as state."""
        scope = self.scope.encode()
        head = _STATE.pack(self.version, self.identity, self.live, len(scope), self.digests)
        return head + scope + b"".join(self.keys)

    @classmethod
    def decode(cls, value: bytes) -> "Known":
        """Read the state."""
        version, identity, live, length, digests = _STATE.unpack_from(value)
        begin = _STATE.size + length
        scope, keys = value[_STATE.size : begin].decode(), tuple(split_keys(value[begin:]))
        return cls(version, identity, bool(live), scope, keys, digests)


class Keys:
    """See the module."""

    stage = "keys"
    version = 4

    def __init__(self, topics: Topics, refiner: Refiner) -> None:
        """`topics` names where memberships and customers go, and says how many partitions there are."""
        self.inputs = (Input(topics.latest),)
        self._to_buckets, self._to_clusters = topics.keys, topics.links
        self._refiner = refiner
        self._places = _places(topics.partitions)

    def open(self, tx: Tx, partition: int, ends: Mapping[str, int], now: int) -> int | None:  # ruff: ignore[unused-method-argument]
        """Nothing is to be done at the start."""
        return None

    def on_record(self, tx: Tx, record: Record, now: int) -> Outcome:  # ruff: ignore[unused-method-argument]
        """Take a newest customer, or its deletion."""
        customer = record.key or b""
        if not 1 <= len(customer) <= MAX_KEY:
            return Dead("the key is missing or too long")
        sequence = header(record.headers, "ce_sequence") or ""
        if not sequence.isdecimal():
            return Dead("no sequence")
        stored = tx.get(b"c" + customer)
        known = Known.decode(stored) if stored is not None else None
        version = version_of(int(sequence))
        if known is not None and sequence_of(known.version) >= int(sequence):
            return Skip("seen")
        if record.value is None:
            if header(record.headers, "ce_type") != DELETED:
                return Dead("a null that is not a deletion")
            self._delete(tx, customer, known, version)
            return Done()
        try:
            raw = extract(orjson.loads(record.value))
        except (ValueError, KeyError, TypeError, AttributeError):
            return Dead("not a normalized customer")
        self._put(tx, customer, known, version, raw)
        return Done()

    def on_reply(self, tx: Tx, call: Call, reply: Reply, now: int) -> None:
        """No calls are made here."""

    def on_timer(self, tx: Tx, now: int) -> int | None:  # ruff: ignore[unused-method-argument]
        """No timer is set here."""
        return None

    def _put(self, tx: Tx, customer: bytes, known: Known | None, version: int, raw: Raw) -> None:
        before = known if known is not None and known.live else None
        # A known customer keeps its scope, whatever the settings say now, also when it was deleted and comes back:
        # another scope is another partition, and nothing would order what the two publish of it.
        refined = self._refiner.refine(raw, known.scope if known is not None and known.scope else None)
        digests = _digests(refined)
        same = before is not None and before.digests[:8] == digests[:8]
        identity = before.identity if before is not None and same else version
        if before is None or before.digests != digests:
            spread = self._spread(refined.keys)
            left = () if before is None or same else self._spread(before.keys).keys() - spread.keys()
            expected = len(spread) + len(left) if before is not None and not same else 0
            self._node(tx, customer, refined.node["scope"], NodeMessage(version, identity, expected, refined.node))
            if not same:
                self._members(tx, customer, refined, spread, version, wants_ack=before is not None)
                self._leave(tx, customer, left, Leave(version, True, refined.node["scope"]))
        now_known = Known(version, identity, True, refined.node["scope"], refined.keys, digests)
        tx.put(b"c" + customer, now_known.encode())

    def _delete(self, tx: Tx, customer: bytes, known: Known | None, version: int) -> None:
        # A customer that is not known here may be known further on, if this stage has lost its state.
        live = known if known is not None and known.live else None
        scope = known.scope if known is not None and known.scope else self._scope(customer)
        spread = self._spread(live.keys if live else ())
        self._node(tx, customer, scope, NodeMessage(version, live.identity if live else 0, len(spread), None))
        self._leave(tx, customer, spread, Leave(version, True, scope))
        tx.put(b"c" + customer, Known(version, 0, False, scope, (), bytes(16)).encode())

    def _scope(self, customer: bytes) -> str:
        return self._refiner.scope_of(customer.partition(b"/")[0].decode(errors="replace"))

    def _node(self, tx: Tx, customer: bytes, scope: str, message: NodeMessage) -> None:
        value, headers = message.record()
        tx.send(self._to_clusters, b"n" + customer, value, headers, partition_key=scope.encode())

    def _spread(self, keys: Iterable[bytes]) -> dict[bytes, int]:
        """Return which match keys are in which partition: a bit each, by what stands for the partition."""
        spread: dict[bytes, int] = {}
        for bit, key in enumerate(keys):
            place = self._places[key[1] << 4 | key[2] >> 4]
            spread[place] = spread.get(place, 0) | 1 << bit
        return spread

    def _members(
        self, tx: Tx, customer: bytes, refined: Refined, spread: Mapping[bytes, int], version: int, *, wants_ack: bool
    ) -> None:
        profile, brief, identified, keys, _ = refined
        joined = b"".join(keys)
        for place, here in spread.items():
            value = Member(version, wants_ack, identified, here, joined, brief, profile).encode()
            tx.send(self._to_buckets, customer, value, partition_key=place)

    def _leave(self, tx: Tx, customer: bytes, places: Iterable[bytes], leave: Leave) -> None:
        headers = leave.headers()
        for place in sorted(places):
            tx.send(self._to_buckets, customer, None, headers, partition_key=place)


@lru_cache(1)
def _places(partitions: int) -> tuple[bytes, ...]:
    """Return, for each place, the key that stands for its partition: that of the first place there."""
    first: dict[int, bytes] = {}
    places = (number.to_bytes(2) for number in range(_PLACES))
    return tuple(first.setdefault(partition_of(place, partitions), place) for place in places)


def _digests(refined: Refined) -> bytes:
    identity = blake2b(b"".join(refined.keys) + refined.profile, digest_size=8).digest()
    return identity + blake2b(orjson.dumps(refined.node), digest_size=8).digest()
