"""Faults that a simulator can be told to have, and the matching of them to requests.

A fault has a kind, says which requests it meets (method, path pattern, skipping the first few, a probability, a
number of times), and ends when its times are used up or it is cleared. Faults compose: every one that matches a
request takes part, in the order in which they were set. Chance comes from the simulator's seed, so a run can be
repeated.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

BEFORE = ("status", "retry_later", "latency", "never", "redirect", "html")
"""Kinds that act before the system is asked; all but `latency` answer in its place."""
VIEW = ("short", "empty", "stale")
"""Kinds that change which customers a request can see."""
AFTER = (
    "truncated", "wrong_types", "missing_ids", "duplicate_ids", "nulls", "huge", "deep", "nan", "charset",
    "answer_after", "gzip_bomb", "cut", "drop",
)  # fmt: skip
"""Kinds that spoil an answer whose work was done."""
SPECIAL = ("expired_cursor", "repeating_cursor", "token_expired", "errors")
"""Kinds that only one system knows."""
KINDS = (*BEFORE, *VIEW, *AFTER, *SPECIAL)


@dataclass(slots=True)
class Fault:
    """One fault; `options` are the kind's own (see `docs/simulators.md`)."""

    number: int
    kind: str
    times: int | None = None
    """How many requests it meets before it ends; None is until cleared."""
    probability: float = 1.0
    method: str | None = None
    path: str | None = None
    """A regular expression searched in path and query as they came."""
    skip: int = 0
    """Matching requests let through first."""
    options: dict[str, Any] = field(default_factory=dict)
    hits: int = 0

    def option(self, name: str, default: Any) -> Any:
        """Return an option of the kind, or its default."""
        return self.options.get(name, default)

    def matches(self, method: str, target: str) -> bool:
        """Tell whether the fault is about this request at all, its luck aside."""
        if self.times is not None and self.hits >= self.times:
            return False
        return self.method in {None, method} and (self.path is None or re.search(self.path, target) is not None)

    def describe(self) -> dict[str, Any]:
        """Return the fault as JSON, for the control API."""
        return {"fault": self.number, "kind": self.kind, "times": self.times, "hits": self.hits, **self.options}


class Faults:
    """The faults that are set, in order."""

    def __init__(self, seed: int) -> None:
        """`seed` decides every chance."""
        self._random = random.Random(f"faults {seed}")
        self._set: dict[int, Fault] = {}
        self._numbers = 0
        self.hits: dict[str, int] = {}
        """Requests met so far, by kind; never reset."""

    def __bool__(self) -> bool:
        return bool(self._set)

    def __iter__(self) -> Iterator[Fault]:
        return iter(self._set.values())

    def set(self, kind: str, **settings: Any) -> Fault:
        """Set a fault; settings that are not `Fault`'s fields become the kind's options.

        Raises ValueError for a kind that does not exist.
        """
        if kind not in KINDS:
            raise ValueError(f"no fault is called {kind!r}; there are {', '.join(KINDS)}")
        self._numbers += 1
        known = {"times", "probability", "method", "path", "skip"}
        fault = Fault(self._numbers, kind, **{name: settings.pop(name) for name in known & settings.keys()})
        fault.options = settings
        self._set[fault.number] = fault
        return fault

    def clear(self, number: int | None = None) -> None:
        """End one fault, or all."""
        if number is None:
            self._set.clear()
        else:
            self._set.pop(number, None)

    def take(self, method: str, target: str) -> list[Fault]:
        """Return the faults that this request meets; each of them counts it."""
        met = [fault for fault in self._set.values() if fault.matches(method, target) and self._lucky(fault)]
        for fault in met:
            fault.hits += 1
            self.hits[fault.kind] = self.hits.get(fault.kind, 0) + 1
        return met

    def _lucky(self, fault: Fault) -> bool:
        if fault.skip > 0:
            fault.skip -= 1
            return False
        return fault.probability >= 1 or self._random.random() < fault.probability
