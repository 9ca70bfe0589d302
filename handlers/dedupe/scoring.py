"""What two customers have in common, field by field: the score of a pair.

What an identifier, e-mail address, phone number or reference in common adds is kept apart from the rest (`agreed`),
because it counts only while their bucket is small: nobody at a bucket can tell how large the others are, so the
clusters add up what the buckets support.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from itertools import groupby
from typing import Final

import orjson
from rapidfuzz.distance import OSA, JaroWinkler

from handlers.dedupe.nicknames import related
from handlers.dedupe.profile import KEY_BYTES
from handlers.dedupe.settings import DedupeSettings, Vetoes, Weights

FIELDS: Final = ("identifier_differs", "birth_date", "given", "family", "street", "house", "postcode", "city")
VALUE_TAGS: Final = frozenset(b"NEPR")
_SIMILAR: Final = 0.9
_JUST_BELOW: Final = 0.5
# One edit in a longer name is a typing error more often than another name.
_SHORT: Final = 3
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


class Need(IntEnum):
    """What a pair has to have in common, beside its score, before it is linked: household members have much in common.

    `VALUE`: an identifier, e-mail address, phone number or reference. `STRONG`: an identifier, or two kinds of those.
    `IDENTIFIER`: an identifier, since something speaks against the pair (a veto).
    """

    NOTHING = 0
    VALUE = 1
    STRONG = 2
    IDENTIFIER = 3


@dataclass(frozen=True, slots=True)
class Comparison:
    """The outcome: `fields` in the order of FIELDS, `agreed` values with their weights, and what stands against it.

    `veto` is lifted by an identifier in common, `block` never. `clash`: two customers of one source and kind have an
    e-mail address in common.
    """

    fields: tuple[float, ...]
    agreed: dict[bytes, float]
    need: Need
    veto: str | None
    block: str | None
    clash: bool
    same_source: bool

    def best(self) -> dict[str, float]:
        """Return the most that each kind of value in common adds."""
        best: dict[str, float] = {}
        for key, weight in self.agreed.items():
            tag = chr(key[0])
            best[tag] = max(weight, best.get(tag, weight))
        return best


class Judge:
    """Says how a pair stands."""

    def __init__(self, settings: DedupeSettings) -> None:
        """Take the threshold and the penalty from `settings`."""
        self._link = settings.link
        self._penalty = settings.weights.uncorroborated

    def standing(self, fields: Iterable[float], need: int, best: Mapping[str, float]) -> float:
        """Return the score that decides: what is not corroborated as it needs to be loses, and is never linked.

        `best` has what each kind of value in common adds, by tag. Minus infinity: the pair is out of the question.
        """
        score = sum(fields) + sum(best.values())
        if need == Need.NOTHING or "N" in best or len(best) >= need:
            return score if need != Need.IDENTIFIER or "N" in best else float("-inf")
        return float("-inf") if need == Need.IDENTIFIER else min(score - self._penalty, self._link - _JUST_BELOW)


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
        given, family, alike, veto = names(a, b, weights, self._vetoes)
        born, born_veto = birth_dates(a.born, b.born, weights, self._vetoes)
        place = addresses(a.addresses, b.addresses, weights)
        veto = veto or born_veto or _suffixes(a.suffix, b.suffix)
        differs = any(
            a.identifiers[type_].isdisjoint(b.identifiers[type_]) for type_ in a.identifiers.keys() & b.identifiers
        )
        agreed = {key: self._value(key, a, b) for key in a.keys & b.keys if key[0] in VALUE_TAGS}
        same_source = a.source == b.source
        return Comparison(
            (weights.identifier_differs if differs else 0.0, born, given, family, *place),
            agreed,
            Need.IDENTIFIER if veto else self._need(a, b, alike, (family, born, *place)),
            veto,
            self._block(a, b),
            same_source and a.kind == b.kind and any(key[:1] == b"E" for key in agreed),
            same_source,
        )

    def _need(self, a: Profile, b: Profile, alike: int, fields: tuple[float, ...]) -> Need:
        """Return what is needed of a pair that no veto keeps apart; `alike` says how much the given names are."""
        weights = self._weights
        family, born, street, house, postcode, _ = fields
        same_day, near_day = born == weights.birth_date, born == weights.birth_date_one_edit
        home = house > 0 and (street > 0 or (street == 0 and postcode > 0))
        if alike == SAME:
            somewhere = near_day and (street > 0 or postcode > 0)
            namesakes = a.suffix != b.suffix and born == 0
            return Need.NOTHING if same_day or somewhere or (home and not namesakes) else Need.VALUE
        if alike == DIFFERENT:
            return Need.VALUE if same_day else Need.IDENTIFIER
        if same_day and alike == MISSING and home and family > 0:
            return Need.NOTHING
        if alike == SIMILAR and (same_day or (near_day and street > 0)):
            return Need.NOTHING
        return Need.VALUE if same_day else Need.STRONG

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


def names(a: Profile, b: Profile, weights: Weights, vetoes: Vetoes) -> tuple[float, float, int, str | None]:
    """Compare given and family names, the better of straight and swapped.

    Returns the weights of given and family name, how much the given names are alike, and the veto if there is one.
    """
    alike = _likeness(a.given, b.given, vetoes.given_below)
    given, family = _given(alike, weights), _family(a.family, b.family, weights)
    if alike != SAME and a.given and a.family and b.given and b.family:
        swapped = min(
            _likeness(a.given, b.family, vetoes.given_below), _likeness(a.family, b.given, vetoes.given_below)
        )
        if swapped >= SIMILAR:
            return (
                _given(swapped, weights),
                weights.family if swapped == SAME else weights.family_similar,
                swapped,
                None,
            )
    return given, family, alike, "given_name" if alike == OTHER else None


OTHER, DIFFERENT, MISSING, SIMILAR, SAME = range(5)


@lru_cache(65_536)
def _squeezed(name: str) -> str:
    """Return the name with letters that repeat written once: Phillip and Philip are one name."""
    return "".join(letter for letter, _ in groupby(name))


@lru_cache(65_536)
def _likeness(a: str, b: str, given_below: float) -> int:
    if a == b:
        return SAME if a else MISSING
    if not a or not b or _initial(a, b):
        return MISSING
    if related(a, b) or a.partition(" ")[0] == b.partition(" ")[0]:
        return SAME
    if _squeezed(a) == _squeezed(b) or (len(a) == len(b) > _SHORT and _edits(a, b) == 1 and sorted(a) == sorted(b)):
        return SAME
    similarity = _similarity(a, b)
    if similarity >= _SIMILAR or (len(a) > _SHORT and _edits(a, b) == 1):
        return SIMILAR
    return DIFFERENT if similarity >= given_below else OTHER


def _given(alike: int, weights: Weights) -> float:
    return (weights.given_differs, weights.given_differs, 0.0, weights.given_similar, weights.given)[alike]


def _family(a: str, b: str, weights: Weights) -> float:
    if not a or not b:
        return 0.0
    if a == b:
        return weights.family
    return weights.family_similar if _similarity(a, b) >= _SIMILAR else weights.family_differs


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
