"""What follows from what was published: the ids of requests, and who is surely a duplicate."""

from typing import Any

import pytest

from handlers.deletes.drafts import Cause, by_deletion, losing
from handlers.deletes.entries import Entry, objection
from handlers.deletes.settings import DeletesSettings, Route
from tests.flow.deletes_world import drivly, route
from tests.unit.handlers.deletes.test_receipts import request

SETTINGS = DeletesSettings.model_validate({"targets": {"crm": drivly(), "erp": drivly()}, "routes": []})
ENTRY = Entry(3, live=False, changed=5, references=[("key", "7"), ("key", "8"), ("other", "9")])


def cause(**more: Any) -> Cause:
    """Return the deletion of a customer."""
    given: dict[str, Any] = {
        "source": "shop",
        "origin": "a",
        "sequence": 3,
        "as_of": 5,
        "authority": "gone",
        "live": 10,
        "seen_live": None,
        "evidence": {},
    }
    return Cause(**{**given, **more})


def routes(*given: dict[str, Any]) -> list[Route]:
    """Return routes."""
    return [Route.model_validate(one) for one in given]


def test_a_requests_id_follows_from_what_is_asked_and_not_from_when() -> None:
    """The same deletion asked for again, later, is the same request."""
    (first,) = by_deletion(SETTINGS, cause(), ENTRY, routes(route()), 100)
    (again,) = by_deletion(SETTINGS, cause(live=9), ENTRY, routes(route(cooling="1h")), 999)
    assert first["id"] == again["id"]


def test_a_dry_run_is_another_request() -> None:
    """It has ended without a DELETE: in earnest the same deletion can still be asked for."""
    (rehearsed,) = by_deletion(SETTINGS, cause(), ENTRY, routes(route(dry_run=True)), 100)
    (earnest,) = by_deletion(SETTINGS, cause(), ENTRY, routes(route()), 100)
    assert rehearsed["id"] != earnest["id"]


@pytest.mark.parametrize("other", [{"source": "web"}, {"origin": "b"}, {"sequence": 4}, {"authority": "tombstone"}])
def test_another_customer_version_or_authority_is_another_request(other: dict[str, Any]) -> None:
    """Nothing that differs is taken for the same."""
    (first,) = by_deletion(SETTINGS, cause(), ENTRY, routes(route()), 100)
    (second,) = by_deletion(SETTINGS, cause(**other), ENTRY, routes(route()), 100)
    assert first["id"] != second["id"]


def test_every_reference_of_the_type_is_followed() -> None:
    """Two ids of one type are two requests; those of another type none."""
    made = by_deletion(SETTINGS, cause(), ENTRY, routes(route(link="reference", reference="key")), 100)
    assert [one["customer"] for one in made] == ["7", "8"]
    assert len({one["id"] for one in made}) == 2


def step(**more: Any) -> dict[str, Any]:
    """Return a cluster's record with a sure link."""
    link = {"a": "crm/2", "b": "crm/1", "score": 20.0, "keys": ["email"], "fields": {"birth_date": 7.0}}
    return {"cluster": "c", "winner": "crm/1", "path": [{**link, "exact_id": False, "generic": False, **more}]}


@pytest.mark.parametrize(
    ("membership", "winner"),
    [
        (step(), "1"),
        (step(a="crm/1", b="crm/2"), "1"),
        (step(score=17.9), None),
        (step(score=17.9, exact_id=True), "1"),
        (step(generic=True, exact_id=True), None),
        (step(keys=[]), None),
        (step(fields={"birth_date": -4.0}), None),
        (step(keys=[], fields={"given": 5.0, "family": 6.0}), None),
        (step(keys=[], fields={"given": 5.0, "postcode": 3.0}), "1"),
        (step(a="crm/3"), None),
        ({**step(), "winner": "crm/2"}, None),
        ({**step(), "winner": "shop/1"}, None),
        ({**step(), "path": step()["path"] * 2}, None),
        ({**step(), "path": [{"a": "crm/2", "b": "crm/1", "score": 99.0}]}, None),
    ],
)
def test_who_is_surely_a_duplicate(membership: dict[str, Any], winner: str | None) -> None:
    """A direct link, an exact unique id or a score from two independent fields, and nothing generic; else nobody."""
    assert losing(SETTINGS, "crm/2", membership) == winner


@pytest.mark.parametrize(
    ("role", "entry", "more", "objects"),
    [
        ("origin", None, {}, False),
        ("origin", Entry(3, live=False, changed=1), {}, False),
        ("origin", Entry(3, live=True, changed=1), {}, False),
        ("origin", Entry(4, live=True, changed=1), {}, True),
        ("origin", Entry(4, live=False, changed=1), {}, False),
        ("subject", None, {}, False),
        ("subject", Entry(1, live=True, changed=10), {"as_of": 10}, False),
        ("subject", Entry(1, live=True, changed=11), {"as_of": 10}, True),
        ("subject", Entry(1, live=False, changed=11), {"as_of": 10}, False),
        ("subject", None, {"cluster": "x"}, True),
        ("subject", Entry(1, live=True, changed=1, cluster="x"), {"cluster": "x"}, False),
        ("subject", Entry(1, live=True, changed=1, cluster="y"), {"cluster": "x"}, True),
        ("subject", None, {"cluster": ""}, False),
        ("subject", Entry(1, live=True, changed=1), {"cluster": ""}, False),
        ("subject", Entry(1, live=True, changed=1), {"cluster": "x"}, True),
        ("subject", Entry(1, live=True, changed=1, cluster="y"), {"cluster": ""}, True),
        ("subject", Entry(1, live=True, changed=1, cluster="y"), {"cluster": None}, False),
        ("subject", Entry(1, live=True, changed=1, cluster="y", cluster_at=5), {"cluster_at": 5}, False),
        ("subject", Entry(1, live=True, changed=1, cluster="y", cluster_at=6), {"cluster_at": 5}, True),  # an older one
        ("winner", None, {}, True),
        ("winner", Entry(1, live=False, changed=1), {}, True),
        ("winner", Entry(1, live=True, changed=1), {}, False),
    ],
)
def test_what_is_objected_to_a_request(role: Any, entry: Entry | None, more: dict[str, Any], *, objects: bool) -> None:
    """A return, a change, another cluster, or a winner that is gone."""
    assert (objection(role, entry, request(**more)) is not None) is objects
