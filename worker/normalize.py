"""Bring what the upstreams write into one form, so that customers of different systems can be compared.

Nothing here raises over bad data: any JSON value may stand in any field. What does not normalize stays as it came and
is marked so (`normalized` is null). Nothing here knows an upstream; the adapters say which field is what.
"""

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Any, Final, cast

import orjson
from nameparser import parse as parse_name

from worker import contacts, countries
from worker.events import Address, Contact, Identifier, Name, PostalAddress
from worker.privacy import Hasher, Policy
from worker.settings import Treatment

__all__ = ["Hasher", "Normalizer", "canonical", "milliseconds", "rfc3339", "text"]

_LONGEST_NAME: Final = 256
_DEEPEST: Final = 32
_TOO_DEEP: Final = "(nested too deeply)"
_STAMP: Final = len("2025-01-31T12:34:56.789Z")

_SSN: Final = re.compile(r"[0-9]{3}[ -]?[0-9]{2}[ -]?[0-9]{4}").fullmatch
_LICENCE: Final = re.compile(r"(?=(?:[A-Z]*[0-9]){3})[A-Z0-9]{4,25}").fullmatch
_CARD: Final = re.compile(r"[0-9]{12,19}").fullmatch
_PARTS: Final = ("line1", "line2", "city", "region", "postcode", "country")


def text(value: object) -> str | None:
    """Return `value` as text, as it came; what is no text becomes JSON. None where it is empty or only space."""
    if type(value) is not str:
        return None if value in _EMPTY else _json(value)
    return value if value and not value.isspace() else None


def milliseconds(value: object) -> int | None:
    """Return an ISO 8601 time as milliseconds since the epoch (without a zone it is UTC), None if it is none."""
    if type(value) is not str:
        return None
    try:
        moment = datetime.fromisoformat(value)
        return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None


def rfc3339(moment: int) -> str:
    """Return milliseconds since the epoch as RFC 3339 in UTC, with milliseconds."""
    seconds, rest = divmod(moment, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:03d}Z"


def canonical(type_: str, value: str) -> tuple[str, str]:
    """Return (type, value) as an identifier is hashed: without punctuation, in capitals.

    What cannot be one of its type (a masked number, "on file") gets a type of its own, so that no two customers are
    held for one because of it: a social security number has nine digits, a driver's licence at least four characters
    with three digits among them, a card number 12 to 19 digits (ISO/IEC 7812).
    """
    compact = "".join(character for character in value.upper() if character.isalnum())
    well_formed = {"ssn": _SSN(value.strip()), "drivers_licence": _LICENCE(compact), "card": _CARD(compact)}
    if well_formed.get(type_, True):
        return type_, compact
    return f"{type_}_malformed", compact or value


class Normalizer:
    """The rules of one source: its region, its privacy policy, and the installation's hashes."""

    def __init__(self, region: str, hasher: Hasher, privacy: Mapping[str, Treatment]) -> None:
        """`region` (ISO 3166-1 alpha-2) is for phone numbers and dates; `privacy` says what to do with which field."""
        self.region = region
        self.hasher = hasher
        self.policy = Policy(privacy)

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
        return came if came is None else _date(came.strip(), month_first=self.region == "US") or came

    def timestamp(self, value: object) -> str | None:
        """Return a time as RFC 3339 in UTC with milliseconds; one without a zone is UTC."""
        moment = milliseconds(value)
        if moment is None:
            return text(value)
        stamp = cast("str", value)
        return stamp if _is_rfc3339(stamp) else rfc3339(moment)

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
        came = {part: text(parts.get(part)) for part in _PARTS}
        if not any(came.values()):
            return None
        value = cast("PostalAddress", came)
        return {"value": value, "normalized": _address(value), "label": label, "preferred": preferred}

    def identifier(self, type_: str, value: object, issuer: object = None) -> Identifier | None:
        """Return the keyed hash of an official identifier, None where there is none. See `canonical` for its form."""
        came = text(value)
        if came is None:
            return None
        kind, compact = canonical(type_, came)
        named = _words(issuer)
        return {
            "type": kind,
            "hash": self.hasher.identifier(kind, compact),
            "issuer": named.upper() if named is not None else None,
        }

    def attributes(self, body: Mapping[str, Any], used: frozenset[str]) -> dict[str, Any]:
        """Return what is left of `body` after the fields that were `used`, the privacy policy, and what is empty."""
        private = self.policy.treatments
        left = {}
        for field, value in body.items():
            if field in used or value in _EMPTY or private.get(field, "keep") != "keep":
                continue
            left[field] = value if type(value) in _SCALARS else _pruned(value, _DEEPEST)
        return left


_EMPTY: Final[tuple[object, ...]] = (None, "", [], {})
_SCALARS: Final = frozenset({str, int, float, bool})


def _json(value: object) -> str:
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        return _TOO_DEEP


def _words(value: object) -> str | None:
    came = text(value)
    return came if came is None else " ".join(came.split())


def _is_rfc3339(stamp: str) -> bool:
    return len(stamp) == _STAMP and stamp[10] == "T" and stamp[19] == "." and stamp[23] == "Z"


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
    if not (value["line1"] or value["city"] or value["postcode"]):
        return None
    region, postcode, country = value["region"], value["postcode"], value["country"]
    return {
        "line1": _words(value["line1"]),
        "line2": _words(value["line2"]),
        "city": _words(value["city"]),
        "region": _code(region),
        "postcode": " ".join(postcode.upper().split()) if postcode else None,
        "country": countries.alpha2(country) if country else None,
    }


def _code(region: str | None) -> str | None:
    # A state's or province's code is written in capitals (ISO 3166-2), its name as it came.
    if region is None:
        return None
    words = " ".join(region.split())
    return words.upper() if len(words) <= 3 else words  # noqa: PLR2004 - ISO 3166-2: a code has up to 3 characters


def _pruned(value: Any, deepest: int) -> Any:  # noqa: ANN401 - any JSON
    if type(value) is dict:
        if not deepest:
            return _TOO_DEEP
        return {name: _pruned(part, deepest - 1) for name, part in value.items() if part not in _EMPTY}
    if type(value) is list:
        return [_pruned(part, deepest - 1) for part in value] if deepest else _TOO_DEEP
    return value
