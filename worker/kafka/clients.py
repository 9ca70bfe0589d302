"""aiokafka's clients, where they have to be other than they are; what nothing public does is done here."""

import asyncio
import random
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaConnectionError, KafkaError, NodeNotReadyError, RequestTimedOutError
from aiokafka.structs import ConsumerRecord

from worker.errors import TransactionError

log = structlog.get_logger()

CLOSE_TIMEOUT: Final = 5.0


async def bounded_stop(stopping: Awaitable[Any], what: str) -> None:
    """Wait for a client to stop, but not longer than `CLOSE_TIMEOUT` seconds.

    aiokafka's `stop` may wait for a flush that never ends, or raise CancelledError at a caller whom nobody cancelled:
    it runs as a task of its own.
    """
    task = asyncio.ensure_future(stopping)
    done, _ = await asyncio.wait([task], timeout=CLOSE_TIMEOUT)
    if not done:
        task.cancel()
        log.warning("kafka_client_abandoned", client=what, after_seconds=CLOSE_TIMEOUT)
    elif not task.cancelled() and (error := task.exception()) is not None:
        log.warning("kafka_client_close_failed", client=what, error=type(error).__name__)


def unawaited(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what nobody awaits, as an event loop's exception handler, by its class: its text may hold anything.

    aiokafka leaves the futures of a failed transaction to nobody; the failure itself was raised where it was awaited.
    What is no error is about something that a client left open which did not stop in time.
    """
    error = context.get("exception")
    if error is None:
        log.info("left_open", what=context["message"])
    elif not isinstance(error, KafkaError | TransactionError):
        log.error("unexpected_error", what=context["message"], error=type(error).__name__)


def inner(client: Any) -> Any:
    """Return what makes a client's connections."""
    return client.client if isinstance(client, AIOKafkaProducer) else client._client  # ruff: ignore[private-member-access] - there is no public way to it


class Consumer(AIOKafkaConsumer):  # type: ignore[misc]  # aiokafka has no types
    """A consumer that does not go deaf without a word.

    aiokafka fetches, and asks for metadata, in tasks of its own. Where one ends over an error that it does not expect,
    `getmany` has nothing from then on, for ever.
    """

    async def getmany(self, *partitions: TopicPartition, **how: Any) -> dict[TopicPartition, list[ConsumerRecord]]:
        """Return what has come, as aiokafka does; raises KafkaError, also where nothing can come any more."""
        for routine in (self._fetcher._fetch_task, self._client._sync_task):  # ruff: ignore[private-member-access] - there is no public way to them
            if routine.done():
                cause = None if routine.cancelled() else routine.exception()
                raise KafkaError("nothing is fetched any more") from cause
        read: dict[TopicPartition, list[ConsumerRecord]] = await super().getmany(*partitions, **how)
        return read

    async def stop(self) -> None:
        """Stop, and close the connections also where one of the tasks ends in an error."""
        try:
            await super().stop()
        finally:
            await self._client.close()


def linger(consumer: AIOKafkaConsumer, milliseconds: int) -> None:
    """Have the broker answer a fetch after so many milliseconds if there is nothing to send.

    aiokafka has one fetch under way to a broker. That for a partition without records holds up those that have some,
    which are asked for only when what came of them before has been handled.
    """
    consumer._fetcher._fetch_max_wait_ms = milliseconds  # ruff: ignore[private-member-access] - public only at the start


class AnyBroker(AIOKafkaAdminClient):  # type: ignore[misc]  # aiokafka has no types
    """An admin client that asks the next broker where one is away; everything asked may be asked twice."""

    async def _send_request(self, request: Any, node_id: int | None = None) -> Any:
        known = [broker.nodeId for broker in self._client.cluster.brokers()]
        nodes = [node_id] if node_id is not None else random.sample(known, len(known))
        for node in nodes[:-1]:
            with suppress(NodeNotReadyError, KafkaConnectionError, RequestTimedOutError):
                return await self._client.send(node, request)
        return await self._client.send(nodes[-1], request)
