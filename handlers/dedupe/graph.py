"""Which linked customers are one person: a function of a component's customers and links, and of nothing else.

The links are taken from the strongest to the weakest; each one joins its two clusters unless unique ids conflict or a
cap would be exceeded. The same component gives the same clusters whatever came first.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple

from handlers.dedupe.profile import near
from handlers.dedupe.settings import Caps

# What the clusters know of a customer: `Refined.node`.
Data = Mapping[str, Any]
Opposed = Callable[[str, str, Iterable[str]], int]


class Edge(NamedTuple):
    """Two customers that are linked, with the score; `a` < `b`."""

    a: str
    b: str
    score: float


@dataclass(frozen=True, slots=True)
class Partition:
    """The clusters (of two and more, sorted), the links that made each, and the links refused with their reason."""

    clusters: Sequence[Sequence[str]]
    trees: Sequence[Sequence[Edge]]
    refused: Sequence[tuple[Edge, str]]


@dataclass(slots=True)
class _Group:
    members: list[str]
    tree: list[Edge]
    emails: set[str]
    phones: set[str]
    # By type, the different identifiers with what tells a typing error (`profile.near`).
    unique: dict[str, dict[str, str]]


def partition(nodes: Mapping[str, Data], edges: Collection[Edge], caps: Caps, opposed: Opposed) -> Partition:
    """Return the clusters of the customers `nodes` under the links `edges`.

    `opposed` says of two customers, and those in the two clusters who are linked to both, how firmly they are held for
    two people, 0 if they are not: two clusters are not joined if that outweighs the links between them.
    """
    linked = {(edge.a, edge.b) for edge in edges}
    groups = {name: _group(name, data) for name, data in nodes.items()}
    refused: list[tuple[Edge, str]] = []
    for edge in sorted(edges, key=lambda edge: (-edge.score, edge.a, edge.b)):
        one, other = groups[edge.a], groups[edge.b]
        if one is other:
            continue
        reason = _objection(one, other, caps) or ("opposed" if _quarrel(one, other, linked, caps, opposed) else None)
        if reason is not None:
            refused.append((edge, reason))
            continue
        _join(one, other, edge)
        for name in other.members:
            groups[name] = one
    found = {id(group): group for group in groups.values() if len(group.members) > 1}
    ordered = sorted(found.values(), key=lambda group: min(group.members))
    kept = tuple((edge, reason) for edge, reason in refused if groups[edge.a] is not groups[edge.b])
    return Partition(
        tuple(tuple(sorted(group.members)) for group in ordered), tuple(tuple(group.tree) for group in ordered), kept
    )


def pair_of(a: str, b: str) -> tuple[str, str]:
    """Return two customers in the order in which links name them."""
    return (a, b) if a.encode() < b.encode() else (b, a)


def source_of(name: str) -> str:
    """Return the source of a customer, which is named `<source>/<customer id>`."""
    return name.partition("/")[0]


def cluster_id(members: Collection[str], nodes: Mapping[str, Data]) -> str:
    """Return the cluster's id, the hash of its founder: whoever was seen first, by id among equals."""
    return founder_id(min(members, key=lambda name: (nodes[name]["seen"], name)))


def founder_id(founder: str) -> str:
    """Return the id of the cluster that `founder` has founded."""
    return blake2b(founder.encode(), digest_size=16, person=b"cluster").hexdigest()


def winner(members: Collection[str], nodes: Mapping[str, Data], priority: Sequence[str]) -> str:
    """Return the customer that stands for the cluster: by source, then the most complete, the oldest, the id."""

    def rank(name: str) -> tuple[int, int, str, str]:
        data = nodes[name]
        place = priority.index(data["source"]) if data["source"] in priority else len(priority)
        return place, -data["full"], data["old"], name

    return min(members, key=rank)


def path(tree: Iterable[Edge], start: str, end: str) -> list[Edge]:
    """Return the links of a cluster's tree that lead from one member to another."""
    neighbours: dict[str, list[tuple[str, Edge]]] = {}
    for edge in tree:
        neighbours.setdefault(edge.a, []).append((edge.b, edge))
        neighbours.setdefault(edge.b, []).append((edge.a, edge))
    came: dict[str, tuple[str, Edge] | None] = {start: None}
    todo = [start]
    for name in todo:
        for other, edge in neighbours.get(name, ()):
            if other not in came:
                came[other] = name, edge
                todo.append(other)
    steps: list[Edge] = []
    step = came.get(end)
    while step is not None:
        steps.append(step[1])
        step = came[step[0]]
    return steps[::-1]


def _group(name: str, data: Data) -> _Group:
    unique: dict[str, dict[str, str]] = {}
    for type_, value, variants in data["unique"]:
        unique.setdefault(type_, {})[value] = variants
    return _Group([name], [], set(data["emails"]), set(data["phones"]), unique)


def _objection(one: _Group, other: _Group, caps: Caps) -> str | None:
    if len(one.members) + len(other.members) > caps.customers:
        return "cap_customers"
    if any(
        _different(one.unique[type_] | other.unique[type_]) > caps.identifiers
        for type_ in one.unique.keys() & other.unique
    ):
        return "unique_id"
    if len(one.emails | other.emails) > caps.emails:
        return "cap_emails"
    if len(one.phones | other.phones) > caps.phones:
        return "cap_phones"
    return None


def _quarrel(one: _Group, other: _Group, linked: AbstractSet[tuple[str, str]], caps: Caps, opposed: Opposed) -> bool:
    """Return whether what holds the members of two groups for two people outweighs the links between them."""
    pairs = [pair_of(a, b) for a in one.members for b in other.members]
    apart = [pair for pair in pairs if pair not in linked]
    members = [*one.members, *other.members]
    against = sum(opposed(a, b, _witnesses(a, b, members, linked)) for a, b in apart)
    return against > caps.opposed * (len(pairs) - len(apart))


def _witnesses(a: str, b: str, members: Iterable[str], linked: AbstractSet[tuple[str, str]]) -> Iterator[str]:
    return (c for c in members if {pair_of(a, c), pair_of(b, c)} <= linked)


def _different(identifiers: Mapping[str, str]) -> int:
    """Return how many identifiers there are, those that are a typing error apart from an earlier one not counted."""
    distinct: list[str] = []
    for _, variants in sorted(identifiers.items()):
        if not any(near(variants, other) for other in distinct):
            distinct.append(variants)
    return len(distinct)


def _join(one: _Group, other: _Group, edge: Edge) -> None:
    one.members += other.members
    one.tree += [*other.tree, edge]
    one.emails |= other.emails
    one.phones |= other.phones
    for type_, values in other.unique.items():
        one.unique.setdefault(type_, {}).update(values)
