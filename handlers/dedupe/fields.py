"""The comparison of single fields: each gives the weight that it adds to the score, and what it says beyond that."""

from enum import IntEnum
from itertools import groupby
from typing import Final

from rapidfuzz.distance import OSA, JaroWinkler

from handlers.dedupe.comparand import Profile
from handlers.dedupe.nicknames import KNOWN, related
from handlers.dedupe.profile import near
from handlers.dedupe.settings import Vetoes, Weights

_SIMILAR: Final = 0.9
# One edit in a longer name is a typing error more often than another name.
_SHORT: Final = 3
_BOTH: Final = 2
# Three edits make another name: Maria, Marquita.
_TYPED: Final = 2

_similarity: Final = JaroWinkler.similarity
_edits: Final = OSA.distance


class Alike(IntEnum):
    """How much two given names are alike.

    `OTHER` and `DIFFERENT` names are two, the latter with letters in common; `MISSING` says nothing; `SIMILAR` ones are
    spelt alike, and of `MISTYPED` ones only one is a name that people have; short forms are the `SAME`.
    """

    OTHER = 0
    DIFFERENT = 1
    MISSING = 2
    SIMILAR = 3
    MISTYPED = 4
    SAME = 5


def names(a: Profile, b: Profile, weights: Weights, vetoes: Vetoes) -> tuple[float, float, Alike]:
    """Return the weights of given and family name, the better of straight and swapped, and how alike the given are.

    Where only one name agrees, and that in the other's field, it counts and the others say nothing, provided that birth
    dates or identifiers are there to tell: they were swapped, and one of them was mistaken besides.
    """
    alike = likeness(a.given, b.given, vetoes.given_below)
    family = _family(a.family, b.family, weights)
    if alike < Alike.SIMILAR and a.given and a.family and b.given and b.family:
        swapped = min(likeness(a.given, b.family, 1.0), likeness(a.family, b.given, 1.0))
        if swapped >= Alike.SIMILAR:
            one_equal = a.given == b.family or a.family == b.given
            other = weights.family if swapped == Alike.SAME else weights.family_similar
            return weights.given if one_equal else weights.given_similar, other, swapped
        if alike < Alike.MISSING and (_goes_by_middle(a, b) or _goes_by_middle(b, a)):
            return weights.given_similar, family, Alike.SIMILAR
        if alike < Alike.MISSING and family < 0 and _crossed(a, b):
            return weights.given_similar, 0.0, Alike.MISSING
    return _given(a.given, b.given, alike, weights), family, alike


def _goes_by_middle(a: Profile, b: Profile) -> bool:
    """Return whether `a` is called by what is the middle name of `b`, and no middle name of its own says otherwise."""
    return a.given == b.middle and (not a.middle or a.middle[0] == b.given[0])


def _crossed(a: Profile, b: Profile) -> bool:
    if (not a.born or a.born != b.born) and not (a.identifiers and b.identifiers):
        return False
    return same_name(a.given, b.family) or same_name(a.family, b.given)


def likeness(a: str, b: str, given_below: float) -> Alike:
    """Compare two given names; below `given_below` (Jaro-Winkler) they are OTHER names."""
    if a == b:
        return Alike.SAME if a else Alike.MISSING
    if not a or not b:
        return Alike.MISSING
    if a[0] == b[0]:
        if 1 in {len(a), len(b)}:
            return Alike.MISSING
        if a.partition(" ")[0] == b.partition(" ")[0] or _letters(a) == _letters(b):
            return Alike.SAME
    if related(a, b):
        return Alike.SAME
    similarity = _similarity(a, b)
    known = (a in KNOWN) + (b in KNOWN)
    if known < _BOTH:
        edits = _edits(a, b)
        if edits == 1 and len(a) == len(b) > _SHORT and sorted(a) == sorted(b):
            return Alike.SAME
        long_enough = min(len(a), len(b)) > (_SHORT if known == 0 else _SHORT - 1)
        if (similarity >= _SIMILAR and edits <= _TYPED) or (long_enough and edits == 1):
            return Alike.MISTYPED if known else Alike.SIMILAR
    return Alike.DIFFERENT if similarity >= given_below else Alike.OTHER


def _letters(name: str) -> list[str]:
    """Return the letters, doubled ones once: Phillip and Philip have the same."""
    return [letter for letter, _ in groupby(name)]


def same_name(a: str, b: str) -> bool:
    """Return whether two family names are alike, or a typing error apart."""
    return _close(a, b) or _one_edit(a, b)


def _given(a: str, b: str, alike: Alike, weights: Weights) -> float:
    if alike >= Alike.SIMILAR:
        return weights.given if a == b else weights.given_similar
    return 0.0 if alike == Alike.MISSING else weights.given_differs


def _close(a: str, b: str) -> bool:
    return a == b or _similarity(a, b) >= _SIMILAR


def _one_edit(a: str, b: str) -> bool:
    return min(len(a), len(b)) > _SHORT and _edits(a, b) == 1


def _family(a: str, b: str, weights: Weights) -> float:
    if not a or not b:
        return 0.0
    if a == b:
        return weights.family
    return weights.family_similar if same_name(a, b) else weights.family_differs


def birth_dates(a: str, b: str, weights: Weights) -> tuple[float, int]:
    """Return the weight of two birth dates and the edits between them, -1 where one is missing."""
    if not a or not b:
        return 0.0, -1
    if a == b:
        return weights.birth_date, 0
    edits = _date_edits(a, b)
    by_edits = (weights.birth_date, weights.birth_date_one_edit, weights.birth_date_two_edits)
    return by_edits[edits] if edits < len(by_edits) else weights.birth_date_differs, edits


def _date_edits(a: str, b: str) -> int:
    """Return the edits between two dates: day and month swapped are one, the error in an impossible date is none."""
    if a[:4] == b[:4] and a[5:7] == b[8:] and a[8:] == b[5:7]:
        return 1
    return max(1, _edits(a, b) - (_impossible(a) or _impossible(b)))


def _impossible(date: str) -> bool:
    return date[5:7] > "12" or date[8:] > "31"


def identifiers(a: Profile, b: Profile, weights: Weights, unique: frozenset[str]) -> tuple[float, bool, bool]:
    """Compare the identifiers of types that both have and agree in none of: the same ones are match keys.

    Returns the weight, whether some are a typing error apart, and whether ones of a `unique` type are in conflict.
    """
    weight, close, conflict = 0.0, False, False
    if not a.identifiers or not b.identifiers:
        return weight, close, conflict
    for type_ in a.identifiers.keys() & b.identifiers.keys():
        one, other = a.identifiers[type_], b.identifiers[type_]
        if one.keys() & other.keys():
            continue
        if any(near(x, y) for x in one.values() for y in other.values()):
            weight, close = weights.identifier_one_edit, True
        else:
            weight = weight if close else weights.identifier_differs
            conflict = conflict or type_.partition("/")[0] in unique
    return weight, close, conflict


def addresses(a: list[list[str]], b: list[list[str]], weights: Weights) -> tuple[float, float, float, float]:
    """Return the weights of street, house number, postcode and city of the two addresses that agree best."""
    best, most = (0.0, 0.0, 0.0, 0.0), float("-inf")
    for one in a:
        for other in b:
            found = _address(one, other, weights)
            if (total := sum(found, 0.0)) > most:
                best, most = found, total
    return best


def _address(a: list[str], b: list[str], weights: Weights) -> tuple[float, float, float, float]:
    house = weights.house if a[0] and a[0] == b[0] else 0.0
    street = _agreement(a[1], b[1], weights.street, weights.street_differs)
    city = _agreement(a[3], b[3], weights.city, weights.city_differs)
    if not a[2] or not b[2]:
        postcode = 0.0
    elif a[2] == b[2]:
        postcode = weights.postcode
    else:
        typing_error = city > 0 and _one_edit(a[2], b[2])
        postcode = weights.postcode_one_edit if typing_error else weights.postcode_differs
    return street, house, postcode, city


def _agreement(a: str, b: str, agrees: float, differs: float) -> float:
    if not a or not b:
        return 0.0
    return agrees if _close(a, b) else differs
