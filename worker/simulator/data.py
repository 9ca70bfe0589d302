"""Synthetic customers: invented people with reserved addresses and numbers, the same for the same seed.

No two people of one seed, nor of two seeds that differ modulo 8, share an e-mail address, a telephone number, a
national id or a licence, so whatever meets on one of them was planted. (Two simulators with one seed hold the same
people.) Each simulator's `shape` renders a person in its system's fields; `vary` makes the second, slightly different
record of somebody, as a clerk would type it.
"""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import lru_cache
from itertools import islice
from typing import Any
from uuid import UUID

from worker.simulator.locales import LOCALES, Locale, reserved_phones

DOMAINS = ("example.com", "example.org", "example.net")
FIRST_BIRTH = date(1940, 1, 1)
BLOCK, BLOCKS = 1_000_000, 40
"""People of one seed, and seeds, whose numbers do not meet."""
STRIDE = 8
"""Seeds whose telephone numbers do not meet: each takes every eighth."""
BIRTH_DAYS = 24_000
"""Days over which birth dates spread."""
_SPREAD, _LICENCE_SPREAD = 30_280_637, 61_803_399
"""By the golden ratio: the numbers of people who follow each other lie far apart."""


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who does not exist."""

    number: int
    """The person's place in the seed's sequence, behind a million for each seed; other ids are made of it."""
    given: str
    middle: str | None
    family: str
    suffix: str | None
    email: str
    phone: str | None
    """E.164, in a range kept for fiction; None once the ranges are used up."""
    birth: date
    house: str
    street: str
    postcode: str
    city: str
    state: str | None
    country: str
    """ISO 3166-1, two letters."""
    locale: str
    national_id: str
    """In the form of a social security number, in an area that is never assigned (9xx)."""
    licence: str
    company: str | None

    @property
    def name(self) -> str:
        """Given and family name."""
        return f"{self.given} {self.family}"

    @property
    def street_line(self) -> str:
        """Street and house number in the country's order."""
        return f"{self.house} {self.street}" if self.country in {"US", "GB", "FR"} else f"{self.street} {self.house}"


class People:
    """An endless sequence of people, decided by its seed."""

    def __init__(self, seed: int = 0) -> None:
        """Start the sequence of `seed`."""
        self.random = random.Random(f"people {seed}")
        self._weights = [locale.weight for locale in LOCALES]
        self._parts = {locale.tag: _Parts(locale) for locale in LOCALES}
        self._phones = {
            locale.country: islice(reserved_phones(locale.country), seed % STRIDE, None, STRIDE) for locale in LOCALES
        }
        self._number = seed % BLOCKS * BLOCK

    def person(self) -> Person:
        """Return the next person."""
        number = self._number
        self._number += 1
        chance = self.random
        locale = chance.choices(LOCALES, self._weights)[0]
        parts = self._parts[locale.tag]
        given, family = chance.choice(parts.given), chance.choice(parts.family)
        postcode, city, state = chance.choice(parts.cities)
        return Person(
            number=number,
            given=given,
            middle=chance.choice(parts.given) if chance.random() < 0.3 else None,  # ruff: ignore[magic-value-comparison]  # a share
            family=family,
            suffix=chance.choice(("Jr", "Sr", "III")) if locale.country == "US" and chance.random() < 0.05 else None,  # ruff: ignore[magic-value-comparison]
            email=f"{_ascii(given)}.{_ascii(family)}{number}@{chance.choice(DOMAINS)}",
            phone=self._phone(locale.country),
            birth=FIRST_BIRTH + timedelta(days=chance.randrange(BIRTH_DAYS)),
            house=str(chance.randrange(1, 200)),
            street=chance.choice(parts.streets),
            postcode=postcode,
            city=city,
            state=state,
            country=locale.country,
            locale=locale.tag,
            national_id=_national_id(number),
            licence=f"{family[0].upper()}{number * _LICENCE_SPREAD % 10**8:08d}",
            company=f"{family} {chance.choice(('Motors', 'Transport', 'Partners', 'AS', 'AB', 'Ltd', 'GmbH'))}"
            if chance.random() < 0.1  # ruff: ignore[magic-value-comparison]
            else None,
        )

    def people(self, count: int) -> list[Person]:
        """Return the next `count` people."""
        return [self.person() for _ in range(count)]

    def _phone(self, country: str) -> str | None:
        own = self._phones[country]
        return next(own, None) or next(self._phones["FR"], None)

    def vary(
        self, person: Person, *, typo: bool = False, swapped: bool = False, case: bool = False, **changes: Any
    ) -> Person:
        """Write the same person as another clerk would.

        `typo` slips a letter of the family name, `swapped` exchanges given and family name, `case` writes names and
        e-mail in another case; `changes` replace fields of `Person`.
        """
        if typo:
            person = replace(person, family=_slip(person.family, self.random))
        if swapped:
            person = replace(person, given=person.family, family=person.given)
        if case:
            person = replace(
                person, given=person.given.upper(), family=person.family.upper(), email=_loud(person.email)
            )
        return replace(person, **changes)


def uuid(chance: random.Random) -> str:
    """Draw a random UUID (version 4) from seeded chance."""
    return str(UUID(int=chance.getrandbits(128), version=4))


class _Parts:
    """A locale's lists, split once."""

    def __init__(self, locale: Locale) -> None:
        self.given = [name.replace("_", " ") for name in locale.given.split()]
        self.family = [name.replace("_", " ") for name in locale.family.split()]
        self.streets = locale.streets.split(",")
        self.cities = list(_cities(locale.cities))


def _cities(text: str) -> Iterator[tuple[str, str, str | None]]:
    for entry in text.split(","):
        words = entry.split(" ")
        size = 2 if words[1][0].isdecimal() else 1
        state = words[-1]
        yield " ".join(words[:size]), " ".join(words[size:-1]), None if state == "-" else state


LETTERS = str.maketrans({"ø": "o", "Ø": "O", "æ": "ae", "Æ": "Ae", "ß": "ss"})


@lru_cache(maxsize=4096)
def _ascii(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name.translate(LETTERS))
    return "".join(letter for letter in plain if letter.isascii() and letter.isalnum()).lower()


def _national_id(number: int) -> str:
    """Return a number of its own for each of 49 million people; neighbours' are not alike, as if one were mistyped."""
    area, rest = divmod(number * _SPREAD % (100 * 49 * 9999), 49 * 9999)
    group, serial = divmod(rest, 9999)
    return f"{900 + area % 100:03d}-{group + 1:02d}-{serial + 1:04d}"


def _slip(name: str, chance: random.Random) -> str:
    at = chance.randrange(1, max(2, len(name)))
    match chance.randrange(3):
        case 0:
            return name[:at] + name[at - 1] + name[at:]
        case 1 if len(name) > at:
            return name[: at - 1] + name[at] + name[at - 1] + name[at + 1 :]
        case _:
            return name[:at] + name[at + 1 :] if len(name) > at else name + name[-1]


def _loud(email: str) -> str:
    local, _, domain = email.partition("@")
    return f"{local.upper()}@{domain.capitalize()}"
