"""The two stages by themselves: what they refuse, what they wait for, and how much they do at a time."""

from typing import Any

import orjson
import pytest

from handlers.deletes import model
from handlers.deletes.executor import Executor
from handlers.deletes.requests import Requests
from handlers.deletes.settings import DeletesSettings
from tests.flow.deletes_world import START, World, drivly, route, simple
from worker.handling import Dead, Done, Handler, Record, Skip
from worker.testkit import MemoryTx
from worker.topics import Topics

TOPICS = Topics(partitions=1)
SETTINGS = DeletesSettings.model_validate({
    "targets": {"crm": drivly()},
    "routes": [route(link="reference", reference="key"), route(link="cluster")],
})
INPUTS = (TOPICS.latest, TOPICS.departures, TOPICS.approvals, TOPICS.clusters, TOPICS.requests)


def opened(handler: Handler, ends: int = 0) -> tuple[Handler, MemoryTx]:
    """Open a handler over an empty state."""
    tx = MemoryTx()
    handler.open(tx, 0, dict.fromkeys(INPUTS, ends), START)
    tx.commit()
    return handler, tx


def record(
    topic: str, key: bytes | None, value: bytes | None, *, offset: int = 0, at: int = START, **headers: str
) -> Record:
    """Return a record; `headers` by name."""
    return Record(topic, 0, offset, at, key, value, [(name, text.encode()) for name, text in headers.items()])


@pytest.mark.parametrize(
    "broken",
    [
        record(TOPICS.latest, None, b"{}", ce_sequence="1"),
        record(TOPICS.latest, b"shop", b"{}", ce_sequence="1"),
        record(TOPICS.latest, b"shop/\xff", b"{}", ce_sequence="1"),
        record(TOPICS.latest, b"shop/a", b'{"references":[]}'),
        record(TOPICS.latest, b"shop/a", b'{"references":[]}', ce_sequence="x"),
        record(TOPICS.latest, b"shop/a", b"{", ce_sequence="1"),
        record(TOPICS.latest, b"shop/a", b"{}", ce_sequence="1"),
        record(TOPICS.latest, b"shop/a", None, ce_sequence="1"),
        record(TOPICS.latest, b"shop/a", None, ce_sequence="1", ce_reason="because"),
        record(TOPICS.departures, b"shop/a", b"{}"),
        record(TOPICS.departures, b"shop/a", None),
        record(TOPICS.departures, b"shop/a", orjson.dumps({"cause": "deleted", "sequence": 1, "remaining": [5]})),
        record(TOPICS.clusters, b"shop/a", b"{}"),
        record(TOPICS.clusters, b"shop/a", orjson.dumps({"winner": "crm", "path": []})),
        record(TOPICS.approvals, b"shop/a", b"{}"),
        record(TOPICS.requests, b"r", b"{}", kind="check"),
        record(TOPICS.requests, b"r", b"{}", kind="whatever"),
        record(TOPICS.requests, b"r", b"{}"),
    ],
)
def test_the_first_stage_sets_aside_what_it_cannot_read(broken: Record) -> None:
    """As a dead letter, without a word of what was in it, and before anything is written."""
    handler, tx = opened(Requests(TOPICS, SETTINGS))
    before = dict(tx.data)
    outcome = handler.on_record(tx, broken, START)
    assert isinstance(outcome, Dead)
    assert "because" not in outcome.reason
    assert (tx.data, tx.sent, tx.calls) == (before, [], [])


@pytest.mark.parametrize(
    "broken",
    [
        record(TOPICS.requests, b"r", b"{", kind="request"),
        record(TOPICS.requests, b"r", b"[]", kind="request"),
        record(TOPICS.requests, b"r", b"{}", kind="cancel"),
        record(TOPICS.requests, b"r", b"{}"),
        record(TOPICS.approvals, b"crm", b"{}"),
    ],
)
def test_the_executor_sets_aside_what_it_cannot_read(broken: Record) -> None:
    """As a dead letter, before anything is written."""
    handler, tx = opened(Executor(TOPICS, SETTINGS))
    before = dict(tx.data)
    assert isinstance(handler.on_record(tx, broken, START), Dead)
    assert (tx.data, tx.sent, tx.calls) == (before, [], [])


def vouched(tx: MemoryTx) -> bool:
    """Return whether the first stage has vouched for something."""
    return any(("kind", b"vouch") in headers for _, _, _, headers, _ in tx.sent)


def check() -> bytes:
    """Return a question of the executor's about a customer."""
    request: Any = {"id": "r", "target": "crm", "sequence": 1, "as_of": START, "cluster": None}
    request["route"] = None
    return model.message(request, hops=[("origin", "shop/a")], serial=1)


@pytest.mark.parametrize(("took", "waited"), [(0, 0), (300, 0), (900, 0), (100, 300), (0, 900)])
def test_a_first_stage_that_has_a_backlog_does_not_vouch_until_it_was_read(took: int, waited: int) -> None:
    """The return of the customer may be in it: as long as old records keep coming, the executor has to wait.

    However long work and commit of each have taken (in milliseconds), and the broker to give the next one.
    """
    handler, tx = opened(Requests(TOPICS, SETTINGS), ends=50)
    now = START
    handler.on_record(tx, record(TOPICS.requests, b"r:check", check(), offset=50, kind="check"), now)
    for offset in range(40):
        now += 1000
        customer = record(
            TOPICS.latest, b"shop/%d" % offset, b'{"references":[]}', offset=offset, at=START - 10**6, ce_sequence="1"
        )
        assert handler.on_record(tx, customer, now) == Done()
        handler.on_timer(tx, now + took)
        handler.on_timer(tx, now + took + waited)
        assert not vouched(tx)
    handler.on_timer(tx, now + 10_000)
    assert vouched(tx)


def test_a_first_stage_that_lags_behind_what_is_published_reads_on_after_each_batch() -> None:
    """Records that came after its start are old when they are read: the clock is read again after them."""
    handler, tx = opened(Requests(TOPICS, SETTINGS))
    handler.on_record(tx, record(TOPICS.requests, b"r:check", check(), kind="check"), START)
    now = START
    for offset in range(5):
        now += 1000
        old = record(
            TOPICS.latest, b"shop/%d" % offset, b'{"references":[]}', offset=offset, at=now - 9000, ce_sequence="1"
        )
        handler.on_record(tx, old, now)
        handler.on_timer(tx, now + 600)
        handler.on_timer(tx, now + 600 + 249)
        assert not vouched(tx)
    handler.on_timer(tx, now + 600 + 250)
    assert vouched(tx)


def test_a_check_waits_until_its_inputs_were_read_on() -> None:
    """Not only for a quarter of a second, all of which the batch that it came with may have taken."""
    handler, tx = opened(Requests(TOPICS, SETTINGS))
    handler.on_record(tx, record(TOPICS.requests, b"r:check", check(), kind="check"), START)
    assert handler.on_timer(tx, START + 700) == START + 750
    assert not vouched(tx)
    returned = record(TOPICS.latest, b"shop/a", b'{"references":[]}', at=START - 100, ce_sequence="2")
    handler.on_record(tx, returned, START + 700)
    handler.on_timer(tx, START + 750)
    assert not vouched(tx)
    assert any(("kind", b"cancel") in headers for _, _, _, headers, _ in tx.sent)


def test_a_first_stage_that_keeps_up_vouches_after_reading_on_for_a_moment() -> None:
    """A quarter of a second, and not before."""
    handler, tx = opened(Requests(TOPICS, SETTINGS))
    handler.on_record(tx, record(TOPICS.requests, b"r:check", check(), kind="check"), START)
    handler.on_timer(tx, START + 249)
    assert not vouched(tx)
    handler.on_timer(tx, START + 250)
    assert vouched(tx)


@pytest.mark.parametrize(("replay", "requests"), [(None, 0), ("replay-1", 0), ("replay-1;with-deletes", 1)])
def test_only_a_replay_that_may_delete_reaches_back_before_a_route(replay: str | None, requests: int) -> None:
    """A person asks for it; whatever else lies before the horizon is the past, and makes no request."""
    settings = DeletesSettings.model_validate(simple())
    handler, tx = opened(Requests(TOPICS, settings), ends=50)
    headers = [("ce_sequence", b"2"), ("ce_reason", b"gone")]
    if replay is not None:
        headers.append(("rollcall-replay", replay.encode()))
    handler.on_record(tx, Record(TOPICS.latest, 0, 3, START, b"shop/1", None, headers), START)
    assert len(tx.sent) == requests


def test_without_targets_nothing_is_kept() -> None:
    """Records are skipped before they are decoded."""
    handler, tx = opened(Requests(TOPICS, DeletesSettings()))
    before = dict(tx.data)
    assert handler.on_record(tx, record(TOPICS.latest, b"other/a", b"{"), START) == Skip("unrouted")
    assert tx.data == before


class Counting(MemoryTx):
    """A transaction that counts what is read and written."""

    def __init__(self) -> None:
        """Start at nothing."""
        super().__init__()
        self.count = 0

    def get(self, key: bytes) -> bytes | None:
        """Count a read."""
        self.count += 1
        return super().get(key)

    def put(self, key: bytes, value: bytes) -> None:
        """Count a write."""
        self.count += 1
        super().put(key, value)

    def scan(self, prefix: bytes, start: bytes | None = None) -> Any:
        """Count every row that is taken."""
        for row in super().scan(prefix, start):
            self.count += 1
            yield row


def most_work(waiting: int) -> int:
    """Return the most accesses to the state that one event takes with so many requests waiting and ended."""
    world = World(simple(drivly(concurrency=2), guard={"count": 10**6, "cap": 10**6, "fraction": 1}), partitions=1)
    (task,) = [task for task in world.harness._tasks if task.handler.stage == "executor"]
    tx = task.tx = Counting()
    world.harness.crash("executor")
    for number in range(1, waiting + 1):
        world.systems["crm"].add(str(number))
        world.deleted("shop", str(number))
    world.settle(1.2)
    most = 0
    for _ in range(400):
        before = tx.count
        world.harness.work(1)
        most = max(most, tx.count - before)
    return most


def test_an_event_costs_the_same_with_ten_and_with_two_thousand_requests() -> None:
    """Whatever comes next is the first key somewhere: nothing is searched."""
    few, many = most_work(600), most_work(2000)
    assert many <= few * 1.5


@pytest.mark.parametrize("stage", [Requests, Executor])
def test_a_stage_names_its_inputs_and_can_be_opened_again(stage: Any) -> None:
    """Opening twice changes nothing that matters."""
    handler, tx = opened(stage(TOPICS, SETTINGS))
    assert handler.inputs[0].start == "earliest"
    assert len({given.topic for given in handler.inputs}) == len(handler.inputs)
    before = dict(tx.data)
    stage(TOPICS, SETTINGS).open(tx, 0, dict.fromkeys(INPUTS, 70), START)
    assert tx.data == before
