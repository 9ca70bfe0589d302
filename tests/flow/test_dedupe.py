"""Duplicate customers through all three stages, from `customers.latest` to what is published."""

from typing import Any

import orjson
import pytest

from handlers.dedupe import DedupeSettings, stages
from handlers.dedupe.explain import why
from handlers.dedupe.settings import Generic
from handlers.deletes.drafts import losing
from handlers.deletes.settings import DeletesSettings
from tests.flow.dedupe_batch import batch
from worker.events import Customer, header
from worker.privacy import Hasher
from worker.testkit import Harness, deleted, latest, person
from worker.topics import Topics

TOPICS = Topics(partitions=3)
HASHER = Hasher(b"a pepper for tests")
ADA = {"given": "Ada", "family": "Archer", "born": "1980-02-03", "emails": ["ada@example.com"]}


def harness(seed: int = 0, settings: DedupeSettings | None = None) -> Harness:
    """Return the three stages over empty topics."""
    return Harness(
        stages(settings or DedupeSettings(), TOPICS, HASHER),
        partitions=TOPICS.partitions,
        seed=seed,
    )


def put(run: Harness, sequence: int, customer: Customer) -> None:
    """Publish a customer's version and work until at rest."""
    run.publish(TOPICS.latest, *latest(customer, sequence))
    run.run()


def reconfigure(run: Harness, settings: DedupeSettings) -> None:
    """Replace the workers by ones with other settings, which go on with the state."""
    run._make = list(stages(settings, TOPICS, HASHER))
    for stage in ("keys", "pairs", "clusters"):
        run.crash(stage)


def clusters(run: Harness) -> dict[str, Any]:
    """Return the published memberships."""
    return {key.decode(): orjson.loads(value) for key, value in run.table(TOPICS.clusters).items()}


def events(run: Harness, type_: str) -> list[dict[str, Any]]:
    """Return the identity events of a type."""
    found = [record for record in run.records(TOPICS.identity) if header(record.headers, "ce_type") == type_]
    return [orjson.loads(record.value or b"") for record in found]


def departures(run: Harness) -> list[dict[str, Any]]:
    """Return the departures."""
    return [orjson.loads(record.value or b"") for record in run.records(TOPICS.departures)]


def test_two_records_of_one_person_become_a_cluster() -> None:
    """The same person in two systems is published as one cluster, with the same winner for both."""
    run = harness()
    put(run, 1, person("drivly", "1", **ADA))
    put(run, 1, person("dintero", "9", **ADA))
    found = clusters(run)
    assert set(found) == {"drivly/1", "dintero/9"}
    assert len({known["cluster"] for known in found.values()}) == 1
    assert {known["size"] for known in found.values()} == {2}
    assert [event["joined"] for event in events(run, "customer.merged")] == [["dintero/9", "drivly/1"]]


def test_a_corrected_value_takes_a_cluster_apart() -> None:
    """What was merged because of a wrong value is un-merged once the value is corrected."""
    run = harness()
    put(run, 1, person("drivly", "1", **ADA))
    put(run, 1, person("dintero", "9", **ADA))
    put(run, 2, person("dintero", "9", given="Zoe", family="Young", born="1991-11-30", emails=["zoe@example.com"]))
    assert clusters(run) == {}
    (departure,) = departures(run)
    assert (departure["customer"], departure["cause"], departure["sequence"]) == ("dintero/9", "changed", 2)
    assert departure["remaining"] == ["drivly/1"]
    assert departure["doubt"] == []


def test_a_deletion_says_who_remains_and_why() -> None:
    """The departure of a deleted customer names the others of its cluster and the evidence for each."""
    run = harness()
    put(run, 1, person("drivly", "1", **ADA))
    put(run, 1, person("dintero", "9", **ADA))
    run.publish(TOPICS.latest, *deleted("drivly", "1", 2))
    run.run()
    assert clusters(run) == {}
    (departure,) = departures(run)
    assert (departure["customer"], departure["cause"], departure["sequence"]) == ("drivly/1", "deleted", 2)
    assert departure["remaining"] == ["dintero/9"]
    assert departure["doubt"] == []
    (evidence,) = departure["evidence"]
    assert evidence["customer"] == "dintero/9"
    assert "email" in evidence["keys"]
    assert not evidence["generic"]


def test_a_membership_says_enough_to_delete_the_losing_one() -> None:
    """Of two customers of one source that agree in independent fields, the deletes handler knows which one may go."""
    run = harness()
    put(run, 1, person("drivly", "1", **ADA))
    put(run, 1, person("drivly", "2", **ADA))
    (step,) = clusters(run)["drivly/2"]["path"]
    assert step["keys"] == ["email"]
    assert step["fields"] == {"birth_date": 7, "given": 5, "family": 6}
    assert not step["exact_id"]
    assert not step["generic"]
    assert losing(DeletesSettings(), "drivly/2", clusters(run)["drivly/2"]) == "1"
    assert losing(DeletesSettings(), "drivly/1", clusters(run)["drivly/1"]) is None


def test_evidence_follows_what_becomes_of_a_value() -> None:
    """A link that stands by other means is told anew once one of its values turns out to be everybody's."""
    run = harness(settings=DedupeSettings(generic=Generic(bucket=3)))
    put(run, 1, person("drivly", "1", phones=["+12025550799"], **ADA))
    put(run, 1, person("drivly", "2", phones=["+12025550799"], **ADA))
    assert clusters(run)["drivly/2"]["path"][0]["keys"] == ["email", "phone"]
    for number, given in enumerate(("Brian", "Charlotte")):
        put(run, 1, person("dintero", str(number), given=given, family="Young", phones=["+12025550799"]))
    (step,) = clusters(run)["drivly/2"]["path"]
    assert (step["keys"], step["generic"]) == (["email"], True)
    assert losing(DeletesSettings(), "drivly/2", clusters(run)["drivly/2"]) is None


@pytest.mark.parametrize("weight", ["email", "mobile", "reference"])
@pytest.mark.parametrize("least", [0, -1])
def test_a_value_that_adds_nothing_is_one_in_common_all_the_same(weight: str, least: float) -> None:
    """It is what namesakes of one home need: stream, batch and `why` are of one mind about that."""
    settings = DedupeSettings.model_validate({"weights": {weight: least}})
    home: dict[str, Any] = {"given": "Ada", "family": "Archer", "address": ("Mill Lane", "Springfield", "62701")}
    one, other = person("crm", "1", **home), person("shop", "2", **home)
    for customer in (one, other):
        values = person("crm", "1", emails=["ada@example.com"], phones=["+12025550799"])
        match weight:
            case "email":
                customer["emails"] = values["emails"]
            case "mobile":
                customer["phones"] = values["phones"]
            case _:
                customer["references"] = [{"type": "customerId", "id": "7"}]
    run = harness(settings=settings)
    put(run, 1, one)
    put(run, 1, other)
    found = batch({"crm/1": one, "shop/2": other}, settings, HASHER)
    assert {frozenset(clusters(run))} == set(found.clusters) == {frozenset({"crm/1", "shop/2"})}
    assert (account := why(one, other, settings, HASHER))["verdict"] == "linked"
    assert [step["score"] for step in clusters(run)["shop/2"]["path"]] == [account["standing"]]


def test_a_household_is_not_one_person() -> None:
    """People who share an address, a phone and a family name stay apart by their given names."""
    run = harness()
    home = {"family": "Archer", "address": ("12 Mill Lane", "Springfield", "62701"), "phones": ["+12025550799"]}
    for number, given in enumerate(("Ada", "Brian", "Charlotte", "Deirdre")):
        put(run, 1, person("drivly", str(number), given=given, born=f"19{60 + 9 * number}-0{number + 1}-11", **home))
    assert clusters(run) == {}


def test_a_mistaken_birth_date_is_told_by_a_third_record() -> None:
    """Two birth dates far apart are two people's; unless somebody who is surely one of them has the other's date."""
    home: dict[str, Any] = {"given": "Ada", "family": "Archer", "address": ("12 Mill Lane", "Springfield", "62701")}
    licence = {"type": "drivers_licence", "hash": "5f" * 16}
    mistaken, third = person("crm", "1", **home, born="1956-11-22"), person("crm", "2", **home)
    mistaken["identifiers"] = third["identifiers"] = [licence]  # type: ignore[list-item]
    run = harness()
    for customer in (person("shop", "3", **home, born="1980-02-03"), mistaken, third):
        put(run, 1, customer)
    assert set(clusters(run)) == {"crm/1", "crm/2"}
    put(run, 2, {**third, "date_of_birth": "1980-02-03"})
    assert set(clusters(run)) == {"crm/1", "crm/2", "shop/3"}


@pytest.mark.parametrize("scope", ["retail", "r1", "r2", "r3"])
def test_a_customer_stays_in_its_scope_until_a_rebuild(scope: str) -> None:
    """Other scopes hold for customers never seen before: whoever is known is updated, deleted and made anew where it is.

    Two scopes that tell of one customer would tell it in any order.
    """
    run = harness()
    put(run, 1, person("crm", "1", **ADA))
    put(run, 1, person("shop", "2", **ADA))
    (cluster,) = {known["cluster"] for known in clusters(run).values()}
    reconfigure(run, DedupeSettings(scopes={scope: ("shop",)}))
    put(run, 2, person("shop", "2", **ADA | {"emails": ["ada@example.com", "ada@example.org"]}))
    assert {name: known["cluster"] for name, known in clusters(run).items()} == {"crm/1": cluster, "shop/2": cluster}
    put(run, 1, person("shop", "3", **ADA))
    assert set(clusters(run)) == {"crm/1", "shop/2"}
    run.publish(TOPICS.latest, *deleted("shop", "2", 3))
    run.run()
    assert clusters(run) == {}
    (departure,) = departures(run)
    assert (departure["customer"], departure["cause"], departure["remaining"]) == ("shop/2", "deleted", ["crm/1"])
    put(run, 4, person("shop", "2", **ADA))
    assert set(clusters(run)) == {"crm/1", "shop/2"}
    put(run, 1, person("shop", "4", **ADA))
    assert set(clusters(run)) == {"crm/1", "shop/2", "shop/3", "shop/4"}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("scope", ["retail", "r1", "r2", "r3"])
def test_who_comes_back_after_the_scopes_changed_is_published_where_it_is(seed: int, scope: str) -> None:
    """Deleted and made anew at once: whatever the order, a cluster has the members that it says it has."""
    run = harness(seed)
    put(run, 1, person("crm", "1", **ADA))
    put(run, 1, person("shop", "2", **ADA))
    reconfigure(run, DedupeSettings(scopes={scope: ("shop",)}))
    put(run, 1, person("shop", "3", **ADA))
    run.publish(TOPICS.latest, *deleted("shop", "2", 2))
    run.publish(TOPICS.latest, *latest(person("shop", "2", **ADA), 3))
    run.run()
    assert {name: (known["size"], known["winner"]) for name, known in clusters(run).items()} == {
        "crm/1": (2, "crm/1"),
        "shop/2": (2, "crm/1"),
    }


@pytest.mark.parametrize("last", ["changes", "is deleted"])
def test_a_lowered_limit_holds_for_a_bucket_once_one_of_it(last: str) -> None:
    """What too many share now is taken back from all of them, not only from who comes."""
    phone = "+12025550799"
    run = harness(settings=DedupeSettings(generic=Generic(bucket=10)))
    people = [person("crm", str(n), given="Ada", family="Archer", phones=[phone]) for n in range(5)]
    for one in people:
        put(run, 1, one)
    assert len(clusters(run)) == 5
    reconfigure(run, DedupeSettings(generic=Generic(bucket=3)))
    if last == "changes":
        put(run, 2, person("crm", "4", given="Ada", family="Archer", phones=[phone], emails=["ada@example.org"]))
    else:
        run.publish(TOPICS.latest, *deleted("crm", "4", 2))
        run.run()
    assert clusters(run) == {}
    for n in range(2, 5):
        run.publish(TOPICS.latest, *deleted("crm", str(n), 3))
    run.run()
    assert set(clusters(run)) == {"crm/0", "crm/1"}
