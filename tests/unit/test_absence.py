"""When an enumeration can have shown everybody, by what the upstream counts before and after it."""

from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from worker.absence import agrees

COUNT: Final = st.integers(0, 60)
# Before which page somebody comes (None), or a customer goes (its number).
CHANGES: Final = st.lists(st.tuples(st.integers(0, 20), st.none() | st.integers(0, 39)), max_size=15)


def listed(customers: int, changes: list[tuple[int, int | None]]) -> tuple[int, int, int]:
    """Return how many a sound listing shows, two a page, how many there are after it, and how many came or went."""
    there, shown, moved, last = set(range(customers)), set[int](), 0, -1
    for page in range(customers + len(changes) + 1):
        for _, gone in (change for change in changes if change[0] == page):
            moved += gone is None or gone in there
            there = there | {max(there, default=customers) + 1} if gone is None else there - {gone}
        found = sorted(id_ for id_ in there if id_ > last)[:2]
        shown |= set(found)
        last = max(found, default=last)
    return len(shown), len(there), moved


@given(st.integers(0, 40), CHANGES)
def test_whatever_happens_to_customers_a_listing_that_shows_them_agrees(
    customers: int, changes: list[tuple[int, int | None]]
) -> None:
    """As long as it was noticed who came and who went, no look-ups are needed."""
    shown, now, moved = listed(customers, changes)
    assert agrees(shown, customers, now, moved, confirmed=False)


@given(st.integers(0, 40), CHANGES)
def test_where_look_ups_confirm_deletions_need_not_have_been_noticed(
    customers: int, changes: list[tuple[int, int | None]]
) -> None:
    """However many went on either side of the page that was being read."""
    shown, now, _ = listed(customers, [change for change in changes if change[1] is not None])
    assert agrees(shown, customers, now, 0, confirmed=True)


@given(COUNT, COUNT, COUNT, COUNT)
def test_a_count_that_falls_while_a_listing_is_cut_proves_nothing(
    before: int, shown: int, now: int, moved: int
) -> None:
    """Without look-ups, what differs from both counts by more than is known of is not taken for whole."""
    near = min(abs(shown - before), abs(shown - now)) <= moved
    assert agrees(shown, before, now, moved, confirmed=False) == near
    assert agrees(shown, before, now, moved, confirmed=True) >= near
