"""What the answers of a target lead to.

An answer that leaves open whether the DELETE was done is never followed by another one before a look-up; what cannot
be looked up goes to a person. 404, and what cannot be read, count only if a canary that was sent after it is found.
"""

from typing import Final, assert_never

import orjson

from handlers.deletes.calls import CANARY, UNKNOWN, Calls, looked_up, own_key
from handlers.deletes.health import Health
from handlers.deletes.life import Life
from handlers.deletes.machine import Event, State
from handlers.deletes.model import Deletion
from handlers.deletes.targets.contract import Answer, Fault, Found, Missing, Sight, Target, Unread, retry_after
from worker.handling import CALLED_OFF, UNASKED, Call, Reply

_LOOKS: Final = 5  # after a DELETE that the target says was done; at an answer that cannot be read
_POLLS: Final = 30  # after a DELETE that it says will be
_BELIEVED_MS: Final = 30_000
_IDLE: Final = 50  # attempts at which nothing was done that are kept: half of them the first, half the last
_DENIED: Final = frozenset({401, 403})
_NOT_TRIED: Final = frozenset({401, 403, 429, 503})  # statuses that say that nothing was done
NO_CANARY: Final = "there is none such, or the base URL is wrong: the target has no canary to tell"
CHANGED: Final = "the customer has changed at the target since"
NOBODY_STAYS: Final = "the customer that was to stay is not found at the target"
ANEW: Final = "a new customer has the id since"


class Outcomes:
    """The answers to one executor, within one transaction, at one moment."""

    def __init__(self, life: Life, health: Health, calls: Calls) -> None:
        """Work on the deletions of `life`."""
        self._life = life
        self._book = life.book
        self._now = life.now
        self._health = health
        self._calls = calls
        self._settings = life.kit.settings

    def on_reply(self, call: Call, reply: Reply) -> None:
        """Take the answer to a call; one to an older call than the newest is late, and was given up."""
        target = self._life.kit.targets.get(call.lane)
        if call.id.startswith(CANARY):
            if target is not None:
                self._on_canary(target, call, reply)
            return
        request, _, serial = call.id.rpartition(":")
        deletion = self._book.deletion(request)
        if deletion is None or str(deletion.serial) != serial or deletion.place is None or deletion.place[0] != "a":
            return
        self._health.count(call.lane, reply)
        self._book.put(deletion, None)
        if target is None:
            self.interrupted(deletion, "the target is not configured any more")
        elif deletion.state == State.EXECUTING:
            self._answered(target, deletion, target.read_delete(reply), reply)
        else:
            self._seen(target, deletion, target.read_lookup(deletion.sought or "", reply), reply)

    def interrupted(self, deletion: Deletion, why: str) -> None:
        """Take it that a call will not be answered any more."""
        if deletion.state != State.EXECUTING or (deletion.attempts and deletion.attempts[-1]["at"] == deletion.sent):
            self._calls.look_later(deletion)  # a look-up, or a DELETE that was answered and waits for a canary
            return
        self._book.put(deletion, None)
        deletion.tries = 0
        _note_attempt(deletion, None, why)
        self._lost(deletion)

    # The answer to a DELETE

    def _answered(self, target: Target, deletion: Deletion, answer: Answer, reply: Reply) -> None:
        if reply.error not in UNASKED:
            deletion.tries = 0
            _note_attempt(deletion, reply.status, reply.error)
        match answer:
            case Answer.DONE | Answer.ACCEPTED:
                self._said_done(deletion, answer)
            case Answer.GONE:
                deletion.absent = True
                if target.canary() is None:
                    self._calls.not_done(deletion)  # whether it was there before or not: this has deleted nobody
                self._calls.wait_for_canary(target, deletion, None, NO_CANARY)
            case Answer.DENIED:
                self._calls.not_done(deletion)
                self._not_allowed(deletion, reply)
            case Answer.LATER:
                self._calls.not_done(deletion)
                self._later(deletion, reply)
            case Answer.CONFLICT:
                self._calls.not_done(deletion)
                self._again(deletion, f"the target sees a conflict ({reply.status})")
            case Answer.REFUSED:
                self._calls.not_done(deletion)
                self._calls.block(deletion, f"the target refuses ({reply.status})")
            case Answer.UNKNOWN:
                self._lost(deletion)
            case _:
                assert_never(answer)

    def _not_allowed(self, deletion: Deletion, reply: Reply) -> None:
        """Pause the target; leave to a person one that was refused before, if another was deleted then, or since."""
        refused = [attempt["at"] for attempt in deletion.attempts[:-1] if attempt["status"] in _DENIED]
        runtime = self._health.runtime(deletion.request["target"])
        # So many in a row are no exceptions any more: the key may be gone (again) since the newest one was done.
        alone = bool(refused) and refused[0] <= runtime.obeyed and runtime.refused < self._settings.breaker.in_a_row
        if alone:
            runtime.refused += 1
            self._calls.block(deletion, f"the target refuses this one ({reply.status}), and has deleted others")
            return
        self._life.must(deletion, Event.POSTPONE)
        self._book.put(deletion, "q", self._now + int(self._settings.probe * 1000))  # after all that wait by then
        self._denied(deletion, reply)

    def _said_done(self, deletion: Deletion, answer: Answer) -> None:
        """Take the target's word, and look whether it is so."""
        runtime = self._health.runtime(deletion.request["target"])
        runtime.obeyed, runtime.refused = max(runtime.obeyed, deletion.sent or 0), 0
        looks = self._has_lookup(deletion)
        if answer == Answer.ACCEPTED and not looks:
            self._calls.block(deletion, "the target has accepted it for later, and has no look-up to see it done")
            return
        self._life.must(deletion, Event.DONE if answer == Answer.DONE else Event.ACCEPT)
        self._note_done(deletion)
        if looks:
            self._book.put(deletion, "v", self._now + (0 if answer == Answer.DONE else self._health.backoff(1)))
        else:
            self._life.end(deletion)

    def _lost(self, deletion: Deletion) -> None:
        self._life.must(deletion, Event.LOSE)
        if self._has_lookup(deletion):
            self._book.put(deletion, "v", self._now)
        else:
            self._calls.block(deletion, UNKNOWN)

    def _denied(self, deletion: Deletion, reply: Reply) -> None:
        self._health.pause(deletion.request["target"], f"it refuses the credential ({reply.status})")

    def _later(self, deletion: Deletion, reply: Reply) -> None:
        """Come back when the target may be asked again; at once, with more patience, where it was not asked at all."""
        if reply.error == CALLED_OFF:
            deletion.tries += 1
            when = self._now
        else:
            wait = self._health.leave_alone(deletion.request["target"], reply)
            if reply.status is not None and retry_after(reply.headers, self._now) is None:
                # By the deletion's own count: the target's begins anew with each look-up that it does answer.
                deletion.failures += 1
                wait = max(wait, self._health.backoff(deletion.failures))
            when = self._now + wait
        if deletion.state in {State.LOOKING, State.EXECUTING}:
            self._life.must(deletion, Event.POSTPONE)
            self._book.put(deletion, "q", when)
        else:
            self._book.put(deletion, "v", when)

    def _again(self, deletion: Deletion, why: str) -> None:
        """Try again after a while, with a new look first, unless the attempts are used up."""
        if not self._has_lookup(deletion):
            self._calls.block(deletion, why)
            return
        used = sum(1 for attempt in deletion.attempts if attempt["status"] not in _NOT_TRIED)
        if used >= self._settings.targets[deletion.request["target"]].max_attempts:
            self._life.must(deletion, Event.EXHAUST, f"{why}, after {used} attempts")
            self._life.end(deletion)
            return
        self._life.must(deletion, Event.POSTPONE)
        self._book.put(deletion, "q", self._now + self._health.backoff(used))

    # What a look-up shows

    def _seen(self, target: Target, deletion: Deletion, sight: Sight, reply: Reply) -> None:
        match sight:
            case Missing():
                # After a DELETE that was done, the target's own word stands beside the 404.
                said = deletion.state == State.DELETED or (deletion.state == State.ACCEPTED and target.canary() is None)
                vouched = deletion.vouched_for == deletion.sought and self._now < deletion.vouched + _BELIEVED_MS
                if not (said or vouched):
                    self._calls.wait_for_canary(target, deletion, None, NO_CANARY)
                elif deletion.seeks_winner:
                    self._life.must(deletion, Event.SUPERSEDE, NOBODY_STAYS)
                    self._life.end(deletion)
                else:
                    self._gone(deletion)
            case Found() if deletion.seeks_winner:
                deletion.stays = True
                self._calls.take_up(target, deletion)
            case Found():
                deletion.vouched = 0
                self._still_there(target, deletion, sight)
            case Unread(reason):
                self._calls.wait_for_canary(target, deletion, reason, reason)
            case Fault(answer):
                self._look_failed(deletion, answer, reply)
            case _:
                assert_never(sight)

    def _still_there(self, target: Target, deletion: Deletion, found: Found) -> None:
        # One that was created since is somebody else, who was given the id.
        changed = max(found.changed or 0, found.created or 0) > deletion.request["as_of"]
        anew = found.created is not None and deletion.sent is not None and found.created > deletion.sent
        if deletion.state == State.LOOKING:
            self._before(target, deletion, found, changed=changed)
        elif anew:
            self._gone(deletion, ANEW)
        elif deletion.state != State.UNKNOWN:
            self._not_yet(deletion)
        elif changed:
            self._changed(deletion)
        else:
            self._again(deletion, "the DELETE was not carried out")

    def _before(self, target: Target, deletion: Deletion, found: Found, *, changed: bool) -> None:
        """Go on to the DELETE, unless what the look-up shows speaks against it."""
        if changed:
            self._changed(deletion)
        elif found.related and deletion.request["authority"] == "duplicate":
            self._calls.block(deletion, f"it still has {', '.join(found.related)}")
        elif found.unseen and deletion.request["authority"] == "duplicate":
            self._calls.block(deletion, f"the look-up does not show its {', '.join(found.unseen)}")
        else:
            self._calls.execute(target, deletion, found)

    def _changed(self, deletion: Deletion) -> None:
        self._life.must(deletion, Event.CHANGE, CHANGED)
        self._life.end(deletion)

    def _not_yet(self, deletion: Deletion) -> None:
        """Look again some times at a customer that is said to be deleted, and is still there."""
        deletion.tries += 1
        if deletion.tries >= (_POLLS if deletion.state == State.ACCEPTED else _LOOKS):
            self._calls.block(deletion, "the target says that it is deleted, and still shows it")
        else:
            self._book.put(deletion, "v", self._now + self._health.backoff(deletion.tries))

    def _look_failed(self, deletion: Deletion, answer: Answer, reply: Reply) -> None:
        deletion.vouched = 0
        if answer == Answer.LATER and reply.status is not None:
            self._later(deletion, reply)
            return
        if answer == Answer.DENIED:
            self._denied(deletion, reply)
        elif reply.error not in UNASKED:
            deletion.failures += 1
        self._calls.look_later(deletion)

    def _gone(self, deletion: Deletion, reason: str | None = None) -> None:
        if deletion.absent:
            self._calls.not_done(deletion)  # somebody else has deleted it
        absent = deletion.absent and deletion.state == State.UNKNOWN
        self._life.must(deletion, Event.ABSENT if absent else Event.GONE, reason)
        deletion.verified = self._now
        if deletion.state == State.VERIFIED:
            self._note_done(deletion)
        self._life.end(deletion)

    def _note_done(self, deletion: Deletion) -> None:
        key = own_key(deletion)
        own = orjson.loads(self._life.tx.get(key) or b"{}")
        own.pop("before", None)
        own.pop("kept", None)
        self._life.tx.put(key, orjson.dumps({**own, "done": own.get("done") or self._now}))

    def _has_lookup(self, deletion: Deletion) -> bool:
        target = self._life.kit.targets.get(deletion.request["target"])
        return target is not None and target.lookup(deletion.request["customer"] or "") is not None

    # What a canary shows

    def _on_canary(self, target: Target, call: Call, reply: Reply) -> None:
        name = call.lane
        runtime = self._health.runtime(name)
        if call.id != f"{CANARY}{name}:{runtime.canary}":
            return
        self._health.count(name, reply)
        asked, runtime.canary = runtime.canary, 0
        sight = target.read_canary(reply)
        if isinstance(sight, Found):
            self._health.resume(name)
            self._told(name, asked)
        else:
            self._doubt(name, sight, reply)
            self.not_told(name, asked, failed=reply.error not in UNASKED)
        if runtime.paused is None and self._book.next_order("e", name) is not None:
            self._calls.canary(name, target)

    def _doubt(self, name: str, sight: Missing | Unread | Fault, reply: Reply) -> None:
        """Pause a target whose canary shows that it cannot be trusted."""
        match sight:
            case Missing():
                why = "its canary is not found either: is the base URL right, and the canary still there?"
                self._health.pause(name, why)
            case Unread(reason):
                self._health.pause(name, f"its canary cannot be read: {reason}")
            case Fault(Answer.DENIED):
                self._health.pause(name, f"it refuses the credential ({reply.status})")
            case Fault():
                pass  # no answer: the breaker has counted it
            case _:
                assert_never(sight)

    def _told(self, name: str, asked: int) -> None:
        """Believe the answers that this canary was sent after.

        A 404 is asked for once more, now that the canary is there: it may have been the end of an outage.
        """
        for waiting in self._book.queued("e", name, asked):
            self._book.put(waiting, None)
            if waiting.doubt is not None:
                self._unread(waiting, waiting.doubt)
            else:
                waiting.vouched, waiting.vouched_for = self._now, waiting.sought
                self._calls.look_first(waiting)  # behind a long queue the canary's word would have run out

    def _unread(self, deletion: Deletion, why: str) -> None:
        """Look again some times at an answer that cannot be read: half an answer comes whole the next time."""
        deletion.tries += 1
        if deletion.tries >= _LOOKS:
            self._calls.block(deletion, looked_up(deletion, why))
        else:
            self._calls.look_later(deletion, after=self._health.backoff(deletion.tries))

    def not_told(self, name: str, asked: int, *, failed: bool = True) -> None:
        """Put back what the canary could not vouch for, because that `failed` or was never asked."""
        for waiting in self._book.queued("e", name, asked):
            waiting.failures += failed
            self._calls.look_later(waiting)


def _note_attempt(deletion: Deletion, status: int | None, error: str | None) -> None:
    """Note a DELETE; a target may put it off for days, and of such attempts only some are kept."""
    attempts = deletion.attempts
    attempts.append({"at": deletion.sent or 0, "status": status, "error": error})
    idle = [n for n, attempt in enumerate(attempts) if attempt["status"] in _NOT_TRIED]
    if len(idle) > _IDLE:
        last = attempts[idle[_IDLE // 2 - 1]]
        last["left_out"] = last.get("left_out", 0) + 1
        del attempts[idle[_IDLE // 2]]
