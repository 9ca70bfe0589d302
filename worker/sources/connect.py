"""connect: customers behind the Telness Tech Connect API, `GET /customers`.

The API has neither change times nor tombstones, so the only feed reads everything, again and again: what changed shows
in the fingerprints, what was deleted by its absence, which `GET /customers/{id}` confirms. An older edition of the API
pages by offset and total; which one answers is told from the answer.
"""

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, ClassVar, Final, Literal
from urllib.parse import quote

from pydantic import Field

from worker.errors import CredentialError, CursorExpiredError, MalformedPageError, RefusedError
from worker.events import Address, Company, Contact, Customer, Identifier, Kind, Reference
from worker.normalize import Normalizer, text
from worker.privacy import Policy
from worker.settings import Secret, SourceSettings, Treatment
from worker.sources import (
    Bad,
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
from worker.sources.documented import CONNECT
from worker.sources.lists import follow, in_order, twice
from worker.sources.reading import Tokenless, malformed, named, parse, refuse, unusable, usable
from worker.times import milliseconds

_NOT_FOUND: Final = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.GONE})
_EXPIRED: Final = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.GONE})

# What moves without the customer having changed, or stands in some editions' answers only: a look-up and a listing
# must give one fingerprint. `contactPersonUserId` says what `contactPerson.userId` says.
_VOLATILE: Final = frozenset({"createdAt", "updatedAt", "contactPersonUserId"})
_KINDS: Final[Mapping[object, Kind]] = {"CONSUMER": "person", "BUSINESS": "company"}
_REFERENCES: Final = ("humanReadableId", "referenceId")
_ADDRESS: Final = {"line1": "street1", "line2": "street2", "city": "city", "postcode": "zip", "country": "country"}
# The fields that have a place of their own in a normalized customer; what is left becomes attributes.
_USED: Final = Policy(
    dict.fromkeys(
        [
            *("customerId", "customerType", "name", "preferredLocale", "createdAt", "updatedAt"),
            *("contactPersonUserId", *_REFERENCES),
            *("contact.email", "contact.msisdn", "billing.email", "shipping.msisdn"),
            *(f"{part}.address.{name}" for part in ("billing", "shipping") for name in (*_ADDRESS.values(), "state")),
        ],
        "drop",
    )
)


class ConnectSettings(SourceSettings):
    """The settings of a connect source; `url` ends before `/customers`."""

    kind: Literal["connect"] = "connect"
    key: Secret = Field(description="The API key, sent as X-Api-Key")
    page_size: int = Field(default=1000, ge=1, le=1000, description="Every scan reads everything: large is better")
    search: str | None = Field(default=None, min_length=1, description="Only customers that this free text finds")

    def scope(self) -> str:
        """Return what decides which customers are seen."""
        return json.dumps({"search": self.search})

    def filtered(self) -> bool:
        """Return whether only some of the customers are seen."""
        return self.search is not None


class Connect(Tokenless):
    """One connect source."""

    kind: ClassVar[str] = "connect"
    version: ClassVar[int] = 1
    Settings: ClassVar[type[SourceSettings]] = ConnectSettings
    fields: ClassVar[frozenset[str]] = CONNECT
    references: ClassVar[frozenset[str]] = frozenset(_REFERENCES)
    # A personal or an organization number; a sole trader's organization number is a personal one in some countries.
    privacy: ClassVar[Mapping[str, Treatment]] = {"identity": "hash"}

    def __init__(self, name: str, settings: ConnectSettings) -> None:
        """Prepare what every request has in common."""
        self.name = name
        self._settings = settings
        search = (("search", settings.search),) if settings.search else ()
        self._common = (("limit", str(settings.page_size)), *search)

    def feeds(self) -> tuple[Feed, ...]:
        """Return the one feed, which reads everything."""
        return (Feed("scan", self._settings.interval, enumerates=True),)

    def request(self, feed: str, cursor: Cursor | None, moment: Moment) -> Request:  # ruff: ignore[unused-method-argument] - one feed, no time
        """Return the request for the next page."""
        place = {name: str(cursor[name]) for name in ("cursor", "offset") if name in cursor} if cursor else {}
        return Request("GET", "/customers", (*self._common, *place.items()))

    def read(self, feed: str, cursor: Cursor | None, moment: Moment, response: Response) -> Page:  # ruff: ignore[unused-method-argument] - see above
        """Read a page; it is the last one where no cursor leads on, or (older edition) the total has been read."""
        doing = f"{self.name}: reading a page of the {feed}"
        if response.status in _EXPIRED and cursor and "cursor" in cursor:
            message = f"{doing}: the cursor was answered {response.status}"
            raise CursorExpiredError(message, hint="It has expired: the scan starts over. Raise rate if it never ends.")
        answer = _answer(doing, response)
        items = answer.get("items")
        if not isinstance(items, list):
            raise malformed(doing, "there is no list of items")
        found = {one.id: one for one in [_read(doing, item) for item in items]}
        following, total = _following(doing, answer, cursor or {}, len(items))
        return Page(list(found.values()), following or {}, following is not None, total, twice(len(items), len(found)))

    def lookup(self, customer_id: str) -> Request | None:
        """Return the request for one customer; None for what a path would take for a step up."""
        path = quote(customer_id, safe="")
        return Request("GET", f"/customers/{path}") if usable(customer_id) and path not in {".", ".."} else None

    def read_lookup(self, customer_id: str, response: Response) -> Verdict:
        """Read a look-up: 404 says that the customer is gone, and only its own id that it exists.

        A 403 may be about this customer alone: whether it is the key's fault, the next page tells.
        """
        doing = f"{self.name}: looking a customer up"
        if response.status in _NOT_FOUND:
            return Missing()
        try:
            found = _read(doing, _answer(doing, response))
        except (CredentialError, MalformedPageError, RefusedError) as error:
            return Unsure(error.message)
        if isinstance(found, Bad) or found.id != customer_id:
            return Unsure("the look-up was answered with another customer")
        return Exists(found)

    def authorize(self, secrets: Mapping[str, str], token: str | None) -> Mapping[str, str]:  # ruff: ignore[unused-method-argument] - no tokens
        """Return the header with the API key."""
        return {"X-Api-Key": secrets["key"]}

    def essence(self, row: Row) -> object:
        """Return the record without its times and in a settled order of its users (keys are sorted by the poller)."""
        body = row.body
        users = body.get("users")
        in_turn = in_order(users)
        if in_turn is users and _VOLATILE.isdisjoint(body):
            return body
        record = {name: value for name, value in body.items() if name not in _VOLATILE}
        if "users" in record:
            record["users"] = in_turn
        return record

    def normalize(self, row: Row, normalizer: Normalizer) -> Customer:
        """Return the normalized customer; `docs/fields.md` says field by field what becomes of the document."""
        body, secret = normalizer.screen(row.body)
        kind = _kind(body.get("customerType"))
        billing, shipping, contact = (_part(body, name) for name in ("billing", "shipping", "contact"))
        email = normalizer.email(contact.get("email"), preferred=True)
        emails = [email, normalizer.email(billing.get("email"), "billing")]
        phones = [_msisdn(normalizer, contact, None), _msisdn(normalizer, shipping, "shipping")]
        addresses = [_address(normalizer, billing, "billing"), _address(normalizer, shipping, "shipping")]
        return {
            "source": self.name,
            "id": row.id,
            "kind": kind,
            "name": None if kind == "company" else normalizer.full_name(body.get("name")),
            "company": _company(body) if kind == "company" else None,
            "emails": [found for found in emails if found],
            "phones": [phone for phone in phones if phone],
            "addresses": [address for address in addresses if address],
            "date_of_birth": None,
            "locale": text(body.get("preferredLocale")),
            "status": None,
            "references": _references(body),
            "identifiers": _identifiers(normalizer, secret, kind),
            "consents": [],
            "tags": [],
            "metadata": normalizer.attributes({"metadata": _part(body, "metadata")}).get("metadata", {}),
            "attributes": _attributes(normalizer, body, kind),
            "created_at": normalizer.timestamp(body.get("createdAt")),
            "updated_at": normalizer.timestamp(body.get("updatedAt")),
            "first_seen": "",
        }


def _answer(doing: str, response: Response) -> dict[str, Any]:
    if response.status != HTTPStatus.OK:
        refuse(response, doing)
    answer = parse(response, doing)
    if not isinstance(answer, dict):
        raise malformed(doing, "the answer is no object")
    return answer


def _read(doing: str, item: object) -> Row | Bad:
    if isinstance(item, dict):
        customer_id, updated = item.get("customerId"), item.get("updatedAt")
        if usable(customer_id):
            return Row(customer_id, item, None if updated is None else milliseconds(updated))
        if named(customer_id):
            return unusable(customer_id, item)
    raise malformed(doing, "a customer has no customerId")


def _following(doing: str, answer: dict[str, Any], cursor: Cursor, count: int) -> tuple[Cursor | None, int | None]:
    """Return where to read on, None at the end; and the number of customers, where the answer says it."""
    pagination = {} if answer.get("pagination") is None else answer["pagination"]
    if not isinstance(pagination, dict):
        raise malformed(doing, "pagination is no object, so nobody knows whether there is more")
    following = pagination.get("nextCursor")
    if following is not None and not isinstance(following, str):
        raise malformed(doing, "nextCursor is no text, so nobody knows whether there is more")
    total = pagination.get("total", answer.get("total"))
    if total is not None and not (type(total) is int and total >= 0):
        if not following:
            raise malformed(doing, "total is no count, so nobody knows whether there is more")
        total = None
    if following:
        return {"cursor": following, "trail": follow(cursor.get("trail"), following, doing)}, total
    # The older edition knows no cursors, only offsets; the newer one never gets an offset.
    read = cursor.get("offset", 0) + count
    older = "nextCursor" not in pagination and "cursor" not in cursor
    return ({"offset": read} if older and count and total is not None and read < total else None), total


def _part(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = body.get(name)
    return part if isinstance(part, dict) else {}


def _kind(value: object) -> Kind:
    return _KINDS.get(value.strip().upper(), "other") if isinstance(value, str) else "other"


def _company(body: Mapping[str, Any]) -> Company | None:
    name, number = text(body.get("name")), text(body.get("identity"))
    return {"name": name, "organization_number": number} if name or number else None


def _msisdn(normalizer: Normalizer, part: Mapping[str, Any], label: str | None) -> Contact | None:
    """Return a phone number. An MSISDN starts with the country code (ITU-T E.164), mostly without a plus."""
    value = part.get("msisdn")
    contact = normalizer.phone(value, label, preferred=label is None)
    if contact and contact["value"].isdecimal() and not contact["value"].startswith("0"):
        international = normalizer.phone("+" + contact["value"])
        if international and international["normalized"]:
            contact["normalized"] = international["normalized"]
    return contact


def _address(normalizer: Normalizer, part: Mapping[str, Any], label: str) -> Address | None:
    given = _part(part, "address")
    parts = {name: given.get(field) for name, field in _ADDRESS.items()}
    return normalizer.address({**parts, "region": given.get("state") or given.get("region")}, label)


def _references(body: Mapping[str, Any]) -> list[Reference]:
    found = [(name, text(body.get(name))) for name in _REFERENCES]
    return [{"type": name, "id": value.strip()} for name, value in found if value]


def _identifiers(normalizer: Normalizer, secret: Sequence[tuple[str, Any]], kind: Kind) -> list[Identifier]:
    identity = "organization_number" if kind == "company" else "national_id"
    found = [normalizer.identifier(identity if field == "identity" else field, value) for field, value in secret]
    return [identifier for identifier in found if identifier]


def _attributes(normalizer: Normalizer, body: Mapping[str, Any], kind: Kind) -> dict[str, Any]:
    left, _ = _USED.screen(body)
    if "users" in left:
        left["users"] = in_order(left["users"])
    if kind == "company":
        left.pop("identity", None)
    if isinstance(left.get("metadata"), dict):
        del left["metadata"]
    return normalizer.attributes(left)
