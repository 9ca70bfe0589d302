"""How a target does: whether it may be asked at all, and when again.

A target is paused where only a person or a canary can tell that it is well again (a refused credential, 404 for
everything); it is left alone for a while where it asks for that, or where its breaker is open.
"""

from typing import Final

import orjson

from handlers.deletes.book import Runtime
from handlers.deletes.life import Life
from handlers.deletes.targets.contract import retry_after
from worker.handling import STOPPING, UNASKED, Reply

_LONGEST_BACKOFF_MS: Final = 300_000
_DOUBLINGS: Final = 32  # of the breaker's pause: beyond that it is the longest, and 2**1024 is no float
_SHORTEST_WAIT_MS: Final = 1_000
_TOO_MANY: Final = 429  # RFC 6585, section 4: it says nothing of a target's health
_SERVER_ERRORS: Final = 500  # RFC 9110, section 15.6


class Health:
    """The targets of one executor, within one transaction, at one moment."""

    def __init__(self, life: Life) -> None:
        """Work within the transaction of `life`."""
        self._life = life
        self._now = life.now
        self._settings = life.kit.settings

    def runtime(self, name: str) -> Runtime:
        """Return what is known of a target at present."""
        return self._life.book.runtime(name)

    def backoff(self, failures: int) -> int:
        """Return how many milliseconds to wait after so many failures in a row."""
        if not failures:
            return 0
        return min(int(self._settings.backoff * 1000) << (min(failures, 16) - 1), _LONGEST_BACKOFF_MS)

    def leave_alone(self, name: str, reply: Reply) -> int:
        """Leave a target alone that asks for it; return for how many milliseconds."""
        if reply.error == STOPPING:
            return 0
        runtime = self.runtime(name)
        if self._now >= runtime.wait_until:  # else it belongs to the burst that was answered so
            runtime.laters += 1
        asked = retry_after(reply.headers, self._now)
        wait = max(_SHORTEST_WAIT_MS, self.backoff(runtime.laters) if asked is None else asked)
        runtime.wait_until = max(runtime.wait_until, self._now + wait)
        return wait

    def pause(self, name: str, why: str) -> None:
        """Ask nothing of a target but its canary, until that works or a person says so."""
        runtime = self.runtime(name)
        if runtime.paused is None:
            runtime.probe_at = self._now + int(self._settings.probe * 1000)
        if runtime.paused != why:
            runtime.paused = why
            self.tell(name)
            self._life.tx.log.warning("target_paused", target=name, reason=why)

    def resume(self, name: str) -> None:
        """Let a paused target go on."""
        runtime = self.runtime(name)
        if runtime.paused is not None:
            runtime.paused = None
            self._works(name)

    def resume_now(self, name: str) -> bool:
        """Let a target go on at once, on a person's word; return whether it was held back by anything."""
        runtime = self.runtime(name)
        held_back = runtime.paused is not None or runtime.wait_until > self._now
        runtime.wait_until = 0
        self.resume(name)
        return held_back

    def count(self, name: str, reply: Reply) -> None:
        """Count a call for the breaker: no answer and 5xx are failures, what was never sent says nothing."""
        if reply.error in UNASKED:
            return
        runtime = self.runtime(name)
        failed = reply.status is None or reply.status >= _SERVER_ERRORS
        runtime.last = (runtime.last + ("1" if failed else "0"))[-self._settings.breaker.last :]
        if failed:
            self._failed(name, runtime)
            return
        runtime.failures = 0
        if reply.status != _TOO_MANY:
            runtime.laters = 0
            self.let_be(name)

    def let_be(self, name: str) -> None:
        """Close a target's circuit: it is well, or nothing is left to do that would show how it is."""
        runtime = self.runtime(name)
        if runtime.half_open:
            runtime.half_open, runtime.opened, runtime.last = False, 0, ""
            self._works(name)

    def _works(self, name: str) -> None:
        self.tell(name)
        self._life.tx.log.info("target_working", target=name)

    def _failed(self, name: str, runtime: Runtime) -> None:
        breaker = self._settings.breaker
        runtime.failures += 1
        if runtime.half_open and self._now < runtime.wait_until:
            return  # one of those that were under way when the breaker opened
        often = runtime.last.count("1") >= breaker.share * breaker.last
        if runtime.half_open or runtime.failures >= breaker.in_a_row or often:
            pause = min(breaker.pause * 2 ** min(runtime.opened, _DOUBLINGS), breaker.longest)
            runtime.wait_until = max(runtime.wait_until, self._now + int(pause * 1000))
            runtime.opened, runtime.half_open, runtime.last, runtime.failures = runtime.opened + 1, True, "", 0
            self.tell(name)
            seconds = (runtime.wait_until - self._now) / 1000
            self._life.tx.log.warning("circuit_open", target=name, seconds=seconds)

    def tell(self, name: str) -> None:
        """Say on the status topic how a target does."""
        runtime = self.runtime(name)
        state = runtime.state(self._now)
        value = {
            "kind": "target",
            "target": name,
            "state": state,
            "reason": runtime.paused,
            "until": runtime.wait_until if state in {"circuit open", "waiting"} else None,
            "at": self._now,
        }
        self._life.tx.send(self._life.kit.topics.status, f"target/{name}".encode(), orjson.dumps(value))
