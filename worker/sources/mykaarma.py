"""mykaarma: one customer at a time, `POST /customer/v2/customer/{customerUUID}`.

The API has no list, so the source has no feeds: the poller goes round a watch list and looks each customer up. 204 says
that there is no such customer, or that the requester may not see it: absence is never conclusive here. An answer with
errors proves nothing about a deletion, and where a list is missing beside them, nothing about the customer either.

Card numbers are taken out as the answer is read: they are in no row, no fingerprint and no event. Orders change all the
time and are left out unless the settings ask for them.
"""

import json
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from itertools import starmap
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field

from worker.errors import MalformedPageError
from worker.events import Address, Contact, Customer, Kind, PostalAddress, Reference
from worker.normalize import Normalizer, text
from worker.privacy import Policy
from worker.settings import Secret, SourceSettings, Treatment
from worker.sources import (
    Cursor,
    Exists,
    Feed,
    Missing,
    Moment,
    Page,
    Request,
    Response,
    Row,
    Unsure,
    Verdict,
)
from worker.sources.documented import MYKAARMA
from worker.sources.lists import in_order
from worker.sources.reading import Tokenless, malformed, parse, refuse

# What the vendor calls a UUID: one in its usual form, or 256 bits in base64 for URLs or in hexadecimal.
_UUID_PATTERN: Final = r"^([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9A-Za-z_-]{43}|[0-9a-f]{64})$"
_UUID: Final = re.compile(_UUID_PATTERN).fullmatch
Uuid = Annotated[str, Field(pattern=_UUID_PATTERN)]

_CARD_NUMBER: Final = "ccnumber"
_ORDERS: Final = "dealerOrderInfoList"
_CUSTOMER_KEY: Final = "customerKey"
_ADDRESSES: Final = ("addressListV2", "addressList")
_LISTS: Final = ("communications", "vehicles", "secondaryCustomerData")
_MOST_CODES: Final = 5

_ADDRESS_V2: Final = {
    "line1": "line1",
    "line2": "line2",
    "city": "city",
    "region": "state",
    "postcode": "zip",
    "country": "country",
}
# The fields that have a place of their own in a normalized customer; what is left becomes attributes.
_USED: Final = Policy(
    dict.fromkeys(
        [
            *("uuid", "fname", "lname", _CUSTOMER_KEY, "company"),
            *(f"communications.{name}" for name in ("commValue", "commLabel", "preferred")),
            *(f"addressListV2.{name}" for name in (*_ADDRESS_V2.values(), "addressType", "isPreferred")),
            *(f"addressList.{name}" for name in ("line1", "line2", "city", "zip", "zipExt", "stateCode")),
            *(f"addressList.{name}" for name in ("countryCode", "addressType", "phone")),
        ],
        "drop",
    )
)


class MykaarmaSettings(SourceSettings):
    """The settings of a mykaarma source; `url` ends before `/customer/v2`."""

    kind: Literal["mykaarma"] = "mykaarma"
    username: Secret = Field(description="Of the service subscriber")
    password: Secret
    requester_user_uuid: Uuid = Field(description="On whose behalf customers are looked up")
    dealer_uuids: tuple[Uuid, ...] = Field(min_length=1, description="The dealers whose customers are looked up")
    exclude_order_type: bool | None = Field(default=None, description="Sent as excludeOrderType")
    orders: bool = Field(default=False, description="Take orders in as attributes; each change of one is then an event")
    follow_secondary: bool = Field(default=False, description="Watch the secondary customers found in answers, too")

    def scope(self) -> str:
        """Return what decides which customers are seen."""
        return json.dumps([self.requester_user_uuid, sorted(self.dealer_uuids)])


class Mykaarma(Tokenless):
    """One mykaarma source."""

    kind: ClassVar[str] = "mykaarma"
    version: ClassVar[int] = 1
    Settings: ClassVar[type[SourceSettings]] = MykaarmaSettings
    fields: ClassVar[frozenset[str]] = MYKAARMA
    references: ClassVar[frozenset[str]] = frozenset({_CUSTOMER_KEY})
    privacy: ClassVar[Mapping[str, Treatment]] = {}

    def __init__(self, name: str, settings: MykaarmaSettings) -> None:
        """Prepare what every request has in common."""
        self.name = name
        self._settings = settings
        self._kept = (*_ADDRESSES, _ORDERS) if settings.orders else _ADDRESSES
        excluded = settings.exclude_order_type
        self._query = () if excluded is None else (("excludeOrderType", "true" if excluded else "false"),)
        self._body = {
            "requesterUserUUID": settings.requester_user_uuid,
            "dealerUUIDList": list(settings.dealer_uuids),
        }

    def feeds(self) -> tuple[Feed, ...]:
        """Return nothing: the API has no list."""
        return ()

    def request(self, feed: str, cursor: Cursor | None, moment: Moment) -> Request | None:  # ruff: ignore[unused-method-argument] - no feeds
        """Return None: the API has no list."""
        return None

    def read(self, feed: str, cursor: Cursor | None, moment: Moment, response: Response) -> Page:  # ruff: ignore[unused-method-argument] - ditto
        """Refuse: the API has no list."""
        raise malformed(f"{self.name}: reading {feed}", "the API has no list")

    def lookup(self, customer_id: str) -> Request | None:
        """Return the request for one customer; None for what is no UUID."""
        if not _UUID(customer_id):
            return None
        return Request("POST", f"/customer/v2/customer/{customer_id}", self._query, self._body)

    def read_lookup(self, customer_id: str, response: Response) -> Verdict:
        """Read a look-up: 204 may also mean "not visible to you", and an error is no deletion."""
        doing = f"{self.name}: looking a customer up"
        if response.status == HTTPStatus.NO_CONTENT:
            return Missing(conclusive=False)
        if response.status == HTTPStatus.FORBIDDEN:
            refuse(response, doing)
        try:
            answer = _uncarded(parse(response, doing))
        except MalformedPageError as error:
            return Unsure(error.message)
        info = answer.get("customerInfo") if isinstance(answer, dict) else None
        if response.status != HTTPStatus.OK or not isinstance(info, dict):
            return Unsure(f"the look-up was answered {response.status} without a customer{_codes(answer)}")
        if text(info.get("uuid")) != customer_id:
            return Unsure(f"the look-up was answered {response.status} with no customer of this UUID{_codes(answer)}")
        if answer.get("errors") and not all(isinstance(answer.get(name), list) for name in self._kept):
            return Unsure(f"the look-up was answered {response.status} with a part of the customer{_codes(answer)}")
        return Exists(Row(customer_id, self._record(answer)))

    def _record(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is kept of an answer: the customer, and beside it the lists, in a settled order."""
        record = {name: in_order(value) if name in _LISTS else value for name, value in answer["customerInfo"].items()}
        for name in self._kept:
            record[name] = in_order([_settled(entry) for entry in _list(answer.get(name))])
        return record

    def related(self, row: Row) -> Sequence[str]:
        """Return the ids of other customers that a record names, to be watched as well; none unless configured."""
        if not self._settings.follow_secondary:
            return ()
        found = [entry.get("guid") for entry in _objects(row.body.get("secondaryCustomerData"))]
        return tuple(dict.fromkeys(guid for guid in found if isinstance(guid, str) and _UUID(guid) and guid != row.id))

    def authorize(self, secrets: Mapping[str, str], token: str | None) -> Mapping[str, str]:  # ruff: ignore[unused-method-argument] - no tokens
        """Return the Authorization header (HTTP Basic, RFC 7617)."""
        pair = f"{secrets['username']}:{secrets['password']}"
        return {"Authorization": f"Basic {b64encode(pair.encode()).decode()}"}

    def essence(self, row: Row) -> object:
        """Return the whole row: what is volatile was left out as it was read."""
        return row.body

    def normalize(self, row: Row, normalizer: Normalizer) -> Customer:
        """Return the normalized customer; `docs/fields.md` says field by field what becomes of the document."""
        body, secret = normalizer.screen(row.body)
        get = body.get
        name = normalizer.name(get("fname"), None, get("lname"))
        company = text(get("company"))
        kind: Kind = "company" if company and not name else "person"
        contacts = [_contact(normalizer, entry) for entry in _objects(get("communications"))]
        old = _objects(get("addressList"))
        phones = [contact for email, contact in contacts if contact and not email]
        phones += [phone for entry in old if (phone := _old_phone(normalizer, entry))]
        customer_key = text(get(_CUSTOMER_KEY))
        references: list[Reference] = [{"type": _CUSTOMER_KEY, "id": customer_key.strip()}] if customer_key else []
        identifiers = list(starmap(normalizer.identifier, secret))
        return {
            "source": self.name,
            "id": row.id,
            "kind": kind,
            "name": name,
            "company": {"name": company, "organization_number": None} if company else None,
            "emails": [contact for email, contact in contacts if contact and email],
            "phones": _once(phones),
            "addresses": _addresses(normalizer, _objects(get("addressListV2")), old),
            "date_of_birth": None,
            "locale": None,
            "status": None,
            "references": references,
            "identifiers": [identifier for identifier in identifiers if identifier],
            "consents": [],
            "tags": [],
            "metadata": {},
            "attributes": normalizer.attributes(_left(body)),
            "created_at": None,
            "updated_at": None,
            "first_seen": "",
        }


def _uncarded(answer: Any) -> Any:
    """Return an answer without its card numbers, wherever they stand; it is changed in place."""
    parts = [answer]
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            for name in [name for name in part if name.lower() == _CARD_NUMBER]:
                del part[name]
            parts += part.values()
        elif isinstance(part, list):
            parts += part
    return answer


def _codes(answer: object) -> str:
    """Return the codes of the errors in an answer; their texts may repeat what was asked for."""
    errors = _objects(answer.get("errors")) if isinstance(answer, dict) else []
    codes = [str(error["errorCode"]) for error in errors if type(error.get("errorCode")) is int]
    return f" (errorCode {', '.join(codes[:_MOST_CODES])})" if codes else ""


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _objects(value: object) -> list[dict[str, Any]]:
    return [entry for entry in _list(value) if isinstance(entry, dict)]


def _settled(entry: object) -> object:
    """Return an address without `updateTS`, which moves whenever the dealer's system is read, an order in order."""
    if not isinstance(entry, dict):
        return entry
    return {name: in_order(value) for name, value in entry.items() if name != "updateTS"}


def _contact(normalizer: Normalizer, entry: Mapping[str, Any]) -> tuple[bool, Contact | None]:
    """Return (whether it is an e-mail address, the contact)."""
    value, type_ = text(entry.get("commValue")), text(entry.get("commType")) or ""
    label, preferred = text(entry.get("commLabel")), entry.get("preferred") is True
    if type_.strip().upper().startswith("E") or "@" in (value or ""):
        return True, normalizer.email(value, label, preferred=preferred)
    return False, normalizer.phone(value, label, preferred=preferred)


def _old_phone(normalizer: Normalizer, entry: Mapping[str, Any]) -> Contact | None:
    return normalizer.phone(entry.get("phone"), text(entry.get("addressType")))


def _once(phones: Sequence[Contact]) -> list[Contact]:
    # The older addresses repeat the customer's own number.
    found: dict[str, Contact] = {}
    for phone in phones:
        found.setdefault(phone["normalized"] or phone["value"], phone)
    return list(found.values())


def _addresses(
    normalizer: Normalizer, new: Sequence[Mapping[str, Any]], old: Sequence[Mapping[str, Any]]
) -> list[Address]:
    """Return the addresses of both lists; one that stands in both is taken from the newer one."""
    found = [address for entry in new if (address := _new_address(normalizer, entry))]
    known = {_place(address) for address in found}
    older = [address for entry in old if (address := _old_address(normalizer, entry))]
    return found + [address for address in older if _place(address) not in known]


def _new_address(normalizer: Normalizer, entry: Mapping[str, Any]) -> Address | None:
    parts = {part: entry.get(field) for part, field in _ADDRESS_V2.items()}
    label = text(entry.get("addressType")) or text(entry.get("type"))
    return normalizer.address(parts, label, preferred=entry.get("isPreferred") is True)


def _old_address(normalizer: Normalizer, entry: Mapping[str, Any]) -> Address | None:
    postcode, extension = text(entry.get("zip")), text(entry.get("zipExt"))
    parts = {
        "line1": entry.get("line1"),
        "line2": entry.get("line2"),
        "city": entry.get("city"),
        "region": text(entry.get("stateCode")) or entry.get("stateDescription"),
        "postcode": f"{postcode}-{extension}" if postcode and extension else postcode,
        "country": text(entry.get("countryCode")) or entry.get("country"),
    }
    return normalizer.address(parts, text(entry.get("addressType")))


def _place(address: Address) -> tuple[str, ...]:
    parts: PostalAddress = address["normalized"] or address["value"]
    postcode = (parts["postcode"] or "").partition("-")[0]
    return tuple((part or "").casefold() for part in (parts["line1"], parts["line2"], parts["city"], postcode))


def _left(body: Mapping[str, Any]) -> dict[str, Any]:
    left, _ = _USED.screen(body)
    return {name: value for name, value in left.items() if not isinstance(value, list) or any(value)}
