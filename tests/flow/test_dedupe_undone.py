"""What was merged is taken apart when the data is mended; what others are known to get wrong is right here."""

from itertools import pairwise
from typing import Any

import orjson

from handlers.dedupe import DedupeSettings
from handlers.dedupe.settings import Caps, Generic, Weights
from tests.flow.test_dedupe import ADA, TOPICS, clusters, departures, events, harness, put, reconfigure
from worker.events import header
from worker.testkit import Harness, deleted, person

ZOE: dict[str, Any] = {"given": "Zoe", "family": "Young", "born": "1991-11-30", "emails": ["zoe@example.com"]}


def seen(day: int) -> str:
    """Return when a customer was first seen."""
    return f"2025-01-{day:02}T00:00:00.000Z"


def three(run: Harness) -> str:
    """Put in a person known to three systems; return the cluster's id. The founder is drivly/1."""
    for day, (source, number) in enumerate((("drivly", "1"), ("connect", "2"), ("dintero", "3")), 1):
        put(run, 1, person(source, number, first_seen=seen(day), **ADA))
    (cluster,) = {known["cluster"] for known in clusters(run).values()}
    return str(cluster)


def remove(run: Harness, source: str, number: str, sequence: int) -> None:
    """Delete a customer and work until at rest."""
    run.publish(TOPICS.latest, *deleted(source, number, sequence))
    run.run()


def test_when_the_founder_is_corrected_away_the_rest_gets_another_id_that_is_told() -> None:
    """The split names the old id, where each part is now, and who is alone."""
    run = harness()
    old = three(run)
    put(run, 2, person("drivly", "1", first_seen=seen(1), **ZOE))
    found = clusters(run)
    assert set(found) == {"connect/2", "dintero/3"}
    (new,) = {known["cluster"] for known in found.values()}
    assert new != old
    (split,) = [event for event in events(run, "customer.split") if event["cluster"] == old]
    parts = {tuple(part["members"]): part["cluster"] for part in split["parts"]}
    assert parts == {("connect/2", "dintero/3"): new, ("drivly/1",): None}
    assert split["gone"] == []


def test_when_the_founder_is_deleted_the_rest_gets_another_id_that_is_told() -> None:
    """The founder is named as gone, and its departure says who remains."""
    run = harness()
    old = three(run)
    remove(run, "drivly", "1", 2)
    (new,) = {known["cluster"] for known in clusters(run).values()}
    assert new != old
    (split,) = events(run, "customer.split")
    assert (split["cluster"], split["gone"]) == (old, ["drivly/1"])
    assert [(part["cluster"], part["members"]) for part in split["parts"]] == [(new, ["connect/2", "dintero/3"])]
    (departure,) = departures(run)
    assert (departure["cluster"], departure["remaining"]) == (old, ["connect/2", "dintero/3"])


def test_when_another_one_leaves_the_id_stays() -> None:
    """Only the founder's leaving changes it; and the winner's leaving names another winner."""
    run = harness(settings=DedupeSettings(priority=("connect",)))
    old = three(run)
    remove(run, "connect", "2", 2)
    assert {known["cluster"] for known in clusters(run).values()} == {old}
    (changed,) = events(run, "customer.winner_changed")
    assert changed["previous"] == "connect/2"
    assert {known["winner"] for known in clusters(run).values()} == {changed["winner"]} != {"connect/2"}


def test_a_founder_that_comes_back_takes_its_id_back() -> None:
    """The clusters are a function of the live customers: the same ones, the same ids."""
    run = harness()
    old = three(run)
    remove(run, "drivly", "1", 2)
    put(run, 3, person("drivly", "1", first_seen=seen(1), **ADA))
    assert {known["cluster"] for known in clusters(run).values()} == {old}
    (merged,) = [event for event in events(run, "customer.merged") if event["absorbed"]]
    assert merged["cluster"] == old


def test_a_bridge_that_is_deleted_takes_both_sides_apart() -> None:
    """Two customers who were one only by way of a third are two again, and the departure says so."""
    run = harness()
    put(run, 1, person("drivly", "1", given="Ada", family="Archer", emails=["ada@example.com"]))
    put(run, 1, person("connect", "2", given="Ada", family="Archer", emails=["ada@example.com", "a2@example.com"]))
    put(run, 1, person("dintero", "3", given="Ada", family="Archer", emails=["a2@example.com"]))
    assert len(clusters(run)) == 3
    remove(run, "connect", "2", 2)
    assert clusters(run) == {}
    (departure,) = departures(run)
    assert departure["remaining"] == ["dintero/3", "drivly/1"]
    assert {evidence["customer"] for evidence in departure["evidence"]} == {"dintero/3", "drivly/1"}


def test_a_phone_that_becomes_the_offices_takes_back_what_it_merged() -> None:
    """Limits hold for what was there before, too; and below them it counts again."""
    run = harness(settings=DedupeSettings(generic=Generic(bucket=3)))
    phone = "+12025550799"
    for source, number in (("drivly", "1"), ("dintero", "2")):
        put(run, 1, person(source, number, given="Ada", family="Archer", phones=[phone]))
    assert len(clusters(run)) == 2
    for number, given in enumerate(("Brian", "Charlotte")):
        put(run, 1, person("connect", str(number), given=given, family="Young", phones=[phone]))
    assert clusters(run) == {}
    assert len(events(run, "customer.split")) == 1
    remove(run, "connect", "0", 2)
    assert len(clusters(run)) == 2


def test_a_value_that_becomes_everybodys_takes_back_what_it_merged_under_other_settings() -> None:
    """Also what it would not support by the settings as they are now."""
    run = harness(settings=DedupeSettings(generic=Generic(bucket=3)))
    both: dict[str, Any] = {"given": "Ada", "family": "Archer", "emails": ["ada@example.com"]}
    put(run, 1, person("drivly", "1", **both))
    put(run, 1, person("dintero", "2", **both))
    reconfigure(run, DedupeSettings(generic=Generic(bucket=3), weights=Weights(given=0, family=0, email=3)))
    assert len(clusters(run)) == 2
    for number in range(2):
        put(run, 1, person("connect", str(number), given=f"G{number}x", family=f"F{number}y", emails=both["emails"]))
    assert clusters(run) == {}


def test_missing_and_placeholder_values_match_nobody() -> None:
    """A value that thousands have, or none at all, never makes one person of two."""
    run = harness()
    placeholders: list[dict[str, Any]] = [
        {"emails": ["none@none.com"]},
        {"emails": ["noreply@example.com"]},
        {"phones": ["+4799999999"]},
        {"phones": ["+12025550123"]},
        {"given": "Unknown", "family": "Unknown", "born": "1900-01-01"},
        {"given": "Test", "family": "Customer", "address": ("1 Unknown", "Unknown", "00000")},
        {},
    ]
    for place, values in enumerate(placeholders):
        for number in range(3):
            put(run, 1, person("drivly", f"{place}-{number}", **values))
    assert clusters(run) == {}
    assert events(run, "customer.review") == []


def test_an_email_on_very_many_customers_costs_no_more_than_another() -> None:
    """What is sent to the clusters for each further one does not grow."""
    run = harness(settings=DedupeSettings(generic=Generic(bucket=10)))
    sent = []
    for number in range(60):
        put(
            run,
            1,
            person("drivly", str(number), given=f"G{number}x", family=f"F{number}y", emails=["desk@example.com"]),
        )
        sent.append(len(run.records(TOPICS.links)))
    assert {later - earlier for earlier, later in pairwise(sent[11:])} == {1}
    assert clusters(run) == {}


def test_a_tangle_merges_nobody_and_is_reported() -> None:
    """A huge component exhausts nothing: it is left to a person, until it is small enough."""
    run = harness(settings=DedupeSettings(caps=Caps(component=4)))
    for number in range(6):
        put(run, 1, person("drivly", str(number), **ADA))
    assert clusters(run) == {}
    assert {event["reason"] for event in events(run, "customer.review")} >= {"component"}
    for number in (0, 1):
        remove(run, "drivly", str(number), 2)
    assert len({known["cluster"] for known in clusters(run).values()}) == 1


def test_swapped_names_and_a_typing_error_meet() -> None:
    """What systems get wrong about one person does not hide it."""
    run = harness()
    put(run, 1, person("drivly", "1", **ADA))
    put(run, 1, person("dintero", "2", given="Archer", family="Ada", born="1980-02-03"))
    put(run, 1, person("connect", "3", given="Ada", family="Acrher", born="1980-02-03", emails=["ada@example.com"]))
    assert set(clusters(run)) == {"drivly/1", "dintero/2", "connect/3"}


def test_within_one_source_and_across_are_told_apart() -> None:
    """On merges and on reviews; and an e-mail clash needs one source and one kind."""
    run = harness()
    put(run, 1, person("drivly", "1", **ADA))
    put(run, 1, person("drivly", "2", **ADA))
    (merged,) = events(run, "customer.merged")
    assert merged["sources"] == "same"
    put(run, 1, person("dintero", "3", **ADA))
    assert events(run, "customer.merged")[-1]["sources"] == "several"
    clashes = {(event["a"], event["b"]) for event in events(run, "customer.review") if event["reason"] == "email_clash"}
    assert clashes == {("drivly/1", "drivly/2")}
    put(run, 1, person("dintero", "4", kind="company", emails=["ada@example.com"]))
    assert {(e["a"], e["b"]) for e in events(run, "customer.review") if e["reason"] == "email_clash"} == clashes
    put(run, 2, person("drivly", "2", **ADA | {"emails": []}))
    newest = {(e["a"], e["b"]): e["status"] for e in events(run, "customer.review") if e["reason"] == "email_clash"}
    assert newest == {("drivly/1", "drivly/2"): "closed"}


def test_every_identity_event_has_an_id_of_its_own() -> None:
    """So that whoever is given one twice can drop it."""
    run = harness()
    three(run)
    remove(run, "drivly", "1", 2)
    ids = [header(record.headers, "ce_id") for record in run.records(TOPICS.identity)]
    assert len(ids) == len(set(ids)) > 2
    assert all(orjson.loads(record.value or b"") for record in run.records(TOPICS.identity))
