"""mykaarma: what is asked, how answers are read, and what becomes of each field of the document."""

from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from tests.unit.sources.documented import answer, normalizing, silent, undocumented
from worker.errors import CredentialError, MalformedPageError
from worker.events import Customer
from worker.sources import Exists, Missing, Moment, Row, Unsure
from worker.sources.mykaarma import Mykaarma, MykaarmaSettings

ID = "9f1c7c9e-0d44-4b50-8888-8dd25736052a"
REQUESTER = "Wq7nJhXtGpBmNd3KvRzYf2kAcEiLoU8sTPeCbHwOyM1"
DEALER = "7c1e5a9f3b7d1e5a9c3e7b1f5d9a3c7e1b5f9d3a7c1e5b9f3d7a1c5e9b3f7d10"
CARD = "4111111111111111"
# Every field of the document's 200.
INFO: dict[str, Any] = {
    "id": 11,
    "fname": "Ada",
    "lname": "Byron",
    "customerKey": "CK0001",
    "uuid": ID,
    "company": "Example Works",
    "dealerId": 12,
    "communications": [
        {"commValue": "ada@example.com", "commType": "E", "commLabel": "Work", "preferred": True, "id": 13},
        {"commValue": "(555) 010-0123", "commType": "P", "commLabel": "Mobile", "preferred": False, "id": 14},
    ],
    "vehicles": [
        {
            "model": "Example",
            "year": "2020",
            "make": "Sample",
            "engine": "2.0",
            "bodyStyle": "Sedan",
            "trim": "LX",
            "vin": "SYNTHETIC00000001",
            "id": 15,
            "isValid": True,
            "uuid": "vehicle-uuid",
            "vehicleKey": "VK1",
            "imageUrl": "https://example.com/1.png",
        }
    ],
    "secondaryCustomerData": [
        {"fname": "Eve", "lname": "Example", "customerKey": "CK0002", "guid": REQUESTER, "customerId": 16}
    ],
}
ORDER: dict[str, Any] = {
    "dealerOrder_id": 21,
    "dealer_id": 22,
    "customer_id": 23,
    "dealerassociate_id": 24,
    "vehicle_id": 25,
    "order_number": "RO1",
    "order_type": "RO",
    "order_date": "2025-01-01",
    "order_amount": 26,
    "order_status": "OPEN",
    "description": "oil change",
    "created_date": "2025-01-02",
    "close_date": "2025-01-03",
    "dealerOrder_uuid": "order-uuid",
    "tag_or_hat": "T1",
    "dealerOrderStatusFilter": ["OPEN"],
    "updated_date": "2025-01-04",
    "transactions": [
        {
            "tenderDataId": 31,
            "dealerOrderId": 32,
            "customerId": 33,
            "transactionId": 34,
            "deviceId": 35,
            "transactionTypeId": 36,
            "transactionAmount": 37,
            "ccNumber": CARD,
        }
    ],
    "customer_uuid": "order-customer-uuid",
    "vehicle_uuid": "order-vehicle-uuid",
    "dealerAssociate_uuid": "associate-uuid",
}
ADDRESS_V2: dict[str, Any] = {
    "line1": "1 Main St",
    "line2": "Apt 1",
    "city": "Long Beach",
    "zip": "90802",
    "addressType": "HOME",
    "type": "COMMON",
    "country": "US",
    "updateTS": "2025-04-07T07:51:23.970Z",
    "uuid": "address-uuid",
    "isValid": True,
    "isPreferred": True,
    "state": "CA",
}
ADDRESS: dict[str, Any] = {
    "id": 41,
    "dealerID": 42,
    "line1": "2 Other St",
    "line2": "Apt 2",
    "city": "Springfield",
    "zip": "90803",
    "zipExt": "1234",
    "addressType": "WORK",
    "phone": "(555) 010-0124",
    "stateCode": "CA",
    "stateDescription": "California",
    "countryCode": "US",
    "country": "United States",
}
DOCUMENT: dict[str, Any] = {
    "errors": [{"errorCode": 0, "errorTitle": "e", "errorMessage": "m"}],
    "warnings": [{"warningCode": 1, "warningTitle": "w", "warningMessage": "m"}],
    "customerInfo": INFO,
    "dealerOrderInfoList": [ORDER],
    "addressListV2": [ADDRESS_V2],
    "addressList": [ADDRESS],
}


def source(**settings: Any) -> Mykaarma:
    """Return a mykaarma source."""
    given = {
        "url": "https://api.example.com",
        "username": {"env": "USER"},
        "password": {"env": "PASSWORD"},
        "requester_user_uuid": REQUESTER,
        "dealer_uuids": [DEALER],
        **settings,
    }
    return Mykaarma("dealer", MykaarmaSettings.model_validate(given))


def row_of(body: dict[str, Any], **settings: Any) -> Row:
    """Return the row that an answer gives."""
    verdict = source(**settings).read_lookup(ID, answer(body))
    assert isinstance(verdict, Exists), verdict
    return verdict.row


def customer_of(body: dict[str, Any], **settings: Any) -> Customer:
    """Return the normalized customer that an answer gives."""
    mykaarma = source(**settings)
    return mykaarma.normalize(row_of(body, **settings), normalizing(mykaarma))


def test_every_field_of_the_document_has_its_place() -> None:
    """All that is read is in the customer, but for what is the id itself."""
    assert silent(source(orders=True), row_of(DOCUMENT, orders=True).body) == {"uuid"}
    assert set(row_of(DOCUMENT, orders=True).body) == {*INFO, "dealerOrderInfoList", "addressListV2", "addressList"}


def test_the_documentation_says_of_every_field_where_it_goes() -> None:
    """Each field of the document has a row in docs/fields.md, and each row a field."""
    assert undocumented("mykaarma", DOCUMENT) == (set(), set())


def test_only_three_things_are_not_read() -> None:
    """Card numbers, the time stamps of addresses and, unless configured, orders are not in a row."""
    assert "dealerOrderInfoList" not in row_of(DOCUMENT).body
    read = orjson.dumps(row_of(DOCUMENT, orders=True).body)
    assert b"updateTS" not in read
    assert CARD.encode() not in read
    assert b"ccNumber" not in read
    assert orjson.dumps(ORDER).replace(b',"ccNumber":"%s"' % CARD.encode(), b"") in read


def test_a_customer_becomes_a_person() -> None:
    """The document's customer, normalized."""
    assert dict(customer_of({**DOCUMENT, "addressList": []})) == {
        "source": "dealer",
        "id": ID,
        "kind": "person",
        "name": {"given": "Ada", "middle": None, "family": "Byron", "suffix": None, "full": "Ada Byron"},
        "company": {"name": "Example Works", "organization_number": None},
        "emails": [{"value": "ada@example.com", "normalized": "ada@example.com", "label": "Work", "preferred": True}],
        "phones": [{"value": "(555) 010-0123", "normalized": "+15550100123", "label": "Mobile", "preferred": False}],
        "addresses": [
            {
                "value": postal("1 Main St", "Apt 1", "Long Beach", "90802"),
                "normalized": postal("1 Main St", "Apt 1", "Long Beach", "90802"),
                "label": "HOME",
                "preferred": True,
            }
        ],
        "date_of_birth": None,
        "locale": None,
        "status": None,
        "references": [{"type": "customerKey", "id": "CK0001"}],
        "identifiers": [],
        "consents": [],
        "tags": [],
        "metadata": {},
        "attributes": {
            "id": 11,
            "dealerId": 12,
            "communications": [{"commType": "P", "id": 14}, {"commType": "E", "id": 13}],
            "vehicles": INFO["vehicles"],
            "secondaryCustomerData": INFO["secondaryCustomerData"],
            "addressListV2": [{"type": "COMMON", "uuid": "address-uuid", "isValid": True}],
        },
        "created_at": None,
        "updated_at": None,
        "first_seen": "",
    }


def postal(line1: str, line2: str, city: str, postcode: str) -> dict[str, str | None]:
    """Return a postal address in California."""
    place = {"line1": line1, "line2": line2, "city": city}
    return {**place, "region": "CA", "postcode": postcode, "country": "US"}


def test_the_older_shape_of_addresses_is_read_too() -> None:
    """An older address has its postcode in two parts, codes for state and country, and a phone number of its own."""
    customer = customer_of({**DOCUMENT, "errors": [], "addressListV2": None})
    (address,) = customer["addresses"]
    assert address["value"] == postal("2 Other St", "Apt 2", "Springfield", "90803-1234")
    assert (address["label"], address["preferred"]) == ("WORK", False)
    assert customer["phones"][1] == {
        "value": "(555) 010-0124",
        "normalized": "+15550100124",
        "label": "WORK",
        "preferred": False,
    }
    assert customer["attributes"]["addressList"] == [
        {"id": 41, "dealerID": 42, "stateDescription": "California", "country": "United States"}
    ]


def test_an_address_in_both_lists_is_one_address() -> None:
    """The same address in both shapes is taken from the newer list; another one is added."""
    same = {**ADDRESS, "line1": "1 MAIN ST", "line2": "apt 1", "city": "Long  Beach", "zip": "90802", "phone": None}
    customer = customer_of({**DOCUMENT, "addressList": [same, ADDRESS]})
    assert [address["value"]["line1"] for address in customer["addresses"]] == ["1 Main St", "2 Other St"]


def test_a_phone_number_is_told_once() -> None:
    """The number that an older address repeats is the customer's own."""
    customer = customer_of({**DOCUMENT, "addressList": [{**ADDRESS, "phone": "555-010-0123"}]})
    assert [phone["label"] for phone in customer["phones"]] == ["Mobile"]


@pytest.mark.parametrize(
    ("info", "kind"),
    [
        ({"company": "Example Works"}, "company"),
        ({"company": "Example Works", "lname": "Byron"}, "person"),
        ({"fname": "Ada"}, "person"),
        ({}, "person"),
    ],
)
def test_a_customer_with_a_company_and_no_name_is_a_company(info: dict[str, str], kind: str) -> None:
    """Who has only a company's name is a company."""
    assert customer_of({"customerInfo": {"uuid": ID, **info}})["kind"] == kind


@pytest.mark.parametrize(
    ("type_", "value", "is_email"),
    [
        ("EMAIL", "nobody", True),
        ("e", "ada@example.com", True),
        (None, "ada@example.com", True),
        ("TEXT", "5550100123", False),
        ("P", None, False),
        (7, 5550100123, False),
    ],
)
def test_a_communication_is_an_email_by_its_type_or_its_look(type_: object, value: object, *, is_email: bool) -> None:
    """Types that start with E and values with an @ are e-mail addresses; the rest are phone numbers."""
    entry = {"commType": type_, "commValue": value}
    customer = customer_of({"customerInfo": {"uuid": ID, "communications": [entry]}})
    assert len(customer["emails"]) == is_email
    assert len(customer["phones"]) == (not is_email and value is not None)


@pytest.mark.parametrize("odd", [7, "text", {"line1": "1 Main St"}, [None], ["text"], [[]], True])
def test_lists_that_are_none_are_read_as_far_as_they_can_be(odd: object) -> None:
    """Whatever stands where a list should be, the customer is there, and nothing raises."""
    lists = dict.fromkeys(("addressListV2", "addressList", "dealerOrderInfoList"), odd)
    info = {"uuid": ID, **dict.fromkeys(("communications", "vehicles", "secondaryCustomerData", "company"), odd)}
    customer = customer_of({"customerInfo": info, **lists}, orders=True)
    assert customer["id"] == ID


def test_card_numbers_are_taken_out_wherever_they_stand() -> None:
    """No spelling and no place of `ccNumber` leaves the adapter, however deep."""
    deep: Any = {"CCNUMBER": CARD, "kept": 1}
    for _ in range(100):
        deep = [{"ccnumber": CARD, "below": deep}]
    row = row_of({
        "customerInfo": {"uuid": ID, "ccNumber": CARD, "extra": [{"ccNumber": CARD}]},
        "addressList": [{"line1": "1 Main St", "ccNumber": CARD}],
    })
    assert CARD.encode() not in orjson.dumps(row.body)
    nested = row_of({"customerInfo": {"uuid": ID, "extra": deep}})
    assert CARD not in str(list(strings(nested.body)))


def strings(value: Any) -> list[str]:
    """Return every text in a value, without recursion."""
    found, parts = [], [value]
    while parts:
        part = parts.pop()
        parts += [*part.values()] if isinstance(part, dict) else part if isinstance(part, list) else []
        found += [part] if isinstance(part, str) else []
    return found


def test_the_request_says_who_asks_and_for_which_dealers() -> None:
    """The document's request, with the parameter only where it is configured."""
    request = source().lookup(ID)
    assert request is not None
    assert (request.method, request.path, request.query) == ("POST", f"/customer/v2/customer/{ID}", ())
    assert request.json == {"requesterUserUUID": REQUESTER, "dealerUUIDList": [DEALER]}
    for excluded in (True, False):
        request = source(exclude_order_type=excluded).lookup(ID)
        assert request is not None
        assert request.query == (("excludeOrderType", str(excluded).lower()),)


@pytest.mark.parametrize("customer_id", [ID, REQUESTER, DEALER])
def test_each_form_of_the_vendor_s_uuids_is_looked_up(customer_id: str) -> None:
    """The usual form, 256 bits in base64 and 256 bits in hexadecimal are ids."""
    assert source().lookup(customer_id) is not None


@pytest.mark.parametrize(
    "customer_id",
    [
        *("", "1", "..", ID.upper(), ID[:-1], ID + "0", ID + "\n", ID.replace("-", "")),
        *(REQUESTER[:-1] + "/", DEALER[:-1] + "?"),
    ],
)
def test_what_is_no_uuid_is_not_looked_up(customer_id: str) -> None:
    """Anything else never reaches the path of a request."""
    assert source().lookup(customer_id) is None


def test_204_is_not_conclusive() -> None:
    """No content says gone or not visible."""
    assert source().read_lookup(ID, answer(b"", 204)) == Missing(conclusive=False)


WITHOUT = "without a customer"
ANOTHER = "with no customer of this UUID"
PART = "with a part of the customer"


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        ({"errors": [{"errorCode": 7}, {"errorCode": "x"}]}, 200, f"{WITHOUT} (errorCode 7)"),
        ({"errors": [{"errorCode": 7}], "customerInfo": None}, 200, f"{WITHOUT} (errorCode 7)"),
        ({"errors": "x"}, 200, WITHOUT),
        ([], 200, WITHOUT),
        ({"customerInfo": {}}, 200, ANOTHER),
        ({"customerInfo": {"uuid": None}}, 200, ANOTHER),
        ({"customerInfo": {"uuid": REQUESTER}}, 200, ANOTHER),
        ({**DOCUMENT, "addressList": None}, 200, f"{PART} (errorCode 0)"),
        ({"errors": "x", "customerInfo": {"uuid": ID}, "addressList": []}, 200, PART),
        ({"errors": [{"errorCode": 40000}]}, 400, f"{WITHOUT} (errorCode 40000)"),
        ({"customerInfo": {"uuid": ID}}, 404, WITHOUT),
        ({}, 302, WITHOUT),
    ],
)
def test_what_proves_nothing_says_why(body: object, status: int, reason: str) -> None:
    """Errors, other customers and odd statuses neither show nor delete a customer."""
    assert source().read_lookup(ID, answer(body, status)) == Unsure(f"the look-up was answered {status} {reason}")


def test_no_json_proves_nothing() -> None:
    """A page of HTML is no customer and no deletion."""
    verdict = source().read_lookup(ID, answer(b"<html>", 200, content_type="text/html"))
    assert verdict == Unsure("dealer: looking a customer up: the answer is not JSON (6 bytes, text/html)")


def test_a_forbidden_look_up_is_the_credential_s_fault() -> None:
    """403 concerns every customer, so it stops the source."""
    with pytest.raises(CredentialError):
        source().read_lookup(ID, answer({}, 403))


def test_the_order_of_every_list_is_settled() -> None:
    """Lists in another order give the same row, to the fingerprint and to what is published."""
    second = {name: value + "x" if isinstance(value, str) else value for name, value in ADDRESS_V2.items()}
    twice = {
        **DOCUMENT,
        "addressListV2": [ADDRESS_V2, second],
        "dealerOrderInfoList": [{**ORDER, "dealerOrderStatusFilter": ["OPEN", "DONE"]}, {**ORDER, "dealerOrder_id": 0}],
    }
    reversed_ = {
        **twice,
        "customerInfo": {**INFO, "communications": INFO["communications"][::-1]},
        **{name: twice[name][::-1] for name in ("addressListV2", "dealerOrderInfoList")},
    }
    reversed_["dealerOrderInfoList"][1] = {**ORDER, "dealerOrderStatusFilter": ["DONE", "OPEN"]}
    assert row_of(twice, orders=True) == row_of(reversed_, orders=True)


def test_secondary_customers_are_named_if_configured() -> None:
    """Only UUIDs of others are named, each once."""
    named = [{"guid": guid} for guid in (REQUESTER, "x", None, 7, ID, REQUESTER)]
    row = row_of({"customerInfo": {"uuid": ID, "secondaryCustomerData": named}})
    assert source().related(row) == ()
    assert source(follow_secondary=True).related(row) == (REQUESTER,)


def test_there_is_nothing_to_list() -> None:
    """The source has no feeds: it is asked by id alone."""
    mykaarma = source()
    assert mykaarma.feeds() == ()
    assert mykaarma.request("scan", None, Moment(0)) is None
    with pytest.raises(MalformedPageError, match="no list"):
        mykaarma.read("scan", None, Moment(0), answer([]))


def test_user_and_password_travel_as_http_basic() -> None:
    """The service subscriber's credential, as RFC 7617 writes it."""
    header = source().authorize({"username": "Aladdin", "password": "open sesame"}, None)
    assert header == {"Authorization": "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="}


@pytest.mark.parametrize(
    "settings",
    [{"dealer_uuids": []}, {"dealer_uuids": ["x"]}, {"requester_user_uuid": "x"}, {"requester_user_uuid": ID + "\n"}],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any]) -> None:
    """What cannot be is said when the configuration is read."""
    with pytest.raises(ValidationError):
        source(**settings)


def test_the_scope_is_who_asks_for_which_dealers() -> None:
    """Another requester or other dealers see other customers; the dealers' order does not matter."""
    scopes = [
        MykaarmaSettings.model_validate({
            "url": "https://api.example.com", "username": {"env": "U"}, "password": {"env": "P"},
            "requester_user_uuid": requester, "dealer_uuids": dealers, "orders": orders,
        }).scope()
        for requester, dealers, orders in (
            (ID, [DEALER, ID], False), (ID, [ID, DEALER], True), (REQUESTER, [ID, DEALER], False), (ID, [ID], False)
        )
    ]  # fmt: skip
    assert scopes[0] == scopes[1]
    assert len(set(scopes)) == 3
