"""Sorts out, at a glance, pairs that comparing would keep apart: in a large population, most of those that meet.

Two customers who have nothing in common that is a person's own are two people, whatever else agrees, if their given
names differ and their birth dates are not the same (they live in one street, or are a family), or if their family names
differ and their birth dates are far apart (namesakes). Guarantees: a pair that is a `hopeless` one is blocked or out of
the question by `scoring`, also for what else it would report (a clash).
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from handlers.dedupe.fields import Alike, date_edits, likeness, same_name
from handlers.dedupe.profile import KEY_BYTES
from handlers.dedupe.scoring import VALUE_TAGS
from handlers.dedupe.settings import Vetoes
from handlers.dedupe.wire import Member, read_brief


class Glance(NamedTuple):
    """What of a customer is looked at; `values` are its match keys of identifiers, e-mails, phones and references."""

    identified: bool
    given: str
    middle: str
    family: str
    born: str
    values: Sequence[bytes]


@lru_cache(4_096)
def glance(value: bytes) -> Glance:
    """Return what is looked at of an encoded member."""
    member = Member.decode(value)
    keys = (member.keys[at : at + KEY_BYTES] for at in range(0, len(member.keys), KEY_BYTES))
    given, middle, family, born = member.brief.decode().split("\0")
    values = [key for key in keys if key[0] in VALUE_TAGS]
    return Glance(member.identified, given, middle, family, born, values)


def hopeless(one: Glance, other: bytes, vetoes: Vetoes) -> bool:
    """Return whether a customer and another one, as its membership is encoded, are two people without more ado."""
    for key in one.values:
        if key in other:
            return False
    identified, given, middle, family, born = read_brief(other)
    if identified and one.identified:
        return False
    alike = likeness(one.given, given, vetoes.given_below)
    if alike >= Alike.SIMILAR:
        named = family and one.family and not same_name(one.family, family)
        return bool(named and born and one.born and date_edits(one.born, born) >= vetoes.birth_date_edits)
    if alike == Alike.MISSING or (born == one.born and born) or one.given == middle or given == one.middle:
        return False
    if not family or not one.family or likeness(one.given, family, 1.0) < Alike.SIMILAR:
        return True
    return likeness(one.family, given, 1.0) < Alike.SIMILAR
