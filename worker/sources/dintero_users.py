"""Users as the Dintero Customers API writes them: which one is a tombstone, where it stands in a feed, what it says.

Names of fields are those of the vendor's API reference.
"""

from collections.abc import Mapping, Sequence
from itertools import starmap
from typing import Any, Final

from worker.events import Address, Company, Consent, Customer, Kind, Reference
from worker.normalize import Normalizer, text
from worker.privacy import Policy
from worker.sources import Bad, Item, Row, Tombstone
from worker.sources.lists import in_order
from worker.sources.reading import objects, size_of, unusable, usable
from worker.times import milliseconds

User = dict[str, Any]

# The year 9999 in ms since the epoch: no time beyond it can be written.
_LATEST: Final = 253_370_764_800_000
# The type of the one reference there is.
CUSTOMER_ID: Final = "customerId"

_KINDS: Final[Mapping[str, Kind]] = {
    "customer": "person",
    "company": "company",
    "contact": "contact",
    "employee": "employee",
    "other": "other",
}
_ADDRESS: Final = {
    "line1": "address_line",
    "line2": "address_line_2",
    "city": "postal_place",
    "postcode": "postal_code",
    "country": "country",
}
# The API reference writes it with three s.
_COMPANY_NAMES: Final = ("bussiness_name", "business_name", "name")
_SINGLE: Final = (
    "id",
    "customer_id",
    "first_name",
    "last_name",
    "email",
    "phone_number",
    "status",
    "date_of_birth",
    "created_at",
    "updated_at",
    "deleted_at",
    "marketing_consent",
    "paging_token",
)
# The fields that have a place of their own in a normalized customer; what is left becomes attributes.
_USED: Final = Policy(
    dict.fromkeys(
        [
            *_SINGLE,
            *(f"company.{name}" for name in (*_COMPANY_NAMES, "organization_number")),
            *(f"addresses.{name}" for name in (*_ADDRESS.values(), "type", "custom_type")),
        ],
        "drop",
    )
)


def items(users: Sequence[User]) -> list[Item]:
    """Return what a page says, one item a customer: of two, the one with the later time."""
    found: dict[str, tuple[int, Item]] = {}
    for user in users:
        time, id_ = _time(user), str(user["id"])
        known = found.get(id_)
        if known is None or known[0] <= (time or 0):
            found[id_] = time or 0, _item(user, time)
    return [item for _, item in found.values()]


def _item(user: User, time: int | None) -> Item:
    if not usable(user["id"]):
        return unusable(user["id"], user)
    if user.get("deleted_at") is None:
        return Row(user["id"], user, time)
    deleted = _first_time(user, "deleted_at")
    if deleted is None:
        return Bad(user["id"], "deleted_at is no time", size_of(user), user)
    return Tombstone(user["id"], deleted)


def newest(users: Sequence[User]) -> int | None:
    """Return the latest time on a page, by which the `since` feed goes on; None where there is none."""
    times = [_time(user) for user in own(users)]
    return max((time for time in times if time is not None), default=None)


def _time(user: User) -> int | None:
    # A tombstone has no updated_at.
    return _first_time(user, "updated_at", "deleted_at", "created_at")


def _first_time(user: User, *names: str) -> int | None:
    for name in names:
        time = milliseconds(user.get(name))
        if time is not None and 0 <= time < _LATEST:
            return time
    return None


def own(users: Sequence[User]) -> Sequence[User]:
    """Return the users that are on a page by themselves.

    "The response from a request that match contact users will include the users that are linked from the contact"
    (the API reference): those may stand anywhere and have any time, so they do not tell where a page ends.
    """
    linked = {name for user in users for name in _linked(user.get("contact_for"))}
    return [user for user in users if linked.isdisjoint(_names(user))] or users if linked else users


def brought(users: Sequence[User]) -> bool:
    """Return whether there may be users on a page only because a contact is linked to them."""
    return any(_linked(user.get("contact_for")) for user in users)


def of_type(users: Sequence[User], wanted: str) -> Sequence[User]:
    """Return the users of a type (`any`: all), without those of another one that came along with a contact.

    A tombstone has no type, and is kept.
    """
    return users if wanted == "any" else [user for user in users if user.get("type") is None or user["type"] == wanted]


def _linked(contact_for: object) -> list[str]:
    entries = contact_for if isinstance(contact_for, list) else []
    return [name for entry in entries for name in ([entry] if isinstance(entry, str) else _names(entry))]


def _names(entry: object) -> list[str]:
    values = [entry.get("customer_id"), entry.get("id")] if isinstance(entry, dict) else []
    return [value for value in values if isinstance(value, str)]


def essence(row: Row) -> User:
    """Return the record without its paging token, and in a settled order of whom it is a contact for."""
    user = {name: value for name, value in row.body.items() if name != "paging_token"}
    if "contact_for" in user:
        user["contact_for"] = in_order(user["contact_for"])
    return user


def normalize(source: str, row: Row, normalizer: Normalizer) -> Customer:
    """Return the normalized customer; `docs/fields.md` says field by field what becomes of the document."""
    user, secret = normalizer.screen(row.body)
    get = user.get
    email = normalizer.email(get("email"), preferred=True)
    phone = normalizer.phone(get("phone_number"), preferred=True)
    addresses = [_address(normalizer, entry) for entry in objects(get("addresses"))]
    identifiers = list(starmap(normalizer.identifier, secret))
    consents, consented = _consents(get("marketing_consent"))
    return {
        "source": source,
        "id": row.id,
        "kind": _kind(get("type")) or "other",
        "name": normalizer.name(get("first_name"), None, get("last_name")),
        "company": _company(get("company")),
        "emails": [email] if email else [],
        "phones": [phone] if phone else [],
        "addresses": [address for address in addresses if address],
        "date_of_birth": normalizer.date(get("date_of_birth")),
        "locale": None,
        "status": text(get("status")),
        "references": _references(get("customer_id")),
        "identifiers": [identifier for identifier in identifiers if identifier],
        "consents": consents,
        "tags": _tags(get("tags")),
        "metadata": normalizer.attributes(_metadata(user)).get("metadata", {}),
        "attributes": normalizer.attributes({**_left(user), "marketing_consent": consented}),
        "created_at": normalizer.timestamp(get("created_at")),
        "updated_at": normalizer.timestamp(get("updated_at")),
        "first_seen": "",
    }


def _kind(value: object) -> Kind | None:
    if value is None:
        return "person"
    return _KINDS.get(value) if isinstance(value, str) else None


def _company(value: object) -> Company | None:
    if not isinstance(value, dict):
        return None
    name = next((found for field in _COMPANY_NAMES if (found := text(value.get(field)))), None)
    number = text(value.get("organization_number"))
    return {"name": name, "organization_number": number} if name or number else None


def _address(normalizer: Normalizer, entry: User) -> Address | None:
    label = text(entry.get("custom_type")) or text(entry.get("type"))
    return normalizer.address({part: entry.get(field) for part, field in _ADDRESS.items()}, label)


def _references(customer_id: object) -> list[Reference]:
    found = text(customer_id)
    return [{"type": CUSTOMER_ID, "id": found.strip()}] if found else []


def _tags(value: object) -> list[str]:
    entries = value if isinstance(value, list) else []
    found = [text(entry.get("tag") if isinstance(entry, dict) else entry) for entry in entries]
    return sorted({tag for tag in found if tag})


def _consents(value: object) -> tuple[list[Consent], object]:
    """Return the consents by channel, and what else stands beside them: when they were given, or another shape."""
    if not isinstance(value, dict):
        return [], value
    given = {channel: consent for channel, entry in value.items() if isinstance(consent := _granted(entry), bool)}
    left = {channel: _rest(entry) if channel in given else entry for channel, entry in value.items()}
    consents: list[Consent] = [{"channel": channel, "granted": given[channel]} for channel in sorted(given)]
    return consents, {channel: entry for channel, entry in left.items() if entry}


def _granted(entry: object) -> object:
    return entry.get("consent") if isinstance(entry, dict) else entry


def _rest(entry: object) -> User:
    return {name: value for name, value in entry.items() if name != "consent"} if isinstance(entry, dict) else {}


def _metadata(user: Mapping[str, Any]) -> User:
    found = user.get("metadata")
    return {"metadata": found} if isinstance(found, dict) else {}


def _left(user: Mapping[str, Any]) -> User:
    left, _ = _USED.screen(user)
    placed = {"type": _kind(left.get("type")) is not None, "metadata": isinstance(left.get("metadata"), dict)}
    placed |= {"tags": isinstance(left.get("tags"), list), "addresses": not any(_list(left.get("addresses")))}
    if "contact_for" in left:
        left["contact_for"] = in_order(left["contact_for"])
    return {name: value for name, value in left.items() if not placed.get(name)}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value]
