"""connect: what is asked, how answers are read, and what becomes of each field of the document."""

from typing import Any
from unittest.mock import ANY

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.unit.sources.documented import HASHER, answer, customer_of, normalizing, silent, undocumented
from worker.errors import CursorExpiredError, MalformedPageError, RefusedError
from worker.sources import Bad, Cursor, Exists, Missing, Moment, Row, Unsure
from worker.sources.connect import Connect, ConnectSettings

MOMENT = Moment(0)
ADDRESS = {
    "street1": "500 S Main St",
    "city": "Natick",
    "zip": "01701",
    "country": "US",
    "street2": "Apt 1",
    "state": "MA",
    "region": "New England",
    "attention": "Front desk",
}
# Every field of the document (and `contactPersonUserId`, `createdAt`, `updatedAt` of the older edition).
DOCUMENT: dict[str, Any] = {
    "customerId": "c-1",
    "customerType": "CONSUMER",
    "name": "Ada Byron",
    "contact": {"email": "ada@example.com", "msisdn": "15550100123"},
    "identity": "19151210-0000",
    "preferredLocale": "en-US",
    "humanReadableId": "29A-BY3Z-X78",
    "referenceId": "crm-customer-12345",
    "billing": {
        "method": "E_INVOICE",
        "currency": "USD",
        "email": "billing@example.com",
        "address": {**ADDRESS, "street1": "1 Billing St", "street2": "Floor 1", "attention": "Accounts"},
        "defaultPaymentProfileId": "c1d2e3f4-a5b6-7890-1234-901234567890",
        "autoPay": True,
    },
    "users": [{"userId": "u-1", "name": "User One", "role": "MEMBER"}],
    "contactPerson": {"userId": "u-2", "name": "User Two", "role": "OWNER"},
    "contactPersonUserId": "u-3",
    "shipping": {
        "name": "John Doe",
        "address": ADDRESS,
        "msisdn": "+15550100124",
        "instructions": "Leave at front door",
    },
    "metadata": {"segment": "B"},
    "createdAt": "2025-01-31T12:34:56.789Z",
    "updatedAt": "2025-02-28T12:34:56.789Z",
}


def settings_of(**settings: Any) -> ConnectSettings:
    """Return checked settings."""
    return ConnectSettings.model_validate({"url": "https://api.example.com", "key": {"env": "KEY"}, **settings})


def source(**settings: Any) -> Connect:
    """Return a connect source."""
    return Connect("telco", settings_of(**settings))


def mail(value: str, label: str | None, *, preferred: bool) -> dict[str, Any]:
    """Return an e-mail address that is its own normalized form."""
    return {"value": value, "normalized": value, "label": label, "preferred": preferred}


def test_every_field_of_the_document_has_its_place() -> None:
    """Only the id, and what repeats another field, are not in the rest of a customer."""
    assert silent(source(), DOCUMENT) == {"customerId", "contactPersonUserId"}


def test_the_documentation_says_of_every_field_where_it_goes() -> None:
    """Each field of the document has a row in docs/fields.md, and each row a field."""
    assert undocumented("connect", DOCUMENT) == (set(), set())


def test_a_consumer_becomes_a_person() -> None:
    """A consumer's name is a person's, and its identity a hash."""
    customer = customer_of(source(), DOCUMENT, "c-1")
    assert customer == {
        "source": "telco",
        "id": "c-1",
        "kind": "person",
        "name": {"given": "Ada", "middle": None, "family": "Byron", "suffix": None, "full": "Ada Byron"},
        "company": None,
        "emails": [
            mail("ada@example.com", None, preferred=True),
            mail("billing@example.com", "billing", preferred=False),
        ],
        "phones": [
            {"value": "15550100123", "normalized": "+15550100123", "label": None, "preferred": True},
            {"value": "+15550100124", "normalized": "+15550100124", "label": "shipping", "preferred": False},
        ],
        "addresses": [
            {
                "value": parts("1 Billing St", "Floor 1"),
                "normalized": parts("1 Billing St", "Floor 1"),
                "label": "billing",
                "preferred": False,
            },
            {
                "value": parts("500 S Main St", "Apt 1"),
                "normalized": parts("500 S Main St", "Apt 1"),
                "label": "shipping",
                "preferred": False,
            },
        ],
        "date_of_birth": None,
        "locale": "en-US",
        "status": None,
        "references": [
            {"type": "humanReadableId", "id": "29A-BY3Z-X78"},
            {"type": "referenceId", "id": "crm-customer-12345"},
        ],
        "identifiers": [
            {
                "type": "national_id",
                "hash": HASHER.identifier("national_id", "191512100000"),
                "issuer": None,
                "near": ANY,
            }
        ],
        "consents": [],
        "tags": [],
        "metadata": {"segment": "B"},
        "attributes": {
            "billing": {
                "method": "E_INVOICE",
                "currency": "USD",
                "address": {"region": "New England", "attention": "Accounts"},
                "defaultPaymentProfileId": "c1d2e3f4-a5b6-7890-1234-901234567890",
                "autoPay": True,
            },
            "users": [{"userId": "u-1", "name": "User One", "role": "MEMBER"}],
            "contactPerson": {"userId": "u-2", "name": "User Two", "role": "OWNER"},
            "shipping": {
                "name": "John Doe",
                "address": {"region": "New England", "attention": "Front desk"},
                "instructions": "Leave at front door",
            },
        },
        "created_at": "2025-01-31T12:34:56.789Z",
        "updated_at": "2025-02-28T12:34:56.789Z",
        "first_seen": "",
    }


def parts(line1: str, line2: str) -> dict[str, str | None]:
    """Return the postal address of the document with another street."""
    return {
        "line1": line1,
        "line2": line2,
        "city": "Natick",
        "region": "MA",
        "postcode": "01701",
        "country": "US",
    }


def test_a_business_becomes_a_company() -> None:
    """A business has a company's name; its identity is hashed as an organization number, unless it may be kept."""
    record = {"customerId": "c-2", "customerType": "BUSINESS", "name": "Example AB", "identity": "556000-0000"}
    hashed = customer_of(source(), record)
    assert (hashed["kind"], hashed["name"]) == ("company", None)
    assert hashed["company"] == {"name": "Example AB", "organization_number": None}
    assert [identifier["type"] for identifier in hashed["identifiers"]] == ["organization_number"]
    assert b"556000" not in orjson.dumps(hashed)
    kept = customer_of(source(), record, privacy={"identity": "keep"})
    assert kept["company"] == {"name": "Example AB", "organization_number": "556000-0000"}
    assert kept["identifiers"] == []
    assert "identity" not in kept["attributes"]


def test_a_kept_identity_of_a_consumer_is_an_attribute() -> None:
    """Where the policy keeps it, a consumer's identity is not lost."""
    customer = customer_of(source(), DOCUMENT, privacy={"identity": "keep"})
    assert customer["attributes"]["identity"] == "19151210-0000"


@pytest.mark.parametrize(
    ("msisdn", "normalized"),
    [
        ("4740000001", "+4740000001"),
        ("15550100123", "+15550100123"),
        ("+15550100123", "+15550100123"),
        ("(555) 010-0123", None),
        ("0046", None),
    ],
)
def test_an_msisdn_starts_with_the_country_code(msisdn: str, normalized: str | None) -> None:
    """Figures alone are read as an international number, as the word MSISDN says; anything else as any phone number."""
    (phone,) = customer_of(source(), {"contact": {"msisdn": msisdn}})["phones"]
    assert phone["normalized"] == (normalized or normalizing(source()).phone(msisdn)["normalized"])  # type: ignore[index]


def test_a_page_is_asked_for_by_limit_search_and_cursor() -> None:
    """The first page has no cursor, the next one has the one that the last answer gave."""
    connect = source(search="a b", page_size=7)
    first = connect.request("scan", None, MOMENT)
    assert (first.method, first.path, first.query) == ("GET", "/customers", (("limit", "7"), ("search", "a b")))
    following = connect.request("scan", {"cursor": "xyz", "trail": []}, MOMENT)
    assert following.query == (("limit", "7"), ("search", "a b"), ("cursor", "xyz"))


@pytest.mark.parametrize("pagination", [{"nextCursor": None}, {}, None, {"nextCursor": ""}])
def test_a_listing_ends_where_no_cursor_leads_on(pagination: object) -> None:
    """A null, an absent and an empty cursor are the end."""
    page = source().read("scan", None, MOMENT, answer({"items": [{"customerId": "1"}], "pagination": pagination}))
    assert (page.more, page.items) == (False, [Row("1", {"customerId": "1"})])


@pytest.mark.parametrize("place", ["pagination", "top"])
def test_the_older_edition_is_told_from_its_answer(place: str) -> None:
    """A total without a cursor, wherever it stands, is read on by offset until it is reached."""
    counts = {"total": 3, "limit": 2, "offset": 0}
    body: dict[str, Any] = {"pagination": counts} if place == "pagination" else dict(counts)
    connect = source(page_size=2)
    first = connect.read("scan", None, MOMENT, answer({**body, "items": [{"customerId": "1"}, {"customerId": "2"}]}))
    assert (first.more, first.total, first.cursor) == (True, 3, {"offset": 2})
    assert connect.request("scan", first.cursor, MOMENT).query == (("limit", "2"), ("offset", "2"))
    last = connect.read("scan", first.cursor, MOMENT, answer({**body, "items": [{"customerId": "3"}]}))
    assert (last.more, last.total) == (False, 3)


@pytest.mark.parametrize("total", ["57", 57.0, -1])
def test_a_total_that_is_no_count_matters_only_where_no_cursor_leads_on(total: object) -> None:
    """With a cursor it is not needed; without one nobody would know whether there is more."""
    counts = {"items": [{"customerId": "1"}], "pagination": {"total": total, "nextCursor": "c1"}}
    page = source().read("scan", None, MOMENT, answer(counts))
    assert (page.more, page.total) == (True, None)
    with pytest.raises(MalformedPageError, match="total is no count"):
        source().read("scan", None, MOMENT, answer({"items": [{"customerId": "1"}], "total": total}))


def test_an_empty_page_ends_the_older_edition_s_listing() -> None:
    """Where fewer come than the total says, the reading ends, and the total tells that it was not all."""
    page = source().read("scan", {"offset": 2}, MOMENT, answer({"items": [], "total": 9}))
    assert (page.more, page.total) == (False, 9)


@given(st.integers(0, 40), st.integers(1, 40))
def test_a_circle_of_cursors_is_always_found(before: int, around: int) -> None:
    """Wherever a circle begins and however long it is, it is found, and not before it has been gone round."""
    most = 3 * (before + around) + 3
    cursors = [f"c{page if page < before else before + (page - before) % around}" for page in range(most)]
    with pytest.raises(MalformedPageError, match="the cursor repeats"):
        read_through(cursors)
    read_through(cursors[: before + around])


def read_through(cursors: list[str]) -> Cursor:
    """Read pages that lead on by these cursors, and return the last one."""
    connect, cursor = source(), None
    for following in cursors:
        body = {"items": [], "pagination": {"nextCursor": following}}
        cursor = connect.read("scan", cursor, MOMENT, answer(body)).cursor
    assert cursor is not None
    return cursor


@given(st.integers(1, 300))
def test_cursors_that_differ_are_no_circle(pages: int) -> None:
    """However many pages there are, no circle is seen where there is none, and the cursor stays small."""
    assert len(orjson.dumps(read_through([f"c{page}" for page in range(pages)]))) < 100


@pytest.mark.parametrize(
    "body",
    [
        b"<!doctype html>",
        [],
        {},
        {"items": {}},
        {"items": [{}]},
        {"items": [None]},
        {"items": [{"customerId": ""}]},
        {"items": [{"customerId": True}]},
        {"items": [{"customerId": 1.5}]},
        *({"items": [], "pagination": odd} for odd in ("none", "", [], 0, False)),
        *({"items": [{"customerId": "1"}], "pagination": {"total": odd}} for odd in ("25", 25.0, -1, True, [])),
        {"items": [{"customerId": "1"}], "total": "25"},
        {"items": [], "pagination": {"nextCursor": 7}},
    ],
)
def test_an_answer_that_is_not_as_documented_is_refused(body: object) -> None:
    """A page that cannot be read fails the scan, without saying what was in it."""
    with pytest.raises(MalformedPageError):
        source().read("scan", None, MOMENT, answer(body))


@pytest.mark.parametrize("id_", [7, "x" * 256, "a\nb", "a\u200bb", " "])
def test_a_customer_whose_id_cannot_be_used_is_set_aside(id_: object) -> None:
    """It stops nobody else; a look-up that is answered with it proves nothing."""
    odd = {"customerId": id_}
    page = source().read("scan", None, MOMENT, answer({"items": [{"customerId": "1"}, odd]}))
    bad = Bad(str(id_), "its id cannot be used", len(orjson.dumps(odd)))
    assert page.items == [Row("1", {"customerId": "1"}), bad]
    assert isinstance(source().read_lookup(str(id_), answer(odd)), Unsure)


def test_a_customer_that_stands_twice_on_a_page_is_told_once() -> None:
    """Of two entries of one customer the later one is taken, and the note says so."""
    items = [{"customerId": "1", "name": "a"}, {"customerId": "1", "name": "b"}]
    page = source().read("scan", None, MOMENT, answer({"items": items}))
    assert page.items == [Row("1", {"customerId": "1", "name": "b"})]
    assert page.note == "1 entries of a page stood there twice; each was taken once"


def test_only_a_cursor_can_expire() -> None:
    """A 400 to a cursor starts over, any other 400 is a refusal."""
    with pytest.raises(CursorExpiredError):
        source().read("scan", {"cursor": "x", "trail": []}, MOMENT, answer({}, 400))
    for cursor in (None, {"offset": 10}):
        with pytest.raises(RefusedError):
            source().read("scan", cursor, MOMENT, answer({}, 400))


@pytest.mark.parametrize("customer_id", ["", ".", "..", " ", "a\nb", "x" * 256])
def test_what_can_be_no_id_is_not_looked_up(customer_id: str) -> None:
    """An id that a path would read as something else is never sent."""
    assert source().lookup(customer_id) is None


def test_an_id_is_encoded_in_the_path() -> None:
    """Nothing in an id is taken for a part of the address."""
    request = source().lookup("a/b?c#d é")
    assert request is not None
    assert request.path == "/customers/a%2Fb%3Fc%23d%20%C3%A9"


def test_only_404_says_that_a_customer_is_gone() -> None:
    """The record itself proves existence, 404 the opposite, anything else nothing."""
    connect = source()
    assert connect.read_lookup("1", answer({"customerId": "1"})) == Exists(Row("1", {"customerId": "1"}))
    assert connect.read_lookup("1", answer({}, 404)) == Missing()
    for odd in (
        answer({"customerId": "2"}),
        answer({}),
        answer(b"<html>"),
        answer({}, 302),
        answer({}, 204),
        answer({}, 403),
    ):
        assert isinstance(connect.read_lookup("1", odd), Unsure)


def test_times_and_orders_that_say_nothing_change_no_fingerprint() -> None:
    """Neither the older edition's times nor the order of users or keys makes another customer."""
    users = [{"userId": "1", "name": "a"}, {"userId": "2", "name": "b"}]
    one = {"customerId": "1", "users": users, "metadata": {"a": 1, "b": 2}}
    other = {"metadata": {"b": 2, "a": 1}, "users": users[::-1], "customerId": "1", "updatedAt": "2025-01-01T00:00:00Z"}
    assert fingerprinted(one) == fingerprinted(other)
    assert fingerprinted(one) != fingerprinted({**one, "users": users[:1]})
    assert customer_of(source(), one) | {"updated_at": None} == customer_of(source(), other) | {"updated_at": None}


def fingerprinted(record: dict[str, Any]) -> bytes:
    """Return what would be hashed of a record."""
    return orjson.dumps(source().essence(Row("1", record)), option=orjson.OPT_SORT_KEYS)


@pytest.mark.parametrize("settings", [{"page_size": 1001}, {"page_size": 0}, {"search": ""}, {"cursor": "x"}])
def test_settings_that_the_api_would_refuse_are_refused(settings: dict[str, Any]) -> None:
    """What cannot be is said when the configuration is read."""
    with pytest.raises(ValidationError):
        source(**settings)


def test_another_search_is_another_scope() -> None:
    """The scope tells one search from another, and nothing else."""
    given_settings: list[dict[str, Any]] = [{}, {"page_size": 10}, {"search": "a"}, {"search": "b"}]
    settings = [settings_of(**more) for more in given_settings]
    assert [checked.scope() for checked in settings] == [
        '{"search": null}',
        '{"search": null}',
        '{"search": "a"}',
        '{"search": "b"}',
    ]


def test_the_key_travels_in_its_header() -> None:
    """The API key is sent as X-Api-Key, and there is no token to ask for."""
    assert source().authorize({"key": "secret"}, None) == {"X-Api-Key": "secret"}
    assert source().token_request({"key": "secret"}) is None
