"""The account of a pair, and what the published topics say about duplicates."""

from typing import Any

import orjson

from handlers.dedupe import DedupeSettings
from handlers.dedupe.events import Review, identity_headers
from handlers.dedupe.explain import Census, Reviews, export, groups, published, why
from worker.privacy import Hasher
from worker.testkit import person

HASHER = Hasher(b"a pepper for tests")
RULES = DedupeSettings(generic={"bucket": 2})  # type: ignore[arg-type]
ADA: dict[str, Any] = {"given": "Ada", "family": "Archer", "born": "1980-02-03", "emails": ["ada@example.com"]}
STEP = {"score": 26.0, "keys": ["email"], "fields": {"given": 5.0}, "exact_id": False, "generic": False}
AB, BC = {"a": "crm/1", "b": "crm/2", **STEP}, {"a": "crm/2", "b": "shop/3", **STEP}


def membership(path: list[dict[str, Any]]) -> bytes:
    """Return a membership in a cluster of three whose winner is crm/2."""
    return orjson.dumps({"cluster": "c0ffee", "winner": "crm/2", "size": 3, "path": path})


TABLE: dict[bytes, bytes | None] = {
    b"shop/3": membership([BC]),
    b"crm/1": membership([AB]),
    b"crm/2": membership([]),
    b"crm/9": None,
}


def test_the_order_of_the_two_does_not_matter() -> None:
    """A pair is a pair."""
    one, other = person("crm", "1", **ADA), person("shop", "2", **ADA)
    assert why(one, other, RULES, HASHER) == why(other, one, RULES, HASHER)
    assert why(one, other, RULES, HASHER)["verdict"] == "linked"


def test_a_value_of_many_counts_for_nothing() -> None:
    """The census finds it, whatever came and went before; the account says that it was left out."""
    one, other = person("crm", "1", **ADA), person("shop", "2", **ADA)
    third = person("mail", "3", given="Zoe", emails=["ada@example.com"])
    census = Census(one, other, RULES, HASHER)
    for key, customer in ((b"crm/1", one), (b"shop/2", other), (b"mail/3", third)):
        census.take(key, orjson.dumps(customer))
    account = why(one, other, RULES, HASHER, census.crowded())
    assert (account["crowded"], account["values"]) == (["email"], {})
    assert account["score"] == 18
    census.take(b"mail/3", None)
    assert census.crowded() == set()


def test_customers_of_different_scopes_have_nothing_in_common() -> None:
    """They are never compared, and the account shows why."""
    rules = DedupeSettings(scopes={"retail": ("shop",)})
    account = why(person("crm", "1", **ADA), person("shop", "2", **ADA), rules, HASHER)
    assert account["scopes"] == ("default", "retail")
    assert (account["met"], account["standing"], account["verdict"]) == ([], None, "apart")


def test_every_veto_that_holds_is_shown() -> None:
    """Not only the first one, which is heeded: who mends that has to know of the others."""
    one = person("crm", "1", **ADA)
    other = person("shop", "2", **ADA | {"given": "Zoe", "born": "1951-11-27"})
    account = why(one, other, RULES, HASHER)
    assert account["vetoes"] == {"given_name": True, "middle_name": False, "birth_date": True, "suffix": False}
    assert not any(why(one, person("shop", "2", **ADA), RULES, HASHER)["vetoes"].values())


def test_no_value_is_in_an_account() -> None:
    """Only kinds, weights and the customers' ids."""
    text = str(why(person("crm", "1", **ADA), person("shop", "2", **ADA), RULES, HASHER)).lower()
    assert not [value for value in ("ada", "archer", "1980", "example.com") if value in text]


def test_clusters_are_grouped_with_their_sources() -> None:
    """Two of one source in a cluster of several show."""
    (group,) = groups(TABLE)
    assert group["members"] == ["crm/1", "crm/2", "shop/3"]
    assert (group["sources"], group["members_by_source"]) == ("several", {"crm": 2, "shop": 1})


def test_the_links_between_two_lead_over_the_winner() -> None:
    """From one to the other, and not beyond what both have in common."""
    assert published("crm/1", "shop/3", TABLE, [])["path"] == [AB, BC]
    assert published("crm/1", "crm/2", TABLE, [])["path"] == [AB]
    assert published("crm/1", "crm/9", TABLE, []) == {"clusters": ("c0ffee", None), "path": [], "review": None}


def test_an_export_has_a_row_for_each_customer_of_a_cluster() -> None:
    """In the order of the ids; whoever is alone has none."""
    rows = list(export(TABLE))
    assert [(row["customer"], row["winner"], row["path"]) for row in rows] == [
        ("crm/1", False, "crm/1=crm/2:26"),
        ("crm/2", True, ""),
        ("shop/3", False, "crm/2=shop/3:26"),
    ]


def test_a_review_is_open_until_it_is_closed() -> None:
    """The newest word on a pair counts."""
    reviews = Reviews()

    def said(number: int, status: str, a: str) -> None:
        event: Review = {
            "status": status,  # type: ignore[typeddict-item]
            "reason": "score",
            "a": a,
            "b": "crm/9",
            "score": 7.0,
            "sources": "same",
            "rebuilt": False,
        }
        headers = identity_headers("customer.review", "c0ffee", "2025-01-01T00:00:00.000Z", b"%d" % number)
        reviews.take(headers, orjson.dumps(event))

    said(0, "open", "crm/1")
    said(1, "open", "crm/2")
    said(2, "closed", "crm/1")
    (review,) = reviews.open()
    assert review["a"] == "crm/2"
    assert published("crm/2", "crm/9", {}, [review])["review"] == "score"
