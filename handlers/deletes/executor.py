"""The second stage, by target: holds, checks and carries out what was requested, and accounts for all of it.

One task owns a target: its order, its limits, its guard and its ledger. Guarantees:

- a request is taken once, by its id, however often it arrives; it ends in exactly one receipt;
- EXECUTING is committed before the DELETE is sent, so that after a crash an outcome is unknown, and never forgotten:
  it is looked up before anything else is sent;
- what was asked for before its memory begins is held for a person, never carried out by itself;
- our own DELETE, coming back as an event of a system that is also a source, starts nothing.
"""

from collections.abc import Collection, Mapping
from itertools import islice
from typing import Final

import orjson

from handlers.deletes.book import number
from handlers.deletes.decisions import Decision, answer, read_decision
from handlers.deletes.dispatch import Dispatch
from handlers.deletes.guard import RECOVERED, Guard
from handlers.deletes.life import Kit, Life, decided
from handlers.deletes.machine import Event, Refused, State, step
from handlers.deletes.model import KIND, Deletion, Kind, Request, digest, forget, person, read_message, send_request
from handlers.deletes.settings import DeletesSettings
from handlers.deletes.targets.registry import target_of
from handlers.deletes.undo import Undo
from worker.errors import RecordError
from worker.events import header
from worker.handling import Call, Dead, Done, Input, Outcome, Record, Reply, Skip, Tx
from worker.topics import Topics

_EXPIRED: Final = 200
_PAST_MS: Final = 5_000  # without a record from before the horizon: all of them were read
ECHO_DOUBT: Final = "it may be the echo of our own deletion: its customer was published as live after that"


class _Work:
    """The executor's parts, within one transaction, at one moment."""

    def __init__(self, kit: Kit, tx: Tx, now: int) -> None:
        self.life = Life(kit, tx, now)
        self.guard = Guard(self.life)
        self.dispatch = Dispatch(self.life, self.guard.leave)


class Executor:
    """The stage `executor`."""

    stage: Final = "executor"
    version: Final = 1

    def __init__(
        self,
        topics: Topics,
        settings: DeletesSettings,
        undo: Undo | None = None,
        sources: Collection[str] | None = None,
    ) -> None:
        """Take the configuration's section `deletes`; without `undo` no copies are kept.

        `sources`: those that are polled. With it, only a target that is one is asked for newer versions of its own.
        """
        targets = {name: target_of(target) for name, target in settings.targets.items()}
        self._kit = Kit(topics, settings, targets, undo, sources, {})
        self._inputs = Input(topics.requests), Input(topics.approvals, start="latest")
        self._horizon = 0
        self._past_until = 0

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The requests, which lead, and the decisions."""
        return self._inputs

    def open(self, tx: Tx, partition: int, ends: Mapping[str, int], now: int) -> int | None:  # ruff: ignore[unused-method-argument] - by contract
        """Take up a partition: what was under way has an unknown outcome now."""
        if tx.get(b"h") is None:
            tx.put(b"h", b"%d" % ends[self._kit.topics.requests])
        self._horizon = int(tx.get(b"h") or b"0")
        self._past_until = now + _PAST_MS
        work = _Work(self._kit, tx, now)
        for name in work.life.book.targets():
            work.dispatch.recover(name)
        work.life.flush()
        return now

    def on_record(self, tx: Tx, record: Record, now: int) -> Outcome:
        """Handle a record of either input."""
        if record.topic == self._inputs[0].topic and record.offset >= self._horizon and not _is_for_executor(record):
            return Skip("not ours")
        work = _Work(self._kit, tx, now)
        try:
            outcome = self._handle(work, record)
        except RecordError as error:
            return Dead(error.message)
        work.life.flush()
        return outcome

    def on_reply(self, tx: Tx, call: Call, reply: Reply, now: int) -> None:
        """Take the answer of a call."""
        work = _Work(self._kit, tx, now)
        work.dispatch.on_reply(call, reply)
        work.dispatch.pump(call.lane)
        work.life.flush()

    def on_timer(self, tx: Tx, now: int) -> int | None:
        """Judge what is due, move members of plans, drop old undo copies, and start what may run."""
        work = _Work(self._kit, tx, now)
        more = self._recover(work)
        work.guard.judge_due()
        more |= work.guard.work()
        self._expire(work)
        for name in work.life.book.targets():
            work.dispatch.give_up_silent(name)
            work.dispatch.pump(name)
        work.life.flush()
        return now if more else now + int(self._kit.settings.tick * 1000)

    def _handle(self, work: _Work, record: Record) -> Outcome:
        if record.topic == self._inputs[1].topic:
            return self._decided(work, record)
        if record.offset < self._horizon:
            return self._before_memory(work.life, record)
        return self._asked(work, record)

    # Requests

    def _asked(self, work: _Work, record: Record) -> Outcome:
        life = work.life
        kind, message = read_message(record)
        request = message["request"]
        match kind:
            case "request":
                return self._take(work, request)
            case "clear":
                forget(life.tx, self._kit.topics.requests, record.key or b"", request["source"])
                return self._clear(work, request)
            case "cancel":
                forget(life.tx, self._kit.topics.requests, record.key or b"", request["target"])
                return self._cancel(work, request["id"], message["reason"] or "")
            case "vouch":
                return self._vouched(work, request["id"], message["serial"])
            case _:
                return Skip("not ours")

    def _take(self, work: _Work, request: Request, *, recovered: bool = False) -> Outcome:
        """Take a request in, once."""
        life, id_ = work.life, request["id"]
        ended = life.book.ended(id_)
        if life.book.deletion(id_) is not None or (ended is not None and "cancelled" not in ended):
            return Skip("seen")
        deletion = Deletion(request, State.REQUESTED, life.book.arrive(), life.now)
        life.book.runtime(request["target"])
        life.book.enlist(deletion)
        life.book.change(deletion)
        target = self._kit.targets.get(request["target"])
        if ended is not None:
            life.must(deletion, Event.SUPERSEDE, ended["cancelled"])
            life.end(deletion)
        elif target is not None and request["customer"] is not None and not target.valid(request["customer"]):
            life.must(deletion, Event.BLOCK, "the id is not one that this target gives out")
            life.end(deletion)
        elif recovered:
            work.guard.gather(deletion, recovered=True)
        elif request["held"] is not None:
            life.must(deletion, Event.HOLD, request["held"])
        elif request["authority"] == "erasure" or request["retry_of"] is not None:
            work.guard.release(deletion)
            work.dispatch.pump(request["target"])
        else:
            work.guard.gather(deletion, recovered=False)
        return Done()

    def _before_memory(self, life: Life, record: Record) -> Outcome:
        """Keep what lies before this executor's memory until all of it was read: much of it had ended by then."""
        key = b"z/" + (record.key or b"")
        self._past_until = life.now + _PAST_MS
        if record.value is None:
            life.tx.delete(key)
            return Skip("past")
        kind, message = read_message(record)
        if life.tx.get(b"r/" + message["request"]["id"].encode()) is not None:
            return Skip("seen")
        if kind in {"request", "clear", "vouch"}:
            life.tx.put(key, orjson.dumps([kind, message["request"]]))
        return Skip("past")

    def _recover(self, work: _Work) -> bool:
        """Hold what was still open when this executor's memory was lost; return whether there is more of it."""
        life = work.life
        if life.now < self._past_until:
            return False
        rows = list(islice(life.tx.scan(b"z/"), _EXPIRED))
        for key, value in rows:
            life.tx.delete(key)
            kind, request = _set_apart(value)
            if kind == "clear":
                request["held"] = RECOVERED
                send_request(life.tx, self._kit.topics.requests, request)
            else:
                self._take(work, request, recovered=True)
        return len(rows) == _EXPIRED

    def _clear(self, work: _Work, request: Request) -> Outcome:
        """Pass a request on to its target, unless the deletion it follows from is our own."""
        tx, topics = work.life.tx, self._kit.topics
        key = b"d/" + person(request["source"], request["origin"])
        own = orjson.loads(tx.get(key) or b"null")
        if own is not None and own["echo"] in {None, request["sequence"]}:
            live = request["seen_live"]
            if own["echo"] is None and None not in {own["done"], live} and (live or 0) > own["done"]:
                send_request(tx, topics.requests, {**request, "held": ECHO_DOUBT})
                return Done()
            tx.put(key, orjson.dumps({**own, "echo": request["sequence"]}))
            self._tell_echo(work, request, own["request"])
            return Skip("echo")
        send_request(tx, topics.requests, request)
        return Done()

    def _tell_echo(self, work: _Work, request: Request, own: str) -> None:
        key = f"echo/{request['source']}".encode()
        count = int(work.life.tx.get(key) or b"0") + 1
        work.life.tx.put(key, b"%d" % count)
        last = {"origin": request["origin"], "sequence": request["sequence"], "deletion": own, "at": work.life.now}
        value = {"kind": "echo", "target": request["source"], "count": count, "last": last}
        work.life.tx.send(self._kit.topics.status, key, orjson.dumps(value))

    def _cancel(self, work: _Work, id_: str, reason: str) -> Outcome:
        life = work.life
        deletion = life.book.deletion(id_)
        if deletion is None:
            if life.book.ended(id_) is None:
                life.book.shrink(id_, {"cancelled": reason})
            return Skip("ended")
        refused = life.move(deletion, Event.SUPERSEDE, reason)
        if refused is not None:
            return Skip("late")
        work.guard.leave(deletion)
        life.end(deletion)
        work.dispatch.pump(deletion.request["target"])
        return Done()

    def _vouched(self, work: _Work, id_: str, serial: int) -> Outcome:
        deletion = work.life.book.deletion(id_)
        if deletion is None or deletion.state != State.CHECKING or deletion.serial != serial:
            return Skip("late")
        work.life.book.put(deletion, "y", work.life.now)
        work.dispatch.pump(deletion.request["target"])
        return Done()

    # Decisions

    def _decided(self, work: _Work, record: Record) -> Outcome:
        given = read_decision(record)
        if given["what"] == "erase":
            return Skip("not ours")
        tx, key = work.life.tx, b"x/" + given["id"].encode()
        before = tx.get(key)
        if before is not None:
            earlier = orjson.loads(before)
            text = f"{earlier['text']} (it arrived again, and was not carried out a second time)"
            answer(tx, self._kit.topics.status, given, earlier["outcome"], text, work.life.now)
            return Skip("repeated")
        why = self._decide(work, given)
        outcome, text = ("refused", why) if why is not None else ("done", "it is carried out")
        tx.put(key, orjson.dumps({"outcome": outcome, "text": text}))
        answer(tx, self._kit.topics.status, given, "refused" if why else "done", text, work.life.now)
        return Done()

    def _decide(self, work: _Work, given: Decision) -> str | None:
        """Carry out a decision; return why not, where it cannot be."""
        if given["what"] == "retry":
            return self._retry(work, given)
        if given["plan"] is not None:
            return work.guard.decide(given)
        book, id_ = work.life.book, given["request"] or ""
        deletion = book.deletion(id_)
        if deletion is None:
            ended = book.ended(id_)
            return "there is no such request" if ended is None else f"too late: it has ended ({ended.get('state')})"
        approves = given["what"] == "approve"
        why = _refusal(deletion, Event.APPROVE if approves else Event.REJECT)
        work.life.decide(deletion, decided(given, why))
        if why is None:
            work.guard.leave(deletion)
            if approves:
                work.guard.release(deletion, Event.APPROVE)
            else:
                work.life.must(deletion, Event.REJECT, "a person has rejected it")
                work.life.end(deletion)
            work.dispatch.pump(deletion.request["target"])
        return why

    def _retry(self, work: _Work, given: Decision) -> str | None:
        """Request anew what is blocked or has failed, or let a paused target go on."""
        life, id_ = work.life, given["request"]
        if id_ is None:
            resumed = work.dispatch.resume(given["target"] or "")
            work.dispatch.pump(given["target"] or "")
            return None if resumed else "the target is not paused"
        ended = life.book.ended(id_)
        if ended is None or "asked" not in ended:
            return "only a request that is blocked or has failed can be retried"
        asked: Request = ended["asked"]
        evidence = {**asked["evidence"], "retried_by": given["who"], "command": given["id"]}
        anew: Request = {**asked, "id": digest(id_, given["id"]), "retry_of": id_, "evidence": evidence}
        anew["asked_at"], anew["not_before"], anew["held"] = life.now, life.now, None
        self._take(work, anew)
        deletion = life.book.deletion(anew["id"])
        if deletion is not None:
            life.decide(deletion, decided(given))
        send_request(life.tx, self._kit.topics.requests, anew)  # the topic is the table of what is open
        return None

    # Undo copies

    def _expire(self, work: _Work) -> None:
        """Publish deletions without their undo copies, once those have been kept long enough."""
        life, stop = work.life, b"u/" + number(work.life.now + 1)
        for key, value in list(islice(life.tx.scan(b"u/"), _EXPIRED)):
            if key >= stop:
                return
            life.tx.delete(key)
            kept = orjson.loads(value)
            target, _, customer = kept["key"].partition("/")
            newest = life.tx.get(b"i/" + person(target, customer))
            if newest == kept["value"]["request"]["id"].encode():
                life.tx.send(self._kit.topics.deletions, kept["key"].encode(), orjson.dumps(kept["value"]))


def _is_for_executor(record: Record) -> bool:
    """Return whether a record of the requests topic is not one for the first stage, nor an answered one."""
    return record.value is not None and header(record.headers, KIND) != "check"


def _refusal(deletion: Deletion, event: Event) -> str | None:
    """Return why a person's decision cannot be carried out on one deletion, None if it can."""
    following = step(deletion.state, event)
    if isinstance(following, Refused):
        return following.why
    if event == Event.APPROVE and deletion.request["customer"] is None:
        return "nobody knows the id of the customer at the target: it can only be rejected"
    return None


def _set_apart(value: bytes) -> tuple[Kind, Request]:
    """Return what was kept of a record from before this executor's memory."""
    kind, request = orjson.loads(value)
    return kind, request
