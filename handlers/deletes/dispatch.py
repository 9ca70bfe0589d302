"""Whose turn it is: the order of calls of each target, within its limits, and what is taken up again after a crash.

The order for each deletion is: ask the requests stage whether it is still wanted, look the customer up, commit to
EXECUTING, and only then DELETE; look up again after it.
"""

from typing import Final

from handlers.deletes.book import Runtime
from handlers.deletes.calls import VOUCHED_FOR_MS, Calls
from handlers.deletes.guard import SLICE, Guard
from handlers.deletes.health import Health
from handlers.deletes.life import Life
from handlers.deletes.machine import Event, State
from handlers.deletes.model import Deletion
from handlers.deletes.outcomes import Outcomes
from handlers.deletes.settings import TargetSettings
from handlers.deletes.targets.contract import Target
from worker.handling import Call, Reply

_CHECKS_PER_CALL: Final = 16  # asked ahead of their turn, for each deletion that may run at once
_CALLS: Final = 3  # of a deletion: a look-up, the DELETE, and a look-up
_OVERDUE_MS: Final = 30_000  # a question that the requests stage leaves unanswered
_NO_ANSWER_MS: Final = 120_000  # beyond the target's time-out: the loop's waiting for the rate limit
_STAND_BACK_MS: Final = 5_000
_BUSY: Final = frozenset({State.CHECKING, State.LOOKING, State.EXECUTING, State.ACCEPTED, State.UNKNOWN, State.DELETED})


class Dispatch:
    """The target side of one executor, within one transaction, at one moment."""

    def __init__(self, life: Life) -> None:
        """Work on the deletions of `life`."""
        self._life = life
        self._book = life.book
        self._now = life.now
        self._settings = life.kit.settings
        self.health = Health(life)
        self._calls = Calls(life, self.health)
        self._outcomes = Outcomes(life, self.health, self._calls)

    def pump(self, name: str) -> None:
        """Start whatever a target may be asked now."""
        settings, runtime = self._settings.targets.get(name), self._book.runtime(name)
        target = self._life.kit.targets[name] if settings is not None and settings.enabled else None
        if self._now >= runtime.wait_until and (target is None or not runtime.in_turn):
            self.health.let_be(name)
        if target is None or settings is None:
            return
        if runtime.paused is not None:
            self._probe(name, target, runtime)
            return
        if self._now < runtime.wait_until:
            return
        slots = 1 if runtime.half_open else settings.concurrency
        while runtime.slots < slots:
            waiting = self._book.first("v", name, self._now) or self._vouched(name)
            if waiting is None:
                break
            self._calls.take_up(target, waiting)
        self._ask_ahead(name, settings, runtime)

    def _vouched(self, name: str) -> Deletion | None:
        """Return the next deletion that the requests stage has vouched for, lately enough; ask anew for others."""
        while (waiting := self._book.first("y", name, self._now)) is not None:
            if waiting.place is not None and waiting.place[1] + VOUCHED_FOR_MS > self._now:
                return waiting
            self._calls.check(waiting)
        return None

    def _ask_ahead(self, name: str, settings: TargetSettings, runtime: Runtime) -> None:
        """Ask the requests stage about the deletions that are next."""
        slots = 1 if runtime.half_open else settings.concurrency
        # No more than have their turn while half of that word's time is left: others would only be asked about again.
        soon = int(settings.rate / _CALLS * VOUCHED_FOR_MS / 2000)
        most = max(slots, min(_CHECKS_PER_CALL * slots, soon))
        if runtime.asked > most // 2:
            return  # many at a time: every question is a transaction of the stage that answers it
        for _ in range(SLICE):
            waiting = self._book.first("q", name, self._now) if runtime.asked < most else None
            if waiting is None:
                return
            if self._set_aside(waiting):
                continue
            if self._stands_back(waiting):
                self._book.put(waiting, "q", self._now + _STAND_BACK_MS)
                continue
            self._life.must(waiting, Event.CHECK)
            self._calls.check(waiting)

    def _set_aside(self, deletion: Deletion) -> bool:
        """Take a deletion out of its turn if its route, as it is configured now, does not let it run by itself."""
        request = deletion.request
        if request["route"] is None:
            return False
        route = self._life.kit.route_of(request)
        if route is None:
            deletion.reason = f"it waits for its route: {request['route']} is not there, or stops it"
            self._book.put(deletion, "w", self._now)
            return True
        asked = request["authority"] == "erasure" or request["retry_of"] is not None
        decided = asked or any(given["refused"] is None for given in deletion.decisions)
        if request["approval"] or decided or route.mode(request["authority"]) != "approval":
            return False
        request["approval"] = True
        self._book.put(deletion, None)
        self._book.renumber(deletion)
        Guard(self._life).gather(deletion, recovered=False)
        return True

    def look_for_routes(self, name: str, since: int) -> bool:
        """Let go on, some at a time, what waits for a route that is there again; return whether there is more of it.

        `since`: when this executor took up its partition; its configuration does not change after that.
        """
        waiting = self._book.queued("w", name, since, SLICE)
        for deletion in waiting:
            there = self._life.kit.route_of(deletion.request) is not None
            deletion.reason = None if there else deletion.reason
            self._book.put(deletion, "q" if there else "w", self._now)
        return len(waiting) == SLICE

    def _stands_back(self, deletion: Deletion) -> bool:
        """Return whether another deletion has to end first: of the same customer, or of a duplicate's other half."""
        # A winner by whatever authority: of two halves that go at once, neither would know of the other.
        before = [*self._book.others(deletion), *self._book.losers(deletion)]
        return any(other.state in _BUSY for other in before) or self._book.has_open_half(deletion)

    def _probe(self, name: str, target: Target, runtime: Runtime) -> None:
        """Try the canary of a paused target from time to time."""
        if self._now >= runtime.probe_at and self._calls.canary(name, target):
            runtime.probe_at = self._now + int(self._settings.probe * 1000)

    def on_reply(self, call: Call, reply: Reply) -> None:
        """Take the answer to a call, and start what follows."""
        self._outcomes.on_reply(call, reply)
        self.pump(call.lane)

    # After a crash, and after silence

    def recover(self, name: str) -> None:
        """Take up a target whose calls under way are forgotten: what was sent has an unknown outcome."""
        self._book.runtime(name).canary = 0
        self._book.recount(name)
        self.health.resume(name)
        for queue in ("a", "e"):
            for deletion in self._book.queued(queue, name):
                self._outcomes.interrupted(deletion, "interrupted")
        asked = self._book.queued("k", name)
        # Also what was vouched for: the configuration may stop its route now.
        for deletion in (*asked, *self._book.queued("y", name)):
            self._life.must(deletion, Event.POSTPONE)
            self._book.put(deletion, "q", self._now)

    def give_up_silent(self, name: str) -> None:
        """Give up calls and questions that were not answered for longer than any can take; ask anew, in turn."""
        settings, runtime = self._settings.targets.get(name), self._book.runtime(name)
        latest = self._now - _NO_ANSWER_MS - int((settings.timeout if settings else 0) * 2000)
        for deletion in self._book.queued("a", name, max(0, latest)):
            self.health.count(name, Reply(None, error="silence"))
            self._outcomes.interrupted(deletion, "no answer")
        if runtime.canary and runtime.canary_at < latest:
            asked, runtime.canary = runtime.canary, 0
            self._outcomes.not_told(name, asked)
        if settings is not None and settings.enabled and runtime.paused is None:
            for overdue in self._book.queued("k", name, self._now - _OVERDUE_MS):
                self._life.must(overdue, Event.POSTPONE)  # others go first: its route may be there no more
                self._book.put(overdue, "q", self._now)
