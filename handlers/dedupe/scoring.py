"""What two customers have in common: the score of a pair, and what it needs besides to be linked.

What an identifier, e-mail address, phone number or reference in common adds is kept apart from the rest (`agreed`),
because it counts only while their bucket is small: nobody at a bucket can tell how large the others are, so the
clusters add up what the buckets support.

A score alone cannot tell one person from a household: its members share a family name, an address, a phone and often
an e-mail address. So a pair also needs something that is a person's own (`Need`), the more the less the given names
and birth dates agree.
"""

from collections.abc import Collection, Iterable, Mapping
from enum import IntEnum
from typing import Final, NamedTuple

from handlers.dedupe import fields
from handlers.dedupe.comparand import Profile
from handlers.dedupe.fields import Alike
from handlers.dedupe.nicknames import KNOWN
from handlers.dedupe.settings import DedupeSettings

FIELDS: Final = ("identifier", "birth_date", "given", "family", "street", "house", "postcode", "city")
VETOES: Final = ("given_name", "middle_name", "birth_date", "suffix")
VALUE_TAGS: Final = frozenset(b"NEPR")
_PEOPLE: Final = frozenset(("person", "contact", "employee"))
_JUST_BELOW: Final = 0.5
_NEVER: Final = float("-inf")
_BY_NAME: Final = 1
_BY_BIRTH: Final = 2


class Need(IntEnum):
    """What a pair has to have in common, beside its score, before it is linked: household members have much in common.

    `VALUE`: an identifier, e-mail address, phone number or reference. `STRONG`: an identifier, or two kinds of those.
    `IDENTIFIER`: an identifier, since something speaks against the pair (a veto). `REVIEW`: a person's decision, since
    an identifier in common is as likely to be the spouse's; without one the pair is out of the question.
    """

    NOTHING = 0
    VALUE = 1
    STRONG = 2
    IDENTIFIER = 3
    REVIEW = 4


class Comparison(NamedTuple):
    """The outcome: `fields` in the order of FIELDS, `agreed` values with their weights, and what stands against it.

    `veto` says why only an identifier can link the pair; `lifted`: it is not heeded, since all the rest agrees.
    `block` says why nothing can. `clash`: two customers of one source and kind have an e-mail address in common.
    """

    fields: tuple[float, ...]
    agreed: dict[bytes, float]
    need: Need
    veto: str | None
    lifted: bool
    block: str | None
    clash: bool
    same_source: bool

    @property
    def opposed(self) -> int:
        """Return how firmly the two are held for two people, whatever others have in common with both; 0: not at all.

        Birth dates far apart (2) say more than names (1), which may be short forms that are in no list.
        """
        if self.need == Need.REVIEW or (self.need == Need.IDENTIFIER and not _identified(self.agreed)):
            return _BY_BIRTH if self.veto == "birth_date" else _BY_NAME
        return 0

    def best(self) -> dict[str, float]:
        """Return the most that each kind of value in common adds, by tag."""
        return best_of((chr(key[0]), weight) for key, weight in self.agreed.items())


def best_of(values: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Return the most that each kind of value in common adds, by tag, out of (tag, what it adds).

    It is in the order of the tags: floats add up to one sum only in one order.
    """
    return dict(sorted(values))  # of one tag the most comes last


class Judge:
    """Says how a pair stands."""

    def __init__(self, settings: DedupeSettings) -> None:
        """Take the threshold, the penalty and which sources are one to one from `settings`."""
        self._link = settings.link
        self._just_below = settings.link - _JUST_BELOW
        self._penalty = settings.weights.uncorroborated
        self.some_are_one_to_one = bool(settings.one_to_one)
        self._groups = {source: number for number, group in enumerate(settings.one_to_one) for source in group}

    def one_to_one(self, source: str, other: str) -> bool:
        """Return whether two sources have the same people, each of them once."""
        return source != other and source in self._groups and self._groups[source] == self._groups.get(other)

    def linked_but_for_doubt(self, weights: Iterable[float], best: Mapping[str, float]) -> bool:
        """Return whether the score alone would link a pair, as `standing` adds it up, whatever it needs besides."""
        return self.standing(weights, Need.NOTHING, best) >= self._link

    def standing(self, weights: Iterable[float], need: int, best: Mapping[str, float]) -> float:
        """Return the score that decides: what is not corroborated as it needs to be loses, and is never linked.

        `weights` are those of the fields; `best` has what each kind of value in common adds, by tag. Minus infinity:
        the pair is out of the question.
        """
        score = sum(weights, 0.0) + sum(best.values(), 0.0)
        enough = "N" in best or len(best) >= need
        if need == Need.NOTHING or (enough and need <= Need.STRONG):
            return score
        if need >= Need.IDENTIFIER and "N" not in best:
            return _NEVER
        return score - self._penalty if need == Need.IDENTIFIER else min(score - self._penalty, self._just_below)


class _Place(NamedTuple):
    """What the addresses say: the same home for certain, or as far as is known; the same street (in one town)."""

    home: bool
    perhaps: bool
    near: bool
    street: bool
    neighbours: bool


class Scorer:
    """Compares customers under the settings."""

    def __init__(self, settings: DedupeSettings) -> None:
        """Take the weights and vetoes from `settings`."""
        self._weights = settings.weights
        self._vetoes = settings.vetoes
        self._unique = frozenset(settings.vetoes.unique)

    def compare(self, a: Profile, b: Profile) -> Comparison:
        """Compare two customers."""
        weights = self._weights
        identifier, close, conflict = fields.identifiers(a, b, weights, self._unique)
        given, family, alike = fields.names(a, b, weights, self._vetoes)
        born, edits = fields.birth_dates(a.born, b.born, weights)
        street, house, postcode, city = fields.addresses(a.addresses, b.addresses, weights)
        place = _Place(
            house > 0 and street > 0 and postcode > 0,
            house > 0 and ((street > 0 and (postcode > 0 or city > 0)) or (street == 0 and postcode > 0)),
            street > 0 or postcode > 0,
            street > 0,
            street > 0 and postcode > 0,
        )
        agreed = {key: self._value(key, a, b) for key in a.keys & b.keys if key[0] in VALUE_TAGS}
        veto = self._veto(a, b, alike, edits)
        lifted = veto is not None and family > 0 and self._outweighed(a, b, veto, alike, edits, place)
        need = self._need(a, b, alike, edits, place, family) if veto is None else Need.IDENTIFIER
        doubted = veto is not None or _identified(agreed)
        if self._vetoes.borrowed and doubted and _borrowed(a, b, veto, alike, edits, family):
            need = Need.REVIEW
        near = close and _one_error(veto, alike, family)
        same_source = a.source == b.source
        return Comparison(
            (identifier, born, given, family, street, house, postcode, city),
            agreed,
            Need.NOTHING if lifted or (near and need != Need.REVIEW) else need,
            veto,
            lifted,
            "kind" if _kinds_differ(a.kind, b.kind) else "unique_id" if conflict else None,
            same_source and a.kind == b.kind and any(key[:1] == b"E" for key in agreed),
            same_source,
        )

    def vetoes(self, a: Profile, b: Profile) -> dict[str, bool]:
        """Return every veto, and whether it holds: the first of those that do is the one that is heeded."""
        _, _, alike = fields.names(a, b, self._weights, self._vetoes)
        _, edits = fields.birth_dates(a.born, b.born, self._weights)
        return dict(zip(VETOES, self._hold(a, b, alike, edits), strict=True))

    def _veto(self, a: Profile, b: Profile, alike: Alike, edits: int) -> str | None:
        for name, holds in zip(VETOES, self._hold(a, b, alike, edits), strict=True):
            if holds:
                return name
        return None

    def _hold(self, a: Profile, b: Profile, alike: Alike, edits: int) -> tuple[bool, bool, bool, bool]:
        return (
            alike == Alike.OTHER or (alike == Alike.DIFFERENT and edits != 0),
            alike == Alike.MISSING and _initials_differ(a.middle, b.middle),
            edits >= self._vetoes.birth_date_edits,
            bool(a.suffix and b.suffix and a.suffix != b.suffix),
        )

    def _outweighed(self, a: Profile, b: Profile, veto: str, alike: Alike, edits: int, place: _Place) -> bool:
        """Return whether a veto on two people of one family name is more likely due to an error.

        Twins live together as children and may have names that are in no list, and parents and children of one name are
        a generation apart. Where middle names differ as well, no error explains it; and one system that has two birth
        dates has two people, rather than one twice.
        """
        if _initials_differ(a.middle, b.middle):
            return False
        if veto == "given_name" and edits == 0:
            if self._grown_up(a, b):
                return place.home or _misnamed(a, b)
            return not place.perhaps and _misnamed(a, b)
        apart = abs(int(a.born[:4]) - int(b.born[:4])) if edits > 0 else 0
        shortest, longest = self._vetoes.generation
        if veto != "birth_date" or a.source == b.source or not place.home or alike < Alike.MISTYPED:
            return False
        return not shortest <= apart <= longest

    def _need(self, a: Profile, b: Profile, alike: Alike, edits: int, place: _Place, family: float) -> Need:
        """Return what a pair without a veto needs; `alike` says how much the given names are.

        Who has another family name needs more than a home: it may be the partner's.
        """
        if alike == Alike.SAME:
            if edits < 0 and (a.suffix != b.suffix or _initials_differ(a.middle, b.middle)):
                return Need.STRONG
            middle = a.middle[:1] == b.middle[:1] != ""
            enough = edits == 0 or (edits == 1 and (place.near or middle)) or (middle and place.street)
            return Need.NOTHING if enough or (place.perhaps and family >= 0) else Need.VALUE
        if alike >= Alike.SIMILAR and (edits == 0 or (edits == 1 and place.near)):
            return Need.NOTHING
        if alike == Alike.MISTYPED:
            return Need.NOTHING if place.perhaps and family >= 0 else Need.VALUE
        if edits == 0:
            if alike != Alike.MISSING and _initials_differ(a.middle, b.middle):
                return Need.STRONG
            grown_up = self._grown_up(a, b)
            at_home = place.perhaps or (place.neighbours and grown_up)
            lost = alike == Alike.MISSING and a.source != b.source
            return Need.NOTHING if at_home and (lost or grown_up) else Need.VALUE
        return Need.STRONG

    def _grown_up(self, a: Profile, b: Profile) -> bool:
        return min(a.seen, b.seen) - int(a.born[:4]) >= self._vetoes.grown_up

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


def _kinds_differ(a: str, b: str) -> bool:
    return "company" in {a, b} and (a in _PEOPLE or b in _PEOPLE)


def _initials_differ(a: str, b: str) -> bool:
    return bool(a and b and a[0] != b[0])


def _misnamed(a: Profile, b: Profile) -> bool:
    """Return whether one of two given names is none that people have, while the middle names agree."""
    return a.middle[:1] == b.middle[:1] != "" and not (a.given in KNOWN and b.given in KNOWN)


def _one_error(veto: str | None, alike: Alike, family: float) -> bool:
    """Return whether not more than one of given name, family name and birth date says that they are two people.

    An identifier a typing error apart outweighs that, where both names are known to agree if it is the birth date.
    """
    if veto == "birth_date":
        return alike >= Alike.SIMILAR and family > 0
    return alike >= Alike.MISSING or family >= 0


def _identified(agreed: Collection[bytes]) -> bool:
    return any(key[:1] == b"N" for key in agreed)


def _borrowed(a: Profile, b: Profile, veto: str | None, alike: Alike, edits: int, family: float) -> bool:
    """Return whether an identifier in common is likely that of another member of the family, entered for this one.

    That happens, and then middle names differ as given names do, or nothing is known of them and of the birth dates.
    Somebody with another given name and another family name has it by mistake.
    """
    if veto is None:
        return not a.born and not b.born and alike == Alike.SAME and _initials_differ(a.middle, b.middle)
    if veto not in {"given_name", "middle_name"} or edits == 0:
        return False
    if family <= 0:
        return True
    if _initials_differ(a.middle, b.middle):
        return True
    if a.middle and b.middle:
        return alike != Alike.DIFFERENT and a.given in KNOWN and b.given in KNOWN
    return edits < 0
