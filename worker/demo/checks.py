"""The demo's own verdict: what is on the topics, held against the simulated systems.

The expectations are written from the APIs' documents (`expectations`) and from the truth that the demo planted; nothing
of the code that made the topics is used to check them.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from aiokafka.structs import ConsumerRecord

from worker.demo.expectations import EXPECTED
from worker.demo.world import API_KEY, CLIENT_SECRET, CRM, KEY, PASSWORD, SHOP, Pair, World
from worker.simulator.mykaarma import CARD

_NEVER: Final = (b"consumerIncome", *(name.encode() for name in (KEY, API_KEY, PASSWORD, CLIENT_SECRET, CARD)))
# As the made-up people have them.
_NATIONAL_ID: Final = re.compile(rb"\b9\d\d-\d\d-\d{4}\b").search


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
        *(_latest(world, name, latest) for name in world.systems),
        _sequences(topics.events),
        _replay(topics.events, latest),
        *_duplicates(world, table(topics.clusters)),
        _downstream(world),
        _receipts(world, topics.receipts),
        _private(topics),
        Check("dead letters: none", 0, [f"{record.key.decode()} was set aside" for record in topics.deadletters]),
    ]


def _latest(world: World, name: str, latest: Mapping[str, Any]) -> Check:
    kind = world.systems[name].kind
    expected, published = EXPECTED[kind]
    live = {key: body for key, body in world.live().items() if key.startswith(f"{name}/")}
    mine = {key: customer for key, customer in latest.items() if key.startswith(f"{name}/")}
    wrong = [f"{key} is missing" for key in live.keys() - mine.keys()]
    wrong += [f"{key} was deleted upstream" for key in mine.keys() - live.keys()]
    for key in live.keys() & mine.keys():
        wanted, found = expected(live[key]), published(mine[key])
        differing = [field for field in wanted if wanted[field] != found[field]]
        if differing:
            wrong.append(f"{key} differs in {', '.join(differing)}")
    return Check(f"{name} ({kind}): customers.latest is equal, field by field", len(mine), wrong)


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
    return Check("events: each sequence once, in order, without a gap", count, wrong)


def _replay(events: Iterable[ConsumerRecord], latest: Mapping[str, Any]) -> Check:
    replayed: dict[str, Any] = {}
    for record in events:
        data = orjson.loads(record.value)
        replayed[record.key.decode()] = data["customer"]
    living = {key: customer for key, customer in replayed.items() if customer is not None}
    wrong = [f"{key} differs" for key in living.keys() | latest.keys() if living.get(key) != latest.get(key)]
    return Check("events: replayed from the start, they give customers.latest", len(living), wrong)


def _duplicates(world: World, clusters: Mapping[str, Any]) -> list[Check]:
    found: defaultdict[str, set[str]] = defaultdict(set)
    for key, membership in clusters.items():
        found[membership["cluster"]].add(key)
    sets, expected, live = {frozenset(group) for group in found.values()}, world.clusters(), world.live().keys()
    wrong = [f"not found: {', '.join(sorted(group))}" for group in expected - sets]
    wrong += [f"invented: {', '.join(sorted(group))}" for group in sets - expected]
    together = {key: group for group in sets for key in group}
    return [
        Check("duplicates: everybody known twice found, nobody invented", len(expected), wrong),
        *(_pairs(kind, pairs, live, together, same=True) for kind, pairs in sorted(world.doubles.items())),
        *(_pairs(kind, pairs, live, together, same=False) for kind, pairs in sorted(world.lookalikes.items())),
    ]


def _pairs(
    kind: str, pairs: Iterable[Pair], live: AbstractSet[str], together: Mapping[str, frozenset[str]], *, same: bool
) -> Check:
    """Hold what was planted, as far as it is alive, against the clusters: who is the same person, and who is not."""
    left = [pair for pair in pairs if live >= set(pair)]
    wrong = [f"{one} and {two}" for one, two in left if (two in together.get(one, ())) is not same]
    name = f"duplicates with {kind}: found" if same else f"look-alikes with {kind}: left alone"
    return Check(name, len(left), wrong)


def _downstream(world: World) -> Check:
    shop = world.systems[SHOP]
    left = shop.customers()
    wrong = [f"{SHOP}/{shop_id} is still there" for shop_id in world.carried if shop_id in left]
    asked = Counter(request.path.rsplit("/", 1)[-1] for request in shop.requests if request.method == "DELETE")
    wrong += [f"{SHOP}/{shop_id} got {count} DELETEs" for shop_id, count in asked.items() if count != 1]
    wrong += [f"{SHOP}/{shop_id} was deleted, and nobody asked for it" for shop_id in asked.keys() - set(world.carried)]
    return Check(f"deletions: each of the {CRM} done in the {SHOP} by one DELETE", len(world.carried), wrong)


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
    return Check("deletions: one receipt each", len(world.carried), wrong)


def _private(topics: Topics) -> Check:
    """No social security, licence or card number, income or credential stands on any topic."""
    wrong, count = [], 0
    for record in [*topics.events, *topics.latest, *topics.clusters, *topics.receipts]:
        count += 1
        value = record.value or b""
        if any(text in value for text in _NEVER) or _NATIONAL_ID(value):
            wrong.append(f"{record.topic}: {record.key.decode()} holds what the privacy policy keeps back")
    return Check("privacy: nothing on a topic that the policy keeps back", count, wrong)
