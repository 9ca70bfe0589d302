"""What the clusters stage keeps: customers with what is waiting on them, links with who supports them, clusters.

`Store` is the view of one transaction: it reads each thing once, and `flush` writes back what has changed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from itertools import starmap
from typing import Any, Final

import orjson

from handlers.dedupe import wire
from handlers.dedupe.comparand import Profile, parse
from handlers.dedupe.graph import pair_of
from handlers.dedupe.scoring import FIELDS, VALUE_TAGS, Judge, best_of
from worker.handling import State

# Two long keys of customers do not fit into one key of the state: then their hash stands for them.
_LONGEST: Final = 400

_parsed = lru_cache(8_192)(parse)  # a component is worked out again and again


@dataclass(slots=True)
class Change:
    """A change of a customer that waits for the evidence on it, since `since`: `data` is None for a deletion.

    Of a deletion, `together` are those with whom the customer was published when it came (`cluster` and `winner` as
    they were then), and `fresh` says whether there has been evidence on the customer since.
    """

    version: int
    identity: int
    expected: int
    data: dict[str, Any] | None
    acks: list[str] = field(default_factory=list)
    together: list[str] = field(default_factory=list)
    cluster: str = ""
    winner: str = ""
    fresh: bool = False
    since: int = 0  # ms since the epoch

    @property
    def complete(self) -> bool:
        """Return whether all buckets have seen it."""
        return len(self.acks) >= self.expected


@dataclass(slots=True)
class Node:
    """A customer. `identity` is the version whose links count, 0 if it is gone (or not known yet)."""

    name: str
    identity: int = 0
    seen: int = 0
    data: dict[str, Any] | None = None
    queue: list[Change] = field(default_factory=list)
    near: set[str] = field(default_factory=set)
    cluster: str | None = None
    digest: str = ""
    tangled: bool = False

    @property
    def leaving(self) -> Change | None:
        """Return the first deletion that waits."""
        return next((change for change in self.queue if change.data is None), None)

    def encode(self) -> bytes:
        """Return it as state."""
        queue = [
            [c.version, c.identity, c.expected, c.data, c.acks, c.together, c.cluster, c.winner, c.fresh, c.since]
            for c in self.queue
        ]
        rest = [self.cluster, self.digest, self.tangled]
        return orjson.dumps([self.identity, self.seen, self.data, queue, sorted(self.near), *rest])

    @classmethod
    def decode(cls, name: str, value: bytes) -> "Node":
        """Read the state."""
        identity, seen, data, queue, near, cluster, digest, tangled = orjson.loads(value)
        return cls(name, identity, seen, data, list(starmap(Change, queue)), set(near), cluster, digest, tangled)


@dataclass(slots=True)
class Variant:
    """A pair as it was compared in two versions; `keys` has, by match key, [stamp, weight, whether it supports]."""

    versions: tuple[int, int]
    flags: int
    agreed: str
    fields: list[float]
    keys: dict[str, list[Any]]

    @property
    def tags(self) -> str:
        """Return the tags of the match keys that support it."""
        return "".join(sorted({key[0] for key, said in self.keys.items() if said[2]}))

    def best(self) -> dict[str, float]:
        """Return the most that each kind of value in common adds, as far as a small bucket supports it."""
        return best_of(
            (key[0], weight)
            for key, (_, weight, supports) in self.keys.items()
            if supports and ord(key[0]) in VALUE_TAGS
        )

    @property
    def values(self) -> str:
        """Return the tags of the kinds of values in common that a small bucket supports."""
        return "".join(tag for tag in self.tags if ord(tag) in VALUE_TAGS)

    @property
    def score(self) -> float:
        """Return the score as it adds up."""
        return sum(self.fields, 0.0) + sum(self.best().values(), 0.0)

    @property
    def possible(self) -> bool:
        """Return whether something supports the pair, and nothing keeps it apart for good."""
        return not self.flags & wire.BLOCKED and any(said[2] for said in self.keys.values())

    def standing(self, judge: Judge) -> float:
        """Return the score that decides, minus infinity where a rule keeps the pair apart or nothing supports it."""
        if not self.possible:
            return float("-inf")
        return judge.standing(self.fields, self.flags >> wire.NEED_SHIFT, self.best())

    def linked_but_for_doubt(self, judge: Judge) -> bool:
        """Return whether its score alone would link the pair."""
        return self.possible and judge.linked_but_for_doubt(self.fields, self.best())

    @property
    def clashes(self) -> bool:
        """Return whether two customers of one source and kind have an e-mail address in common."""
        return bool(self.flags & wire.CLASH) and "E" in self.tags

    @property
    def same_source(self) -> bool:
        """Return whether both are of one source."""
        return bool(self.flags & wire.SAME_SOURCE)

    @property
    def lifted(self) -> bool:
        """Return whether something speaks against the pair that the rest outweighs."""
        return bool(self.flags & wire.LIFTED)

    @property
    def generic(self) -> bool:
        """Return whether they have a value in common that too many customers share."""
        tags = [key[0] for key, said in self.keys.items() if said[2]]
        return any(self.agreed.count(tag) > tags.count(tag) for tag in set(self.agreed))

    def weights(self) -> dict[str, float]:
        """Return what each field adds, those that add nothing left out."""
        return {name: weight for name, weight in zip(FIELDS, self.fields, strict=True) if weight}


@dataclass(slots=True)
class Pair:
    """Two customers that met; `a` < `b`. `review` is [reason, score] while it is reported."""

    a: str
    b: str
    variants: list[Variant] = field(default_factory=list)
    review: list[Any] | None = None

    def other(self, name: str) -> str:
        """Return the other one."""
        return self.b if name == self.a else self.a

    def encode(self) -> bytes:
        """Return it as state."""
        variants = [[*v.versions, v.flags, v.agreed, v.fields, v.keys] for v in self.variants]
        return orjson.dumps([variants, self.review])

    @classmethod
    def decode(cls, a: str, b: str, value: bytes) -> "Pair":
        """Read the state."""
        variants, review = orjson.loads(value)
        return cls(a, b, [Variant((v[0], v[1]), *v[2:]) for v in variants], review)


@dataclass(slots=True)
class Cluster:
    """A published cluster."""

    members: list[str]
    winner: str


class Store:
    """The state during one transaction."""

    def __init__(self, state: State) -> None:
        """Read from and write to `state`."""
        self._state = state
        self._nodes: dict[str, Node] = {}
        self._pairs: dict[tuple[str, str], Pair] = {}
        self._clusters: dict[str, Cluster] = {}
        self._dirty_nodes: set[str] = set()
        self._dirty_pairs: set[tuple[str, str]] = set()

    def node(self, name: str) -> Node:
        """Return a customer, an unknown one as gone."""
        found = self._nodes.get(name)
        if found is None:
            value = self._state.get(b"n" + name.encode())
            found = self._nodes[name] = Node(name) if value is None else Node.decode(name, value)
        return found

    def change(self, node: Node) -> None:
        """Note that a customer has to be written."""
        self._dirty_nodes.add(node.name)

    def pair(self, one: str, other: str) -> Pair:
        """Return a pair, an unknown one as empty."""
        a, b = pair_of(one, other)
        found = self._pairs.get((a, b))
        if found is None:
            value = self._state.get(_pair_key(a, b))
            found = self._pairs[a, b] = Pair(a, b) if value is None else Pair.decode(a, b, value)
        return found

    def change_pair(self, pair: Pair) -> None:
        """Note that a pair has to be written, or forgotten if nothing is left of it."""
        self._dirty_pairs.add((pair.a, pair.b))
        known = bool(pair.variants)
        for name, other in ((pair.a, pair.b), (pair.b, pair.a)):
            node = self.node(name)
            if (other in node.near) != known:
                (node.near.add if known else node.near.discard)(other)
                self.change(node)

    def pairs(self, node: Node) -> Iterator[Pair]:
        """Yield the pairs of a customer."""
        for other in sorted(node.near):
            yield self.pair(node.name, other)

    def current(self, pair: Pair) -> Variant | None:
        """Return what counts of a pair: the comparison of the two versions that count now."""
        versions = (self.node(pair.a).identity, self.node(pair.b).identity)
        if 0 in versions:
            return None
        return next((variant for variant in pair.variants if variant.versions == versions), None)

    def describe(self, node: Node, data: dict[str, Any]) -> dict[str, Any]:
        """Keep the profile of a customer aside, where it is seldom looked at; return the rest of `data`."""
        kept = {name: value for name, value in data.items() if name not in {"profile", "keys"}}
        self._state.put(b"i" + node.name.encode(), orjson.dumps([data["keys"], data["profile"]]))
        return kept

    def undescribe(self, node: Node) -> None:
        """Forget the profile of a customer."""
        self._state.delete(b"i" + node.name.encode())

    def profile(self, name: str) -> Profile:
        """Return the profile of a live customer."""
        keys, profile = orjson.loads(self._state.get(b"i" + name.encode()) or b"[]")
        return _parsed(bytes.fromhex(keys), profile.encode())

    def cluster(self, cluster: str) -> Cluster:
        """Return a published cluster."""
        found = self._clusters.get(cluster)
        if found is None:
            value = self._state.get(b"c" + cluster.encode())
            found = self._clusters[cluster] = Cluster([], "") if value is None else Cluster(*orjson.loads(value))
        return found

    def put_cluster(self, cluster: str, known: Cluster | None) -> None:
        """Set or forget a published cluster."""
        self._clusters[cluster] = known or Cluster([], "")
        if known is None:
            self._state.delete(b"c" + cluster.encode())
        else:
            self._state.put(b"c" + cluster.encode(), orjson.dumps([known.members, known.winner]))

    def flush(self) -> None:
        """Write what has changed."""
        for name in self._dirty_nodes:
            self._state.put(b"n" + name.encode(), self._nodes[name].encode())
        for a, b in self._dirty_pairs:
            pair = self._pairs[a, b]
            if pair.variants:
                self._state.put(_pair_key(a, b), pair.encode())
            else:
                self._state.delete(_pair_key(a, b))
        self._dirty_nodes.clear()
        self._dirty_pairs.clear()


def _pair_key(a: str, b: str) -> bytes:
    one, other = a.encode(), b.encode()
    key = b"e%d:" % len(one) + one + other
    return key if len(key) <= _LONGEST else b"f" + blake2b(key, digest_size=32).digest()
