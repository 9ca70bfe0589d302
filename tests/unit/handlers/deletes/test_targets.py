"""The targets: which ids they take, what they send, and what they make of answers."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.deletes.settings import DrivlyTarget, HttpTarget
from handlers.deletes.targets.contract import (
    Answer,
    Ask,
    Fault,
    Found,
    Missing,
    Target,
    Unread,
    encoded,
    general,
    retry_after,
)
from handlers.deletes.targets.registry import credentials, target_of
from worker.handling import Reply

NOW = 1_700_000_000_000
DRIVLY = DrivlyTarget.model_validate({"kind": "drivly", "url": "http://127.0.0.1:1", "key": {"env": "KEY"}})
HTTP = HttpTarget.model_validate({
    "kind": "http",
    "url": "http://127.0.0.1:1",
    "path": "/v1/people/{id}",
    "lookup": "/v1/people/{id}",
    "id_field": "id",
    "changed_field": "changed",
    "relations": ["orders"],
    "canary_id": "canary",
    "headers": {"X-Key": {"env": "KEY"}},
})
BOTH = pytest.mark.parametrize("target", [target_of(DRIVLY), target_of(HTTP)], ids=["drivly", "http"])


def body(value: Any, status: int = 200) -> Reply:
    """Return an answer with JSON in it."""
    return Reply(status, body=orjson.dumps(value))


# Conformance: what every target keeps to


@BOTH
@given(customer=st.text())
def test_whatever_the_id_a_delete_has_exactly_it_in_its_path_or_is_not_built(target: Target, customer: str) -> None:
    """No query, no way up, no second segment: the id or nothing."""
    if not target.valid(customer):
        with pytest.raises(ValueError, match="id"):
            target.delete(customer)
        return
    ask = target.delete(customer)
    assert ask.query == ()
    assert ask.path.rpartition("/")[2] == encoded(customer)
    assert not set(ask.path.rpartition("/")[2]) & set("/?#")


@BOTH
@pytest.mark.parametrize(
    "customer", ["", ".", "..", "12 ", " 12", "12\n", "1/2", "1?where={}", "1#", "%31", "\uff11\uff12"]
)
def test_ids_that_no_target_takes(target: Target, customer: str) -> None:
    """Neither by a loose pattern nor by encoding."""
    assert not target.valid(customer)


@BOTH
@pytest.mark.parametrize("status", [404, 410])
def test_none_such(target: Target, status: int) -> None:
    """To a DELETE, a look-up and a canary."""
    assert target.read_delete(Reply(status)) == Answer.GONE
    assert target.read_lookup("1", Reply(status)) == Missing()
    assert target.read_canary(Reply(status)) == Missing()


@BOTH
@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        (Reply(401), Answer.DENIED),
        (Reply(403), Answer.DENIED),
        (Reply(429), Answer.LATER),
        (Reply(503), Answer.LATER),
        (Reply(None, sent=False), Answer.LATER),
        (Reply(None), Answer.UNKNOWN),
        (Reply(500), Answer.UNKNOWN),
    ],
)
def test_a_look_up_without_a_usable_answer_proves_nothing(target: Target, reply: Reply, answer: Answer) -> None:
    """Neither that the customer is there, nor that it is gone."""
    assert target.read_lookup("1", reply) == Fault(answer)
    assert target.read_canary(reply) == Fault(answer)


@BOTH
@pytest.mark.parametrize(
    "reply", [Reply(200, body=b"<html>"), body([]), body({"id": 2}), body({}), Reply(301), Reply(400), Reply(204)]
)
def test_a_look_up_that_cannot_be_read_goes_to_a_person(target: Target, reply: Reply) -> None:
    """An answer about somebody else, or none that is documented."""
    assert isinstance(target.read_lookup("1", reply), Unread)


# HTTP in general


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (200, Answer.DONE),
        (202, Answer.ACCEPTED),
        (204, Answer.DONE),
        (301, Answer.REFUSED),
        (400, Answer.REFUSED),
        (401, Answer.DENIED),
        (403, Answer.DENIED),
        (404, Answer.GONE),
        (408, Answer.UNKNOWN),
        (409, Answer.CONFLICT),
        (410, Answer.GONE),
        (412, Answer.CONFLICT),
        (422, Answer.REFUSED),
        (423, Answer.CONFLICT),
        (429, Answer.LATER),
        (500, Answer.UNKNOWN),
        (502, Answer.UNKNOWN),
        (503, Answer.LATER),
        (504, Answer.UNKNOWN),
    ],
)
def test_what_a_status_means(status: int, answer: Answer) -> None:
    """The rules, one by one."""
    assert general(status, sent=True) == answer


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({}, None),
        ({"retry-after": "120"}, 120_000),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "²"}, None),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:50 GMT"}, 30_000),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:50 GMT", "date": "Tue, 14 Nov 2023 22:13:40 GMT"}, 10_000),
        ({"retry-after": "Tue, 14 Nov 2000 22:13:50 GMT"}, 0),
        ({"retry-after": "999999999"}, 86_400_000),
    ],
)
def test_retry_after_in_seconds_and_as_a_date(headers: dict[str, str], wait: int | None) -> None:
    """A date is read against the target's own clock where it says it; more than a day is taken for a day."""
    assert retry_after(headers, NOW) == wait


def test_a_segment_cannot_lead_out_of_its_path() -> None:
    """Neither by slashes nor by dots."""
    assert encoded("a/../b") == "a%2F..%2Fb"
    for bad in ("", ".", ".."):
        with pytest.raises(ValueError, match="dots"):
            encoded(bad)


# Drivly


@pytest.mark.parametrize(
    "customer", ["0", "12", "9007199254740993", "65a1b2c3d4e5f60718293a4b", "123e4567-e89b-42d3-a456-426614174000"]
)
def test_the_ids_of_payload(customer: str) -> None:
    """Serial numbers, ObjectIDs and UUIDs."""
    assert target_of(DRIVLY).valid(customer)
    assert target_of(DRIVLY).delete(customer) == Ask("DELETE", f"/customers/{customer}")


@pytest.mark.parametrize(
    "customer", ["12abc", "012", "-1", "+1", "1.0", "1e3", "0x1", "65A1B2C3D4E5F60718293A4B", "\u0661\u0662"]
)
def test_ids_that_payload_would_read_loosely(customer: str) -> None:
    """`12abc` deletes customer 12 there."""
    assert not target_of(DRIVLY).valid(customer)


def test_what_a_drivly_customer_shows() -> None:
    """Times, relations that are not empty, and the record for the undo copy; numeric ids are compared as text."""
    row = {"id": 7, "updatedAt": "2023-11-14T22:13:20.000Z", "deals": [1], "leads": [], "address": 5}
    found = target_of(DRIVLY).read_lookup("7", body(row))
    assert found == Found(NOW, None, ("deals",), orjson.dumps(row))
    assert target_of(DRIVLY).lookup("7") == Ask("GET", "/customers/7", (("depth", "0"),))


def test_drivlys_canary_is_a_listing_that_shows_somebody() -> None:
    """A wrong or revoked key may be answered with an empty one."""
    target = target_of(DRIVLY)
    assert isinstance(target.read_canary(body({"docs": [{"id": 1}]})), Found)
    nobody: list[Any] = [{"docs": []}, {"docs": [{}]}, {}, []]
    for empty in nobody:
        assert target.read_canary(body(empty)) == Missing()


def test_drivlys_canary_can_be_a_customer() -> None:
    """As configured."""
    target = target_of(DRIVLY.model_copy(update={"canary_id": "7"}))
    assert target.canary() == target.lookup("7")
    assert isinstance(target.read_canary(body({"id": 7, "updatedAt": "2023-11-14T22:13:20.000Z"})), Found)
    assert isinstance(target.read_canary(body({"docs": [{"id": 7}]})), Unread)


# Configured targets


def test_a_configured_targets_look_up() -> None:
    """Its fields are those of the configuration."""
    row = {"id": "a-1", "changed": "2023-11-14T22:13:20Z", "orders": ["o-1"]}
    assert target_of(HTTP).read_lookup("a-1", body(row)) == Found(NOW, None, ("orders",), orjson.dumps(row))
    assert target_of(HTTP).canary() == Ask("GET", "/v1/people/canary")


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("2023-11-14T22:13:20Z", NOW),
        (NOW, NOW),
        (NOW // 1000, NOW),
        (NOW / 1000 + 0.5, NOW + 500),
        (None, None),
        ("", None),
        ("yesterday", None),
        (str(NOW), None),
        (True, None),
        (0, None),
        (-1, None),
        (NOW * 1000, None),
        ("0001-01-01T00:00:00Z", None),
        ({"at": NOW}, None),
    ],
)
@pytest.mark.parametrize("field", ["changed", "created"])
def test_a_time_that_is_configured_has_to_be_there(field: str, written: object, read: int | None) -> None:
    """As ISO 8601 or as a number; without it nobody could tell whether the customer has changed."""
    target = target_of(HTTP.model_copy(update={"created_field": "created"}))
    times = {"changed": "2023-11-14T22:13:20Z", "created": "2023-11-14T22:13:20Z"}
    sight = target.read_lookup("1", body({"id": "1", "orders": [], **times, field: written}))
    if read is None:
        assert isinstance(sight, Unread)
        assert field in sight.reason
    else:
        assert isinstance(sight, Found)
        assert getattr(sight, field) == read
    del times[field]
    assert isinstance(target.read_lookup("1", body({"id": "1", "orders": [], **times})), Unread)


def test_a_drivly_customer_says_when_it_was_changed() -> None:
    """As documented; without it nobody could tell whether it has changed since."""
    for row in ({"id": 7}, {"id": 7, "updatedAt": None}, {"id": 7, "updatedAt": NOW}):
        assert isinstance(target_of(DRIVLY).read_lookup("7", body(row)), Unread)


def test_a_relation_that_the_look_up_does_not_show_is_not_taken_for_empty() -> None:
    """Null or an empty list is; a missing one may have been renamed, or hidden from this credential."""
    row = {"id": "a-1", "changed": "2023-11-14T22:13:20Z"}
    seen = target_of(HTTP).read_lookup("a-1", body({**row, "orders": None}))
    assert isinstance(seen, Found)
    assert (seen.related, seen.unseen) == ((), ())
    unseen = target_of(HTTP).read_lookup("a-1", body(row))
    assert isinstance(unseen, Found)
    assert (unseen.related, unseen.unseen) == ((), ("orders",))


def test_a_target_without_look_up_has_none() -> None:
    """And no canary."""
    target = target_of(HTTP.model_copy(update={"lookup": None, "canary_id": None}))
    assert target.lookup("1") is None
    assert target.canary() is None


def test_a_look_up_with_nothing_to_read_in_it_is_taken_as_it_is() -> None:
    """A 200 that is no JSON shows a customer, where nothing of it was configured."""
    plain = HTTP.model_copy(update={"id_field": None, "changed_field": None, "relations": ()})
    assert target_of(plain).read_lookup("1", Reply(200, body=b"yes")) == Found(None, None, (), b"yes")


def test_configured_statuses_come_before_the_general_ones() -> None:
    """An API may say 404 for done, or 202 for deleted."""
    target = target_of(HTTP.model_copy(update={"done": frozenset({202}), "gone": frozenset({304}), "retry": {423}}))
    assert target.read_delete(Reply(202)) == Answer.DONE
    assert target.read_delete(Reply(304)) == Answer.GONE
    assert target.read_delete(Reply(423)) == Answer.LATER


# Credentials


def test_credentials_are_headers_from_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read when a call is made, and nowhere in the handler."""
    monkeypatch.setenv("KEY", "users API-Key abc")
    assert credentials(DRIVLY)() == {"Authorization": "users API-Key abc"}
    assert credentials(HTTP)() == {"X-Key": "users API-Key abc"}
    monkeypatch.delenv("KEY")
    with pytest.raises(ValueError, match="KEY"):
        credentials(DRIVLY)()
