"""What is the matter with a source, put into one word: what `rollcall status` and the metrics show.

Several things may be the matter at once; the state is the most pressing of them. An alarm stands beside it: what a
person should look at although the source is being polled.
"""

from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

import structlog

from worker import telemetry
from worker.checkpoint import Checkpoint
from worker.errors import RollcallError
from worker.times import rfc3339

log = structlog.get_logger()

# The most pressing first; where none of them is the case, the source is running, or starting before its first poll.
Pressing = Literal[
    "paused",
    "paused: credentials",
    "paused: newer state",
    "circuit open",
    "backing off",
    "failing",
    "degraded",
]
State = Literal[Pressing, "running", "starting", "not configured"]
PRESSING: Final[tuple[State, ...]] = get_args(Pressing)

NOT_CONFIGURED: Final[dict[str, Any]] = {
    "state": "not configured",
    "message": "its customers are left as they are: configure it, or see `rollcall sources --help`",
}


@dataclass
class Condition:
    """The condition of one source.

    `polled`: when a feed was last read to its end, `scanned`: an enumeration, in ms since the epoch; `following` names
    the feeds that have to be read for the source to count as read.
    """

    source: str
    kind: str
    following: tuple[str, ...] = ()
    polled: int | None = None
    scanned: int | None = None
    _notes: dict[str, str] = field(default_factory=dict)
    _troubles: dict[tuple[State, str], RollcallError | None] = field(default_factory=dict)
    _alarms: dict[str, str] = field(default_factory=dict)
    _shown: State | None = None
    _read: dict[str, int] = field(default_factory=dict)

    def take_up(self, checkpoint: Checkpoint, now: int) -> None:
        """Show the source in the metrics; its times count from `now` (ms since the epoch) until it is read."""
        for gauge in (telemetry.POLLED, telemetry.CHECKPOINT):
            gauge.labels(self.source).set(now / 1000)
        telemetry.LIVE.labels(self.source).set(checkpoint.live)
        telemetry.HELD.labels(self.source).set(checkpoint.held["missing"] if checkpoint.held else 0)

    def ended(self, feed: str, now: int, *, enumerates: bool) -> None:
        """Note that a feed was read to its end at `now` (ms since the epoch)."""
        self.polled = self._read[feed] = now
        if enumerates:
            self.scanned = now
        telemetry.POLLED.labels(self.source).set(now / 1000)
        if self.checkpoint is not None:
            telemetry.CHECKPOINT.labels(self.source).set(self.checkpoint / 1000)

    @property
    def checkpoint(self) -> int | None:
        """Return since when every change is read, in ms since the epoch: by its slowest feed; None if never."""
        read = [self._read.get(feed) for feed in self.following]
        return min((moment for moment in read if moment is not None), default=None) if None not in read else None

    @property
    def state(self) -> State:
        """Return the state."""
        present = {state for state, _ in self._troubles}
        return next((state for state in PRESSING if state in present), "starting" if self.polled is None else "running")

    @property
    def alarm(self) -> str | None:
        """Return the alarms, None where there is none."""
        return "; ".join(self._alarms.values()) or None

    @property
    def message(self) -> str | None:
        """Return what explains the state."""
        state = self.state
        errors = [error for (about, _), error in self._troubles.items() if about == state and error is not None]
        return errors[0].message if errors else next(iter(self._notes.values()), None)

    def begin(self, state: State, error: RollcallError | None = None, *, about: str = "") -> bool:
        """Note that something is the matter with `about`; return whether that is news."""
        known = self._troubles.get((state, about))
        fresh = (state, about) not in self._troubles or (known and known.message) != (error and error.message)
        self._troubles[state, about] = error
        if fresh and error is not None:
            log.warning("source_trouble", source=self.source, state=state, reason=error.message, hint=error.hint)
        return self._show() or fresh

    def end(self, *states: State, about: str = "") -> bool:
        """Note that this is not the matter (any more); return whether that is news."""
        found = [state for state in states if self._troubles.pop((state, about), self) is not self]
        return self._show() or bool(found)

    def say(self, note: str | None, *, about: str) -> None:
        """Explain, where nothing is the matter, how a feed is read; None takes that back."""
        if note is None:
            self._notes.pop(about, None)
        elif self._notes.get(about) != note:
            self._notes[about] = note
            log.info("source_note", source=self.source, feed=about, note=note)

    def raise_alarm(self, about: str, text: str) -> bool:
        """Raise an alarm about something; return whether that is news."""
        if self._alarms.get(about) == text:
            return False
        log.error("source_alarm", source=self.source, alarm=text)
        self._alarms[about] = text
        telemetry.ALARMS.labels(self.source).set(len(self._alarms))
        return True

    def clear_alarm(self, *abouts: str) -> bool:
        """Take alarms back; return whether there were any."""
        found = [about for about in abouts if self._alarms.pop(about, None) is not None]
        if found:
            telemetry.ALARMS.labels(self.source).set(len(self._alarms))
            log.info("source_alarm_over", source=self.source, about=found)
        return bool(found)

    def _show(self) -> bool:
        """Show the state in metrics and log where it has changed; return whether it has."""
        state = self.state
        if state == self._shown:
            return False
        self._hide_state()
        telemetry.STATE.labels(self.source, state).set(1)
        log.info("source_state", source=self.source, state=state)
        self._shown = state
        return True

    def hide(self) -> None:
        """Take the source out of the metrics: it is not this worker's any more."""
        self._hide_state()
        for gauge in (telemetry.POLLED, telemetry.CHECKPOINT, telemetry.LIVE, telemetry.HELD, telemetry.ALARMS):
            gauge.remove(self.source)

    def _hide_state(self) -> None:
        if self._shown is not None:
            telemetry.STATE.remove(self.source, self._shown)
            self._shown = None

    def record(self, checkpoint: Checkpoint, now: int) -> dict[str, Any]:
        """Return the status record; `now` is in milliseconds since the epoch."""
        return {
            "kind": "source",
            "source": self.source,
            "adapter": self.kind,
            "state": self.state,
            "message": self.message,
            "alarm": self.alarm,
            "live": checkpoint.live,
            "set_aside": checkpoint.set_aside,
            "held": checkpoint.held,
            "unobserved": checkpoint.unobserved,
            "scans": checkpoint.scans,
            "polled_at": None if self.polled is None else rfc3339(self.polled),
            "scanned_at": None if self.scanned is None else rfc3339(self.scanned),
            "checkpoint_at": None if self.checkpoint is None else rfc3339(self.checkpoint),
            "at": rfc3339(now),
        }
