"""What the transactional producer, and its start, make of answers that a real broker seldom gives."""

import asyncio
import gc
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import InvalidProducerEpoch, KafkaError, ProducerFenced
from structlog.testing import capture_logs

from worker.commands.common import run
from worker.errors import FencedError, KafkaUnavailableError, RollcallError, TransactionError
from worker.kafka import Connection, TransactionalProducer
from worker.settings import KafkaSettings


class Client:
    """A producer of aiokafka's whose records come to stand at a given offset."""

    def __init__(self, offset: int) -> None:
        """Answer with `offset`."""
        self._sender = SimpleNamespace()
        self._offset = offset
        self.committed = False

    async def begin_transaction(self) -> None:
        """Do nothing."""

    async def commit_transaction(self) -> None:
        """Note that it was asked for."""
        self.committed = True

    def create_batch(self) -> Any:
        """Return a batch that takes one record."""
        return SimpleNamespace(append=lambda **_: object(), record_count=lambda: 1)

    async def send_batch(self, *_: object, **__: object) -> "asyncio.Future[Any]":
        """Return the answer, which is there already."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        answer.set_result(SimpleNamespace(offset=self._offset))
        return answer


async def test_records_that_stand_nowhere_fail_their_transaction() -> None:
    """The client answers -1 where the broker says that it has seen a batch already, and not where."""
    for offset, right in ((7, True), (-1, False)):
        client = Client(offset)
        producer = TransactionalProducer(client, "mine", KafkaSettings(bootstrap="127.0.0.1:1"))
        outputs = {("topic", 0): [(b"key", b"value", [])]}
        if right:
            assert await producer.transact(outputs, {}, "group") == {("topic", 0): 8}
        else:
            with pytest.raises(TransactionError, match="does not say where"):
                await producer.transact(outputs, {}, "group")
        assert client.committed is right


@pytest.mark.parametrize(
    ("answer", "expected"),
    [(ProducerFenced, FencedError), (InvalidProducerEpoch, FencedError), (KafkaError, KafkaUnavailableError)],
)
async def test_a_fence_while_a_producer_starts_is_a_fence(
    answer: type[KafkaError], expected: type[RollcallError], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The group is joined anew then; started again at once, it would fence its successor."""

    async def start(_: AIOKafkaProducer) -> None:
        await asyncio.sleep(0)
        raise answer

    async def stop(client: AIOKafkaProducer) -> None:
        client._closed = True
        await client.client.close()

    monkeypatch.setattr(AIOKafkaProducer, "start", start)
    monkeypatch.setattr(AIOKafkaProducer, "stop", stop)
    with pytest.raises(expected):
        await Connection(KafkaSettings(bootstrap="127.0.0.1:1")).producer("mine")


def test_an_error_that_nobody_awaits_is_logged_by_its_class_only() -> None:
    """Its text may hold anything; those that aiokafka leaves behind say nothing new, in a command as in a worker."""

    async def leave_behind() -> None:  # ruff: ignore[unused-async] - is run
        loop = asyncio.get_running_loop()
        for error in (ProducerFenced(), TransactionError("its answer was lost"), ValueError("Ada Archer")):
            loop.create_future().set_exception(error)
        gc.collect()
        loop.call_exception_handler({"message": "Unclosed AIOKafkaConnection"})

    with capture_logs() as logs:
        run(leave_behind())
    assert [(entry["event"], entry["log_level"], entry.get("error")) for entry in logs] == [
        ("unexpected_error", "error", "ValueError"),
        ("left_open", "info", None),
    ]
    assert "Ada" not in str(logs)
