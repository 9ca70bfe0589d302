"""The demo's world: two simulated systems, what happens to them, and the truth that the result is held against.

`crm` is where customers are kept, `shop` a system downstream. Half of the crm's customers have a counterpart in the
shop, which their `customerId` names. Some customers are planted twice (with a typo, swapped names, another case),
others only look alike (a household, an office phone, a placeholder e-mail). A person's number is the truth
about who is who.
"""

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from worker.simulator.data import People, Person
from worker.simulator.drivly import Drivly

CRM: Final = "crm"
SHOP: Final = "shop"
KEY: Final = "users API-Key demo-key"
_PLACEHOLDER: Final = "none@none.com"
_STEP: Final = 0.1


@dataclass
class World:
    """Both systems, and what is known of their customers."""

    seed: int
    systems: dict[str, Drivly] = field(default_factory=dict)
    persons: dict[str, int] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    carried: list[str] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)

    async def start(self, customers: int) -> None:
        """Start both systems with `customers` each."""
        self.people = People(self.seed)
        self.random = random.Random(self.seed)  # ruff: ignore[suspicious-non-cryptographic-random-usage] - a story, not a secret
        for number, name in enumerate((CRM, SHOP)):
            self.systems[name] = Drivly(seed=self.seed * 10 + number, authorization=KEY)
            await self.systems[name].start()
        for person in self.people.people(customers // 2):
            shop_id = self.create(SHOP, person)
            crm_id = self.create(CRM, person, {"customerId": shop_id})
            self.links[crm_id] = shop_id
        for name in (CRM, SHOP):
            for person in self.people.people(customers - customers // 2):
                self.create(name, person)
        self._doomed += list(self.links)[: len(self.links) // 4]
        self._spared |= {f"{CRM}/{crm}" for crm in self._doomed} | {f"{SHOP}/{self.links[crm]}" for crm in self._doomed}

    async def stop(self) -> None:
        """Stop both systems."""
        for system in self.systems.values():
            await system.stop()

    def create(self, name: str, person: Person, fields: dict[str, Any] | None = None) -> str:
        """Create a customer and note who it is; return its id."""
        customer_id = str(self.systems[name].create(fields, person=person))
        self.persons[f"{name}/{customer_id}"] = person.number
        self._people_by_key[f"{name}/{customer_id}"] = person
        return customer_id

    def __post_init__(self) -> None:
        """Set up what no caller gives."""
        self._people_by_key: dict[str, Person] = {}
        self._doomed: list[str] = []
        self._spared: set[str] = set()
        self._office: Person | None = None

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
            (4, lambda: self._plant("typo", typo=True)),
            (4, lambda: self._plant("swapped names", swapped=True)),
            (4, lambda: self._plant("another case", case=True)),
            (3, self._household),
            (3, self._office_phone),
            (3, self._placeholder),
            (3, self._late),
            (5, self._delete),
        ]
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
        self.create(self.random.choice((CRM, SHOP)), self.people.vary(person, **how))
        self.done[f"duplicate planted: {kind}"] += 1

    def clustered(self, number: int) -> bool:
        """Return whether a person has three customers already."""
        return sum(other == number for other in self.persons.values()) > 2  # ruff: ignore[magic-value-comparison] - plenty

    def _household(self) -> None:
        one = self._people_by_key[self.random.choice([*self._people_by_key])]
        other = self.people.person()
        at_home = replace(other, family=one.family, house=one.house, street=one.street, postcode=one.postcode)
        self.create(SHOP, replace(at_home, city=one.city, state=one.state, country=one.country, phone=one.phone))
        self.done["no duplicate: household"] += 1

    def _office_phone(self) -> None:
        person = self.people.person()
        self._office = self._office or person
        self.create(CRM, replace(person, phone=self._office.phone))
        self.done["no duplicate: office phone"] += 1

    def _placeholder(self) -> None:
        self.create(CRM, replace(self.people.person(), email=_PLACEHOLDER))
        self.done["no duplicate: placeholder e-mail"] += 1

    def _delete(self) -> None:
        """Delete a crm customer that has a counterpart in the shop, which is to follow."""
        if len(self._doomed) > len(self.links) // 8:
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
