"""Values that identify nobody: placeholders that thousands of customers have in common.

No validator finds them, since they are valid. Those that everybody uses are listed in the settings; the others show
by the size of their bucket (`Generic.bucket`), which the pairs stage sees to.
"""

import re
from collections.abc import Callable

from handlers.dedupe.settings import Generic

_IDENTIFIERS = ("ssn", "national_id", "drivers_licence", "card", "organization_number")


class GenericValues:
    """Tells generic values from the others; `hash_identifier` is how the normalizer hashes (type, value)."""

    def __init__(self, settings: Generic, hash_identifier: Callable[[str, str], str]) -> None:
        """Compile the lists."""
        self._emails = frozenset(settings.emails)
        self._email_names = frozenset(settings.email_names)
        self._names = frozenset(settings.names)
        self._postcodes = frozenset(settings.postcodes)
        self._birth_dates = frozenset(settings.birth_dates)
        self._streets = frozenset(settings.streets)
        self._identifiers = frozenset(
            hash_identifier(type_, value) for type_ in _IDENTIFIERS for value in settings.identifiers
        ) | frozenset(settings.identifiers)
        pattern = re.compile("|".join(f"(?:{phone})" for phone in settings.phones) or "(?!)")
        self._phones = pattern.fullmatch

    def is_email(self, email: str) -> bool:
        """Return whether an e-mail address identifies nobody."""
        return email in self._emails or email.partition("@")[0] in self._email_names

    def is_phone(self, number: str) -> bool:
        """Return whether a phone number (E.164) identifies nobody."""
        return self._phones(number) is not None

    def is_identifier(self, type_: str, value: str) -> bool:
        """Return whether an identifier (its hash) identifies nobody."""
        return value in self._identifiers or type_.endswith("_malformed")

    def name(self, name: str) -> str:
        """Return the name, empty if it is a placeholder."""
        return "" if name in self._names else name

    def birth_date(self, date: str) -> str:
        """Return the date, empty if it is a placeholder."""
        return "" if date in self._birth_dates else date

    def address(self, address: list[str]) -> list[str]:
        """Return (house, street, postcode, city) with the placeholders made empty."""
        house, street, postcode, city = address
        if street in self._streets:
            house, street = "", ""
        return [house, street, "" if postcode in self._postcodes else postcode, "" if city in self._streets else city]
