"""What of a customer may leave as it is, what only as a keyed hash, and what not at all.

A policy says it field by field: `keep`, `hash` or `drop`; what it does not name is kept. A field of a field is named
with dots (`billing.address`), lists are looked through. The hashes are keyed with the pepper, so that nobody can find
a social security number by trying them all, and each use has a personalization of its own (BLAKE2, RFC 7693; `person`
in hashlib), so that a hash of one use says nothing about another.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from worker.errors import ConfigError
from worker.settings import Treatment

_FINGERPRINT_BYTES: Final = 16
_FIELD_BYTES: Final = 4
_IDENTIFIER_BYTES: Final = 16
_CHECK_BYTES: Final = 4
_DEEPEST: Final = 16
_TYPES: Final = 256


class Hasher:
    """The keyed hashes of one installation. The keyed objects are made once and copied: keying costs most of a hash."""

    def __init__(self, pepper: bytes) -> None:
        """Take the secret `pepper`, of any length; raises ConfigError for an empty one."""
        if not pepper:
            raise ConfigError(["the pepper is empty; set ROLLCALL_PEPPER to a long random secret"])
        key = hashlib.blake2b(pepper, person=b"rollcall key").digest()
        self._fingerprint = hashlib.blake2b(key=key, digest_size=_FINGERPRINT_BYTES, person=b"fingerprint")
        self._field = hashlib.blake2b(key=key, digest_size=_FIELD_BYTES, person=b"field")
        self._identifier = hashlib.blake2b(key=key, digest_size=_IDENTIFIER_BYTES, person=b"identifier")
        self._typed: dict[str, hashlib.blake2b] = {}
        self._nothing = {empty: self.field(empty) for empty in (b"null", b"[]", b"{}")}
        self._check = hashlib.blake2b(key=key, digest_size=_CHECK_BYTES, person=b"check").hexdigest()

    def fingerprints(self, tag: bytes) -> Callable[[bytes], bytes]:
        """Return what gives the 16 bytes that stand for a whole record, read under the rules that `tag` stands for."""
        tagged = self._fingerprint.copy()
        tagged.update(tag)
        copy = tagged.copy

        def fingerprint(data: bytes) -> bytes:
            digest = copy()
            digest.update(data)
            return digest.digest()

        return fingerprint

    def field(self, data: bytes) -> bytes:
        """Return the 4 bytes that stand for one field: they only tell a change, never two customers apart."""
        digest = self._field.copy()
        digest.update(data)
        return digest.digest()

    def fields(self, parts: Iterable[bytes]) -> bytes:
        """Return the hashes of several fields in a row; most fields of most customers are empty."""
        known, copy = self._nothing.get, self._field.copy
        hashes = []
        for part in parts:
            found = known(part)
            if found is None:
                digest = copy()
                digest.update(part)
                found = digest.digest()
            hashes.append(found)
        return b"".join(hashes)

    def identifier(self, type_: str, value: str) -> str:
        """Return the hash of an identifier in hexadecimal (32 digits); the same type and value give the same hash."""
        digest = self._of(type_).copy()
        digest.update(value.encode("utf-8", "replace"))
        return digest.hexdigest()

    def beginnings(self, type_: str, values: Iterable[bytes], size: int) -> list[bytes]:
        """Return the first `size` bytes of the `identifier` of each value (its text in UTF-8), for many of them."""
        copy = self._of(type_).copy
        found = []
        for value in values:
            digest = copy()
            digest.update(value)
            found.append(digest.digest()[:size])
        return found

    def _of(self, type_: str) -> "hashlib.blake2b":
        """Return what all identifiers of a type begin with, hashed."""
        known = self._typed.get(type_)
        if known is None:
            known = self._identifier.copy()
            known.update(f"{type_}\0".encode("utf-8", "replace"))
            if len(self._typed) < _TYPES:  # types come out of configurations, not out of records: there are few
                self._typed[type_] = known
        return known

    def check(self) -> str:
        """Return 8 hexadecimal digits that tell another pepper from this one without revealing it."""
        return self._check


class Policy:
    """A privacy policy, ready to be applied to records."""

    def __init__(self, treatments: Mapping[str, Treatment]) -> None:
        """`treatments` by field; a field of a field is named with dots."""
        self.treatments = dict(treatments)
        self.private = frozenset(path for path, treatment in treatments.items() if treatment != "keep")
        below: dict[str, dict[str, Treatment]] = {}
        for path, treatment in treatments.items():
            field, dot, rest = path.partition(".")
            if dot:
                below.setdefault(field, {})[rest] = treatment
        self._below = {field: Policy(parts) for field, parts in below.items()}
        self._dropped = tuple(path for path, treatment in treatments.items() if treatment == "drop")
        self._hashed = tuple(path for path, treatment in treatments.items() if treatment == "hash")

    def treatment(self, field: str) -> Treatment:
        """Return what is done with `field`."""
        return self.treatments.get(field, "keep")

    def screen(self, body: Mapping[str, Any]) -> tuple[dict[str, Any], list[tuple[str, Any]]]:
        """Return (what may be seen of `body`, the fields that may only be hashed with their values).

        Fields that are dropped are in neither. `body` stays as it is.
        """
        visible = dict(body)
        for field in self._dropped:
            visible.pop(field, None)
        secret = [(field, visible.pop(field)) for field in self._hashed if field in visible]
        for field, policy in self._below.items():
            if field in visible:
                visible[field], more = policy.screen_below(visible[field], _DEEPEST)
                secret += [(f"{field}.{name}", value) for name, value in more]
        return visible, secret

    def screen_below(self, value: Any, deepest: int) -> tuple[Any, list[tuple[str, Any]]]:
        """Do the same with the value of a field: a list is looked through, to `deepest` lists in each other."""
        if isinstance(value, dict):
            return self.screen(value)
        if not isinstance(value, list):
            return value, []
        if not deepest:
            return [], []
        screened = [self.screen_below(element, deepest - 1) for element in value]
        return [seen for seen, _ in screened], [found for _, more in screened for found in more]
