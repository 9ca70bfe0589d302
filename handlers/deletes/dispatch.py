"""The calls of the executor: whose turn it is, what is asked of a target, and what its answers lead to.

The order for each deletion is: ask the requests stage whether it is still wanted, look the customer up, commit to
EXECUTING, and only then DELETE; look up again after it. An answer that leaves open whether it was done is never
followed by another DELETE before a look-up. 404 counts only while a canary that was asked for after it is found.
"""

from collections.abc import Callable
from typing import Final, assert_never

import orjson

from handlers.deletes.book import Runtime
from handlers.deletes.life import Life
from handlers.deletes.machine import Event, State
from handlers.deletes.model import Deletion, Role, person, send_check
from handlers.deletes.settings import TargetSettings
from handlers.deletes.targets.contract import Answer, Ask, Fault, Found, Missing, Sight, Target, Unread, retry_after
from worker.handling import Call, Reply

CANARY: Final = "canary:"
UNKNOWN: Final = "it is not known whether it was done, and the target has no look-up"
_CHECKS_PER_CALL: Final = 16  # asked ahead of their turn, for each deletion that may run at once
_VOUCHED_FOR_MS: Final = 30_000  # how long the word of the requests stage is taken
_LONGEST_BACKOFF_MS: Final = 300_000
_NO_ANSWER_MS: Final = 120_000  # beyond the target's time-out: the loop's waiting for the rate limit
_LOOKS: Final = 5  # after a DELETE that the target says was done
_POLLS: Final = 30  # after a DELETE that it says will be
_BUSY: Final = frozenset(
    {State.CHECKING, State.LOOKING, State.EXECUTING, State.ACCEPTED, State.UNKNOWN, State.DELETED}
)
_STAND_BACK_MS: Final = 5_000
_UNDO_BYTES: Final = 256 * 1024


class Dispatch:
    """The target side of one executor, within one transaction, at one moment."""

    def __init__(self, life: Life, leave: Callable[[Deletion], None]) -> None:
        """Work on the deletions of `life`; `leave` takes one out of its group."""
        self._life = life
        self._book = life.book
        self._now = life.now
        self._leave = leave
        self._settings = life.kit.settings

    # Whose turn it is

    def pump(self, name: str) -> None:
        """Start whatever a target may be asked now."""
        target, settings = self._life.kit.targets.get(name), self._settings.targets.get(name)
        if target is None or settings is None or not settings.enabled:
            return
        runtime = self._book.runtime(name)
        if runtime.paused is not None:
            self._probe(name, target, runtime)
            return
        if self._now < runtime.wait_until:
            return
        slots = 1 if runtime.half_open else settings.concurrency
        while runtime.calls < slots:
            waiting = self._book.first("v", name, self._now) or self._vouched(name)
            if waiting is None:
                break
            self._take_up(target, waiting)
        self._ask_ahead(name, settings, runtime)

    def _vouched(self, name: str) -> Deletion | None:
        """Return the next deletion that the requests stage has vouched for, lately enough; ask anew for others."""
        while (waiting := self._book.first("y", name, self._now)) is not None:
            if waiting.place is not None and waiting.place[1] + _VOUCHED_FOR_MS > self._now:
                return waiting
            self._check(waiting)
        return None

    def _take_up(self, target: Target, deletion: Deletion) -> None:
        if deletion.state == State.CHECKING:
            self._life.must(deletion, Event.VOUCH)
        customer = deletion.request["customer"]
        if customer is None or not target.valid(customer):
            self._book.put(deletion, None)
            self._block(deletion, "the id is not one that this target gives out")
            return
        ask = target.lookup(customer)
        if ask is not None:
            self._call(deletion, ask)
        elif deletion.state != State.LOOKING:
            self._block(deletion, UNKNOWN)
        elif deletion.request["authority"] == "duplicate":
            self._block(deletion, "the target has no look-up: a duplicate's relations cannot be seen")
        else:
            self._execute(target, deletion, None)

    def _ask_ahead(self, name: str, settings: TargetSettings, runtime: Runtime) -> None:
        """Ask the requests stage about the deletions that are next."""
        for overdue in self._book.queued("k", name, self._now - _VOUCHED_FOR_MS, _CHECKS_PER_CALL):
            self._check(overdue)
        most = _CHECKS_PER_CALL * (1 if runtime.half_open else settings.concurrency)
        while runtime.asked < most:
            waiting = self._book.first("q", name, self._now)
            if waiting is None:
                return
            if self._stands_back(waiting):
                self._book.put(waiting, "q", self._now + _STAND_BACK_MS)
                continue
            self._life.must(waiting, Event.CHECK)
            self._check(waiting)

    def _stands_back(self, deletion: Deletion) -> bool:
        """Return whether another deletion has to end first: of the same customer, or of a duplicate's other half."""
        request = deletion.request
        if any(other.state in _BUSY for other in self._book.others(deletion)):
            return True
        if request["authority"] != "duplicate" or request["customer"] is None:
            return False
        target, winner = request["target"], request["winner"] or ""
        return bool(self._book.losers(target, request["customer"]) or self._book.open_for(target, winner))

    def _check(self, deletion: Deletion) -> None:
        request = deletion.request
        hops: list[tuple[Role, str]] = [("origin", f"{request['source']}/{request['origin']}")]
        sources = self._life.kit.sources
        if sources is None or request["target"] in sources:
            hops.append(("subject", f"{request['target']}/{request['customer']}"))
        if request["winner"] is not None:
            hops.append(("winner", f"{request['target']}/{request['winner']}"))
        deletion.serial += 1
        self._book.put(deletion, "k", self._now)
        send_check(self._life.tx, self._life.kit.topics.requests, request, hops, deletion.serial)

    # Calls

    def _call(self, deletion: Deletion, ask: Ask) -> None:
        deletion.serial += 1
        self._book.put(deletion, "a", self._now)
        name = deletion.request["target"]
        id_ = f"{deletion.request['id']}:{deletion.serial}"
        self._life.tx.call(Call(id_, name, ask.method, ask.path, ask.query, ask.json))

    def _execute(self, target: Target, deletion: Deletion, found: Found | None) -> None:
        """Commit to the DELETE; it is sent once this transaction is committed."""
        request, life = deletion.request, self._life
        if request["dry_run"]:
            life.must(deletion, Event.REHEARSE)
            life.end(deletion)
            return
        undo, settings = life.kit.undo, self._settings.targets[request["target"]]
        customer = request["customer"] or ""
        if undo is not None and found is not None and settings.undo and request["authority"] != "erasure":
            if len(found.body) > _UNDO_BYTES:
                self._block(deletion, "the record is too large for an undo copy")
                return
            deletion.undo = undo.encrypt(request["id"], f"{request['target']}/{customer}", found.body)
        life.must(deletion, Event.EXECUTE)
        deletion.sent, deletion.tries = self._now, 0
        own = {"request": request["id"], "done": None, "echo": None}
        life.tx.put(b"d/" + person(request["target"], customer), orjson.dumps(own))
        self._call(deletion, target.delete(customer))

    def on_reply(self, call: Call, reply: Reply) -> None:
        """Take the answer to a call; one to an older call than the newest is late, and was given up."""
        if call.id.startswith(CANARY):
            self._on_canary(call, reply)
            return
        request, _, serial = call.id.rpartition(":")
        deletion = self._book.deletion(request)
        if deletion is None or str(deletion.serial) != serial or deletion.place is None or deletion.place[0] != "a":
            return
        target = self._life.kit.targets.get(call.lane)
        if target is None:
            reply = Reply(None, error="unknown_target", sent=reply.sent)
        self._health(call.lane, reply)
        self._book.put(deletion, None)
        if deletion.state == State.EXECUTING:
            answer = _general(reply) if target is None else target.read_delete(reply)
            self._answered(deletion, answer, reply)
        elif target is None:
            self._look_later(deletion)
        else:
            self._seen(target, deletion, target.read_lookup(deletion.request["customer"] or "", reply), reply)

    # The answer to a DELETE

    def _answered(self, deletion: Deletion, answer: Answer, reply: Reply) -> None:
        deletion.attempts.append({"at": deletion.sent or 0, "status": reply.status, "error": reply.error})
        lane = deletion.request["target"]
        looks = self._has_lookup(lane)
        match answer:
            case Answer.DONE | Answer.ACCEPTED:
                self._said_done(deletion, answer, looks=looks)
            case Answer.GONE:
                self._ask_canary(deletion)
            case Answer.DENIED:
                self._life.must(deletion, Event.POSTPONE)
                self._book.put(deletion, "q", self._now)
                self._pause(lane, f"it refuses the credential ({reply.status})")
            case Answer.LATER:
                self._later(deletion, reply)
            case Answer.CONFLICT:
                self._again(deletion, f"the target sees a conflict ({reply.status})", looks=looks)
            case Answer.REFUSED:
                self._block(deletion, f"the target refuses ({reply.status})")
            case Answer.UNKNOWN:
                self._life.must(deletion, Event.LOSE)
                if looks:
                    self._book.put(deletion, "v", self._now)
                else:
                    self._block(deletion, UNKNOWN)
            case _:
                assert_never(answer)

    def _said_done(self, deletion: Deletion, answer: Answer, *, looks: bool) -> None:
        """Take the target's word, and look whether it is so."""
        if answer == Answer.ACCEPTED and not looks:
            self._block(deletion, "the target has accepted it for later, and has no look-up to see it done")
            return
        self._life.must(deletion, Event.DONE if answer == Answer.DONE else Event.ACCEPT)
        self._note_done(deletion)
        if looks:
            self._book.put(deletion, "v", self._now + (0 if answer == Answer.DONE else self._backoff(1)))
        else:
            self._life.end(deletion)

    def _later(self, deletion: Deletion, reply: Reply) -> None:
        """Leave a target alone that asks for it, for as long as it asks."""
        runtime = self._book.runtime(deletion.request["target"])
        asked = retry_after(reply.headers, self._now)
        runtime.laters += 1
        wait = self._backoff(runtime.laters) if asked is None else asked
        runtime.wait_until = max(runtime.wait_until, self._now + wait)
        if deletion.state in {State.LOOKING, State.EXECUTING}:
            self._life.must(deletion, Event.POSTPONE)
            self._book.put(deletion, "q", self._now + wait)
        else:
            self._book.put(deletion, "v", self._now + wait)

    def _again(self, deletion: Deletion, why: str, *, looks: bool) -> None:
        """Try again after a while, with a new look first, unless the attempts are used up."""
        if not looks:
            self._block(deletion, why)
            return
        used = sum(1 for attempt in deletion.attempts if attempt["status"] not in {401, 403, 429, 503})
        if used >= self._settings.targets[deletion.request["target"]].max_attempts:
            self._life.must(deletion, Event.EXHAUST, f"{why}, after {used} attempts")
            self._life.end(deletion)
            return
        deletion.failures += 1
        self._life.must(deletion, Event.POSTPONE)
        self._book.put(deletion, "q", self._now + self._backoff(deletion.failures))

    # What a look-up shows

    def _seen(self, target: Target, deletion: Deletion, sight: Sight, reply: Reply) -> None:
        match sight:
            case Missing():
                if deletion.state in {State.DELETED, State.ACCEPTED}:
                    self._gone(deletion)  # the target's own word stands beside it
                else:
                    self._ask_canary(deletion)
            case Found():
                self._still_there(target, deletion, sight)
            case Unread(reason):
                self._block(deletion, reason)
            case Fault(answer):
                self._look_failed(deletion, answer, reply)
            case _:
                assert_never(sight)

    def _still_there(self, target: Target, deletion: Deletion, found: Found) -> None:
        changed = found.changed is not None and found.changed > deletion.request["as_of"]
        match deletion.state:
            case State.LOOKING:
                if changed:
                    self._life.must(deletion, Event.CHANGE, "the customer has changed at the target since")
                    self._life.end(deletion)
                elif found.related and deletion.request["authority"] == "duplicate":
                    self._block(deletion, f"it still has {', '.join(found.related)}")
                else:
                    self._execute(target, deletion, found)
            case State.UNKNOWN:
                if self._made_anew(deletion, found):
                    self._gone(deletion, "a new customer has the id since")
                elif changed:
                    self._life.must(deletion, Event.CHANGE, "the customer has changed at the target since")
                    self._life.end(deletion)
                else:
                    self._again(deletion, "the DELETE was not carried out", looks=True)
            case _:
                if self._made_anew(deletion, found):
                    self._gone(deletion, "a new customer has the id since")
                    return
                deletion.tries += 1
                if deletion.tries >= (_POLLS if deletion.state == State.ACCEPTED else _LOOKS):
                    self._block(deletion, "the target says that it is deleted, and still shows it")
                else:
                    self._book.put(deletion, "v", self._now + self._backoff(deletion.tries))

    def _made_anew(self, deletion: Deletion, found: Found) -> bool:
        return found.created is not None and deletion.sent is not None and found.created > deletion.sent

    def _look_failed(self, deletion: Deletion, answer: Answer, reply: Reply) -> None:
        if answer == Answer.LATER and reply.status is not None:
            self._later(deletion, reply)
            return
        if answer == Answer.DENIED:
            self._pause(deletion.request["target"], f"it refuses the credential ({reply.status})")
        else:
            deletion.failures += 1
        self._look_later(deletion)

    def _look_later(self, deletion: Deletion) -> None:
        """Look again after a while; where no DELETE is out, from the start."""
        when = self._now + self._backoff(deletion.failures)
        if deletion.state == State.LOOKING:
            self._life.must(deletion, Event.POSTPONE)
            self._book.put(deletion, "q", when)
        else:
            if deletion.state == State.EXECUTING:
                self._life.must(deletion, Event.LOSE)
            self._book.put(deletion, "v", when)

    def _gone(self, deletion: Deletion, reason: str | None = None) -> None:
        request = deletion.request
        if deletion.state == State.EXECUTING and len(deletion.attempts) == 1:
            # It was not ours that deleted it: what its system says of it later is no echo.
            self._life.tx.delete(b"d/" + person(request["target"], request["customer"] or ""))
        self._life.must(deletion, Event.GONE, reason)
        deletion.verified = self._now
        if deletion.state == State.VERIFIED:
            self._note_done(deletion)
        self._life.end(deletion)

    def _note_done(self, deletion: Deletion) -> None:
        key = b"d/" + person(deletion.request["target"], deletion.request["customer"] or "")
        own = orjson.loads(self._life.tx.get(key) or b"{}")
        self._life.tx.put(key, orjson.dumps({**own, "done": own.get("done") or self._now}))

    def _block(self, deletion: Deletion, why: str) -> None:
        self._life.must(deletion, Event.BLOCK, why)
        self._life.end(deletion)

    # The canary

    def _ask_canary(self, deletion: Deletion) -> None:
        """Have a 404 wait for a canary that is sent after it."""
        name = deletion.request["target"]
        target = self._life.kit.targets.get(name)
        ask = target.canary() if target is not None else None
        if ask is None:
            self._block(deletion, "there is none such, or the base URL is wrong: the target has no canary to tell")
            return
        runtime = self._book.runtime(name)
        self._book.put(deletion, "e", runtime.canaries + 1)
        if not runtime.canary:
            self._send_canary(name, ask, runtime)

    def _send_canary(self, name: str, ask: Ask, runtime: Runtime) -> None:
        runtime.canaries += 1
        runtime.canary, runtime.canary_at = runtime.canaries, self._now
        id_ = f"{CANARY}{name}:{runtime.canary}"
        self._life.tx.call(Call(id_, name, ask.method, ask.path, ask.query, ask.json))

    def _on_canary(self, call: Call, reply: Reply) -> None:
        name, target = call.lane, self._life.kit.targets.get(call.lane)
        runtime = self._book.runtime(name)
        if target is None or call.id != f"{CANARY}{name}:{runtime.canary}":
            return
        self._health(name, reply)
        asked, runtime.canary = runtime.canary, 0
        match target.read_canary(reply):
            case Found():
                self._resume(name, runtime)
                for waiting in self._book.queued("e", name, asked, 10_000):
                    self._book.put(waiting, None)
                    self._gone(waiting)
            case Missing():
                self._pause(name, "its canary is not found either: is the base URL right, and the canary still there?")
                self._not_told(name, asked)
            case Unread(reason):
                self._pause(name, f"its canary cannot be read: {reason}")
                self._not_told(name, asked)
            case Fault(answer):
                if answer == Answer.DENIED:
                    self._pause(name, f"it refuses the credential ({reply.status})")
                self._not_told(name, asked)
        ask = target.canary()
        if runtime.paused is None and ask is not None and self._book.next_order("e", name) is not None:
            self._send_canary(name, ask, runtime)

    def _not_told(self, name: str, asked: int) -> None:
        """Put back what the canary could not vouch for."""
        for waiting in self._book.queued("e", name, asked, 10_000):
            waiting.failures += 1
            self._look_later(waiting)

    def _probe(self, name: str, target: Target, runtime: Runtime) -> None:
        """Try the canary of a paused target from time to time."""
        ask = target.canary()
        if ask is None or runtime.canary or self._now < runtime.probe_at:
            return
        runtime.probe_at = self._now + int(self._settings.probe * 1000)
        self._send_canary(name, ask, runtime)

    # How a target does

    def _pause(self, name: str, why: str) -> None:
        runtime = self._book.runtime(name)
        if runtime.paused is None:
            runtime.probe_at = self._now + int(self._settings.probe * 1000)
        runtime.paused = why
        self.tell(name, runtime)

    def _resume(self, name: str, runtime: Runtime) -> None:
        if runtime.paused is not None:
            runtime.paused = None
            self.tell(name, runtime)

    def resume(self, name: str) -> bool:
        """Let a paused target go on, on a person's word; return whether it was paused."""
        runtime = self._book.runtime(name)
        was = runtime.paused is not None or runtime.wait_until > self._now
        runtime.wait_until = 0
        self._resume(name, runtime)
        return was

    def tell(self, name: str, runtime: Runtime) -> None:
        """Say on the status topic how a target does."""
        state = "paused" if runtime.paused else "waiting" if runtime.wait_until > self._now else "working"
        value = {
            "kind": "target",
            "target": name,
            "state": state,
            "reason": runtime.paused,
            "until": runtime.wait_until if state == "waiting" else None,
            "at": self._now,
        }
        self._life.tx.send(self._life.kit.topics.status, f"target/{name}".encode(), orjson.dumps(value))

    def _health(self, name: str, reply: Reply) -> None:
        """Count a call for the breaker: no answer and 5xx are failures."""
        runtime, breaker = self._book.runtime(name), self._settings.breaker
        failed = reply.status is None or reply.status >= 500  # ruff: ignore[magic-value-comparison] - RFC 9110, section 15.6
        runtime.last = (runtime.last + ("1" if failed else "0"))[-breaker.last :]
        if not failed:
            runtime.failures = 0
            if reply.status != 429:  # ruff: ignore[magic-value-comparison] - 'too many requests' (RFC 6585) says nothing of its health
                runtime.laters = 0
                if runtime.half_open:
                    runtime.half_open, runtime.opened, runtime.last = False, 0, ""
                    self.tell(name, runtime)
            return
        runtime.failures += 1
        if runtime.half_open and self._now < runtime.wait_until:
            return  # one of those that were under way when the breaker opened
        often = runtime.last.count("1") >= breaker.share * breaker.last
        if runtime.half_open or runtime.failures >= breaker.in_a_row or often:
            pause = min(breaker.pause * 2**runtime.opened, breaker.longest)
            runtime.wait_until = max(runtime.wait_until, self._now + int(pause * 1000))
            runtime.opened, runtime.half_open, runtime.last, runtime.failures = runtime.opened + 1, True, "", 0
            self.tell(name, runtime)

    def _backoff(self, failures: int) -> int:
        if not failures:
            return 0
        return min(int(self._settings.backoff * 1000) << (min(failures, 16) - 1), _LONGEST_BACKOFF_MS)

    def _has_lookup(self, name: str) -> bool:
        settings = self._settings.targets.get(name)
        return settings is not None and (settings.kind == "drivly" or settings.lookup is not None)

    # After a crash, and after silence

    def recover(self, name: str) -> None:
        """Take up a target whose calls under way are forgotten: what was sent has an unknown outcome."""
        runtime = self._book.runtime(name)
        runtime.canary, runtime.paused = 0, None
        for queue in ("a", "e"):
            for deletion in self._book.queued(queue, name, 1 << 62, 10_000):
                self._interrupted(deletion, "interrupted")
        for deletion in self._book.queued("k", name, 1 << 62, 10_000):
            self._life.must(deletion, Event.POSTPONE)
            self._book.put(deletion, "q", self._now)

    def give_up_silent(self, name: str) -> None:
        """Give up calls that were not answered for longer than any call can take."""
        settings = self._settings.targets.get(name)
        latest = self._now - _NO_ANSWER_MS - int((settings.timeout if settings else 0) * 2000)
        for deletion in self._book.queued("a", name, max(0, latest), 1_000):
            self._health(name, Reply(None, error="silence"))
            self._interrupted(deletion, "no answer")
        runtime = self._book.runtime(name)
        if runtime.canary and runtime.canary_at < latest:
            asked, runtime.canary = runtime.canary, 0
            self._not_told(name, asked)

    def _interrupted(self, deletion: Deletion, why: str) -> None:
        if deletion.state != State.EXECUTING:
            self._look_later(deletion)
            return
        last = deletion.attempts[-1] if deletion.attempts else None
        if last is not None and last["at"] == deletion.sent:
            self._look_later(deletion)  # it was answered with 404, and the canary was not
            return
        self._book.put(deletion, None)
        self._answered(deletion, Answer.UNKNOWN, Reply(None, error=why))


def _general(reply: Reply) -> Answer:
    return Answer.UNKNOWN if reply.sent else Answer.LATER
