"""The transactional producer: commits all that it was given, or raises; what became of it is never half known."""

import asyncio
import sys
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.client import CoordinationType
from aiokafka.errors import InvalidProducerEpoch, KafkaError, ProducerFenced
from aiokafka.producer.sender import EndTxnHandler
from aiokafka.structs import OffsetAndMetadata

from worker.errors import ConfigError, FencedError, KafkaUnavailableError, TransactionError
from worker.events import Headers
from worker.kafka.clients import bounded_stop
from worker.settings import KafkaSettings

Encoded = tuple[bytes | None, bytes | None, Headers]
Outputs = Mapping[tuple[str, int], Sequence[Encoded]]

FENCED: Final = (ProducerFenced, InvalidProducerEpoch)


def demand_assertions() -> None:
    """Raise ConfigError under `python -O`."""
    if sys.flags.optimize:
        raise ConfigError(["Python runs with -O, which removes checks that aiokafka's transactions rest on"])


def fenced(transactional_id: str) -> FencedError:
    """Return what to raise where the producer of this id was fenced."""
    return FencedError(f"the producer {transactional_id} was fenced: another worker owns its partition now")


class _EndTxnOnce(EndTxnHandler):  # type: ignore[misc]  # aiokafka has no types
    """EndTxn that is never sent again after an answer was lost."""

    def handle_error(self) -> float:
        raise TransactionError("the answer to EndTxn was lost")

    async def do(self, node_id: int) -> Any:
        try:
            response = await self._sender.client.send(node_id, self.create_request(), group=self.group)
        except KafkaError as error:
            raise TransactionError(f"the answer to EndTxn was lost ({type(error).__name__})") from error
        backoff = self.handle_response(response)
        if backoff is not None:  # refused before it was carried out: the coordinator moved, or is still busy
            await asyncio.sleep(backoff)
        return backoff is None


class TransactionalProducer:
    """The one producer of a task. After any error it must be closed; another one restores what is true."""

    def __init__(self, client: AIOKafkaProducer, transactional_id: str, settings: KafkaSettings) -> None:
        """Wrap a started `client`."""
        self._client = client
        self._id = transactional_id
        self._settings = settings
        client._sender._do_txn_commit = self._end_once  # ruff: ignore[private-member-access] - see the second guarantee of worker.kafka

    async def _end_once(self, commit_result: int) -> None:
        sender = self._client._sender  # ruff: ignore[private-member-access]
        node = await sender._find_coordinator(CoordinationType.TRANSACTION, self._id)  # ruff: ignore[private-member-access]
        await _EndTxnOnce(sender, commit_result).do(node)

    async def transact(
        self,
        outputs: Outputs,
        offsets: Mapping[TopicPartition, int],
        group: str,
    ) -> dict[tuple[str, int], int]:
        """Write `outputs` and the group's `offsets` in one transaction, and commit it.

        `outputs` is by (topic, partition). Returns, by the same, the offset after the last record. Raises FencedError,
        or TransactionError when the outcome is unknown or nothing; nothing may be sent by this producer after either.
        """
        try:
            async with asyncio.timeout(self._settings.commit_timeout):
                await self._client.begin_transaction()
                ends = await self._deliver(outputs)
                if offsets:  # after the records: both at once costs a retry's back-off
                    await self._client.send_offsets_to_transaction(
                        {partition: OffsetAndMetadata(offset, "") for partition, offset in offsets.items()}, group
                    )
                await self._client.commit_transaction()
        except FENCED as error:
            raise fenced(self._id) from error
        except TransactionError:
            raise
        except TimeoutError as error:
            seconds = self._settings.commit_timeout
            message = f"a transaction of {self._id} had not ended after {seconds:g} s (kafka.commit_timeout)"
            hint = "Is a broker away, or too few replicas of a topic in sync? What became of it is read from Kafka."
            raise TransactionError(message, hint=hint) from error
        except (KafkaError, OSError, AssertionError) as error:
            # aiokafka's own words for whatever ends its sender say nothing: an answer to EndTxn that was lost, mostly.
            known = error.__cause__ if isinstance(error.__cause__, TransactionError) else error
            message = f"a transaction of {self._id} failed: {str(known) or type(known).__name__}"
            raise TransactionError(message) from error
        return ends

    async def _deliver(self, outputs: Outputs) -> dict[tuple[str, int], int]:
        """Send every record and wait until the broker has taken each: a failed send must fail the transaction."""
        queues = {where: list(self._batches(records)) for where, records in outputs.items() if records}
        sent: list[tuple[tuple[str, int], int, Awaitable[Any]]] = []
        while queues:  # the first batch of every partition, then the second: they travel together
            for where, batches in list(queues.items()):
                batch = batches.pop(0)
                count = batch.record_count()
                sent.append((where, count, await self._client.send_batch(batch, where[0], partition=where[1])))
                if not batches:
                    del queues[where]
        answers = await asyncio.gather(*(future for _, _, future in sent))
        if any(answer.offset < 0 for answer in answers):  # aiokafka's success where the broker saw a batch twice
            message = f"a transaction of {self._id} failed: the broker does not say where its records stand"
            raise TransactionError(message)
        return {where: answer.offset + count for (where, count, _), answer in zip(sent, answers, strict=True)}

    def _batches(self, records: Iterable[Encoded]) -> Iterable[Any]:
        batch = self._client.create_batch()
        for key, value, headers in records:
            if batch.append(timestamp=None, key=key, value=value, headers=headers) is None:
                yield batch
                batch = self._client.create_batch()
                batch.append(timestamp=None, key=key, value=value, headers=headers)
        yield batch

    async def know(self, topics: Iterable[str]) -> None:
        """Have the metadata of `topics` at hand, so that no send waits for it; raises KafkaUnavailableError."""
        try:
            async with asyncio.timeout(self._settings.request_timeout):
                for topic in topics:
                    await self._client.partitions_for(topic)
        except (KafkaError, TimeoutError) as error:
            raise KafkaUnavailableError(f"the topics' metadata is not to be had ({type(error).__name__})") from error

    async def close(self) -> None:
        """Close, without waiting for what cannot end."""
        await bounded_stop(self._stop(), f"producer {self._id}")

    async def _stop(self) -> None:
        try:
            await self._client.stop()
        finally:
            await self._client.client.close()
