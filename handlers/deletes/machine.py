"""The life of a deletion as a table: every state, every event, and what comes of each pair.

A pair is either named (the state that follows) or refused (why it cannot be). Nothing else in the handler decides what
may follow what, and the picture in the documentation is drawn from this table, so it cannot say anything else.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class State(StrEnum):
    """Where a deletion is. The last eight are ends, each with a receipt (`DELETED` where nothing can be looked up)."""

    REQUESTED = "REQUESTED"
    GATHERING = "GATHERING"
    HELD = "HELD"
    APPROVED = "APPROVED"
    COOLING = "COOLING"
    CHECKING = "CHECKING"
    LOOKING = "LOOKING"
    EXECUTING = "EXECUTING"
    ACCEPTED = "ACCEPTED"
    UNKNOWN = "UNKNOWN"
    DELETED = "DELETED"
    VERIFIED = "VERIFIED"
    ALREADY_ABSENT = "ALREADY_ABSENT"
    DRY_RUN = "DRY_RUN"
    BLOCKED = "BLOCKED"
    FAILED = "FAILED"
    SUPERSEDED = "SUPERSEDED"
    REJECTED = "REJECTED"


class Event(StrEnum):
    """What may happen to a deletion."""

    GATHER = "gather"  # taken in, to be judged together with what comes in the window
    HOLD = "hold"  # a person has to decide
    RELEASE = "release"  # within the limits, or exempt from them
    APPROVE = "approve"  # a person says yes
    REJECT = "reject"  # a person says no
    SUPERSEDE = "supersede"  # a newer version, or another cluster, has been published
    COOL = "cool"  # waits until it may run
    CHECK = "check"  # its turn: is it still wanted?
    VOUCH = "vouch"  # the requests stage says that it is
    EXECUTE = "execute"  # the DELETE is committed to, and sent after that
    REHEARSE = "rehearse"  # dry run: everything but the DELETE
    CHANGE = "change"  # the look-up shows that the customer has changed since
    DONE = "done"  # 2xx
    ACCEPT = "accept"  # 202
    LOSE = "lose"  # no answer, or one that leaves it open whether it was done
    GONE = "gone"  # there is none such, and the canary is there
    ABSENT = "absent"  # the same, and the DELETE had found none either
    POSTPONE = "postpone"  # not now; it was not done
    BLOCK = "block"  # only a person can go on
    EXHAUST = "exhaust"  # every attempt is used up
    RETRY = "retry"  # a person has it requested anew


@dataclass(frozen=True, slots=True)
class Refused:
    """A pair that cannot be, and why."""

    why: str


_S, _E = State, Event

# Until the DELETE is committed to, a deletion can be called off by a person and by a newer version.
_CALL_OFF: Final = {_E.REJECT: _S.REJECTED, _E.SUPERSEDE: _S.SUPERSEDED}

TRANSITIONS: Final[dict[State, dict[Event, State]]] = {
    _S.REQUESTED: {
        _E.GATHER: _S.GATHERING,
        _E.HOLD: _S.HELD,
        _E.RELEASE: _S.APPROVED,
        _E.BLOCK: _S.BLOCKED,
        _E.SUPERSEDE: _S.SUPERSEDED,
    },
    _S.GATHERING: {_E.RELEASE: _S.APPROVED, _E.HOLD: _S.HELD, _E.APPROVE: _S.APPROVED, **_CALL_OFF},
    _S.HELD: {_E.APPROVE: _S.APPROVED, **_CALL_OFF},
    _S.APPROVED: {_E.COOL: _S.COOLING, **_CALL_OFF},
    _S.COOLING: {_E.CHECK: _S.CHECKING, _E.GATHER: _S.GATHERING, **_CALL_OFF},
    _S.CHECKING: {
        _E.VOUCH: _S.LOOKING,
        _E.POSTPONE: _S.COOLING,
        **_CALL_OFF,
    },
    _S.LOOKING: {
        _E.EXECUTE: _S.EXECUTING,
        _E.REHEARSE: _S.DRY_RUN,
        _E.CHANGE: _S.SUPERSEDED,
        _E.GONE: _S.ALREADY_ABSENT,
        _E.POSTPONE: _S.COOLING,
        _E.BLOCK: _S.BLOCKED,
        **_CALL_OFF,
    },
    _S.EXECUTING: {
        _E.DONE: _S.DELETED,
        _E.ACCEPT: _S.ACCEPTED,
        _E.LOSE: _S.UNKNOWN,
        _E.POSTPONE: _S.COOLING,
        _E.BLOCK: _S.BLOCKED,
        _E.EXHAUST: _S.FAILED,
    },
    _S.ACCEPTED: {_E.GONE: _S.VERIFIED, _E.BLOCK: _S.BLOCKED},
    _S.UNKNOWN: {
        _E.GONE: _S.VERIFIED,
        _E.ABSENT: _S.ALREADY_ABSENT,
        _E.CHANGE: _S.SUPERSEDED,
        _E.POSTPONE: _S.COOLING,
        _E.BLOCK: _S.BLOCKED,
        _E.EXHAUST: _S.FAILED,
    },
    _S.DELETED: {_E.GONE: _S.VERIFIED, _E.BLOCK: _S.BLOCKED},
    _S.VERIFIED: {},
    _S.ALREADY_ABSENT: {},
    _S.DRY_RUN: {},
    _S.BLOCKED: {_E.RETRY: _S.REQUESTED},
    _S.FAILED: {_E.RETRY: _S.REQUESTED},
    _S.SUPERSEDED: {},
    _S.REJECTED: {},
}

# Why a pair that is not named cannot be: whatever the event, by the state.
_BY_STATE: Final[dict[State, str]] = {
    _S.REQUESTED: "nothing has happened to it yet",
    _S.GATHERING: "it is still being gathered",
    _S.HELD: "it waits for a person",
    _S.APPROVED: "it has not been put in the queue yet",
    _S.COOLING: "no call is under way, it waits for its turn",
    _S.CHECKING: "no call is under way, its wanting is being checked",
    _S.LOOKING: "only a look-up is under way",
    _S.EXECUTING: "too late: the DELETE is committed to",
    _S.ACCEPTED: "too late: the target has accepted the DELETE",
    _S.UNKNOWN: "too late: a DELETE was sent, and its outcome has to be looked up first",
    _S.DELETED: "too late: the target says that it is deleted",
    _S.VERIFIED: "it has ended: deleted, and verified",
    _S.ALREADY_ABSENT: "it has ended: there was no such customer",
    _S.DRY_RUN: "it has ended: it was a dry run",
    _S.BLOCKED: "it has ended: blocked, it can only be retried",
    _S.FAILED: "it has ended: failed, it can only be retried",
    _S.SUPERSEDED: "it has ended: superseded",
    _S.REJECTED: "it has ended: rejected",
}

TABLE: Final[dict[tuple[State, Event], State | Refused]] = {
    (state, event): TRANSITIONS[state].get(event) or Refused(_BY_STATE[state]) for state in State for event in Event
}

ENDS: Final = frozenset({_S.VERIFIED, _S.ALREADY_ABSENT, _S.DRY_RUN, _S.BLOCKED, _S.FAILED, _S.SUPERSEDED, _S.REJECTED})


def step(state: State, event: Event) -> State | Refused:
    """Return the state that follows, or why there is none."""
    return TABLE[state, event]


def picture() -> str:
    """Return the table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.REQUESTED}"]
    for state, row in TRANSITIONS.items():
        by_next: dict[State, list[str]] = {}
        for event, following in row.items():
            by_next.setdefault(following, []).append(event)
        lines += [f"    {state} --> {following}: {', '.join(events)}" for following, events in by_next.items()]
    lines += [f"    {state} --> [*]" for state in State if state in ENDS | {State.DELETED}]
    return "\n".join(lines) + "\n"
