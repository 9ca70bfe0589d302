"""What two customers have in common, field by field: the score of a pair.

What an identifier, e-mail address, phone number or reference in common adds is kept apart from the rest (`agreed`),
because it counts only while their bucket is small: nobody at a bucket can tell how large the others are, so the
clusters add up what the buckets support.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import orjson
from rapidfuzz.distance import OSA, JaroWinkler

from handlers.dedupe.nicknames import related
from handlers.dedupe.profile import KEY_BYTES
from handlers.dedupe.settings import DedupeSettings, Vetoes, Weights

FIELDS: Final = ("identifier_differs", "birth_date", "given", "family", "street", "house", "postcode", "city")
VALUE_TAGS: Final = frozenset(b"NEPR")
_SIMILAR: Final = 0.9
_PEOPLE: Final = frozenset(("person", "contact", "employee"))

_similarity = JaroWinkler.similarity
_edits = OSA.distance


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """A customer as the buckets know it: what is compared, and the match keys."""

    scope: str
    source: str
    kind: str
    given: str
    middle: str
    family: str
    suffix: str
    born: str
    addresses: list[list[str]]
    identifiers: dict[str, frozenset[str]]
    landlines: frozenset[bytes]
    keys: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The outcome: `fields` in the order of FIELDS, `agreed` values with their weights, and what stands against it.

    `veto` is lifted by an identifier in common, `block` never. `clash`: two customers of one source and kind have an
    e-mail address in common.
    """

    fields: tuple[float, ...]
    agreed: dict[bytes, float]
    veto: str | None
    block: str | None
    clash: bool
    same_source: bool

    @property
    def potential(self) -> float:
        """Return the score if every value in common counts; minus infinity where nothing can link the pair."""
        if self.block or (self.veto and not any(key[:1] == b"N" for key in self.agreed)):
            return float("-inf")
        best: dict[int, float] = {}
        for key, weight in self.agreed.items():
            best[key[0]] = max(weight, best.get(key[0], weight))
        return sum(self.fields) + sum(best.values())


@lru_cache(32_768)
def parse(keys: bytes, profile: bytes) -> Profile:
    """Read what `Refiner.refine` made; `keys` are the match keys one after the other."""
    scope, source, kind, given, middle, family, suffix, born, addresses, identifiers, landlines = orjson.loads(profile)
    by_type: dict[str, frozenset[str]] = {}
    for type_, hash_ in identifiers:
        by_type[type_] = by_type.get(type_, frozenset()) | {hash_}
    return Profile(
        *(scope, source, kind, given, middle, family, suffix, born, addresses, by_type),
        frozenset(map(bytes.fromhex, landlines)),
        frozenset(keys[at : at + KEY_BYTES] for at in range(0, len(keys), KEY_BYTES)),
    )


class Scorer:
    """Compares customers under the settings; remembers the comparisons of late, since a pair meets under many keys."""

    def __init__(self, settings: DedupeSettings) -> None:
        """Take the weights and vetoes from `settings`."""
        self._weights = settings.weights
        self._vetoes = settings.vetoes
        self.compare = lru_cache(65_536)(self._compare)

    def _compare(self, a: Profile, b: Profile) -> Comparison:
        weights = self._weights
        given, family, veto = names(a, b, weights, self._vetoes)
        born, born_veto = birth_dates(a.born, b.born, weights, self._vetoes)
        differs = any(
            a.identifiers[type_].isdisjoint(b.identifiers[type_]) for type_ in a.identifiers.keys() & b.identifiers
        )
        agreed = {key: self._value(key, a, b) for key in a.keys & b.keys if key[0] in VALUE_TAGS}
        fields = (weights.identifier_differs if differs else 0.0, born, given, family)
        same_source = a.source == b.source
        return Comparison(
            fields + addresses(a.addresses, b.addresses, weights),
            agreed,
            veto or born_veto or _suffixes(a.suffix, b.suffix),
            self._block(a, b),
            same_source and a.kind == b.kind and any(key[:1] == b"E" for key in agreed),
            same_source,
        )

    def _value(self, key: bytes, a: Profile, b: Profile) -> float:
        weights = self._weights
        match key[:1]:
            case b"N":
                return weights.identifier
            case b"E":
                return weights.email
            case b"P":
                return weights.landline if key in a.landlines and key in b.landlines else weights.mobile
            case _:
                return weights.reference

    def _block(self, a: Profile, b: Profile) -> str | None:
        if "company" in (a.kind, b.kind) and (a.kind in _PEOPLE or b.kind in _PEOPLE):
            return "kind"
        for type_ in a.identifiers.keys() & b.identifiers:
            if type_.partition("/")[0] in self._vetoes.unique and a.identifiers[type_].isdisjoint(b.identifiers[type_]):
                return "unique_id"
        return None


def names(a: Profile, b: Profile, weights: Weights, vetoes: Vetoes) -> tuple[float, float, str | None]:
    """Return the weights of given and family name, the better of straight and swapped, and the veto if there is one."""
    straight = _given(a.given, b.given, weights), _family(a.family, b.family, weights)
    veto = _given_veto(a.given, b.given, vetoes)
    if straight[0] >= weights.given and straight[1] >= weights.family:
        return *straight, None
    if a.given and a.family and b.given and b.family:
        swapped = _given(a.given, b.family, weights), _family(a.family, b.given, weights)
        if sum(swapped) > sum(straight):
            return *swapped, None
    return *straight, veto


def _given(a: str, b: str, weights: Weights) -> float:
    if not a or not b or (_initial(a, b) and a != b):
        return 0.0
    if a == b:
        return weights.given
    return weights.given_similar if _similarity(a, b) >= _SIMILAR or related(a, b) else weights.given_differs


def _family(a: str, b: str, weights: Weights) -> float:
    if not a or not b:
        return 0.0
    if a == b:
        return weights.family
    return weights.family_similar if _similarity(a, b) >= _SIMILAR else weights.family_differs


def _given_veto(a: str, b: str, vetoes: Vetoes) -> str | None:
    if not a or not b or _initial(a, b) or related(a, b) or _similarity(a, b) >= vetoes.given_below:
        return None
    return "given_name"


def _initial(a: str, b: str) -> bool:
    return a[0] == b[0] and (len(a) == 1 or len(b) == 1)


def _suffixes(a: str, b: str) -> str | None:
    return "suffix" if a and b and a != b else None


def birth_dates(a: str, b: str, weights: Weights, vetoes: Vetoes) -> tuple[float, str | None]:
    """Return the weight of two birth dates, and the veto if they are too far apart."""
    if not a or not b:
        return 0.0, None
    if a == b:
        return weights.birth_date, None
    edits = _edits(a, b)
    veto = "birth_date" if edits >= vetoes.birth_date_edits else None
    if edits == 1:
        return weights.birth_date_one_edit, veto
    return weights.birth_date_two_edits if edits == 2 else weights.birth_date_differs, veto  # noqa: PLR2004 - as named


def addresses(a: Iterable[list[str]], b: list[list[str]], weights: Weights) -> tuple[float, ...]:
    """Return the weights of street, house number, postcode and city of the two addresses that agree best."""
    best: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    most = float("-inf")
    for one in a:
        for other in b:
            found = _address(one, other, weights)
            if (total := sum(found)) > most:
                best, most = found, total
    return best


def _address(a: list[str], b: list[str], weights: Weights) -> tuple[float, ...]:
    house = weights.house if a[0] and a[0] == b[0] else 0.0
    street = _agreement(a[1], b[1], weights.street, weights.street_differs)
    postcode = 0.0 if not a[2] or not b[2] else weights.postcode if a[2] == b[2] else weights.postcode_differs
    return street, house, postcode, _agreement(a[3], b[3], weights.city, weights.city_differs)


def _agreement(a: str, b: str, agrees: float, differs: float) -> float:
    if not a or not b:
        return 0.0
    return agrees if a == b or _similarity(a, b) >= _SIMILAR else differs
