"""How an executor's targets look from outside: metrics, and on the status topic how much waits, and for what.

How a target itself does is said as it changes (`handlers.deletes.health`), but for one that only asks to wait.
"""

from collections.abc import Iterable
from typing import Final, Literal, get_args

import orjson

from handlers.deletes.book import Book, Group, Queue, TargetState
from handlers.deletes.health import Health
from handlers.deletes.life import Life
from handlers.deletes.machine import ENDS, State
from worker import telemetry
from worker.handling import Tx

# While much goes on: between two measurements, and between two words on the status topic.
_MEASURE_MS: Final = 1_000
_TELL_MS: Final = 10_000
_STATES: Final[tuple[TargetState, ...]] = get_args(TargetState)
_TURN: Final[tuple[Queue, ...]] = ("q", "k", "y", "v")

WaitsFor = Literal["window", "plan", "person", "route", "turn"]


class Showing:
    """What is shown of the targets of one executor."""

    def __init__(self) -> None:
        """Nothing was shown yet."""
        self._measured = 0
        self._told: dict[str, tuple[dict[WaitsFor, int], int]] = {}
        self._states: dict[str, tuple[TargetState, int]] = {}

    def begin(self, tx: Tx, names: Iterable[str]) -> None:
        """Count from zero on: to Prometheus the step from no counter to one of 1 is no increase."""
        for name in names:
            for end in (*ENDS, State.DELETED):
                tx.measure(telemetry.DELETIONS, 0, name, end)

    def show(self, life: Life, health: Health) -> None:
        """Show each target as it is after what was written back in this transaction."""
        if life.now < self._measured + _MEASURE_MS:
            return
        self._measured = life.now
        groups = life.book.written_groups()
        for name in life.book.targets():
            waits, state = waiting(life.book, name, groups), life.book.runtime(name).state(life.now)
            self._measure(life, name, waits, state)
            before, since = self._states.get(name, (None, 0))  # None: what an earlier executor has said may be past
            if state != before and life.now >= since + _TELL_MS:
                self._states[name] = state, life.now
                if before is None or "waiting" in {state, before}:
                    health.tell(name)
            told, at = self._told.get(name, (None, 0))
            if waits != told and life.now >= at + _TELL_MS:
                self._told[name] = waits, life.now
                value = {"kind": "deletions", "target": name, "waits": waits, "at": life.now}
                life.tx.send(life.kit.topics.status, f"deletions/{name}".encode(), orjson.dumps(value))

    def _measure(self, life: Life, name: str, waits: dict[WaitsFor, int], state: TargetState) -> None:
        tx = life.tx
        for waits_for, many in waits.items():
            tx.measure(telemetry.DELETIONS_OPEN, many, name, waits_for)
        for one in _STATES:
            tx.measure(telemetry.TARGET_STATE, one == state, name, one)
        tx.measure(telemetry.DELETIONS_OVERDUE, _overdue(life.book, name, life.now) / 1000, name)


def waiting(book: Book, target: str, groups: Iterable[Group]) -> dict[WaitsFor, int]:
    """Return how many deletions of a target have not ended, by what they wait for; `groups`: those of all targets."""
    runtime, own = book.runtime(target), [group for group in groups if group.target == target]
    return {
        "window": sum(group.count for group in own if group.plan is None),
        "plan": sum(group.count + group.plan.count for group in own if group.plan is not None),
        "person": runtime.queued.get("h", 0),
        "route": runtime.queued.get("w", 0),
        "turn": runtime.in_turn,
    }


def _overdue(book: Book, target: str, now: int) -> int:
    """Return for how many milliseconds the next deletion of a target has been due; 0: none is."""
    orders = [book.next_order(queue, target) for queue in _TURN]
    return max(0, now - min((order for order in orders if order is not None), default=now))
