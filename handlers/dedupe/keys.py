"""The first stage, one task a partition of `customers.latest`: which match keys a customer has.

Guarantees: an event is handled once, by its sequence; what goes on is the difference to what went on before, and the
node record of a change precedes, in its topic, whatever the buckets make of that change, since both leave here in one
transaction. A change of what is compared asks every bucket concerned for an acknowledgement, and tells the clusters
how many to expect: that is how they know when all evidence on a customer's last version is in.
"""

import struct
from collections.abc import Mapping
from hashlib import blake2b
from typing import Final, NamedTuple

import orjson

from handlers.dedupe.profile import KEY_BYTES, Hasher, Raw, Refined, Refiner, extract
from handlers.dedupe.settings import DedupeSettings
from handlers.dedupe.wire import Leave, Member, NodeMessage, sequence_of, version_of
from worker.events import DELETED, header
from worker.handling import Call, Dead, Done, Input, Outcome, Record, Reply, Skip, Tx
from worker.topics import Topics

MAX_KEY: Final = 400
_STATE: Final = struct.Struct(">QQBB16s")
# Two bytes of a match key say in which partition it is: a key to hash that comes again and again.
_PLACE: Final = slice(1, 3)


class Known(NamedTuple):
    """What is remembered of a customer: the version seen, the identity version, the match keys, two digests."""

    version: int
    identity: int
    live: bool
    scope: str
    keys: tuple[bytes, ...]
    digests: bytes
    raw: bytes

    def encode(self) -> bytes:
        """Return it as state."""
        scope = self.scope.encode()
        head = _STATE.pack(self.version, self.identity, self.live, len(scope), self.digests)
        return head + bytes((len(self.keys),)) + scope + b"".join(self.keys) + self.raw

    @classmethod
    def decode(cls, value: bytes) -> "Known":
        """Read the state."""
        version, identity, live, length, digests = _STATE.unpack_from(value)
        at = _STATE.size + 1
        begin = at + length
        end = begin + value[at - 1] * KEY_BYTES
        keys = tuple(value[i : i + KEY_BYTES] for i in range(begin, end, KEY_BYTES))
        return cls(version, identity, bool(live), value[at:begin].decode(), keys, digests, value[end:])


class Keys:
    """See the module."""

    stage = "keys"
    version = 3

    def __init__(self, topics: Topics, settings: DedupeSettings, hasher: Hasher) -> None:
        """`hasher` is the installation's keyed hash."""
        self.inputs = (Input(topics.latest),)
        self._to_buckets, self._to_clusters = topics.keys, topics.links
        self._settings = settings
        self._refiner = Refiner(settings, hasher)

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
        version = version_of(int(sequence), 0)
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
        refined = self._refiner.refine(raw)
        digests = _digests(refined)
        before = known if known is not None and known.live else None
        same = before is not None and before.digests[:8] == digests[:8]
        identity = before.identity if before is not None and same else version
        if before is None or before.digests != digests:
            left = () if before is None or same else tuple(key for key in before.keys if key not in refined.keys)
            expected = len(refined.keys) + len(left) if before is not None and not same else 0
            self._node(tx, customer, refined.node["scope"], NodeMessage(version, identity, expected, refined.node))
            if not same:
                self._members(tx, customer, refined, version, wants_ack=before is not None)
                self._leave(tx, customer, left, Leave(version, True, refined.node["scope"]))
        now_known = Known(version, identity, True, refined.node["scope"], refined.keys, digests, orjson.dumps(raw))
        tx.put(b"c" + customer, now_known.encode())

    def _delete(self, tx: Tx, customer: bytes, known: Known | None, version: int) -> None:
        # A customer that is not known here may be known further on, if this stage has lost its state.
        live = known if known is not None and known.live else None
        scope = live.scope if live else self._scope(customer)
        keys = live.keys if live else ()
        self._node(tx, customer, scope, NodeMessage(version, live.identity if live else 0, len(keys), None))
        self._leave(tx, customer, keys, Leave(version, True, scope))
        tx.put(b"c" + customer, Known(version, 0, False, "", (), bytes(16), b"").encode())

    def _scope(self, customer: bytes) -> str:
        return self._settings.scope_of(customer.partition(b"/")[0].decode(errors="replace"))

    def _node(self, tx: Tx, customer: bytes, scope: str, message: NodeMessage) -> None:
        value, headers = message.record()
        tx.send(self._to_clusters, b"n" + customer, value, headers, partition_key=scope.encode())

    def _members(self, tx: Tx, customer: bytes, refined: Refined, version: int, *, wants_ack: bool) -> None:
        profile, brief, identified, keys, _ = refined
        value = Member(version, wants_ack, identified, b"".join(keys), brief, profile).encode()
        for key in keys:
            tx.send(self._to_buckets, key + customer, value, partition_key=key[_PLACE])

    def _leave(self, tx: Tx, customer: bytes, keys: tuple[bytes, ...], leave: Leave) -> None:
        headers = leave.headers()
        for key in keys:
            tx.send(self._to_buckets, key + customer, None, headers, partition_key=key[_PLACE])


def _digests(refined: Refined) -> bytes:
    identity = blake2b(b"".join(refined.keys) + refined.profile, digest_size=8).digest()
    return identity + blake2b(orjson.dumps(refined.node), digest_size=8).digest()
