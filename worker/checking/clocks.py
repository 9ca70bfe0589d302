"""Clocks: ours beside that of another machine. Nothing reports later on what a wrong clock has spoilt."""

from typing import Final

from worker.times import http_date, now_ms

# An HTTP date has whole seconds, and an answer takes its time.
_TOLERATED_MS: Final = 10_000

Clocks = tuple[int, int]  # the other's time and ours, at one moment, in ms since the epoch


def answered(date: str | None) -> Clocks | None:
    """Return both times by the `Date` header of an answer that has just come, None where it had none."""
    theirs = http_date(date) if date else None
    return None if theirs is None else (theirs, now_ms())


def apart(path: str, clocks: Clocks | None) -> list[str]:
    """Return what is to be said where the clocks are too far apart."""
    if clocks is None or abs(clocks[0] - clocks[1]) <= _TOLERATED_MS:
        return []
    ahead = round((clocks[1] - clocks[0]) / 1000)
    way = "ahead of" if ahead > 0 else "behind"
    return [f"{path}: this machine's clock is {abs(ahead)} s {way} the one there: synchronise them (NTP)"]
