"""The handler loop, on a real broker: one handler that does what the record tells it to."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.integration.conftest import Deployment, owner
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


async def until(condition: Callable[[], object]) -> None:
    """Wait until an asynchronous condition holds."""
    async with asyncio.timeout(DEADLINE):
        while not await condition():  # type: ignore[misc]
            await asyncio.sleep(0.05)


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
        await until(lambda: asyncio.sleep(0, task.working))
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


async def test_input_deleted_unread_stops_the_stage(deployment: Deployment) -> None:
    """Where retention has passed the position, the stage says how much is lost and does not go on."""
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
