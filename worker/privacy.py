"""What of a customer may leave as it is, what only as a keyed hash, and what not at all.

A policy says it field by field: `keep`, `hash` or `drop`; what it does not name is kept. A field of a field is named
with dots (`billing.address`), lists are looked through. The hashes are keyed with the pepper, so that nobody can find
a social security number by trying them all, and each use has a personalization of its own (BLAKE2, RFC 7693; `person`
in hashlib), so that a hash of one use says nothing about another.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, Final

from worker.errors import ConfigError
from worker.settings import Treatment

_FINGERPRINT_BYTES: Final = 16
_FIELD_BYTES: Final = 4
_IDENTIFIER_BYTES: Final = 16
_CHECK_BYTES: Final = 4

# A policy as a tree: what to do with a field, or with the fields below it.
_Tree = dict[str, "Treatment | _Tree"]


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
        self._check = hashlib.blake2b(key=key, digest_size=_CHECK_BYTES, person=b"check").hexdigest()

    def fingerprint(self, data: bytes) -> bytes:
        """Return the 16 bytes that stand for a whole record."""
        digest = self._fingerprint.copy()
        digest.update(data)
        return digest.digest()

    def field(self, data: bytes) -> bytes:
        """Return the 4 bytes that stand for one field: they only tell a change, never two customers apart."""
        digest = self._field.copy()
        digest.update(data)
        return digest.digest()

    def identifier(self, type_: str, value: str) -> str:
        """Return the hash of an identifier in hexadecimal (32 digits); the same type and value give the same hash."""
        digest = self._identifier.copy()
        digest.update(f"{type_}\0{value}".encode(errors="replace"))
        return digest.hexdigest()

    def check(self) -> str:
        """Return 8 hexadecimal digits that tell another pepper from this one without revealing it."""
        return self._check


class Policy:
    """A privacy policy, ready to be applied to records."""

    def __init__(self, treatments: Mapping[str, Treatment]) -> None:
        """`treatments` by field; a field of a field is named with dots."""
        self.treatments = dict(treatments)
        self._tree: _Tree = {}
        # The longer paths first, so that a treatment of a whole field wins over those of the fields in it.
        for path in sorted(treatments, key=len, reverse=True):
            _plant(self._tree, path.split("."), treatments[path])

    def treatment(self, field: str) -> Treatment:
        """Return what is done with `field`."""
        return self.treatments.get(field, "keep")

    def screen(self, body: Mapping[str, Any]) -> tuple[dict[str, Any], list[tuple[str, Any]]]:
        """Return (what may be seen of `body`, the fields that may only be hashed with their values).

        Fields that are dropped are in neither. `body` stays as it is.
        """
        secret: list[tuple[str, Any]] = []
        return _screen(body, self._tree, "", secret), secret


def _plant(tree: _Tree, path: list[str], treatment: Treatment) -> None:
    for name in path[:-1]:
        branch = tree.setdefault(name, {})
        if isinstance(branch, str):
            return
        tree = branch
    if treatment != "keep":
        tree[path[-1]] = treatment


def _screen(body: Mapping[str, Any], tree: _Tree, prefix: str, secret: list[tuple[str, Any]]) -> dict[str, Any]:
    visible = dict(body)
    for name in tree.keys() & visible.keys():
        rule = tree[name]
        if rule == "drop":
            del visible[name]
        elif rule == "hash":
            secret.append((prefix + name, visible.pop(name)))
        else:
            visible[name] = _below(visible[name], rule, f"{prefix}{name}.", secret)
    return visible


def _below(value: Any, tree: "Treatment | _Tree", prefix: str, secret: list[tuple[str, Any]]) -> Any:  # noqa: ANN401 - JSON
    if isinstance(tree, str):
        return value
    if isinstance(value, dict):
        return _screen(value, tree, prefix, secret)
    if isinstance(value, list):
        return [_below(element, tree, prefix, secret) for element in value]
    return value
