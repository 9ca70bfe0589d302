"""What is known of given names: which stand for one another, and which are names in their own right.

Bob and Robert may be one person. Carol and Carlo, or Christian and Christina, are two, although they are but a typing
error apart; Nichoals, which is nobody's name, is Nicholas. The lists stand in `names/`: in `short_forms.txt` each line
begins with the full name, in `spellings.txt` the names of a line are the same.
"""

from importlib.resources import files
from typing import Final


def _lines(name: str) -> list[list[str]]:
    text = (files("handlers.dedupe") / "names" / name).read_text(encoding="utf-8")
    return [line.split() for line in text.splitlines()]


# Two short forms of one name may well be two people: Beth and her sister Lisa.
_FORMS: Final[dict[str, set[str]]] = {}
for _full, *_short in _lines("short_forms.txt"):
    _FORMS.setdefault(_full, set()).update(_short)
for _names in _lines("spellings.txt"):
    for _name in _names:
        _FORMS.setdefault(_name, set()).update(_names)

KNOWN: Final = frozenset(name for line in _lines("given.txt") for name in line).union(_FORMS, *_FORMS.values())


def related(one: str, other: str) -> bool:
    """Return whether of two given names (lower case) one is a short form, or another spelling, of the other."""
    return other in _FORMS.get(one, ()) or one in _FORMS.get(other, ())
