"""Deletions carried downstream, as whole flows in virtual time: what makes a request, and what it comes to."""

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from handlers.deletes import operate
from handlers.deletes.model import KIND
from handlers.deletes.settings import DeletesSettings
from handlers.deletes.undo import Undo
from tests.flow.deletes_world import MINUTE, START, System, World, drivly, http, route, simple, with_lookup
from worker.events import header
from worker.handling import Call, Record, Reply, Skip
from worker.times import rfc3339

KEY = "0123456789abcdef" * 4


def skipped(world: World, stage: str) -> set[str]:
    """Return the reasons for which a stage has skipped records."""
    outcomes = [outcome for name, _, outcome in world.harness.outcomes if name == stage]
    return {outcome.reason for outcome in outcomes if isinstance(outcome, Skip)}


# From a deletion to the receipt


@pytest.mark.parametrize("reason", ["tombstone", "gone"])
def test_a_deletion_is_looked_up_done_verified_and_receipted(reason: str) -> None:
    """What the source says is deleted is deleted at the target, and all of it is accounted for."""
    world = World(simple())
    world.systems["crm"].add("12")
    world.live("shop", "12")
    world.settle()
    sequence = world.deleted("shop", "12", reason)
    world.settle()
    assert set(world.systems["crm"].rows) == {"999999"}
    assert [method for _, method, _, _ in world.systems["crm"].calls] == ["GET", "DELETE", "GET"]
    receipt = world.receipt("12")
    assert (receipt["outcome"], receipt["authority"], receipt["sequence"]) == ("VERIFIED", reason, sequence)
    assert [attempt["status"] for attempt in receipt["attempts"]] == [200]
    assert receipt["verification"]["how"] == "look-up"
    assert world.states() == {"crm/12": "VERIFIED"}


def test_executing_is_published_before_the_call_is_made() -> None:
    """Whoever reads the ledger sees EXECUTING no later than the target sees the DELETE."""
    world = World(simple())
    world.systems["crm"].add("12")
    seen: list[str] = []

    def look(call: Call) -> Reply | None:
        if call.method == "DELETE":
            seen.append(world.states()["crm/12"])
        return None

    world.systems["crm"].fault = look
    world.deleted("shop", "12")
    world.settle()
    assert seen == ["EXECUTING"]


def test_what_is_inferred_waits_for_a_person() -> None:
    """An absence that nobody confirmed is held as a plan, and carried out once it is approved."""
    world = World(simple())
    world.systems["crm"].add("12")
    world.deleted("shop", "12", "absent")
    world.settle()
    assert world.states() == {"crm/12": "HELD"}
    assert world.systems["crm"].calls == []
    (plan,) = world.plans()
    command = world.approve(plan)
    world.settle()
    assert world.outcomes() == {"crm/12": "VERIFIED"}
    assert world.answered(command)[0] == "done"
    (decided,) = world.receipt("12")["decisions"]
    assert (decided["what"], decided["who"], decided["plan"]) == ("approve", "operator@example.com", plan["plan"])


def test_a_class_that_is_off_makes_no_request() -> None:
    """A route only carries the classes that are on."""
    world = World({**simple(), "routes": [route(classes={"gone": "off"})]})
    world.deleted("shop", "12", "gone")
    world.settle()
    assert list(world.requests()) == []


def test_a_dry_run_does_everything_but_the_delete() -> None:
    """On a dry-run route the customer is looked up, and the receipt says that nothing was done."""
    world = World({**simple(), "routes": [route(dry_run=True)]})
    world.systems["crm"].add("12")
    world.deleted("shop", "12")
    world.settle()
    assert world.systems["crm"].deletes() == []
    assert world.systems["crm"].lookups() == ["12"]
    receipt = world.receipt("12")
    assert (receipt["outcome"], receipt["dry_run"], receipt["attempts"]) == ("DRY_RUN", True, [])


def test_the_same_deletion_read_twice_is_one_request() -> None:
    """A redelivery anywhere makes no second request, no second DELETE and no second receipt."""
    world = World(simple())
    world.systems["crm"].add("12")
    world.deleted("shop", "12")
    world.settle()
    world.systems["crm"].add("12", updated=0)
    for stage, topic in (("requests", world.topics.latest), ("executor", world.topics.requests)):
        world.harness.redeliver(stage, topic, 10)
    world.settle()
    assert world.systems["crm"].deletes() == ["12"]
    assert len(world.receipts()) == 1


# References


def referring(**more: Any) -> dict[str, Any]:
    """Return settings with a reference route."""
    return {**simple(), "routes": [route(link="reference", reference="customerKey")], **more}


def test_a_reference_leads_to_the_customer_although_the_tombstone_has_none() -> None:
    """The typed ids of a customer are remembered while it is alive."""
    world = World(referring())
    world.systems["crm"].add("77")
    world.live("shop", "a", references={"customerKey": "77", "other": "78"})
    world.settle()
    world.deleted("shop", "a")
    world.settle()
    assert world.systems["crm"].deletes() == ["77"]
    assert world.receipt("77")["origin"] == "shop/a"


def test_a_tombstone_whose_references_were_never_seen_is_held() -> None:
    """Nobody knows what to delete: a person is told, can reject it, and cannot approve it."""
    world = World(referring())
    world.deleted("shop", "a")
    world.settle()
    (entry,) = world.ledger().values()
    assert entry["state"] == "HELD"
    assert "references" in entry["reason"]
    approval = world.decide("approve", target="crm", request=entry["request"]["id"])
    world.settle()
    assert world.answered(approval)[0] == "refused"
    world.decide("reject", target="crm", request=entry["request"]["id"])
    world.settle()
    assert [receipt["outcome"] for receipt in world.receipts()] == ["REJECTED"]
    assert world.systems["crm"].calls == []


@pytest.mark.parametrize("anew", [False, True])
def test_references_that_were_published_before_there_was_a_target_are_read_by_a_stage_without_state(
    *, anew: bool
) -> None:
    """Without a target none are kept; a stage that begins anew learns them, and carries out nothing of the past."""
    world = World({"targets": {}, "routes": []})
    world.live("shop", "a", references={"customerKey": "77"})
    world.live("shop", "b", references={"customerKey": "78"})
    world.deleted("shop", "b")
    world.settle()
    world.settings = world.settings.model_validate(referring())
    world.systems["crm"] = System("crm")
    for customer in ("77", "78", "999999"):
        world.systems["crm"].add(customer)
    world.harness.crash("requests")
    world.harness.crash("executor")
    if anew:
        world.harness.forget("requests")
    world.settle()
    world.deleted("shop", "a")
    world.settle()
    assert world.systems["crm"].deletes() == (["77"] if anew else [])
    assert sorted(world.states().values()) == (["VERIFIED"] if anew else ["HELD"])


def test_a_customer_without_that_reference_asks_for_nothing() -> None:
    """A customer that was seen alive, and had no such id, has nothing to be deleted at the target."""
    world = World(referring())
    world.live("shop", "a", references={"other": "78"})
    world.deleted("shop", "a")
    world.settle()
    assert list(world.requests()) == []


# Clusters

CLUSTER = {"targets": {"crm": drivly()}, "routes": [route(link="cluster")]}


@pytest.mark.parametrize("departure_first", [True, False])
def test_a_cluster_route_deletes_the_other_half_of_a_deleted_customer(*, departure_first: bool) -> None:
    """A departure by deletion, in either order with the deletion itself, reaches the member at the target."""
    world = World(CLUSTER)
    world.systems["crm"].add("5")
    world.live("shop", "a")
    world.settle()
    if departure_first:
        world.sequences[b"shop/a"] += 1
        world.departed("shop/a", ["crm/5", "erp/6"])
        world.settle()
        world.sequences[b"shop/a"] -= 1
        world.deleted("shop", "a", "gone")
    else:
        world.deleted("shop", "a", "gone")
        world.settle()
        assert list(world.requests()) == []
        world.departed("shop/a", ["crm/5", "erp/6"])
    world.settle()
    receipt = world.receipt("5")
    assert (receipt["outcome"], receipt["authority"]) == ("VERIFIED", "gone")
    assert receipt["evidence"]["links"][0]["customer"] == "crm/5"


@pytest.mark.parametrize("older", [["live"], ["deleted"], ["live", "deleted", "live"]], ids=" ".join)
def test_a_departure_waits_for_its_own_deletion_past_older_versions(older: list[str]) -> None:
    """A backlog of both topics is read in any order: only the deletion itself, or a newer version, ends the wait."""
    world = World(CLUSTER)
    world.systems["crm"].add("5")
    world.live("shop", "a")
    world.settle()
    world.sequences[b"shop/a"] += len(older) + 1
    world.departed("shop/a", ["crm/5"])
    world.settle(0.2)
    world.sequences[b"shop/a"] -= len(older) + 1
    for version in older:
        (world.live if version == "live" else world.deleted)("shop", "a")
        world.settle(0.2)
    assert list(world.requests()) == []
    world.deleted("shop", "a", "gone")
    world.settle()
    assert world.outcomes() == {"crm/5": "VERIFIED"}


def test_a_departure_whose_customer_is_back_already_deletes_nobody() -> None:
    """It has waited for a deletion that a newer version has overtaken."""
    world = World(CLUSTER)
    world.systems["crm"].add("5")
    world.live("shop", "a")
    world.sequences[b"shop/a"] += 1
    world.departed("shop/a", ["crm/5"])
    world.settle(0.2)
    world.live("shop", "a")
    world.deleted("shop", "a", "gone")
    world.settle()
    assert list(world.requests()) == []


def test_a_departure_for_another_cause_deletes_nobody() -> None:
    """A customer that became another person's is no reason to delete anybody."""
    world = World(CLUSTER)
    world.live("shop", "a")
    world.departed("shop/a", ["crm/5"], cause="changed")
    world.deleted("shop", "a")
    world.settle()
    assert list(world.requests()) == []
    assert "changed" in skipped(world, "requests")


def test_a_departure_in_doubt_is_held() -> None:
    """What follows from evidence in doubt is held with that reason, never done by itself."""
    world = World(CLUSTER)
    world.systems["crm"].add("5")
    world.live("shop", "a")
    world.deleted("shop", "a")
    world.departed("shop/a", ["crm/5"], doubt=["late"])
    world.settle()
    (entry,) = world.ledger().values()
    assert entry["state"] == "HELD"
    assert "late" in entry["reason"]
    assert world.systems["crm"].calls == []


def test_a_person_that_is_still_there_under_another_record_is_not_deleted_elsewhere() -> None:
    """Of two records of the source one is deleted; the deletion of the last one is carried on."""
    world = World(CLUSTER)
    world.systems["crm"].add("5")
    for customer in ("a", "b"):
        world.live("shop", customer)
    world.deleted("shop", "a")
    world.departed("shop/a", ["crm/5", "shop/b"])
    world.settle()
    assert list(world.requests()) == []
    world.deleted("shop", "b")
    world.departed("shop/b", ["crm/5"])
    world.settle()
    assert world.outcomes() == {"crm/5": "VERIFIED"}


def test_a_cluster_that_changes_calls_the_deletion_off() -> None:
    """If the customer at the target has another cluster when its turn comes, the request is superseded."""
    world = World(CLUSTER)
    world.systems["crm"].add("5")
    world.live("shop", "a")
    world.deleted("shop", "a")
    world.departed("shop/a", ["crm/5"])
    world.settle(0.5)
    world.clustered("crm/5", "crm/6")
    world.settle()
    assert world.outcomes() == {"crm/5": "SUPERSEDED"}
    assert world.systems["crm"].deletes() == []


def one_was_deleted() -> World:
    """Return a world in which the shop's `a` and the crm's `5` were one person, and `a` has just been deleted."""
    world = World(CLUSTER)
    world.systems["crm"].add("5")
    world.live("shop", "a")
    world.clustered("crm/5", "shop/a")
    world.settle()
    world.deleted("shop", "a")
    return world


@pytest.mark.parametrize("skew", [-5000, 5000])
def test_what_left_a_cluster_and_how_it_was_left_are_matched_whatever_the_clocks(skew: int) -> None:
    """Departures bear the broker's time, memberships a worker's: that one is ahead or behind decides nothing."""
    world = one_was_deleted()
    stamped_by_worker(world, skew, lambda: world.clustered("crm/5", None))
    world.departed("shop/a", ["crm/5"])
    world.settle()
    assert world.outcomes() == {"crm/5": "VERIFIED"}


@pytest.mark.parametrize("skew", [-5000, 5000])
def test_a_cluster_that_has_changed_is_seen_whatever_the_clocks(skew: int) -> None:
    """The person has another record by now, and the worker that says so is behind, or ahead."""
    world = one_was_deleted()
    world.clustered("crm/5", None)
    world.departed("shop/a", ["crm/5"])
    world.harness.advance(2000)
    stamped_by_worker(world, skew, lambda: world.clustered("crm/5", "shop/b"))
    world.settle()
    assert world.outcomes() == {"crm/5": "SUPERSEDED"}
    assert world.systems["crm"].deletes() == []


def stamped_by_worker(world: World, skew: int, publish: Callable[[], None]) -> None:
    """Publish with the time of a worker whose clock is `skew` milliseconds ahead."""
    world.harness.now += skew
    publish()
    world.harness.now -= skew


def test_a_departure_that_does_not_say_how_it_leaves_the_others_is_held() -> None:
    """An older program does not: nothing could show that a cluster has changed since."""
    world = World(CLUSTER)
    world.systems["crm"].add("5")
    world.live("shop", "a")
    world.deleted("shop", "a")
    world.departed("shop/a", ["crm/5"], memberships=None)
    world.settle()
    (entry,) = world.ledger().values()
    assert entry["state"] == "HELD"
    assert "older program" in entry["reason"]


# Horizons and lost state


def test_a_new_route_never_executes_the_past() -> None:
    """What was deleted before a route was first active is not carried over it; what comes after is."""
    world = World(simple())
    world.deleted("erp", "1")
    world.settle()
    world.settings = world.settings.model_validate({**simple(), "routes": [route(), route("erp")]})
    world.systems["crm"].add("1")
    world.systems["crm"].add("2")
    world.harness.crash("requests")
    world.harness.crash("executor")
    world.harness.redeliver("requests", world.topics.latest, 100)
    world.settle()
    assert list(world.requests()) == []
    world.deleted("erp", "2")
    world.settle()
    assert world.outcomes() == {"crm/2": "VERIFIED"}


def test_the_first_stage_does_not_execute_the_past_when_its_state_is_lost() -> None:
    """With no state found, deletions that were published before are no requests."""
    world = World(simple())
    world.systems["crm"].add("1")
    world.deleted("shop", "1")
    world.settle()
    world.systems["crm"].add("1", updated=0)
    world.harness.forget("requests")
    world.harness.forget("executor")
    world.settle()
    assert world.systems["crm"].deletes() == ["1"]
    assert len(world.receipts()) == 1


def test_what_was_open_when_the_executor_lost_its_state_is_held_for_a_person() -> None:
    """Nobody knows how far an open request had come: it is held, and goes on when it is approved."""
    world = World(simple(drivly(enabled=False)))
    world.systems["crm"].add("1")
    world.systems["crm"].add("2")
    world.deleted("shop", "1")
    world.settle()
    world.harness.forget("executor")
    world.settings = world.settings.model_validate(simple())
    world.harness.crash("executor")
    world.settle()
    assert world.states() == {"crm/1": "HELD"}
    world.deleted("shop", "2")
    world.settle()
    assert world.systems["crm"].deletes() == ["2"]
    world.approve(*world.plans())
    world.settle()
    assert world.outcomes() == {"crm/1": "VERIFIED", "crm/2": "VERIFIED"}


def test_a_route_that_is_added_later_knows_the_references_of_those_who_live_already() -> None:
    """They are remembered of every customer, whether or not a route asks for them yet."""
    world = World(simple())
    world.systems["crm"].add("77")
    world.live("shop", "a", references={"customerKey": "77"})
    world.settle()
    world.settings = world.settings.model_validate(referring())
    world.harness.crash("requests")
    world.harness.crash("executor")
    world.deleted("shop", "a")
    world.settle()
    assert world.outcomes() == {"crm/77": "VERIFIED"}


@pytest.mark.parametrize("routes", [[], [route(dry_run=True)], [route(classes={"gone": "off"})]])
def test_what_was_asked_for_over_a_route_that_is_taken_away_waits(routes: list[Any]) -> None:
    """A route is taken back by its configuration: nothing more is done over it, unless it comes back."""
    world = World(simple())
    world.systems["crm"].add("1")
    world.deleted("shop", "1", "gone")
    world.settle(0.5)
    world.settings = world.settings.model_validate({**simple(), "routes": routes})
    world.harness.crash("requests")
    world.settle(10)
    assert world.states() == {"crm/1": "COOLING"}
    assert world.systems["crm"].calls == []
    world.settings = world.settings.model_validate(simple())
    world.harness.crash("requests")
    world.settle()
    assert world.outcomes() == {"crm/1": "VERIFIED"}


@pytest.mark.parametrize("routes", [[route()], [route(), route("erp", classes={"tombstone": "off"})]])
def test_what_waits_for_its_route_takes_no_turn(routes: list[Any]) -> None:
    """Nobody is asked about it; it says why it waits, and goes on when the route is back."""
    slow = drivly(concurrency=1, rate=1)
    world = World({
        "targets": {"crm": {**slow, "enabled": False}},
        "routes": [route(), route("erp")],
        "guard": {"count": 1000, "cap": 1000},
    })
    for customer in map(str, range(10, 50)):
        world.systems["crm"].add(customer)
        world.deleted("erp", customer)
    world.settle()
    before = world.settings
    world.settings = DeletesSettings.model_validate({**before.model_dump(), "targets": {"crm": slow}, "routes": routes})
    world.harness.crash("requests")
    world.harness.crash("executor")
    world.systems["crm"].add("1")
    world.deleted("shop", "1")
    world.settle(1.5)
    assert world.outcomes() == {"crm/1": "VERIFIED"}
    asked = [record for record in world.harness.records(world.topics.requests) if b":check" in (record.key or b"")]
    assert len({record.key for record in asked}) == 1
    assert world.ledger()["crm/10"]["reason"].startswith("it waits for its route: erp>crm:same_id")
    world.decide("reject", target="crm", request=world.ledger()["crm/10"]["request"]["id"])
    world.settle()
    assert world.outcomes() == {"crm/1": "VERIFIED", "crm/10": "REJECTED"}
    world.settings = DeletesSettings.model_validate({**before.model_dump(), "targets": {"crm": drivly()}})
    world.harness.crash("requests")
    world.harness.crash("executor")
    world.settle(10)
    assert len(world.outcomes()) == 41
    assert not {outcome for key, outcome in world.outcomes().items() if key != "crm/10"} - {"VERIFIED"}


def test_what_a_route_let_pass_is_held_when_it_asks_for_approval_now() -> None:
    """An operator who sets it to `approval` stops what waits for its turn, and decides on it once."""
    world = World(simple(drivly(enabled=False)))
    for customer in ("1", "2"):
        world.systems["crm"].add(customer)
        world.deleted("shop", customer)
    world.settle()
    assert set(world.states().values()) == {"COOLING"}
    held = {"targets": {"crm": drivly()}, "routes": [route(classes={"tombstone": "approval"})]}
    world.settings = DeletesSettings.model_validate(held)
    world.harness.crash("requests")
    world.harness.crash("executor")
    world.settle(5)
    assert world.systems["crm"].calls == []
    assert set(world.states().values()) == {"HELD"}
    (plan,) = world.plans()
    assert (plan["count"], plan["reason"]) == (2, "the route asks for a person's approval")
    world.systems["crm"].fault = lambda call: Reply(422) if call.path.endswith("/2") and call.method != "GET" else None
    world.approve(plan)
    world.settle(5)
    assert world.outcomes() == {"crm/1": "VERIFIED", "crm/2": "BLOCKED"}
    world.systems["crm"].fault = lambda _: None
    world.decide("retry", target="crm", request=world.receipt("2")["request"])
    world.settle()
    assert world.states() == {"crm/1": "VERIFIED", "crm/2": "VERIFIED"}


@pytest.mark.parametrize("later", [0, 10_000], ids=["at once", "later"])
@pytest.mark.parametrize("changed", [None, {"tombstone": "approval"}, {"tombstone": "off"}, "dry run"])
def test_what_was_vouched_for_already_stops_with_its_route(changed: Any, later: int) -> None:
    """The word that it is still wanted is from before the change: a restart with another route asks anew."""
    world = World(simple(drivly(concurrency=1)))
    for customer in map(str, range(8)):
        world.systems["crm"].add(customer)
        world.deleted("shop", customer)
    world.systems["crm"].silent = lambda _: True  # the first look-up takes the only slot
    while not any(record.value and header(record.headers, KIND) == "vouch" for record in requests_topic(world)):
        world.harness.advance(50)
    world.harness.advance(200)
    assert world.systems["crm"].deletes() == []
    new = route(dry_run=True) if changed == "dry run" else route(classes=changed or {})
    settings = {**simple(drivly(concurrency=1)), "routes": [] if changed is None else [new]}
    world.settings = DeletesSettings.model_validate(settings)
    world.systems["crm"].silent = lambda _: False
    world.harness.now += later
    world.harness.crash("requests")
    world.harness.crash("executor")
    world.settle(20)
    assert world.systems["crm"].deletes() == []
    asks = changed == {"tombstone": "approval"}
    assert set(world.states().values()) == {"HELD" if asks else "COOLING"}


def requests_topic(world: World) -> list[Record]:
    """Return everything on the requests topic."""
    return world.harness.records(world.topics.requests)


# Replays


def test_a_replay_never_deletes_unless_it_says_so() -> None:
    """A replayed deletion is skipped; one with deletes makes the request again, once, and under the guard."""
    world = World(simple(guard={"count": 0, "cap": 0}))
    world.systems["crm"].add("1")
    world.deleted("shop", "1", extra=[("rollcall-replay", b"replay-1")])
    world.settle()
    assert list(world.requests()) == []
    assert "replay" in skipped(world, "requests")
    world.sequences[b"shop/1"] -= 1
    world.deleted("shop", "1", extra=[("rollcall-replay", b"replay-2;with-deletes")])
    world.settle()
    assert world.states() == {"crm/1": "HELD"}
    world.approve(*world.plans())
    world.settle()
    world.sequences[b"shop/1"] -= 1
    world.deleted("shop", "1", extra=[("rollcall-replay", b"replay-3;with-deletes")])
    world.settle()
    assert world.outcomes() == {"crm/1": "VERIFIED"}
    assert len(world.receipts()) == 1


def test_what_was_rehearsed_can_be_replayed_and_done() -> None:
    """A dry run is another request than the same deletion in earnest: `dry_run` off, and a replay, carry it out."""
    world = World({"targets": {"crm": drivly()}, "routes": [route(dry_run=True)]})
    world.systems["crm"].add("1")
    world.deleted("shop", "1")
    world.settle()
    assert world.outcomes() == {"crm/1": "DRY_RUN"}
    world.settings = DeletesSettings.model_validate(simple())
    world.harness.crash("requests")
    world.harness.crash("executor")
    world.sequences[b"shop/1"] -= 1
    world.deleted("shop", "1", extra=[("rollcall-replay", b"replay-1;with-deletes")])
    world.settle()
    assert sorted(receipt["outcome"] for receipt in world.receipts()) == ["DRY_RUN", "VERIFIED"]
    assert world.states() == {"crm/1": "VERIFIED"}


def test_a_replayed_deletion_of_one_who_is_back_is_no_request() -> None:
    """It is an older version than the one that is known."""
    world = World(simple())
    world.systems["crm"].add("1")
    world.deleted("shop", "1")
    world.settle()
    world.systems["crm"].add("1")
    world.live("shop", "1")
    world.settle()
    world.sequences[b"shop/1"] = 0
    world.deleted("shop", "1", extra=[("rollcall-replay", b"replay-1;with-deletes")])
    world.settle()
    assert world.systems["crm"].deletes() == ["1"]
    assert len(world.receipts()) == 1


# Echoes


def chain() -> dict[str, Any]:
    """Return settings in which a target is a source too, routed on."""
    return {"targets": {"crm": drivly(), "erp": drivly()}, "routes": [route(), route("crm", "erp")]}


@pytest.mark.parametrize("seed", range(8))
def test_our_own_delete_coming_back_starts_nothing(seed: int) -> None:
    """The target is a source too, and routed on: its deletion event is matched with the ledger, and is reported."""
    world = World(chain(), seed=seed)
    world.systems["crm"].add("1")
    world.systems["erp"].add("1")
    world.live("crm", "1")
    world.deleted("shop", "1")

    def publish(call: Call, reply: Reply) -> Reply:
        if call.method == "DELETE":
            world.deleted("crm", "1", "gone")
        return reply

    world.systems["crm"].after = publish
    world.settle()
    assert world.outcomes() == {"crm/1": "VERIFIED"}
    assert world.systems["erp"].calls == []
    echo = world.status("echo/crm")
    assert (echo["count"], echo["last"]["origin"]) == (1, "1")


def test_an_echo_is_known_after_a_crash_in_the_middle_of_the_call() -> None:
    """The answer was lost, but the ledger was written first."""
    world = World(chain())
    world.systems["crm"].add("1")
    world.systems["erp"].add("1")
    world.systems["crm"].silent = lambda call: call.method == "DELETE"
    world.deleted("shop", "1")
    world.settle()
    world.deleted("crm", "1", "gone")
    world.harness.crash("executor")
    world.harness.crash("requests")
    world.settle()
    assert world.outcomes() == {"crm/1": "VERIFIED"}
    assert world.systems["erp"].calls == []


@pytest.mark.parametrize(("hours", "state"), [(0, "HELD"), (23, "HELD"), (25, "VERIFIED")])
def test_an_echo_that_nobody_remembers_is_held_for_a_day(hours: int, state: str) -> None:
    """The executor's state was lost between our DELETE and its echo: a person decides, within the documented time."""
    world = World(chain())
    world.systems["crm"].add("1")
    world.systems["erp"].add("1")
    world.deleted("shop", "1")
    world.settle()
    world.harness.forget("executor")
    world.harness.now += hours * 60 * MINUTE
    world.deleted("crm", "1", "gone")
    world.settle()
    assert world.states()["erp/1"] == state
    if state == "HELD":
        assert "echo" in world.ledger()["erp/1"]["reason"]
        assert world.systems["erp"].calls == []


def test_a_deletion_of_the_same_customer_later_on_is_no_echo() -> None:
    """Deleted by us, created anew there, deleted by somebody else: that deletion is carried on."""
    world = World(chain())
    world.systems["crm"].add("1")
    world.systems["erp"].add("1")
    world.deleted("shop", "1")
    world.settle()
    world.deleted("crm", "1")
    world.settle()
    world.live("crm", "1")
    world.settle()
    world.deleted("crm", "1")
    world.settle()
    assert world.outcomes() == {"crm/1": "VERIFIED", "erp/1": "VERIFIED"}


def test_a_deletion_that_may_be_an_echo_is_held() -> None:
    """Published as live after our DELETE, and then as deleted: it may be either, so a person decides."""
    world = World(chain())
    world.systems["crm"].add("1")
    world.systems["erp"].add("1")
    world.deleted("shop", "1")
    world.settle()
    world.live("crm", "1")
    world.deleted("crm", "1")
    world.settle()
    assert world.states()["erp/1"] == "HELD"
    assert "echo" in world.ledger()["erp/1"]["reason"]
    assert world.systems["erp"].calls == []


@pytest.mark.parametrize("seen", [True, False], ids=["seen live", "not seen"])
@pytest.mark.parametrize("edited", [True, False], ids=["superseded", "failed"])
def test_a_deletion_long_after_a_delete_of_ours_whose_outcome_is_unknown_is_held(*, edited: bool, seen: bool) -> None:
    """It may not have been carried out at all: the customer was published as live since, or a day has passed."""
    world = World(chain())
    crm = world.systems["crm"]
    for system in world.systems.values():
        system.add("1")
    world.live("crm", "1")
    world.settle()

    def lost(call: Call) -> Reply | None:
        if call.method != "DELETE":
            return None
        if edited:
            world.harness.now += 1000
            crm.rows["1"]["updatedAt"] = rfc3339(world.harness.now)
        return Reply(500)

    crm.fault = lost
    world.deleted("shop", "1")
    world.settle(60)
    assert world.outcomes() == {"crm/1": "SUPERSEDED" if edited else "FAILED"}
    if seen:
        world.live("crm", "1")
    else:
        world.harness.now += 25 * 60 * MINUTE
    world.deleted("crm", "1")
    world.settle()
    assert world.states()["erp/1"] == "HELD"
    assert "echo" in world.ledger()["erp/1"]["reason"]
    assert world.systems["erp"].calls == []


def test_a_customer_that_somebody_else_deleted_first_is_no_echo_of_ours() -> None:
    """Where our DELETE was answered with 404, the event that follows is that of the other one, and is carried on."""
    world = World({**chain(), "targets": {"crm": http(canary_id=None, gone=[404]), "erp": drivly()}})
    world.systems["erp"].add("1")
    world.deleted("shop", "1")
    world.settle()
    world.deleted("crm", "1")
    world.settle()
    assert world.outcomes()["crm/1"] == "BLOCKED"  # a 404 without a canary proves nothing
    world = World({**chain(), "targets": {"crm": drivly(), "erp": drivly()}})
    world.systems["erp"].add("1")
    world.systems["crm"].add("1")

    def vanish(call: Call) -> Reply | None:
        if call.method == "DELETE":
            world.systems["crm"].rows.pop("1", None)
        return None

    world.systems["crm"].fault = vanish
    world.deleted("shop", "1")
    world.settle()
    world.deleted("crm", "1")
    world.settle()
    assert world.outcomes() == {"crm/1": "ALREADY_ABSENT", "erp/1": "VERIFIED"}


@pytest.mark.parametrize("routes", [["erp"], ["erp", "mail"]])
def test_a_deletion_that_is_read_while_our_delete_finds_nobody_is_carried_on(routes: list[str]) -> None:
    """Somebody else was faster, and the event faster than the answer: until that is there, it may be our echo."""
    targets = {name: drivly() for name in ["crm", *routes]}
    world = World({"targets": targets, "routes": [route(), *(route("crm", name) for name in routes)]})
    for system in world.systems.values():
        system.add("1")
    world.live("crm", "1")

    def vanish(call: Call) -> Reply | None:
        if call.method == "DELETE" and world.systems["crm"].rows.pop("1", None):
            world.deleted("crm", "1")
        return None

    world.systems["crm"].fault = vanish
    world.deleted("shop", "1")
    world.settle()
    assert world.outcomes() == {"crm/1": "ALREADY_ABSENT", **{f"{name}/1": "VERIFIED" for name in routes}}


NOT_DONE = [Reply(409), Reply(422), Reply(401), Reply(429), Reply(503), Reply(None, error="connection", sent=False)]


@pytest.mark.parametrize("refused", NOT_DONE, ids=["409", "422", "401", "429", "503", "not sent"])
def test_a_deletion_after_a_delete_of_ours_that_was_not_carried_out_is_no_echo(refused: Reply) -> None:
    """The target has said that it did nothing: what its system deletes later is its own, and is carried on."""
    world = World(chain())
    for system in world.systems.values():
        system.add("1")
    world.live("crm", "1")
    world.live("shop", "1")
    world.settle()
    world.systems["crm"].fault = lambda call: refused if call.method == "DELETE" else None
    world.deleted("shop", "1")
    world.settle()
    world.live("shop", "1")
    world.settle()
    assert world.states()["crm/1"] in {"BLOCKED", "SUPERSEDED", "FAILED"}
    world.systems["crm"].fault = lambda _: None
    del world.systems["crm"].rows["1"]
    world.deleted("crm", "1")
    world.settle()
    assert world.states()["erp/1"] == "VERIFIED"


@pytest.mark.parametrize("done", [True, False])
def test_an_earlier_delete_of_ours_is_still_known_after_one_that_was_not_carried_out(*, done: bool) -> None:
    """Done, or lost without an answer: its echo may come yet, whatever the next one was answered."""
    world = World({**chain(), "routes": [route(), route("web"), route("crm", "erp")]})
    for system in world.systems.values():
        system.add("1")
    answers = iter([] if done else [Reply(500)])

    def fault(call: Call) -> Reply | None:
        return next(answers, None if done else Reply(422)) if call.method == "DELETE" else None

    world.systems["crm"].fault = fault
    world.deleted("shop", "1")
    world.settle()
    if done:  # another customer has the id, and its deletion is refused
        world.systems["crm"].add("1")
        world.systems["crm"].fault = lambda call: Reply(422) if call.method == "DELETE" else None
        world.deleted("web", "1")
        world.settle()
    statuses = [attempt["status"] for receipt in world.receipts() for attempt in receipt["attempts"]]
    assert sorted(statuses) == sorted([200 if done else 500, 422])
    world.deleted("crm", "1")
    world.settle()
    assert "erp/1" not in world.states()


# The fence


def test_a_customer_that_is_back_is_not_deleted() -> None:
    """A newer live version, published before the call, supersedes the request."""
    world = World(simple())
    world.systems["crm"].add("1")
    world.deleted("shop", "1")
    world.settle(0.5)
    world.live("shop", "1")
    world.settle()
    assert world.outcomes() == {"crm/1": "SUPERSEDED"}
    assert world.systems["crm"].deletes() == []


def test_delete_and_re_create_in_either_order_end_as_the_source_has_it() -> None:
    """Deleted, back and deleted again: only the last deletion is carried out, once."""
    world = World(simple())
    world.systems["crm"].add("1")
    world.deleted("shop", "1")
    world.live("shop", "1")
    world.settle(0.2)
    last = world.deleted("shop", "1")
    world.settle()
    receipts = {receipt["sequence"]: receipt["outcome"] for receipt in world.receipts()}
    assert receipts == {1: "SUPERSEDED", last: "VERIFIED"}
    assert world.systems["crm"].deletes() == ["1"]


def test_a_return_is_seen_by_a_first_stage_that_has_forgotten_what_it_asked_for() -> None:
    """Its state was lost: it does not know the request to call it off, and does not vouch for it either."""
    world = World(simple())
    world.systems["crm"].add("1")
    world.deleted("shop", "1", "absent")
    world.settle()
    world.harness.forget("requests")
    world.settle()
    world.live("shop", "1")
    world.settle()
    assert world.states() == {"crm/1": "HELD"}
    world.approve(*world.plans())
    world.settle()
    assert world.outcomes() == {"crm/1": "SUPERSEDED"}
    assert world.systems["crm"].deletes() == []


def test_a_return_that_is_published_during_the_call_is_too_late_and_said_so() -> None:
    """Once EXECUTING is committed the call goes out; what came later does not take it back."""
    world = World(simple())
    world.systems["crm"].add("1")

    def back(call: Call) -> Reply | None:
        if call.method == "DELETE":
            world.live("shop", "1")
        return None

    world.systems["crm"].fault = back
    world.deleted("shop", "1")
    world.settle()
    assert world.outcomes() == {"crm/1": "VERIFIED"}
    assert "late" in skipped(world, "executor")


def test_a_change_that_the_look_up_shows_calls_it_off() -> None:
    """Somebody worked on the customer at the target after the source had deleted it."""
    world = World(simple())
    world.deleted("shop", "1")
    world.systems["crm"].add("1", updated=world.harness.now + 1)
    world.settle()
    assert world.outcomes() == {"crm/1": "SUPERSEDED"}
    assert world.systems["crm"].lookups() == ["1"]
    assert world.systems["crm"].deletes() == []


def test_a_change_at_the_target_that_was_published_calls_it_off_where_there_is_no_look_up() -> None:
    """The target is a source too: its newer version counts although the target cannot be asked."""
    world = World(simple(http()))
    world.systems["crm"].add("1")
    world.deleted("shop", "1")
    world.settle(0.2)
    world.live("crm", "1")
    world.settle()
    assert world.outcomes() == {"crm/1": "SUPERSEDED"}
    assert world.systems["crm"].calls == []


def test_a_look_up_of_somebody_else_is_not_taken_for_the_customer() -> None:
    """An answer with another id blocks the request."""
    world = World(simple())
    other = Reply(200, body=orjson.dumps({"id": "2"}))
    world.systems["crm"].fault = lambda call: other if call.path == "/customers/1" else None
    world.deleted("shop", "1")
    world.settle()
    assert world.outcomes() == {"crm/1": "BLOCKED"}
    assert world.systems["crm"].deletes() == []


def test_the_executor_waits_for_a_first_stage_that_lags() -> None:
    """With the requests stage down, nothing is deleted, whatever was approved before: its word is asked just before."""
    world = World(simple())
    world.systems["crm"].add("1")
    world.deleted("shop", "1")
    world.harness.work(40)
    paused = [task for task in world.harness._tasks if task.handler.stage == "requests"]
    world.settle(0.2)
    world.harness._tasks = [task for task in world.harness._tasks if task not in paused]
    world.settle(30)
    assert world.systems["crm"].deletes() == []
    world.live("shop", "1")
    world.harness._tasks += paused
    world.harness.crash("requests")
    world.settle()
    assert world.outcomes() == {"crm/1": "SUPERSEDED"}


# Ids


@pytest.mark.parametrize("bad", ["12abc", "../13", "12 ", "012", "", "..", "1?where={}", "a/b", "%31"])
def test_an_id_that_the_target_does_not_give_out_is_never_sent(bad: str) -> None:
    """A loosely parsed id could delete somebody else: the request ends blocked."""
    world = World(referring())
    world.live("shop", "a", references={"customerKey": bad})
    world.deleted("shop", "a")
    world.settle()
    assert [receipt["outcome"] for receipt in world.receipts()] == ["BLOCKED"]
    assert world.systems["crm"].calls == []


def test_an_id_is_encoded_in_the_path() -> None:
    """A configured target may have ids with any characters: they stay one segment of the path."""
    world = World({"targets": {"crm": http(id_pattern=".+")}, "routes": [route()]})
    paths: list[str] = []

    def note(call: Call) -> Reply | None:
        paths.append(call.path)
        return Reply(200)

    world.systems["crm"].fault = note
    world.deleted("shop", "a/../b?x=1#y")
    world.settle()
    assert paths == ["/customers/a%2F..%2Fb%3Fx%3D1%23y"]


# Duplicates


def doubles(**more: Any) -> dict[str, Any]:
    """Return settings in which duplicates of one system are deleted there, by themselves."""
    return {"targets": {"crm": drivly()}, "routes": [route("crm", classes={"duplicate": "auto"}, **more)]}


def doubled(**link: Any) -> World:
    """Return a world in which customer 2 is a duplicate of customer 1."""
    world = World(doubles())
    for customer in ("1", "2"):
        world.systems["crm"].add(customer)
        world.live("crm", customer)
    world.settle()
    world.clustered("crm/2", "crm/1", **link)
    world.clustered("crm/1", "crm/1", **link)
    return world


def test_a_sure_duplicate_is_deleted_after_its_cluster_has_cooled() -> None:
    """Not before 15 minutes without a change of the cluster."""
    world = doubled()
    world.settle(14)
    assert world.systems["crm"].calls == []
    world.settle(3)
    assert world.outcomes() == {"crm/2": "VERIFIED"}
    assert world.receipt("2")["evidence"]["winner"] == "crm/1"


def test_a_duplicate_that_changes_while_it_cools_cools_anew() -> None:
    """Its cluster's record was made of an older version: the search needs time to say that the two have parted."""
    world = doubled()
    world.settle(14)
    world.systems["crm"].add("2", world.harness.now)
    world.live("crm", "2")
    world.settle(14)
    assert world.systems["crm"].calls == []
    assert world.outcomes() == {"crm/2": "SUPERSEDED"}
    world.settle(3)
    assert sorted(receipt["outcome"] for receipt in world.receipts()) == ["SUPERSEDED", "VERIFIED"]


def test_a_duplicate_that_has_changed_before_its_cluster_was_published_is_superseded() -> None:
    """What the poller has not seen yet, the search has not either; the look-up shows it."""
    world = World(doubles())
    for customer in ("1", "2"):
        world.systems["crm"].add(customer)
        world.live("crm", customer)
    world.settle()
    world.systems["crm"].add("2", world.harness.now)
    world.settle()
    world.clustered("crm/2", "crm/1")
    world.settle(30)
    assert world.outcomes() == {"crm/2": "SUPERSEDED"}
    assert world.systems["crm"].deletes() == []


def test_a_duplicate_waits_for_a_person_by_default() -> None:
    """Without a word in the configuration, nobody is deleted for being a duplicate."""
    world = World({**doubles(), "routes": [route("crm")]})
    world.systems["crm"].add("2")
    for customer in ("1", "2"):
        world.live("crm", customer)
    world.clustered("crm/2", "crm/1")
    world.settle(30)
    assert world.states() == {"crm/2": "HELD"}


@pytest.mark.parametrize(
    "link",
    [
        {"generic": True},
        {"score": 17.0},
        {"fields": {"given": 5.0, "family": 6.0}, "keys": []},
        {"a": "crm/3"},
    ],
)
def test_an_unsure_duplicate_is_no_request(link: dict[str, Any]) -> None:
    """Generic support, too low a score, one field only, or a path over a third customer."""
    world = doubled(**link)
    world.settle(30)
    assert list(world.requests()) == []


def test_an_exact_unique_id_is_sure_whatever_the_score() -> None:
    """The other way to be sure."""
    world = doubled(score=12.0, exact_id=True, fields={}, keys=["identifier"])
    world.settle(30)
    assert world.outcomes() == {"crm/2": "VERIFIED"}


def test_a_duplicate_across_sources_is_no_request() -> None:
    """Two systems may each have the customer."""
    world = World(doubles())
    world.live("crm", "2")
    world.clustered("crm/2", "shop/1")
    world.settle(30)
    assert list(world.requests()) == []


@pytest.mark.parametrize("relation", ["deals", "leads", "insurancePolicies"])
def test_a_duplicate_with_relations_is_blocked(relation: str) -> None:
    """They would be orphaned."""
    world = doubled()
    world.systems["crm"].add("2", START, **{relation: [7]})
    world.settle(30)
    assert world.outcomes() == {"crm/2": "BLOCKED"}
    assert relation in world.receipt("2")["reason"]
    assert world.systems["crm"].deletes() == []


def test_a_duplicate_whose_relations_the_look_up_does_not_show_is_blocked() -> None:
    """A configured relation that is not there is not empty; for any other deletion it does not matter."""
    target = with_lookup(relations=["orders"])
    world = World({**doubles(), "targets": {"crm": target}})
    for customer in ("1", "2"):
        world.systems["crm"].add(customer)
        world.live("crm", customer)
    world.clustered("crm/2", "crm/1")
    world.settle(30)
    assert world.outcomes() == {"crm/2": "BLOCKED"}
    assert "orders" in world.receipt("2")["reason"]
    world = World(simple(target))
    world.systems["crm"].add("1")
    world.deleted("shop", "1")
    world.settle()
    assert world.outcomes() == {"crm/1": "VERIFIED"}


def test_a_duplicate_whose_cluster_changes_while_it_cools_is_superseded() -> None:
    """No longer a duplicate, or another one: the first request is called off."""
    world = doubled()
    world.settle(10)
    world.clustered("crm/2", None)
    world.settle(30)
    assert world.outcomes() == {"crm/2": "SUPERSEDED"}


def test_a_duplicate_whose_cluster_is_again_what_it_was_is_asked_for_again() -> None:
    """After another one in between, which had called the first request off; and it cools anew."""
    world = doubled()
    world.settle(5)
    world.clustered("crm/2", "crm/1", size=3)
    world.settle(5)
    world.clustered("crm/2", "crm/1")
    world.settle(14)
    assert world.systems["crm"].deletes() == []
    world.settle(5)
    assert sorted(receipt["outcome"] for receipt in world.receipts()) == ["SUPERSEDED", "SUPERSEDED", "VERIFIED"]
    assert world.systems["crm"].deletes() == ["2"]


def test_a_duplicate_whose_winner_goes_is_superseded() -> None:
    """Of two, one has to stay."""
    world = doubled()
    world.settle(10)
    world.deleted("crm", "1")
    world.settle(30)
    assert world.outcomes() == {"crm/2": "SUPERSEDED"}
    assert world.systems["crm"].deletes() == []


def test_a_winner_is_not_deleted_while_its_loser_is_pending() -> None:
    """A chain of duplicates is not deleted from both ends."""
    world = World({**doubles(), "duplicates": {"cooling": "1m"}})
    for customer in ("1", "2", "3"):
        world.systems["crm"].add(customer)
        world.live("crm", customer)
    world.clustered("crm/3", "crm/2")
    world.clustered("crm/2", "crm/1")
    world.settle(30)
    assert world.systems["crm"].deletes() == []
    assert {"crm/2", "crm/3"} == {key for key, state in world.states().items() if state == "COOLING"}


def doubled_and_routed(*, delete: bool = False) -> World:
    """Return a world in which 2 is a duplicate of 1, which the shop may have deleted."""
    more = doubles()
    world = World({**more, "routes": [*more["routes"], route()]})
    for customer in ("1", "2"):
        world.systems["crm"].add(customer)
        world.live("crm", customer)
    world.live("shop", "1")
    world.settle()
    world.clustered("crm/2", "crm/1")
    world.clustered("crm/1", "crm/1")
    world.settle(5)
    if delete:
        world.deleted("shop", "1")
        world.settle(5)
    return world


@pytest.mark.parametrize("own", [True, False])
def test_a_duplicate_whose_winner_is_known_to_be_gone_stays_before_its_poller_notices(*, own: bool) -> None:
    """By our own DELETE, or by a look-up that found nobody: one of the two has to stay."""
    world = doubled_and_routed()
    if not own:
        del world.systems["crm"].rows["1"]
    world.deleted("shop", "1")
    world.settle(30)
    assert world.outcomes() == {"crm/1": "VERIFIED" if own else "ALREADY_ABSENT", "crm/2": "SUPERSEDED"}
    assert set(world.systems["crm"].rows) == {"2", "999999"}


@pytest.mark.parametrize("before", [None, 404, 500], ids=["at once", "404 at first", "500 at first"])
def test_a_duplicate_whose_winner_is_not_at_the_target_stays(before: int | None) -> None:
    """Somebody has merged the two the other way round, and no poller has seen it: it is looked up before the DELETE."""
    world = doubled()
    world.settle(10)
    del world.systems["crm"].rows["1"]
    if before is not None:
        world.systems["crm"].fault = lambda _: Reply(before)
    world.settle(20)
    assert world.systems["crm"].deletes() == []
    world.systems["crm"].fault = lambda _: None
    world.settle(30)
    assert world.outcomes() == {"crm/2": "SUPERSEDED"}
    assert "to stay" in world.receipt("2")["reason"]
    assert set(world.systems["crm"].rows) == {"2", "999999"}


def test_a_duplicate_is_deleted_although_its_winner_was_not_found_while_the_target_was_down() -> None:
    """A 404 for everything, or one at its end, says nothing of the winner."""
    world = doubled()
    world.systems["crm"].fault = lambda _: Reply(404)
    world.settle(20)
    assert world.status("target/crm")["state"] == "paused"
    missed: list[Call] = []

    def once_more(call: Call) -> Reply | None:
        if call.path.endswith("/1") and not missed:
            missed.append(call)
            return Reply(404)
        return None

    world.systems["crm"].fault = once_more
    world.settle(30)
    assert missed
    assert world.outcomes() == {"crm/2": "VERIFIED"}
    assert set(world.systems["crm"].rows) == {"1", "999999"}


@pytest.mark.parametrize("answer", [Reply(200, body=b'{"id": "7"}'), Reply(404)], ids=["somebody else", "none such"])
def test_a_duplicate_whose_winner_cannot_be_told_goes_to_a_person(answer: Reply) -> None:
    """An answer that is not about the winner, or a 404 of a target without a canary, is no word that it stays."""
    canary = {} if answer.status == 404 else {"canary_id": "999999"}
    target = http(lookup="/customers/{id}", id_field="id", **canary)
    world = World({**doubles(), "targets": {"crm": target}})
    for customer in ("1", "2"):
        world.systems["crm"].add(customer)
        world.live("crm", customer)
    world.clustered("crm/2", "crm/1")
    world.systems["crm"].fault = lambda call: answer if call.path.endswith("/1") else None
    world.settle(40)
    assert world.outcomes() == {"crm/2": "BLOCKED"}
    assert world.receipt("2")["reason"].startswith("of the customer that was to stay: ")
    assert world.systems["crm"].deletes() == []


@pytest.mark.parametrize("order", ["12", "21"])
def test_a_canary_vouches_for_one_of_the_two_look_ups(order: str) -> None:
    """One that showed that the target knows of a 404 for the one says nothing of the other's."""
    world, missed = doubled(), ""

    def once_each(call: Call) -> Reply | None:
        nonlocal missed
        if call.method == "GET" and missed != order and call.path.endswith(f"/{order[len(missed)]}"):
            missed += order[len(missed)]
            return Reply(404)
        return None

    world.systems["crm"].fault = once_each
    world.settle(40)
    assert missed == order
    assert world.outcomes() == {"crm/2": "VERIFIED"}


def test_a_duplicate_whose_winner_is_there_anew_is_deleted() -> None:
    """What was published of the winner is newer than our DELETE of it."""
    world = doubled_and_routed(delete=True)
    world.systems["crm"].add("1", world.harness.now)
    world.live("crm", "1")
    world.settle(30)
    assert world.outcomes() == {"crm/1": "VERIFIED", "crm/2": "VERIFIED"}
    assert set(world.systems["crm"].rows) == {"1", "999999"}


def test_a_winner_that_is_to_go_goes_before_its_duplicate_whatever_is_under_way() -> None:
    """Asked for during the look-up of the duplicate, which is not deleted then."""
    world = doubled_and_routed()

    def ask(call: Call) -> Reply | None:
        if call.path.endswith("/2") and call.method == "GET" and not list(world.requests())[1:]:
            world.decide("erase", customer="crm/1")
            world.harness.work(400)
        return None

    world.systems["crm"].fault = ask
    world.settle(30)
    assert world.outcomes() == {"crm/1": "VERIFIED", "crm/2": "SUPERSEDED"}
    assert world.systems["crm"].deletes() == ["1"]


def test_a_winner_waits_until_the_delete_of_its_duplicate_is_through() -> None:
    """The two are never deleted at once, neither knowing of the other."""
    world = doubled_and_routed()
    states: list[str] = []

    def look(call: Call) -> Reply | None:
        if call.method == "DELETE" and call.path.endswith("/2"):
            world.decide("erase", customer="crm/1")
            world.settle(0.1)
            states.append(world.states()["crm/1"])
        return None

    world.systems["crm"].fault = look
    world.settle(30)
    assert states == ["COOLING"]
    assert world.systems["crm"].deletes() == ["2", "1"]


def test_a_word_that_says_nothing_of_a_winner_known_to_be_gone_is_not_taken() -> None:
    """An older requests stage, during a rolling update, knows only what its poller has seen."""
    world = doubled_and_routed(delete=True)
    sent = world.harness._append

    def older(topic: str, key: bytes, value: bytes | None, *more: Any) -> None:
        if topic == world.topics.requests and value is not None and b'"since"' in value:
            value = orjson.dumps({k: v for k, v in orjson.loads(value).items() if k != "since"})
        sent(topic, key, value, *more)

    world.harness._append = older  # type: ignore[method-assign]
    world.settle(30)
    assert world.systems["crm"].deletes() == ["1"]
    assert world.states()["crm/2"] == "COOLING"


def test_a_duplicate_at_a_target_without_look_up_is_blocked() -> None:
    """Its relations cannot be seen."""
    world = World({**doubles(), "targets": {"crm": http()}})
    for customer in ("1", "2"):
        world.live("crm", customer)
    world.clustered("crm/2", "crm/1")
    world.settle(30)
    assert world.outcomes() == {"crm/2": "BLOCKED"}


# Erasures


def test_an_erasure_reaches_its_own_system_and_what_is_routed_from_it() -> None:
    """It is exempt from the guard, and its receipt names the command and who gave it."""
    world = World({**chain(), "guard": {"count": 0, "cap": 0}})
    world.systems["crm"].add("1")
    world.systems["erp"].add("1")
    sequence = world.live("crm", "1", at=world.harness.now - MINUTE)
    command = world.decide("erase", customer="crm/1", sequence=sequence)
    world.settle()
    assert world.outcomes() == {"crm/1": "VERIFIED", "erp/1": "VERIFIED"}
    assert world.receipt("1", "erp")["evidence"]["command"] == command
    assert world.answered(command)[0] == "done"


def test_an_erasure_of_a_customer_that_has_changed_since_it_was_shown_is_refused() -> None:
    """The operator has seen another version."""
    world = World(chain())
    shown = world.live("crm", "1")
    world.live("crm", "1")
    world.settle()
    command = world.decide("erase", customer="crm/1", sequence=shown)
    world.settle()
    assert world.answered(command)[0] == "refused"
    assert list(world.requests()) == []


@pytest.mark.parametrize("seed", range(8))
def test_an_erasure_that_is_read_before_what_the_operator_has_seen_waits_for_that(seed: int) -> None:
    """Its references would not be known, and that version would be taken for an old one afterwards."""
    settings = {"targets": {"crm": drivly(), "mail": drivly()}}
    by_reference = route("crm", "mail", link="reference", reference="customerKey")
    world = World({**settings, "routes": [by_reference]}, seed=seed)
    world.systems["crm"].add("1")
    world.systems["mail"].add("77")
    sequence = world.live("crm", "1", references={"customerKey": "77"})
    world.decide("erase", customer="crm/1", sequence=sequence)
    world.settle()
    assert world.outcomes() == {"crm/1": "VERIFIED", "mail/77": "VERIFIED"}


def test_an_erasure_does_not_wait_for_ever_for_a_version_that_does_not_come() -> None:
    """What was published while there was no target was never read: its own system is reached all the same."""
    world = World(chain())
    world.systems["crm"].add("1")
    command = world.decide("erase", customer="crm/1", sequence=3)
    begun = world.harness.now
    world.settle()
    assert min(request["asked_at"] for request in world.requests()) >= begun + world.settings.catch_up * 1000
    assert world.answered(command)[0] == "done"
    assert world.outcomes()["crm/1"] == "VERIFIED"


def test_an_erasure_that_nothing_can_carry_out_is_refused() -> None:
    """Without a target the operator is told, not left to believe that it was done."""
    world = World(simple())
    command = world.decide("erase", customer="erp/1")
    world.settle()
    assert world.answered(command)[0] == "refused"
    assert "no target" in world.answered(command)[1]


# Undo copies


def test_an_undo_copy_is_kept_encrypted_and_dropped_after_its_time() -> None:
    """The newest state carries it for the configured time, readable with the key alone."""
    undo = Undo(KEY)
    world = World({**simple(), "undo_days": 0.01}, undo=undo)
    world.systems["crm"].add("1", email="jane@example.com")
    world.deleted("shop", "1")
    world.settle(5)
    entry = world.ledger()["crm/1"]
    assert entry["state"] == "VERIFIED"
    assert "jane" not in orjson.dumps(world.ledger()).decode()
    copy = orjson.loads(undo.decrypt(entry["request"]["id"], "crm/1", entry["undo"]))
    assert copy["email"] == "jane@example.com"
    assert world.receipt("1")["undo_copy"] is True
    world.settle(15)
    assert world.ledger()["crm/1"]["undo"] is None
    assert world.states() == {"crm/1": "VERIFIED"}


@pytest.mark.parametrize("minutes", [0, 5], ids=["at once", "later"])
def test_an_undo_copy_is_there_although_a_newer_request_came(minutes: int) -> None:
    """It goes with whatever is published of the customer, until its day."""
    world = World({**simple(), "routes": [route(), route("erp")], "undo_days": 0.01}, undo=Undo(KEY))
    world.systems["crm"].add("1", email="jane@example.com")
    world.deleted("shop", "1")
    world.settle(minutes)
    world.deleted("erp", "1")
    world.settle(5)
    by_outcome = {receipt["outcome"]: receipt for receipt in world.receipts()}
    assert set(by_outcome) == {"VERIFIED", "ALREADY_ABSENT"}
    assert by_outcome["VERIFIED"]["undo_copy"]
    deletions, receipts = (world.harness.records(name) for name in (world.topics.deletions, world.topics.receipts))
    assert operate.show(deletions, receipts, "crm/1", Undo(KEY))["copy"]["email"] == "jane@example.com"
    world.settle(20)
    assert world.ledger()["crm/1"]["undo"] is None
    assert not [key for task in world.harness._tasks for key in task.tx.data if key[:2] in {b"j/", b"u/"}]


def test_an_undo_copy_is_dropped_by_an_erasure() -> None:
    """Of one who wants to be forgotten nothing is kept."""
    world = World({**simple(), "routes": [route(), route("crm", "crm")]}, undo=Undo(KEY))
    world.systems["crm"].add("1")
    world.deleted("shop", "1")
    world.settle(5)
    assert world.ledger()["crm/1"]["undo"] is not None
    world.decide("erase", customer="crm/1")
    world.settle(5)
    assert world.ledger()["crm/1"]["undo"] is None
    world.deleted("shop", "1")
    world.settle(5)
    assert world.ledger()["crm/1"]["undo"] is None
    assert not [key for task in world.harness._tasks for key in task.tx.data if key.startswith(b"j/")]


def test_an_undo_copy_of_a_deletion_that_still_waits_is_dropped_by_an_erasure_too() -> None:
    """The target has put its DELETE off: the copy that was made before it goes, wherever it is."""
    world = World(simple(), undo=Undo(KEY))
    world.systems["crm"].add("1", email="ada@example.com")
    answers = iter([Reply(429, {"retry-after": "600"})])
    world.systems["crm"].fault = lambda call: next(answers, None) if call.method == "DELETE" else None
    world.deleted("shop", "1")
    world.settle()
    assert world.ledger()["crm/1"]["undo"] is not None
    world.decide("erase", customer="crm/1")
    world.settle(60)
    assert {row["authority"]: row["outcome"] for row in world.receipts()}["erasure"] == "VERIFIED"
    assert world.ledger()["crm/1"]["undo"] is None
    kept = [value for task in world.harness._tasks for key, value in task.tx.data.items() if key.startswith(b"r/")]
    assert not [value for value in kept if orjson.loads(value).get("undo")]


def test_an_undo_copy_that_ends_while_a_newer_request_waits_is_dropped_there_too() -> None:
    """What waits is published without it."""
    routes = [route(), route("erp", classes={"gone": "approval"})]
    world = World({**simple(), "routes": routes, "undo_days": 0.01}, undo=Undo(KEY))
    world.systems["crm"].add("1")
    world.deleted("shop", "1")
    world.settle(3)
    world.deleted("erp", "1", "gone")
    world.settle(3)
    entry = world.ledger()["crm/1"]
    assert (entry["state"], entry["undo"] is None, entry["undo_of"] == entry["request"]["id"]) == ("HELD", False, False)
    world.settle(20)
    entry = world.ledger()["crm/1"]
    assert (entry["state"], entry["undo"], entry["undo_of"]) == ("HELD", None, None)


@pytest.mark.parametrize("target", [{"undo": False}, {}])
def test_no_undo_copy_is_kept_where_none_is_wanted_and_never_of_an_erasure(target: dict[str, Any]) -> None:
    """Opted out by target; and what is erased must be gone."""
    world = World({**simple(drivly(**target)), "routes": [route(), route("crm", "crm")]}, undo=Undo(KEY))
    world.systems["crm"].add("1")
    if target:
        world.deleted("shop", "1")
    else:
        world.decide("erase", customer="crm/1")
    world.settle()
    assert world.outcomes() == {"crm/1": "VERIFIED"}
    assert world.ledger()["crm/1"]["undo"] is None


def test_a_request_that_waits_for_a_person_ends_when_another_one_has_done_it() -> None:
    """What is left of it is a receipt that names the other."""
    world = World({"targets": {"crm": drivly()}, "routes": [route(link="cluster")]})
    world.systems["crm"].add("5")
    world.live("shop", "a")
    world.deleted("shop", "a")
    world.departed("shop/a", ["crm/5"], doubt=["late"])
    world.settle()
    assert world.states() == {"crm/5": "HELD"}
    world.decide("erase", customer="crm/5")
    world.settle()
    assert sorted(receipt["outcome"] for receipt in world.receipts()) == ["SUPERSEDED", "VERIFIED"]
    assert world.states() == {"crm/5": "VERIFIED"}


@pytest.mark.parametrize("what", ["approve", "reject"])
def test_a_held_request_is_seen_again_once_a_newer_one_has_ended(what: Any) -> None:
    """A person finds it under its customer, and decides on it."""
    routes = [route("web", link="cluster"), route(dry_run=True)]
    world = World({"targets": {"crm": drivly()}, "routes": routes})
    world.systems["crm"].add("5")
    world.live("web", "7")
    world.deleted("web", "7")
    world.departed("web/7", ["crm/5"], doubt=["late"])
    world.settle()
    held = world.ledger()["crm/5"]["request"]["id"]
    world.deleted("shop", "5")
    world.settle()
    assert [receipt["outcome"] for receipt in world.receipts()] == ["DRY_RUN"]
    assert world.states() == {"crm/5": "HELD"}
    assert world.ledger()["crm/5"]["request"]["id"] == held
    world.decide(what, target="crm", request=held)
    world.settle()
    assert len(world.receipts()) == 2
    assert world.states() == {"crm/5": "VERIFIED" if what == "approve" else "REJECTED"}


# Personal data


def test_nothing_that_is_published_has_personal_data_in_it() -> None:
    """Neither the ledger nor receipts nor status quote the record that was looked up."""
    world = World(simple(with_lookup()))
    world.systems["crm"].add("1", email="jane@example.com", phone="+1 555 0100")
    world.deleted("shop", "1")
    world.settle()
    for topic in (world.topics.deletions, world.topics.receipts, world.topics.status, world.topics.requests):
        text = b"".join(record.value or b"" for record in world.harness.records(topic))
        assert b"jane" not in text
        assert b"555" not in text


def test_what_waits_for_its_route_keeps_no_other_waiting() -> None:
    """More requests than are asked about at once have lost their route: those of another route go on."""
    world = World({
        "targets": {"crm": drivly(concurrency=1)},
        "routes": [route(), route("web")],
        "guard": {"cap": 1000, "count": 1000},
    })
    gone = [str(number) for number in range(1, 41)]
    for customer in [*gone, "77"]:
        world.systems["crm"].add(customer)
        world.live("web" if customer == "77" else "shop", customer)
    world.settle()
    for customer in gone:
        world.deleted("shop", customer)
    world.harness.run()
    world.settings = DeletesSettings.model_validate({**world.settings.model_dump(), "routes": [route("web")]})
    world.harness.crash("requests")
    world.settle()
    world.deleted("web", "77")
    world.settle(6)
    assert world.outcomes() == {"crm/77": "VERIFIED"}
