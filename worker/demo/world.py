"""The demo's world: simulated systems, what happens to them, and the truth that the result is held against.

`crm` is where customers are kept, `shop` a system downstream. Half of the crm's customers have a counterpart in the
shop, which their `customerId` names. Three smaller systems of other kinds may stand beside them: `telco` (connect),
`garage` (mykaarma: somebody has to say who is watched there) and `club` (dintero). Some customers are planted twice
(with a typo, swapped names, another case, in another system), others only look alike (a household, an office phone, a
placeholder e-mail). A person's number is the truth about who is who.
"""

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from worker.simulator import Connect, Dintero, Drivly, MyKaarma, People, Person, Simulator

CRM: Final = "crm"
SHOP: Final = "shop"
TELCO: Final = "telco"
GARAGE: Final = "garage"
CLUB: Final = "club"
KEY: Final = "users API-Key demo-key"
API_KEY: Final = "demo-api-key"
PASSWORD: Final = "demo-subscriber-password"  # ruff: ignore[hardcoded-password-string] - of a simulator
CLIENT_SECRET: Final = "demo-client-secret"  # ruff: ignore[hardcoded-password-string] - of a simulator
_PLACEHOLDER: Final = "none@none.com"
_STEP: Final = 0.1

Pair = tuple[str, str]


@dataclass
class World:
    """The systems, and what is known of their customers. `all_kinds`: the three smaller ones are there, too.

    `unwatched`: customers of the garage whom nobody has put on the watch list yet. `doubles` and `lookalikes`, by what
    is special about them: (a customer, one who is the same person or who only looks it). `reserve`: so many customers
    that are to be deleted downstream are left for a mass deletion.
    """

    seed: int
    all_kinds: bool = False
    reserve: int = 0
    systems: dict[str, Simulator] = field(default_factory=dict)
    unwatched: list[str] = field(default_factory=list)
    persons: dict[str, int] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    carried: list[str] = field(default_factory=list)
    doubles: defaultdict[str, list[Pair]] = field(default_factory=lambda: defaultdict(list))
    lookalikes: defaultdict[str, list[Pair]] = field(default_factory=lambda: defaultdict(list))
    done: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        """Set up what no caller gives."""
        self.people = People(self.seed)
        self.random = random.Random(self.seed)  # ruff: ignore[suspicious-non-cryptographic-random-usage] - a story, not a secret
        self._people_by_key: dict[str, Person] = {}
        self._doomed: list[str] = []
        self._spared: set[str] = set()
        self._colleague: str | None = None
        self._anonymous: str | None = None

    async def start(self, customers: int) -> None:
        """Start crm and shop with `customers` each, the others with a fifth of that."""
        for number, name in enumerate((CRM, SHOP)):
            self.systems[name] = await Drivly(seed=self.seed * 10 + number, authorization=KEY).start()
        for person in self.people.people(customers // 2):
            shop_id = self.create(SHOP, person)
            crm_id = self.create(CRM, person, {"customerId": shop_id})
            self.links[crm_id] = shop_id
        for name in (CRM, SHOP):
            for person in self.people.people(customers - customers // 2):
                self.create(name, person)
        if self.all_kinds:
            await self._start_others(customers // 5)
        self._doomed += list(self.links)[: max(len(self.links) // 4, self.reserve * 5 // 4)]
        self._spared |= {f"{CRM}/{crm}" for crm in self._doomed} | {f"{SHOP}/{self.links[crm]}" for crm in self._doomed}

    async def _start_others(self, customers: int) -> None:
        """Start the smaller systems: half of their customers are customers of the crm, too."""
        seed = self.seed * 10
        self.systems[TELCO] = await Connect(seed=seed + 2, api_key=API_KEY).start()
        self.systems[GARAGE] = await MyKaarma(seed=seed + 3, password=PASSWORD).start()
        self.systems[CLUB] = await Dintero(seed=seed + 4, client_secret=CLIENT_SECRET).start()
        known = [person for key, person in self._people_by_key.items() if key.startswith(f"{CRM}/") and _plain(person)]
        for name in (TELCO, GARAGE, CLUB):
            for person in self.random.sample(known, customers // 2) + self.people.people(customers - customers // 2):
                self.create(name, person)

    async def stop(self) -> None:
        """Stop all systems."""
        for system in self.systems.values():
            await system.stop()

    def create(self, name: str, person: Person, fields: dict[str, Any] | None = None) -> str:
        """Create a customer and note who it is; return its id."""
        if name in {TELCO, CLUB}:
            person = replace(person, company=None)  # a company's customer is the company there, and nobody else
        customer_id = str(self.systems[name].create(fields, person=person))
        self.persons[f"{name}/{customer_id}"] = person.number
        self._people_by_key[f"{name}/{customer_id}"] = person
        if name == GARAGE:
            self.unwatched.append(customer_id)
        return customer_id

    def live(self) -> dict[str, dict[str, Any]]:
        """Return every customer that exists now, as its system serves it, by `<source>/<id>`."""
        return {
            f"{name}/{key}": body for name, system in self.systems.items() for key, body in system.customers().items()
        }

    def clusters(self) -> set[frozenset[str]]:
        """Return the truth about duplicates: the live customers of each person that has more than one."""
        groups: defaultdict[int, set[str]] = defaultdict(set)
        for key in self.live():
            groups[self.persons[key]].add(key)
        return {frozenset(group) for group in groups.values() if len(group) > 1}

    async def churn(self, seconds: float) -> None:
        """Let things happen for so long: creations, updates, bulk updates, planted duplicates, deletions."""
        happenings: list[tuple[int, Callable[[], None]]] = [
            (30, self._update),
            (20, self._new),
            (3, self._bulk),
            (4, lambda: self._plant("a typo", typo=True)),
            (4, lambda: self._plant("swapped names", swapped=True)),
            (4, lambda: self._plant("another case", case=True)),
            (3, self._household),
            (3, self._office_phone),
            (3, self._placeholder),
            (3, self._late),
            (5, self._delete),
        ]
        if self.all_kinds:
            happenings += [(12, self._update_elsewhere), (6, self._new_elsewhere), (4, self._delete_elsewhere)]
            happenings.append((6, self._plant_elsewhere))
        weights = [weight for weight, _ in happenings]
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while loop.time() < end:
            self.random.choices([happening for _, happening in happenings], weights)[0]()
            await asyncio.sleep(_STEP * self.random.uniform(0.2, 1.0))

    def _any(self) -> str:
        """Return a live customer that is not about to be deleted."""
        name = self.random.choice((CRM, SHOP))
        return self.random.choice([
            key for key in map(f"{name}/".__add__, self.systems[name].customers()) if key not in self._spared
        ])

    def _update(self) -> None:
        name, _, key = self._any().partition("/")
        self.systems[name].update(int(key), {"consumerStatus": self.random.choice(("NEW", "ACTIVE", "SOLD", "LOST"))})
        self.done["updated"] += 1

    def _elsewhere(self) -> str:
        """Return a live customer of one of the smaller systems."""
        name = self.random.choice((TELCO, GARAGE, CLUB))
        return self.random.choice([f"{name}/{key}" for key in self.systems[name].customers()])

    def _update_elsewhere(self) -> None:
        name, _, key = self._elsewhere().partition("/")
        self.systems[name].update(key)
        self.done["updated"] += 1

    def _new_elsewhere(self) -> None:
        name = self.random.choice((TELCO, GARAGE, CLUB))
        self.create(name, self.people.person())
        self.done["created"] += 1

    def _delete_elsewhere(self) -> None:
        name, _, key = self._elsewhere().partition("/")
        self.systems[name].delete(key)
        if key in self.unwatched:
            self.unwatched.remove(key)
        self.done["deleted"] += 1

    def _plant_elsewhere(self) -> None:
        """Have a customer of the crm or the shop become one of a system where it is not known yet."""
        known, name = self._any(), self.random.choice((TELCO, GARAGE, CLUB))
        person = self._people_by_key.get(known)
        if person is None or self.clustered(person.number) or not _plain(person):
            return
        if not any(other == person.number for key, other in self.persons.items() if key.startswith(f"{name}/")):
            self._double(f"another system ({name})", known, name, person)

    def _bulk(self) -> None:
        name = self.random.choice((CRM, SHOP))
        keys = {self._any() for _ in range(20)}
        ids = [int(key.split("/")[1]) for key in keys if key.startswith(f"{name}/")]
        self.systems[name].bulk_update(ids, {"consumerResidenceType": self.random.choice(("OWN", "RENT", "OTHER"))})
        self.done["updated in bulk, with one stamp"] += len(ids)

    def _new(self) -> None:
        self.create(self.random.choice((CRM, SHOP)), self.people.person())
        self.done["created"] += 1

    def _late(self) -> None:
        """Create a customer that becomes visible after its stamp."""
        person = self.people.person()
        name = self.random.choice((CRM, SHOP))
        key = str(self.systems[name].create(None, person=person, visible_after=1.0))
        self.persons[f"{name}/{key}"] = person.number
        self.done["created, visible late"] += 1

    def _plant(self, kind: str, **how: bool) -> None:
        key = self._any()
        person = self._people_by_key.get(key)
        if person is None or self.clustered(person.number):
            return
        self._double(kind, key, self.random.choice((CRM, SHOP)), self.people.vary(person, **how))

    def _double(self, kind: str, known: str, name: str, person: Person) -> None:
        self.doubles[kind].append((known, f"{name}/{self.create(name, person)}"))
        self.done["planted a second time"] += 1

    def clustered(self, number: int) -> bool:
        """Return whether a person has three customers already."""
        return sum(other == number for other in self.persons.values()) > 2  # ruff: ignore[magic-value-comparison] - plenty

    def _household(self) -> None:
        known = self.random.choice([*self._people_by_key])
        one = self._people_by_key[known]
        # With a like name, and no birth date as in the telco, nobody could tell them apart.
        other = next(other for other in iter(self.people.person, None) if not _initials(one) & _initials(other))
        at_home = replace(other, family=one.family, house=one.house, street=one.street, postcode=one.postcode)
        at_home = replace(at_home, city=one.city, state=one.state, country=one.country, phone=one.phone)
        self._lookalike("one household", known, SHOP, at_home)

    def _office_phone(self) -> None:
        person = self.people.person()
        if self._colleague is None:
            self._colleague = f"{CRM}/{self.create(CRM, person)}"
            return
        office = self._people_by_key[self._colleague].phone
        self._lookalike("one office's telephone", self._colleague, CRM, replace(person, phone=office))

    def _placeholder(self) -> None:
        person = replace(self.people.person(), email=_PLACEHOLDER)
        if self._anonymous is None:
            self._anonymous = f"{CRM}/{self.create(CRM, person)}"
            return
        self._lookalike(f"the placeholder {_PLACEHOLDER}", self._anonymous, CRM, person)

    def _lookalike(self, kind: str, known: str, name: str, person: Person) -> None:
        self.lookalikes[kind].append((known, f"{name}/{self.create(name, person)}"))
        self.done["planted as a look-alike"] += 1

    def _delete(self) -> None:
        """Delete a crm customer that has a counterpart in the shop, which is to follow."""
        if len(self._doomed) > max(len(self.links) // 8, self.reserve):
            self._doom()

    def delete_at_once(self, count: int) -> None:
        """Delete so many crm customers that have a counterpart in the shop, which are to follow."""
        for _ in range(count):
            self._doom()

    def _doom(self) -> None:
        crm_id = self._doomed.pop()
        self.systems[CRM].delete(int(crm_id))
        self.carried.append(self.links[crm_id])
        self.done["deleted"] += 1


def _initials(person: Person) -> set[str]:
    """Return the first letters of a person's given names."""
    return {name[0] for name in (person.given, person.middle) if name}


def _plain(person: Person) -> bool:
    """Return whether a person is told apart without a suffix, which the smaller systems have no field for."""
    return person.suffix is None
