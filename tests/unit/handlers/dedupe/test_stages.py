"""Each stage by itself: what it drops, what it refuses, what it sends."""

from itertools import combinations
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.dedupe import Clusters, Comparer, DedupeSettings, Keys, Pairs, Refiner, Rules
from handlers.dedupe.store import Change, Node, Pair, Store, Variant
from handlers.dedupe.wire import Leave, Member, NodeMessage, ack_key, read_head, read_link_key, version_of
from worker.events import Headers
from worker.handling import Dead, Done, Outcome, Record, Skip
from worker.privacy import Hasher
from worker.testkit import MemoryTx, deleted, latest, person
from worker.topics import Topics, partition_of

TOPICS = Topics(partitions=1)
RULES = DedupeSettings(generic={"bucket": 2})  # type: ignore[arg-type]
REFINER = Refiner(RULES, Hasher(b"a pepper for tests"))
ADA = {"given": "Ada", "family": "Archer", "born": "1980-02-03"}


def record(key: bytes | None, value: bytes | None, headers: Headers | None = None, offset: int = 0) -> Record:
    """Return a record of any topic."""
    return Record("topic", 0, offset, 0, key, value, headers or [])


def keys_stage() -> Keys:
    """Return the first stage."""
    return Keys(TOPICS, REFINER)


def members(**more: Any) -> list[tuple[bytes, bytes]]:
    """Return (key, value) of what the first stage sends the buckets about one e-mail address in two systems."""
    sent = []
    for source in ("crm", "shop"):
        tx = MemoryTx()
        customer = person(source, "1", emails=["ada@example.com"], **more)
        keys_stage().on_record(tx, record(*latest(customer, 1)), 0)
        sent += [(key, value or b"") for topic, key, value, _, _ in tx.sent if topic == TOPICS.keys]
    return sent


@pytest.mark.parametrize(
    ("key", "value", "headers"),
    [
        (None, b"{}", [("ce_sequence", b"1")]),
        (b"x" * 401, b"{}", [("ce_sequence", b"1")]),
        (b"crm/1", b"{}", []),
        (b"crm/1", b"{}", [("ce_sequence", b"one")]),
        (b"crm/1", b"{}", [("ce_sequence", b"1")]),
        (b"crm/1", b"not JSON", [("ce_sequence", b"1")]),
        (b"crm/1", None, [("ce_sequence", b"1")]),
    ],
)
def test_what_is_no_customer_is_set_aside(key: bytes | None, value: bytes | None, headers: Headers) -> None:
    """It stops nothing, and nothing comes of it."""
    tx = MemoryTx()
    assert isinstance(keys_stage().on_record(tx, record(key, value, headers), 0), Dead)
    assert tx.sent == []


def test_a_version_is_handled_once() -> None:
    """Also an older one that comes late, and a deletion."""
    tx, stage = MemoryTx(), keys_stage()

    def said(sequence: int, *, gone: bool = False) -> Outcome:
        row = deleted("crm", "1", sequence) if gone else latest(person("crm", "1", **ADA), sequence)
        return stage.on_record(tx, record(*row), 0)

    assert isinstance(said(2), Done)
    sent = len(tx.sent)
    assert isinstance(said(2), Skip)
    assert isinstance(said(1), Skip)
    assert len(tx.sent) == sent
    assert isinstance(said(3, gone=True), Done)
    assert isinstance(said(2), Skip)


def test_a_change_of_what_is_not_compared_goes_no_further() -> None:
    """A customer that is touched every minute costs the buckets nothing."""
    tx, stage = MemoryTx(), keys_stage()
    customer = person("crm", "1", **ADA)
    stage.on_record(tx, record(*latest(customer, 1)), 0)
    tx.sent.clear()
    stage.on_record(tx, record(*latest({**customer, "tags": []}, 2)), 0)
    assert tx.sent == []


@pytest.mark.parametrize("value", [b"", b"short", b"\0" * 8])
def test_a_bucket_refuses_what_is_no_membership(value: bytes) -> None:
    """So does the last stage with what is no message to it."""
    assert isinstance(Pairs(TOPICS, Comparer(RULES)).on_record(MemoryTx(), record(b"crm/1", value), 0), Dead)
    assert isinstance(Pairs(TOPICS, Comparer(RULES)).on_record(MemoryTx(), record(b"", value), 0), Dead)
    assert isinstance(Pairs(TOPICS, Comparer(RULES)).on_record(MemoryTx(), record(b"crm/1", None), 0), Dead)
    clusters = Clusters(TOPICS, Rules(RULES))
    for key in (b"", b"n", b"ncrm/1", b"lx", ack_key(1, b"crm/1"), b"a\0\0", b"zzz"):
        assert isinstance(clusters.on_record(MemoryTx(), record(key, value), 0), Dead)


@pytest.mark.parametrize("broken", [{"profile": b"{"}, {"brief": b"ada"}])
def test_a_membership_that_is_broken_leaves_nothing_behind(broken: dict[str, bytes]) -> None:
    """Whoever comes next into its buckets does not meet half a member."""
    tx, stage = MemoryTx(), Pairs(TOPICS, Comparer(RULES))
    (key, value), _ = members()
    assert isinstance(stage.on_record(tx, record(key, Member.decode(value)._replace(**broken).encode()), 0), Dead)
    assert tx.data == {}


def test_a_bucket_drops_what_is_older_than_it_knows() -> None:
    """Also after the customer has left: a stale copy does not bring it back."""
    tx, stage = MemoryTx(), Pairs(TOPICS, Comparer(RULES))
    (key, value), _ = members()
    assert isinstance(stage.on_record(tx, record(key, value), 0), Done)
    assert isinstance(stage.on_record(tx, record(key, value), 0), Skip)
    leave = Leave(version_of(2), True, "default")
    assert isinstance(stage.on_record(tx, record(key, None, leave.headers()), 0), Done)
    (ack,) = tx.sent
    assert ack[1] == ack_key(0, key)
    assert isinstance(stage.on_record(tx, record(key, value), 0), Skip)
    assert list(tx.scan(b"m")) == []


def test_a_bucket_that_is_too_large_only_counts() -> None:
    """Its members are not read any more: what one more costs does not depend on how many there are."""
    tx, stage = MemoryTx(), Pairs(TOPICS, Comparer(RULES))
    (_, value), _ = members()
    (bucket,) = read_head(value)[2]
    for number in range(50):
        assert isinstance(stage.on_record(tx, record(b"crm/%02d" % number, value, offset=number), 0), Done)
    linked = [(key, content is None) for _, key, content, _, _ in tx.sent]
    assert [gone for _, gone in linked] == [False, True]
    assert tx.get(b"m" + bucket) == (50).to_bytes(8, "big")
    for number in range(48):
        leave = Leave(version_of(2), False, "default")
        stage.on_record(tx, record(b"crm/%02d" % number, None, leave.headers(), offset=50 + number), 0)
    assert tx.get(b"m" + bucket) is None
    assert [content is None for _, _, content, _, _ in tx.sent] == [False, True, False]


@pytest.mark.parametrize(("customer", "version"), [(b"crm/3", 1), (b"crm/2", 2), (b"crm/1", None)])
def test_a_bucket_that_may_be_larger_counts_with_who_enters_changes_or_leaves(
    customer: bytes, version: int | None
) -> None:
    """With a limit that was raised, its members are compared with one another and with whom the record is about."""
    tx, stage = MemoryTx(), Pairs(TOPICS, Comparer(RULES))
    (_, value), _ = members()
    for number in range(3):
        stage.on_record(tx, record(b"crm/%d" % number, value, offset=number), 0)
    tx.sent.clear()
    stage = Pairs(TOPICS, Comparer(DedupeSettings()))
    if version is None:
        stage.on_record(tx, record(customer, None, Leave(version_of(2), False, "default").headers(), offset=3), 0)
    else:
        changed = Member.decode(value)._replace(version=version_of(version)).encode()
        stage.on_record(tx, record(customer, changed, offset=3), 0)
    linked = sorted((a, b) for _, a, b in (read_link_key(key) for _, key, content, _, _ in tx.sent if content))
    left = [b"crm/%d" % number for number in range(4 if customer == b"crm/3" else 3)]
    assert linked == list(combinations([name for name in left if version or name != customer], 2))


def test_a_customer_has_one_record_in_each_partition_of_its_buckets() -> None:
    """With all its match keys there, each in one partition, and none where it has none."""
    topics = Topics(partitions=3)
    keys, tx = Keys(topics, REFINER), MemoryTx()
    emails = [f"ada{number}@example.com" for number in range(20)]

    def told(sequence: int, count: int) -> dict[int, list[bytes] | None]:
        tx.sent.clear()
        keys.on_record(tx, record(*latest(person("crm", "1", emails=emails[:count]), sequence)), 0)
        rows = [row for row in tx.sent if row[0] == topics.keys]
        assert {key for _, key, *_ in rows} == {b"crm/1"}
        return {partition_of(place, 3): read_head(value)[2] if value else None for _, _, value, _, place in rows}

    everywhere = told(1, 20)
    assert sorted(everywhere) == [0, 1, 2]
    assert sum(len(found or ()) for found in everywhere.values()) == 20
    one = told(2, 1)
    assert sorted(one) == [0, 1, 2]
    assert sum(found is None for found in one.values()) == 2
    assert all(set(found or ()) <= set(everywhere[place] or ()) for place, found in one.items())


def linked() -> list[Record]:
    """Return what the clusters are told of Ada in two systems, who meets herself under several keys."""
    stage, told = Pairs(TOPICS, Comparer(RULES)), []
    buckets = MemoryTx()
    for source in ("crm", "shop"):
        tx = MemoryTx()
        keys_stage().on_record(tx, record(*latest(person(source, "1", emails=["ada@example.com"], **ADA), 1)), 0)
        told += [(key, value, headers) for topic, key, value, headers, _ in tx.sent if topic == TOPICS.links]
        for offset, (topic, key, value, headers, _) in enumerate(tx.sent):
            if topic == TOPICS.keys:
                stage.on_record(buckets, record(key, value, headers, offset=offset), 0)
    told += [(key, value, headers) for _, key, value, headers, _ in buckets.sent]
    return [record(key, value, headers, offset=offset) for offset, (key, value, headers) in enumerate(told)]


def test_what_follows_from_links_is_said_once_a_transaction() -> None:
    """However many keys two customers meet under, there is one event, and one membership of each."""
    tx, stage, told = MemoryTx(), Clusters(TOPICS, Rules(RULES)), linked()
    stage.open(tx, 0, {TOPICS.links: 0}, 0)
    for said in told:
        stage.on_record(tx, said, 0)
    assert len(told) > 4
    assert tx.sent == []
    tx.commit()
    assert sorted(topic for topic, *_ in tx.sent) == [TOPICS.clusters, TOPICS.clusters, TOPICS.identity]


def test_a_deletion_in_the_transaction_of_its_links_is_told_with_them() -> None:
    """Whoever is left is named, as if there had been a transaction between."""
    tx, stage, told = MemoryTx(), Clusters(TOPICS, Rules(RULES)), linked()
    stage.open(tx, 0, {TOPICS.links: 0}, 0)
    for said in told:
        stage.on_record(tx, said, 0)
    gone = NodeMessage(version_of(2), version_of(1), 0, None).record()
    stage.on_record(tx, record(b"ncrm/1", gone[0], gone[1], offset=len(told)), 0)
    tx.commit()
    (departure,) = [orjson.loads(value or b"") for topic, _, value, _, _ in tx.sent if topic == TOPICS.departures]
    assert (departure["customer"], departure["remaining"], departure["doubt"]) == ("crm/1", ["shop/1"], [])


def test_no_key_that_is_sent_has_a_value_of_the_customer() -> None:
    """Match keys are hashes; the customer's id is what the source calls it."""
    tx = MemoryTx()
    customer = person("crm", "1", emails=["ada@example.com"], phones=["+12025550799"], **ADA)
    keys_stage().on_record(tx, record(*latest(customer, 1)), 0)
    buckets, stage = MemoryTx(), Pairs(TOPICS, Comparer(RULES))
    for topic, key, value, headers, _ in tx.sent:
        if topic == TOPICS.keys:
            stage.on_record(buckets, record(key, value, headers), 0)
    sent = [row[1] for row in tx.sent] + [*tx.data, *buckets.data]
    assert len(sent) > 8
    for value in (b"ada", b"archer", b"1980", b"example", b"2025550799"):
        assert not [key for key in sent if value in key.lower()]


@pytest.mark.parametrize(
    ("values", "count"),
    [
        ({"given": "a" * 66_000, "family": "b" * 66_000}, 1),
        ({"family": "\N{LATIN SMALL LETTER SHARP S}" * 40_000}, 1),
        ({"given": "Ada", "family": "Archer", "address": ("7" * 66_000 + " Mill Lane", "Springfield", "62701")}, 1),
        ({"given": "Ada", "family": "Archer", "address": ("12 Mill Lane", "Springfield", "62701")}, 30_000),
    ],
)
def test_values_that_nobody_has_are_cut(values: dict[str, Any], count: int) -> None:
    """A name of a book's length, or a thousand addresses, neither stop a customer nor cost more than others do."""
    customer, tx = person("crm", "1", emails=["ada@example.com"], **values), MemoryTx()
    customer["addresses"] *= count
    assert isinstance(keys_stage().on_record(tx, record(*latest(customer, 1)), 0), Done)
    for topic, key, value, headers, _ in tx.sent:
        if topic == TOPICS.keys:
            assert len(value or b"") < 20_000
            stage = Pairs(TOPICS, Comparer(RULES))
            assert isinstance(stage.on_record(MemoryTx(), record(key, value, headers), 0), Done)


def test_a_member_has_what_is_looked_at_first() -> None:
    """Names, birth date and house numbers as they are compared."""
    for _, value in members(**ADA):
        member = Member.decode(value)
        assert member.brief == b"ada\0\0archer\x001980-02-03\0"
        assert orjson.loads(member.profile)[3] == "ada"


texts = st.text("abc/é", max_size=8)


@given(texts, st.lists(texts, max_size=3), st.booleans())
def test_state_is_read_as_it_was_written(name: str, others: list[str], flag: object) -> None:
    """Customers with what waits on them, and pairs with what supports them."""
    change = Change(3, 2, 1, None, list(others), list(others), "c", "w", bool(flag), 7)
    node = Node(name, 1, 3, {"source": "crm"}, [change], set(others), "c", "d", bool(flag))
    assert Node.decode(name, node.encode()) == node
    variant = Variant((1, 2), 4, "EP", [0.0, 7.0], {"E00": [1, 8.0, bool(flag)]})
    pair = Pair("a", "b", [variant], ["score", 7.5])
    assert Pair.decode("a", "b", pair.encode()) == pair


@given(st.text(min_size=1, max_size=400), st.text(min_size=1, max_size=400))
def test_pairs_of_long_ids_fit_into_the_state(one: str, other: str) -> None:
    """LMDB takes keys of 511 bytes; the order of the two does not matter."""
    tx = MemoryTx()
    store = Store(tx)
    pair = store.pair(one, other)
    pair.variants.append(Variant((1, 1), 0, "", [], {"S": [1, 0.0, True]}))
    store._dirty_pairs.add((pair.a, pair.b))
    store.flush()
    assert Store(tx).pair(other, one) == pair
