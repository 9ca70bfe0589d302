"""The law: whatever happened in whatever order, what is published is what a plain batch run finds.

Schedules are drawn by Hypothesis: creates, updates, deletes and re-creates of a few customers who share many values,
in between them crashes, lost state, positions set back and stale copies of earlier messages, all of it worked off in a
random interleaving, with rests only now and then.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handlers.dedupe import DedupeSettings, stages
from handlers.dedupe.settings import Caps, Generic
from tests.flow.dedupe_batch import Found, batch
from worker.events import Customer, header
from worker.handling import Dead
from worker.privacy import Hasher
from worker.testkit import Harness, deleted, latest, person
from worker.topics import Topics

TOPICS: Final = Topics()
HASHER: Final = Hasher(b"a pepper for tests")
# Small limits, so that a few customers reach them.
SETTINGS: Final = DedupeSettings(
    generic=Generic(bucket=3),
    caps=Caps(customers=3, emails=2, phones=2, component=5),
    priority=("connect",),
)
CUSTOMERS: Final = [(source, str(number)) for source in ("connect", "drivly") for number in range(4)]
STAGES: Final = ("keys", "pairs", "clusters")
PEOPLE: Final = (
    {"given": "Ada", "family": "Archer", "born": "1980-02-03"},
    {"given": "Adah", "family": "Archer", "born": "1980-02-04"},
    {"given": "Ada", "family": "Archer"},
    {"given": "Brian", "family": "Archer", "born": "1991-07-21"},
)
EMAILS: Final = ((), ("ada@example.com",), ("office@example.com",), ("ada@example.com", "office@example.com"))
PHONES: Final = ((), ("+12025550799",), ("+12025550733",))
ADDRESSES: Final = (None, ("12 Mill Lane", "Springfield", "62701"), ("40 High Street", "Springfield", "62701"))
IDS: Final = (None, None, "1", "2")

numbers = st.integers(0, 11)
operations = st.one_of(
    st.tuples(st.just("put"), st.integers(0, 7), numbers, numbers, numbers, numbers, st.integers(0, 3)),
    st.tuples(st.just("put"), st.integers(0, 7), numbers, numbers, numbers, numbers, st.integers(0, 3)),
    st.tuples(st.just("touch"), st.integers(0, 7), numbers),
    st.tuples(st.just("delete"), st.integers(0, 7)),
    st.tuples(st.just("delete"), st.integers(0, 7)),
    st.tuples(st.just("work"), st.integers(1, 30)),
    st.tuples(st.just("rest")),
    st.tuples(st.just("crash"), st.sampled_from(STAGES)),
    st.tuples(st.just("forget"), st.sampled_from(STAGES)),
    st.tuples(st.just("redeliver"), st.sampled_from(STAGES), st.integers(1, 20)),
    st.tuples(st.just("stale"), st.sampled_from((TOPICS.latest, TOPICS.keys, TOPICS.links)), st.integers(0, 10_000)),
)
schedules = st.lists(operations, min_size=15, max_size=40)


def made(index: int, who: int, email: int, phone: int, place: int, number: int) -> Customer:
    """Return a customer that shares values with others."""
    source, customer_id = CUSTOMERS[index]
    customer = person(
        source,
        customer_id,
        **PEOPLE[who % len(PEOPLE)],  # type: ignore[arg-type]
        emails=EMAILS[email % len(EMAILS)],
        phones=PHONES[phone % len(PHONES)],
        address=ADDRESSES[place % len(ADDRESSES)],
        first_seen=f"2025-01-0{1 + number}T00:00:00.000Z",
    )
    known = IDS[(email + phone) % len(IDS)]
    if known is not None:
        customer["identifiers"] = [{"type": "ssn", "hash": HASHER.identifier("ssn", known)}]
    return customer


@dataclass
class World:
    """What is true upstream, beside the stages that have to find out."""

    run: Harness
    live: dict[str, Customer] = field(default_factory=dict)
    sequences: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    last_live: dict[tuple[str, int], Customer] = field(default_factory=dict)

    def do(self, operation: tuple[Any, ...]) -> None:
        """Carry out one operation of a schedule."""
        match operation:
            case ("put", index, *rest):
                self.put(made(index, *rest))
            case ("touch", index, number):
                self.touch(index, number)
            case ("delete", index):
                self.delete(index)
            case ("work", steps):
                self.run.work(steps)
            case ("rest",):
                self.run.run()
            case ("crash", stage):
                self.run.crash(stage)
            case ("forget", stage):
                self.run.forget(stage)
            case ("redeliver", stage, count):
                self.run.redeliver(stage, dict(zip(STAGES, INPUTS, strict=True))[stage], count)
            case ("stale", topic, number):
                self.stale(topic, number)

    def put(self, customer: Customer) -> None:
        """Create or update a customer."""
        name = f"{customer['source']}/{customer['id']}"
        self.sequences[name] += 1
        self.live[name] = customer
        self.run.publish(TOPICS.latest, *latest(customer, self.sequences[name]))

    def touch(self, index: int, number: int) -> None:
        """Change what is not compared."""
        name = "/".join(CUSTOMERS[index])
        if name in self.live:
            self.put({**self.live[name], "status": f"status {number}" if number else None})

    def delete(self, index: int) -> None:
        """Delete a customer if it is there."""
        source, customer_id = CUSTOMERS[index]
        name = f"{source}/{customer_id}"
        if name in self.live:
            self.sequences[name] += 1
            self.last_live[name, self.sequences[name]] = self.live.pop(name)
            self.run.publish(TOPICS.latest, *deleted(source, customer_id, self.sequences[name]))

    def stale(self, topic: str, number: int) -> None:
        """Append a copy of some earlier record."""
        records = self.run.records(topic)
        if records:
            record = records[number % len(records)]
            self.run.repeat(topic, record.partition, record.offset)


INPUTS: Final = (TOPICS.latest, TOPICS.keys, TOPICS.links)


def world(seed: int, rules: DedupeSettings = SETTINGS) -> World:
    """Return an empty world; `seed` decides how inputs interleave."""
    return World(Harness(stages(rules, TOPICS, HASHER), partitions=3, seed=seed))


def published(run: Harness) -> dict[str, dict[str, Any]]:
    """Return the memberships by customer."""
    return {key.decode(): orjson.loads(value) for key, value in run.table(TOPICS.clusters).items()}


def open_reviews(run: Harness) -> dict[tuple[str, str], str]:
    """Return the reviews that are open, by pair."""
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    for record in run.records(TOPICS.identity):
        if header(record.headers, "ce_type") == "customer.review":
            event = orjson.loads(record.value or b"")
            newest[event["a"], event["b"]] = event
    return {pair: event["reason"] for pair, event in newest.items() if event["status"] == "open"}


def check_clusters(run: Harness, found: Found) -> None:
    """Compare what is published with what the batch run found, ids, winners and paths included."""
    memberships = published(run)
    expected = {name: known for members, known in found.clusters.items() for name in members}
    assert {name: (known["cluster"], known["winner"]) for name, known in memberships.items()} == expected
    for name, known in memberships.items():
        assert known["size"] == len(found.of(name))
        at = name
        for step in known["path"]:
            assert at in (step["a"], step["b"])
            assert found.links[step["a"], step["b"]] == step["score"]
            at = step["b"] if at == step["a"] else step["a"]
        assert at == known["winner"]


LAW: Final = settings(deadline=None, suppress_health_check=list(HealthCheck))


@settings(LAW, max_examples=500)
@given(schedules, st.integers(0, 1_000_000))
def test_streaming_equals_batch(schedule: list[tuple[Any, ...]], seed: int) -> None:
    """After any history the clusters and the open reviews are those of a batch run over the live customers."""
    here = world(seed)
    for operation in schedule:
        here.do(operation)
    here.run.run()
    found = batch(here.live, SETTINGS, HASHER)
    check_clusters(here.run, found)
    assert open_reviews(here.run) == found.reviews
    assert not [outcome for _, _, outcome in here.run.outcomes if isinstance(outcome, Dead)]


@settings(LAW, max_examples=200)
@given(schedules, st.lists(st.tuples(numbers, numbers, numbers, numbers, st.integers(0, 3)), max_size=3), st.data())
def test_a_departure_tells_the_cluster_of_the_last_live_version(
    schedule: list[tuple[Any, ...]], updates: list[tuple[int, int, int, int, int]], data: st.DataObject
) -> None:
    """Whoever is deleted, even amid its own updates, leaves those behind whom a batch run finds for its last version."""
    here = world(data.draw(st.integers(0, 1_000_000)), DedupeSettings())
    for operation in schedule:
        here.do(operation)
    here.run.run()
    index = data.draw(st.sampled_from(range(len(CUSTOMERS))))
    name = "/".join(CUSTOMERS[index])
    if name not in here.live:
        here.put(made(index, 0, 0, 0, 0, 0))
    for update in updates:
        here.put(made(index, *update))
        here.run.work(data.draw(st.integers(0, 12)))
    expected = batch(here.live, DedupeSettings(), HASHER).of(name) - {name}
    here.delete(index)
    here.run.run()
    told = [event for event in departed(here.run) if event["customer"] == name and event["cause"] == "deleted"]
    mine = [event for event in told if event["sequence"] == here.sequences[name]]
    assert [(frozenset(event["remaining"]), event["doubt"]) for event in mine] == ([(expected, [])] if expected else [])


@settings(LAW, max_examples=200)
@given(schedules, st.integers(0, 1_000_000))
def test_no_id_changes_without_a_trace(schedule: list[tuple[Any, ...]], seed: int) -> None:
    """Whoever follows the merges and splits alone arrives at the published clusters, ids and winners included."""
    here = World(Harness(stages(SETTINGS, TOPICS, HASHER), partitions=1, seed=seed))
    for operation in schedule:
        if operation[:2] != ("forget", "clusters"):
            here.do(operation)
    here.run.run()
    assert followed(here.run) == {
        known["cluster"]: (frozenset(found), known["winner"])
        for known in published(here.run).values()
        for found in [[name for name, other in published(here.run).items() if other["cluster"] == known["cluster"]]]
    }


def departed(run: Harness) -> list[dict[str, Any]]:
    """Return the departures."""
    return [orjson.loads(record.value or b"") for record in run.records(TOPICS.departures)]


def followed(run: Harness) -> dict[str, tuple[frozenset[str], str]]:
    """Return the clusters as the identity events tell them."""
    members: dict[str, set[str]] = defaultdict(set)
    winners: dict[str, str] = {}
    for record in run.records(TOPICS.identity):
        event = orjson.loads(record.value or b"")
        match header(record.headers, "ce_type"):
            case "customer.split":
                members[event["cluster"]].clear()
                for part in event["parts"]:
                    members[part["cluster"] or ""] |= set(part["members"])
                    winners[part["cluster"]] = part["winner"]
            case "customer.merged":
                members[event["cluster"]] = set(event["members"])
                winners[event["cluster"]] = event["winner"]
                for absorbed in event["absorbed"]:
                    members[absorbed] -= set(event["members"])
            case "customer.winner_changed":
                winners[event["cluster"]] = event["winner"]
    return {known: (frozenset(names), winners[known]) for known, names in members.items() if names and known}
