"""What an operator sees and decides, out of the contents of topics."""

from collections.abc import Iterable
from operator import itemgetter
from typing import Any

import orjson
import pytest
from cloudevents.core.formats.json import JSONFormat

from handlers.deletes import operate
from handlers.deletes.operate import Command
from handlers.deletes.undo import Undo
from tests.flow.deletes_world import World, drivly, route, simple
from worker.errors import UsageError
from worker.handling import Record
from worker.testkit import latest, person

KEY = "0123456789abcdef" * 4
ME = Command("c-1", "me@example.com", 5)


@pytest.fixture(scope="module")
def world() -> World:
    """Return a world with a verified deletion, a held plan of two and a blocked one."""
    made = World(simple(guard={"cap": 1}), undo=Undo(KEY))
    made.systems["crm"].add("1", email="jane@example.com")
    made.deleted("shop", "1")
    made.settle()
    for customer in ("2", "3"):
        made.systems["crm"].add(customer)
        made.deleted("shop", customer)
    made.settle()
    made.decide("erase", customer="crm/12abc")
    made.settle()
    return made


def contents(made: World, topic: str) -> list[Record]:
    """Return the contents of a topic."""
    return made.harness.records(topic)


def test_the_list_shows_the_newest_deletion_of_each_customer(world: World) -> None:
    """The latest first; by state, target and source where asked for."""
    records = contents(world, world.topics.deletions)
    rows = operate.listing(records)
    assert {row["customer"]: row["state"] for row in rows} == {
        "1": "VERIFIED",
        "2": "HELD",
        "3": "HELD",
        "12abc": "BLOCKED",
    }
    assert rows == sorted(rows, key=itemgetter("since"), reverse=True)
    assert {row["customer"] for row in operate.listing(records, state="HELD")} == {"2", "3"}
    assert {row["customer"] for row in operate.listing(records, source="crm")} == {"12abc"}
    assert operate.listing(records, target="erp") == []


def test_plans_that_wait_are_shown_with_what_an_approval_is_bound_to(world: World) -> None:
    """`<plan>@<hash>`, as it is decided on."""
    (plan,) = operate.plans(contents(world, world.topics.status))
    assert plan["count"] == 2
    assert operate.handle(plan) == f"{plan['plan']}@{plan['hash']}"
    rows = operate.listing(contents(world, world.topics.deletions), state="HELD", plans=[plan])
    assert [row["plan_or_reason"] for row in rows] == [f"{operate.handle(plan)}: {plan['reason']}"] * 2


def test_an_approval_is_bound_to_what_was_seen(world: World) -> None:
    """By its hash, never without one; only a no may be to what there is now. A request is named by id or customer."""
    status, deletions = contents(world, world.topics.status), contents(world, world.topics.deletions)
    (plan,) = operate.plans(status)
    seen = operate.approve_or_reject("approve", status, deletions, f"{plan['plan']}@old", ME)
    assert (seen["plan"], seen["hash"], seen["target"], seen["who"]) == (plan["plan"], "old", "crm", ME.who)
    with pytest.raises(UsageError, match=f"{plan['plan']}@<hash>"):
        operate.approve_or_reject("approve", status, deletions, plan["plan"], ME)
    with pytest.raises(UsageError, match="@<hash>"):
        operate.approve_or_reject("approve", status, deletions, f"{plan['plan']}@", ME)
    now = operate.approve_or_reject("reject", status, deletions, plan["plan"], ME)
    assert (now["hash"], now["what"]) == (plan["hash"], "reject")
    one = operate.approve_or_reject("approve", status, deletions, "crm/2", ME)
    again = operate.approve_or_reject("approve", status, deletions, one["request"] or "", ME)
    assert one == again
    with pytest.raises(UsageError, match="no plan"):
        operate.approve_or_reject("approve", status, deletions, "plan-0", ME)


def test_show_gives_ledger_receipt_and_the_copy_to_who_has_the_key(world: World) -> None:
    """Without the key there is no copy; with another one there is an error."""
    deletions, receipts = contents(world, world.topics.deletions), contents(world, world.topics.receipts)
    shown = operate.show(deletions, receipts, "crm/1")
    assert shown["receipt"]["outcome"] == shown["deletion"]["state"] == "VERIFIED"
    assert "copy" not in shown
    opened = operate.show(deletions, receipts, shown["receipt"]["request"], Undo(KEY))
    assert opened["copy"]["email"] == "jane@example.com"
    with pytest.raises(UsageError, match="undo"):
        operate.show(deletions, receipts, "crm/1", Undo("11" * 32))
    assert operate.show(deletions, receipts, "crm/2")["receipt"] is None
    with pytest.raises(UsageError, match="no deletion"):
        operate.show(deletions, receipts, "crm/99")


def test_a_retry_names_a_target_or_a_request(world: World) -> None:
    """What can be let go on, or asked for anew."""
    deletions = contents(world, world.topics.deletions)
    assert operate.retry(deletions, world.settings, "crm", ME)["target"] == "crm"
    blocked = operate.retry(deletions, world.settings, "crm/12abc", ME)
    assert (blocked["what"], blocked["target"]) == ("retry", "crm")
    assert blocked["request"] is not None
    hidden = operate.retry([], world.settings, blocked["request"], ME, contents(world, world.topics.receipts))
    assert hidden == blocked
    with pytest.raises(UsageError, match="no target"):
        operate.retry(deletions, world.settings, "erp", ME)


def test_receipts_are_exported_as_structured_cloud_events(world: World) -> None:
    """One line each, which the CNCF's own SDK reads."""
    lines = list(operate.export(contents(world, world.topics.receipts)))
    assert len(lines) == 2
    for line in lines:
        event = JSONFormat().read(None, line)
        assert event.get_type() == "customer.deletion.receipt"
        assert event.get_data()["request"] == event.get_id()  # type: ignore[index, call-overload]


# Erasures


def tables(people: Iterable[tuple[str, str, str]], clusters: dict[str, str]) -> tuple[list[Record], list[Record]]:
    """Return the tables of customers (source, id, e-mail) and of clusters (customer to cluster)."""
    table = []
    for number, (source, customer, email) in enumerate(people):
        key, value, headers = latest(person(source, customer, emails=[email]), number + 1)
        table.append(Record("customers.latest", 0, number, 0, key, value, headers))
    members = [
        Record("customers.clusters", 0, number, 0, key.encode(), orjson.dumps({"cluster": name}))
        for number, (key, name) in enumerate(clusters.items())
    ]
    return table, members


PEOPLE = [("shop", "a", "jane@example.com"), ("crm", "1", "j.doe@example.com"), ("erp", "x", "joe@example.com")]
ERASABLE: Any = {"targets": {"crm": drivly(), "mail": drivly()}, "routes": [route("shop", "mail")]}


@pytest.mark.parametrize(
    "how", [{"customer": "shop/a"}, {"email": "JANE@example.com"}, {"email": " j.doe@EXAMPLE.com"}]
)
def test_an_erasure_reaches_everybody_in_the_cluster(how: dict[str, str]) -> None:
    """By customer, or by an e-mail of one of them in any case: over every source, with where it would be deleted."""
    table, clusters = tables(PEOPLE, {"shop/a": "c-1", "crm/1": "c-1", "erp/x": "c-2"})
    plan = operate.erasure(table, clusters, World(ERASABLE).settings, **how)
    assert plan.customers == {"crm/1": 2, "shop/a": 1}
    assert plan.targets == {"crm/1": ("crm",), "shop/a": ("mail",)}
    assert plan.unreachable == ()
    assert plan.staying == ("shop/a",)
    decisions = operate.erase(plan, ME)
    assert [(row["customer"], row["sequence"], row["id"]) for row in decisions] == [
        ("crm/1", 2, "c-1-1"),
        ("shop/a", 1, "c-1-2"),
    ]


def test_an_erasure_says_whom_it_cannot_reach() -> None:
    """No target, no decision; the operator sees it in the plan."""
    table, clusters = tables(PEOPLE, {})
    plan = operate.erasure(table, clusters, World(ERASABLE).settings, customer="erp/x")
    assert plan.unreachable == plan.staying == ("erp/x",)
    assert operate.erase(plan, ME) == []


def test_an_erasure_of_nobody_is_refused() -> None:
    """Also of one who is gone, or has another e-mail now."""
    table, clusters = tables(PEOPLE, {})
    table += tables([("shop", "a", "new@example.com")], {})[0]
    table.append(Record("customers.latest", 0, 9, 0, b"crm/1", None, [("ce_sequence", b"9")]))
    for how in ({"customer": "shop/zzz"}, {"customer": "crm/1"}, {"email": "jane@example.com"}):
        with pytest.raises(UsageError, match="no such customer"):
            operate.erasure(table, clusters, World(ERASABLE).settings, **how)
