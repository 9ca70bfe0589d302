"""What went wrong in other products that carry deletions, each shown not to happen here."""

import pytest

from tests.flow.deletes_world import World, drivly, route, simple
from worker.handling import Call, Reply


@pytest.mark.parametrize("reason", ["tombstone", "gone", "absent"])
@pytest.mark.parametrize("at_once", [True, False])
def test_a_listing_cut_short_deletes_nobody(reason: str, *, at_once: bool) -> None:
    """A "silent mass-delete" (seen in sim, nango and Connapse): whatever is said to be its proof, it is held.

    The source has 400 customers, and shows 40: the other 360 are reported, at once or over a quarter of an hour.
    """
    world = World(simple())
    for number in range(1, 401):
        world.systems["crm"].add(str(number))
    for number in range(41, 401):
        world.deleted("shop", str(number), reason, live=400 - number + 40)
        if not at_once and number % 40 == 0:
            world.settle(1.5)
    world.settle(5)
    assert world.systems["crm"].deletes() == []
    assert set(world.states().values()) <= {"HELD", "GATHERING"}
    assert sum(plan["count"] + plan["gathering_behind"] for plan in world.plans()) == 360


@pytest.mark.parametrize("seed", range(5))
def test_two_erasures_at_once_both_succeed(seed: int) -> None:
    """The 404 that the second one meets is what it wanted (seen in fides)."""
    world = World({**simple(), "routes": []}, seed=seed)
    world.systems["crm"].add("1")
    first, second = (world.decide("erase", customer="crm/1") for _ in range(2))
    world.settle()
    assert [world.answered(command)[0] for command in (first, second)] == ["done", "done"]
    assert sorted(receipt["outcome"] for receipt in world.receipts()) == ["ALREADY_ABSENT", "VERIFIED"]
    assert world.systems["crm"].deletes() == ["1"]


def test_one_disabled_target_does_not_fail_the_others() -> None:
    """Each target has requests of its own; those of a disabled one wait (seen in fides)."""
    targets = {"crm": drivly(), "erp": drivly(enabled=False)}
    world = World({"targets": targets, "routes": [route("crm", "erp")]})
    for system in world.systems.values():
        system.add("1")
    world.decide("erase", customer="crm/1")
    world.settle()
    assert world.outcomes() == {"crm/1": "VERIFIED"}
    assert world.states()["erp/1"] == "COOLING"
    world.settings = world.settings.model_validate({
        "targets": {"crm": drivly(), "erp": drivly()},
        "routes": [route("crm", "erp")],
    })
    world.harness.crash("executor")
    world.settle()
    assert world.outcomes() == {"crm/1": "VERIFIED", "erp/1": "VERIFIED"}


@pytest.mark.parametrize("seed", range(10))
def test_delete_and_re_create_are_not_applied_in_reverse(seed: int) -> None:
    """A customer that was deleted and made anew is there in the end (seen in compass)."""
    world = World(simple(guard={"window": "2s"}), seed=seed)
    world.systems["crm"].add("1")
    world.live("shop", "1")
    world.deleted("shop", "1")
    world.harness.work(seed * 3)
    world.live("shop", "1")
    world.settle()
    assert "1" in world.systems["crm"].rows
    assert world.systems["crm"].deletes() == []


def test_a_partial_deletion_can_be_retried_after_the_identifiers_are_gone() -> None:
    """The request keeps them, when the source and its customer are long gone (seen in prompt)."""
    reference = {"link": "reference", "reference": "customerKey"}
    targets = {"crm": drivly(), "erp": drivly()}
    world = World({"targets": targets, "routes": [route(**reference), route(target="erp", **reference)]})
    for system in world.systems.values():
        system.add("77")
    world.systems["erp"].fault = lambda call: Reply(422) if call.method == "DELETE" else None
    world.live("shop", "a", references={"customerKey": "77"})
    world.settle()
    world.deleted("shop", "a")
    world.settle()
    assert world.outcomes() == {"crm/77": "VERIFIED", "erp/77": "BLOCKED"}
    world.systems["erp"].fault = lambda _: None
    world.harness.forget("requests")
    world.decide("retry", target="erp", request=world.receipt("77", "erp")["request"])
    world.settle()
    assert world.systems["erp"].deletes() == ["77", "77"]
    assert "77" not in world.systems["erp"].rows


def test_deletes_do_not_take_more_than_their_share() -> None:
    """A backlog of deletes keeps to its few calls at a time, so that others are served (seen in maestro)."""
    world = World(simple(drivly(concurrency=2), guard={"count": 1000, "cap": 1000, "fraction": 1}), partitions=1)
    for number in range(1, 301):
        world.systems["crm"].add(str(number))
        world.deleted("shop", str(number))
    under_way: list[int] = []

    def count(call: Call) -> Reply | None:
        under_way.append(1 + sum(len(task.under_way) for task in world.harness._tasks))
        return None

    world.systems["crm"].fault = count
    world.settle()
    assert len(world.outcomes()) == 300
    assert max(under_way) == 2
