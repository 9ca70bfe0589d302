"""What a Dintero listing can be narrowed to: every filter must match.

Contacts are left out unless asked for, texts match by prefix, e-mails without regard to case. A `+` that is not
encoded reads as a space and so matches nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import starmap
from typing import Any

from worker.simulator.store import Row

LIMITS = range(1, 101)
DEFAULT_LIMIT = 10
ATTRIBUTES = 4
"""Attributes that one request may name."""
TYPES = {"customer", "company", "contact", "employee", "other", "any"}
Test = Callable[[dict[str, Any]], bool]


class RefusedError(Exception):
    """A parameter that the API refuses; the message goes into the answer."""


class Filter:
    """The tests of one request."""

    def __init__(self, tests: list[Test], *, kinds: set[str], deleted: bool) -> None:
        """Keep `tests` of a live user, the types let through, and whether tombstones are."""
        self._tests = tests
        self._kinds = kinds
        self._deleted = deleted

    def __call__(self, row: Row) -> bool:
        """Whether the row is in the result."""
        if row.tombstone:
            return self._deleted and not self._tests
        if not self._tests and not self._kinds:
            return b'"type":"contact"' not in row.body or row.document()["type"] != "contact"
        user = row.document()
        kind = user["type"]
        right = kind in self._kinds or "any" in self._kinds if self._kinds else kind != "contact"
        return right and all(test(user) for test in self._tests)

    @classmethod
    def read(cls, asked: dict[str, Any]) -> Filter:
        """Read the parameters. Raises RefusedError."""
        kinds = set(_listed(asked.get("type")))
        if not kinds <= TYPES:
            raise RefusedError(f"type must be one of {', '.join(sorted(TYPES))}")
        tests = [make(asked[name]) for name, make in TESTS.items() if name in asked]
        tests += _attributes(_listed(asked.get("attributes_keys")), _listed(asked.get("attributes_values")))
        return cls(tests, kinds=kinds, deleted=asked.get("include_deleted") == "true")


def read_limit(text: Any) -> int:
    """Read the limit. Raises RefusedError outside of 1 to 100."""
    limit = DEFAULT_LIMIT if text is None else int(text) if isinstance(text, str) and text.isdecimal() else 0
    if limit not in LIMITS:
        raise RefusedError("limit must be between 1 and 100")
    return limit


def _listed(value: Any) -> list[str]:
    """List the items of a parameter that was repeated or separated by commas."""
    values = value if isinstance(value, list) else [value] if value else []
    return [item for part in values for item in str(part).split(",")]


def _prefix(name: str) -> Callable[[Any], Test]:
    return lambda want: lambda user: str(user.get(name) or "").casefold().startswith(str(want).casefold())


def _search(want: Any) -> Test:
    term = str(want).casefold()

    def test(user: dict[str, Any]) -> bool:
        first, last = str(user.get("first_name", "")), str(user.get("last_name", ""))
        places = [
            first,
            last,
            f"{first} {last}",
            *(str(user.get(name) or "") for name in ("phone_number", "customer_id", "email")),
        ]
        return any(place.casefold().startswith(term) for place in places)

    return test


def _tagged(want: Any) -> Test:
    wanted = set(_listed(want))
    return lambda user: wanted <= {str(tag) for tag in user.get("tags", [])}


def _token(name: str) -> Callable[[Any], Test]:
    return lambda want: lambda user: any(token.get(name) == want for token in user.get("tokens", []))


def _attributes(keys: list[str], values: list[str]) -> list[Test]:
    if len(keys) > ATTRIBUTES or len(values) > ATTRIBUTES:
        raise RefusedError(f"at most {ATTRIBUTES} attributes")
    if len(values) > len(keys):
        raise RefusedError("attributes_values needs attributes_keys")
    tests: list[Test] = [_has(key) for key in keys]
    return tests + list(starmap(_holds, zip(keys, values, strict=False)))


def _has(key: str) -> Test:
    return lambda user: key in user.get("attributes", {})


def _holds(key: str, value: str) -> Test:
    return lambda user: str(user.get("attributes", {}).get(key)) == value


TESTS: dict[str, Callable[[Any], Test]] = {
    "email": _prefix("email"),
    "phone_number": _prefix("phone_number"),
    "search": _search,
    "tag": _tagged,
    "tags": _tagged,
    "tag_id": _tagged,
    "token": _token("value"),
    "token_value": _token("value"),
    "token_type": _token("type"),
}
"""The filters by the parameter's name; the document names neither tag nor token, so several names are taken."""
