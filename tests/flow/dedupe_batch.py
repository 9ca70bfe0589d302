"""Duplicate customers worked out the plain way: all live customers at once, every pair, no history.

Written apart from the stages: only the rules themselves (what is compared, the weights) are shared with them.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import combinations
from typing import Any

from handlers.dedupe.comparand import Profile, parse
from handlers.dedupe.profile import Hasher, Refined, Refiner, extract
from handlers.dedupe.scoring import FIELDS, Comparison, Judge, Need, Scorer
from handlers.dedupe.settings import KEY_KINDS, DedupeSettings
from worker.events import Customer


@dataclass
class Found:
    """What a batch run found."""

    clusters: dict[frozenset[str], tuple[str, str]] = field(default_factory=dict)  # members: (id, winner)
    links: dict[tuple[str, str], float] = field(default_factory=dict)
    proofs: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    reviews: dict[tuple[str, str], str] = field(default_factory=dict)

    def of(self, name: str) -> frozenset[str]:
        """Return with whom a customer is one person, itself included."""
        return next((members for members in self.clusters if name in members), frozenset({name}))


def batch(customers: Mapping[str, Customer], settings: DedupeSettings, hasher: Hasher) -> Found:
    """Return what is there among the live `customers`, by their keys."""
    refiner, scorer = Refiner(settings, hasher), Scorer(settings)
    refined = {name: refiner.refine(extract(customer)) for name, customer in customers.items()}
    buckets: dict[bytes, set[str]] = defaultdict(set)
    for name, known in refined.items():
        for key in known.keys:
            buckets[key].add(name)
    small = {key for key, members in buckets.items() if len(members) <= settings.generic.bucket}
    found = Found()
    standing: dict[tuple[str, str], float] = {}
    comparisons: dict[tuple[str, str], Comparison] = {}
    together: dict[tuple[str, str], set[bytes]] = {}
    for a, b in combinations(sorted(refined, key=str.encode), 2):
        met = together[a, b] = set(refined[a].keys) & set(refined[b].keys) & small
        compared = comparisons[a, b] = scorer.compare(_profile(refined[a]), _profile(refined[b]))
        standing[a, b] = _score(compared, met, settings)
        if standing[a, b] >= settings.link:
            found.proofs[a, b] = _proof(a, b, compared, met, standing[a, b])
        if met and compared.clash and any(key[:1] == b"E" for key in met):
            found.reviews[a, b] = "email_clash"
    found.links = {pair: score for pair, score in standing.items() if score >= settings.link}
    _exclude(found, comparisons, together, settings)
    refused = _unite(found, refined, settings, comparisons)
    for pair, score in standing.items():
        if found.reviews.get(pair) is None and found.of(pair[0]) != found.of(pair[1]):
            if pair in refused:
                found.reviews[pair] = refused[pair]
            elif settings.review <= score < settings.link:
                found.reviews[pair] = "score"
    return found


def _profile(refined: Refined) -> Profile:
    return parse(b"".join(refined.keys), refined.profile)


def _score(compared: Comparison, met: Iterable[bytes], settings: DedupeSettings) -> float:
    if not met or compared.block:
        return float("-inf")
    best: dict[str, float] = {}
    for key, weight in sorted(compared.agreed.items()):
        if key in met:
            best[chr(key[0])] = max(weight, best.get(chr(key[0]), weight))
    return Judge(settings).standing(compared.fields, compared.need, best)


def _exclude(
    found: Found,
    comparisons: Mapping[tuple[str, str], Comparison],
    together: Mapping[tuple[str, str], set[bytes]],
    settings: DedupeSettings,
) -> None:
    """Link who may be one, doubts aside, and can be nobody else in the other's source, where sources are one to one."""
    may_be: dict[tuple[str, str], set[str]] = defaultdict(set)
    proofs = {}
    for (a, b), compared in comparisons.items():
        one, other = (name.split("/")[0] for name in (a, b))
        paired = one != other and any({one, other} <= set(group) for group in settings.one_to_one)
        met, doubtless = together[a, b], compared._replace(need=Need.NOTHING)
        if paired and _score(doubtless, met, settings) >= settings.link:
            may_be[a, other].add(b)
            may_be[b, one].add(a)
            proofs[a, b] = _proof(a, b, compared, met, settings.link) | {"one_to_one": True}
    for (a, b), proof in proofs.items():
        only = may_be[a, b.split("/")[0]] == {b} and may_be[b, a.split("/")[0]] == {a}
        if only and (a, b) not in found.links:
            found.links[a, b], found.proofs[a, b] = settings.link, proof


def _proof(a: str, b: str, compared: Comparison, met: set[bytes], score: float) -> dict[str, Any]:
    kinds = {KEY_KINDS[chr(key[0])] for key in compared.agreed if key in met}
    return {
        "a": a,
        "b": b,
        "score": score,
        "keys": sorted(kinds),
        "fields": {name: weight for name, weight in zip(FIELDS, compared.fields, strict=True) if weight != 0},
        "exact_id": "identifier" in kinds,
        "generic": not compared.agreed.keys() <= met,
    }


def _unite(
    found: Found,
    refined: Mapping[str, Refined],
    settings: DedupeSettings,
    compared: Mapping[tuple[str, str], Comparison],
) -> dict[tuple[str, str], str]:
    group = {name: frozenset({name}) for name in refined}
    component = dict(group)
    for a, b in found.links:
        for name in (both := component[a] | component[b]):
            component[name] = both
    refused: dict[tuple[str, str], str] = {}
    for a, b in sorted(found.links, key=lambda pair: (-found.links[pair], pair)):
        both = group[a] | group[b]
        if len(component[a]) > settings.caps.component:
            refused[a, b] = "component"
        elif group[a] != group[b] and (reason := _over(both, [group[a], group[b]], refined, settings)):
            refused[a, b] = reason
        elif group[a] != group[b] and _quarrel(group[a], group[b], found, refined, compared, settings):
            refused[a, b] = "opposed"
        else:
            for name in both:
                group[name] = both
    for members in set(group.values()):
        if len(members) > 1:
            found.clusters[members] = _identity(members, refined, settings)
    return refused


def _quarrel(
    one: frozenset[str],
    other: frozenset[str],
    found: Found,
    refined: Mapping[str, Refined],
    compared: Mapping[tuple[str, str], Comparison],
    settings: DedupeSettings,
) -> bool:
    cross = [(a, b) for a, b in combinations(sorted(one | other, key=str.encode), 2) if (a in one) != (b in one)]
    linked = [pair for pair in cross if pair in found.links]
    against = 0
    for a, b in cross:
        if (a, b) not in found.links and not (
            compared[a, b].veto == "birth_date" and _witnessed(a, b, one | other, found, refined)
        ):
            against += compared[a, b].opposed
    return against > settings.caps.opposed * len(linked)


def _witnessed(a: str, b: str, members: Iterable[str], found: Found, refined: Mapping[str, Refined]) -> bool:
    """Return whether somebody is linked to both and has the birth date of one of them."""
    born = {_profile(refined[name]).born for name in (a, b)}
    friends = [{x if y == name else y for x, y in found.links if name in {x, y}} for name in (a, b)]
    return any(_profile(refined[name]).born in born for name in friends[0] & friends[1] & set(members))


def _over(
    both: frozenset[str], parts: list[frozenset[str]], refined: Mapping[str, Refined], settings: DedupeSettings
) -> str | None:
    caps = settings.caps

    def of(members: Iterable[str], name: str) -> set[str]:
        return {str(value) for member in members for value in refined[member].node[name]}

    if len(both) > caps.customers:
        return "cap_customers"
    for type_ in settings.vetoes.unique:
        ids = [{(v, near) for m in part for t, v, near in refined[m].node["unique"] if t == type_} for part in parts]
        if ids[0] and ids[1] and _apart(ids[0] | ids[1]) > caps.identifiers:
            return "unique_id"
    if len(of(both, "emails")) > caps.emails:
        return "cap_emails"
    return "cap_phones" if len(of(both, "phones")) > caps.phones else None


def _apart(identifiers: Iterable[tuple[str, str]]) -> int:
    """Count identifiers in the order of their hashes, but for those that are a typing error away from a counted one."""
    counted: list[set[str]] = []
    for _, near in sorted(identifiers):
        variants = {near[at : at + 8] for at in range(0, len(near), 8)}
        if not any(variants & other for other in counted):
            counted.append(variants)
    return len(counted)


def _identity(members: frozenset[str], refined: Mapping[str, Refined], settings: DedupeSettings) -> tuple[str, str]:
    nodes = {name: refined[name].node for name in members}
    founder = sorted(members, key=lambda name: (nodes[name]["seen"], name))[0]
    order = {source: place for place, source in enumerate(settings.priority)}

    def rank(name: str) -> tuple[int, int, str, str]:
        node = nodes[name]
        return order.get(node["source"], len(order)), -node["full"], node["old"], name

    return blake2b(founder.encode(), digest_size=16, person=b"cluster").hexdigest(), sorted(members, key=rank)[0]
