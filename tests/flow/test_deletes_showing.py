"""What an operator sees of deletions without asking for one: how many wait and for what, how targets do, what ended."""

from itertools import pairwise
from typing import Any

import pytest

from handlers.deletes.book import Book
from tests.flow.deletes_world import World, drivly, http, route, simple
from worker import telemetry
from worker.handling import Reply


def deleted(world: World, *customers: str, reason: Any = "tombstone") -> None:
    """Have customers deleted that the target has."""
    for customer in customers:
        world.systems["crm"].add(customer)
        world.deleted("shop", customer, reason, live=10)


def test_what_is_gathered_held_and_behind_it_is_counted() -> None:
    """And nothing is left of it once a person has decided."""
    world = World(simple(guard={"count": 1}))
    deleted(world, "1", "2", "3")
    world.settle(0.5)
    assert world.waits() == {"window": 3}
    world.settle()
    assert world.waits() == {"plan": 3}
    deleted(world, "4")
    world.settle(3)
    assert world.waits() == {"plan": 4}
    world.approve(world.plans()[0])
    world.settle(1)
    assert world.waits() == {}
    assert world.measured(telemetry.DELETIONS, "crm", "VERIFIED") == 4


def test_what_waits_for_a_person_is_logged() -> None:
    """A held plan once, a target that is paused or whose circuit is open, and that it works again."""
    world = World(simple(guard={"count": 1}))
    deleted(world, "1", "2", "3")
    world.settle()
    deleted(world, "4")
    world.settle()
    (plan,) = world.plans()
    held = {"plan": plan["plan"], "target": "crm", "source": "shop", "count": 3, "reason": plan["reason"]}
    assert world.lines() == [("plan_held", held)]
    world.systems["crm"].fault = lambda _: Reply(401)
    world.approve(plan)
    world.settle(5)
    refused = {"target": "crm", "reason": "it refuses the credential (401)"}
    assert world.lines()[1:] == [("target_paused", refused)]
    world.systems["crm"].fault = lambda _: Reply(500)
    world.settle()
    world.decide("retry", target="crm")
    world.settle()
    assert [name for name, _ in world.lines()[2:4]] == ["target_working", "circuit_open"]
    assert world.lines()[3][1]["target"] == "crm"
    assert world.lines()[3][1]["seconds"] > 0
    world.systems["crm"].fault = lambda _: None
    world.settle(60)
    assert world.lines()[-1] == ("target_working", {"target": "crm"})


def test_what_is_held_by_itself_waits_for_a_person() -> None:
    """Without a look-up, a second deletion of a customer that nothing has shown since."""
    world = World(simple(http()))
    deleted(world, "1")
    world.settle()
    world.deleted("shop", "1")
    world.settle()
    assert world.states() == {"crm/1": "HELD"}
    assert world.waits() == {"person": 1}
    world.harness.crash("executor")
    world.settle()
    assert world.waits() == {"person": 1}
    world.decide("reject", target="crm", request=world.ledger()["crm/1"]["request"]["id"])
    world.settle()
    assert world.waits() == {}
    assert world.measured(telemetry.DELETIONS, "crm", "REJECTED") == 1


def test_what_lost_its_route_is_counted_apart() -> None:
    """It goes on once the route is there again."""
    world = World(simple() | {"routes": [route(cooling="1h")]})
    deleted(world, "1")
    world.settle()
    assert world.waits() == {"turn": 1}
    routes = world.settings.routes
    world.settings = world.settings.model_copy(update={"routes": []})
    world.harness.crash("executor")
    world.settle(70)
    assert world.waits() == {"route": 1}
    assert world.measured(telemetry.DELETIONS_OVERDUE, "crm") == 0
    world.settings = world.settings.model_copy(update={"routes": routes})
    world.harness.crash("executor")
    world.settle()
    assert world.waits() == {}


def test_a_paused_target_is_shown_and_what_is_due_there_gets_late() -> None:
    """Until it accepts the credential."""
    world = World(simple())
    world.systems["crm"].fault = lambda _: Reply(401)
    deleted(world, "1")
    world.settle(90)
    assert world.state() == world.status("target/crm")["state"] == "paused"
    assert world.waits() == {"turn": 1}
    assert world.measured(telemetry.DELETIONS_OVERDUE, "crm") > 3600
    world.systems["crm"].fault = lambda _: None
    world.settle()
    assert world.state() == "working"
    assert world.waits() == {}
    assert world.measured(telemetry.DELETIONS_OVERDUE, "crm") == 0


def test_what_has_yet_to_cool_is_not_late() -> None:
    """It is due when it may run."""
    world = World({"targets": {"crm": drivly()}, "routes": [route(cooling="3h")]})
    deleted(world, "1")
    world.settle(170)
    assert world.waits() == {"turn": 1}
    assert world.measured(telemetry.DELETIONS_OVERDUE, "crm") == 0
    world.settle(20)
    assert world.states() == {"crm/1": "VERIFIED"}


def test_an_open_circuit_is_told_from_a_target_that_asks_to_wait() -> None:
    """The first is alarming, the second is not."""
    world = World(simple())
    world.systems["crm"].fault = lambda _: Reply(503, {"retry-after": "600"})
    deleted(world, "1")
    world.settle(5)
    assert world.state() == world.status("target/crm")["state"] == "waiting"
    world.systems["crm"].fault = lambda _: Reply(500)
    world.settle(60)
    assert world.state() == world.status("target/crm")["state"] == "circuit open"


@pytest.mark.parametrize(("status", "outcome"), [(422, "BLOCKED"), (500, "FAILED")])
def test_what_ended_badly_is_counted_from_zero_on(status: int, outcome: str) -> None:
    """Prometheus takes the first value that it sees for no increase, so the counters are there before."""
    world = World(simple())
    world.settle()
    assert {world.measured(telemetry.DELETIONS, "crm", state) for state in ("BLOCKED", "FAILED")} == {0}
    assert any((telemetry.DELETIONS, "crm", outcome) in task.tx.measured for task in world.harness._tasks)
    world.systems["crm"].fault = lambda call: Reply(status) if call.method != "GET" else None
    deleted(world, "2")
    world.settle(60)
    assert world.measured(telemetry.DELETIONS, "crm", outcome) == 1


def test_much_that_goes_on_is_not_told_each_time() -> None:
    """The status topic hears of it every ten seconds at most."""
    world = World(simple())
    deleted(world, *map(str, range(1, 9)))
    world.settle(10)
    told = [record for record in world.harness.records(world.topics.status) if record.key == b"deletions/crm"]
    moments = [record.timestamp for record in told]
    assert len(moments) > 1
    assert min(after - before for before, after in pairwise(moments)) >= 10_000


def test_a_circuit_is_closed_where_nothing_is_left_to_show_how_the_target_does() -> None:
    """Nobody would ever close it else, and somebody would look for an outage that is none."""
    world = World(simple())
    world.systems["crm"].fault = lambda _: Reply(500)
    deleted(world, "1")
    world.settle(30)
    assert world.state() == "circuit open"
    world.decide("reject", target="crm", request=world.ledger()["crm/1"]["request"]["id"])
    world.settle(30)
    assert world.waits() == {}
    assert world.state() == world.status("target/crm")["state"] == "working"


def test_what_is_said_of_a_target_is_no_older_than_its_executor() -> None:
    """It has waited, says the topic, but that is past when the next executor begins."""
    world = World(simple())
    world.systems["crm"].fault = lambda _: Reply(503, {"retry-after": "600"})
    deleted(world, "1")
    world.settle(5)
    assert world.status("target/crm")["state"] == "waiting"
    world.decide("reject", target="crm", request=world.ledger()["crm/1"]["request"]["id"])
    world.harness.now += 3_600_000  # nobody is at work meanwhile
    world.harness.crash("executor")
    world.settle(1)
    assert world.state() == world.status("target/crm")["state"] == "working"


def test_what_an_older_program_held_by_itself_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """It knew no queue for that."""
    world = World(simple(http()))
    deleted(world, "1")
    world.settle()
    put = Book.put
    monkeypatch.setattr(Book, "put", lambda self, one, *at: self.change(one) if at[0] == "h" else put(self, one, *at))
    world.deleted("shop", "1")
    world.settle()
    assert (world.states(), world.waits()) == ({"crm/1": "HELD"}, {})
    monkeypatch.setattr(Book, "put", put)
    world.harness.crash("executor")
    world.settle()
    assert world.waits() == {"person": 1}


def test_state_of_a_newer_program_is_read_as_far_as_it_is_known() -> None:
    """What that has added stands apart, and means nothing here."""
    world = World(simple())
    deleted(world, "1")
    world.settle(0.5)
    for task in world.harness._tasks:
        for key in [key for key in task.tx.data if key == b"t/crm" or key.startswith(b"r/")]:
            task.tx.put(b"f/" + (key if key == b"t/crm" else key[2:]), b'{"of_tomorrow": 1}')
    world.harness.crash("executor")
    world.settle()
    assert set(world.outcomes().values()) == {"VERIFIED"}
