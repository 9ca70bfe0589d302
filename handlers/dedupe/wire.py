"""What the stages say to one another, on the topics `keys` and `links`.

Every message carries the customer's version, because it travels by way of several partitions: what is older than
what the receiver knows is dropped. A version is the customer's sequence, times 2^16: what is between two of them is
kept free.

On `keys`, each partition in which a customer has match keys has one record of the customer's, whose key it is:
- its memberships in the buckets there (`Member`), asking for an acknowledgement or not; or null with headers, when it
  has left them all (`Leave`).
On `links`, everything of one scope is in one partition:
- `n<customer>`: the customer itself (`NodeMessage`), null with headers once it is deleted;
- `l<match key><a><b>`: a pair that met under that key (`Link`), null once it no longer does;
- `a<partition of keys><customer>`: always null; the buckets there have seen this version of the customer.
Nulls go away by compaction, so that what was true once does not stay for ever.
"""

import struct
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import orjson

from handlers.dedupe.profile import KEY_BYTES, split_keys
from worker.events import Headers, header

_FREE_BITS: Final = 16
_MEMBER: Final = struct.Struct(">Q??QHH")
_LENGTH: Final = struct.Struct(">H")


def version_of(sequence: int) -> int:
    """Return the version of a customer's `sequence`."""
    return sequence << _FREE_BITS


def sequence_of(version: int) -> int:
    """Return the customer's sequence of a version."""
    return version >> _FREE_BITS


class Member(NamedTuple):
    """A customer in the buckets of a partition: its identity version, and what `profile.Refined` has of it.

    `keys` are all its match keys one after the other; `here` has a bit for each, from the lowest on, which says whether
    its bucket is in this partition.
    """

    version: int
    wants_ack: bool
    identified: bool
    here: int
    keys: bytes
    brief: bytes
    profile: bytes

    def encode(self) -> bytes:
        """Return the record's value."""
        head = self.version, self.wants_ack, self.identified, self.here, len(self.keys), len(self.brief)
        return _MEMBER.pack(*head) + self.keys + self.brief + self.profile

    @classmethod
    def decode(cls, value: bytes) -> "Member":
        """Read a record's value; raises ValueError for anything else."""
        try:
            version, wants_ack, identified, here, keys, brief = _MEMBER.unpack_from(value)
        except struct.error as error:
            raise ValueError("not a membership") from error
        middle = _MEMBER.size + keys
        end = middle + brief
        parts = value[_MEMBER.size : middle], value[middle:end], value[end:]
        return cls(version, wants_ack, identified, here, *parts)


def read_head(value: bytes) -> tuple[int, bool, list[bytes]]:
    """Return version, `wants_ack` and the match keys of this partition out of an encoded `Member`.

    Raises ValueError for anything else.
    """
    try:
        version, wants_ack, _, here, size, _ = _MEMBER.unpack_from(value)
    except struct.error as error:
        raise ValueError("not a membership") from error
    keys = split_keys(value[_MEMBER.size : _MEMBER.size + size])
    return version, wants_ack, [key for bit, key in enumerate(keys) if here >> bit & 1]


def read_brief(value: bytes) -> tuple[bool, str, str, str, str, str]:
    """Return `identified` and the parts of `brief` out of an encoded `Member`."""
    _, _, identified, _, keys, brief = _MEMBER.unpack_from(value)
    start = _MEMBER.size + keys
    given, middle, family, born, houses = value[start : start + brief].decode().split("\0")
    return identified, given, middle, family, born, houses


class Leave(NamedTuple):
    """A customer has left all buckets of a partition, as of `version`; an acknowledgement goes to the scope."""

    version: int
    wants_ack: bool
    scope: str

    def headers(self) -> Headers:
        """Return the headers that stand for it."""
        return [("v", b"%d" % self.version), ("ack", b"%d" % self.wants_ack), ("scope", self.scope.encode())]

    @classmethod
    def read(cls, headers: Sequence[tuple[str, bytes]]) -> "Leave":
        """Read the headers; raises ValueError where they are not there."""
        return cls(_number(headers, "v"), _number(headers, "ack") == 1, header(headers, "scope") or "")


class NodeMessage(NamedTuple):
    """A customer as the clusters stage needs to know it.

    `version` is that of this message, `identity` the last one that changed what is compared, `expected` how many
    partitions of buckets will acknowledge this version. `data` is `Refined.node`, None on a deletion, whose `identity`
    is the last live one (0 if it is not known).
    """

    version: int
    identity: int
    expected: int
    data: dict[str, Any] | None

    def record(self) -> tuple[bytes | None, Headers | None]:
        """Return value and headers of the record."""
        if self.data is None:
            numbers = (("v", self.version), ("iv", self.identity), ("expect", self.expected))
            return None, [(name, b"%d" % number) for name, number in numbers]
        return orjson.dumps([self.version, self.identity, self.expected, self.data]), None

    @classmethod
    def read(cls, value: bytes | None, headers: Sequence[tuple[str, bytes]]) -> "NodeMessage":
        """Read a record; raises ValueError for anything else."""
        if value is None:
            return cls(_number(headers, "v"), _number(headers, "iv"), _number(headers, "expect"), None)
        version, identity, expected, data = orjson.loads(value)
        return cls(version, identity, expected, data)


class Link(NamedTuple):
    """Two customers that met under a match key.

    `versions` are the identity versions that were compared; `stamp` (the offset that caused it) orders what one bucket
    says. `fields` are the weights in the order of scoring.FIELDS, `weight` what this key adds, `agreed` the tags of all
    values in common, `flags` see below.
    """

    versions: tuple[int, int]
    stamp: int
    fields: tuple[float, ...]
    weight: float
    agreed: str
    flags: int

    def encode(self) -> bytes:
        """Return the record's value."""
        return orjson.dumps([*self.versions, self.stamp, self.weight, self.agreed, self.flags, *self.fields])

    @classmethod
    def decode(cls, value: bytes) -> "Link":
        """Read a record's value; raises ValueError for anything else."""
        a, b, stamp, weight, agreed, flags, *fields = orjson.loads(value)
        return cls((a, b), stamp, tuple(fields), weight, agreed, flags)


# Flags of a link; above them stands what it needs (`scoring.Need`).
BLOCKED: Final = 1
CLASH: Final = 2
SAME_SOURCE: Final = 4
LIFTED: Final = 8
NEED_SHIFT: Final = 4


class Unlink(NamedTuple):
    """A bucket no longer supports a pair. `gone`: because one of the two has another version now, or none."""

    versions: tuple[int, int]
    stamp: int
    gone: bool

    def headers(self) -> Headers:
        """Return the headers that stand for it."""
        numbers = (("va", self.versions[0]), ("vb", self.versions[1]), ("stamp", self.stamp), ("gone", self.gone))
        return [(name, b"%d" % number) for name, number in numbers]

    @classmethod
    def read(cls, headers: Sequence[tuple[str, bytes]]) -> "Unlink":
        """Read the headers; raises ValueError where they are not there."""
        versions = (_number(headers, "va"), _number(headers, "vb"))
        return cls(versions, _number(headers, "stamp"), _number(headers, "gone") == 1)


def ack_key(partition: int, customer: bytes) -> bytes:
    """Return the record key of an acknowledgement."""
    return b"a" + _LENGTH.pack(partition) + customer


def read_ack_key(record_key: bytes) -> tuple[int, bytes]:
    """Return (partition, customer) of `ack_key`; raises ValueError for anything else."""
    start = 1 + _LENGTH.size
    if len(record_key) <= start:
        raise ValueError("not the key of an acknowledgement")
    (partition,) = _LENGTH.unpack_from(record_key, 1)
    return partition, record_key[start:]


def link_key(key: bytes, a: bytes, b: bytes) -> bytes:
    """Return the record key of a pair under a match key; `a` < `b`."""
    return b"l" + key + _LENGTH.pack(len(a)) + a + b


def read_link_key(record_key: bytes) -> tuple[bytes, bytes, bytes]:
    """Return (match key, a, b) of `link_key`; raises ValueError for anything else."""
    start = 1 + KEY_BYTES + _LENGTH.size
    if len(record_key) <= start:
        raise ValueError("not the key of a pair")
    (length,) = _LENGTH.unpack_from(record_key, 1 + KEY_BYTES)
    return record_key[1 : 1 + KEY_BYTES], record_key[start : start + length], record_key[start + length :]


def _number(headers: Sequence[tuple[str, bytes]], name: str) -> int:
    return int(header(headers, name) or "missing")
