"""The laws of deletions, whatever happens in whatever order: changes, crashes, lost answers, redeliveries, decisions.

Hypothesis makes up a history, the harness a schedule. Whatever comes of it:

1. a DELETE is only ever sent for a request that says so, and while the ledger says EXECUTING;
2. right before every DELETE the customer was looked up, and found unchanged since the request's reason; where there is
   no look-up, none follows one for the same customer whose outcome is not known, unless it was published as live since;
3. no DELETE is sent once the customer's return has been published (at an earlier moment);
4. once the target is healthy and persons have decided, every request has exactly one receipt, and nothing is open;
5. every deletion went through the table, step by step;
6. what metrics and status count as waiting, by what it waits for, is what is open.
"""

from collections import Counter
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handlers.deletes.book import Book
from handlers.deletes.machine import TABLE, Event, State
from handlers.deletes.showing import waiting
from tests.flow.deletes_world import World, drivly, http, route
from worker.events import header
from worker.handling import Call, Reply
from worker.times import milliseconds

IDS = ("1", "2", "3")
FAST = {
    "guard": {"window": "4s", "count": 2},
    "catch_up": "1s",
    "backoff": "1s",
    "probe": "3s",
    "breaker": {"pause": "3s", "longest": "10s"},
    "duplicates": {"cooling": "5s"},
}
FAULTS: dict[str, Reply] = {
    "500": Reply(500),
    "429": Reply(429, {"retry-after": "7"}),
    "503": Reply(503),
    "401": Reply(401),
    "404": Reply(404),
    "409": Reply(409),
    "422": Reply(422),
    "unsent": Reply(None, error="connection", sent=False),
    "none": Reply(None, error="timeout"),
}

ids = st.sampled_from(IDS)
sources = st.sampled_from(["shop", "erp"])
steps = st.one_of(
    st.tuples(st.just("deleted"), sources, ids, st.sampled_from(["tombstone", "gone", "absent"])),
    st.tuples(st.just("deleted"), sources, ids, st.just("gone")),
    st.tuples(st.just("live"), sources, ids),
    st.tuples(st.just("add"), ids),
    st.tuples(st.just("work"), st.integers(1, 60)),
    st.tuples(st.just("wait"), st.sampled_from([1, 5, 6, 40])),
    st.tuples(st.just("wait"), st.just(7)),
    st.tuples(st.just("fault"), st.sampled_from([*FAULTS, "after", "ok"]), st.just("DELETE")),
    st.tuples(st.just("fault"), st.sampled_from(["500", "none", "after", "503", "409"]), st.just("DELETE")),
    st.tuples(st.just("crash"), st.sampled_from(["requests", "executor"])),
    st.tuples(st.just("redeliver"), st.sampled_from(["requests", "executor"]), st.integers(1, 40)),
    st.tuples(st.just("stale"), st.integers(0, 20)),
    st.tuples(st.just("fault"), st.sampled_from([*FAULTS, "after", "ok", "ok"]), st.sampled_from([None, "GET"])),
    st.tuples(st.just("silence"), st.sampled_from([("DELETE",), ("DELETE", "GET"), ()])),
    st.tuples(st.just("decide"), st.sampled_from(["approve", "reject"])),
    st.tuples(st.just("erase"), sources, ids),
)


class Stepped(World):
    """A world that takes the steps of a history."""

    fault = "ok"
    method: str | None = None

    def decide_all(self, what: Any) -> None:
        """Decide on every plan and every single request that waits for a person."""
        for plan in self.plans():
            self.decide(what, target="crm", plan=plan["plan"], hash_=plan["hash"])
        for entry in self.ledger().values():
            if entry["state"] == "HELD" and entry["group"] is None:
                self.decide(what, target="crm", request=entry["request"]["id"])

    def do(self, step: tuple[Any, ...]) -> None:
        """Take one step of a history."""
        getattr(self, f"_step_{step[0]}")(*step[1:])
        self.check_counts()

    def check_counts(self) -> None:
        """Check that each open deletion is counted once, but for those that an approved plan is letting go just now."""
        for task in (task for task in self.harness._tasks if task.handler.stage == "executor"):
            book = Book(task.tx)
            open_ = Counter(
                orjson.loads(value)["request"]["target"]
                for key, value in task.tx.scan(b"r/")
                if value.startswith(b'{"request":')
            )
            groups = book.written_groups()
            moving = [group for group in groups if group.job]
            for target in book.targets():
                waits = waiting(book, target, groups)
                assert min(waits.values()) >= 0
                assert moving or sum(waits.values()) == open_[target], (waits, open_)

    def _step_deleted(self, source: str, customer: str, reason: str) -> None:
        self.deleted(source, customer, reason, live=0)

    def _step_live(self, source: str, customer: str) -> None:
        self.live(source, customer)

    def _step_add(self, customer: str) -> None:
        self.systems["crm"].add(customer, self.harness.now)

    def _step_work(self, count: int) -> None:
        self.harness.work(count)

    def _step_wait(self, seconds: int) -> None:
        self.harness.advance(seconds * 1000)

    def _step_crash(self, stage: str) -> None:
        self.harness.crash(stage)

    def _step_redeliver(self, stage: str, count: int) -> None:
        self.harness.redeliver(stage, self.topics.latest if stage == "requests" else self.topics.requests, count)

    def _step_fault(self, name: str, method: str | None) -> None:
        self.fault, self.method = name, method

    def _step_silence(self, methods: tuple[str, ...]) -> None:
        self.systems["crm"].silent = lambda call: call.method in methods

    def _step_decide(self, what: str) -> None:
        self.decide_all(what)

    def _step_erase(self, source: str, customer: str) -> None:
        self.decide("erase", customer=f"{source}/{customer}")

    def _step_stale(self, number: int) -> None:
        """Publish an older record of a customer once more."""
        records = self.harness.records(self.topics.latest)
        if records:
            record = records[number % len(records)]
            self.harness.repeat(record.topic, record.partition, record.offset)


class Checked(Stepped):
    """A world whose target checks the laws at every DELETE that reaches it."""

    def __init__(self, target: dict[str, Any], seed: int) -> None:
        """Route two sources to one target."""
        routes = [route(), route("erp")]
        super().__init__({"targets": {"crm": target}, "routes": routes, **FAST}, seed=seed, partitions=2)
        self.looked: dict[str, int | None] = {}  # the last look-up that found the customer, until the next DELETE
        self.unsure: dict[str, int] = {}  # customers with a DELETE whose outcome is not known, and when that was sent
        crm = self.systems["crm"]
        crm.fault, crm.after = self._before, self._after

    def _before(self, call: Call) -> Reply | None:
        if call.method == "DELETE":
            self._check_delete(call)
        return FAULTS.get(self.fault) if self.method in {None, call.method} else None

    def _after(self, call: Call, reply: Reply) -> Reply:
        customer = call.path.rpartition("/")[2]
        if call.method == "GET" and reply.status == 200 and customer in IDS:
            self.looked[customer] = milliseconds(orjson.loads(reply.body)["updatedAt"])
        return Reply(500) if self.fault == "after" and call.method == "DELETE" else reply

    def _check_delete(self, call: Call) -> None:
        customer, request_id = call.path.rpartition("/")[2], call.id.partition(":")[0]
        entry = self.ledger()[f"crm/{customer}"]
        request = next(row for row in self.requests() if row["id"] == request_id)
        assert request["customer"] == customer
        if entry["request"]["id"] == request_id:
            assert entry["state"] == "EXECUTING"
        if self.settings.targets["crm"].kind == "drivly":
            assert customer in self.looked, "a DELETE without a look-up right before it"
            assert (self.looked.pop(customer) or 0) <= request["as_of"]
        else:
            lost = self.unsure.pop(customer, None)
            back = lost is not None and (request["seen_live"] or 0) > lost
            assert lost is None or back, "a DELETE after one whose outcome is not known"
            faulty = self.fault in {"500", "none"} and self.method in {None, "DELETE"}
            if faulty or self.fault == "after" or self.systems["crm"].silent(call):
                self.unsure[customer] = self.harness.now
        for record in self.harness.records(self.topics.latest):
            if record.key == f"{request['source']}/{request['origin']}".encode() and record.value is not None:
                newer = int(header(record.headers, "ce_sequence") or "0") > request["sequence"]
                assert not (newer and record.timestamp < self.harness.now), "a DELETE after the customer's return"

    def heal(self) -> None:
        """Make everything well, and have persons decide until nothing is open."""
        self.fault = "ok"
        self.systems["crm"].silent = lambda _: False
        for _ in range(20):
            self.harness.advance(200_000)
            self.decide("retry", target="crm")
            self.decide_all("approve")
            self.harness.advance(30_000)
            if len(self.receipts()) == len(list(self.requests())):
                return

    def check_end(self) -> None:
        """Check what has to be true in the end."""
        receipts = [receipt["request"] for receipt in self.receipts()]
        assert len(receipts) == len(set(receipts))
        assert set(receipts) == {request["id"] for request in self.requests()}
        for entry in self.ledger().values():
            state = State.REQUESTED
            for _, event, following in entry["history"]:
                assert TABLE[state, Event(event)] == following
                state = State(following)


@pytest.mark.parametrize("target", ["drivly", "http"])
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(history=st.lists(steps, min_size=3, max_size=30), seed=st.integers(0, 1_000))
def test_the_laws_hold_whatever_happens(target: str, history: list[tuple[Any, ...]], seed: int) -> None:
    """Any history, any schedule."""
    world = Checked(drivly() if target == "drivly" else http(), seed)
    for number, customer in enumerate(IDS):
        world.systems["crm"].add(customer)
        if history[number % len(history)][0] in {"fault", "silence", "wait"}:
            world.deleted("shop", customer, live=0)
    for step in history:
        world.do(step)
    world.heal()
    world.check_end()


chain_steps = st.one_of(
    st.tuples(st.just("wait"), st.just(6)),
    st.tuples(st.just("echo")),
    st.tuples(st.just("deleted"), st.just("shop"), ids, st.just("gone")),
    st.tuples(st.just("echo")),
    st.tuples(st.just("work"), st.integers(1, 60)),
    st.tuples(st.just("wait"), st.sampled_from([1, 6, 200])),
    st.tuples(st.just("crash"), st.sampled_from(["requests", "executor"])),
    st.tuples(st.just("redeliver"), st.sampled_from(["requests", "executor"]), st.integers(1, 40)),
    st.tuples(st.just("silence"), st.sampled_from([("DELETE",), ("DELETE", "GET"), ()])),
)


class Chained(Stepped):
    """A world whose target is polled as a source, and routed on to another target and back to where it began."""

    def __init__(self, seed: int) -> None:
        """Route in a circle, with a branch."""
        routes = [route("shop", "crm"), route("crm", "erp"), route("crm", "shop")]
        targets = {"crm": drivly(), "erp": drivly(), "shop": drivly()}
        super().__init__({"targets": targets, "routes": routes, **FAST, "guard": {"window": "2s"}}, seed=seed)
        self.echoed: set[str] = set()
        for system in self.systems.values():
            for customer in IDS:
                system.add(customer)

    def _step_echo(self) -> None:
        """Have the poller publish what is gone from the target by now, each once."""
        for customer in IDS:
            if customer not in self.systems["crm"].rows and customer not in self.echoed:
                self.echoed.add(customer)
                self.deleted("crm", customer, "gone")


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(history=st.lists(chain_steps, min_size=3, max_size=25), seed=st.integers(0, 1_000))
def test_no_history_of_our_own_deletions_sets_off_another(history: list[tuple[Any, ...]], seed: int) -> None:
    """6. Whatever is lost, late or read twice on the way: what we delete at one system is carried no further."""
    world = Chained(seed)
    world.systems["crm"].silent = lambda call: call.method == "DELETE" and seed % 2 == 1
    world.deleted("shop", IDS[0], "gone")
    for step in history:
        world.do(step)
    world.systems["crm"].silent = lambda _: False
    world.harness.advance(300_000)
    world.do(("echo",))
    world.harness.advance(60_000)
    assert {request["target"] for request in world.requests()} <= {"crm"}
    assert world.systems["erp"].calls == world.systems["shop"].calls == []
    assert world.echoed == {receipt["customer"] for receipt in world.receipts()}
