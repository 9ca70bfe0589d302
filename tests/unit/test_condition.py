"""One state for each source, whatever is the matter with it."""

from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from worker import telemetry
from worker.checkpoint import Checkpoint
from worker.condition import PRESSING, Condition
from worker.errors import RollcallError


def shown(source: str) -> dict[str, float]:
    """Return what the metric says of a source, by state."""
    samples = [sample for metric in telemetry.STATE.collect() for sample in metric.samples]
    return {sample.labels["state"]: sample.value for sample in samples if sample.labels["source"] == source}


def test_it_is_starting_until_it_was_polled() -> None:
    """Then running."""
    condition = Condition("one", "drivly")
    assert condition.state == "starting"
    condition.polled = 5
    assert condition.state == "running"


@given(st.sets(st.sampled_from(PRESSING), min_size=1))
def test_the_most_pressing_trouble_is_the_state(troubles: set[str]) -> None:
    """With its message; and when all is over it runs, and the metric shows one state at any time."""
    condition = Condition("two", "drivly", polled=5)
    for trouble in troubles:
        condition.begin(trouble, RollcallError(f"because of {trouble}"))  # type: ignore[arg-type]
        assert len(shown("two")) == 1
    worst = next(state for state in PRESSING if state in troubles)
    assert (condition.state, condition.message) == (worst, f"because of {worst}")
    assert shown("two") == {worst: 1.0}
    condition.end(*PRESSING)
    assert (condition.state, condition.message) == ("running", None)
    condition.hide()
    assert shown("two") == {}


def test_one_feeds_trouble_does_not_end_with_anothers() -> None:
    """It is failing as long as one of them is."""
    condition = Condition("three", "drivly", polled=5)
    assert condition.begin("failing", RollcallError("a"), about="head")
    assert condition.begin("failing", RollcallError("b"), about="sweep")
    assert not condition.begin("failing", RollcallError("b"), about="sweep")
    condition.end("failing", about="head")
    assert (condition.state, condition.message) == ("failing", "b")
    condition.end("failing", about="sweep")
    assert condition.state == "running"
    condition.hide()


def test_a_note_is_shown_until_it_is_taken_back_and_logged_once() -> None:
    """Of each feed its own; trouble is said before it."""
    condition = Condition("five", "dintero", polled=5)
    with capture_logs() as lines:
        for _ in range(2):
            condition.say("everybody is read", about="since")
        condition.say("two stood there twice", about="check")
    assert [(line["event"], line["feed"]) for line in lines] == [("source_note", "since"), ("source_note", "check")]
    assert (condition.state, condition.message) == ("running", "everybody is read")
    condition.begin("failing", RollcallError("no answer"), about="check")
    assert condition.message == "no answer"
    condition.end("failing", about="check")
    condition.say(None, about="since")
    assert condition.message == "two stood there twice"
    condition.say(None, about="check")
    assert condition.message is None
    condition.hide()


def test_alarms_stand_beside_the_state() -> None:
    """Each until it is taken back."""
    condition = Condition("four", "drivly", polled=5)
    assert condition.raise_alarm("listing", "it is empty")
    assert not condition.raise_alarm("listing", "it is empty")
    assert condition.raise_alarm("held", "12 are missing")
    record = condition.record(Checkpoint("p", "t", live=3), 0)
    assert (record["state"], record["alarm"], record["live"]) == ("running", "it is empty; 12 are missing", 3)
    assert condition.clear_alarm("listing", "canary")
    assert not condition.clear_alarm("listing")
    assert condition.alarm == "12 are missing"
