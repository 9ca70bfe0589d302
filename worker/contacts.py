"""E-mail addresses and phone numbers in the one form in which they can be compared.

The libraries decide: email-validator (RFC 5321 and 5322, RFC 6531, IDNA 2008; no look-up in the DNS) and phonenumbers
(Google's libphonenumber). They cost 30 us and more an address, so the common shapes take a short way that gives the
same answer, which the property tests prove, and the rest is remembered.

A phone number is taken for valid if it has the length and the shape of its country's numbering plan (libphonenumber's
general description). Whether its range is in use is not asked: ranges are opened faster than libraries follow, and
numbers would change their form with every update of the library.
"""

import re
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Final

import phonenumbers
from email_validator import EmailNotValidError, validate_email
from phonenumbers import NumberParseException, ValidationResult
from phonenumbers.phonemetadata import PhoneMetadata

REMEMBERED: Final = 16_384
"""Answers of the libraries that are kept, for each kind of contact."""

# The longest that can be valid: 254 bytes (RFC 5321, 4.5.3.1.3) and the brackets that email-validator takes off.
_LONGEST_EMAIL: Final = 256
# libphonenumber reads no longer texts.
_LONGEST_PHONE: Final = 250

# No label can be too long in an address of 64 characters, and none has two hyphens in a row (IDNA's mark).
_SHORT_EMAIL: Final = 64
_PLAIN_EMAIL: Final = re.compile(
    r"[a-z0-9_+\-]+(?:\.[a-z0-9_+\-]+)*@(?:[a-z0-9]+(?:-[a-z0-9]+)*\.)+"
    r"(?!(?:arpa|invalid|local|localhost|onion)\Z)[a-z]{2,63}"
).fullmatch

# The North American Numbering Plan: as it is written nationally, in every region whose calling code is 1.
_NANP: Final = re.compile(r"(?:\+?1[ .-]?)?\(?([2-9][0-9]{2})\)?[ .-]?([0-9]{3})[ .-]?([0-9]{4})").fullmatch
_NANP_CODE: Final = 1


def email(text: str) -> str | None:
    """Return the case-folded address, None if `text` is not a valid one.

    Addresses under `example.com` and `.test` are valid; those under `.local`, `.localhost`, `.invalid`, `.onion` and
    `.arpa` are not (IANA's special-use domain names, as email-validator reads them).
    """
    if len(text) <= _SHORT_EMAIL and text.isascii():
        folded = text.lower()
        if _PLAIN_EMAIL(folded):
            return folded
    return slow_email(text) if len(text) <= _LONGEST_EMAIL else None


@lru_cache(REMEMBERED)
def slow_email(text: str) -> str | None:
    """Return what the library makes of the address: the same as `email`, at a hundred times the cost."""
    try:
        valid = validate_email(text, check_deliverability=False, test_environment=True)
    except (EmailNotValidError, UnicodeError):
        return None
    return f"{valid.local_part.casefold()}@{valid.domain}" if valid.local_part else None


def phone(text: str, region: str) -> str | None:
    """Return the number in E.164, None if `text` holds no valid one.

    `region` (ISO 3166-1 alpha-2) is where numbers without a country code are dialled.
    """
    if text[:1] == "+":
        # No calling code is the beginning of another one (ITU-T E.164).
        plain = _plain(text[1:2]) or _plain(text[1:3]) or _plain(text[1:4])
        if plain is not None and plain(text):
            return text
    if calling_code(region) == _NANP_CODE and (match := _NANP(text)):
        return f"+1{match[1]}{match[2]}{match[3]}"
    return slow_phone(text, region) if len(text) <= _LONGEST_PHONE else None


@lru_cache(REMEMBERED)
def slow_phone(text: str, region: str) -> str | None:
    """Return what the library makes of the number: the same as `phone`, at a hundred times the cost."""
    try:
        number = phonenumbers.parse(text, region)
    except NumberParseException:
        return None
    if phonenumbers.is_possible_number_with_reason(number) != ValidationResult.IS_POSSIBLE:
        return None
    pattern = _pattern(number.country_code or 0)
    if pattern is None or not pattern.fullmatch(phonenumbers.national_significant_number(number)):
        return None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


@cache
def calling_code(region: str) -> int:
    """Return the calling code of `region`, 0 if there is no such region."""
    return phonenumbers.country_code_for_region(region)


@cache
def _metadata(code: int) -> PhoneMetadata | None:
    region = phonenumbers.region_code_for_country_code(code)
    return PhoneMetadata.metadata_for_region_or_calling_code(code, region)


@cache
def _pattern(code: int) -> re.Pattern[str] | None:
    metadata = _metadata(code)
    general = metadata.general_desc if metadata else None
    return re.compile(general.national_number_pattern) if general and general.national_number_pattern else None


@lru_cache(2048)
def _plain(digits: str) -> Callable[[str], object] | None:
    """Return what matches the numbers in E.164 under a calling code that stay as they are, None if there is none."""
    metadata = _metadata(int(digits)) if digits.isdecimal() and digits.isascii() else None
    pattern = _pattern(int(digits)) if metadata else None
    if metadata is None or metadata.general_desc is None or pattern is None:
        return None
    lengths = "|".join(f"[0-9]{{{length}}}" for length in metadata.general_desc.possible_length)
    # What begins as if dialled nationally is left to the library.
    prefix = f"(?!{metadata.national_prefix_for_parsing})" if metadata.national_prefix_for_parsing else ""
    return re.compile(rf"\+{digits}(?=(?:{lengths})\Z){prefix}(?:{pattern.pattern})").fullmatch
