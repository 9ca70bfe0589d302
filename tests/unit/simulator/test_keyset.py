"""The bisection that answers a poller's queries gives what the general evaluator gives."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from worker.simulator import Drivly
from worker.simulator.drivly_query import EVERYTHING, Paging
from worker.simulator.keyset import keyset, piece
from worker.simulator.where import iso

START = 1_750_000_000_000
STAMPS = st.integers(-2, 8).map(lambda offset: iso(START + offset))
IDS = st.integers(-1, 12).map(str)
SIDES = st.sampled_from(["greater_than", "greater_than_equal", "less_than", "less_than_equal"])
BOUNDS = st.one_of(
    st.builds(keyset, STAMPS, IDS),
    st.builds(lambda side, stamp: {"updatedAt": {side: stamp}}, SIDES, STAMPS),
    st.builds(lambda low, high: {"updatedAt": {"greater_than": low, "less_than_equal": high}}, STAMPS, STAMPS),
    st.builds(lambda side, key: {"id": {side: key}}, SIDES, IDS),
)
WHERES = st.one_of(BOUNDS, st.just({}), st.builds(lambda parts: {"and": parts}, st.lists(BOUNDS, max_size=3)))
SORTS = st.sampled_from([["updatedAt", "id"], ["-updatedAt", "-id"], ["id"], ["-id"]])
PAGES = st.builds(
    lambda limit, page: Paging.read({"limit": str(limit), "page": str(page)}), st.integers(0, 5), st.integers(1, 4)
)


def filled(offsets: list[int]) -> Drivly:
    """Make a Drivly whose customers were changed at these milliseconds."""
    sim = Drivly(detail="compact")
    for offset in offsets:
        sim.create({"customerId": "x"}, at=(START + offset) / 1000)
    return sim


@given(st.lists(st.integers(0, 6), max_size=10), WHERES, SORTS, PAGES)
def test_a_piece_of_an_index_is_what_row_by_row_gives(
    offsets: list[int], where: Any, sort: list[str], paging: Paging
) -> None:
    """Whatever the bounds, order and page: rows and total are those of the general evaluator."""
    sim = filled(offsets)
    rows = sim.finder.ordered(sim.finder.matching(sim.store, where), sort)
    start, stop = paging.bounds(len(rows))
    assert sim.finder.find(sim.store, where, sort, paging) == (rows[start:stop], len(rows))


@given(st.lists(st.integers(0, 2), max_size=10), st.sampled_from([["updatedAt"], ["-updatedAt"]]), PAGES)
def test_ties_come_in_any_order_but_in_their_place(offsets: list[int], sort: list[str], paging: Paging) -> None:
    """Sorted by time alone, a page holds the right times, whichever of the tied rows it shows."""
    sim = filled(offsets)
    rows = sim.finder.ordered(list(sim.store.ordered), sort)
    start, stop = paging.bounds(len(rows))
    page, _ = sim.finder.find(sim.store, {}, sort, paging)
    assert [row.updated for row in page] == [row.updated for row in rows[start:stop]]
    assert len({row.id for row in page}) == len(page)


def test_a_pollers_queries_are_pieces() -> None:
    """What a poller and a sweep send needs no look at every row."""
    sim = filled([1, 2, 3])
    bounded = {"and": [keyset(iso(START), "0"), {"updatedAt": {"less_than_equal": iso(START + 9)}}]}
    for where in (bounded, None):
        assert piece(sim.store, where, ["updatedAt", "id"], int) is not None
    assert piece(sim.store, {"id": {"greater_than": "1"}}, ["id"], int) is not None


def test_everything_is_everything() -> None:
    """The paging that bulk deletions use has no end."""
    assert EVERYTHING.bounds(1_000_000) == (0, 1_000_000)
