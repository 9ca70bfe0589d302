"""Sources that have the same people: who may be one and can be nobody else is linked, for as long as that holds."""

from typing import Any

import pytest

from handlers.dedupe import DedupeSettings
from handlers.dedupe.explain import why
from tests.flow.test_dedupe import HASHER, TOPICS, clusters, departures, events, harness, put
from worker.testkit import Harness, deleted, person

RULES = DedupeSettings(one_to_one=(("crm", "shop", "mail"),))
HOME = ("12 Mill Lane", "Springfield", "62701")
ADA: dict[str, Any] = {"given": "Ada", "family": "Archer", "address": HOME}
# Another given name, so that the two are held for husband and wife.
BRIAN: dict[str, Any] = {"given": "Brian", "family": "Archer", "address": HOME}


def leave(run: Harness, name: str, sequence: int) -> None:
    """Delete a customer and work until at rest."""
    run.publish(TOPICS.latest, *deleted(*name.split("/"), sequence))
    run.run()


@pytest.mark.parametrize("seed", range(4))
def test_only_each_other(seed: int) -> None:
    """Two of one home are linked, though their names speak against it, for as long as nobody else is there."""
    run = harness(seed, RULES)
    put(run, 1, person("crm", "1", **ADA))
    put(run, 1, person("shop", "1", **BRIAN))
    assert set(clusters(run)) == {"crm/1", "shop/1"}
    ((step,),) = [known["path"] for known in clusters(run).values() if known["path"]]
    assert (step["one_to_one"], step["score"]) == (True, RULES.link)
    put(run, 1, person("shop", "2", **ADA))
    assert set(clusters(run)) == {"crm/1", "shop/2"}
    ((step,),) = [known["path"] for known in clusters(run).values() if known["path"]]
    assert "one_to_one" not in step
    assert step["score"] > RULES.link
    leave(run, "shop/2", 2)
    assert set(clusters(run)) == {"crm/1", "shop/1"}
    assert len(events(run, "customer.split")) == 2


def test_two_that_it_may_be_are_nobody() -> None:
    """Nobody is chosen of two in one source, whichever has the better score."""
    run = harness(settings=RULES)
    put(run, 1, person("crm", "1", **ADA))
    put(run, 1, person("shop", "1", **BRIAN))
    put(run, 1, person("shop", "2", **BRIAN | {"given": "Carl", "born": "1980-02-03"}))
    assert clusters(run) == {}


def test_each_source_by_itself() -> None:
    """Of three sources, each may have the one that the person is there."""
    run = harness(settings=RULES)
    put(run, 1, person("crm", "1", **ADA))
    put(run, 1, person("shop", "1", **BRIAN))
    put(run, 1, person("mail", "1", **ADA))
    assert set(clusters(run)) == {"crm/1", "shop/1", "mail/1"}


@pytest.mark.parametrize(
    ("rules", "other"),
    [
        (DedupeSettings(), person("shop", "1", **BRIAN)),
        (RULES, person("crm", "2", **BRIAN)),
        (RULES, person("erp", "1", **BRIAN)),
        (RULES, person("shop", "1", **BRIAN, kind="company")),
        (RULES, person("shop", "1", **BRIAN | {"family": "Baker"})),
    ],
    ids=["not one to one", "one source", "another source", "blocked", "too little in common"],
)
def test_what_is_not_linked(rules: DedupeSettings, other: Any) -> None:
    """It holds between the sources of a group, for who may be one by the score, and for nothing that is blocked."""
    run = harness(settings=rules)
    ada = person("crm", "1", **ADA)
    put(run, 1, ada)
    put(run, 1, other)
    assert clusters(run) == {}
    assert not why(ada, other, rules, HASHER)["one_to_one"]


def test_a_cap_that_stands_against_it_is_reported() -> None:
    """Who is linked so, and may not be in the cluster, is reviewed, as anybody is."""
    run = harness(settings=RULES.model_copy(update={"caps": RULES.caps.model_copy(update={"emails": 1})}))
    put(run, 1, person("crm", "1", **ADA, emails=["ada@example.com"]))
    put(run, 1, person("shop", "1", **BRIAN, emails=["brian@example.com"]))
    assert clusters(run) == {}
    assert [review["reason"] for review in events(run, "customer.review")] == ["cap_emails"]


def test_the_account_says_so() -> None:
    """The verdict is that of the pair alone; whether it is linked hangs on others."""
    account = why(person("crm", "1", **ADA), person("shop", "1", **BRIAN), RULES, HASHER)
    assert account["one_to_one"]
    assert account["verdict"] == "apart"


def test_a_departure_is_in_doubt() -> None:
    """What is linked so is linked because of what is not there: no deletion may follow from it by itself."""
    run = harness(settings=RULES)
    put(run, 1, person("crm", "1", **ADA))
    put(run, 1, person("mail", "1", **ADA))
    put(run, 1, person("shop", "1", **BRIAN))
    leave(run, "mail/1", 2)
    (departure,) = departures(run)
    assert departure["remaining"] == ["crm/1", "shop/1"]
    assert departure["doubt"] == ["one_to_one"]
    assert [step["customer"] for step in departure["evidence"]] == ["crm/1", "shop/1"]
