"""The demo's own verdict: what is on the topics, held against the simulated systems.

The expectations are written from the API's document and from the truth that the demo planted; nothing of the code that
made the topics is used to check them.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiokafka.structs import ConsumerRecord

from worker.demo.world import CRM, KEY, SHOP, World


@dataclass
class Topics:
    """Every committed record of the topics that are checked."""

    events: Sequence[ConsumerRecord]
    latest: Sequence[ConsumerRecord]
    clusters: Sequence[ConsumerRecord]
    receipts: Sequence[ConsumerRecord]
    deadletters: Sequence[ConsumerRecord]


@dataclass
class Check:
    """One thing that was checked: how many were right, and what was wrong."""

    name: str
    count: int
    wrong: list[str] = field(default_factory=list)


def table(records: Iterable[ConsumerRecord]) -> dict[str, Any]:
    """Return the newest value by key, without deleted ones."""
    newest = {record.key.decode(): record.value for record in records}
    return {key: orjson.loads(value) for key, value in newest.items() if value is not None}


def run(world: World, topics: Topics) -> list[Check]:
    """Return every check."""
    latest = table(topics.latest)
    return [
        _latest(world.live(), latest),
        _sequences(topics.events),
        _replay(topics.events, latest),
        _duplicates(world, table(topics.clusters)),
        _downstream(world),
        _receipts(world, topics.receipts),
        _private(topics),
        Check("dead letters", 0, [f"{record.key.decode()} was set aside" for record in topics.deadletters]),
    ]


def _expected(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a Drivly document must stand in the normalized customer, as the document names it."""
    return {
        "id": str(body["id"]),
        "given": body.get("consumerFirstName"),
        "family": body.get("consumerLastName"),
        "email": body.get("email", "").casefold() or None,
        "phone": body.get("phone"),
        "birth": body.get("consumerDateOfBirth", "")[:10] or None,
        "status": body.get("consumerStatus"),
        "company": body.get("companyName"),
        "reference": body.get("customerId"),
        "created": body["createdAt"],
        "updated": body["updatedAt"],
        "residence": body.get("consumerResidenceType"),
    }


def _found(customer: Mapping[str, Any]) -> dict[str, Any]:
    name, company = customer["name"] or {}, customer["company"] or {}
    references = {reference["type"]: reference["id"] for reference in customer["references"]}
    return {
        "id": customer["id"],
        "given": name.get("given"),
        "family": name.get("family"),
        "email": next((email["normalized"] for email in customer["emails"]), None),
        "phone": next((phone["normalized"] for phone in customer["phones"]), None),
        "birth": customer["date_of_birth"],
        "status": customer["status"],
        "company": company.get("name"),
        "reference": references.get("customerId"),
        "created": customer["created_at"],
        "updated": customer["updated_at"],
        "residence": customer["attributes"].get("consumerResidenceType"),
    }


def _latest(live: Mapping[str, Mapping[str, Any]], latest: Mapping[str, Any]) -> Check:
    wrong = [f"{key} is missing" for key in live.keys() - latest.keys()]
    wrong += [f"{key} was deleted upstream" for key in latest.keys() - live.keys()]
    for key in live.keys() & latest.keys():
        expected, found = _expected(live[key]), _found(latest[key])
        differing = [name for name in expected if expected[name] != found[name]]
        if differing:
            wrong.append(f"{key} differs in {', '.join(differing)}")
    return Check("customers.latest equals both systems, field by field", len(latest), wrong)


def _headers(record: ConsumerRecord) -> dict[str, str]:
    return {name: value.decode() for name, value in record.headers}


def _sequences(events: Iterable[ConsumerRecord]) -> Check:
    last: dict[str, int] = {}
    wrong, count = [], 0
    for record in events:
        key, sequence = record.key.decode(), int(_headers(record)["ce_sequence"])
        if sequence != last.get(key, 0) + 1:
            wrong.append(f"{key}: sequence {sequence} after {last.get(key, 0)}")
        last[key] = sequence
        count += 1
    return Check("customers.events has each sequence once, in order, without a gap", count, wrong)


def _replay(events: Iterable[ConsumerRecord], latest: Mapping[str, Any]) -> Check:
    replayed: dict[str, Any] = {}
    for record in events:
        data = orjson.loads(record.value)
        replayed[record.key.decode()] = data["customer"]
    living = {key: customer for key, customer in replayed.items() if customer is not None}
    wrong = [f"{key} differs" for key in living.keys() | latest.keys() if living.get(key) != latest.get(key)]
    return Check("the events, replayed from the start, give customers.latest", len(living), wrong)


def _duplicates(world: World, clusters: Mapping[str, Any]) -> Check:
    found: defaultdict[str, set[str]] = defaultdict(set)
    for key, membership in clusters.items():
        found[membership["cluster"]].add(key)
    sets, expected = {frozenset(group) for group in found.values()}, world.clusters()
    wrong = [f"not found: {', '.join(sorted(group))}" for group in expected - sets]
    wrong += [f"invented: {', '.join(sorted(group))}" for group in sets - expected]
    return Check("every duplicate customer found, and none invented", len(expected), wrong)


def _downstream(world: World) -> Check:
    shop = world.systems[SHOP]
    left = shop.customers()
    wrong = [f"{SHOP}/{shop_id} is still there" for shop_id in world.carried if shop_id in left]
    asked = Counter(request.path.rsplit("/", 1)[-1] for request in shop.requests if request.method == "DELETE")
    wrong += [f"{SHOP}/{shop_id} got {count} DELETEs" for shop_id, count in asked.items() if count != 1]
    wrong += [f"{SHOP}/{shop_id} was deleted, and nobody asked for it" for shop_id in asked.keys() - set(world.carried)]
    return Check(f"every customer deleted in the {CRM} deleted in the {SHOP}, by one DELETE", len(world.carried), wrong)


def _receipts(world: World, receipts: Iterable[ConsumerRecord]) -> Check:
    outcomes: defaultdict[str, list[str]] = defaultdict(list)
    for record in receipts:
        receipt = orjson.loads(record.value)
        outcomes[f"{receipt['target']}/{receipt['customer']}"].append(receipt["outcome"])
    wrong = []
    for shop_id in world.carried:
        got = outcomes.pop(f"{SHOP}/{shop_id}", [])
        if got != ["VERIFIED"]:
            wrong.append(f"{SHOP}/{shop_id} has the receipts {got or 'none'}")
    wrong += [f"{key} has a receipt, and nobody asked for it" for key in outcomes]
    return Check("every deletion has one receipt", len(world.carried), wrong)


def _private(topics: Topics) -> Check:
    """No social security number, licence number, income or credential stands on any topic."""
    wrong, count = [], 0
    for record in [*topics.events, *topics.latest, *topics.clusters, *topics.receipts]:
        count += 1
        value = record.value or b""
        if b"consumerSocialSecurity" in value or b"consumerIncome" in value or KEY.encode() in value:
            wrong.append(f"{record.topic}: {record.key.decode()} holds what the privacy policy keeps back")
    return Check("nothing on a topic that the privacy policy keeps back", count, wrong)
