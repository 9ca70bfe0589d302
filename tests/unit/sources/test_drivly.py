"""drivly: what is asked, how answers are read, and what becomes of each field of the document."""

import copy
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.unit.sources.documented import HASHER, answer, customer_of, normalizing, silent
from worker.errors import CredentialError, MalformedPageError, RefusedError, UpstreamError
from worker.events import Customer
from worker.simulator import qs
from worker.sources import Bad, Exists, Missing, Moment, Page, Row, Stub, Unsure
from worker.sources.drivly import Drivly, DrivlySettings
from worker.times import milliseconds

FIELDS = Path(__file__).parents[3] / "docs" / "fields.md"
SERVER = 1_750_000_000_000  # 2025-06-15T15:06:40Z
MOMENT = Moment(SERVER + 5, SERVER)
T0 = "2025-06-15T12:00:00.000Z"
T1 = "2025-06-15T12:00:00.001Z"
# Every field of the document's customer, and the id that every answer has.
DOCUMENT: dict[str, Any] = {
    "id": 7,
    "customerId": "CUS-7",
    "leads": [11],
    "address": 12,
    "shippingContact": 13,
    "deals": [14],
    "createdBy": 15,
    "lastModifiedBy": 16,
    "email": "Ada@Example.com",
    "phone": "(202) 555-0143",
    "insurancePolicies": [17],
    "tenants": [18],
    "consumerStatus": "SOLD",
    "consumerFirstName": "Ada",
    "consumerMiddleName": "M",
    "consumerLastName": "Byron",
    "consumerSuffix": "Jr",
    "consumerDateOfBirth": "1990-09-20",
    "consumerEducationLevel": "MASTER",
    "consumerVehicles": [19],
    "consumerPhoneType": "MOBILE",
    "consumerDriversLicense": "B7654321",
    "consumerDriversLicenseState": "tx",
    "consumerDriversLicenseNumber": "A1234567",
    "consumerDriversLicenseExp": "2030-01-01",
    "consumerDriversLicenseExpiration": "2030-01-02",
    "consumerPreApprovals": [20],
    "consumerGetPreApproved": "yes",
    "consumerProvideProofOfInsurance": "insured",
    "consumerLoginToBank": "secret bank",
    "consumerConnectCar": "connected",
    "consumerProvideProofOfIncome": "secret proof",
    "consumerConsumerId": "CON-7",
    "consumerCreditApplicationId": "APP-7",
    "deals2": [21],
    "consumerSocialSecurity": "123-45-6780",
    "consumerDriversLicenceState": "ok",
    "consumerIncome": 123456,
    "consumerIncomeInterval": "SECRETLY",
    "consumerEmploymentStatusCode": "SECRET_STATUS",
    "consumerEmploymentDuration": 654321,
    "consumerEmployerName": "Secret Works",
    "consumerEmployerPhone": "+12025550199",
    "consumerEmploymentTitle": "Secretary",
    "consumerPreviousEmployerName": "Secret Mills",
    "consumerPreviousEmployerPhone": "+12025550198",
    "consumerPreviousEmploymentTitle": "Secret Agent",
    "consumerPreviousEmploymentDuration": 765432,
    "consumerPreviousEmploymentincome": 876543,
    "consumerTimeAtResidence": 22,
    "consumerPreviousAddressLine1": "1 Main St",
    "consumerPreviousAddressLine2": "Apt 2",
    "consumerPreviousAddressCity": "Natick",
    "consumerPreviousAddressState": "ma",
    "consumerPreviousZip": "01760",
    "consumerPreviousAddressDuration": 23,
    "consumerResidenceType": "RENT",
    "consumerRentMortgage": 24,
    "consumerOtherIncomeDescription": "secret income",
    "consumerOtherIncomeAmount": 987654,
    "consumerLeadSource": ["Car Concierge (Andrew)"],
    "companyName": "Example Works",
    "companyDealerDeals": [25],
    "companyDealsFacilitated": [26],
    "companyInsuranceQuotes": [27],
    "companyType": ["Dealer"],
    "companyWebsite": "https://www.example.com",
    "companyStripeConnectLink": "https://connect.example.com",
    "companyCustomerPortalLink": "https://portal.example.com",
    "companyServiceQuotes": [28],
    "companyServiceOrders": "orders",
    "companyServiceQuotesPartners": [29],
    "companyVisibility": "PRIVATE",
    "companyTenants2": [30],
    "companyCustomer": [31],
    "companyTrades": [32],
    "companyTenants3": [33],
    "companyPartnerBrand": 34,
    "companyDeals3": [35],
    "companyRouteOneDealer": "route one",
    "companyTransportServiceOrders": [36],
    "updatedAt": T1,
    "createdAt": T0,
}
# Income, employment and bank: nothing of them may be published.
DROPPED = {
    "consumerLoginToBank",
    "consumerProvideProofOfIncome",
    "consumerIncome",
    "consumerIncomeInterval",
    "consumerEmploymentStatusCode",
    "consumerEmploymentDuration",
    "consumerEmployerName",
    "consumerEmployerPhone",
    "consumerEmploymentTitle",
    "consumerPreviousEmployerName",
    "consumerPreviousEmployerPhone",
    "consumerPreviousEmploymentTitle",
    "consumerPreviousEmploymentDuration",
    "consumerPreviousEmploymentincome",
    "consumerOtherIncomeDescription",
    "consumerOtherIncomeAmount",
}
HASHED = {"consumerSocialSecurity", "consumerDriversLicense", "consumerDriversLicenseNumber"}
# What has a place of its own in the model; the rest are attributes.
PLACED = {
    "id",
    "email",
    "phone",
    "consumerPhoneType",
    "companyName",
    "companyType",
    "consumerLeadSource",
    "consumerFirstName",
    "consumerMiddleName",
    "consumerLastName",
    "consumerSuffix",
    "consumerDateOfBirth",
    "consumerStatus",
    "consumerPreviousAddressLine1",
    "consumerPreviousAddressLine2",
    "consumerPreviousAddressCity",
    "consumerPreviousAddressState",
    "consumerPreviousZip",
    "customerId",
    "consumerConsumerId",
    "consumerCreditApplicationId",
    "createdAt",
    "updatedAt",
}


def source(**settings: Any) -> Drivly:
    """Return a source."""
    given_ = {"url": "https://crm.example.com/api", "key": {"env": "KEY"}, "page_size": 3, **settings}
    return Drivly("crm", DrivlySettings.model_validate(given_))


def asked(feed: str, cursor: dict[str, Any] | None, moment: Moment = MOMENT, **settings: Any) -> dict[str, Any]:
    """Return a request's parameters as the server reads them."""
    request = source(**settings).request(feed, cursor, moment)
    assert request is not None
    assert (request.method, request.path, request.json) == ("GET", "/customers", None)
    return qs.parse("&".join(f"{name}={value}" for name, value in request.query))


def listing(*docs: Any, more: Any = False, total: Any = None, **other: Any) -> dict[str, Any]:
    """Return a listing as Payload writes it."""
    return {"docs": list(docs), "totalDocs": len(docs) if total is None else total, "hasNextPage": more, **other}


def doc(id_: Any, updated: Any = T0, **fields: Any) -> dict[str, Any]:
    """Return a small customer."""
    return {"id": id_, "updatedAt": updated, **fields}


def read(feed: str, body: Any, cursor: dict[str, Any] | None = None, status: int = 200, **settings: Any) -> Page:
    """Read an answer."""
    return source(**settings).read(feed, cursor, MOMENT, answer(body, status, content_type="application/json"))


class TestAsking:
    """Requests."""

    def test_the_head_reads_from_the_start_what_is_not_of_the_future(self) -> None:
        """A first reading has no keyset, asks for depth 0, and leaves out what is stamped over a minute ahead."""
        assert asked("head", None) == {
            "depth": "0",
            "limit": "3",
            "sort": "updatedAt,id",
            "where": {"and": [{"updatedAt": {"less_than_equal": "2025-06-15T15:07:40.005Z"}}]},
        }

    def test_the_head_goes_on_behind_its_cursor(self) -> None:
        """The keyset is what is later, or of the same time with a greater id; the time is as the server wrote it."""
        cursor = {"updatedAt": "2025-06-15T12:00:00Z", "id": 7}
        assert asked("head", cursor)["where"]["and"][0] == {
            "or": [
                {"updatedAt": {"greater_than": "2025-06-15T12:00:00Z"}},
                {"and": [{"updatedAt": {"equals": "2025-06-15T12:00:00Z"}}, {"id": {"greater_than": "7"}}]},
            ]
        }

    def test_a_slow_clock_of_ours_hides_nothing(self) -> None:
        """The head's bound goes by the later of the two clocks."""
        bound = asked("head", None, Moment(0, SERVER))["where"]["and"][0]
        assert bound == {"updatedAt": {"less_than_equal": "2025-06-15T15:07:40.000Z"}}

    def test_the_tail_stays_behind_the_servers_clock(self) -> None:
        """The tail reads what is older than the lookback by the server's own clock."""
        cursor = {"updatedAt": T0, "id": 7}
        assert asked("tail", cursor, lookback="10s")["where"]["and"][1] == {
            "updatedAt": {"less_than_equal": "2025-06-15T15:06:30.000Z"}
        }

    def test_the_tail_waits_for_the_servers_clock(self) -> None:
        """Before the server has told its time there is nothing to read up to."""
        assert source().request("tail", None, Moment(SERVER)) is None

    @pytest.mark.parametrize(("dated", "server"), [(True, None), (False, SERVER), (False, None)])
    def test_a_server_without_a_clock_is_said(self, *, dated: bool, server: int | None) -> None:
        """No answer of it bore a Date, and so there is no tail; one answer without is nothing."""
        response = answer(listing(doc(1)))
        date = {"date": "Sun, 15 Jun 2025 15:06:40 GMT"} if dated else {}
        response = replace(response, headers={**response.headers, **date})
        page = source().read("head", None, Moment(SERVER, server), response)
        assert (page.note is None) == (dated or server is not None)

    def test_the_tail_waits_until_something_can_be_new(self) -> None:
        """What was read to the end is not read again before the server's clock has moved."""
        until = read("tail", listing()).cursor
        assert source().request("tail", until, MOMENT) is None
        assert source().request("tail", until, Moment(SERVER, SERVER + 1000)) is not None

    @pytest.mark.parametrize("year", [1, 2026, 9999])
    def test_a_clock_that_was_wrong_once_puts_the_tail_to_no_sleep(self, year: int) -> None:
        """What it was read until is not believed where it lies far beyond the server's clock, or at no time at all."""
        wrong = milliseconds(f"{year:04}-01-01T00:00:00Z")
        cursor = source().read("tail", None, Moment(SERVER, wrong), answer(listing())).cursor
        assert source().request("tail", cursor, MOMENT) is not None
        mended = source().read("tail", cursor, MOMENT, answer(listing())).cursor
        assert source().request("tail", mended, MOMENT) is None

    def test_a_tail_that_is_not_at_its_end_goes_on(self) -> None:
        """Between two pages nothing is waited for."""
        page = read("tail", listing(doc(1), doc(2), doc(3)))
        assert page.more
        assert source().request("tail", page.cursor, MOMENT) is not None

    def test_the_sweep_asks_for_ids_and_times(self) -> None:
        """The sweep goes by id and reads no more of a customer than when it changed."""
        assert asked("sweep", None) == {
            "depth": "0",
            "select": {"id": "true", "updatedAt": "true"},
            "limit": "3",
            "sort": "id",
        }
        assert asked("sweep", {"id": 7, "total": 9})["where"] == {"and": [{"id": {"greater_than": "7"}}]}

    @pytest.mark.parametrize(
        ("feed", "cursor", "place"),
        [
            ("head", None, 1),
            ("tail", {"updatedAt": T0, "id": 7}, 2),
            ("sweep", None, 0),
            ("sweep", {"id": 7, "total": 9}, 1),
        ],
    )
    def test_a_configured_filter_is_added_to_our_bounds(self, feed: str, cursor: Any, place: int) -> None:
        """The configured filter stands beside our own bounds in every feed."""
        where = {"or": [{"tenants": {"in": [1, 2]}}, {"companyName": {"exists": True}}]}
        conditions = asked(feed, cursor, where=where)["where"]["and"]
        assert len(conditions) == place + 1
        assert conditions[place] == {"or": [{"tenants": {"in": ["1", "2"]}}, {"companyName": {"exists": "true"}}]}

    def test_the_locales_are_asked_for(self) -> None:
        """Locale and fallback stand in every request, look-ups included."""
        drivly = source(locale="en", fallback_locale="nb-NO")
        for request in (*(drivly.request(feed.name, None, MOMENT) for feed in drivly.feeds()), drivly.lookup("7")):
            assert request is not None
            assert {("locale", "en"), ("fallback-locale", "nb-NO"), ("depth", "0")} <= set(request.query)

    def test_the_whole_credential_is_configured(self) -> None:
        """The Authorization header is what the secret says, without a scheme of ours; there are no tokens."""
        assert source().authorize({"key": "users API-Key k"}, None) == {"Authorization": "users API-Key k"}
        assert source().token_request({"key": "k"}) is None
        with pytest.raises(MalformedPageError, match="the API has none"):
            source().read_token(answer({}))

    def test_the_sweep_waits_for_the_head(self) -> None:
        """The head and the tail are read at the source's interval, the sweep rarely and only after the head."""
        feeds = {feed.name: feed for feed in source(interval="2s", scan_interval="1h").feeds()}
        assert [(feed.name, feed.interval, feed.enumerates) for feed in feeds.values()] == [
            ("head", 2, False),
            ("tail", 2, False),
            ("sweep", 3600, True),
        ]
        assert feeds["sweep"].after == "head"

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ({"where": {"color": {"equal": "mint"}}}, "no operator"),
            ({"locale": "en&depth=2"}, "locale"),
            ({"id_type": "text"}, "id_type"),
            ({"depth": 2}, "depth"),
            ({"key": "a key itself"}, "key"),
        ],
    )
    def test_a_wrong_setting_is_refused(self, settings: dict[str, Any], said: str) -> None:
        """What the server would ignore or misread is found when the configuration is read."""
        with pytest.raises(ValidationError, match=said):
            source(**settings)


class TestReading:
    """Pages."""

    @pytest.mark.parametrize("feed", ["head", "tail"])
    def test_a_page_holds_its_customers(self, feed: str) -> None:
        """Each doc is a row with its id as text and its time; the cursor is the last one's place."""
        page = read(feed, listing(doc(7, T0), doc(3, T1, email="ada@example.com")))
        assert page.items == [
            Row("7", doc(7, T0), 1_749_988_800_000),
            Row("3", doc(3, T1, email="ada@example.com"), 1_749_988_800_001),
        ]
        assert not page.more
        assert {name: page.cursor[name] for name in ("updatedAt", "id")} == {"updatedAt": T1, "id": 3}

    def test_the_cursor_is_the_servers_own_words(self) -> None:
        """The time is kept as it was written, the id as it was typed: nothing is lost between two pages."""
        stamp = "2025-06-15T14:00:00.123456+02:00"
        assert read("head", listing(doc("65f0c0ffee0000000000abcd", stamp))).cursor == {
            "updatedAt": stamp,
            "id": "65f0c0ffee0000000000abcd",
        }

    def test_the_sweep_lists_ids(self) -> None:
        """Each doc of the sweep is word of a customer, with the total that the first page told."""
        first = read("sweep", listing(doc(1), doc(2, None), doc(3), total=4, more=True))
        assert first.items == [Stub("1", 1_749_988_800_000), Stub("2", None), Stub("3", 1_749_988_800_000)]
        last = read("sweep", listing(doc(4), total=1), first.cursor)
        assert [(page.total, page.more) for page in (first, last)] == [(4, True), (4, False)]

    @pytest.mark.parametrize("feed", ["head", "tail", "sweep"])
    def test_a_full_page_may_have_another_behind_it(self, feed: str) -> None:
        """As many docs as were asked for, or the server's own word, say that there is more."""
        assert read(feed, listing(doc(1), doc(2), doc(3))).more
        assert read(feed, listing(doc(1), total=2, more=True)).more
        assert not read(feed, listing(doc(1), doc(2))).more

    @pytest.mark.parametrize("feed", ["head", "tail", "sweep"])
    def test_an_empty_page_leaves_the_cursor(self, feed: str) -> None:
        """Where nothing is behind the cursor it stays where it was."""
        cursor = {"id": 7, "total": 3} if feed == "sweep" else {"updatedAt": T0, "id": 7}
        page = read(feed, listing(), cursor)
        assert (list(page.items), page.more) == ([], False)
        assert cursor.items() <= page.cursor.items()

    def test_an_empty_source_is_no_error(self) -> None:
        """A source without customers is read to its end; whether that alarms somebody is not the adapter's business."""
        assert read("head", listing()) == Page([], {}, more=False)
        assert read("sweep", listing()) == Page([], {}, more=False, total=0)

    def test_a_customer_without_a_time_is_set_aside(self) -> None:
        """A doc with an id but no readable time is bad, and does not hold up the others."""
        page = read("head", listing(doc(1), doc(2, "yesterday"), doc(3, T1)))
        bad = page.items[1]
        assert bad == Bad("2", "updatedAt is missing or is no time", len(orjson.dumps(doc(2, "yesterday"))))
        assert isinstance(bad, Bad)
        assert bad.record == doc(2, "yesterday")
        assert page.cursor == {"updatedAt": T1, "id": 3}

    @pytest.mark.parametrize("id_", ["x" * 129, "a\nb", "a\u200bb"])
    @pytest.mark.parametrize("feed", ["head", "sweep"])
    def test_a_customer_whose_id_cannot_be_used_is_set_aside(self, feed: str, id_: str) -> None:
        """It does not hold up the others, and the reading goes on behind it, with a time or without."""
        odd = doc(id_, T1)
        page = read(feed, listing(doc("a"), odd))
        assert page.items[1] == Bad(id_, "its id cannot be used", len(orjson.dumps(odd)))
        assert page.cursor["id"] == id_
        timeless = read(feed, listing(doc("a"), doc(id_, None))).items[1]
        assert isinstance(timeless, Bad)
        assert timeless.reason == "its id cannot be used"

    def test_a_customer_that_stands_twice_is_taken_once(self) -> None:
        """Of two entries of one customer the later is taken, and the operator is told."""
        page = read("head", listing(doc(1, T0, email="old"), doc(1, T1, email="new")))
        assert page.items == [Row("1", doc(1, T1, email="new"), 1_749_988_800_001)]
        assert page.note == "1 entries of a page stood there twice; each was taken once"

    def test_half_an_emoji_does_not_block_a_source(self) -> None:
        """A name with half a surrogate pair is read, with the rest of its page."""
        body = b'{"docs":[{"id":1,"updatedAt":"%s","email":"\\ud83d"}],"totalDocs":1,"hasNextPage":false}' % T0.encode()
        (item,) = read("head", body).items
        assert isinstance(item, Row)
        assert item.body["email"] == "\N{REPLACEMENT CHARACTER}"

    @pytest.mark.parametrize(
        ("feed", "cursor", "docs", "said"),
        [
            ("head", None, [doc(1, T1), doc(2, T0)], "order"),
            ("head", None, [doc(2, T0), doc(1, T0)], "order"),
            ("head", None, [doc("65f0c0ffee0000000000abcd"), doc("65f0c0ffee0000000000abcc")], "order"),
            ("head", {"updatedAt": T1, "id": 1}, [doc(1, T0)], "order"),
            ("tail", {"updatedAt": T0, "id": 9}, [doc(8, T0)], "order"),
            ("sweep", None, [doc(2), doc(1)], "order"),
            ("sweep", {"id": 5, "total": 9}, [doc(1)], "order"),
            ("head", None, [doc(1, "2025-06-15T15:07:40.006Z")], "newer"),
            ("tail", None, [doc(1, "2025-06-15T15:06:10.001Z")], "newer"),
            ("head", {"updatedAt": T0, "id": 1}, [doc(1), doc(1), doc(1)], "lead on"),
            ("head", None, [doc(1, None), doc(2, None), doc(3, None)], "lead on"),
            ("sweep", {"id": 1, "total": 9}, [doc(1), doc(1), doc(1)], "lead on"),
        ],
    )
    def test_a_page_that_was_not_asked_for_is_refused(
        self, feed: str, cursor: Any, docs: list[dict[str, Any]], said: str
    ) -> None:
        """A server that ignored the sort, the keyset or the bound is found out, before anything is passed over."""
        with pytest.raises(MalformedPageError, match=said):
            read(feed, listing(*docs), cursor)

    def test_texts_of_a_database_of_its_own_are_taken_in_its_order(self) -> None:
        """How a database orders custom ids is its own affair."""
        page = read("sweep", listing(doc("b"), doc("A")))
        assert [item.id for item in page.items] == ["b", "A"]

    @pytest.mark.parametrize(
        "body",
        [
            None,
            [],
            {},
            "docs",
            {"docs": None},
            {"docs": {}},
            {"docs": [], "totalDocs": 0},
            {"docs": [], "hasNextPage": None, "totalDocs": 0},
            {"docs": [], "hasNextPage": "false", "totalDocs": 0},
            {"docs": [], "hasNextPage": True, "totalDocs": 0},
            {"errors": [{"message": "Something went wrong."}]},
            listing(None),
            listing([]),
            listing({}),
            listing(doc(1), {"updatedAt": T0}),
            listing(doc(None)),
            listing(doc(True)),
            listing(doc(1.5)),
            listing(doc({})),
            b"<html></html>",
            b"",
            orjson.dumps(listing(doc(1)))[:-5],
            b'{"docs":[NaN],"totalDocs":1,"hasNextPage":false}',
        ],
    )
    @pytest.mark.parametrize("feed", ["head", "tail", "sweep"])
    def test_what_the_document_does_not_describe_is_refused(self, feed: str, body: Any) -> None:
        """An answer that is no listing fails the scan."""
        with pytest.raises(MalformedPageError, match=f"^crm: reading a page of the {feed}: "):
            read(feed, body)

    @pytest.mark.parametrize("total", ["1", 1.0, True, 0, -1])
    def test_a_total_that_does_not_count_is_refused(self, total: Any) -> None:
        """An enumeration is only believed with a total that fits it."""
        with pytest.raises(MalformedPageError, match="totalDocs"):
            read("sweep", listing(doc(1), total=total))

    def test_an_empty_page_of_many_is_refused(self) -> None:
        """No docs although there are some is no empty source."""
        with pytest.raises(MalformedPageError, match="totalDocs"):
            read("sweep", listing(total=5))

    @pytest.mark.parametrize(
        ("status", "error", "said"),
        [
            (403, CredentialError, "credential"),
            (204, RefusedError, "answered 204"),
            (301, RefusedError, "redirects"),
            (404, RefusedError, "url"),
            (431, RefusedError, "answered 431"),
        ],
    )
    def test_a_status_fails_the_scan(self, status: int, error: type[UpstreamError], said: str) -> None:
        """Any status but 200 is an error that says what to do."""
        with pytest.raises(error, match=said):
            read("head", listing(), status=status)

    def test_a_refused_filter_names_its_fields(self) -> None:
        """A 400 says which fields the server does not know, and repeats nothing else of it."""
        body = {
            "errors": [
                {
                    "name": "QueryError",
                    "message": "ada@example.com",
                    "data": [{"path": "colour"}, {"path": "a b@example"}],
                }
            ]
        }
        with pytest.raises(RefusedError, match=r"answered 400 \(fields that cannot be queried: colour\)") as raised:
            read("head", body, status=400)
        assert "example.com" not in str(raised.value)

    @pytest.mark.parametrize(
        "body", [{}, [], None, {"errors": None}, {"errors": [None, {"data": None}, {"data": [{}]}]}]
    )
    def test_a_refusal_may_say_nothing(self, body: Any) -> None:
        """A 400 of any shape is a refusal."""
        with pytest.raises(RefusedError, match="answered 400\n"):
            read("head", body, status=400)


class TestLookingUp:
    """Look-ups."""

    @pytest.mark.parametrize(
        ("id_type", "good"),
        [
            ("number", ["0", "12", "9007199254740993"]),
            ("objectid", ["65f0c0ffee0000000000abcd"]),
            ("uuid", ["8a6e0804-2bd0-4672-b79d-d97027f9071a"]),
        ],
    )
    def test_only_an_id_of_the_api_is_looked_up(self, id_type: str, good: list[str]) -> None:
        """An id has one of the shapes that the server does not read as another's."""
        for customer_id in good:
            for configured in ("auto", id_type):
                request = source(id_type=configured).lookup(customer_id)
                assert request is not None
                assert (request.method, request.path) == ("GET", f"/customers/{customer_id}")
        others = {"number", "objectid", "uuid"} - {id_type}
        assert [source(id_type=other).lookup(good[0]) for other in others] == [None, None]

    @pytest.mark.parametrize(
        "customer_id",
        [
            "",
            "12abc",
            " 12",
            "12\n",
            "012",
            "-1",
            "1e3",
            "1.5",
            "12/..",
            "..",
            "12?where={}",
            "%31",
            "\N{FULLWIDTH DIGIT ONE}",
        ],
    )
    def test_a_loose_id_is_never_looked_up(self, customer_id: str) -> None:
        """The server reads `12abc` as 12: what is not strictly an id is not asked for."""
        assert source().lookup(customer_id) is None

    def test_a_customer_that_is_there_exists(self) -> None:
        """200 with the very id asked for is the customer."""
        body = doc(12, T1, email="ada@example.com")
        assert source().read_lookup("12", answer(body)) == Exists(Row("12", body, 1_749_988_800_001))

    def test_a_404_in_the_apis_words_is_conclusive(self) -> None:
        """Payload's own 404 says that there is no such customer."""
        assert source().read_lookup("12", answer({"errors": [{"message": "Not Found"}]}, 404)) == Missing(
            conclusive=True
        )

    @pytest.mark.parametrize(
        ("body", "status"),
        [
            (b"<html>Not Found</html>", 404),
            ({"message": 'Route not found "/api/customers/12"'}, 404),
            ({"errors": []}, 404),
            (b"", 404),
            (doc(13), 200),
            (doc("12abc"), 200),
            ({"updatedAt": T0}, 200),
            ([], 200),
            (b"<html></html>", 200),
            ({"errors": [{"message": "x"}]}, 200),
            (b"", 204),
            (b"", 301),
            (b"", 400),
            ({"errors": [{"message": "no"}]}, 403),
            (b"", 410),
        ],
    )
    def test_any_other_answer_proves_nothing(self, body: Any, status: int) -> None:
        """What is neither the customer nor the API's own word of its absence leaves it open."""
        assert isinstance(source().read_lookup("12", answer(body, status)), Unsure)


class TestNormalizing:
    """What becomes of a customer."""

    def test_the_documents_customer(self) -> None:
        """The document's customer, normalized."""
        customer = dict(customer_of(source(), DOCUMENT, "7"))
        attributes = customer.pop("attributes")
        ssn = HASHER.identifier("ssn", "123456780")
        older, licence = (HASHER.identifier("drivers_licence", number) for number in ("B7654321", "A1234567"))
        address = {
            "line1": "1 Main St",
            "line2": "Apt 2",
            "city": "Natick",
            "region": "ma",
            "postcode": "01760",
            "country": None,
        }
        assert customer == {
            "source": "crm",
            "id": "7",
            "kind": "person",
            "name": {"given": "Ada", "middle": "M", "family": "Byron", "suffix": "Jr", "full": "Ada M Byron Jr"},
            "company": {"name": "Example Works", "organization_number": None},
            "emails": [
                {"value": "Ada@Example.com", "normalized": "ada@example.com", "label": None, "preferred": False}
            ],
            "phones": [
                {"value": "(202) 555-0143", "normalized": "+12025550143", "label": "MOBILE", "preferred": False}
            ],
            "addresses": [
                {"value": address, "normalized": {**address, "region": "MA"}, "label": "previous", "preferred": False}
            ],
            "date_of_birth": "1990-09-20",
            "locale": None,
            "status": "SOLD",
            "references": [
                {"type": "customerId", "id": "CUS-7"},
                {"type": "consumerConsumerId", "id": "CON-7"},
                {"type": "consumerCreditApplicationId", "id": "APP-7"},
            ],
            "identifiers": [
                {"type": "ssn", "hash": ssn, "issuer": None, "near": ANY},
                {"type": "drivers_licence", "hash": older, "issuer": "TX", "near": ANY},
                {"type": "drivers_licence", "hash": licence, "issuer": "TX", "near": ANY},
            ],
            "consents": [],
            "tags": ["Car Concierge (Andrew)", "Dealer"],
            "metadata": {},
            "created_at": T0,
            "updated_at": T1,
            "first_seen": "",
        }
        assert attributes == {field: DOCUMENT[field] for field in DOCUMENT if field not in DROPPED | HASHED | PLACED}

    def test_every_field_of_the_document_has_its_place(self) -> None:
        """Every field shows in the customer, but what is dropped and the id, which is the row's."""
        assert silent(source(), DOCUMENT) == DROPPED | {"id"}

    def test_the_table_names_every_field(self) -> None:
        """The documentation has a row for each field, and says of the private ones what is done with them."""
        section = FIELDS.read_text(encoding="utf-8").partition("\n## drivly\n")[2].partition("\n## ")[0]
        rows = [line.split("|")[1:3] for line in section.splitlines() if line.startswith("| `")]
        said = {field: place for fields, place in rows for field in re.findall(r"`([A-Za-z0-9]+)`", fields)}
        assert set(said) == set(DOCUMENT)
        assert {field for field, place in said.items() if "dropped" in place} == DROPPED
        assert {field for field, place in said.items() if "hashed" in place} == HASHED

    def test_nothing_private_is_published(self) -> None:
        """Neither the values nor the names of the private fields are in the customer."""
        published = orjson.dumps(customer_of(source(), DOCUMENT)).decode()
        for field in DROPPED | HASHED:
            assert str(DOCUMENT[field]) not in published
            assert f'"{field}"' not in published

    def test_the_policy_is_the_settings_to_change(self) -> None:
        """A setting may keep what is dropped, drop what is kept, and hash what is neither."""
        privacy = {"consumerIncome": "keep", "email": "drop", "companyName": "hash", "consumerLeadSource": "drop"}
        customer = customer_of(source(), DOCUMENT, privacy=privacy)
        assert customer["attributes"]["consumerIncome"] == 123456
        assert customer["emails"] == []
        assert customer["company"] is None
        assert customer["tags"] == ["Dealer"]
        assert {"type": "companyName", "hash": HASHER.identifier("companyName", "EXAMPLEWORKS"), "issuer": None} in (
            customer["identifiers"]
        )

    @pytest.mark.parametrize(
        ("fields", "kind"),
        [
            ({"companyName": "Example Works"}, "company"),
            ({"companyType": ["Dealer"]}, "company"),
            ({"companyName": "Example Works", "consumerLastName": "Byron"}, "person"),
            ({"email": "ada@example.com"}, "person"),
            ({}, "person"),
        ],
    )
    def test_a_customer_without_a_name_but_with_a_company_is_one(self, fields: dict[str, Any], kind: str) -> None:
        """A customer is a person, unless it has a company's fields and nobody's name."""
        assert customer_of(source(), fields)["kind"] == kind

    def test_the_other_spelling_of_the_state_will_do(self) -> None:
        """The licence's state is taken from either spelling, the document's first one before the other."""
        fields = {"consumerDriversLicenseNumber": "A1234567", "consumerDriversLicenceState": "ok"}
        assert [identifier["issuer"] for identifier in customer_of(source(), fields)["identifiers"]] == ["OK"]

    def test_a_licence_written_twice_is_one(self) -> None:
        """The same number in both fields is one identifier."""
        fields = {"consumerDriversLicenseNumber": "A1234567", "consumerDriversLicense": "a-1234567"}
        assert len(customer_of(source(), fields)["identifiers"]) == 1

    def test_a_phones_kind_without_a_phone_is_kept(self) -> None:
        """What would label a phone is an attribute where there is none."""
        assert customer_of(source(), {"consumerPhoneType": "MOBILE"})["attributes"] == {"consumerPhoneType": "MOBILE"}

    def test_an_embedded_document_is_no_reference(self) -> None:
        """A reference is a single value; anything else stays an attribute."""
        customer = customer_of(
            source(), {"customerId": {"id": 1}, "consumerConsumerId": 5, "consumerCreditApplicationId": " "}
        )
        assert customer["references"] == [{"type": "consumerConsumerId", "id": "5"}]
        assert customer["attributes"] == {"customerId": {"id": 1}}

    def test_a_single_tag_is_a_list_of_one(self) -> None:
        """Tags come as a list or as one text."""
        assert customer_of(source(), {"consumerLeadSource": "Web", "companyType": ["Dealer", None, ""]})["tags"] == [
            "Web",
            "Dealer",
        ]

    def test_an_empty_customer_is_empty(self) -> None:
        """Nulls and empty texts become nulls and empty lists; every key is there."""
        nothings: tuple[Any, ...] = (None, "", [], {})
        for nothing in nothings:
            customer = customer_of(source(), dict.fromkeys(DOCUMENT, nothing))
            assert set(customer) == set(Customer.__annotations__)
            filled = {field: value for field, value in customer.items() if value not in (None, [], {}, "")}
            assert filled == {"source": "crm", "id": "1", "kind": "person"}

    def test_the_record_is_left_as_it_was(self) -> None:
        """Normalizing takes nothing away from the record, which is still to be fingerprinted."""
        record = copy.deepcopy(DOCUMENT)
        row = Row("7", record)
        source().normalize(row, normalizing(source()))
        assert record == DOCUMENT
        assert source().essence(row) is record

    @given(
        st.dictionaries(
            st.sampled_from(sorted(DOCUMENT)),
            st.recursive(
                st.none()
                | st.booleans()
                | st.integers(-(2**63), 2**63)
                | st.floats(allow_nan=False)
                | st.text(max_size=30),
                lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
                max_leaves=8,
            ),
        )
    )
    def test_anything_may_stand_in_any_field(self, record: dict[str, Any]) -> None:
        """Whatever JSON stands in the fields, there is a customer that can be written, the same each time."""
        customer = customer_of(source(), record)
        assert orjson.dumps(customer) == orjson.dumps(customer_of(source(), copy.deepcopy(record)))
