"""The types that travel on the public topics: the normalized customer and the CloudEvents that carry it.

They are plain typed dictionaries, because a poll builds hundreds of thousands of them and `orjson` writes them as they
are. `rollcall schema` makes the JSON Schemas and the AsyncAPI document out of these very types.
"""

import hashlib
from collections.abc import Iterable
from typing import Any, Final, Literal, NotRequired, TypedDict

Kind = Literal["person", "company", "contact", "employee", "other"]
Reason = Literal["tombstone", "gone", "absent"]
EventType = Literal["customer.created", "customer.updated", "customer.deleted"]
Headers = list[tuple[str, bytes]]

CREATED: Final = "customer.created"
UPDATED: Final = "customer.updated"
DELETED: Final = "customer.deleted"
DATA_SCHEMA: Final = "urn:rollcall:customer-event:1"
_SCHEMA_HEADER: Final = ("ce_dataschema", DATA_SCHEMA.encode())


class Name(TypedDict):
    """A person's name; parts that the upstream does not have are null, `full` is how it would be written."""

    given: str | None
    middle: str | None
    family: str | None
    suffix: str | None
    full: str | None


class Company(TypedDict):
    """A company's name and its registration number."""

    name: str | None
    organization_number: str | None


class Contact(TypedDict):
    """An e-mail address or a phone number: as it came, and normalized (null where it is not a valid one)."""

    value: str
    normalized: str | None
    label: str | None
    preferred: bool


class PostalAddress(TypedDict):
    """The parts of a postal address; `country` is ISO 3166-1 alpha-2 in a normalized one."""

    line1: str | None
    line2: str | None
    city: str | None
    region: str | None
    postcode: str | None
    country: str | None


class Address(TypedDict):
    """A postal address: as it came, and normalized (null where nothing usable is in it)."""

    value: PostalAddress
    normalized: PostalAddress | None
    label: str | None
    preferred: bool


class Reference(TypedDict):
    """A typed id that points into another system, for example `referenceId`."""

    type: str
    id: str


class Identifier(TypedDict):
    """An official identifier, of which only keyed hashes (hexadecimal) are ever published.

    `issuer` tells licences of two states apart and is not secret. `near` has keyed hashes, eight digits each, of the
    identifier and of what it is with one character left out: two that have one in common are a typing error apart.
    """

    type: str
    hash: str
    issuer: NotRequired[str | None]
    near: NotRequired[str]


class Consent(TypedDict):
    """What the customer agreed to, by channel."""

    channel: str
    granted: bool | None


class Customer(TypedDict):
    """The normalized customer: every key is always there, null or empty where the upstream has nothing."""

    source: str
    id: str
    kind: Kind
    name: Name | None
    company: Company | None
    emails: list[Contact]
    phones: list[Contact]
    addresses: list[Address]
    date_of_birth: str | None
    locale: str | None
    status: str | None
    references: list[Reference]
    identifiers: list[Identifier]
    consents: list[Consent]
    tags: list[str]
    metadata: dict[str, Any]
    attributes: dict[str, Any]
    created_at: str | None
    updated_at: str | None
    first_seen: str


# What `changed` may name: everything that describes the customer, and not who it is or when we met it.
FIELDS: Final[tuple[str, ...]] = tuple(
    field for field in Customer.__annotations__ if field not in {"source", "id", "first_seen"}
)


class CustomerEvent(TypedDict):
    """The data of an event on `customers.events`.

    `customer` is null on a delete, which carries no personal data: only `reason` (how the deletion was proved) and
    `live`, the number of customers that the source has left. Times are RFC 3339 in UTC.
    """

    source: str
    id: str
    customer: Customer | None
    changed: list[str]
    first_seen: str
    detected_at: str
    reason: Reason | None
    live: int | None


def customer_key(source: str, customer_id: str) -> bytes:
    """Return the key of a customer's records: `<source>/<customer id>`.

    A source's name holds no slash, so the first one divides the two.
    """
    return f"{source}/{customer_id}".encode()


def split_key(key: bytes) -> tuple[str, str]:
    """Return (source, customer id) of a key made by `customer_key`; raises ValueError on any other."""
    source, slash, customer_id = key.decode().partition("/")
    if not (source and slash and customer_id):
        raise ValueError("a customer's key is <source>/<customer id>")
    return source, customer_id


def event_id(key: bytes, sequence: int) -> str:
    """Return the deterministic `ce_id`: the same customer and sequence give the same id, whoever computes it."""
    return hashlib.blake2b(b"%s#%d" % (key, sequence), digest_size=16).hexdigest()


def event_headers(
    *,
    key: bytes,
    source: str,
    type_: EventType,
    sequence: int,
    time: str,
    reason: Reason | None = None,
) -> Headers:
    """Return the headers of an event in CloudEvents 1.0 binary mode (CloudEvents Kafka binding, section 3.2).

    `time` is RFC 3339. `reason` is set on deletions only; it is the authority that a deletion downstream refers to.
    """
    headers: Headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", event_id(key, sequence).encode()),
        ("ce_source", b"/rollcall/" + source.encode()),
        ("ce_type", type_.encode()),
        ("ce_subject", key),
        ("ce_time", time.encode()),
        ("ce_sequence", b"%d" % sequence),
        _SCHEMA_HEADER,
        ("content-type", b"application/json"),
    ]
    if reason is not None:
        headers.append(("ce_reason", reason.encode()))
    return headers


def header(headers: Iterable[tuple[str, bytes]], name: str) -> str | None:
    """Return the first header of that name as text, None where there is none (or it is not UTF-8)."""
    for key, value in headers:
        if key == name:
            try:
                return value.decode()
            except (UnicodeDecodeError, AttributeError):
                return None
    return None
