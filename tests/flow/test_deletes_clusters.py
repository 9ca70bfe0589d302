"""Cluster routes from the search that holds people together to the DELETE: all five stages, as they run together."""

from collections.abc import Callable, Sequence
from typing import Any

import orjson
import pytest

from handlers.dedupe import DedupeSettings, stages
from handlers.deletes.reading import membership_digest
from tests.flow.deletes_world import MINUTE, START, World, drivly, route
from worker.events import Customer
from worker.handling import Handler
from worker.privacy import Hasher
from worker.testkit import deleted, latest, person
from worker.topics import Topics

ADA: dict[str, Any] = {"given": "Ada", "family": "Archer", "born": "1980-02-03", "emails": ["ada@example.com"]}


def world(seed: int, **rules: Any) -> World:
    """Return a world in which who is gone from the shop is deleted in the crm, where it is the same person."""

    def search(topics: Topics) -> Sequence[Callable[[], Handler]]:
        return stages(DedupeSettings(**rules), topics, Hasher(b"a pepper for tests"))

    return World({"targets": {"crm": drivly()}, "routes": [route(link="cluster")]}, before=search, seed=seed)


def put(run: World, customer: Customer) -> None:
    """Have a customer in its system, and publish it."""
    if customer["source"] in run.systems:
        run.systems[customer["source"]].add(customer["id"], START - MINUTE)
    run.harness.publish(run.topics.latest, *latest(customer, 1))
    run.harness.run()


def departures(run: World) -> list[dict[str, Any]]:
    """Return the departures."""
    return [orjson.loads(record.value or b"") for record in run.harness.records(run.topics.departures)]


@pytest.mark.parametrize("others", [[], ["erp/9"]])
@pytest.mark.parametrize("seed", range(4))
def test_a_departure_names_the_memberships_that_it_leaves(seed: int, others: list[str]) -> None:
    """They are those on the public topic, so that the deletion is carried out while nothing else changes."""
    run = world(seed)
    for source, id_ in [("shop", "1"), ("crm", "5"), *(other.split("/") for other in others)]:
        put(run, person(source, id_, **ADA))
    run.settle()
    run.harness.publish(run.topics.latest, *deleted("shop", "1", 2))
    run.harness.run()
    (departure,) = departures(run)
    table = run.harness.table(run.topics.clusters)
    assert departure["memberships"] == {
        name: membership_digest(table.get(name.encode())) for name in ["crm/5", *others]
    }
    assert all(departure["memberships"].values()) is bool(others)
    run.settle()
    assert run.outcomes() == {"crm/5": "VERIFIED"}


@pytest.mark.parametrize("seed", range(4))
def test_who_is_somebodys_again_is_not_deleted(seed: int) -> None:
    """The person turns up in the shop under another id before its turn comes."""
    run = world(seed)
    put(run, person("shop", "1", **ADA))
    put(run, person("crm", "5", **ADA))
    run.settle()
    run.harness.publish(run.topics.latest, *deleted("shop", "1", 2))
    run.settle(0.5)
    put(run, person("shop", "2", **ADA))
    run.settle()
    assert run.outcomes() == {"crm/5": "SUPERSEDED"}
    assert run.systems["crm"].deletes() == []


def test_what_is_linked_because_nobody_else_is_there_is_held() -> None:
    """The wife is gone from the shop, and the husband is taken for her in the crm: a person decides."""
    run = world(0, one_to_one=[["crm", "shop"]])
    home = ("12 Mill Lane", "Springfield", "62701")
    put(run, person("shop", "1", given="Ada", family="Archer", address=home))
    put(run, person("crm", "5", given="Brian", family="Archer", address=home))
    run.settle()
    assert run.harness.table(run.topics.clusters)
    run.harness.publish(run.topics.latest, *deleted("shop", "1", 2))
    run.settle()
    assert run.states() == {"crm/5": "HELD"}
    assert run.systems["crm"].deletes() == []
