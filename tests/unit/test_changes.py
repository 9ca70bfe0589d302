"""Change detection: what a record, a stub, a tombstone or a miss means for what is known of a customer."""

import re
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker import changes
from worker.changes import Decision, Entry, PlanHash
from worker.events import CREATED, DELETED, FIELDS, UPDATED
from worker.testkit import person

NOW = 1_700_000_000_000
SCOPE, OTHER = b"here", b"else"
LONGEST = len(FIELDS) * 4

times = st.integers(-(2**60), 2**60)
entries = st.builds(
    Entry,
    live=st.booleans(),
    missed=st.integers(0, 100),
    sequence=st.integers(1, 2**32 - 1),
    first_seen=times,
    updated=st.none() | times | st.just(-1),
    scope=st.binary(min_size=4, max_size=4),
    fingerprint=st.binary(min_size=16, max_size=16),
    hashes=st.just(b"") | st.binary(min_size=LONGEST, max_size=LONGEST),
)


def see(entry: Entry | None, content: int, *, scope: bytes = SCOPE, updated: int | None = None) -> Decision:
    """See a record whose content is told apart by a number."""
    return changes.seen(
        entry,
        changes.rewritten(person("crm", "1", given=f"Name {content}")),
        fingerprint=bytes([content]) * 16,
        hashes=bytes([content]) * LONGEST,
        updated=updated,
        scope=scope,
        now=NOW,
    )


@given(entries)
def test_an_entry_comes_back_as_it_was_packed(entry: Entry) -> None:
    """Packing and unpacking gives the same entry, whatever stands in it."""
    assert Entry.unpack(entry.pack()) == entry


steps = st.lists(
    st.tuples(st.sampled_from(["see", "gone", "miss", "exists"]), st.integers(0, 3), st.sampled_from([SCOPE, OTHER]))
)


def apply(entry: Entry | None, step: tuple[str, int, bytes]) -> Decision:
    """Let one thing happen to a customer."""
    what, number, scope = step
    match what:
        case "see":
            return see(entry, number, scope=scope, updated=number)
        case "gone":
            return changes.gone(entry, "tombstone", number or None)
        case "miss":
            return Decision(changes.missed(entry, scope) if entry is not None else None, None)
        case _:
            return changes.exists(entry, number, scope) or Decision(None, None)


@given(steps)
def test_the_sequence_rises_by_one_with_each_event_and_is_never_used_again(
    history: list[tuple[str, int, bytes]],
) -> None:
    """Over any history of a customer, its events are numbered 1, 2, 3, also after deletion and re-creation."""
    entry, published = None, []
    for step in history:
        decision = apply(entry, step)
        entry = decision.entry or entry
        if decision.change is not None:
            published.append(decision.change)
            assert entry is not None
            assert entry.sequence == decision.change.sequence
    assert [change.sequence for change in published] == list(range(1, len(published) + 1))


@given(steps)
def test_events_alternate_between_a_life_and_its_end(history: list[tuple[str, int, bytes]]) -> None:
    """A life begins with `created`, ends with `deleted`, and only `updated` stands between."""
    entry, alive = None, False
    for step in history:
        decision = apply(entry, step)
        entry = decision.entry or entry
        if decision.change is not None:
            assert decision.change.type in ({UPDATED, DELETED} if alive else {CREATED})
            alive = decision.change.type != DELETED
        assert alive == (entry is not None and entry.live)


@given(st.none() | entries, st.integers(0, 3), st.sampled_from([SCOPE, OTHER]))
def test_the_same_record_against_the_same_entry_gives_the_same_decision(
    entry: Entry | None, content: int, scope: bytes
) -> None:
    """Nothing but what is given decides."""
    assert see(entry, content, scope=scope) == see(entry, content, scope=scope)


@given(
    entry=st.none() | entries,
    scope=st.binary(min_size=4, max_size=4),
    fingerprint=st.binary(min_size=16, max_size=16),
    same=st.booleans(),
)
def test_unchanged_agrees_with_seen(*, entry: Entry | None, scope: bytes, fingerprint: bytes, same: bool) -> None:
    """What is taken for unchanged by its bytes brings no event and leaves the entry as it is, and nothing else does."""
    if same and entry is not None:
        scope, fingerprint = entry.scope, entry.fingerprint
    decision = changes.seen(
        entry,
        changes.rewritten(person("crm", "1")),
        fingerprint=fingerprint,
        hashes=entry.hashes if entry is not None else b"",
        updated=entry.updated if entry is not None else None,
        scope=scope,
        now=NOW,
    )
    unchanged = changes.unchanged(entry.pack() if entry is not None else None, scope, fingerprint)
    assert unchanged == (decision.change is None and decision.entry == entry)


def test_a_new_customer_is_created_with_the_fields_that_hold_something() -> None:
    """`changed` of a creation names what is there, not what is empty."""
    parts = changes.rewritten(person("crm", "1", given="Ann", emails=["ann@example.com"]))
    decision = changes.seen(
        None, parts, fingerprint=b"f" * 16, hashes=b"h" * LONGEST, updated=None, scope=SCOPE, now=NOW
    )
    assert decision.change is not None
    assert decision.change.type == CREATED
    assert decision.change.changed == ["kind", "name", "emails"]
    assert decision.change.first_seen == NOW


def test_an_update_names_the_fields_that_differ() -> None:
    """`changed` of an update is told from the hashes, without the old record."""
    before = b"".join(bytes([index]) * 4 for index in range(len(FIELDS)))
    place = FIELDS.index("phones")
    after = before[: place * 4] + b"\xff\xff\xff\xff" + before[place * 4 + 4 :]
    assert changes.differing(before, after) == ["phones"]
    assert changes.differing(b"", after) == list(FIELDS)
    assert changes.differing(before, before) == []


def test_a_record_that_comes_back_unchanged_under_another_scope_only_moves_its_scope() -> None:
    """Another credential or filter is no change of the customer."""
    known = see(None, 1).entry
    decision = see(known, 1, scope=OTHER)
    assert decision.change is None
    assert decision.entry is not None
    assert decision.entry.scope == OTHER


def test_a_re_created_customer_goes_on_with_its_sequence_and_first_sight() -> None:
    """The grave keeps both."""
    buried = changes.gone(see(None, 1).entry, "gone").entry
    decision = see(buried, 1)
    assert decision.change is not None
    assert (decision.change.type, decision.change.sequence) == (CREATED, 3)
    assert decision.change.first_seen == NOW


@given(st.integers(0, 1000), st.none() | st.integers(0, 1000), st.none() | st.integers(0, 1000))
def test_a_tombstone_older_than_the_record_means_nothing(
    sequence: int, updated: int | None, deleted: int | None
) -> None:
    """It is of an earlier life; one without a time, or against a record without one, is believed."""
    entry = Entry(True, 0, sequence, NOW, updated, SCOPE, bytes(16), b"")
    decision = changes.gone(entry, "tombstone", deleted)
    stale = updated is not None and deleted is not None and deleted < updated
    assert (decision.change is None) == stale
    assert (decision.entry is None) == stale


def test_a_grave_is_buried_once() -> None:
    """Neither an unknown nor a deleted customer can be deleted."""
    buried = changes.gone(see(None, 1).entry, "gone").entry
    assert changes.gone(buried, "tombstone") == Decision(None, None)
    assert changes.gone(None, "tombstone") == Decision(None, None)
    assert buried is not None
    assert buried.hashes == b""


def test_a_stub_is_enough_only_for_a_live_unchanged_customer_of_this_scope() -> None:
    """Whatever is unknown, deleted, changed since, or of another scope has to be read."""
    known = see(None, 1, updated=5).entry
    assert known is not None
    assert changes.exists(known, 5, SCOPE) == Decision(None, None)
    for entry, updated, scope in [
        (None, 5, SCOPE),
        (changes.gone(known, "gone").entry, 5, SCOPE),
        (known, 6, SCOPE),
        (known, 5, OTHER),
    ]:
        assert changes.exists(entry, updated, scope) is None


@given(st.integers(1, 300))
def test_misses_count_up_and_a_sight_forgets_them(times_missed: int) -> None:
    """Only misses in a row count; the count stays small enough for its byte."""
    entry = see(None, 1, updated=5).entry
    for _ in range(times_missed):
        assert entry is not None
        entry = Entry.unpack((changes.missed(entry, SCOPE) or entry).pack())
    assert entry is not None
    assert entry.missed == min(times_missed, 100)
    seen_again = see(None, 1, updated=5).entry
    assert changes.exists(entry, 5, SCOPE) == Decision(seen_again, None)
    assert see(entry, 1, updated=5) == Decision(seen_again, None)


def test_a_miss_means_nothing_for_the_dead_and_for_what_another_scope_showed() -> None:
    """Such customers are unobserved, never absent."""
    known = see(None, 1).entry
    assert known is not None
    assert changes.missed(known, OTHER) is None
    buried = changes.gone(known, "gone").entry
    assert buried is not None
    assert changes.missed(buried, SCOPE) is None


@given(st.integers(0, 10**7), st.integers(0, 10**7), st.integers(0, 1000), st.floats(0, 1))
def test_the_guard_holds_what_exceeds_both_the_count_and_the_fraction(
    missing: int, live: int, count: int, fraction: float
) -> None:
    """Few absences, or few for the size of the source, pass; everything else waits for a person."""
    held = changes.guard(missing, live, count=count, fraction=fraction)
    assert held == (missing > count and missing > fraction * live)


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 1000))
def test_an_enumeration_is_complete_within_what_moved_meanwhile(marked: int, total: int, moved: int) -> None:
    """Without a total nothing can be said against it."""
    assert changes.complete(marked=marked, total=None, moved=moved)
    assert changes.complete(marked=marked, total=total, moved=moved) == (total - moved <= marked <= total + moved)


@given(st.sets(st.binary(max_size=8)), st.sets(st.binary(max_size=8)), st.randoms())
def test_a_plan_is_told_by_who_is_in_it(some: set[bytes], others: set[bytes], random: Random) -> None:
    """The same ids give the same hash in whatever order; other ids another one; of twelve digits."""

    def plan(ids: set[bytes]) -> str:
        made = PlanHash()
        for identity in random.sample(sorted(ids), len(ids)):
            made.add(identity)
        return made.value()

    assert (plan(some) == plan(others)) == (some == others)
    assert re.fullmatch(r"[0-9a-f]{12}", plan(some))


@given(st.sets(st.binary(max_size=8)), st.sets(st.binary(max_size=8)))
def test_what_is_left_of_a_plan_is_the_plan_of_those_who_are_left(settled: set[bytes], left: set[bytes]) -> None:
    """So that it is known again, whoever looks for it."""
    whole, rest = PlanHash(), PlanHash()
    for identity in settled | left:
        whole.add(identity)
    for identity in settled - left:
        whole.take(identity)
    for identity in left:
        rest.add(identity)
    assert whole.value() == rest.value()


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_is_hashed_by_its_content_alone(field: str) -> None:
    """The order of keys in an object changes nothing; every field has its own part."""
    customer: Any = person("crm", "1", given="Ann")
    customer[field] = {"b": 1, "a": [2]}
    turned: Any = person("crm", "1", given="Ann")
    turned[field] = {"a": [2], "b": 1}
    assert changes.rewritten(customer) == changes.rewritten(turned)
    assert changes.rewritten(customer) != changes.rewritten(person("crm", "1", given="Ann"))
    assert tuple(changes.rewritten(customer)) == FIELDS
