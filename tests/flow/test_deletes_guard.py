"""The blast radius and the decisions of persons: what is held, what an approval is bound to, and how it is answered."""

from typing import Any

import pytest

from handlers.deletes.settings import DeletesSettings
from tests.flow.deletes_world import World, drivly, route, simple


def burst(
    world: World, count: int, *, first: int = 1, live: int = 100, source: str = "shop", reason: str = "gone"
) -> None:
    """Have a source publish so many deletions, of customers that the target has."""
    for number in range(first, first + count):
        world.systems["crm"].add(str(number))
        world.deleted(source, str(number), reason, live=live)


def test_up_to_ten_deletions_run_by_themselves() -> None:
    """The smallest limit."""
    world = World(simple())
    burst(world, 10)
    world.settle()
    assert set(world.outcomes().values()) == {"VERIFIED"}
    assert world.plans(None) == []


def test_more_than_that_are_held_as_a_whole() -> None:
    """Nothing of the burst slips through, its head neither, and the status says why."""
    world = World(simple())
    burst(world, 11)
    world.settle()
    assert set(world.states().values()) == {"HELD"}
    assert world.systems["crm"].calls == []
    (plan,) = world.plans()
    assert (plan["count"], plan["source"], plan["target"]) == (11, "shop", "crm")
    assert "11 deletions" in plan["reason"]


def test_the_head_of_a_burst_waits_for_its_tail() -> None:
    """A burst that takes longer than the window is held with its head and its tail, as one plan."""
    world = World(simple())
    for minute in range(4):
        burst(world, 5, first=minute * 5 + 1)
        world.harness.advance(20_000)
    world.settle(5)
    assert world.systems["crm"].deletes() == []
    assert set(world.states().values()) == {"HELD"}
    assert [plan["count"] for plan in world.plans()] == [20]


def test_each_deletion_is_judged_only_a_whole_window_after_it_came() -> None:
    """What came a moment before the first ones are let pass is judged with what comes after it."""
    world = World(simple(guard={"window": "10s"}, tick="200ms"), partitions=1)
    burst(world, 2)
    world.harness.advance(9_000)
    burst(world, 6, first=10)
    world.harness.advance(3_000)
    burst(world, 10, first=100)
    world.settle()
    assert [plan["count"] for plan in world.plans()] == [16]
    assert world.outcomes() == {"crm/1": "VERIFIED", "crm/2": "VERIFIED"}


def test_a_plan_is_open_while_its_burst_goes_on() -> None:
    """An approval of what was seen is refused when more has joined since; a plan that is at rest is closed."""
    world = World(simple())
    burst(world, 11)
    world.settle(1.1)
    (seen,) = world.plans()
    assert seen["open"] is True
    burst(world, 5, first=20)
    world.harness.advance(5_000)
    command = world.approve(seen)
    world.settle(2)
    assert world.answered(command)[0] == "refused"
    (now,) = world.plans()
    assert (now["count"], now["open"]) == (16, False)
    world.approve(now)
    world.settle()
    assert len(world.outcomes()) == 16


def test_a_plan_is_closed_after_ten_windows_although_more_keeps_coming() -> None:
    """A source that drips deletions for hours can still be decided on."""
    world = World(simple(guard={"window": "2s"}))
    burst(world, 11)
    for number in range(60):
        burst(world, 1, first=100 + number)
        world.harness.advance(1_000)
    (plan,) = world.plans()
    assert plan["open"] is False
    assert 25 < plan["count"] < 40
    assert plan["count"] + plan["gathering_behind"] == 71


def test_a_large_source_may_lose_two_percent_but_never_more_than_the_cap() -> None:
    """The live count that the deletions carry sets the limit; 500 is the most."""
    for live, count, held in ((1000, 20, False), (1000, 21, True), (1_000_000, 500, False), (1_000_000, 501, True)):
        world = World(simple(drivly(enabled=False)))
        burst(world, count, live=live)
        world.settle(5)
        assert bool(world.plans()) is held, (live, count)


def test_the_limit_counts_a_whole_period() -> None:
    """Ten an hour is a mass deletion as well; once the period is over it starts anew."""
    world = World(simple(tick="10s", guard={"period": "5h"}), partitions=1)
    burst(world, 6)
    world.settle(60)
    burst(world, 5, first=7)
    world.settle(60)
    assert [plan["count"] for plan in world.plans()] == [5]
    world.decide("reject", target="crm", plan=world.plans()[0]["plan"], hash_=world.plans()[0]["hash"])
    world.settle(5 * 60)
    burst(world, 10, first=20)
    world.settle(180)
    assert world.plans() == []
    assert [state for state in world.outcomes().values() if state == "VERIFIED"] == ["VERIFIED"] * 16


def test_each_source_and_target_is_judged_for_itself() -> None:
    """Another source's burst, or another target, does not hold anybody up."""
    world = World({**simple(), "routes": [route(), route("erp")]})
    burst(world, 30)
    world.systems["crm"].add("500")
    world.deleted("erp", "500")
    world.settle()
    assert world.outcomes() == {"crm/500": "VERIFIED"}
    assert [plan["source"] for plan in world.plans()] == ["shop"]


def test_an_approved_plan_is_carried_out_and_not_counted_again() -> None:
    """The ten that may run by themselves are still there the same day."""
    world = World(simple())
    burst(world, 40)
    world.settle()
    world.approve(*world.plans())
    world.settle()
    assert len(world.outcomes()) == 40
    burst(world, 10, first=50)
    world.settle()
    assert len(world.outcomes()) == 50
    assert set(world.outcomes().values()) == {"VERIFIED"}
    assert [plan["state"] for plan in world.plans(None)] == ["approved"]


def test_a_rejected_plan_deletes_nobody_and_leaves_a_receipt_each() -> None:
    """Who rejected it is in every receipt."""
    world = World(simple())
    burst(world, 11)
    world.settle()
    (plan,) = world.plans()
    world.decide("reject", target="crm", plan=plan["plan"], hash_=plan["hash"])
    world.settle()
    assert set(world.outcomes().values()) == {"REJECTED"}
    assert {receipt["decisions"][0]["who"] for receipt in world.receipts()} == {"operator@example.com"}
    assert world.systems["crm"].calls == []


def test_what_comes_behind_a_held_plan_waits_for_the_decision() -> None:
    """A plan is closed: it can be approved while the burst goes on, and the rest makes the next one."""
    world = World(simple())
    burst(world, 11)
    world.settle()
    burst(world, 3, first=20)
    world.settle()
    (plan,) = world.plans()
    assert (plan["count"], plan["gathering_behind"]) == (11, 3)
    assert world.ledger()["crm/20"]["reason"] == f"behind {plan['plan']}"
    world.approve(plan)
    world.settle()
    assert len(world.outcomes()) == 14  # the three are within the limit


def test_an_approval_for_a_plan_that_has_changed_is_refused() -> None:
    """A request left the plan since it was shown: its hash is another one, and the answer names it."""
    world = World(simple())
    burst(world, 12)
    world.settle()
    (seen,) = world.plans()
    world.live("shop", "3")
    world.settle()
    command = world.approve(seen)
    world.settle()
    outcome, text = world.answered(command)
    assert outcome == "refused"
    (now,) = world.plans()
    assert now["hash"] in text
    assert now["count"] == 11
    assert world.systems["crm"].calls == []
    world.approve(now)
    world.settle()
    assert world.outcomes() == {f"crm/{n}": "SUPERSEDED" if n == 3 else "VERIFIED" for n in range(1, 13)}


def test_an_approval_that_arrives_twice_is_carried_out_once() -> None:
    """The second one is answered with what became of the first."""
    world = World(simple())
    burst(world, 11)
    world.settle()
    (plan,) = world.plans()
    command = world.approve(plan)
    world.settle()
    world.approve(plan, id_=command)
    world.settle()
    outcome, text = world.answered(command)
    assert outcome == "done"
    assert "second time" in text
    assert len(world.receipts()) == 11


def test_a_late_approval_is_refused() -> None:
    """Somebody else was faster: the plan is decided."""
    world = World(simple())
    burst(world, 11)
    world.settle()
    (plan,) = world.plans()
    world.decide("reject", target="crm", plan=plan["plan"], hash_=plan["hash"])
    world.settle()
    command = world.approve(plan)
    world.settle()
    assert world.answered(command) == ("refused", "too late: the plan is rejected already")
    assert world.systems["crm"].calls == []


def test_a_plan_whose_requests_have_all_gone_is_empty() -> None:
    """Everybody came back: there is nothing to decide, and a late approval says so."""
    world = World(simple(guard={"count": 0}))
    burst(world, 2, live=0)
    world.settle()
    (plan,) = world.plans()
    for customer in ("1", "2"):
        world.live("shop", customer)
    world.settle()
    assert [plan["state"] for plan in world.plans(None)] == ["empty"]
    command = world.approve(plan)
    world.settle()
    assert world.answered(command)[0] == "refused"


def test_one_request_of_a_plan_can_be_decided_by_itself() -> None:
    """It leaves the plan, which is another one then."""
    world = World(simple())
    burst(world, 12)
    world.settle()
    (before,) = world.plans()
    one, two = (world.ledger()[f"crm/{n}"]["request"]["id"] for n in (1, 2))
    world.decide("approve", target="crm", request=one)
    world.decide("reject", target="crm", request=two)
    world.settle()
    assert world.outcomes() == {"crm/1": "VERIFIED", "crm/2": "REJECTED"}
    (after,) = world.plans()
    assert after["count"] == 10
    assert after["hash"] != before["hash"]


@pytest.mark.parametrize(("pause", "deleted"), [(30.0, {"2", "3"}), (0.7, {"1", "2", "3"})])
def test_what_is_held_in_its_turn_joins_those_that_came_after_it(pause: float, deleted: set[str]) -> None:
    """A route that asks for approval now meets what it let run before: it is behind a plan at rest, in an open one."""
    world = World({"targets": {"crm": drivly()}, "routes": [route(cooling="1h")]})
    burst(world, 1, reason="tombstone")
    world.settle(5)
    asking = {"targets": {"crm": drivly()}, "routes": [route(cooling="1h", classes={"tombstone": "approval"})]}
    world.settings = DeletesSettings.model_validate(asking)
    world.harness.crash("requests")
    world.harness.crash("executor")
    world.settle(55 - pause)
    burst(world, 2, first=2, reason="tombstone")
    world.settle(pause + 4)
    (plan,) = world.plans()
    assert plan["count"] == len(deleted)
    world.approve(plan)
    world.settle(200)
    assert set(world.systems["crm"].deletes()) == deleted
    held = {name for name, state in world.states().items() if state == "HELD"}
    assert held == {f"crm/{n}" for n in {"1", "2", "3"} - deleted}


@pytest.mark.parametrize("what", ["approve", "reject"])
def test_a_decision_on_a_request_that_has_ended_is_late(what: Any) -> None:
    """The answer says how it ended."""
    world = World(simple())
    burst(world, 1)
    world.settle()
    (receipt,) = world.receipts()
    command = world.decide(what, target="crm", request=receipt["request"])
    unknown = world.decide(what, target="crm", request="nobody")
    world.settle()
    assert world.answered(command) == ("refused", "too late: it has ended (VERIFIED)")
    assert world.answered(unknown)[0] == "refused"


def test_a_refused_decision_on_an_open_request_is_in_its_receipt() -> None:
    """Every decision is in the audit trail, also one that could not be carried out."""
    world = World(simple(drivly(enabled=False)))
    burst(world, 1)
    world.settle()
    request = world.ledger()["crm/1"]["request"]["id"]
    late = world.decide("approve", target="crm", request=request)
    world.settle()
    assert world.answered(late)[0] == "refused"
    world.decide("reject", target="crm", request=request)
    world.settle()
    decisions = world.receipt("1")["decisions"]
    assert [(row["what"], row["refused"] is None) for row in decisions] == [("approve", False), ("reject", True)]


def test_a_hundred_plans_worth_of_requests_is_held_and_carried_out_in_slices() -> None:
    """A plan of thousands moves some members at a time, and none is lost or done twice."""
    world = World({**simple(), "guard": {"window": "10s"}, "targets": {"crm": drivly(concurrency=32)}}, partitions=1)
    burst(world, 3000)
    world.settle(1)
    (plan,) = world.plans()
    assert plan["count"] == 3000
    world.approve(plan)
    world.harness.crash("executor")
    world.settle(2)
    assert len(world.systems["crm"].deletes()) == 3000
    assert set(world.outcomes().values()) == {"VERIFIED"}


def test_a_decision_that_cannot_be_read_is_a_dead_letter() -> None:
    """Garbage on the approvals topic decides nothing and stops nobody."""
    world = World(simple())
    world.harness.publish(world.topics.approvals, b"crm", b"yes")
    world.harness.publish(
        world.topics.approvals, b"crm", b'{"id":"1","what":"approve","who":"me","at":1,"target":"erp"}'
    )
    burst(world, 1)
    world.settle()
    dead = [outcome for _, _, outcome in world.harness.outcomes if type(outcome).__name__ == "Dead"]
    assert len(dead) == 4  # either stage reads the topic
    assert world.outcomes() == {"crm/1": "VERIFIED"}
