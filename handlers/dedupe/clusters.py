"""The third stage, one task a partition of `links`: which customers are one person, and what has become of that.

A customer's change waits until all buckets concerned have acknowledged it, so the links of the old version count until
all of the new one are there: nothing falls apart and comes together again in between, and a deletion is told with the
evidence on the last live version, whole. What does not arrive within `patience` of the change is done without, and
marked as in doubt. Everything that follows from a record (memberships, identity events, departures) is in its one
transaction.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import orjson

from handlers.dedupe.events import Cause, Departure, Evidence
from handlers.dedupe.publish import Publisher
from handlers.dedupe.resolve import Resolver, Rules
from handlers.dedupe.scoring import VALUE_TAGS
from handlers.dedupe.settings import KEY_KINDS
from handlers.dedupe.store import Change, Node, Pair, Store, Variant
from handlers.dedupe.wire import Link, NodeMessage, Unlink, read_ack_key, read_link_key, sequence_of
from worker.events import header
from worker.handling import Call, Dead, Done, Input, Outcome, Record, Reply, Skip, Tx
from worker.topics import Topics

_HORIZON: Final = b"h"
_NEVER: Final = -1


class Clusters:
    """See the module."""

    stage = "clusters"
    version = 3

    def __init__(self, topics: Topics, rules: Rules) -> None:
        """`topics` names where memberships, identity events and departures go."""
        self.inputs = (Input(topics.links),)
        self._topics = topics
        self._patience = int(rules.settings.patience * 1000)
        self._horizon = 0
        self._rules = rules
        self._work: _Work | None = None

    def open(self, tx: Tx, partition: int, ends: Mapping[str, int], now: int) -> int | None:  # ruff: ignore[unused-method-argument]
        """Note up to where a task without state reads the past: what it finds there is marked as rebuilt."""
        known = tx.get(_HORIZON)
        if known is None:
            known = b"%d" % ends[self._topics.links]
            tx.put(_HORIZON, known)
        self._horizon = int(known)
        return now

    def on_record(self, tx: Tx, record: Record, now: int) -> Outcome:
        """Take a customer, a link or an acknowledgement."""
        try:
            said = _read(record)
        except (ValueError, TypeError):
            return Dead("not a message of the stages before")
        work = self._working(tx, now)
        work.follow(record, rebuilt=record.offset < self._horizon)
        match said:
            case _Node(name, message):
                outcome = work.node(name, message)
            case _Seen(name, partition, version):
                outcome = work.acknowledge(partition, name, version)
            case _Said(key, pair, Link() as link):
                outcome = work.link(key, pair, link)
            case _Said(key, pair, Unlink() as unlink):
                outcome = work.unlink(key, pair, unlink)
        return outcome

    def on_reply(self, tx: Tx, call: Call, reply: Reply, now: int) -> None:
        """No calls are made here."""

    def on_timer(self, tx: Tx, now: int) -> int | None:
        """Do without the evidence on changes that have waited for too long."""
        late = [key[1:] for key, since in tx.scan(b"w") if int(since) + self._patience <= now]
        for name in late:
            self._working(tx, now).give_up(name.decode(), now - self._patience)
        return now + max(1000, self._patience // 10)

    def _working(self, tx: Tx, now: int) -> "_Work":
        """Return the transaction's work."""
        work = self._work
        if work is None or work.tx is not tx:
            work = self._work = _Work(tx, self._topics, self._rules, now)
            tx.at_end(self._finish)
        return work

    def _finish(self) -> None:
        work, self._work = self._work, None
        if work is not None:
            work.finish()


class _Node(NamedTuple):
    """A customer's new version."""

    name: str
    message: NodeMessage


class _Seen(NamedTuple):
    """The buckets of a partition have seen a version."""

    name: str
    partition: str
    version: int


class _Said(NamedTuple):
    """A bucket has said something on a pair."""

    key: str
    pair: tuple[str, str]
    what: Link | Unlink


def _read(record: Record) -> _Node | _Seen | _Said:
    """Read a record of `links`; raises ValueError or TypeError for any other."""
    key = record.key or b""
    match key[:1]:
        case b"n":
            return _Node(key[1:].decode(), NodeMessage.read(record.value, record.headers))
        case b"a":
            version = int(header(record.headers, "v") or "missing")
            partition, customer = read_ack_key(key)
            return _Seen(customer.decode(), str(partition), version)
        case b"l":
            match_key, a, b = read_link_key(key)
            what = Unlink.read(record.headers) if record.value is None else Link.decode(record.value)
            return _Said(_name(match_key), (a.decode(), b.decode()), what)
        case _:
            raise ValueError("not a message of the stages before")


class _Weighed:
    """A pair with other support than at the last `settle`: how it stood then, and whether a value in common changed."""

    __slots__ = ("pair", "revalued", "stood", "variant")

    def __init__(self, pair: Pair, variant: Variant, stood: float) -> None:
        self.pair = pair
        self.variant = variant
        self.stood = stood
        self.revalued = False


class _Work:
    """What the records of one transaction set off.

    A pair has the support of several buckets, and a person has several customers: what follows from links is worked
    out once, at the end, or before a customer changes or goes; of the past, before the next record.
    """

    def __init__(self, tx: Tx, topics: Topics, rules: Rules, now: int) -> None:
        self.tx = tx
        self._departures = topics.departures
        self._rules = rules
        self._now = now
        self._store = Store(tx)
        self._publisher = Publisher(tx, topics, now)
        self._resolver = Resolver(rules, self._store, self._publisher)
        self._weighed: dict[tuple[str, str], _Weighed] = {}

    def follow(self, record: Record, *, rebuilt: bool) -> None:
        """Go on with a record; of the past, what followed from the one before is worked out first.

        Whatever was published once, and is no longer so, is come by again in that way, and taken back.
        """
        if rebuilt or self._publisher.rebuilt:
            self.settle()
        self._publisher.follow(record, rebuilt=rebuilt)
        self._resolver = Resolver(self._rules, self._store, self._publisher)

    def finish(self) -> None:
        """Write what has changed."""
        self.settle()
        self._store.flush()

    def settle(self) -> None:
        """See to what follows from the pairs that were weighed, since they are about to be looked at."""
        if self._weighed:
            for known in list(self._weighed.values()):
                self._see_to(known)
            self._resolver = Resolver(self._rules, self._store, self._publisher)

    def _see_to(self, known: _Weighed) -> None:
        pair, resolver = known.pair, self._resolver
        if self._weighed.get((pair.a, pair.b)) is known:
            del self._weighed[pair.a, pair.b]
            if not resolver.resolved.issuperset((pair.a, pair.b)):
                resolver.weighed(pair, known.variant, known.stood, revalued=known.revalued)

    def _weigh(self, pair: Pair, variant: Variant, *, revalued: bool) -> None:
        """Note that the support of a pair is about to change."""
        if self._store.current(pair) is not variant:
            return
        known = self._weighed.get((pair.a, pair.b))
        if known is None:
            known = self._weighed[pair.a, pair.b] = _Weighed(pair, variant, variant.standing(self._rules.judge))
            self.tx.at_end(partial(self._see_to, known))
        known.revalued = known.revalued or revalued

    def node(self, name: str, message: NodeMessage) -> Outcome:
        """Take a customer's new version, or its deletion."""
        node = self._store.node(name)
        if message.version <= node.seen:
            return Skip("seen")
        node.seen = message.version
        self._store.change(node)
        last = node.queue[-1] if node.queue else Change(0, node.identity, 0, node.data)
        if message.data is not None and last.data is not None and message.identity == last.identity:
            self._redescribe(node, message.data)
        else:
            change = Change(message.version, message.identity, message.expected, message.data, since=self._now)
            waited = bool(node.queue)
            if change.data is None and not waited:
                self._recall(node, change)
            node.queue.append(change)
            self._advance(node, waited=waited)
        return Done()

    def acknowledge(self, partition: str, name: str, version: int) -> Outcome:
        """Take word that the buckets of a partition have seen a version of a customer."""
        node = self._store.node(name)
        change = next((change for change in node.queue if change.version == version), None)
        if change is None or partition in change.acks:
            return Skip("seen")
        change.acks.append(partition)
        self._store.change(node)
        self._advance(node)
        return Done()

    def link(self, key: str, pair: tuple[str, str], said: Link) -> Outcome:
        """Take a bucket's support for a pair."""
        if self._stale(pair, said.versions):
            return Skip("seen")
        known = self._store.pair(*pair)
        variant = next((v for v in known.variants if v.versions == said.versions), None)
        if variant is None:
            variant = Variant(said.versions, said.flags, said.agreed, list(said.fields), {})
            known.variants.append(variant)
        before = variant.keys.get(key)
        if before is not None and before[0] >= said.stamp:
            return Skip("seen")
        revalued = ord(key[0]) in VALUE_TAGS
        if before is None and not revalued and variant.tags:
            # One more bucket that adds nothing to a pair that is supported already.
            variant.keys[key] = [said.stamp, 0.0, True]
            self._refresh(pair)
            self._store.change_pair(known)
            return Done()
        self._weigh(known, variant, revalued=revalued)
        variant.flags, variant.agreed, variant.fields = said.flags, said.agreed, list(said.fields)
        variant.keys[key] = [said.stamp, said.weight, True]
        self._refresh(pair)
        self._store.change_pair(known)
        return Done()

    def unlink(self, key: str, pair: tuple[str, str], said: Unlink) -> Outcome:
        """Take back a bucket's support, unless a new version replaces it: that is told by the customer itself."""
        if said.gone or self._stale(pair, said.versions):
            return Skip("seen")
        known = self._store.pair(*pair)
        variant = next((v for v in known.variants if v.versions == said.versions), None)
        if variant is None or variant.keys.get(key, [said.stamp])[0] >= said.stamp:
            return Skip("seen")
        self._weigh(known, variant, revalued=ord(key[0]) in VALUE_TAGS)
        variant.keys[key] = [said.stamp, 0.0, False]
        self._store.change_pair(known)
        return Done()

    def give_up(self, name: str, until: int) -> None:
        """Do the changes of a customer that have waited for too long: they came by `until` (ms since the epoch)."""
        node = self._store.node(name)
        if self._publisher.rebuilt:
            self.settle()
        self._publisher.give_up(name, node.queue[0].version if node.queue else node.seen)
        self._resolver = Resolver(self._rules, self._store, self._publisher)
        self._advance(node, until)

    def _refresh(self, pair: tuple[str, str]) -> None:
        """Note on a deletion that waits that there is evidence on its customer which was not there when it came."""
        for name in pair:
            node = self._store.node(name)
            if (leaving := node.leaving) is not None:
                leaving.fresh = True
                self._store.change(node)

    def _stale(self, pair: tuple[str, str], versions: tuple[int, int]) -> bool:
        for name, version in zip(pair, versions, strict=True):
            node = self._store.node(name)
            if version < node.identity or (node.data is None and not node.queue and version <= node.seen):
                return True
        return False

    def _redescribe(self, node: Node, data: dict[str, Any]) -> None:
        if node.queue:
            node.queue[-1].data = data
            return
        node.data = self._store.describe(node, data)
        self._resolver.resolve([node.name])

    def _advance(self, node: Node, until: int = _NEVER, *, waited: bool = True) -> None:
        """Do the changes of a customer that need not wait, or came by `until`, in order.

        `waited`: whether it is noted that there are some.
        """
        while node.queue:
            head, following = node.queue[0], node.queue[1] if len(node.queue) > 1 else None
            # Buckets work in order: who has seen the next version of a live customer has seen this one.
            overtaken = head.data is not None and following is not None and following.complete
            in_doubt = not (head.complete or overtaken)
            if in_doubt and head.since > until:
                break
            del node.queue[0]
            if head.data is None:
                self._depart(node, head, in_doubt=in_doubt)
            else:
                self._renew(node, head, in_doubt=in_doubt)
        self._store.change(node)
        waits = b"w" + node.name.encode()
        if not node.queue:
            if waited:
                self.tx.delete(waits)
        elif self.tx.get(waits) != (since := b"%d" % node.queue[0].since):
            self.tx.put(waits, since)

    def _renew(self, node: Node, change: Change, *, in_doubt: bool) -> None:
        alone = node.cluster is None and not node.near and not node.tangled
        if alone and not node.queue and not self._publisher.rebuilt:
            node.identity, node.data = change.identity, self._store.describe(node, change.data or {})
            return
        self.settle()
        before = self._resolver.published(node)
        evidence = self._evidence(node, before)
        cluster = node.cluster
        if (leaving := node.leaving) is not None and in_doubt:
            self._recall(node, leaving, besides=True)
        node.identity, node.data = change.identity, self._store.describe(node, change.data or {})
        concerned = self._resolver.outdate(node, change.identity)
        self._resolver.resolve([node.name, *before, *concerned])
        left = [name for name in before if name not in self._resolver.published(node)]
        if cluster is not None and left:
            was = (cluster, self._resolver.winner_was(cluster))
            self._tell(node, "changed", change.version, was, left, evidence, ["late"] if in_doubt else [])
        if leaving is not None:
            # What falls apart for want of evidence was together as far as anybody knows: it is told, and held.
            self._recall(node, leaving, besides=in_doubt)

    def _recall(self, node: Node, leaving: Change, *, besides: bool = False) -> None:
        """Note on a waiting deletion with whom its customer is published; `besides`: add to who is noted already."""
        self.settle()
        together = self._resolver.published(node)
        leaving.together = sorted({*leaving.together, *together}) if besides else together
        if node.cluster is not None:
            leaving.cluster, leaving.winner = node.cluster, self._resolver.winner_was(node.cluster)
        elif not besides:
            leaving.cluster, leaving.winner = "", ""

    def _depart(self, node: Node, change: Change, *, in_doubt: bool) -> None:
        self.settle()
        before = self._resolver.published(node)
        if change.fresh or not change.cluster:
            self._recall(node, change, besides=True)
        evidence = self._evidence(node, change.together)
        unverified = node.data is not None and change.identity != node.identity
        one_to_one = self._resolver.links.any_by_exclusion({node.name, *before, *change.together})
        node.identity, node.data = 0, None
        self._store.undescribe(node)
        concerned = self._resolver.outdate(node, change.version + 1)
        self._resolver.resolve([node.name, *before, *concerned])
        remaining = [name for name in change.together if self._store.node(name).data is not None]
        moved = not set(remaining) <= set(before)
        if remaining:
            reasons = {"late": in_doubt, "unverified": unverified, "moved": moved, "one_to_one": one_to_one}
            doubt = [reason for reason, holds in reasons.items() if holds]
            was = (change.cluster, change.winner)
            self._tell(node, "deleted", change.version, was, remaining, evidence, doubt)

    def _evidence(self, node: Node, others: list[str]) -> list[Evidence]:
        found, links = [], self._resolver.links
        for other in others:
            pair = self._store.pair(node.name, other)
            variant = self._store.current(pair)
            if variant is not None and (links.standing(variant) > float("-inf") or links.by_exclusion(pair)):
                found.append(_evidence(other, variant))
        return found

    def _tell(
        self,
        node: Node,
        cause: Cause,
        version: int,
        was: Sequence[str],
        left: list[str],
        evidence: list[Evidence],
        doubt: list[str],
    ) -> None:
        departure: Departure = {
            "customer": node.name,
            "cause": cause,
            "sequence": sequence_of(version),
            "cluster": was[0],
            "winner": was[1],
            "remaining": left,
            "evidence": [item for item in evidence if item["customer"] in left],
            "memberships": {name: self._store.node(name).digest for name in left},
            "doubt": [*doubt, *(["rebuilt"] if self._publisher.rebuilt else [])],
        }
        self.tx.send(self._departures, node.name.encode(), orjson.dumps(departure))


def _evidence(customer: str, variant: Variant) -> Evidence:
    return {
        "customer": customer,
        "score": variant.score,
        "keys": [KEY_KINDS[tag] for tag in variant.tags],
        "fields": variant.weights(),
        "exact_id": "N" in variant.tags,
        "generic": variant.generic,
        "lifted": variant.lifted,
        "same_source": variant.same_source,
    }


def _name(key: bytes) -> str:
    return chr(key[0]) + key[1:].hex()
