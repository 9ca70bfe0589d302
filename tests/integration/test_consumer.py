"""The handler loop, on a real broker: one handler that does what the record tells it to."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import RecordsToDelete
from aiokafka.producer.message_accumulator import MessageBatch
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from structlog.testing import capture_logs

from tests.integration.conftest import Deployment, owner
from tests.waiting import until
from worker.consumer import HandlerLoop
from worker.errors import StateError
from worker.handling import Call, Dead, Done, Handler, Input, Outcome, Record, Reply, Retry, Skip, Tx
from worker.http import Lane
from worker.settings import HttpSettings
from worker.task import Task

DEADLINE = 20.0


class Obedient:
    """Does what a record's value says, and copies what it did to the receipts."""

    stage = "keys"
    version = 1

    def __init__(self, deployment: Deployment) -> None:
        self._topics = deployment.topics
        self.inputs = (Input(self._topics.latest), Input(self._topics.approvals))
        self.patience = 2

    def open(self, tx: Tx, partition: int, ends: Mapping[str, int], now: int) -> int | None:
        """Want no timer."""
        return None

    def on_record(self, tx: Tx, record: Record, now: int) -> Outcome:
        """Do as the record says."""
        order = (record.value or b"").decode()
        if order == "dead":
            return Dead("it says so")
        if order == "skip":
            return Skip("seen")
        if order == "wait" and self.patience:
            self.patience -= 1
            return Retry(0.05)
        count = int(tx.get(b"count") or b"0") + 1
        tx.put(b"count", b"%d" % count)
        tx.send(self._topics.receipts, record.key or b"", record.value, partition_key=b"one")
        if order == "crash":
            raise ZeroDivisionError
        if order == "call":
            tx.call(Call("1", "target", "GET", "/hello"))
        return Done()

    def on_reply(self, tx: Tx, call: Call, reply: Reply, now: int) -> None:
        """Say what was answered."""
        tx.send(self._topics.receipts, b"reply", b"%d" % (reply.status or 0), partition_key=b"one")

    def on_timer(self, tx: Tx, now: int) -> int | None:
        """Never come."""
        return None


@asynccontextmanager
async def handling(
    deployment: Deployment, handler: Handler, lanes: Mapping[str, Lane] | None = None
) -> AsyncGenerator[Task]:
    """Run a handler on partition 0 while the block runs, then let it drain."""
    task = deployment.task("keys")
    await task.start(owner)
    running = asyncio.ensure_future(HandlerLoop(handler, task, lanes or {}).run())
    try:
        yield task
        task.stopping.set()
        await asyncio.wait_for(running, DEADLINE)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await task.close()


async def publish(deployment: Deployment, topic: str, *values: str | bytes) -> None:
    """Write records to partition 0 of a topic."""
    writer = Task(deployment.connection, deployment.topics, deployment.spec("poll", folder="writer"), 0)
    await writer.start(owner)

    def work(tx: object) -> None:
        for number, value in enumerate(values):
            data = value if isinstance(value, bytes) else value.encode()
            tx.send_to(topic, 0, b"%d" % number, data, [("kept", b"header")])  # type: ignore[attr-defined]

    await writer.transact(work)
    await writer.close()


async def values(deployment: Deployment, topic: str) -> list[bytes | None]:
    """Return the values of a topic's committed records."""
    return [record.value for record in await deployment.read(topic)]


async def test_a_poison_record_is_set_aside_alone(deployment: Deployment) -> None:
    """Records around one that crashes the handler are handled once each; it goes to the dead letters with its bytes."""
    orders = ["a", "b", "crash", "c", "dead", "skip", "d", "crash", "e"]
    await publish(deployment, deployment.topics.latest, *orders)

    async def finished() -> bool:
        return len(await values(deployment, deployment.topics.receipts)) >= 5

    async with handling(deployment, Obedient(deployment)) as task:
        await until(finished)
    assert await values(deployment, deployment.topics.receipts) == [b"a", b"b", b"c", b"d", b"e"]
    dead = await deployment.read(deployment.topics.deadletters)
    assert sorted(record.value for record in dead) == [b"crash", b"crash", b"dead"]
    headers = [dict(record.headers) for record in dead]
    assert {header["rollcall-dead-error"] for header in headers} == {b"ZeroDivisionError", b"Dead"}
    assert all(header["kept"] == b"header" for header in headers)
    assert {int(header["rollcall-dead-offset"]) for header in headers} == {2, 4, 7}
    assert task.dead is not None


async def test_a_record_that_has_to_wait_keeps_its_place(deployment: Deployment) -> None:
    """`Retry` gives the same record again, and those behind it only afterwards."""
    await publish(deployment, deployment.topics.latest, "a", "wait", "b")

    async def finished() -> bool:
        return len(await values(deployment, deployment.topics.receipts)) >= 3

    async with handling(deployment, Obedient(deployment)):
        await until(finished)
    assert await values(deployment, deployment.topics.receipts) == [b"a", b"wait", b"b"]


async def test_further_inputs_are_read_and_positions_survive(deployment: Deployment) -> None:
    """Both inputs are handled, and a successor starts behind what was handled."""
    await publish(deployment, deployment.topics.latest, "a")
    await publish(deployment, deployment.topics.approvals, "b")

    async def count(expected: int) -> bool:
        return len(await values(deployment, deployment.topics.receipts)) >= expected

    async with handling(deployment, Obedient(deployment)):
        await until(lambda: count(2))
    await publish(deployment, deployment.topics.latest, "c")
    async with handling(deployment, Obedient(deployment)):
        await until(lambda: count(3))
    assert sorted(filter(None, await values(deployment, deployment.topics.receipts))) == [b"a", b"b", b"c"]


async def test_what_comes_while_nobody_is_there_is_not_skipped(deployment: Deployment) -> None:
    """An input that starts at its end, and was empty then, is read from there on: also what came between two owners."""
    handler = Obedient(deployment)
    handler.inputs = (Input(deployment.topics.latest), Input(deployment.topics.approvals, start="latest"))
    async with handling(deployment, handler) as task:
        await until(lambda: task.working)
    await publish(deployment, deployment.topics.approvals, "a")

    async def finished() -> bool:
        return await values(deployment, deployment.topics.receipts) == [b"a"]

    async with handling(deployment, handler):
        await until(finished)


async def test_a_call_is_made_after_its_transaction_and_answered_in_another(deployment: Deployment) -> None:
    """By the time the target is called, what asked for the call is committed."""
    seen: list[list[bytes | None]] = []

    async def hello(_: web.Request) -> web.Response:
        seen.append(await values(deployment, deployment.topics.receipts))
        return web.Response(status=202)

    app = web.Application()
    app.router.add_get("/hello", hello)
    async with TestServer(app) as server:
        settings = HttpSettings(url=str(server.make_url("/")), allow_private_addresses=True)
        async with Lane("target", settings) as lane:
            await publish(deployment, deployment.topics.latest, "call")

            async def finished() -> bool:
                return b"202" in await values(deployment, deployment.topics.receipts)

            async with handling(deployment, Obedient(deployment), {"target": lane}):
                await until(finished)
    assert seen == [[b"call"]]


async def test_input_that_ends_before_the_position_stops_the_stage(deployment: Deployment) -> None:
    """The topic was made anew or has lost records: the stage says so and does not go on."""
    await publish(deployment, deployment.topics.approvals, "a", "b")

    async def finished() -> bool:
        return len(await values(deployment, deployment.topics.receipts)) >= 2

    async with handling(deployment, Obedient(deployment)):
        await until(finished)
    task = deployment.task("keys")
    await task.start(owner)
    await task.transact(lambda tx: tx.put(b"\x00p/" + deployment.topics.approvals.encode(), b"1000"))
    with pytest.raises(StateError, match="made anew, or lost records"):
        await HandlerLoop(Obedient(deployment), task, {}).run()
    await task.close()


async def _emptied(deployment: Deployment, topic: str) -> int:
    """Delete all that is on partition 0 of a topic, as retention does; return the offset where it starts and ends."""
    where = TopicPartition(topic, 0)
    end = (await deployment.connection.ends([where]))[where]
    async with deployment.connection.admin() as admin:
        await admin.client.delete_records({where: RecordsToDelete(end)})
    return end


def _kept(task: Task, topic: str) -> int:
    with task.store.reading() as state:
        return int(state.get(b"\x00p/" + topic.encode()) or b"-1")


@pytest.mark.parametrize("name", ["approvals", "replays"])
async def test_an_input_that_was_handled_and_then_emptied_stops_nobody(deployment: Deployment, name: str) -> None:
    """The end of a transaction takes an offset, too: it is passed like the records, and deleted with them."""
    topic = getattr(deployment.topics, name)
    async with handling(deployment, Obedient(deployment)) as task:
        await until(lambda: task.working)
        await publish(deployment, topic, "a", "b")
        await until(lambda: _kept(task, topic) >= 2)
    end = await _emptied(deployment, topic)
    assert end == 3
    with capture_logs() as logs:
        async with handling(deployment, Obedient(deployment)) as task:
            await until(lambda: task.working)
            assert _kept(task, topic) == end
    assert not [line for line in logs if line["event"] == "input_emptied"]


async def test_a_position_before_the_end_of_a_transaction_is_mended(deployment: Deployment) -> None:
    """One that earlier versions have kept: soon after the start, or where the input has been emptied since, with it."""
    topic = deployment.topics.approvals
    async with handling(deployment, Obedient(deployment)) as task:
        await until(lambda: task.working)
    await publish(deployment, topic, "a", "b")

    async def set_back() -> None:
        before = deployment.task("keys")
        await before.start(owner)
        await before.transact(lambda tx: tx.put(b"\x00p/" + topic.encode(), b"2"))
        await before.close()

    await set_back()
    async with handling(deployment, Obedient(deployment)) as task:
        await until(lambda: _kept(task, topic) == 3)
    await set_back()
    assert await _emptied(deployment, topic) == 3
    with capture_logs() as logs:
        async with handling(deployment, Obedient(deployment)) as task:
            await until(lambda: task.working)
            assert _kept(task, topic) == 3
    assert [line["position"] for line in logs if line["event"] == "input_emptied"] == [2]


async def test_input_deleted_before_anything_was_handled_stops_the_stage(deployment: Deployment) -> None:
    """A position at the very beginning is one like any other."""
    topic = deployment.topics.approvals
    async with handling(deployment, Obedient(deployment)) as task:
        await until(lambda: task.working)
        assert _kept(task, topic) == 0
    await publish(deployment, topic, "a", "b", "c")
    async with deployment.connection.admin() as admin:
        await admin.client.delete_records({TopicPartition(topic, 0): RecordsToDelete(2)})
    task = deployment.task("keys")
    await task.start(owner)
    with pytest.raises(StateError, match="handled only up to 0: 2 offsets were deleted unread"):
        await asyncio.wait_for(HandlerLoop(Obedient(deployment), task, {}).run(), DEADLINE)
    await task.close()


async def test_a_stage_that_is_new_begins_where_its_input_does(deployment: Deployment) -> None:
    """What was deleted before it was there is none of its business, also after the next start."""
    topic = deployment.topics.approvals
    await publish(deployment, topic, "a", "b")
    end = await _emptied(deployment, topic)
    for _ in range(2):
        async with handling(deployment, Obedient(deployment)) as task:
            await until(lambda task=task: task.working)  # type: ignore[misc]
            assert _kept(task, topic) == end


class _Raw:
    """A header's name that comes out as other bytes than UTF-8, which aiokafka itself cannot write."""

    def encode(self, *_: object) -> bytes:
        """Return what no decoder takes."""
        return b"\xff\xfe"


async def test_a_header_whose_name_is_not_utf8_is_said_with_its_place(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program can write one, and no consumer of aiokafka reads it."""
    where = TopicPartition(deployment.topics.latest, 0)
    await publish(deployment, where.topic, "fine", "fine, too")
    batch = _DefaultRecordBatchBuilderPy(2, 0, 0, -1, -1, -1, 100_000)
    batch.append(0, 1_700_000_000_000, b"key", b"value", [(_Raw(), b"1")])
    written = bytes(batch.build())
    producer = AIOKafkaProducer(bootstrap_servers=deployment.connection.settings.bootstrap)
    await producer.start()
    with monkeypatch.context() as patch:
        patch.setattr(MessageBatch, "get_data_buffer", lambda _: written)
        await producer.send_and_wait(where.topic, b"value", b"key", where.partition)
    await producer.stop()
    await publish(deployment, where.topic, "after it")
    task = deployment.task("keys")
    await task.start(owner)
    with pytest.raises(StateError, match=f"{where.topic}, partition 0, offset [23] or soon after, has a header"):
        await asyncio.wait_for(HandlerLoop(Obedient(deployment), task, {}).run(), DEADLINE)
    await task.close()


async def test_records_for_others_that_were_deleted_unread_do_not_keep_a_stage_from_starting(
    deployment: Deployment,
) -> None:
    """What is given once more is for one stage; the others say that something was lost, and go on."""
    topics = deployment.topics

    async def handled(wanted: int) -> bool:
        return len(await values(deployment, topics.receipts)) == wanted

    async with handling(deployment, Obedient(deployment)):
        await publish(deployment, topics.replays, "a", "b")
        await publish(deployment, topics.latest, "a")
        await until(lambda: handled(1))
    await publish(deployment, topics.replays, "c", "d")
    where = TopicPartition(topics.replays, 0)
    end = (await deployment.connection.ends([where]))[where]
    async with deployment.connection.admin() as admin:
        await admin.client.delete_records({where: RecordsToDelete(before_offset=end)})
    for lost in (str(end - 3), str(end + 100)):
        task = deployment.task("keys")
        await task.start(owner)
        await task.transact(lambda tx, at=lost: tx.put(b"\x00p/" + topics.replays.encode(), at.encode()))  # type: ignore[misc]
        await task.close()
        before = len(await values(deployment, topics.receipts))
        with capture_logs() as logs:
            async with handling(deployment, Obedient(deployment)):
                await publish(deployment, topics.latest, "b")
                await until(lambda wanted=before + 1: handled(wanted))  # type: ignore[misc]
        said = [(line["topic"], line["position"]) for line in logs if line["event"] == "orders_lost"]
        assert said == [(topics.replays, int(lost))]
