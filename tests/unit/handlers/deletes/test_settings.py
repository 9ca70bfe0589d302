"""The configuration of deletions: cautious where it says nothing, and wrong where it cannot be meant."""

from typing import Any, get_args

import pytest
from pydantic import ValidationError

from handlers.deletes.settings import Authority, DeletesSettings, GuardSettings, Route

AUTHORITIES = get_args(Authority)
HTTP = {"kind": "http", "url": "https://crm.example.com/", "path": "/people/{id}"}


def test_what_a_route_carries_by_default() -> None:
    """To another system what was deleted, within a system duplicates, and an erasure to both."""
    other, same = Route(source="shop", target="crm"), Route(source="crm", target="crm")
    assert {authority: other.mode(authority) for authority in AUTHORITIES} == {
        "tombstone": "auto",
        "gone": "auto",
        "absent": "approval",
        "duplicate": "off",
        "erasure": "auto",
    }
    assert {authority: same.mode(authority) for authority in AUTHORITIES} == {
        "tombstone": "off",
        "gone": "off",
        "absent": "off",
        "duplicate": "approval",
        "erasure": "auto",
    }


def test_a_bare_off_is_off() -> None:
    """YAML takes it for false, before anybody could see what was written; true is no mode."""
    assert Route.model_validate({"source": "a", "target": "b", "classes": {"gone": False}}).mode("gone") == "off"
    with pytest.raises(ValidationError, match=r"classes\.gone"):
        Route.model_validate({"source": "a", "target": "b", "classes": {"gone": True}})


@pytest.mark.parametrize(
    ("live", "limit"), [(None, 10), (0, 10), (500, 10), (600, 12), (25_000, 500), (1_000_000, 500)]
)
def test_the_limit_of_the_guard(live: int | None, limit: int) -> None:
    """max(10, 2 %), and 500 at the most."""
    assert GuardSettings().limit(live) == limit


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"routes": [{"source": "a", "target": "b"}]}, "no target 'b'"),
        ({"targets": {"b": HTTP}, "routes": [{"source": "a", "target": "b"}] * 2}, "twice"),
        ({"targets": {"b": {**HTTP, "path": "/people"}}}, "path"),
        ({"targets": {"b": {**HTTP, "path": "/people?id={id}"}}}, "path"),
        ({"targets": {"b": {**HTTP, "id_pattern": "("}}}, "id_pattern"),
        ({"targets": {"b": {**HTTP, "id_pattern": "1{99999999999}"}}}, "id_pattern"),
        ({"targets": {"b": {**HTTP, "canary_id": "1"}}}, "lookup"),
        ({"targets": {"b": {**HTTP, "lookup": "/{id}", "canary_id": "a/b"}}}, "id_pattern"),
        ({"targets": {"b": {**HTTP, "kind": "ftp"}}}, "kind"),
        ({"tick": "1h"}, "tick"),
    ],
)
def test_what_cannot_be_meant(settings: Any, problem: str) -> None:
    """It is said, and where."""
    with pytest.raises(ValidationError, match=problem):
        DeletesSettings.model_validate(settings)


@pytest.mark.parametrize(
    "route",
    [
        {"link": "reference"},
        {"reference": "customerKey"},
        {"link": "cluster", "classes": {"duplicate": "auto"}},
        {"target": "a", "link": "cluster", "classes": {"duplicate": "auto"}},
        {"classes": {"duplicate": "auto"}},
        {"classes": {"duplicate": "approval"}},
        {"classes": {"typo": "auto"}},
    ],
)
def test_routes_that_cannot_be_meant(route: Any) -> None:
    """A link that lacks its type, a type without a link, a duplicate by cluster or of another system."""
    with pytest.raises(ValidationError):
        Route.model_validate({"source": "a", "target": "b", **route})


def test_sources_that_are_not_there_and_targets_that_hide_behind_another_name() -> None:
    """Otherwise our own deletions would not be recognised when they come back."""
    settings = DeletesSettings.model_validate({"targets": {"crm": HTTP}, "routes": [{"source": "a", "target": "crm"}]})
    assert settings.problems({"a"}) == []
    assert len(settings.problems(set())) == 1
    (problem,) = settings.problems({"a"}, {"a": "https://crm.example.com"})
    assert "the target that name" in problem
    assert settings.problems({"a", "crm"}, {"crm": "https://crm.example.com"}) == []
