"""How to reach a cluster: makes the clients, and says why one cannot be had."""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import chain
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaConnectionError, KafkaError

from worker import security
from worker.errors import ConfigError, KafkaUnavailableError, TopicError
from worker.events import Headers
from worker.kafka.admin import Admin
from worker.kafka.clients import AnyBroker, Consumer, bounded_stop, inner
from worker.kafka.producer import FENCED, TransactionalProducer, demand_assertions, fenced
from worker.settings import KafkaSettings
from worker.topics import Plan, Topics, partition_of, plan

_BATCH_BYTES: Final = 128 * 1024  # larger ones do not stay in the caches: aiokafka copies a request six times


class Connection:
    """How to reach the cluster; makes the clients."""

    def __init__(self, settings: KafkaSettings) -> None:
        """Use `settings`; credentials are read anew for each connection, so that a rotated one is taken up."""
        self.settings = settings
        self._tokens = None if settings.oauth is None else security.Tokens(settings.oauth)

    def _common(self) -> dict[str, Any]:
        settings = self.settings
        try:
            return {
                "bootstrap_servers": settings.bootstrap,
                "security_protocol": settings.security_protocol,
                "ssl_context": security.tls(settings),
                "request_timeout_ms": int(settings.request_timeout * 1000),
                **security.credentials(settings, self._tokens),
            }
        except ConfigError as error:  # a worker that runs does not end over a file that is being replaced
            raise KafkaUnavailableError(f"Kafka at {settings.bootstrap} cannot be used: {error.problems[0]}") from error

    def _explain(self, error: Exception) -> KafkaUnavailableError:
        settings = self.settings
        what = str(error) or type(error).__name__
        message = f"Kafka at {settings.bootstrap} ({settings.security_protocol}) cannot be used: {what}"
        return KafkaUnavailableError(message, hint=security.hint(error))

    async def _start(self, client: Any, what: str) -> None:
        """Start a client; raises KafkaUnavailableError, and what says that a producer was fenced as it is."""
        security.RenewingClient.take(inner(client), self.settings)
        try:
            async with asyncio.timeout(self.settings.start_timeout):
                await client.start()
        except BaseException as error:
            closing = client.close() if isinstance(client, AIOKafkaAdminClient) else client.stop()
            await bounded_stop(closing, what)
            if isinstance(error, FENCED):
                raise
            # RuntimeError: every KafkaError, and a connection that was reset while it was made (see AskingConnection).
            if isinstance(error, TimeoutError | OSError | RuntimeError):
                raise self._explain(await self._reason(error)) from error
            raise

    async def _reason(self, error: Exception) -> Exception:
        """Return why a client has not started: where it could not connect, it does not say it itself."""
        if self.settings.security_protocol == "PLAINTEXT" or not isinstance(error, KafkaConnectionError):
            return error
        return await security.refusal(self._common()) or error

    @asynccontextmanager
    async def admin(self) -> AsyncGenerator[Admin]:
        """Open an admin client; raises KafkaUnavailableError."""
        client = AnyBroker(**self._common())
        await self._start(client, "admin")
        try:
            yield Admin(client, self.settings)
        except (KafkaError, TimeoutError) as error:
            raise self._explain(error) from error
        finally:
            await bounded_stop(client.close(), "admin")

    async def consumer(self, *, committed: bool = True, group: str | None = None, **more: Any) -> AIOKafkaConsumer:
        """Start a consumer that commits nothing by itself; raises KafkaUnavailableError.

        `committed`: see only what was committed (`read_committed`). `group`: to be a member of that group.
        """
        consumer = Consumer(
            **self._common(),
            group_id=group,
            enable_auto_commit=False,
            isolation_level="read_committed" if committed else "read_uncommitted",
            **({"auto_offset_reset": "none"} | more),
        )
        await self._start(consumer, "consumer")
        return consumer

    @asynccontextmanager
    async def reader(self, what: str, **how: Any) -> AsyncGenerator[AIOKafkaConsumer]:
        """Start a consumer (`how` as `consumer` takes it), and stop it after the block; `what` it is, for the log."""
        consumer = await self.consumer(**how)
        try:
            yield consumer
        finally:
            await bounded_stop(consumer.stop(), what)

    async def demand(self, client: AIOKafkaConsumer | AIOKafkaProducer | AIOKafkaAdminClient, *topics: str) -> None:
        """Raise TopicError for topics of ours that are not there, or that have another number of partitions.

        A client would wait for them in vain and not say why, or leave out what is in the others.
        Raises KafkaUnavailableError.
        """
        try:
            there = await inner(client).fetch_all_metadata()
        except (KafkaError, TimeoutError, OSError) as error:
            raise self._explain(error) from error
        missing = sorted(set(topics) - there.topics())
        if missing:
            hint = "Are kafka.bootstrap and the prefix right? `rollcall topics plan` shows what is missing of ours."
            raise TopicError(f"there is no topic {', '.join(missing)}", hint=hint)
        ours = self.settings.partitions
        for topic in topics:
            if (theirs := len(there.partitions_for_topic(topic) or ())) != ours:
                hint = "Set kafka.partitions as the workers have it: what is where follows from it."
                raise TopicError(f"topic {topic} has {theirs} partitions, the configuration says {ours}", hint=hint)

    async def ends(self, where: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the ends of partitions as a `read_uncommitted` consumer sees them.

        What was committed by now lies before them. A `read_committed` consumer's own ends may still lie before that:
        the markers of a transaction are written a moment after its commit was answered.
        """
        async with self.reader("probe", committed=False) as probe:
            found: dict[TopicPartition, int] = await probe.end_offsets(where)
        return found

    async def publish(
        self,
        topics: Topics,
        records: Iterable[tuple[str, bytes, bytes | None, *tuple[Headers, ...]]],
        partitions: Sequence[int] | None = None,
    ) -> None:
        """Publish records, each once and durably, and wait until the brokers have taken all of them.

        A record is (topic, key, value) or (topic, key, value, headers). All topics have the same number of partitions,
        so the key alone leads to the addressee; where it does not, `partitions` has the partition of each record.
        Raises KafkaUnavailableError, TopicError.
        """
        size = max(self.settings.max_record_bytes, 1024 * 1024)  # the latter is aiokafka's, whatever the topics allow
        client = AIOKafkaProducer(**self._common(), enable_idempotence=True, max_request_size=size)
        await self._start(client, "publisher")
        sending = list(records)
        where = [partition_of(key, topics.partitions) for _, key, *_ in sending] if partitions is None else partitions
        try:
            await self.demand(client, *(topic for topic, *_ in sending))
            async with asyncio.timeout(self.settings.request_timeout):
                sent = [
                    await client.send(topic, value, key, partition, headers=list(chain(*more)))
                    for (topic, key, value, *more), partition in zip(sending, where, strict=True)
                ]
                await asyncio.gather(*sent)
        except (KafkaError, TimeoutError) as error:
            raise self._explain(error) from error
        finally:
            await bounded_stop(client.stop(), "publisher")

    async def producer(self, transactional_id: str) -> TransactionalProducer:
        """Start a producer, which fences every earlier one of the same id and ends its open transaction.

        Raises KafkaUnavailableError, FencedError; ConfigError under `python -O`.
        """
        demand_assertions()
        settings = self.settings
        client = AIOKafkaProducer(
            **self._common(),
            transactional_id=transactional_id,
            transaction_timeout_ms=int(settings.transaction_timeout * 1000),
            max_batch_size=_BATCH_BYTES,
            max_request_size=settings.max_record_bytes,
            compression_type=None if settings.compression == "none" else settings.compression,
            retry_backoff_ms=20,
        )
        try:
            await self._start(client, f"producer {transactional_id}")
        except FENCED as error:
            raise fenced(transactional_id) from error
        return TransactionalProducer(client, transactional_id, settings)


async def plan_topics(settings: KafkaSettings, topics: Topics) -> Plan:
    """Return what the cluster lacks of the declared topics; raises KafkaUnavailableError, TopicError."""
    declared = topics.declared()
    async with Connection(settings).admin() as admin:
        return plan(declared, await admin.found(spec.name for spec in declared))


async def apply_topics(settings: KafkaSettings, topics: Topics) -> Plan:
    """Make and mend the topics; return what was done, and what cannot be.

    What somebody else has made in the meantime is looked at again: it may lack something.
    """
    wanted = await plan_topics(settings, topics)
    async with Connection(settings).admin() as admin:
        there = await admin.create(wanted.create)
        if there:
            late = [spec for spec in wanted.create if spec.name in there]
            wanted = wanted.with_late(late, plan(late, await admin.found(there)))
        await admin.alter(wanted.alter)
    return wanted
