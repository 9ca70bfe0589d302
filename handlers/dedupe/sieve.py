"""Sorts out, at a glance, pairs that comparing would not support: in a large population, most of those that meet.

Two customers with neither an identifier nor an e-mail address in common are two people if their given names differ and
their birth dates are not the same: they live in one street, or are a family. So are two of one given name if their
family names differ, and either their birth dates are far apart, or nothing but a street agrees besides. Guarantees: of
a pair that is a `hopeless` one no bucket says anything, neither that the two are linked or to be reviewed nor a clash.
It is not asked about pairs of sources that are one to one: these may be linked all the same.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from handlers.dedupe.fields import Alike, birth_dates, likeness, same_name
from handlers.dedupe.profile import split_keys
from handlers.dedupe.scoring import VALUE_TAGS
from handlers.dedupe.settings import DedupeSettings
from handlers.dedupe.wire import Member, read_brief

_OWN: Final = frozenset(b"NE")
# Birth dates of so few edits speak for a pair.
_CLOSE: Final = 1


class Glance(NamedTuple):
    """What of a customer is looked at.

    `own` are its match keys of identifiers and e-mail addresses, `shared` those of phones and references.
    """

    identified: bool
    given: str
    middle: str
    family: str
    born: str
    houses: frozenset[str]
    own: Sequence[bytes]
    shared: Sequence[bytes]


def glance(value: bytes) -> Glance:
    """Return what is looked at of an encoded member."""
    values = [key for key in split_keys(Member.decode(value).keys) if key[0] in VALUE_TAGS]
    own = [key for key in values if key[0] in _OWN]
    shared = [key for key in values if key[0] not in _OWN]
    identified, given, middle, family, born, houses = read_brief(value)
    return Glance(identified, given, middle, family, born, frozenset(houses.split()), own, shared)


class Sieve:
    """Sorts out under the settings."""

    def __init__(self, settings: DedupeSettings) -> None:
        """Take the vetoes, and work out whether namesakes of one street may be worth a review."""
        self._given_below = settings.vetoes.given_below
        self._far_apart = settings.vetoes.birth_date_edits
        weights = self._weights = settings.weights
        born = max(0, weights.birth_date_two_edits, weights.birth_date_differs)
        most = max(weights.given, weights.given_similar) + weights.family_differs + born
        most += weights.street + weights.postcode + weights.city - weights.uncorroborated
        self._namesakes_are_two = most < settings.review

    def hopeless(self, one: Glance, other: bytes) -> bool:
        """Return whether a customer and another one, as its membership is encoded, are two people without more ado."""
        for key in one.own:
            if key in other:
                return False
        identified, given, middle, family, born, houses = read_brief(other)
        if identified and one.identified:
            return False
        alike = likeness(one.given, given, self._given_below)
        if alike < Alike.SIMILAR:
            same_date = born == one.born and born
            return alike < Alike.MISSING and not same_date and _two_names(one, given, middle, family)
        if not family or not one.family or same_name(one.family, family):
            return False
        _, edits = birth_dates(one.born, born, self._weights)
        alone = not 0 <= edits <= _CLOSE and self._alone(one, other, middle, houses)
        return alone or edits >= self._far_apart

    def _alone(self, one: Glance, other: bytes, middle: str, houses: str) -> bool:
        """Return whether two of one given name and two family names have no house and nothing else in common."""
        if not self._namesakes_are_two or (middle and middle[0] == one.middle[:1]):
            return False
        return one.houses.isdisjoint(houses.split()) and not any(key in other for key in one.shared)


def _two_names(one: Glance, given: str, middle: str, family: str) -> bool:
    """Return whether two given names that differ are not that of the other's middle or family name."""
    if one.given == middle or given == one.middle:
        return False
    if not family or not one.family or likeness(one.given, family, 1.0) < Alike.SIMILAR:
        return True
    return likeness(one.family, given, 1.0) < Alike.SIMILAR
