"""The checker itself: it finds nothing in what is right, and each kind of wrong by its name."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lmdb
import orjson
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from tests.faults import around, checking
from tests.faults.checking import Verdict, histories
from tests.faults.reading import Follower, Read
from tests.faults.upstreams import Upstream, Write, facts_of_customer
from worker.events import event_headers
from worker.topics import Topics, partition_of

KEY = "club/7"


def customer(phone: str) -> dict[str, Any]:
    """Return so much of a customer as the checks look at."""
    contact = [{"normalized": phone}]
    return {
        "source": "club",
        "id": "7",
        "first_seen": "2025-01-01",
        "emails": [{"normalized": "ada@example.com"}],
        "phones": contact,
        "name": None,
        "references": [],
        "updated_at": phone,
    }


def event(sequence: int, phone: str | None, changed: list[str] | None = None, *, created: bool = False) -> Read:
    """Return an event; a deletion where there is no phone."""
    type_ = "deleted" if phone is None else "created" if created else "updated"
    headers = event_headers(
        key=KEY.encode(),
        source="club",
        type_=f"customer.{type_}",  # type: ignore[arg-type]
        sequence=sequence,
        time="2025-01-01T00:00:00Z",
        reason="tombstone" if phone is None else None,
    )
    data = {"source": "club", "id": "7", "customer": phone and customer(phone), "changed": changed or []}
    return Read(sequence * 10, 0, KEY, orjson.dumps(data), {name: value.decode() for name, value in headers})


def in_latest(record: Read) -> Read:
    """Return what `latest` has of an event."""
    shown = orjson.loads(record.value or b"")["customer"]
    return record._replace(value=None if shown is None else orjson.dumps(shown))


RIGHT = [
    event(1, "+1", created=True),
    event(2, "+2", ["phones", "updated_at"]),
    event(3, None),
    event(4, "+4", created=True),
]
Spoil = Callable[[list[Read]], list[Read]]


def without_the_last(records: list[Read]) -> list[Read]:
    """Drop one."""
    return records[:-1]


def verdict_on(events: list[Read], latest: list[Read]) -> Verdict:
    """Check events against an upstream that wrote what `RIGHT` shows."""
    verdict = Verdict()
    written = [orjson.loads(record.value or b"")["customer"] for record in RIGHT]
    writes = [Write(0.0, body and facts_of_customer("dintero", body)) for body in written]
    upstream = object.__new__(Upstream)
    upstream.name, upstream.sim, upstream.writes = "club", SimpleNamespace(kind="dintero"), {"7": writes}  # type: ignore[assignment]
    checking.check_sequences(verdict, histories(events))
    checking.check_content(verdict, upstream, histories(events))
    checking.check_latest(verdict, histories(events), histories(latest))
    around.check_envelopes(verdict, histories(events), histories(latest))
    return verdict


def test_what_is_right_is_called_right() -> None:
    """Nothing is found where nothing is wrong."""
    verdict = verdict_on(RIGHT, list(map(in_latest, RIGHT)))
    assert verdict.right, dict(verdict.wrong)


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (without_the_last, checking.LOST),
        (lambda events: [*events, events[-1]], checking.TWICE),
        (lambda events: [events[0], events[2], events[1], events[3]], checking.ORDER),
        (lambda events: [events[0], events[2]], checking.GAP),
        (lambda events: [*events, event(5, None)], checking.FALSE_DELETE),
        (lambda events: [*events[:3], event(4, "+5", created=True)], checking.WRONG),
        (lambda events: [*events[:3], event(4, "+4")], checking.ENVELOPE),
        (lambda events: [events[0], event(2, "+2", ["phones"]), *events[2:]], checking.ENVELOPE),
    ],
    ids=["lost", "twice", "out of order", "gap", "false delete", "wrong content", "wrong type", "wrong changed"],
)
def test_wrong_events_are_found(spoil: Spoil, kind: str) -> None:
    """Whatever is done to the events is named by its kind, also where `latest` has it in the same way."""
    events = spoil(RIGHT)
    assert verdict_on(events, list(map(in_latest, events))).wrong[kind]


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (without_the_last, checking.LATEST),
        (
            lambda latest: [*latest[:3], latest[3]._replace(headers={**latest[3].headers, "ce_time": ""})],
            checking.ENVELOPE,
        ),
    ],
    ids=["a version is missing", "another header"],
)
def test_a_wrong_latest_is_found(spoil: Spoil, kind: str) -> None:
    """`latest` has each version that the events have, under the same headers."""
    assert verdict_on(RIGHT, spoil(list(map(in_latest, RIGHT)))).wrong[kind]


def test_a_key_in_another_partition_is_found() -> None:
    """Keys lie where Kafka's own clients look for them."""
    for key in ("crm/1", "club/7", "telco/a-b-c", "ø"):
        assert around.partition_of(key.encode(), 4) == partition_of(key.encode(), 4)
    verdict, right = Verdict(), partition_of(KEY.encode(), 4)
    around.check_places(verdict, {TopicPartition("events", right): RIGHT}, ["events"], 4)
    assert verdict.right
    around.check_places(verdict, {TopicPartition("events", (right + 1) % 4): RIGHT}, ["events"], 4)
    assert verdict.wrong[checking.ENVELOPE]


def identity(kind: str, number: int, **data: Any) -> Read:
    """Return an identity event."""
    headers = {"ce_type": f"customer.{kind}", "ce_id": str(number)}
    return Read(number, 0, data["cluster"], orjson.dumps(data), headers)


def test_a_cluster_without_a_trace_is_found() -> None:
    """Ids and winners come and go by identity events only."""
    merged = identity("merged", 1, cluster="a", winner="crm/1", absorbed=["b"])
    clusters = {name: {"cluster": "a", "winner": "crm/1", "size": 2} for name in ("crm/1", "crm/2")}

    def found(events: list[Read], shown: dict[str, Any]) -> list[str]:
        verdict = Verdict()
        around.check_lineage(verdict, events, shown)
        return verdict.wrong[checking.LINEAGE]

    assert not found([merged], clusters)
    assert found([], clusters)
    assert found([merged, merged], clusters)
    assert found([merged], {})
    assert not found([merged, identity("split", 2, cluster="a", parts=[])], {})
    assert found([merged], {"crm/1": clusters["crm/1"]})
    assert found([merged], {name: {**row, "winner": "crm/2"} for name, row in clusters.items()})


def test_a_deletion_that_is_not_its_receipts_is_found() -> None:
    """The table shows what the receipt of its request says, and nobody is missing."""
    answer = {"request": "1", "target": "shop", "customer": "7", "outcome": "VERIFIED"}
    receipt = Read(0, 0, "1", orjson.dumps(answer), {})

    def found(**shown: str) -> list[str]:
        verdict = Verdict()
        rows = [
            Read(0, 0, key, orjson.dumps({"state": state, "request": {"id": "1"}}), {}) for key, state in shown.items()
        ]
        around.check_ledger(verdict, rows, [receipt])
        return verdict.wrong[checking.TABLE]

    assert not found(**{"shop/7": "VERIFIED"})
    assert found(**{"shop/7": "COOLING"})
    assert found()


def test_what_is_half_done_in_kafka_is_found() -> None:
    """An open transaction, and a group's offset that is not the position in the state."""
    where, topics, verdict = TopicPartition("events", 0), Topics(partitions=1), Verdict()
    around.check_closed(verdict, {where: 5}, {where: 5})
    position = Read(0, 0, "\x00p/events", b"5", {})
    log = {TopicPartition(topics.state("keys"), 0): [position]}
    around.check_offsets(verdict, log, topics.state("keys"), "events", {where: 5})
    assert verdict.right
    around.check_closed(verdict, {where: 4}, {where: 5})
    around.check_offsets(verdict, log, topics.state("keys"), "events", {where: 4})
    assert verdict.wrong[checking.OPEN]
    assert verdict.wrong[checking.OFFSETS]


def test_a_position_that_goes_back_is_found() -> None:
    """It is the mark of an owner from before that wrote after its successor."""
    topics, verdict = Topics(partitions=1), Verdict()
    forth, back = (Read(0, 0, "\x00p/events", value, {}) for value in (b"5", b"4"))
    checking.check_positions(verdict, {TopicPartition(topics.state("keys"), 0): [forth, back]}, topics)
    assert verdict.wrong[checking.FENCED]


def test_a_store_other_than_its_changelog_is_found(tmp_path: Path) -> None:
    """Up to the offset that it names it holds what the changelog says, and nothing else."""
    env = lmdb.open(str(tmp_path), max_dbs=3)
    data, info = (env.open_db(name) for name in (b"data", b"info"))
    with env.begin(write=True) as txn:
        txn.put(b"a", b"1", db=data)
        txn.put(b"meta", orjson.dumps({"offset": 2}), db=info)
    env.close()
    log = [Read(0, 0, "a", b"0", {}), Read(1, 0, "a", b"1", {}), Read(2, 0, "b", b"1", {})]
    for records, right in ((log, True), (log[:1], False), ([*log[:2], Read(1, 0, "c", b"1", {})], False)):
        verdict = Verdict()
        around.check_store(verdict, tmp_path, records)
        assert verdict.right == right


async def test_who_reads_along_outlives_a_client_that_cancels_whoever_stops_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A client's `stop` may end in CancelledError though nobody was cancelled; the follower then went without a word."""
    stops = asyncio.Event()
    stop = AIOKafkaConsumer.stop

    async def cancelling(consumer: AIOKafkaConsumer) -> None:
        await stop(consumer)
        stops.set()
        raise asyncio.CancelledError

    monkeypatch.setattr(AIOKafkaConsumer, "stop", cancelling)
    nobody = "127.0.0.1:1"
    following = asyncio.ensure_future(Follower(nobody, []).run())
    try:
        await asyncio.wait_for(stops.wait(), 60)
        await asyncio.sleep(0.1)
        assert not following.done()
    finally:
        following.cancel()
        await asyncio.wait([following])
