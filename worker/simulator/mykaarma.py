"""mykaarma's customers, one look-up at a time: there is no list, and 204 is all that a missing one says.

A 200 may carry errors beside or instead of data. Orders change from look-up to look-up and carry card numbers.
`docs/simulators.md` lists what is not imitated.
"""

from __future__ import annotations

import random
from base64 import b64encode
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote

import orjson

from worker.simulator.answers import Answer, Ask, Layout, as_json
from worker.simulator.data import Person, uuid
from worker.simulator.server import Simulator
from worker.simulator.store import Id, Row
from worker.simulator.where import iso

PATH = "/customer/v2/customer/"
CARD = "4111111111111111"
"""A card number that card schemes keep for tests."""
LISTS = ("dealerOrderInfoList", "addressListV2", "addressList")
TITLES = {400: "BAD_REQUEST", 401: "UNAUTHORIZED", 429: "TOO_MANY_REQUESTS"}


class MyKaarma(Simulator):
    """A simulated mykaarma: `POST /customer/v2/customer/{uuid}`."""

    kind = "mykaarma"
    layout = Layout("customerInfo", "uuid")
    settings = (*Simulator.settings, "user", "password", "volatile_orders", "dealers")

    def __init__(
        self,
        *,
        user: str = "rollcall",
        password: str = "mykaarma-test-password",  # ruff: ignore[hardcoded-password-default]  # of a simulator
        volatile_orders: bool = True,
        **common: Any,
    ) -> None:
        """Make a stopped mykaarma; `common` are `Simulator`'s arguments.

        `user` and `password` are a service subscriber's. With `volatile_orders` an order's amount and time of update
        differ at every look-up.
        """
        self.user = user
        self.password = password
        self.volatile_orders = volatile_orders
        self._hidden: set[Id] = set()
        self.dealers = [uuid(random.Random(f"dealer {number}")) for number in range(2)]
        """The UUIDs of the dealers; a customer belongs to one."""
        super().__init__(**common)

    def hide(self, key: Id, *, hidden: bool = True) -> None:
        """Take a customer out of the requester's sight, or put it back: a look-up says 204, as of one that is gone."""
        (self._hidden.add if hidden else self._hidden.discard)(key)

    def shape(self, person: Person) -> dict[str, Any]:
        """Render a person in the document's fields; `update` takes the members of customerInfo at the top level too."""
        return {
            "id": person.number + 1,
            "fname": person.given,
            "lname": person.family,
            "customerKey": f"CK{person.number:08d}",
            "company": person.company,
            "dealerId": person.number % 2,
            "communications": _communications(person),
            "vehicles": [self._vehicle(person)],
            "secondaryCustomerData": self._secondary(),
            "dealerOrderInfoList": [self._order(person, number) for number in range(self.random.randrange(3))],
            "addressListV2": [self._address(person)],
            "addressList": [_old_address(person)],
        }

    def _vehicle(self, person: Person) -> dict[str, Any]:
        return {
            "model": "Example",
            "year": str(self.random.randrange(2005, 2026)),
            "make": "Sample",
            "vin": f"SYNTHETIC{person.number:08d}",
            "id": person.number,
            "isValid": True,
            "uuid": uuid(self.random),
            "vehicleKey": f"V{person.number}",
        }

    def _secondary(self) -> list[dict[str, Any]]:
        other = self.any() if self.random.random() < 0.2 else None  # ruff: ignore[magic-value-comparison]  # a share
        if other is None:
            return []
        info = other.document()["customerInfo"]
        names = {"fname": info.get("fname"), "lname": info.get("lname"), "customerKey": info.get("customerKey")}
        return [{**names, "guid": other.id, "customerId": info.get("id")}]

    def _order(self, person: Person, number: int) -> dict[str, Any]:
        transaction = {"tenderDataId": number, "transactionId": number, "transactionAmount": 100, "ccNumber": CARD}
        return {
            "dealerOrder_id": number,
            "customer_id": person.number + 1,
            "order_number": f"RO{person.number}-{number}",
            "order_type": "RO",
            "order_date": "2025-01-01",
            "order_amount": self.random.randrange(50, 2000),
            "order_status": "OPEN",
            "dealerOrder_uuid": uuid(self.random),
            "updated_date": iso(round(self.now() * 1000)),
            "transactions": [transaction],
        }

    def _address(self, person: Person) -> dict[str, Any]:
        return {
            "line1": person.street_line,
            "city": person.city,
            "zip": person.postcode,
            "addressType": "HOME",
            "type": "COMMON",
            "country": person.country,
            "updateTS": iso(round(self.now() * 1000)),
            "uuid": uuid(self.random),
            "isValid": True,
            "isPreferred": True,
            "state": person.state,
        }

    def new_id(self) -> Id:
        """Draw a UUID."""
        return uuid(self.random)

    def document(self, key: Id, fields: Mapping[str, Any], created: int, updated: int) -> dict[str, Any]:  # ruff: ignore[unused-method-argument]
        """Render a look-up's answer, less its errors and warnings; there are no time stamps."""
        info = {**fields.get("customerInfo", {})}
        info |= {name: value for name, value in fields.items() if name not in {*LISTS, "customerInfo"}}
        return {"customerInfo": info | {"uuid": key}, **{name: fields.get(name, []) for name in LISTS}}

    def change(self, row: Row) -> dict[str, Any]:
        """Change the preferred telephone number's label, and sometimes the address."""
        label = self.random.choice(("Home", "Work", "Mobile", "Other"))
        info = row.document()["customerInfo"]
        changed: dict[str, Any] = {
            "communications": [{**entry, "commLabel": label} for entry in info.get("communications", [])],
            "company": f"Example {self.random.randrange(10**6)}",
        }
        if self.random.random() < 0.3:  # ruff: ignore[magic-value-comparison]  # a share
            changed["addressListV2"] = [self._address(self.people.person())]
        return changed

    def error(self, status: int) -> bytes:
        """Render an error as every status but 204 carries it."""
        title = TITLES.get(status, "INTERNAL_SERVER_ERROR")
        error = {"errorCode": status * 100, "errorTitle": title, "errorMessage": title.replace("_", " ").capitalize()}
        return orjson.dumps({"errors": [error], "warnings": []})

    async def answer(self, ask: Ask) -> Answer:
        """Look one customer up."""
        key = unquote(ask.path.removeprefix(PATH))
        if not ask.path.startswith(PATH) or ask.method != "POST" or "/" in key:
            return Answer(404, self.error(404))
        if ask.headers.get("Authorization") != _basic(self.user, self.password):
            return Answer(401, self.error(401))
        body = _request(ask.body)
        if body is None:
            return Answer(400, self.error(400))
        if ask.fault("errors"):
            return self._with_errors(ask, key)
        row = self.view(ask).get(key)
        if row is None or key in self._hidden or not self._at_dealer(row, body.get("dealerUUIDList") or []):
            return Answer(204)
        return as_json({"errors": [], "warnings": [], **self._told(row, ask)})

    def _at_dealer(self, row: Row, dealers: list[Any]) -> bool:
        """Whether the customer belongs to one of the dealers asked for; an empty list asks for all."""
        dealer = self.dealers[row.document()["customerInfo"].get("dealerId", 0) % len(self.dealers)]
        return not dealers or dealer in dealers

    def _with_errors(self, ask: Ask, key: str) -> Answer:
        fault = ask.fault("errors")
        row = self.view(ask).get(key)
        data = (
            self._told(row, ask) if row is not None and fault is not None and fault.option("with_data", False) else {}
        )
        for name in fault.option("without", ["addressListV2"]) if fault is not None else []:
            data.pop(name, None)
        error = {"errorCode": 50010, "errorTitle": "PARTIAL_FAILURE", "errorMessage": "Some data could not be read"}
        return as_json({"errors": [error], "warnings": [], **data})

    def _told(self, row: Row, ask: Ask) -> dict[str, Any]:
        document = row.document()
        excluded = dict(parse_qsl(ask.query)).get("excludeOrderType") == "true"
        for order in document["dealerOrderInfoList"]:
            if self.volatile_orders:
                order["updated_date"] = iso(round(self.now() * 1000))
                order["order_amount"] = self.luck.randrange(50, 2000)
            if excluded:
                order.pop("order_type", None)
        return document


def _communications(person: Person) -> list[dict[str, Any]]:
    entries = [("E", "Email", person.email), ("P", "Mobile", person.phone)]
    return [
        {"commValue": value, "commType": kind, "commLabel": label, "preferred": kind == "E", "id": number}
        for number, (kind, label, value) in enumerate(entries)
        if value is not None
    ]


def _old_address(person: Person) -> dict[str, Any]:
    return {
        "id": person.number,
        "dealerID": person.number % 2,
        "line1": person.street_line,
        "city": person.city,
        "zip": person.postcode,
        "addressType": "HOME",
        "phone": person.phone,
        "stateCode": person.state,
        "countryCode": person.country,
    }


def _basic(user: str, password: str) -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


def _request(body: bytes) -> dict[str, Any] | None:
    """Read the request's body; None where it lacks what the document requires."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(parsed, dict) or not isinstance(parsed.get("requesterUserUUID"), str):
        return None
    return parsed if isinstance(parsed.get("dealerUUIDList", []), list) else None
