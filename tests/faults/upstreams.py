"""The simulated upstreams of a soak: what happens to their customers, by a seed, and a full record of it.

The record is append-only and holds, for every write that became visible, what a published customer has to show of it.
The checker rests on that and on nothing of the product's. `crm` is where customers are kept; deleting one there has its
counterpart in `shop` deleted, which its `customerId` names. `club` has tombstones and tokens, `telco` no change times.
"""

import asyncio
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from aiohttp import web

from worker.simulator.answers import Answer, Ask
from worker.simulator.connect import Connect
from worker.simulator.data import People, Person
from worker.simulator.dintero import Dintero
from worker.simulator.drivly import Drivly
from worker.simulator.server import Simulator
from worker.simulator.store import Id, Row

CRM: Final = "crm"
SHOP: Final = "shop"
CLUB: Final = "club"
TELCO: Final = "telco"
KEY: Final = "users API-Key soak-key"
EXECUTOR_KEY: Final = "users API-Key soak-key-of-the-executor"
_PORT: ContextVar[int] = ContextVar("port")

Facts = tuple[Any, ...]


class Write(NamedTuple):
    """One write as it became visible; `facts` is None where it deleted the customer."""

    at: float
    facts: Facts | None


class Delete(NamedTuple):
    """One DELETE that reached the shop: when it came, whom it named, what it was answered, whether it found somebody."""

    at: float
    customer: str
    status: int
    found: bool


def facts_of_document(kind: str, body: Mapping[str, Any]) -> Facts:
    """Return what a published customer has to show of an upstream's document, as the vendor's reference names it."""
    if kind == "drivly":
        names = ("consumerFirstName", "consumerLastName", "phone", "consumerStatus", "customerId", "updatedAt")
        return (*map(body.get, names), (body.get("email") or "").casefold())
    if kind == "dintero":
        return body.get("phone_number"), body["updated_at"], (body.get("email") or "").casefold()
    return body["referenceId"], body["metadata"].get("note"), body["contact"]["email"].casefold()


def facts_of_customer(kind: str, customer: Mapping[str, Any]) -> Facts:
    """Return the same of a published customer."""
    name = customer["name"] or {}
    references = {reference["type"]: reference["id"] for reference in customer["references"]}
    email = next((email["normalized"] for email in customer["emails"]), "")
    phone = next((phone["normalized"] for phone in customer["phones"]), None)
    if kind == "drivly":
        who = name.get("given"), name.get("family")
        return (*who, phone, customer["status"], references.get("customerId"), customer["updated_at"], email)
    if kind == "dintero":
        return phone, customer["updated_at"], email
    return references.get("referenceId"), customer["metadata"].get("note"), email


class Look(NamedTuple):
    """One look-up of the executor: when it was answered, whom it named, what it was answered."""

    at: float
    customer: str
    status: int


class Shop(Drivly):
    """The system downstream: remembers the executor's look-ups and DELETEs, and can hold the next DELETE for a fault."""

    def __init__(self, **common: Any) -> None:
        """`common` are Drivly's arguments."""
        super().__init__(**common)
        self.deletes: list[Delete] = []
        self.looks: list[Look] = []
        self.trap: tuple[str, asyncio.Future[int], asyncio.Future[None]] | None = None
        """Where the next DELETE is held (`before` or `after` it is done), the client's port, and until when."""

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        peer = request.transport.get_extra_info("peername") if request.transport is not None else None
        _PORT.set(peer[1] if peer else 0)
        return await super()._serve(request)

    async def answer(self, ask: Ask) -> Answer:
        """Answer as Drivly does, and remember what the executor does: it has a key of its own."""
        if ask.headers.get("Authorization") != EXECUTOR_KEY:
            return await super().answer(ask)
        ask.headers = {**ask.headers, "Authorization": KEY}
        customer = ask.path.rsplit("/", 1)[-1]
        if ask.method != "DELETE":
            answer = await super().answer(ask)
            self.looks.append(Look(self.now(), customer, answer.status))
            return answer
        await self._held("before")
        found, at = customer in map(str, self.store.rows), self.now()
        answer = await super().answer(ask)
        self.deletes.append(Delete(at, customer, answer.status, found))
        await self._held("after")
        return answer

    async def _held(self, where: str) -> None:
        if self.trap is not None and self.trap[0] == where:
            _, caught, freed = self.trap
            self.trap = None
            caught.set_result(_PORT.get())
            await freed


@dataclass
class Upstream:
    """One simulated system and its record."""

    name: str
    sim: Simulator
    writes: dict[str, list[Write]] = field(default_factory=dict)
    count: int = 0

    def __post_init__(self) -> None:
        """Record every write from now on."""
        store, put, remove = self.sim.store, self.sim.store.put, self.sim.store.remove

        def recording_put(time: float, op: str, rows: list[Row]) -> None:
            put(time, op, rows)
            for row in rows:
                self._note(time, row.id, None if row.tombstone else self.facts(self.sim.served(row)))

        def recording_remove(time: float, row: Row) -> None:
            remove(time, row)
            self._note(time, row.id, None)

        store.put, store.remove = recording_put, recording_remove  # type: ignore[method-assign]

    def _note(self, time: float, key: Id, facts: Facts | None) -> None:
        self.writes.setdefault(str(key), []).append(Write(time, facts))
        self.count += 1

    def facts(self, body: Mapping[str, Any]) -> Facts:
        """Return what has to be shown of a document."""
        return facts_of_document(self.sim.kind, body)

    def live(self) -> int:
        """Return the number of customers."""
        return sum(writes[-1].facts is not None for writes in self.writes.values())


class World:
    """All upstreams."""

    def __init__(self, seed: int) -> None:
        """`seed` decides everything that happens."""
        self.random = random.Random(f"soak {seed}")
        self.people = People(seed)
        self.shop = Shop(seed=seed * 4, authorization=KEY)
        sims: dict[str, Simulator] = {
            CRM: Drivly(seed=seed * 4 + 1, authorization=KEY),
            SHOP: self.shop,
            CLUB: Dintero(seed=seed * 4 + 2),
            TELCO: Connect(seed=seed * 4 + 3),
        }
        self.upstreams = {name: Upstream(name, sim) for name, sim in sims.items()}
        self._known: list[Person] = []
        self._size = 0
        self._notes = 0
        self._orphans: set[Id] = set()
        """Customers of the shop whose counterpart is gone: mostly left alone, or no deletion of one would come to pass."""
        self._later: list[tuple[float, Callable[[], None]]] = []
        self._kinds: list[tuple[int, Callable[[], None]]] = [
            (40, self._update),
            (4, self._bulk),
            (9, self._come_or_go),
            (4, self._linked),
            (3, self._leave),
            (4, self._late),
            (2, self._return),
        ]

    @property
    def writes(self) -> int:
        """Return how many writes there were."""
        return sum(upstream.count for upstream in self.upstreams.values())

    async def start(self, customers: int) -> None:
        """Start every system with about so many customers each."""
        self._size = customers
        for upstream in self.upstreams.values():
            await upstream.sim.start()
        for _ in range(customers // 3):
            self._linked()
        for name, upstream in self.upstreams.items():
            while upstream.live() < customers:
                self._create(name)

    async def stop(self) -> None:
        """Stop every system."""
        for upstream in self.upstreams.values():
            await upstream.sim.stop()

    async def churn(self, rate: float) -> None:
        """Write about `rate` times a second, until cancelled."""
        loop = asyncio.get_running_loop()
        start, before = loop.time(), self.writes
        while True:
            while self.writes - before < (loop.time() - start) * rate:
                self.step()
            await asyncio.sleep(0.05)

    def step(self) -> None:
        """Let one thing happen, and what was put off until now."""
        due = [do for moment, do in self._later if moment <= self.shop.now()]
        self._later = [later for later in self._later if later[0] > self.shop.now()]
        for do in due:
            do()
        weights = [weight for weight, _ in self._kinds]
        with suppress(ValueError):  # an upstream refuses what breaks its own rules, and nothing has happened
            self.random.choices([do for _, do in self._kinds], weights)[0]()

    def finish(self) -> None:
        """Let everything happen that was put off."""
        while self._later:
            self._later.pop(0)[1]()

    def probe(self, name: str) -> tuple[str, Facts]:
        """Change one customer of a system; return its key and what has to be seen of it."""
        upstream = self.upstreams[name]
        row = self._any(name) or upstream.sim.store.rows[self._create(name)]
        self._change(name, row)
        return f"{name}/{row.id}", upstream.writes[str(row.id)][-1].facts or ()

    # What happens

    def _any(self, name: str) -> Row | None:
        row = self.upstreams[name].sim.any()
        left_alone = name == SHOP and row is not None and row.id in self._orphans and self.random.random() < 0.9
        return None if left_alone else row

    def _name(self) -> str:
        return self.random.choices([CRM, SHOP, CLUB, TELCO], [5, 4, 3, 1])[0]

    def _create(self, name: str, fields: dict[str, Any] | None = None, late: float = 0.0) -> Id:
        """Create a customer: somebody new, or a variation of somebody who is there already."""
        sim, person = self.upstreams[name].sim, self.people.person()
        if self._known and self.random.random() < 0.2:
            how = self.random.choice(("typo", "swapped", "case"))
            person = self.people.vary(self.random.choice(self._known), **{how: True})
        try:
            key = sim.create(fields, person=person, visible_after=late)
        except ValueError:  # the e-mail address is taken, where only one may have it
            person = self.people.person()
            key = sim.create(fields, person=person, visible_after=late)
        self._known = [*self._known[-200:], person]
        return key

    def _change(self, name: str, row: Row) -> None:
        self._notes += 1
        sim, mark = self.upstreams[name].sim, f"{self._notes:06d}"
        match sim.kind:
            case "drivly":
                sim.update(
                    row.id,
                    {
                        "consumerStatus": self.random.choice(("NEW", "ACTIVE", "SOLD", "LOST")),
                        "companyServiceOrders": mark,
                    },
                )
            case "dintero":
                sim.update(row.id, {"favorite_store": f"store-{mark}"})
            case _:
                sim.update(row.id, {"metadata": {**row.document()["metadata"], "note": mark}})

    def _update(self) -> None:
        name = self._name()
        row = self._any(name)
        if row is not None:
            self._change(name, row)

    def _bulk(self) -> None:
        """Change many customers with one stamp."""
        name = self.random.choice((CRM, SHOP))
        rows = [row for row in (self._any(name) for _ in range(12)) if row is not None]
        self.upstreams[name].sim.bulk_update(
            [row.id for row in rows], {"consumerStatus": self.random.choice(("NEW", "ACTIVE", "SOLD", "LOST"))}
        )

    def _come_or_go(self) -> None:
        name = self._name()
        row = self._any(name)
        if row is None or self.upstreams[name].live() < self._size * self.random.uniform(0.9, 1.1):
            self._create(name)
        else:
            self._delete(name, row)

    def _delete(self, name: str, row: Row) -> None:
        self.upstreams[name].sim.delete(row.id)
        if name != CRM:
            return
        if _links(row):
            self._orphans.add(int(row.document()["customerId"]))
        dice, when = self.random.random(), self.shop.now() + self.random.uniform(0.0, 4.0)
        if dice < 0.1:
            self._later.append((when, lambda: self._again(CRM, str(row.id))))
        elif dice < 0.25:
            self._later.append((when, lambda: self._touch_counterpart(row)))

    def _touch_counterpart(self, row: Row) -> None:
        counterpart = self.shop.store.get(int(row.document()["customerId"])) if _links(row) else None
        if counterpart is not None:
            self._change(SHOP, counterpart)

    def _linked(self) -> None:
        """Create a customer in the shop and its counterpart in the crm."""
        if min(self.upstreams[name].live() for name in (CRM, SHOP)) < self._size * 1.2:
            self._create(CRM, {"customerId": str(self._create(SHOP))})

    def _leave(self) -> None:
        """Delete a customer of the crm that has a counterpart in the shop."""
        rows = [row for row in (self._any(CRM) for _ in range(8)) if row is not None and _links(row)]
        if rows:
            self._delete(CRM, rows[0])

    def _late(self) -> None:
        """Create a customer that becomes visible after its stamp."""
        self._create(self.random.choice((CRM, SHOP, CLUB)), late=1.0)

    def _return(self) -> None:
        """Create a customer anew that was deleted, under its old id."""
        name = self._name()
        gone = [key for key, writes in self.upstreams[name].writes.items() if writes[-1].facts is None]
        if gone:
            self._again(name, self.random.choice(gone))

    def _again(self, name: str, key: str) -> None:
        upstream = self.upstreams[name]
        if upstream.writes[key][-1].facts is None:
            id_: Id = int(key) if upstream.sim.kind == "drivly" else key
            upstream.sim.create(None, person=self.people.person(), id=id_)


def _links(row: Row) -> bool:
    return str(row.document().get("customerId", "")).isdigit()
