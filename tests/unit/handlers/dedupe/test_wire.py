"""What the stages say to one another is read as it was written, and anything else is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.dedupe.profile import KEY_BYTES, MAX_KEYS
from handlers.dedupe.wire import (
    Leave,
    Link,
    Member,
    NodeMessage,
    Unlink,
    ack_key,
    link_key,
    read_ack_key,
    read_brief,
    read_head,
    read_link_key,
    sequence_of,
    version_of,
)

versions = st.integers(1, 2**64 - 1)
sequences = st.integers(1, 2**47)
names = st.text("abcdefghij ", max_size=20)


@given(sequences)
def test_a_version_has_its_sequence(sequence: int) -> None:
    """Later sequences are later versions."""
    assert sequence_of(version_of(sequence)) == sequence
    assert version_of(sequence) < version_of(sequence + 1)


@given(
    version=versions,
    wants_ack=st.booleans(),
    identified=st.booleans(),
    keys=st.lists(st.tuples(st.binary(min_size=KEY_BYTES, max_size=KEY_BYTES), st.booleans()), max_size=MAX_KEYS),
    parts=st.lists(names, min_size=5, max_size=5),
)
def test_a_membership_is_read_as_written(
    *, version: int, wants_ack: bool, identified: bool, keys: list[tuple[bytes, bool]], parts: list[str]
) -> None:
    """The whole of it, and the parts that are looked at first."""
    here = sum(1 << bit for bit, (_, is_here) in enumerate(keys) if is_here)
    joined = b"".join(key for key, _ in keys)
    said = Member(version, wants_ack, identified, here, joined, "\0".join(parts).encode(), b'["profile"]')
    assert Member.decode(said.encode()) == said
    assert read_head(said.encode()) == (version, wants_ack, [key for key, is_here in keys if is_here])
    assert read_brief(said.encode()) == (identified, *parts)


@given(one=sequences, other=sequences, flag=st.booleans())
def test_what_stands_in_headers_is_read_as_written(*, one: int, other: int, flag: bool) -> None:
    """Nulls on compacted topics carry their versions in headers."""
    leave, unlink = Leave(one, flag, "default"), Unlink((one, other), 7, flag)
    assert Leave.read(leave.headers()) == leave
    assert Unlink.read(unlink.headers()) == unlink
    value, headers = NodeMessage(one, other, 3, None).record()
    assert NodeMessage.read(value, headers or ()) == NodeMessage(one, other, 3, None)


@given(st.binary(min_size=KEY_BYTES, max_size=KEY_BYTES), st.binary(min_size=1, max_size=300), st.binary(min_size=1))
def test_the_key_of_a_pair_names_both(key: bytes, a: bytes, b: bytes) -> None:
    """Whatever bytes the customers' keys are made of."""
    assert read_link_key(link_key(key, a, b)) == (key, a, b)


@given(st.integers(0, 2**16 - 1), st.binary(min_size=1, max_size=300))
def test_the_key_of_an_acknowledgement_names_partition_and_customer(partition: int, customer: bytes) -> None:
    """Whatever bytes the customer's key is made of."""
    assert read_ack_key(ack_key(partition, customer)) == (partition, customer)


def test_a_link_is_read_as_written() -> None:
    """Weights, values in common and flags."""
    link = Link((1 << 16, 2 << 16), 12, (0.0, 7.0, 5.0, 6.0, 0.0, 0.0, 3.0, 2.0), 8.0, "EP", 4)
    assert Link.decode(link.encode()) == link


@pytest.mark.parametrize("value", [b"", b"x", b"\0" * 8])
def test_anything_else_is_refused(value: bytes) -> None:
    """With the error that makes a dead letter of it."""
    for read in (Member.decode, read_head, Link.decode):
        with pytest.raises(ValueError, match=r".+"):
            read(value)
    with pytest.raises(ValueError, match="missing"):
        Leave.read([])
    with pytest.raises(ValueError, match="missing"):
        NodeMessage.read(None, [])
