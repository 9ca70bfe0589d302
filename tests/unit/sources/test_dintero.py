"""dintero: what is asked, how answers are read, and what becomes of each field of the vendor's reference."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.unit.sources.documented import answer, customer_of, silent, undocumented
from worker.errors import CredentialError, CursorExpiredError, MalformedPageError, RefusedError
from worker.sources import Bad, Cursor, Item, Moment, Page, Row, Token, Tombstone, Unsure
from worker.sources.dintero import Dintero, DinteroSettings
from worker.times import milliseconds, rfc3339

ID = "3c90c3cc-0d44-4b50-8888-8dd25736052a"
SECOND = 1000
NOW = 1_750_000_000 * SECOND
MOMENT = Moment(NOW, NOW)
# Every field of the vendor's reference.
DOCUMENT: dict[str, Any] = {
    "type": "customer",
    "customer_id": "D-1",
    "metadata": {"dob_year": 1985},
    "id": ID,
    "created_at": "2023-11-07T05:31:56Z",
    "created_by": "creator",
    "updated_at": "2023-11-08T05:31:56Z",
    "deleted_by": None,
    "deleted_at": None,
    "first_name": "John",
    "last_name": "Doe",
    "email": "Customer@Example.com",
    "phone_number": "+4740000001",
    "attributes": {"segment": "A"},
    "status": "active",
    "favorite_store": "store-1",
    "enrolled_by": {"value": "https://example.com", "type": "url"},
    "marketing_consent": {
        "sms": {"consent": True, "updated_at": "2018-01-12T13:42:00Z"},
        "email": {"consent": False, "updated_at": "2018-01-13T13:42:00Z"},
    },
    "addresses": [
        {
            "address_line": "Storgata 34",
            "postal_place": "Oslo",
            "country": "NO",
            "address_line_2": "PB 123",
            "postal_code": "0349",
            "latitude": 59.942112,
            "longitude": 10.716991,
            "type": "custom",
            "custom_type": "cabin",
            "comment": "5th floor, use doorbell.",
        }
    ],
    "term": {"id": "term-1", "accepted_at": "2023-11-09T05:31:56Z"},
    "company": {
        "bussiness_name": "Example AS",
        "organization_number": "123456789MVA",
        "department": "sales department",
        "industry": "computer industry",
        "website": "https://example.com/as",
        "number_of_employees": "12",
    },
    "gender": "male",
    "date_of_birth": "1990-09-20",
    "contact_for": [{"customer_id": "D-2"}],
    "paging_token": "pt1",
}


def settings_of(**settings: Any) -> DinteroSettings:
    """Return checked settings."""
    references = {"client_id": {"env": "ID"}, "client_secret": {"env": "SECRET"}}
    return DinteroSettings.model_validate({
        "url": "https://api.example.com",
        "aid": "P12345678",
        **references,
        **settings,
    })


def source(**settings: Any) -> Dintero:
    """Return a dintero source."""
    return Dintero("shop", settings_of(**settings))


def user(number: int, updated: int, **fields: Any) -> dict[str, Any]:
    """Return a user that was updated at `updated` (ms since the epoch)."""
    return {"id": f"u{number}", "updated_at": rfc3339(updated), **fields}


def tombstone(number: int, deleted: int) -> dict[str, Any]:
    """Return a deleted user."""
    return {"id": f"u{number}", "customer_id": f"c{number}", "deleted_at": rfc3339(deleted), "deleted_by": "x"}


# What becomes of the fields


def test_every_field_of_the_reference_has_its_place() -> None:
    """Only the ids of the record and of its page, and what only a tombstone has, are not in the rest of a customer."""
    assert silent(source(), DOCUMENT) == {"id", "paging_token", "deleted_at", "addresses.type"}
    home = {"addresses": [{"postal_place": "Oslo", "type": "home"}]}
    assert silent(source(), home) == set()


def test_the_documentation_says_of_every_field_where_it_goes() -> None:
    """Each field of the document has a row in docs/fields.md, and each row a field."""
    assert undocumented("dintero", DOCUMENT) == (set(), {"tags"})


def test_a_user_becomes_a_customer() -> None:
    """The reference's user, normalized."""
    place = {
        "line1": "Storgata 34",
        "line2": "PB 123",
        "city": "Oslo",
        "region": None,
        "postcode": "0349",
        "country": "NO",
    }
    assert dict(customer_of(source(), DOCUMENT, ID)) == {
        "source": "shop",
        "id": ID,
        "kind": "person",
        "name": {"given": "John", "middle": None, "family": "Doe", "suffix": None, "full": "John Doe"},
        "company": {"name": "Example AS", "organization_number": "123456789MVA"},
        "emails": [
            {"value": "Customer@Example.com", "normalized": "customer@example.com", "label": None, "preferred": True}
        ],
        "phones": [{"value": "+4740000001", "normalized": "+4740000001", "label": None, "preferred": True}],
        "addresses": [{"value": place, "normalized": place, "label": "cabin", "preferred": False}],
        "date_of_birth": "1990-09-20",
        "locale": None,
        "status": "active",
        "references": [{"type": "customerId", "id": "D-1"}],
        "identifiers": [],
        "consents": [{"channel": "email", "granted": False}, {"channel": "sms", "granted": True}],
        "tags": [],
        "metadata": {"dob_year": 1985},
        "attributes": {
            "created_by": "creator",
            "attributes": {"segment": "A"},
            "favorite_store": "store-1",
            "enrolled_by": {"value": "https://example.com", "type": "url"},
            "addresses": [{"latitude": 59.942112, "longitude": 10.716991, "comment": "5th floor, use doorbell."}],
            "term": {"id": "term-1", "accepted_at": "2023-11-09T05:31:56Z"},
            "company": {
                "department": "sales department",
                "industry": "computer industry",
                "website": "https://example.com/as",
                "number_of_employees": "12",
            },
            "gender": "male",
            "contact_for": [{"customer_id": "D-2"}],
            "marketing_consent": {
                "sms": {"updated_at": "2018-01-12T13:42:00Z"},
                "email": {"updated_at": "2018-01-13T13:42:00Z"},
            },
        },
        "created_at": "2023-11-07T05:31:56.000Z",
        "updated_at": "2023-11-08T05:31:56.000Z",
        "first_seen": "",
    }


@pytest.mark.parametrize(
    ("type_", "kind"),
    [
        ("customer", "person"),
        ("company", "company"),
        ("contact", "contact"),
        ("employee", "employee"),
        ("other", "other"),
        (None, "person"),
        ("robot", "other"),
        (7, "other"),
    ],
)
def test_each_type_becomes_a_kind(type_: object, kind: str) -> None:
    """The vendor's types are the kinds; one that is new is kept as an attribute."""
    customer = customer_of(source(), {"id": ID, "type": type_})
    assert customer["kind"] == kind
    assert customer["attributes"] == (
        {} if type_ in {"customer", "company", "contact", "employee", "other", None} else {"type": type_}
    )


@pytest.mark.parametrize("odd", [7, "text", [], {}, [None], [[]], {"sms": 7, "x": {"y": 1}}, True, {"a": True}])
def test_fields_of_another_shape_are_kept_as_they_came(odd: object) -> None:
    """Nothing raises over a field of another type, and what is no consent, company or address stays an attribute."""
    names = (
        "marketing_consent",
        "addresses",
        "company",
        "contact_for",
        "term",
        "enrolled_by",
        "metadata",
        "attributes",
    )
    customer = customer_of(source(), {"id": ID, **dict.fromkeys(names, odd)})
    left = customer["attributes"]
    assert left.get("term") == (odd or None)
    assert customer["consents"] == ([{"channel": "a", "granted": True}] if odd == {"a": True} else [])
    assert (customer["metadata"] or left.get("metadata")) == (odd or None)


@pytest.mark.parametrize("tags", [["VIP", "new"], [{"tag": "new", "id": "1"}, {"tag": "VIP"}]])
def test_tags_are_taken_where_they_come(tags: list[Any]) -> None:
    """Tags, which the reference has on a path of their own, are read in either shape, in a settled order."""
    assert customer_of(source(), {"id": ID, "tags": tags})["tags"] == ["VIP", "new"]


def test_the_paging_token_and_the_order_of_contacts_change_no_fingerprint() -> None:
    """What moves without the customer having changed is not fingerprinted; its time of change is."""
    links = [{"customer_id": "a"}, {"customer_id": "b"}]
    one = {**DOCUMENT, "contact_for": links}
    assert fingerprinted(one) == fingerprinted({**one, "paging_token": "pt2", "contact_for": links[::-1]})
    assert fingerprinted(one) != fingerprinted({**one, "updated_at": "2024-01-01T00:00:00Z"})
    assert customer_of(source(), one) == customer_of(source(), {**one, "contact_for": links[::-1]})


def fingerprinted(record: dict[str, Any]) -> bytes:
    """Return what would be hashed of a record."""
    return orjson.dumps(source().essence(Row(ID, record)), option=orjson.OPT_SORT_KEYS)


# What is asked


def test_everybody_is_listed_first() -> None:
    """The first reading lists by paging token; it asks for deleted users and for contacts."""
    request = source().request("since", None, MOMENT)
    assert (request.method, request.path) == ("GET", "/v1/accounts/P12345678/customers/users")
    assert request.query == (("type", "any"), ("include_deleted", "true"), ("limit", "100"))


def test_since_and_starting_after_never_meet() -> None:
    """A request has either a time or a paging token."""
    dintero = source(page_size=7)
    since = dintero.request("since", {"since": NOW, "floor": 0}, MOMENT)
    assert since.query[1:] == (
        ("include_deleted", "true"),
        ("limit", "7"),
        ("since_datetime", "2025-06-15T15:06:40.000Z"),
    )
    for feed in ("since", "check"):
        listing = dintero.request(feed, {"after": "pt1", "floor": 0, "total": 1}, MOMENT)
        assert listing.query[1:] == (("include_deleted", "true"), ("limit", "7"), ("starting_after", "pt1"))


def test_every_filter_of_the_document_can_be_configured() -> None:
    """Each filter is sent under its name in the vendor's reference, its value as it is."""
    given_filters = {
        "type": "contact",
        "token_value": "tv",
        "token_type": "tt",
        "email": "a+b@example.com",
        "phone_number": "+47400",
        "search": "Ada B",
        "tag_id": "t-1",
        "attributes_keys": ["k1", "k2"],
        "attributes_values": ["v1", "v2"],
    }
    request = source(**given_filters).request("since", None, MOMENT)
    assert request.query[:-2] == (
        ("type", "contact"),
        ("token_value", "tv"),
        ("token_type", "tt"),
        ("email", "a+b@example.com"),
        ("phone_number", "+47400"),
        ("search", "Ada B"),
        ("tag_id", "t-1"),
        ("attributes_keys", "k1"),
        ("attributes_keys", "k2"),
        ("attributes_values", "v1"),
        ("attributes_values", "v2"),
    )


def test_the_check_first_asks_how_many_there_are() -> None:
    """The total is asked for without deleted users, whatever the API counts, and stands on every page."""
    dintero = source(page_size=2, search="x")
    request = dintero.request("check", None, MOMENT)
    assert request.query == (("type", "any"), ("search", "x"), ("limit", "1"), ("total", "true"))
    counted = dintero.read("check", None, MOMENT, answer([user(1, NOW)], total_count="3"))
    assert (counted.items, counted.more, counted.total) == ((), True, 3)
    page = dintero.read("check", counted.cursor, MOMENT, answer([user(1, NOW), user(2, NOW)]))
    assert (page.more, page.total, page.cursor["after"]) == (True, 3, "u2")
    last = dintero.read("check", page.cursor, MOMENT, answer([]))
    assert (last.more, last.total, last.items) == (False, 3, ())


@pytest.mark.parametrize("count", [None, "", "many", "-1", "9" * 11])
def test_a_total_that_is_none_is_no_total(count: str | None) -> None:
    """Without a usable total-count header there is no total."""
    headers: dict[str, Any] = {} if count is None else {"total_count": count}
    assert source().read("check", None, MOMENT, answer([], **headers)).total is None


def test_nothing_is_looked_up() -> None:
    """The API's look-up takes `customer_id`, which is not the id."""
    assert source().lookup(ID) is None
    assert isinstance(source().read_lookup(ID, answer({}, 404)), Unsure)


# How pages are read


def read(cursor: Cursor | None, users: list[dict[str, Any]], moment: Moment = MOMENT, **settings: Any) -> Page:
    """Read one page of `since`."""
    return source(**settings).read("since", cursor, moment, answer(users))


def test_a_page_leads_on_by_its_newest_time_whatever_its_order() -> None:
    """The next bound is a millisecond below the newest time, so that it may be inclusive or not."""
    users = [user(1, NOW - 5 * SECOND), user(2, NOW - SECOND), tombstone(3, NOW - 3 * SECOND)]
    page = read({"since": NOW - 9 * SECOND}, users)
    assert page.cursor == {"since": NOW - SECOND - 1, "floor": NOW - 30 * SECOND}
    assert page.more


def test_a_tombstone_leads_on_by_its_time_of_deletion() -> None:
    """A page of tombstones alone has no updated_at, and still leads on."""
    page = read({"since": NOW - 9 * SECOND}, [tombstone(1, NOW - SECOND)])
    assert page.cursor["since"] == NOW - SECOND - 1
    assert page.items == [Tombstone("u1", NOW - SECOND)]


def test_a_reading_ends_where_nothing_is_newer_and_begins_again_before_it_began() -> None:
    """After the last page the bound goes back to `lookback` before the reading began, by the server's clock."""
    first = read({"since": NOW - 100 * SECOND}, [user(1, NOW - SECOND)], lookback="40s")
    assert first.cursor["floor"] == NOW - 40 * SECOND
    later = Moment(NOW, NOW + 7 * SECOND)
    last = read(first.cursor, [user(1, NOW - SECOND)], later, lookback="40s")
    assert (last.cursor, last.more) == ({"since": NOW - 40 * SECOND}, False)


def test_a_quiet_source_is_asked_from_lookback_on() -> None:
    """An empty answer moves the bound on with the server's clock."""
    assert read({"since": 0}, []).cursor == {"since": NOW - 30 * SECOND}


def test_a_clock_that_was_wrong_once_puts_nothing_to_sleep() -> None:
    """By the server's next right word of its time the bound goes back, from wherever it was."""
    wrong = read({"since": NOW - 60 * SECOND}, [], Moment(NOW, NOW + 86_400 * SECOND)).cursor
    assert wrong["since"] > NOW
    assert read(wrong, []).cursor == {"since": NOW - 30 * SECOND}


def test_without_the_server_s_clock_its_own_stamps_are_the_clock() -> None:
    """Before the server has told its time, the newest time it wrote stands for it, at most our own."""
    unknown = Moment(NOW)
    ended = read(read({"since": 0}, [user(1, NOW - 100 * SECOND)], unknown).cursor, [], unknown)
    assert ended.cursor == {"since": NOW - 130 * SECOND}
    future = read(read({"since": 0}, [user(1, NOW + 10**9)], unknown).cursor, [], unknown)
    assert future.cursor == {"since": NOW - 30 * SECOND}
    assert read({"since": 5}, [], unknown).cursor == {"since": 5}


def test_a_full_page_of_one_time_falls_back_to_the_listing() -> None:
    """Where a full page cannot lead on, everybody is listed, from the start, and the note says so."""
    users = [user(number, NOW - SECOND) for number in range(3)]
    page = read({"since": NOW - SECOND - 1, "floor": 7}, users, page_size=3)
    assert page.cursor == {"floor": NOW - 30 * SECOND}
    assert page.more
    assert page.note == "3 customers with one time fill a page of changes: everybody is read by starting_after"
    assert source(page_size=3).request("since", page.cursor, MOMENT).query[-1] == ("limit", "3")


def test_a_full_page_without_any_time_falls_back_too() -> None:
    """Times that cannot be read lead nowhere."""
    users = [{"id": "1", "updated_at": "yesterday"}, {"id": "2"}]
    assert read({"since": 0, "floor": 0}, users, page_size=2).cursor == {"floor": NOW - 30 * SECOND}


def test_a_listing_goes_on_behind_the_last_user() -> None:
    """The last element's paging token leads on, or its id where it has none; the end is an empty page."""
    page = read(None, [user(2, NOW, paging_token="pt2"), user(1, NOW, paging_token="pt1")])
    assert (page.cursor["after"], page.cursor["floor"], page.more) == ("pt1", NOW - 30 * SECOND, True)
    assert read(page.cursor, [user(3, NOW)]).cursor["after"] == "u3"
    end = read(page.cursor, [], Moment(NOW, NOW + 999 * SECOND))
    assert (end.cursor, end.more) == ({"since": NOW - 30 * SECOND}, False)


def test_a_paging_token_that_repeats_is_a_circle() -> None:
    """A listing that goes round is refused."""
    cursor = read(read(None, [user(1, NOW)]).cursor, [user(2, NOW)]).cursor
    with pytest.raises(MalformedPageError, match="the cursor repeats"):
        read(cursor, [user(2, NOW)])


@pytest.mark.parametrize("link", [{"customer_id": "c9"}, {"id": "u9"}, "u9", "c9"])
def test_users_linked_from_a_contact_do_not_say_where_a_page_ends(link: object) -> None:
    """Users that come along with a contact lead neither the bound nor the listing on; they are read all the same."""
    users = [user(1, NOW - 9 * SECOND, contact_for=[link]), user(9, NOW - SECOND, customer_id="c9")]
    page = read({"since": 0}, users)
    assert page.cursor["since"] == NOW - 9 * SECOND - 1
    assert [item_id(item) for item in page.items] == ["u1", "u9"]
    assert read(None, users).cursor["after"] == "u1"


def test_of_a_type_only_users_of_it_are_customers() -> None:
    """Users of another type, which a contact brings along, are none of the source; tombstones have no type."""
    users = [
        user(1, NOW - 9 * SECOND, type="contact", contact_for=["u9"]),
        user(9, NOW - SECOND, type="customer"),
        user(2, NOW - 8 * SECOND),
        tombstone(3, NOW - 8 * SECOND),
    ]
    for cursor in (None, {"since": 0}):
        assert [item.id for item in read(cursor, users, type="contact").items] == ["u1", "u2", "u3"]
        assert [item.id for item in read(cursor, users).items] == ["u1", "u9", "u2", "u3"]


@pytest.mark.parametrize(("filters", "uncounted"), [({}, False), ({"type": "contact"}, False), ({"email": "a"}, True)])
def test_users_linked_from_a_contact_are_in_no_count_of_a_filter(filters: dict[str, Any], *, uncounted: bool) -> None:
    """Whom a contact brings past a filter the total leaves out; the page says so."""
    users = [user(1, NOW, type="contact", contact_for=["u9"]), user(9, NOW, type="contact")]
    for served, expected in ((users, uncounted), (users[1:], False)):
        page = source(**filters).read("check", {"total": 1}, MOMENT, answer(served))
        assert page.uncounted == expected


def test_contacts_that_link_each_other_still_lead_on() -> None:
    """Where everybody on a page is linked, all of them count."""
    users = [user(1, NOW - 9 * SECOND, contact_for=["u2"]), user(2, NOW - SECOND, contact_for=["u1"])]
    assert read({"since": 0}, users).cursor["since"] == NOW - SECOND - 1


def item_id(item: Item) -> str | None:
    """Return whom an item is about."""
    return item.id


def test_of_two_entries_of_one_customer_the_later_counts() -> None:
    """A customer that stands twice on a page is told once, as it was last."""
    users = [tombstone(1, NOW), user(1, NOW - SECOND), user(2, NOW - SECOND), user(2, NOW - 2 * SECOND)]
    page = read(None, users)
    assert page.items == [Tombstone("u1", NOW), Row("u2", users[2], NOW - SECOND)]
    assert page.note == "2 entries of a page stood there twice; each was taken once"


@pytest.mark.parametrize("deleted_at", ["yesterday", 7, True, [], ""])
def test_a_deletion_at_no_time_is_set_aside(deleted_at: object) -> None:
    """Whether such a customer was deleted cannot be told, so nothing is concluded."""
    users = [{"id": "1", "deleted_at": deleted_at}]
    (bad,) = read(None, users).items
    assert bad == Bad("1", "deleted_at is no time", len(orjson.dumps(users[0])))
    assert isinstance(bad, Bad)
    assert bad.record == users[0]


@pytest.mark.parametrize("updated_at", ["9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", "x", None, 5, {}])
def test_a_change_at_no_time_is_a_change(updated_at: object) -> None:
    """A row whose time cannot be read is read, with its time of creation where it has one."""
    record = {"id": "1", "updated_at": updated_at, "created_at": "2025-01-01T00:00:00Z"}
    assert read(None, [record]).items == [Row("1", record, milliseconds("2025-01-01T00:00:00Z"))]


@pytest.mark.parametrize("body", [b"<html>", {}, [None], [{}], [{"id": ""}], [{"id": True}], [{"id": 1.5}], [[]]])
def test_an_answer_that_is_not_as_documented_is_refused(body: object) -> None:
    """A page that cannot be read fails the reading, without saying what was in it."""
    with pytest.raises(MalformedPageError):
        source().read("since", None, MOMENT, answer(body))


@pytest.mark.parametrize("id_", [7, "x" * 256, "a\nb", "a\u200bb", " "])
def test_a_customer_whose_id_cannot_be_used_is_set_aside(id_: object) -> None:
    """It stops nobody else, and leads a listing on as any other."""
    users = [user(1, NOW), {"id": id_}]
    for feed, cursor in (("since", None), ("since", {"since": 0}), ("check", {"total": 2})):
        page = source().read(feed, cursor, MOMENT, answer(users))
        assert page.items == [
            Row("u1", users[0], NOW),
            Bad(str(id_), "its id cannot be used", len(orjson.dumps(users[1]))),
        ]
    assert page.cursor["after"] == str(id_)


@pytest.mark.parametrize("status", [400, 404, 410])
def test_only_a_paging_token_can_expire(status: int) -> None:
    """A paging token that is no longer taken starts the listing over; a refused time or first page is a refusal."""
    for feed in ("since", "check"):
        with pytest.raises(CursorExpiredError):
            source().read(feed, {"after": "x", "floor": 0}, MOMENT, answer({}, status))
    for cursor in (None, {"since": 0}):
        with pytest.raises(RefusedError):
            source().read("since", cursor, MOMENT, answer({}, status))


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"error": {"code": "BAD_REQUEST", "message": "ada@example.com"}}, " (BAD_REQUEST)"),
        ({"error": {"code": "ada@example.com has none"}}, ""),
        ({"error": {"code": 7}}, ""),
        ({"error": []}, ""),
        (b"<html>", ""),
    ],
)
def test_a_refusal_tells_the_api_s_code_and_nothing_else(body: object, told: str) -> None:
    """The message of an error may repeat a customer's data; its code does not."""
    with pytest.raises(RefusedError) as caught:
        source().read("since", None, MOMENT, answer(body, 400))
    assert caught.value.message == f"shop: reading a page of since: GET /example answered 400{told}"


def test_a_forbidden_page_is_the_credential_s_fault() -> None:
    """403 is for a person to mend."""
    with pytest.raises(CredentialError):
        source().read("since", None, MOMENT, answer({}, 403))


@given(
    st.lists(st.tuples(st.integers(0, 60), st.booleans()), max_size=60), st.integers(1, 5), st.integers(0, 1), st.data()
)
def test_every_change_is_read_whatever_the_bound_means(
    stamps: list[tuple[int, bool]], size: int, bound_is_included: int, data: st.DataObject
) -> None:
    """For any times of change, sizes of page and orders in a page, one reading shows every user and comes to an end."""
    users = [(tombstone if dead else user)(number, NOW + stamp) for number, (stamp, dead) in enumerate(stamps)]
    ordered = sorted(users, key=_stamp)
    dintero, cursor, shown = source(page_size=size), {"since": NOW - 1}, set[str | None]()
    for _ in range(4 * len(users) + 4):
        query = dict(dintero.request("since", cursor, MOMENT).query)
        bound = milliseconds(query.get("since_datetime"))
        if bound is None:
            places = [entry["id"] for entry in users]
            found = users[places.index(query["starting_after"]) + 1 if "starting_after" in query else 0 :]
        else:
            found = [entry for entry in ordered if _stamp(entry) + bound_is_included > bound]
        served = found[:size] if bound is None else data.draw(st.permutations(found[:size]))
        page = dintero.read("since", cursor, MOMENT, answer(served))
        shown |= {item.id for item in page.items}
        cursor = page.cursor
        if not page.more:
            break
    else:
        pytest.fail("the reading does not end")
    assert shown == {entry["id"] for entry in users}


def _stamp(entry: dict[str, Any]) -> int:
    return milliseconds(entry.get("updated_at") or entry["deleted_at"]) or 0


# The credential


def test_a_token_is_asked_for_with_client_credentials() -> None:
    """The request for a token, with the account as its audience unless another one is configured."""
    secrets = {"client_id": "Aladdin", "client_secret": "open sesame"}
    request = source().token_request(secrets)
    assert (request.method, request.path) == ("POST", "/v1/accounts/P12345678/auth/token")
    assert request.headers == (("Authorization", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),)
    audience = "https://api.example.com/v1/accounts/P12345678"
    assert request.json == {"grant_type": "client_credentials", "audience": audience}
    other = source(audience="https://other.example.com").token_request(secrets)
    assert other.json == {"grant_type": "client_credentials", "audience": "https://other.example.com"}


def test_a_token_lives_as_long_as_it_says() -> None:
    """The token and its seconds are read, and the token travels as a bearer."""
    body = {"access_token": "ey.x.y", "token_type": "Bearer", "expires_in": 86400}
    assert source().read_token(answer(body)) == Token("ey.x.y", 86400.0)
    assert source().authorize({}, "ey.x.y") == {"Authorization": "Bearer ey.x.y"}


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ({"error": {"code": "invalid_client"}}, 400, CredentialError),
        ({}, 401, CredentialError),
        ({}, 403, CredentialError),
        ({}, 404, RefusedError),
        ({}, 302, RefusedError),
        (b"<html>", 200, MalformedPageError),
        ([], 200, MalformedPageError),
        ({"expires_in": 1}, 200, MalformedPageError),
        ({"access_token": "a b", "expires_in": 1}, 200, MalformedPageError),
        ({"access_token": "a\n", "expires_in": 1}, 200, MalformedPageError),
        ({"access_token": "a"}, 200, MalformedPageError),
        ({"access_token": "a", "expires_in": 0}, 200, MalformedPageError),
        ({"access_token": "a", "expires_in": True}, 200, MalformedPageError),
        ({"access_token": "a", "expires_in": "1"}, 200, MalformedPageError),
    ],
)
def test_a_token_that_is_none_is_refused(body: object, status: int, error: type[Exception]) -> None:
    """A refused client is the credential's fault; an odd answer is not."""
    with pytest.raises(error):
        source().read_token(answer(body, status))


# The settings


@pytest.mark.parametrize("filters", [{"type": "customer"}, {"search": "a"}, {"attributes_keys": ["k"]}])
def test_the_settings_say_whether_there_is_a_filter(filters: dict[str, Any]) -> None:
    """Without one the API shows everybody."""
    assert settings_of(**filters).filtered()
    assert not settings_of(page_size=5).filtered()


@pytest.mark.parametrize(
    "settings",
    [
        {"aid": "X12345678"},
        {"aid": "P1234567"},
        {"page_size": 101},
        {"type": "robot"},
        {"attributes_keys": ["1", "2", "3", "4", "5"]},
        {"attributes_keys": ["1"], "attributes_values": ["1", "2"]},
        {"attributes_values": ["1"]},
        {"email": ""},
        {"lookback": "-1s"},
    ],
)
def test_settings_that_the_api_would_refuse_are_refused(settings: dict[str, Any]) -> None:
    """What cannot be is said when the configuration is read."""
    with pytest.raises(ValidationError):
        source(**settings)


def test_the_scope_is_the_account_and_the_filters() -> None:
    """Another account or filter shows other customers; anything else the same."""
    scopes = [
        settings_of(**more).scope()
        for more in ({}, {"page_size": 5, "lookback": 1}, {"aid": "T12345678"}, {"email": "a"}, {"search": "a"})
    ]
    assert scopes[0] == scopes[1]
    assert len(set(scopes)) == 4
