"""Made-up people with households, for tuning and for measuring speed and recall at any size.

Family and given names come with the frequencies of the United States' censuses at the head of the list and a long tail
made of syllables; postcodes are a fixed number, so that streets, names and birth dates collide more and more often as
the population grows. Households share an address, mostly a family name, a landline and at times an e-mail address;
there are twins, fathers and sons of one name, employers' phones and placeholder values. A person is in one or more of
four systems, each of which knows it with gaps, typing errors, nicknames, old addresses and married names.
"""

import string
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

from benchmarks.identity.sets import customer
from worker.events import Customer

SYSTEMS = ("drivly", "dintero", "connect", "mykaarma")
POSTCODES = 500

# Given names and family names, each with its share of the population in parts of ten thousand.
_GIVEN = (
    "james:190 john:190 robert:180 michael:170 william:140 david:135 richard:98 charles:88 joseph:80 thomas:79 "
    "christopher:59 daniel:56 paul:55 mark:54 donald:53 george:53 kenneth:47 steven:45 edward:45 brian:43 ronald:42 "
    "anthony:42 kevin:39 jason:38 matthew:38 gary:38 timothy:37 jose:36 larry:35 jeffrey:34 frank:33 scott:31 eric:31 "
    "stephen:31 andrew:31 raymond:28 gregory:26 joshua:25 jerry:25 dennis:24 mary:150 patricia:62 linda:60 barbara:57 "
    "elizabeth:54 jennifer:54 maria:48 susan:46 margaret:44 dorothy:42 lisa:41 nancy:39 karen:39 betty:38 helen:38 "
    "sandra:37 donna:34 carol:33 ruth:32 sharon:30 michelle:30 laura:29 sarah:29 kimberly:29 deborah:28 jessica:28 "
    "shirley:27 cynthia:27 angela:27 melissa:26 brenda:26 amy:25 anna:25 rebecca:25 virginia:25 kathleen:24 pamela:24"
)
_FAMILY = (
    "smith:88 johnson:69 williams:57 brown:51 jones:50 garcia:40 miller:39 davis:38 rodriguez:37 martinez:36 "
    "hernandez:35 lopez:30 gonzalez:28 wilson:27 anderson:26 thomas:25 taylor:25 moore:24 jackson:24 martin:24 lee:23 "
    "perez:23 thompson:22 white:22 harris:21 sanchez:21 clark:19 ramirez:19 lewis:18 robinson:18 walker:18 young:16 "
    "allen:16 king:16 wright:16 scott:15 torres:15 nguyen:15 hill:15 flores:15 green:15 adams:14 nelson:14 baker:14 "
    "hall:14 rivera:13 campbell:13 mitchell:13 carter:13 roberts:12"
)
_NICKNAMES = {
    "james": "jim", "john": "jack", "robert": "bob", "michael": "mike", "william": "bill", "david": "dave",
    "richard": "rick", "charles": "chuck", "joseph": "joe", "thomas": "tom", "christopher": "chris", "daniel": "dan",
    "patricia": "pat", "elizabeth": "liz", "jennifer": "jen", "susan": "sue", "margaret": "peggy", "kathleen": "kathy",
    "kimberly": "kim", "deborah": "debbie", "cynthia": "cindy", "rebecca": "becky", "edward": "ted", "anthony": "tony",
}  # fmt: skip
_SYLLABLES = "ba be bra ca cor da del den dor el fa fer ga gar ha hol in ka kel la lan ler lin lo ma mar mer mon na ner"
_SYLLABLES += " no or pa per ra rin ro sa sel son sta ta ten ter tin to va vel ver vin wa wel win wood ya zel"
_STREETS = ("Oak", "Maple", "Cedar", "Pine", "Elm", "Washington", "Lake", "Hill", "Park", "Main", "Church", "Spring")
_ENDINGS = ("Street", "Avenue", "Road", "Lane", "Drive", "Court")


@dataclass(frozen=True)
class Home:
    """Where a household lives."""

    line: str
    city: str
    postcode: str
    phone: str


@dataclass(frozen=True)
class Person:
    """Somebody as they are; the systems know them less well."""

    number: int
    given: str
    middle: str
    family: str
    suffix: str
    born: str
    home: Home
    emails: tuple[str, ...]
    mobile: str
    ssn: str
    before: Home | None = None
    maiden: str = ""


@dataclass
class Names:
    """Names by frequency: a known head and a tail of made-up ones."""

    head: list[str] = field(default_factory=list)
    weights: list[int] = field(default_factory=list)
    tail: int = 3000

    @classmethod
    def read(cls, text: str, tail: int) -> "Names":
        """Read `name:share` pairs."""
        entries = [entry.split(":") for entry in text.split()]
        return cls([name for name, _ in entries], [int(share) for _, share in entries], tail)

    def draw(self, random: Random) -> str:
        """Draw a name."""
        if random.random() * 10_000 < sum(self.weights):
            return random.choices(self.head, self.weights)[0]
        rare = Random(int(self.tail * random.random() ** 2))
        return "".join(rare.choices(_SYLLABLES.split(), k=rare.choice((2, 2, 3))))


_GIVEN_NAMES = Names.read(_GIVEN, 1500)
_FAMILY_NAMES = Names.read(_FAMILY, 20_000)


def population(people: int, seed: int) -> Iterator[Person]:
    """Yield so many people, household by household."""
    random = Random(seed)
    number = 0
    while number < people:
        for person in _household(random, number):
            yield person
            number += 1


def records(people: int, seed: int) -> Iterator[tuple[str, Customer]]:
    """Yield (truth, customer) for so many people, in the order of the people."""
    random = Random(seed + 1)
    for person in population(people, seed):
        systems = random.choices(((1, 0), (2, 0), (3, 0), (1, 1)), (70, 20, 5, 5))[0]
        chosen = random.sample(SYSTEMS, systems[0])
        for index, system in enumerate(chosen + chosen[: systems[1]]):
            yield str(person.number), _record(random, person, system, index)


def _home(random: Random) -> Home:
    postcode = random.randrange(POSTCODES)
    street = f"{random.choice(_STREETS)}{random.choice(('', 'wood', 'view', ' Ridge'))} {random.choice(_ENDINGS)}"
    city = "".join(Random(postcode).choices(_SYLLABLES.split(), k=3)).capitalize()
    return Home(f"{random.randint(1, 2000)} {street}", city, f"{10_001 + 137 * postcode:05d}", _phone(random))


def _phone(random: Random) -> str:
    return f"+1{random.randint(201, 989)}{random.randint(200, 554)}{random.randrange(10_000):04d}"


def _household(random: Random, number: int) -> Iterator[Person]:
    home, family = _home(random), _FAMILY_NAMES.draw(random)
    shared = f"{family}.family{random.randrange(10_000)}@example.com" if random.random() < 0.1 else None
    father: Person | None = None
    twin: str | None = None
    used: set[str] = set()
    for place in range(random.choices((1, 2, 3, 4, 5), (30, 33, 15, 14, 8))[0]):
        grown = place < 2
        year = random.randint(1940, 1985) if grown else random.randint(1998, 2012)
        born = f"{year}-{random.randint(1, 12):02d}-{random.randint(1, 28):02d}"
        given, suffix = _GIVEN_NAMES.draw(random), ""
        while given in used:
            given = _GIVEN_NAMES.draw(random)
        used.add(given)
        if not grown and random.random() < 0.04 and twin is not None:
            born = twin
        if not grown and father is not None and random.random() < 0.005:
            given, suffix = father.given, "Jr"
        own = family if place == 0 or not grown or random.random() < 0.8 else _FAMILY_NAMES.draw(random)
        emails = [f"{given}.{own}{random.randrange(100_000)}@example.com"] if random.random() < 0.85 else []
        if shared and random.random() < 0.7:
            emails.append(shared)
        person = Person(
            number + place, given, random.choice(("", "", _GIVEN_NAMES.draw(random))), own, suffix, born, home,
            tuple(emails), _phone(random), f"{random.randint(100_000_000, 899_999_999)}",
            _home(random) if random.random() < 0.15 else None,
            _FAMILY_NAMES.draw(random) if grown and random.random() < 0.05 else "",
        )  # fmt: skip
        father, twin = (person if place == 0 else father), (born if not grown else twin)
        yield person


def _record(random: Random, person: Person, system: str, index: int) -> Customer:
    home = person.before if person.before and random.random() < 0.3 else person.home
    given, family, born = person.given, person.family, person.born
    if random.random() < 0.1:
        given = _NICKNAMES.get(given, given)
    if person.maiden and random.random() < 0.3:
        family = person.maiden
    if random.random() < 0.01:
        given, family = family, given
    phones = [number for number, share in ((person.mobile, 0.7), (home.phone, 0.4)) if random.random() < share]
    emails = [email for email in person.emails if random.random() < 0.75]
    chance = random.random()
    if chance < 0.01:
        emails.append("none@none.com")
    elif chance < 0.02:
        emails.append("frontdesk@example.com")
    elif chance < 0.03:
        phones = [f"+12025550{Random(int(random.random() ** 2 * 60)).randint(200, 999)}"]
    with_address = random.random() < 0.75
    return customer(
        system,
        f"{person.number}-{index}",
        given=typo(random, given, 0.03),
        middle=person.middle if random.random() < 0.4 else "",
        family=typo(random, family, 0.03),
        suffix=person.suffix if random.random() < 0.5 else "",
        born=_born(random, born) if random.random() < 0.6 else None,
        line1=typo(random, home.line, 0.05) if with_address else "",
        city=typo(random, home.city, 0.03) if with_address else "",
        postcode=typo(random, home.postcode, 0.01) if with_address else "",
        emails=[typo(random, email, 0.01) for email in emails],
        phones=[typo(random, phone, 0.005) for phone in phones],
        identifiers=[("ssn", person.ssn)] if random.random() < 0.15 else [],
    )


def _born(random: Random, born: str) -> str:
    chance = random.random()
    if chance < 0.01:
        year, month, day = born.split("-")
        return f"{year}-{day}-{month}" if int(day) <= 12 else born
    if chance < 0.02:
        return "1900-01-01"
    return _digit(random, born) if chance < 0.03 else born


def _digit(random: Random, born: str) -> str:
    changed = f"{born[:3]}{random.randrange(10)}{born[4:]}"
    return changed if random.random() < 0.5 else f"{born[:9]}{random.randrange(1, 9)}"


def typo(random: Random, text: str, share: float) -> str:
    """Return the text with, at a share of the times, one character deleted, doubled, replaced or swapped."""
    if len(text) < 3 or random.random() >= share:
        return text
    at = random.randrange(1, len(text) - 1)
    kind = random.randrange(4)
    if kind == 0:
        return text[:at] + text[at + 1 :]
    if kind == 1:
        return text[:at] + text[at] + text[at:]
    if kind == 2:
        letters = string.digits if text[at].isdigit() else "etaoinshrdlu"
        return text[:at] + random.choice(letters) + text[at + 1 :]
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
