"""A customer as the buckets know it: read once from what `Refiner.refine` made, and kept while it is in use."""

from dataclasses import dataclass

import orjson

from handlers.dedupe.profile import split_keys


@dataclass(slots=True, eq=False)
class Profile:
    """What is compared of a customer, and its match keys.

    `identifiers` has, by type and issuer, the hashes with what tells a typing error (see `profile.near`); `seen` is
    the year in which the customer was met first.
    """

    scope: str
    source: str
    kind: str
    given: str
    middle: str
    family: str
    suffix: str
    born: str
    addresses: list[list[str]]
    identifiers: dict[str, dict[str, str]]
    landlines: frozenset[bytes]
    seen: int
    keys: frozenset[bytes]


def parse(keys: bytes, profile: bytes) -> Profile:
    """Read what `Refiner.refine` made; `keys` are the match keys one after the other."""
    scope, source, kind, given, middle, family, suffix, born, addresses, *rest = orjson.loads(profile)
    identifiers, landlines, seen = rest
    by_type: dict[str, dict[str, str]] = {}
    for type_, hash_, variants in identifiers:
        by_type.setdefault(type_, {})[hash_] = variants
    return Profile(
        *(scope, source, kind, given, middle, family, suffix, born, addresses, by_type),
        frozenset(map(bytes.fromhex, landlines)),
        int(seen) if seen.isdecimal() else 0,
        frozenset(split_keys(keys)),
    )
