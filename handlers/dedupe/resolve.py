"""From links to clusters: what belongs together around the customers that a change has touched.

The affected component is worked out from scratch, with everybody who was published together with somebody in it, so
the outcome depends on the links that count now and on nothing that was there before.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache

from handlers.dedupe.events import Proof
from handlers.dedupe.graph import Edge, Partition, cluster_id, founder_id, partition, path, source_of, winner
from handlers.dedupe.lineage import Shape, changes
from handlers.dedupe.links import Links
from handlers.dedupe.publish import Publisher
from handlers.dedupe.scoring import Judge, Scorer
from handlers.dedupe.settings import KEY_KINDS, DedupeSettings
from handlers.dedupe.store import Cluster, Node, Pair, Store, Variant


class Rules:
    """The settings, with what is made of them once."""

    def __init__(self, settings: DedupeSettings) -> None:
        """Make a judge of `settings`, and what compares and remembers it: components are worked out again and again."""
        self.settings = settings
        self.compare = lru_cache(8_192)(Scorer(settings).compare)
        self.judge = Judge(settings)


class Resolver:
    """Works on one transaction's store and publishes what comes of it."""

    def __init__(self, rules: Rules, store: Store, publisher: Publisher) -> None:
        """Work by `rules`."""
        self._rules = rules
        self._settings = rules.settings
        self._store = store
        self.links = Links(rules.settings, rules.judge, store)
        self._publisher = publisher
        self._winners: dict[str, str] = {}
        self.resolved: set[str] = set()

    def published(self, node: Node) -> list[str]:
        """Return with whom a customer is published."""
        if node.cluster is None:
            return []
        return [name for name in self._store.cluster(node.cluster).members if name != node.name]

    def winner_was(self, cluster: str) -> str:
        """Return who stood for a cluster before this transaction."""
        return self._winners.get(cluster) or self._store.cluster(cluster).winner

    def outdate(self, node: Node, least: int) -> list[str]:
        """Forget the comparisons of a customer's versions before `least`; return whom these concerned."""
        concerned = []
        for pair in list(self._store.pairs(node)):
            at = 0 if pair.a == node.name else 1
            kept = [variant for variant in pair.variants if variant.versions[at] >= least]
            if len(kept) != len(pair.variants):
                pair.variants = kept
                self._review(pair, None)
                self._store.change_pair(pair)
                concerned.append(pair.other(node.name))
        return concerned

    def weighed(self, pair: Pair, variant: Variant, before: float, *, revalued: bool) -> None:
        """See to what follows from a pair's having another support.

        `before` is how it stood until now; `revalued`: the support is that of a value in common, which is published.
        """
        if self._store.current(pair) is not variant:
            return
        link, after = self._settings.link, self.links.standing(variant)
        if self.links.one_to_one(pair):
            self.resolve([pair.a, pair.b])  # others may be each other's only ones now, or no longer
        elif max(before, after) < link or (before == after and not revalued):
            self._judge(pair, {})
        elif min(before, after) >= link and self._by_themselves(pair):
            self._restate(pair, after)
        else:
            self.resolve([pair.a, pair.b])

    def _by_themselves(self, pair: Pair) -> bool:
        """Return whether the two are published as one and have met nobody else: then nothing can become of that."""
        a, b = self._store.node(pair.a), self._store.node(pair.b)
        return a.cluster is not None and a.cluster == b.cluster and len(a.near) == len(b.near) == 1

    def _restate(self, pair: Pair, score: float) -> None:
        """Publish a cluster of two again, whose link has another score or other evidence."""
        cluster = self._store.node(pair.a).cluster or ""
        known = self._store.cluster(cluster)
        shape = Shape(tuple(known.members), known.winner, (Edge(pair.a, pair.b, score),))
        self._memberships({pair.a, pair.b}, {cluster: shape}, {cluster: shape})
        self._judge(pair, {})

    def resolve(self, seeds: Iterable[str]) -> None:
        """Work out the clusters around `seeds` and publish what is different."""
        todo = list(seeds)
        todo += [rival for name in todo for rival in self.links.rivals(name)]
        done: set[str] = set()
        partitions: list[Partition] = []
        for name in todo:
            if name in done:
                continue
            component, tangled = self._component(name)
            done.update(component)
            for member in component:
                node = self._store.node(member)
                todo += self.published(node)
                if node.tangled != tangled:
                    node.tangled = tangled
                    self._store.change(node)
            if not tangled and len(component) > 1:
                partitions.append(self._partition(component))
        self._publish(done, partitions)
        self.resolved |= done

    def _component(self, start: str) -> tuple[list[str], bool]:
        """Return whom links lead to, and whether these are too many: then only those who were not known to be so."""
        limit = self._settings.caps.component
        found = [start]
        known = {start}
        for name in found:
            node = self._store.node(name)
            if len(found) > limit and node.tangled:
                continue
            for pair in self._store.pairs(node):
                other = pair.other(name)
                if other not in known and self.links.strength(pair) >= self._settings.link:
                    known.add(other)
                    found.append(other)
        return found, len(found) > limit

    def _partition(self, component: Sequence[str]) -> Partition:
        nodes = {name: data for name in component if (data := self._store.node(name).data) is not None}
        edges: dict[tuple[str, str], Edge] = {}
        for name in component:
            for pair in self._store.pairs(self._store.node(name)):
                if (strength := self.links.strength(pair)) >= self._settings.link:
                    edges[pair.a, pair.b] = Edge(pair.a, pair.b, strength)
        return partition(nodes, edges.values(), self._settings.caps, self._opposed)

    def _opposed(self, a: str, b: str, between: Iterable[str]) -> int:
        """Return how firmly two customers are held for two people, by their birth dates only if there is no witness.

        A witness is linked to both and has the birth date of one of them: the other one's is an error then.
        """
        profile = self._store.profile
        one, other = profile(a), profile(b)
        compared = self._rules.compare(one, other)
        if compared.veto == "birth_date" and any(profile(name).born in {one.born, other.born} for name in between):
            return 0
        return compared.opposed

    def _publish(self, affected: set[str], partitions: list[Partition]) -> None:
        store = self._store
        old_ids = {node.cluster for name in affected if (node := store.node(name)).cluster is not None}
        old = {known: Shape(tuple((c := store.cluster(known)).members), c.winner) for known in old_ids}
        self._winners.update({known: shape.winner for known, shape in old.items()})
        new = {}
        for found in partitions:
            for members, tree in zip(found.clusters, found.trees, strict=True):
                nodes = {name: data for name in members if (data := store.node(name).data) is not None}
                new[cluster_id(members, nodes)] = Shape(
                    tuple(members), winner(members, nodes, self._settings.priority), tuple(tree)
                )
        self._memberships(affected, old, new)
        gone = [name for name in affected if store.node(name).data is None]
        self._publisher.identity(changes(old, new, gone, rebuilt=self._publisher.rebuilt))
        refused = {(edge.a, edge.b): reason for found in partitions for edge, reason in found.refused}
        for pair in {(p.a, p.b): p for name in sorted(affected) for p in store.pairs(store.node(name))}.values():
            self._judge(pair, refused)

    def _memberships(self, affected: set[str], old: dict[str, Shape], new: dict[str, Shape]) -> None:
        after = {name: cluster for cluster, shape in new.items() for name in shape.members}
        for cluster in old.keys() - new.keys():
            self._store.put_cluster(cluster, None)
        for cluster, now in new.items():
            if cluster not in old or (old[cluster].members, old[cluster].winner) != (now.members, now.winner):
                self._store.put_cluster(cluster, Cluster(list(now.members), now.winner))
        for name in sorted(affected):
            node = self._store.node(name)
            home = after.get(name)
            shape = new[home] if home else None
            steps = [self._proof(edge) for edge in path(shape.tree, name, shape.winner)] if shape else []
            digest = self._publisher.membership(node, home, shape, steps)
            if (node.cluster, node.digest) != (home, digest):
                node.cluster, node.digest = home, digest
                self._store.change(node)

    def _proof(self, edge: Edge) -> Proof:
        pair = self._store.pair(edge.a, edge.b)
        variant = self._store.current(pair)
        if variant is None:
            raise AssertionError("a cluster rests on a link that does not count")
        proof: Proof = {
            "a": edge.a,
            "b": edge.b,
            "score": edge.score,
            "keys": [KEY_KINDS[tag] for tag in variant.values],
            "fields": variant.weights(),
            "exact_id": "N" in variant.values,
            "generic": variant.generic,
        }
        if self.links.by_exclusion(pair):
            proof["one_to_one"] = True
        return proof

    def _judge(self, pair: Pair, refused: dict[tuple[str, str], str]) -> None:
        variant = self._store.current(pair)
        a, b = self._store.node(pair.a), self._store.node(pair.b)
        reason: str | None = None
        if variant is not None:
            together = a.cluster is not None and a.cluster == b.cluster
            if variant.clashes:
                reason = "email_clash"
            elif together:
                reason = None
            elif self.links.strength(pair) < self._settings.link:
                reason = "score" if self.links.standing(variant) >= self._settings.review else None
            elif a.tangled:
                reason = "component"
            else:
                reason = refused.get((pair.a, pair.b)) or (pair.review[0] if pair.review else None)
        score = variant.score if variant is not None else 0.0
        self._review(pair, None if reason is None else [reason, score], variant)

    def _review(self, pair: Pair, wanted: list[object] | None, variant: Variant | None = None) -> None:
        if pair.review == wanted:
            return
        same = variant.same_source if variant is not None else source_of(pair.a) == source_of(pair.b)
        self._publisher.review(founder_id(pair.a), pair, wanted, same_source=same)
        pair.review = wanted
        self._store.change_pair(pair)
