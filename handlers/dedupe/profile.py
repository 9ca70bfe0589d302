"""What of a customer is compared: taken from the normalized customer once, folded, and small enough to travel.

`extract` depends on no setting; `refine` applies them: it leaves out the values that identify nobody and computes the
match keys. A match key is one letter for its kind and a keyed hash, never a value.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, NamedTuple, Protocol, cast

import orjson
from anyascii import anyascii

from handlers.dedupe.generic import GenericValues
from handlers.dedupe.settings import DedupeSettings
from worker.events import Address, Contact, Customer, Name

KEY_BYTES: Final = 9
MAX_KEYS: Final = 64  # as many as `wire.Member.here` has bits
# No name or part of an address is longer, and nobody has more addresses; a membership has room for so much.
_LONGEST: Final = 100
_MOST_ADDRESSES: Final = 64
# `near` of an identifier: so many hexadecimal digits for the hash of each of its variants with one character left out.
NEAR_DIGITS: Final = 8
_LANDLINES: Final = re.compile(r"home|work|office|fax|land", re.IGNORECASE).search
_APART: Final = re.compile(r"[^a-z0-9]+")
_HOUSE: Final = re.compile(r"(?:unit |apt |flat |no )?(\d+[a-z]?)(?: |$)(.*)").match
_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}").fullmatch


class Hasher(Protocol):
    """The keyed hash of the installation, as `worker.privacy.Hasher` has it."""

    def identifier(self, type_: str, value: str) -> str:
        """Return at least 16 hexadecimal digits for a value of a type."""


@dataclass(slots=True)
class Raw:
    """A customer's compared fields as they are, generic values included."""

    source: str
    kind: str
    given: str
    middle: str
    family: str
    suffix: str
    born: str
    addresses: list[list[str]]  # house, street, postcode, city
    emails: list[str]
    phones: list[list[Any]]  # number, whether it is a landline
    identifiers: list[list[str]]  # type, issuer, hash, near
    references: list[list[str]]  # type, id
    first_seen: str
    oldest: str
    completeness: int


class Refined(NamedTuple):
    """What travels: `profile` and `keys` to the buckets, `node` to the clusters.

    `brief` has given, middle and family name, birth date and house numbers out of the profile, with zeros between them,
    and `identified` whether it has any identifier: what a bucket looks at first.
    """

    profile: bytes
    brief: bytes
    identified: bool
    keys: tuple[bytes, ...]
    node: dict[str, Any]


def fold(text: str) -> str:
    """Return `text` in lower-case ASCII, everything but letters and digits made one space."""
    if text.isascii() and text.isalnum():
        return text.lower()
    if not text.isascii():
        text = anyascii(text)
    return _APART.sub(" ", text.lower()).strip()


def split_keys(joined: bytes) -> list[bytes]:
    """Return the match keys that stand one after the other."""
    return [joined[at : at + KEY_BYTES] for at in range(0, len(joined), KEY_BYTES)]


def near(one: str, other: str) -> bool:
    """Return whether two identifiers are one typing error apart, by what is known of their variants.

    The variant without the last character is not among them: twins may have numbers that follow one another.
    """
    if not one or not other:
        return False
    variants = {one[at : at + NEAR_DIGITS] for at in range(0, len(one), NEAR_DIGITS)}
    return any(other[at : at + NEAR_DIGITS] in variants for at in range(0, len(other), NEAR_DIGITS))


def extract(customer: Customer) -> Raw:
    """Return the compared fields of a normalized customer."""
    given, middle, family, suffix = _names(customer["name"], customer["company"])
    company = customer["company"] or {"name": None, "organization_number": None}
    identifiers = [[i["type"], i.get("issuer") or "", i["hash"], i.get("near") or ""] for i in customer["identifiers"]]
    if company["organization_number"]:
        identifiers.append(["organization_number", "", fold(company["organization_number"]), ""])
    born = customer["date_of_birth"] or ""
    return Raw(
        source=customer["source"],
        kind=customer["kind"],
        given=given,
        middle=middle,
        family=family,
        suffix=suffix,
        born=born if _DATE(born) else "",
        addresses=_addresses(customer["addresses"]),
        emails=_unique(_normal(contact) for contact in customer["emails"]),
        phones=_phones(customer["phones"]),
        identifiers=identifiers,
        references=[[reference["type"], reference["id"]] for reference in customer["references"]],
        first_seen=customer["first_seen"],
        oldest=customer["created_at"] or customer["first_seen"],
        completeness=sum(1 for value in customer.values() if value not in (None, [], {})),
    )


class Refiner:
    """Applies the settings to extracted customers."""

    def __init__(self, settings: DedupeSettings, hasher: Hasher) -> None:
        """Prepare the match keys in use and the generic values."""
        self.scope_of = settings.scope_of
        # A key of our own, out of the installation's: a match key takes a single keyed hash then.
        secret = bytes.fromhex(hasher.identifier("match", "key"))
        self._hash = blake2b(key=secret, digest_size=KEY_BYTES - 1, person=b"match key")
        self._begun: dict[tuple[str, str], Any] = {}  # by scope and tag, the hash of what all their keys begin with
        self._generic = GenericValues(settings.generic, hasher.identifier)
        self._tags = frozenset(settings.keys)
        self._unique = frozenset(settings.vetoes.unique)

    def refine(self, raw: Raw, scope: str | None = None) -> Refined:
        """Return what travels of a customer; `scope`: the one that it is in, by default that of its source."""
        generic = self._generic
        if scope is None:
            scope = self.scope_of(raw.source)
        given, family = generic.name(raw.given), generic.name(raw.family)
        born = generic.birth_date(raw.born)
        addresses = [generic.address(address) for address in raw.addresses]
        emails = [email for email in raw.emails if not generic.is_email(email)]
        phones = [(number, land) for number, land in raw.phones if not generic.is_phone(number)]
        identifiers = [known for known in raw.identifiers if not generic.is_identifier(known[0], known[2])]
        texts: list[tuple[str, str]] = [("N", "\0".join(known[:3])) for known in identifiers]
        texts += [("E", email) for email in emails]
        texts += [("P", number) for number, _ in phones]
        texts += [("R", "\0".join(reference)) for reference in raw.references]
        texts += _blocking(given, family, born, addresses)
        chosen = [text for text in dict.fromkeys(texts) if text[0] in self._tags][:MAX_KEYS]
        keys = {text: self._key(scope, *text) for text in chosen}
        landlines = [keys["P", number].hex() for number, land in phones if land and ("P", number) in keys]
        profile = [
            *(scope, raw.source, raw.kind, given, raw.middle, family, raw.suffix, born, addresses),
            [[f"{type_}/{issuer}", hash_[:16], near] for type_, issuer, hash_, near in identifiers],
            landlines,
            raw.first_seen[:4],
        ]
        encoded = orjson.dumps(profile)
        match_keys = tuple(sorted(set(keys.values())))
        node = {
            "profile": encoded.decode(),
            "keys": b"".join(match_keys).hex(),
            "scope": scope,
            "source": raw.source,
            "seen": raw.first_seen,
            "old": raw.oldest,
            "full": raw.completeness,
            "unique": [[known[0], known[2][:16], known[3]] for known in identifiers if known[0] in self._unique],
            "emails": [(keys.get(("E", email)) or self._key(scope, "E", email)).hex()[2:] for email in emails],
            "phones": [(keys.get(("P", number)) or self._key(scope, "P", number)).hex()[2:] for number, _ in phones],
        }
        houses = " ".join([address[0] for address in addresses if address[0]])
        brief = f"{given}\0{raw.middle}\0{family}\0{born}\0{houses}".encode()
        return Refined(encoded, brief, bool(identifiers), match_keys, node)

    def _key(self, scope: str, tag: str, text: str) -> bytes:
        begun = self._begun.get((scope, tag))
        if begun is None:
            begun = self._begun[scope, tag] = self._hash.copy()
            begun.update(f"{scope}\0{tag}\0".encode(errors="replace"))
        digest = begun.copy()
        digest.update(text.encode(errors="replace"))
        return tag.encode() + cast("bytes", digest.digest())


def _blocking(given: str, family: str, born: str, addresses: list[list[str]]) -> list[tuple[str, str]]:
    texts = [("D", f"{born}\0{name[:3]}") for name in (given, family) if born and name]
    if given and family:
        texts.append(("S", " ".join(sorted((given, family)))))
    for house, street, postcode, _ in addresses:
        if postcode:
            texts += [("Z", f"{postcode}\0{name[:4]}") for name in (given, family) if name]
            if born:
                texts.append(("B", f"{born}\0{postcode}"))
        if house and street:
            texts.append(("H", f"{house}\0{street[:8]}"))
    return texts


def _names(name: Name | None, company: Any) -> tuple[str, str, str, str]:
    if name is None:
        return "", "", _folded(company["name"]) if company else "", ""
    given, family = _folded(name["given"]), _folded(name["family"])
    if not given and not family and name["full"]:
        given, _, family = fold(name["full"]).rpartition(" ")
        given, family = given[:_LONGEST], family[:_LONGEST]
    return given, _folded(name["middle"]), family, _folded(name["suffix"])


def _addresses(addresses: list[Address]) -> list[list[str]]:
    found = []
    for address in addresses[:_MOST_ADDRESSES]:
        parts = address["normalized"] or address["value"]
        line = _folded(parts["line1"])
        match = _HOUSE(line)
        house, street = (match[1], match[2]) if match else ("", line)
        found.append([house, street, _folded(parts["postcode"]), _folded(parts["city"])])
    return found


def _folded(text: str | None) -> str:
    return fold(text)[:_LONGEST] if text else ""


def _phones(contacts: list[Contact]) -> list[list[Any]]:
    landlines = {_normal(contact): bool(contact["label"] and _LANDLINES(contact["label"])) for contact in contacts}
    return [[number, land] for number, land in landlines.items() if number]


def _normal(contact: Contact) -> str | None:
    return contact["normalized"]


def _unique(values: Iterable[str | None]) -> list[str]:
    return list(dict.fromkeys(value for value in values if value))
