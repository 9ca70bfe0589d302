"""Bring what the upstreams write into one form, so that customers of different systems can be compared.

Nothing here raises over bad data: any JSON value may stand in any field. What does not normalize stays as it came and
is marked so (`normalized` is null). Nothing here knows an upstream; the adapters say which field is what.
"""

import re
from collections.abc import Mapping
from datetime import date
from functools import lru_cache
from typing import Any, Final, cast

import orjson
from nameparser import parse as parse_name

from worker import contacts, countries
from worker.events import Address, Contact, Identifier, Name, PostalAddress
from worker.privacy import Hasher, Policy
from worker.settings import Treatment
from worker.times import milliseconds, rfc3339

__all__ = ["Hasher", "Normalizer", "canonical", "text"]

_LONGEST_NAME: Final = 256
_DEEPEST: Final = 32
_TOO_DEEP: Final = "(nested too deeply)"
_STAMP: Final = len("2025-01-31T12:34:56.789Z")
_DAY: Final = len("2025-01-31")
_PARTS: Final = ("line1", "line2", "city", "region", "postcode", "country")
# Identifiers of fewer characters are close to one another by chance; longer ones, or words, are no numbers.
_NEAR: Final = (6, 25)
_NEAR_BYTES: Final = 4
# A state's or province's code has up to three characters (ISO 3166-2).
_CODE: Final = 3


def text(value: object) -> str | None:
    """Return `value` as text, as it came; what is no text becomes JSON. None where it is empty or only space."""
    if type(value) is str:
        return value if value and not value.isspace() else None
    return _json(value) if value or value == 0 else None


def canonical(type_: str, value: str) -> tuple[str, str]:
    """Return (type, value) as an identifier is hashed: without punctuation, in capitals.

    What cannot be one of its type (a masked number, "on file") gets a type of its own, so that no two customers are
    held for one because of it: a social security number has nine digits, a driver's licence at least four characters
    with three digits among them, a card number 12 to 19 digits (ISO/IEC 7812).
    """
    compact = value.upper()
    if not compact.isalnum():
        compact = compact.replace("-", "").replace(" ", "")
    if not compact.isalnum():
        compact = "".join(filter(str.isalnum, compact))
    form = _FORMS.get(type_)
    if form is None or form(compact):
        return type_, compact
    return f"{type_}_malformed", compact


_FORMS: Final = {
    "ssn": re.compile(r"[0-9]{9}").fullmatch,
    "drivers_licence": re.compile(r"(?=(?:[A-Z]*[0-9]){3})[A-Z0-9]{4,25}").fullmatch,
    "card": re.compile(r"[0-9]{12,19}").fullmatch,
}


class Normalizer:
    """The rules of one source: its region, its privacy policy, and the installation's hashes."""

    def __init__(self, region: str, hasher: Hasher, privacy: Mapping[str, Treatment]) -> None:
        """`region` (ISO 3166-1 alpha-2) is for phone numbers and dates; `privacy` says what to do with which field."""
        self.region = region
        self.hasher = hasher
        self.policy = Policy(privacy)
        self._skipped: dict[frozenset[str], frozenset[str]] = {}

    def treatment(self, field: str) -> Treatment:
        """Return what the privacy policy does with `field`."""
        return self.policy.treatment(field)

    def screen(self, body: Mapping[str, Any]) -> tuple[dict[str, Any], list[tuple[str, Any]]]:
        """Return (what may be seen of `body`, the fields that may only be hashed): the first step of an adapter."""
        return self.policy.screen(body)

    def email(self, value: object, label: str | None = None, *, preferred: bool = False) -> Contact | None:
        """Return an e-mail address, None where there is none."""
        came = text(value)
        if came is None:
            return None
        return {"value": came, "normalized": contacts.email(came.strip()), "label": label, "preferred": preferred}

    def phone(self, value: object, label: str | None = None, *, preferred: bool = False) -> Contact | None:
        """Return a phone number, normalized to E.164; None where there is none."""
        came = text(value)
        if came is None:
            return None
        normalized = contacts.phone(came.strip(), self.region)
        return {"value": came, "normalized": normalized, "label": label, "preferred": preferred}

    def date(self, value: object) -> str | None:
        """Return a date as ISO 8601 (`1990-09-20`); of a time stamp, the date as it is written there.

        `9/20/1990` is read month first where the region is the United States, `20.09.1990` day first everywhere.
        """
        came = text(value)
        return came if came is None or _is_date(came) else _date(came.strip(), month_first=self.region == "US") or came

    def timestamp(self, value: object) -> str | None:
        """Return a time as RFC 3339 in UTC with milliseconds; one without a zone is UTC."""
        if type(value) is str and len(value) == _STAMP and value[10] == "T" and value[19::4] == ".Z":
            return value
        moment = milliseconds(value)
        return text(value) if moment is None else rfc3339(moment)

    def name(
        self, given: object = None, middle: object = None, family: object = None, suffix: object = None
    ) -> Name | None:
        """Return a person's name from its parts, None where all are empty."""
        parts = [_words(given), _words(middle), _words(family), _words(suffix)]
        full = " ".join([part for part in parts if part])
        if not full:
            return None
        return {"given": parts[0], "middle": parts[1], "family": parts[2], "suffix": parts[3], "full": full}

    def full_name(self, value: object) -> Name | None:
        """Return a name that came in one piece, taken apart as far as it can be; titles stay in `full` alone."""
        full = _words(value)
        return None if full is None else _split(full).copy()

    def address(
        self, parts: PostalAddress | Mapping[str, object], label: str | None = None, *, preferred: bool = False
    ) -> Address | None:
        """Return a postal address, None where every part is empty.

        It is normalized if a street, a town or a postcode is in it; a country that is none is left out of that.
        """
        value: dict[str, str | None] = {}
        normalized: dict[str, str | None] = {}
        for part in _PARTS:
            came = parts.get(part)
            if came is None or (type(came) is str and came.isalnum()):
                value[part] = normalized[part] = came
            else:
                value[part] = text(came)
                normalized[part] = _words(came)
        if not any(normalized.values()):
            return None
        return {
            "value": cast("PostalAddress", value),
            "normalized": _address(cast("PostalAddress", normalized)),
            "label": label,
            "preferred": preferred,
        }

    def identifier(self, type_: str, value: object, issuer: object = None) -> Identifier | None:
        """Return the keyed hashes of an official identifier, None where there is no letter or figure. See `canonical`.

        What tells a typing error (`near`) leaves out no last character, so that numbers given out one after the other,
        such as those of twins, are not taken for one.
        """
        came = text(value)
        if came is None:
            return None
        kind, compact = canonical(type_, came)
        if not compact:
            return None
        named = _words(issuer)
        found: Identifier = {
            "type": kind,
            "hash": self.hasher.identifier(kind, compact),
            "issuer": named.upper() if named is not None else None,
        }
        if kind == type_ and _NEAR[0] <= len(compact) <= _NEAR[1] and _mostly_digits(compact):
            found["near"] = self._near(kind, compact)
        return found

    def _near(self, kind: str, compact: str) -> str:
        variants = {compact[:at] + compact[at + 1 :] for at in range(len(compact) - 1)}
        variants.add(compact)
        # Sorted, and made up to one number of them: else doubled digits would show, and where a number differs.
        if doubled := len(compact) - len(variants):
            variants.update(f"{compact} {place}" for place in range(doubled))
        return b"".join(sorted(self.hasher.beginnings(f"near {kind}", map(str.encode, variants), _NEAR_BYTES))).hex()

    def attributes(self, body: Mapping[str, Any], used: frozenset[str] = frozenset()) -> dict[str, Any]:
        """Return what is left of `body` after the fields that were `used`, the privacy policy, and what is empty."""
        skipped = self._skipped.get(used)
        if skipped is None:
            skipped = self._skipped[used] = used | self.policy.private
        return {
            field: value if type(value) is not dict else _pruned(value, _DEEPEST)
            for field, value in body.items()
            if field not in skipped and (value or value == 0)
        }


def _mostly_digits(compact: str) -> bool:
    return compact.isdecimal() or 2 * sum(map(str.isdigit, compact)) >= len(compact)


def _json(value: object) -> str:
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        return _TOO_DEEP


def _words(value: object) -> str | None:
    if value is None:
        return None
    if type(value) is not str:
        value = text(value) or ""
    return value if value.isalnum() else " ".join(value.split()) or None


def _is_date(came: str) -> bool:
    if len(came) != _DAY or came[4] != "-" or came[7] != "-":
        return False
    try:
        date.fromisoformat(came)
    except ValueError:
        return False
    return True


def _date(came: str, *, month_first: bool) -> str | None:
    for pattern, order in _DATES if month_first else _DATES[1:]:
        if match := pattern(came):
            year, month, day = (int(match[group]) for group in order)
            try:
                return date(year, month, day).isoformat()
            except ValueError:
                return None
    return None


_DATES: Final = (
    (re.compile(r"([0-9]{1,2})/([0-9]{1,2})/([0-9]{4})").fullmatch, (3, 1, 2)),
    (re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})(?:[T ].*)?").fullmatch, (1, 2, 3)),
    (re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2})").fullmatch, (1, 2, 3)),
    (re.compile(r"([0-9]{1,2})\.([0-9]{1,2})\.([0-9]{4})").fullmatch, (3, 2, 1)),
)


@lru_cache(contacts.REMEMBERED)
def _split(full: str) -> Name:
    if len(full) > _LONGEST_NAME:
        return {"given": None, "middle": None, "family": None, "suffix": None, "full": full}
    parsed = parse_name(full)
    return {
        "given": parsed.given or None,
        "middle": parsed.middle or None,
        "family": parsed.family or None,
        "suffix": parsed.suffix or None,
        "full": full,
    }


def _address(value: PostalAddress) -> PostalAddress | None:
    region, postcode, country = value["region"], value["postcode"], value["country"]
    if not (value["line1"] or value["city"] or postcode):
        return None
    if region and len(region) <= _CODE:
        value["region"] = region.upper()
    if postcode:
        value["postcode"] = postcode.upper()
    if country:
        value["country"] = countries.alpha2(country)
    return value


def _pruned(value: dict[str, Any], deepest: int) -> dict[str, Any]:
    return {
        name: part if type(part) is not dict or not deepest else _pruned(part, deepest - 1)
        for name, part in value.items()
        if part or part == 0
    }
