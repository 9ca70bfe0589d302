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
from handlers.deletes.decisions import read_decision
from handlers.deletes.guard import RECOVERED
from handlers.deletes.intake import Work
from handlers.deletes.life import Kit, Life
from handlers.deletes.model import KIND, Kind, Request, forget, person, read_message, send_request
from handlers.deletes.settings import DeletesSettings
from handlers.deletes.showing import Showing
from handlers.deletes.targets.registry import target_of
from handlers.deletes.undo import Undo
from handlers.deletes.verdicts import judge
from worker.errors import RecordError
from worker.events import header
from worker.handling import Call, Dead, Input, Outcome, Record, Reply, Skip, Tx
from worker.topics import DAY_MS, Topics

_AT_ONCE: Final = 200  # keys of the state that are worked off in one transaction
_FORGETFUL_MS: Final = DAY_MS  # how long an executor that lost its state takes any deletion of a target for an echo
_PAST_MS: Final = 5_000  # without a record from before the horizon: all of them were read


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
        """Take the configuration's section `handlers.deletes`; without `undo` no copies are kept.

        `sources`: those that are polled. With it, only a target that is one is asked for newer versions of its own.
        """
        targets = {name: target_of(target) for name, target in settings.targets.items()}
        self._kit = Kit(topics, settings, targets, undo, sources, {})
        self._inputs = Input(topics.requests), Input(topics.approvals, start="latest")
        self._horizon = 0
        self._began = 0
        self._past_until = 0
        self._opened = 0
        self._showing = Showing()

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The requests, which lead, and the decisions."""
        return self._inputs

    def open(self, tx: Tx, partition: int, ends: Mapping[str, int], now: int) -> int | None:  # ruff: ignore[unused-method-argument] - by contract
        """Take up a partition: what was under way has an unknown outcome now."""
        if tx.get(b"h") is None:
            tx.put(b"h", orjson.dumps([ends[self._kit.topics.requests], now]))
        self._horizon, self._began = orjson.loads(tx.get(b"h") or b"")
        self._past_until, self._opened = now + _PAST_MS, now
        work = Work(self._kit, tx, now)
        self._showing.begin(tx, {*self._kit.targets, *work.life.book.targets()})
        work.life.book.requeue_held()
        for name in work.life.book.targets():
            work.dispatch.recover(name)
        work.life.flush()
        return now

    def on_record(self, tx: Tx, record: Record, now: int) -> Outcome:
        """Handle a record of either input."""
        if record.topic == self._inputs[0].topic and record.offset >= self._horizon and not _is_for_executor(record):
            return Skip("not ours")
        work = Work(self._kit, tx, now)
        try:
            outcome = self._handle(work, record)
        except RecordError as error:
            return Dead(error.message)
        work.life.flush()
        return outcome

    def on_reply(self, tx: Tx, call: Call, reply: Reply, now: int) -> None:
        """Take the answer of a call."""
        work = Work(self._kit, tx, now)
        work.dispatch.on_reply(call, reply)
        work.life.flush()

    def on_timer(self, tx: Tx, now: int) -> int | None:
        """Judge what is due, move members of plans, drop old undo copies, and start what may run."""
        work = Work(self._kit, tx, now)
        more = self._recover(work)
        work.guard.judge_due()
        more |= work.guard.work()
        self._expire(work)
        for name in work.life.book.targets():
            more |= work.dispatch.look_for_routes(name, self._opened)
            work.dispatch.give_up_silent(name)
            work.dispatch.pump(name)
        work.life.flush()
        self._showing.show(work.life, work.dispatch.health)
        return now if more else now + int(self._kit.settings.tick * 1000)

    def _handle(self, work: Work, record: Record) -> Outcome:
        if record.topic == self._inputs[1].topic:
            given = read_decision(record)
            return Skip("not ours") if given["what"] == "erase" else judge(work, given)
        if record.offset < self._horizon:
            return self._before_memory(work.life, record)
        return self._asked(work, record)

    # Requests

    def _asked(self, work: Work, record: Record) -> Outcome:
        life = work.life
        kind, message = read_message(record)
        request = message["request"]
        match kind:
            case "request":
                return work.take(request)
            case "clear":
                forget(life.tx, self._kit.topics.requests, record.key or b"", request["source"])
                forgetful = self._horizon > 0 and life.now < self._began + _FORGETFUL_MS
                return work.clear(request, forgetful=forgetful)
            case "cancel":
                forget(life.tx, self._kit.topics.requests, record.key or b"", request["target"])
                return work.cancel(request["id"], message["reason"] or "")
            case "vouch":
                return work.vouch(request["id"], message["serial"], message.get("since", 0))
            case _:
                return Skip("not ours")

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

    def _recover(self, work: Work) -> bool:
        """Hold what was still open when this executor's memory was lost; return whether there is more of it."""
        life = work.life
        if life.now < self._past_until:
            return False
        rows = list(islice(life.tx.scan(b"z/"), _AT_ONCE))
        for key, value in rows:
            life.tx.delete(key)
            kind, request = _set_apart(value)
            if kind == "clear":
                request["held"] = RECOVERED
                send_request(life.tx, self._kit.topics.requests, request)
            else:
                work.take(request, recovered=True)
        return len(rows) == _AT_ONCE

    # Undo copies

    def _expire(self, work: Work) -> None:
        """Publish deletions without their undo copies, once those have been kept long enough."""
        life, stop = work.life, b"u/" + number(work.life.now + 1)
        for key, value in list(islice(life.tx.scan(b"u/"), _AT_ONCE)):
            if key >= stop:
                return
            life.tx.delete(key)
            kept = orjson.loads(value)
            target, _, customer = kept["key"].partition("/")
            who = person(target, customer)
            copy, newest = life.book.copy(who), (life.tx.get(b"i/" + who) or b"").decode()
            if copy is not None and copy.until <= life.now:
                life.book.drop_copy(who)
            shown = life.book.deletion(newest)
            if shown is not None:
                life.publish_again(shown)
            elif newest == kept["value"]["request"]["id"]:
                life.tx.send(self._kit.topics.deletions, kept["key"].encode(), orjson.dumps(kept["value"]))


def _is_for_executor(record: Record) -> bool:
    """Return whether a record of the requests topic is not one for the first stage, nor an answered one."""
    return record.value is not None and header(record.headers, KIND) != "check"


def _set_apart(value: bytes) -> tuple[Kind, Request]:
    """Return what was kept of a record from before this executor's memory."""
    kind, request = orjson.loads(value)
    return kind, request
