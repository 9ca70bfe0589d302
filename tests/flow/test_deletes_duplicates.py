"""Duplicates from the search that finds them to the DELETE of the losing one: all five stages, as they run together."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from handlers.dedupe import DedupeSettings, stages
from handlers.dedupe.settings import Generic
from tests.flow.deletes_world import MINUTE, START, World, drivly, route
from worker.events import Customer
from worker.handling import Handler
from worker.privacy import Hasher
from worker.testkit import deleted, latest, person
from worker.topics import Topics

ADA: dict[str, Any] = {"given": "Ada", "family": "Archer", "born": "1980-02-03", "emails": ["ada@example.com"]}


def world(mode: str = "auto", shared: int = 100, **more: Any) -> World:
    """Return a world in which duplicates within the crm are deleted there.

    `shared`: a value that so many customers have counts for nothing.
    """

    def search(topics: Topics) -> Sequence[Callable[[], Handler]]:
        return stages(DedupeSettings(generic=Generic(bucket=shared)), topics, Hasher(b"a pepper for tests"))

    settings = {"targets": {"crm": drivly()}, "routes": [route("crm", classes={"duplicate": mode})], **more}
    return World(settings, before=search)


def put(run: World, customer: Customer, sequence: int = 1) -> None:
    """Have a customer in its system, and publish it."""
    if customer["source"] in run.systems:
        run.systems[customer["source"]].add(customer["id"], START - MINUTE)
    run.harness.publish(run.topics.latest, *latest(customer, sequence))
    run.harness.run()


def twins(mode: str = "auto", **more: Any) -> World:
    """Return a world with two records of one person in the crm."""
    run = world(mode, **more)
    put(run, person("crm", "1", **ADA))
    put(run, person("crm", "2", **ADA))
    return run


def test_the_losing_one_is_deleted_once_it_has_cooled() -> None:
    """What the search publishes is enough: the request is made, cools, is looked at, done, and receipted with why."""
    run = twins()
    run.settle(10)
    assert run.states() == {"crm/2": "COOLING"}
    assert run.systems["crm"].deletes() == []
    run.settle(10)
    assert run.outcomes() == {"crm/2": "VERIFIED"}
    assert run.systems["crm"].deletes() == ["2"]
    receipt = run.receipt("2")
    assert receipt["authority"] == "duplicate"
    assert receipt["evidence"]["winner"] == "crm/1"
    (link,) = receipt["evidence"]["links"]
    assert (link["keys"], set(link["fields"])) == (["email"], {"given", "family", "birth_date"})
    assert "ada" not in str(receipt).lower()


def test_it_waits_for_a_person_by_default() -> None:
    """The mode `approval` is a plan like any other, bound to its hash."""
    run = twins("approval")
    run.settle(30)
    (plan,) = run.plans()
    assert (plan["count"], run.systems["crm"].deletes()) == (1, [])
    run.approve(plan)
    run.settle(30)
    assert run.outcomes() == {"crm/2": "VERIFIED"}


def test_many_at_once_are_held() -> None:
    """Duplicates stand under the blast-radius guard like every other deletion."""
    run = world(guard={"count": 3})
    for number, given in enumerate(("Ada", "Brian", "Charlotte", "Deirdre", "Edmund"), 1):
        twin: dict[str, Any] = {"given": given, "family": f"{given}son", "born": f"19{number}0-0{number}-1{number}"}
        for id_ in (f"{number}", f"{number}00"):
            put(run, person("crm", id_, emails=[f"{given.lower()}@example.com"], **twin))
    run.settle(30)
    (plan,) = run.plans()
    assert plan["count"] == 5
    assert run.systems["crm"].deletes() == []


def test_one_that_is_corrected_while_it_cools_stays() -> None:
    """It turns out to be somebody else: the request is superseded."""
    run = twins()
    run.settle(5)
    put(run, person("crm", "2", given="Zoe", family="Young", born="1991-11-30", emails=["zoe@example.com"]), 2)
    run.settle(30)
    assert run.outcomes() == {"crm/2": "SUPERSEDED"}
    assert run.systems["crm"].deletes() == []


def test_one_whose_winner_goes_stays() -> None:
    """The last record of a person is never deleted as the duplicate of one that is not there any more."""
    run = twins()
    run.settle(5)
    del run.systems["crm"].rows["1"]
    run.harness.publish(run.topics.latest, *deleted("crm", "1", 2))
    run.settle(30)
    assert run.outcomes() == {"crm/2": "SUPERSEDED"}
    assert run.systems["crm"].deletes() == []


def test_a_third_one_in_another_system_asks_anew() -> None:
    """A cluster that grows while it cools is another cluster: the first request is called off, the second is done."""
    run = twins()
    run.settle(10)
    put(run, person("web", "9", **ADA))
    run.settle(10)
    assert run.systems["crm"].deletes() == []
    run.settle(10)
    assert sorted(receipt["outcome"] for receipt in run.receipts()) == ["SUPERSEDED", "VERIFIED"]
    assert run.systems["crm"].deletes() == ["2"]


def test_relations_keep_it() -> None:
    """A losing one with deals is left to a person."""
    run = twins()
    run.systems["crm"].add("2", START - MINUTE, deals=["7"])
    run.settle(30)
    assert run.outcomes() == {"crm/2": "BLOCKED"}
    assert run.systems["crm"].deletes() == []


@pytest.mark.parametrize(
    "other",
    [
        person("crm", "2", given="Ada", emails=["ada@example.com"]),
        person("web", "2", **ADA),
    ],
    ids=["not sure enough", "another source"],
)
def test_others_are_left_alone(other: Customer) -> None:
    """A link that is enough for a cluster is not enough to delete, and nobody is a duplicate across sources."""
    run = world()
    put(run, person("crm", "1", **ADA))
    put(run, other)
    run.settle(30)
    assert not list(run.requests())


def test_a_value_that_many_share_is_no_support() -> None:
    """Once a phone that two records agree in turns out to be everybody's, what was asked for is called off."""
    run = world(shared=3)
    put(run, person("crm", "1", phones=["+12025550799"], **ADA))
    put(run, person("crm", "2", phones=["+12025550799"], **ADA))
    run.settle(5)
    for number, given in enumerate(("Brian", "Charlotte")):
        put(run, person("web", str(number), given=given, family="Young", phones=["+12025550799"]))
    run.settle(30)
    assert run.outcomes() == {"crm/2": "SUPERSEDED"}
    assert run.systems["crm"].deletes() == []
