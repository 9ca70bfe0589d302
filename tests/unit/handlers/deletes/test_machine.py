"""The table of a deletion's life: complete, and with nothing in it that must not be."""

from pathlib import Path

import pytest

from handlers.deletes.machine import ENDS, TABLE, TRANSITIONS, Event, Refused, State, picture, step

DOCS = Path(__file__).parents[4] / "docs" / "deletions.md"


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_every_pair_is_named_or_refused(state: State, event: Event) -> None:
    """There is no pair that nobody has thought of."""
    following = step(state, event)
    assert isinstance(following, State) or (isinstance(following, Refused) and following.why)
    assert len(TABLE) == len(State) * len(Event)


def test_every_state_can_be_reached_and_every_event_does_something() -> None:
    """Nothing in the table is dead."""
    reached, front = {State.REQUESTED}, [State.REQUESTED]
    while front:
        for following in TRANSITIONS[front.pop()].values():
            if following not in reached:
                reached.add(following)
                front.append(following)
    assert reached == set(State)
    assert {event for row in TRANSITIONS.values() for event in row} == set(Event)


def test_every_deletion_can_come_to_an_end() -> None:
    """From every state there is a way to an end."""
    ending = set(ENDS)
    for _ in State:
        ending |= {state for state, row in TRANSITIONS.items() if ending.intersection(row.values())}
    assert ending == set(State)


def test_only_a_look_up_leads_to_the_delete() -> None:
    """EXECUTING follows on LOOKING alone: not on an unknown outcome, and not on an approval."""
    before = {state for state, row in TRANSITIONS.items() if State.EXECUTING in row.values()}
    assert before == {State.LOOKING}
    assert State.LOOKING in TRANSITIONS[State.CHECKING].values()
    assert {state for state, row in TRANSITIONS.items() if State.LOOKING in row.values()} == {State.CHECKING}


@pytest.mark.parametrize("event", [Event.REJECT, Event.SUPERSEDE, Event.APPROVE])
@pytest.mark.parametrize(
    "state", [State.EXECUTING, State.ACCEPTED, State.UNKNOWN, State.DELETED, *sorted(ENDS)], ids=str
)
def test_nothing_is_called_off_once_the_delete_is_committed_to(state: State, event: Event) -> None:
    """Its outcome is the target's, and is found out first."""
    assert isinstance(step(state, event), Refused)


@pytest.mark.parametrize("state", sorted(ENDS))
def test_an_end_is_an_end(state: State) -> None:
    """What is blocked or has failed may be requested anew, nothing else follows on an end."""
    expected = {Event.RETRY: State.REQUESTED} if state in {State.BLOCKED, State.FAILED} else {}
    assert TRANSITIONS[state] == expected


def test_the_picture_in_the_documentation_is_the_table() -> None:
    """Generated from it, and up to date."""
    assert f"```mermaid\n{picture()}```" in DOCS.read_text(encoding="utf-8")
