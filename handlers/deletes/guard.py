"""The blast radius: requests are gathered, judged together, and held as one plan when they are too many.

A request is judged no sooner than a whole window after it came, together with everything that came meanwhile, so that
the head of a burst does not slip through before the rest is seen. What has passed by itself counts for a period; what a
person has decided on does not count again. A held plan stays open while the burst goes on, until a whole window has
passed without another request, or ten windows in all; what comes later is gathered behind it, and judged once it is
decided on. An approval is bound to the plan's hash, which stands for exactly the requests in it: one that joins or
leaves (superseded, or decided on by itself) makes it another plan, and the old hash is refused.
"""

import hashlib
from itertools import islice, takewhile
from typing import Any, Final

import orjson

from handlers.deletes.book import Group, Job, Plan, group_id, number
from handlers.deletes.decisions import Decision
from handlers.deletes.life import Life, decided
from handlers.deletes.machine import Event
from handlers.deletes.model import Deletion, digest
from handlers.deletes.settings import GuardSettings

SLICE: Final = 500
_WATCH_MS: Final = 1_000
_WINDOWS_OPEN: Final = 10
_MODULUS: Final = 1 << 256
RECOVERED: Final = "it was asked for before this executor's memory begins, and may have been carried out already"


class Guard:
    """Judges the deletions of one executor, within one transaction, at one moment."""

    def __init__(self, life: Life) -> None:
        """Work on the deletions of `life`."""
        self._life = life
        self._book = life.book
        self._tx = life.tx
        self._settings: GuardSettings = life.kit.settings.guard
        self._window = int(self._settings.window * 1000)

    # Coming and going

    def gather(self, deletion: Deletion, *, recovered: bool) -> None:
        """Take a deletion in, to be judged with the others of its source and target."""
        request = deletion.request
        passage = "recovered" if recovered else "approval" if request["approval"] else "auto"
        name = f"{request['target']}/{request['source']}/{passage}"
        group = self._book.group(name)
        if group is None:
            group = self._book.groups[name] = Group(name, request["target"], request["source"], passage)
        self._life.must(deletion, Event.GATHER)
        deletion.group = name
        self._tx.put(_member(group, deletion.n), number(self._life.now) + request["id"].encode())
        group.live = request["live"] if request["live"] is not None else group.live
        plan = group.plan
        if plan is not None and plan.open:
            plan.count, plan.total = plan.count + 1, _plus(plan.total, request["id"], 1)
            plan.upto, plan.last = deletion.n + 1, self._life.now
            self._life.must(deletion, Event.HOLD, f"{plan.id}: {plan.reason}")
        else:
            group.count, group.total = group.count + 1, _plus(group.total, request["id"], 1)
            deletion.reason = None if plan is None else f"behind {plan.id}"
        if not group.due:
            self._arm(group, self._life.now + self._window)

    def leave(self, deletion: Deletion) -> None:
        """Take a deletion out of its group, if it is in one; a plan that it was in is another one then."""
        group = self._book.group(deletion.group) if deletion.group is not None else None
        if group is None:
            return
        deletion.group = None
        self._tx.delete(_member(group, deletion.n))
        self._book.change(deletion)
        request, plan = deletion.request["id"], group.plan
        if group.job is not None and deletion.n < group.job.upto:
            return
        if plan is None or deletion.n >= plan.upto:
            group.count -= 1
            group.total = _plus(group.total, request, -1)
            return
        plan.count -= 1
        plan.total = _plus(plan.total, request, -1)
        if not plan.count:
            self._close(group, plan, "empty", None)

    # Judging

    def judge_due(self) -> None:
        """Judge the groups that are due."""
        stop = b"b/" + number(self._life.now + 1)
        for key, name in list(islice(self._tx.scan(b"b/"), SLICE)):
            if key >= stop:
                break
            group = self._book.group(name.decode())
            self._tx.delete(key)
            if group is not None and key[2:10] == number(group.due):
                group.due = 0
                self._judge(group)

    def _judge(self, group: Group) -> None:
        now = self._life.now
        self._expire(group)
        if group.plan is not None:
            self._watch(group, group.plan)
            return
        if group.job is not None:
            self._arm(group, now + _WATCH_MS)
            return
        if not group.count:
            return
        limit = self._settings.limit(group.live)
        if group.passage != "auto":
            why = RECOVERED if group.passage == "recovered" else "the route asks for a person's approval"
            self._hold(group, why)
        elif group.passed + group.count > limit:
            many = group.passed + group.count
            self._hold(group, f"{many} deletions within the period, and {limit} may run by themselves")
        else:
            self._release(group)

    def _watch(self, group: Group, plan: Plan) -> None:
        """Keep the status of a held plan up to date, and close it once its burst is over."""
        now = self._life.now
        if plan.open and (now >= plan.last + self._window or now >= plan.held_at + _WINDOWS_OPEN * self._window):
            plan.open = False
        if group.told != _news(group, plan):
            self._tell(group, plan, "held")
        self._arm(group, now + _WATCH_MS)

    def _hold(self, group: Group, why: str) -> None:
        upto = int(self._tx.get(b"c") or b"0") + 1
        first = next(iter(self._tx.scan(b"m/" + group_id(group.name))))[0]
        name = f"plan-{digest(group.name, int.from_bytes(first[-8:], 'big'), size=6)}"
        now = self._life.now
        plan = group.plan = Plan(name, upto, group.count, group.total, now, now, why)
        group.count, group.total, group.marked = 0, "0", 0
        self._tx.put(b"n/" + name.encode(), orjson.dumps({"group": group.name}))
        self._tx.put(b"s/" + group_id(group.name), group.name.encode())
        self._tell(group, plan, "held")
        log = self._tx.log
        log.warning("plan_held", plan=name, target=group.target, source=group.source, count=plan.count, reason=why)
        self._arm(group, now + _WATCH_MS)

    def _release(self, group: Group) -> None:
        """Let pass what has been gathered for a whole window."""
        prefix, now = b"m/" + group_id(group.name), self._life.now
        for key, value in list(islice(self._tx.scan(prefix), SLICE)):
            arrived = int.from_bytes(value[:8], "big")
            if arrived + self._window > now:
                self._arm(group, arrived + self._window)
                return
            deletion = self._book.deletion(value[8:].decode())
            if deletion is None:
                self._tx.delete(key)
                continue
            self.leave(deletion)
            group.passed += 1
            self._tx.put(b"p/" + group_id(group.name) + number(now) + number(deletion.n), b"")
            self.release(deletion)
        if group.count:
            self._arm(group, now)

    def release(self, deletion: Deletion, event: Event = Event.RELEASE) -> None:
        """Let a deletion run when it has cooled."""
        self._life.must(deletion, event)
        self._life.must(deletion, Event.COOL)
        self._book.put(deletion, "q", max(deletion.request["not_before"], self._life.now))

    def _expire(self, group: Group) -> None:
        prefix = b"p/" + group_id(group.name)
        stop = prefix + number(max(0, self._life.now - int(self._settings.period * 1000)) + 1)
        passed = takewhile(lambda row: row[0] < stop, self._tx.scan(prefix))
        for key, _ in list(islice(passed, 2 * SLICE)):
            self._tx.delete(key)
            group.passed -= 1

    # Members of plans, some at a time

    def work(self) -> bool:
        """Move some members of a plan that was held or decided on; return whether there is more to do."""
        waiting = [name.decode() for _, name in islice(self._tx.scan(b"s/"), 2)]
        group = self._book.group(waiting[0]) if waiting else None
        if group is None:
            return False
        more = self._carry_out(group, group.job) if group.job is not None else self._mark(group)
        if not more:
            self._tx.delete(b"s/" + group_id(group.name))
        return more or len(waiting) > 1

    def _mark(self, group: Group) -> bool:
        """Mark members of a held plan as held."""
        plan, prefix = group.plan, b"m/" + group_id(group.name)
        if plan is None or group.marked is None:
            return False
        rows = list(islice(self._tx.scan(prefix, prefix + number(group.marked)), SLICE))
        for key, value in rows:
            n = int.from_bytes(key[-8:], "big")
            if n >= plan.upto:
                break
            deletion = self._book.deletion(value[8:].decode())
            if deletion is not None:
                self._life.move(deletion, Event.HOLD, f"{plan.id}: {plan.reason}")
            group.marked = n + 1
        else:
            if len(rows) == SLICE:
                return True
        group.marked = None
        return False

    def _carry_out(self, group: Group, job: Job) -> bool:
        """Carry a decision out on members of the plan."""
        for key, value in list(islice(self._tx.scan(b"m/" + group_id(group.name)), SLICE)):
            if int.from_bytes(key[-8:], "big") >= job.upto:
                break
            deletion = self._book.deletion(value[8:].decode())
            if deletion is None:
                self._tx.delete(key)
                continue
            self.leave(deletion)
            self._life.decide(deletion, job.decided)
            if job.event == Event.APPROVE:
                self.release(deletion, Event.APPROVE)
            else:
                self._life.must(deletion, Event.REJECT, f"{job.decided['plan']} was rejected")
                self._life.end(deletion)
        else:
            if next(iter(self._tx.scan(b"m/" + group_id(group.name))), None) is not None:
                return True
        group.job = None
        if group.count:
            self._arm(group, self._life.now)
        return False

    # Decisions

    def decide(self, given: Decision) -> str | None:
        """Decide on a plan; return why not, where it cannot be."""
        name = given["plan"] or ""
        known: dict[str, Any] | None = orjson.loads(self._tx.get(b"n/" + name.encode()) or b"null")
        if known is None:
            return f"there is no plan {name} here"
        group = self._book.group(known["group"])
        if group is None or group.plan is None or group.plan.id != name:
            return f"too late: the plan is {known.get('state', 'decided')} already"
        plan = group.plan
        if given["hash"] != plan_hash(plan):
            return f"the plan has changed since: it has {plan.count} requests and the hash {plan_hash(plan)} now"
        event = Event.APPROVE if given["what"] == "approve" else Event.REJECT
        group.job = Job(event.value, plan.upto, decided(given))
        self._tx.put(b"s/" + group_id(group.name), group.name.encode())
        self._close(group, plan, "approved" if event == Event.APPROVE else "rejected", given)
        return None

    def _close(self, group: Group, plan: Plan, state: str, given: Decision | None) -> None:
        group.plan, group.marked = None, None
        self._tx.put(b"n/" + plan.id.encode(), orjson.dumps({"group": group.name, "state": state}))
        self._tell(group, plan, state, given)
        if group.count:
            self._arm(group, self._life.now)

    def _tell(self, group: Group, plan: Plan, state: str, given: Decision | None = None) -> None:
        """Say on the status topic how a plan stands; the command line reads it, an operator approves by its hash."""
        group.told = _news(group, plan)
        value = {
            "kind": "plan",
            "plan": plan.id,
            "target": group.target,
            "source": group.source,
            "state": state,
            "count": plan.count,
            "hash": plan_hash(plan),
            "open": plan.open,
            "reason": plan.reason,
            "held_at": plan.held_at,
            "gathering_behind": group.count,
            "live": group.live,
            "decision": given and decided(given),
        }
        self._tx.send(self._life.kit.topics.status, f"plan/{plan.id}".encode(), orjson.dumps(value))

    def _arm(self, group: Group, due: int) -> None:
        if group.due:
            self._tx.delete(b"b/" + number(group.due) + group_id(group.name))
        group.due = due
        self._tx.put(b"b/" + number(due) + group_id(group.name), group.name.encode())


def plan_hash(plan: Plan) -> str:
    """Return what an approval is bound to: it stands for the plan and every request in it."""
    return digest(plan.id, plan.count, plan.total, size=8)


def _news(group: Group, plan: Plan) -> str:
    return f"{plan_hash(plan)} {plan.open} {group.count}"


def _member(group: Group, n: int) -> bytes:
    return b"m/" + group_id(group.name) + number(n)


def _plus(total: str, request: str, sign: int) -> str:
    """Return a sum of hashes (modulo 2^256) with one more or one less: the same for the same set, in any order."""
    one = int.from_bytes(hashlib.blake2b(request.encode(), digest_size=32).digest(), "big")
    return f"{(int(total, 16) + sign * one) % _MODULUS:x}"
