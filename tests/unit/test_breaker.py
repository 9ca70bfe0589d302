"""When an API is asked again: the table of the breaker, and its pauses."""

from itertools import pairwise
from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from worker.breaker import NEXT, Breaker, Event, State, backoff

chances = st.floats(0, 1)


def test_the_table_is_complete() -> None:
    """Every event leads somewhere in every state."""
    assert set(NEXT) == {(state, event) for state in get_args(State) for event in get_args(Event)}


def test_it_opens_after_five_failures_and_closes_with_an_answer() -> None:
    """Half open it is asked once: a failure opens it again, for longer."""
    breaker, pauses = Breaker(), []
    for _ in range(4):
        breaker.failed(1.0)
        breaker.waited()
        assert breaker.state == "closed"
    for _ in range(6):
        pauses.append(breaker.failed(1.0))
        assert breaker.state == "open"
        breaker.waited()
        assert breaker.state == "half open"
    assert pauses == [30.0, 60.0, 120.0, 240.0, 300.0, 300.0]
    breaker.answered()
    assert (breaker.state, breaker.failures) == ("closed", 0)
    assert breaker.failed(1.0) < 1


@given(st.integers(1, 10_000), chances)
def test_pauses_grow_within_bounds(failures: int, chance: float) -> None:
    """From a quarter of a second to a minute, with jitter of up to a half."""
    assert 0.25 <= backoff(failures, chance) <= 60.0
    assert backoff(failures, 0.0) * 2 == backoff(failures, 1.0)


@given(st.lists(st.sampled_from(["answered", "failed"]), max_size=60))
def test_whatever_happens_an_answer_is_asked_for_again(history: list[str]) -> None:
    """No history leads to a pause above five minutes, nor to a breaker that stays open over an answer."""
    breaker = Breaker()
    for before, event in pairwise([None, *history]):
        if event == "failed":
            assert breaker.failed(1.0) <= 300.0
            breaker.waited()
        else:
            breaker.answered()
            assert breaker.state == "closed"
        assert before is None or breaker.state != "open"
