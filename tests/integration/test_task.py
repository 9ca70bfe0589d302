"""What a task guarantees, on a real broker."""

import asyncio
from collections.abc import Callable

import pytest
from aiokafka import TopicPartition
from structlog.testing import capture_logs

from tests.integration.conftest import Deployment, owner
from worker import telemetry
from worker.errors import FencedError, RecordTooLargeError, StateError, TransactionError
from worker.kafka import apply_topics, plan_topics
from worker.settings import KafkaSettings
from worker.task import VERSION_KEY, Progress, Transaction
from worker.topics import Topics


def write(deployment: Deployment, *names: str) -> Callable[[Transaction], None]:
    """Return work that sends one event and sets one state key for each name."""

    def work(tx: Transaction) -> None:
        for name in names:
            tx.put(name.encode(), b"1")
            tx.send(deployment.topics.events, name.encode(), name.encode())

    return work


async def test_topics_are_made_as_declared_and_found_so(kafka: KafkaSettings) -> None:
    """`apply` makes what `plan` finds missing; then nothing is left to do, and applying again is harmless."""
    topics = Topics(prefix="declared", partitions=2)
    assert len((await plan_topics(kafka, topics)).create) == len(topics.declared())
    await apply_topics(kafka, topics)
    assert (await plan_topics(kafka, topics)).empty
    assert (await apply_topics(kafka, topics)).empty


async def test_wrong_topics_are_named(kafka: KafkaSettings) -> None:
    """Another partition count cannot be mended and says so."""
    await apply_topics(kafka, Topics(prefix="wrong", partitions=2))
    found = await plan_topics(kafka, Topics(prefix="wrong", partitions=3))
    assert not found.create
    assert all("has 2 partitions, the configuration says 3" in line for line in found.problems())


async def test_outputs_state_and_position_are_committed_together(deployment: Deployment) -> None:
    """What one transaction wrote is on the topic, in the store, and on a machine that has nothing but the changelog."""
    task = deployment.task("poll")
    await task.start(owner)
    await task.transact(write(deployment, "a", "b"))
    await task.transact(lambda tx: tx.delete(b"a"))
    await task.close()
    assert {record.key for record in await deployment.read(deployment.topics.events)} == {b"a", b"b"}

    elsewhere = deployment.task("poll", folder="elsewhere")
    await elsewhere.start(owner)
    with elsewhere.store.reading() as state:
        assert state.get(b"a") is None
        assert state.get(b"b") == b"1"
    await elsewhere.close()


async def test_a_store_is_read_on_from_where_it_stands(deployment: Deployment) -> None:
    """The same machine reads only what is new, and ends with the same state."""
    task = deployment.task("poll")
    await task.start(owner)
    await task.transact(write(deployment, "a"))
    await task.close()
    elsewhere = deployment.task("poll", folder="elsewhere")
    await elsewhere.start(owner)
    await elsewhere.transact(write(deployment, "b"))
    await elsewhere.close()
    back = deployment.task("poll")
    await back.start(owner)
    assert back.store.wiped is None
    with back.store.reading() as state:
        assert (state.get(b"a"), state.get(b"b")) == (b"1", b"1")
    await back.close()


async def test_a_fenced_task_publishes_nothing_more(deployment: Deployment) -> None:
    """A successor's start ends the predecessor: it can commit nothing, and does not fence the successor."""
    old = deployment.task("poll", folder="old")
    await old.start(owner)
    await old.transact(write(deployment, "before"))
    new = deployment.task("poll", folder="new")
    await new.start(owner)
    with pytest.raises(FencedError):
        await old.transact(write(deployment, "zombie"))
    with pytest.raises(FencedError):
        await old.transact(write(deployment, "zombie again"))
    await new.transact(write(deployment, "after"))
    assert [record.key for record in await deployment.read(deployment.topics.events)].count(b"zombie") == 0
    assert {record.key for record in await deployment.read(deployment.topics.events)} == {b"before", b"after"}
    await old.close()
    await new.close()


async def test_a_rejected_record_fails_its_transaction(deployment: Deployment) -> None:
    """A record that the broker refuses takes the whole transaction with it: no checkpoint moves past a lost event."""
    task = deployment.task("poll")
    await task.start(owner)
    await task.transact(write(deployment, "before"))
    limit = {"max.message.bytes": "2000"}
    async with deployment.connection.admin() as admin:
        await admin.alter({deployment.topics.events: limit})
        while (
            not limit.items()
            <= (await admin.found([deployment.topics.events]))[deployment.topics.events].config.items()
        ):
            pass

    def work(tx: Transaction) -> None:
        tx.put(b"checkpoint", b"moved")
        tx.send(deployment.topics.latest, b"small", b"x")
        tx.send(deployment.topics.events, b"large", b"x" * 5_000)

    with pytest.raises(TransactionError):
        await task.transact(work)
    await task.close()
    assert await deployment.read(deployment.topics.latest) == []
    again = deployment.task("poll")
    await again.start(owner)
    with again.store.reading() as state:
        assert state.get(b"checkpoint") is None
    await again.close()


async def test_a_too_large_record_is_refused_before_anything_is_written(deployment: Deployment) -> None:
    """What is larger than kafka.max_record_bytes never reaches the broker, and the task goes on."""
    task = deployment.task("poll")
    await task.start(owner)
    with pytest.raises(RecordTooLargeError):
        await task.transact(lambda tx: tx.send(deployment.topics.events, b"large", b"x" * 2_000_000))
    await task.transact(write(deployment, "fine"))
    assert [record.key for record in await deployment.read(deployment.topics.events)] == [b"fine"]
    await task.close()


async def test_work_that_raises_leaves_nothing(deployment: Deployment) -> None:
    """An exception in the work drops its writes; the task goes on."""
    task = deployment.task("poll")
    await task.start(owner)

    def work(tx: Transaction) -> None:
        write(deployment, "a")(tx)
        raise LookupError

    with pytest.raises(LookupError):
        await task.transact(work)
    await task.transact(write(deployment, "b"))
    with task.store.reading() as state:
        assert state.get(b"a") is None
    await task.close()


async def test_what_was_measured_shows_with_the_commit_and_gauges_go_with_the_task(deployment: Deployment) -> None:
    """What a transaction that came to nothing has measured never shows, and what it has logged is in no log."""
    gauge, counter = telemetry.DELETIONS_OVERDUE, telemetry.DELETIONS
    task = deployment.task("poll")
    await task.start(owner)

    def measure(tx: Transaction) -> None:
        tx.measure(gauge, 7, "shown")
        tx.measure(counter, 2, "shown", "VERIFIED")
        tx.log.warning("target_paused", target="shown", reason="a test")

    def fail(tx: Transaction) -> None:
        measure(tx)
        raise LookupError

    with pytest.raises(LookupError), capture_logs() as lines:
        await task.transact(fail)
    assert (shown(), lines) == ({}, [])
    with capture_logs() as lines:
        await task.transact(measure)
    (line,) = lines
    assert (line["event"], line["log_level"], line["target"]) == ("target_paused", "warning", "shown")
    assert (line["stage"], line["partition"]) == ("poll", 0)
    await task.transact(lambda tx: (measure(tx), write(deployment, "a")(tx)))
    assert shown() == {"rollcall_deletions_overdue_seconds": 7, "rollcall_deletions_total": 4}
    await task.close()
    assert shown() == {"rollcall_deletions_total": 4}


def shown() -> dict[str, float]:
    """Return what the metrics say of a target."""
    samples = [sample for metric in telemetry.REGISTRY.collect() for sample in metric.samples]
    found = {one.name: one.value for one in samples if one.labels.get("target") == "shown"}
    return {name: value for name, value in found.items() if not name.endswith("_created")}


async def test_marks_stay_on_this_machine(deployment: Deployment) -> None:
    """A transaction that only sets marks writes nothing to Kafka."""
    task = deployment.task("poll")
    await task.start(owner)
    await task.transact(lambda tx: tx.mark(b"seen"))
    with task.store.reading() as state:
        assert state.marked(b"seen")
    await task.close()
    assert await deployment.read(deployment.topics.state("poll")) == []


async def test_many_batches_of_one_partition_keep_their_order(deployment: Deployment) -> None:
    """A transaction larger than a batch arrives whole and in order."""
    task = deployment.task("poll")
    await task.start(owner)

    def work(tx: Transaction) -> None:
        for number in range(3_000):
            tx.send(deployment.topics.events, b"%05d" % number, b"x" * 1_000, partition_key=b"one")

    await task.transact(work)
    await task.close()
    keys = [record.key for record in await deployment.read(deployment.topics.events)]
    assert keys == [b"%05d" % number for number in range(3_000)]


async def test_state_of_a_newer_version_is_refused(deployment: Deployment) -> None:
    """A worker that is rolled back does not touch what it cannot read."""
    new = deployment.task("poll", version=2)
    await new.start(owner)
    await new.transact(write(deployment, "a"))
    await new.close()
    old = deployment.task("poll", version=1)
    with pytest.raises(StateError, match="format 2"):
        await old.start(owner)
    await old.close()


async def test_nothing_starts_without_the_groups_word(deployment: Deployment) -> None:
    """A task whose ownership is not confirmed fences nobody."""
    mine = deployment.task("poll", folder="mine")
    await mine.start(owner)

    async def refuse() -> None:  # ruff: ignore[unused-async] - awaited by contract
        raise FencedError("not yours")

    other = deployment.task("poll", folder="other")
    with pytest.raises(FencedError):
        await other.start(refuse)
    await other.close()
    await mine.transact(write(deployment, "a"))
    await mine.close()


async def test_the_groups_offset_travels_in_the_transaction(deployment: Deployment) -> None:
    """Lag tools see the position of the primary input as soon as it is committed."""
    task = deployment.task("keys")
    await task.start(owner)
    where = TopicPartition(deployment.topics.latest, 0)

    def work(tx: Transaction) -> None:
        tx.put(b"x", b"1")
        tx.group_offsets[where] = 17

    await task.transact(work)
    await task.close()
    consumer = await deployment.connection.consumer(group=deployment.topics.group("keys"))
    assert await consumer.committed(where) == 17
    await consumer.stop()


async def test_a_restore_tells_how_far_it_is(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it began, what it read and how long it took; meanwhile its rate and the seconds that are left."""
    task = deployment.task("poll")
    await task.start(owner)
    for number in range(3):
        await task.transact(write(deployment, *(f"{number}.{name}" for name in range(50))))
    await task.close()

    monkeypatch.setattr("worker.task._RESTORE_BATCH", 40)
    monkeypatch.setattr("worker.task._REPORT_SECONDS", 0.0)
    elsewhere = deployment.task("poll", folder="elsewhere")
    with capture_logs() as logs:
        await elsewhere.start(owner)
    await elsewhere.close()
    on_the_way = [entry for entry in logs if entry["event"] == "task_restoring"]
    (done,) = [entry for entry in logs if entry["event"] == "task_restored"]
    percents = [entry["percent"] for entry in on_the_way]
    assert len(percents) > 2
    assert percents == sorted(percents)
    assert percents[-1] == 100
    assert all(entry["per_second"] > 0 for entry in on_the_way)
    assert on_the_way[-1]["seconds_left"] == 0
    assert (done["start"], done["records"], done["keys"]) == (0, 151, 151)  # with the state's format version
    assert telemetry.RESTORE_LEFT.labels("poll", "0")._value.get() == 0


def test_what_is_left_follows_from_the_rate() -> None:
    """A quarter in ten seconds leaves thirty; before anything was read nothing is claimed."""
    assert Progress.of(1_000, 2_000, 5_000, 10.0) == Progress(percent=25, per_second=100, seconds_left=30)
    assert Progress.of(1_000, 1_000, 5_000, 10.0) == Progress(percent=0, per_second=0, seconds_left=0)


async def test_a_state_says_its_format_also_where_its_first_transaction_was_cut(deployment: Deployment) -> None:
    """What a worker killed in its very first transaction leaves takes offsets, but says nothing of the format."""
    killed = deployment.task("poll", folder="killed")
    await killed.start(owner)
    producer = await deployment.connection.producer(deployment.topics.transactional_id("poll", 0))
    client = producer._client
    await client.begin_transaction()
    await (await client.send(deployment.topics.state("poll"), b"1", b"cut", partition=0))
    successor = deployment.task("poll", version=2)
    await successor.start(owner)
    assert successor.store.offset > 0
    await successor.transact(lambda tx: tx.put(b"a", b"of format 2"))
    for one in (producer, killed, successor):
        await one.close()
    earlier = deployment.task("poll", folder="earlier", version=1)
    with pytest.raises(StateError, match="has format 2"):
        await earlier.start(owner)
    await earlier.close()


async def test_a_state_that_does_not_say_its_format_is_taken_for_one_of_today(deployment: Deployment) -> None:
    """It is used, and says it from its next transaction on."""
    before = deployment.task("poll")
    await before.start(owner)
    await before.transact(lambda tx: tx.put(b"a", b"1"))
    await before.transact(lambda tx: tx.delete(VERSION_KEY))
    await before.close()
    task = deployment.task("poll")
    await task.start(owner)
    await task.transact(lambda tx: tx.put(b"a", b"2"))
    with task.store.reading() as state:
        assert state.get(VERSION_KEY) == b"1"
    await task.close()


async def test_a_state_topic_that_was_made_anew_under_a_task_ends_it(deployment: Deployment) -> None:
    """Its store would go on as if what the topic held were still there to restore it from."""
    name = deployment.topics.state("poll")
    task = deployment.task("poll")
    await task.start(owner)
    for number in range(5):
        await task.transact(lambda tx, key=b"%d" % number: tx.put(key, b"1"))  # type: ignore[misc]
    before = task.store.offset
    async with deployment.connection.admin() as admin:
        await admin.client.delete_topics([name])
        while name in await admin.found([name]):
            await asyncio.sleep(0.1)
        await admin.create([spec for spec in deployment.topics.declared() if spec.name == name])
    with pytest.raises(StateError, match="made anew under the running task"):
        await task.transact(lambda tx: tx.put(b"later", b"1"))
    assert task.store.offset == before
    await task.close()
