"""The declared topics: names that never meet, settings that keep what must be kept, a plan that says what is wrong."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.topics import DAY_MS, STAGES, Found, Topics, TopicSpec, partition_of, plan, prefix_problem

DECLARED = Topics().declared()


def found(*specs: TopicSpec) -> dict[str, Found]:
    """Return topics as a cluster has them that were made as declared."""
    return {spec.name: Found(spec.partitions, spec.settings | {"segment.bytes": "1"}) for spec in specs}


@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_a_key_has_the_partition_that_java_gives_it(key: bytes, hashed: int) -> None:
    """The hashes are those of Kafka's own test of murmur2 (UtilsTest), made positive as `Utils.toPositive` does."""
    for partitions in (1, 7, 8, 1000):
        assert partition_of(key, partitions) == (hashed & 0x7FFFFFFF) % partitions


@given(st.binary(), st.integers(1, 1000))
def test_every_key_has_a_partition(key: bytes, partitions: int) -> None:
    """Also the empty one."""
    assert 0 <= partition_of(key, partitions) < partitions


def test_topics_have_names_of_their_own() -> None:
    """No two parts of a deployment share a topic."""
    names = [spec.name for spec in DECLARED]
    assert len(set(names)) == len(names)


prefixes = st.lists(
    st.sampled_from(["customers", "state", "keys", "a", "rollcall", "clusters", "b-1"]), min_size=1
).map(".".join)


def usable(prefix: str) -> bool:
    """Return whether the configuration takes a prefix."""
    return prefix_problem(prefix) is None


@given(st.lists(prefixes.filter(usable), min_size=2, max_size=4, unique=True))
def test_deployments_of_different_prefixes_never_meet(names: list[str]) -> None:
    """Neither in a topic, nor in a group, nor in a transactional id."""
    deployments = [Topics(prefix) for prefix in names]
    for one, other in combinations(deployments, 2):
        assert not {spec.name for spec in one.declared()} & {spec.name for spec in other.declared()}
        assert not {one.group(stage) for stage in STAGES} & {other.group(stage) for stage in STAGES}
        ids = [{made.transactional_id(stage, 0) for stage in STAGES} for made in (one, other)]
        assert not ids[0] & ids[1]


@pytest.mark.parametrize(
    "prefix", ["rollcall", "rollcall.x", "state", "a.state", "a..b", ".a", "a.", "A", "a b", "x" * 64]
)
def test_a_prefix_that_could_meet_another_is_refused(prefix: str) -> None:
    """Or one that Kafka would not take, or that reads badly."""
    assert not usable(prefix)


@pytest.mark.parametrize("prefix", ["customers", "a", "crm.customers", "customers_2-x", "estate", "rollcalls"])
def test_any_other_prefix_is_taken(prefix: str) -> None:
    """Words, divided by dots."""
    assert usable(prefix)


def test_public_names_start_with_the_prefix_and_internal_ones_with_rollcall() -> None:
    """So that an ACL by prefix can tell them apart."""
    for spec in Topics("crm.customers").declared():
        assert spec.name.startswith("crm.customers." if spec.public else "rollcall.crm.customers.")
    for spec in DECLARED:
        assert spec.name.startswith("customers." if spec.public else "rollcall.")


def test_every_log_takes_the_brokers_clock() -> None:
    """A record stamped long ago by its producer would be deleted at once."""
    for spec in DECLARED:
        if spec.cleanup == "delete":
            assert spec.settings["message.timestamp.type"] == "LogAppendTime"
            assert int(spec.settings["retention.ms"]) in {-1, 30 * DAY_MS}


def test_every_table_remembers_its_deletions_for_thirty_days() -> None:
    """A local store may be half as old; a table for subscribers also keeps each version for a day."""
    for spec in DECLARED:
        if spec.cleanup == "compact":
            assert int(spec.settings["delete.retention.ms"]) == 30 * DAY_MS
    latest = next(spec for spec in DECLARED if spec.name == "customers.latest")
    assert int(latest.settings["min.compaction.lag.ms"]) == DAY_MS


def test_receipts_are_kept_for_ever_unless_the_configuration_says_otherwise() -> None:
    """They are the proof that a deletion was asked for and done."""
    for retention, expected in ((-1, "-1"), (DAY_MS, str(DAY_MS))):
        declared = Topics(receipts_retention_ms=retention).declared()
        receipts = next(spec for spec in declared if spec.name == "customers.receipts")
        assert (receipts.cleanup, receipts.settings["retention.ms"]) == ("delete", expected)


def test_every_stage_has_a_compacted_changelog() -> None:
    """The state of a task is worth what its changelog keeps."""
    by_name = {spec.name: spec for spec in DECLARED}
    assert all(by_name[Topics().state(stage)].cleanup == "compact" for stage in STAGES)


def test_a_cluster_without_topics_lacks_all_of_them() -> None:
    """`problems` says so in sentences."""
    made = plan(DECLARED, {})
    assert made.create == DECLARED
    assert not made.empty
    assert made.problems()[0] == "topic customers.events is missing"


def test_a_cluster_that_has_the_topics_lacks_nothing() -> None:
    """Settings that are not declared are nobody's business."""
    made = plan(DECLARED, found(*DECLARED))
    assert made.empty
    assert made.problems() == []


@pytest.mark.parametrize("spec", DECLARED, ids=lambda spec: spec.name)
def test_every_setting_that_differs_is_named_and_mended(spec: TopicSpec) -> None:
    """Whichever it is, also where the cluster does not know it at all."""
    for setting, value in spec.settings.items():
        for config in ({**spec.settings, setting: "another"}, {k: v for k, v in spec.settings.items() if k != setting}):
            made = plan([spec], {spec.name: Found(spec.partitions, config)})
            assert made.alter == {spec.name: {setting: value}}
            assert made.problems() == [f"topic {spec.name}: {setting} should be {value}"]


@given(st.integers(1, 100), st.integers(1, 100))
def test_another_partition_count_cannot_be_mended(have: int, want: int) -> None:
    """Keys would move under their state; the sentence says what to do."""
    spec = Topics(partitions=want).declared()[0]
    made = plan([spec], {spec.name: Found(have, spec.settings)})
    assert (len(made.wrong), made.create, made.alter) == (int(have != want), (), {})
    assert made.empty == (have == want)
    if have != want:
        assert f"has {have} partitions, the configuration says {want}" in made.problems()[0]
