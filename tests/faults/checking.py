"""The checker: recomputes every invariant from the upstreams' own record and from the topics, after the fact.

Nothing of the product takes part but its wire format and, for the clusters, the rules and weights of comparing (the
plain batch run of `tests.flow.dedupe_batch`).
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from aiokafka import TopicPartition

from handlers.dedupe import DedupeSettings
from handlers.dedupe.profile import Refiner, extract
from tests.faults.reading import Log, Read
from tests.faults.upstreams import Upstream, World, facts_of_customer
from tests.flow.dedupe_batch import batch
from worker.privacy import Hasher
from worker.topics import Topics

# What may be wrong, in the words of the report.
LOST: Final = "lost"
TWICE: Final = "twice"
ORDER: Final = "out of order"
GAP: Final = "gaps"
FALSE_DELETE: Final = "false deletes"
WRONG: Final = "wrong content"
LATEST: Final = "latest differs"
FENCED: Final = "fenced owners that published"
READERS: Final = "readers differ"
CLUSTERS: Final = "clusters differ"
DEAD: Final = "dead letters"
DELETES: Final = "deletions wrong"
ENVELOPE: Final = "headers or changed fields wrong"
LINEAGE: Final = "cluster ids without a trace"
TABLE: Final = "deletions other than receipts"
OPEN: Final = "transactions left open"
OFFSETS: Final = "group offsets other than positions"
STORES: Final = "local stores other than changelogs"
KINDS: Final = (
    *(LOST, TWICE, ORDER, GAP, FALSE_DELETE, WRONG, LATEST, FENCED, READERS, CLUSTERS, DEAD, DELETES),
    *(ENVELOPE, LINEAGE, TABLE, OPEN, OFFSETS, STORES),
)


@dataclass
class Verdict:
    """What is wrong, by kind, and what was looked at."""

    wrong: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    events: int = 0
    customers: int = 0
    clusters: int = 0
    receipts: int = 0
    deletes: int = 0
    stores: int = 0
    """Local stores that were held against their changelogs."""

    def say(self, kind: str, text: str) -> None:
        """Note something wrong."""
        self.wrong[kind].append(text)

    @property
    def right(self) -> bool:
        """Return whether nothing is wrong."""
        return not any(self.wrong.values())

    def counts(self) -> Counter[str]:
        """Return how much is wrong of each kind."""
        return Counter({kind: len(self.wrong[kind]) for kind in KINDS})


def of(log: Log, topic: str) -> list[Read]:
    """Return the records of a topic, each partition in its order."""
    return [record for where, records in log.items() if where.topic == topic for record in records]


def table(records: Iterable[Read]) -> dict[str, Any]:
    """Return the newest value by key, without deleted ones."""
    newest = {record.key: record.value for record in records}
    return {key: orjson.loads(value) for key, value in newest.items() if value is not None}


def sequence(record: Read) -> int:
    """Return the customer's version in a record."""
    return int(record.headers["ce_sequence"])


def histories(records: Iterable[Read]) -> dict[str, list[Read]]:
    """Return the events of each customer."""
    found: defaultdict[str, list[Read]] = defaultdict(list)
    for record in records:
        found[record.key].append(record)
    return found


def check_sequences(verdict: Verdict, events: Mapping[str, list[Read]]) -> None:
    """Invariant 2: each version once, in rising order, without a gap."""
    for key, records in events.items():
        seen: set[int] = set()
        last = 0
        for record in records:
            number = sequence(record)
            if number in seen:
                verdict.say(TWICE, f"{key}: {number} again at offset {record.offset}")
            elif number < last:
                verdict.say(ORDER, f"{key}: {number} after {last}")
            elif number > last + 1:
                verdict.say(GAP, f"{key}: {number} after {last}")
            seen.add(number)
            last = max(last, number)


def check_content(verdict: Verdict, upstream: Upstream, events: Mapping[str, list[Read]]) -> None:
    """Invariants 1 and 4: each event shows a version that was there, later than the last one; the newest is not missing."""
    for customer, writes in upstream.writes.items():
        key, at = f"{upstream.name}/{customer}", -1
        for record in events.get(key, []):
            data = orjson.loads(record.value or b"{}")
            shown = data["customer"] and facts_of_customer(upstream.sim.kind, data["customer"])
            found = next((place for place in range(at + 1, len(writes)) if writes[place].facts == shown), None)
            if found is None:
                older = shown in {write.facts for write in writes[: at + 1]}
                kind = FALSE_DELETE if shown is None else ORDER if older else WRONG
                verdict.say(kind, f"{key}: version {sequence(record)} shows no later write; {shown}")
            else:
                at = found
        last = writes[-1].facts
        if at < 0 and last is None:
            continue  # it came and went between two polls
        if at != len(writes) - 1 and (at < 0 or writes[at].facts != last):
            verdict.say(LOST, f"{key}: write {len(writes)} ({'a deletion' if last is None else last}), shown: {at + 1}")
    strangers = {key for key in events if key.startswith(f"{upstream.name}/")} - {
        f"{upstream.name}/{customer}" for customer in upstream.writes
    }
    for key in strangers:
        verdict.say(WRONG, f"{key} never was")


def check_latest(verdict: Verdict, events: Mapping[str, list[Read]], latest: Mapping[str, list[Read]]) -> None:
    """Invariant 3: `latest` is what the events, replayed, give, version by version."""
    for key in events.keys() | latest.keys():
        wanted = [(sequence(record), orjson.loads(record.value or b"{}")["customer"]) for record in events.get(key, [])]
        found = [(sequence(record), orjson.loads(record.value or b"null")) for record in latest.get(key, [])]
        if wanted != found:
            numbers = [number for number, _ in wanted], [number for number, _ in found]
            verdict.say(LATEST, f"{key}: {numbers[0][-3:]} as events, {numbers[1][-3:]} in latest")


def check_positions(verdict: Verdict, log: Log, topics: Topics) -> None:
    """Invariant 5: no position in a state ever goes back, as it would by the word of an owner from before."""
    for where, records in log.items():
        if not where.topic.startswith(f"{topics.internal}.state."):
            continue
        last: dict[str, int] = {}
        for record in records:
            if record.key.startswith("\x00p/") and record.value is not None:
                if int(record.value) < last.get(record.key, 0):
                    verdict.say(
                        FENCED, f"{where.topic}/{where.partition}: {record.key[1:]} back from {last[record.key]}"
                    )
                last[record.key] = int(record.value)
            elif record.key.startswith("s/") and record.value is not None:
                scans = sum(orjson.loads(record.value)["scans"].values())
                if scans < last.get(record.key, 0):
                    verdict.say(FENCED, f"{where.topic}/{where.partition}: the scans of {record.key} go back")
                last[record.key] = scans


def check_readers(verdict: Verdict, along: Mapping[TopicPartition, list[tuple[int, bytes]]], log: Log) -> None:
    """Invariant 2, for whoever reads along: it has seen the very records that are there in the end."""
    for where, records in log.items():
        seen = along.get(where)
        if seen is not None and seen != [(record.offset, record.digest) for record in records]:
            verdict.say(
                READERS, f"{where.topic}/{where.partition}: {len(seen)} records along, {len(records)} at the end"
            )


def check_clusters(verdict: Verdict, latest: Mapping[str, Any], clusters: Mapping[str, Any], pepper: str) -> None:
    """Invariant 6: the clusters are those that a plain batch run finds among the live customers."""
    hasher = Hasher(pepper.encode())
    wanted = {}
    for names in _apart(latest, hasher):
        found = batch({name: latest[name] for name in names}, DedupeSettings(), hasher).clusters
        wanted |= {name: (identity, winner) for members, (identity, winner) in found.items() for name in members}
        verdict.clusters += len(found)
    shown = {name: (membership["cluster"], membership["winner"]) for name, membership in clusters.items()}
    for name in wanted.keys() | shown.keys():
        if wanted.get(name) != shown.get(name):
            verdict.say(CLUSTERS, f"{name}: {shown.get(name)}, a batch run finds {wanted.get(name)}")


def _apart(latest: Mapping[str, Any], hasher: Hasher) -> Iterable[list[str]]:
    """Return the customers in groups that share no match key, and so have nothing to do with each other.

    The batch run compares every pair: of groups it is asked one by one.
    """
    refiner, leader = Refiner(DedupeSettings(), hasher), dict[object, object]()

    def top(one: object) -> object:
        while leader.setdefault(one, one) != one:
            one = leader[one]
        return one

    for name, customer in latest.items():
        for key in refiner.refine(extract(customer)).keys:
            leader[top(key)] = top(name)
    groups: defaultdict[object, list[str]] = defaultdict(list)
    for name in latest:
        groups[top(name)].append(name)
    return groups.values()


def check_stream(verdict: Verdict, world: World, log: Log, topics: Topics) -> None:
    """Check everything that is about events, `latest` and the states."""
    events, latest = histories(of(log, topics.events)), histories(of(log, topics.latest))
    verdict.events = sum(map(len, events.values()))
    verdict.customers = len(table(of(log, topics.latest)))
    check_sequences(verdict, events)
    for upstream in world.upstreams.values():
        check_content(verdict, upstream, events)
    check_latest(verdict, events, latest)
    check_positions(verdict, log, topics)
    for record in of(log, topics.deadletters):
        # What an upstream serves spoiled is set aside, and taken in once it is whole: see `check_content`.
        if record.headers.get("rollcall-dead-stage") != "poll":
            verdict.say(DEAD, f"{record.key}: {record.headers}")
