"""When an API is asked again after it did not answer: soon, later, or, when it seems to be down, now and then.

Pure: what was drawn by chance is an argument. The states and what leads from one to the next are a table.
"""

from typing import Final, Literal

State = Literal["closed", "open", "half open"]
Event = Literal["answered", "failed", "failed too often", "waited"]

# closed: asked as usual. open: not asked at all until its pause has passed. half open: asked once.
NEXT: Final[dict[tuple[State, Event], State]] = {
    ("closed", "answered"): "closed",
    ("closed", "failed"): "closed",
    ("closed", "failed too often"): "open",
    ("closed", "waited"): "closed",
    ("open", "answered"): "closed",
    ("open", "failed"): "open",
    ("open", "failed too often"): "open",
    ("open", "waited"): "half open",
    ("half open", "answered"): "closed",
    ("half open", "failed"): "open",
    ("half open", "failed too often"): "open",
    ("half open", "waited"): "half open",
}

# So many failures in a row, and the API seems to be down.
IN_A_ROW: Final = 5
_BACKOFF: Final = (0.5, 60.0)
_PAUSE: Final = (30.0, 300.0)


def backoff(failures: int, chance: float) -> float:
    """Return the seconds to wait after so many failures in a row: doubling, with jitter by `chance` (0 to 1)."""
    return _grown(_BACKOFF, failures, chance)


def _grown(bounds: tuple[float, float], times: int, chance: float) -> float:
    low, high = bounds
    return min(high, low * 2.0 ** min(times - 1, 30)) * (0.5 + chance / 2)


class Breaker:
    """The breaker of one API."""

    def __init__(self) -> None:
        """Start closed."""
        self.state: State = "closed"
        self.failures = 0
        self._opened = 0

    def answered(self) -> None:
        """Take in that it answered."""
        self._on("answered")
        self.failures = self._opened = 0

    def failed(self, chance: float) -> float:
        """Take in that it did not; return the seconds to wait. `chance` is between 0 and 1, for the jitter."""
        self.failures += 1
        self._on("failed too often" if self.failures >= IN_A_ROW else "failed")
        if self.state != "open":
            return backoff(self.failures, chance)
        self._opened += 1
        return _grown(_PAUSE, self._opened, chance)

    def waited(self) -> None:
        """Take in that the wait is over."""
        self._on("waited")

    def _on(self, event: Event) -> None:
        self.state = NEXT[self.state, event]
