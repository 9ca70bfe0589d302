"""Kafka's clients as the tasks need them: every wait bounded, every error told apart, no half-known outcome.

Guarantees that aiokafka does not give by itself, each beside the code that gives it:

- a record that the broker rejects fails the transaction (aiokafka would commit without it);
- EndTxn is sent once: what became of an unanswered one is unknown, and sending it again under the same epoch can end
  the next transaction instead (the torn transaction of Jepsen's analysis of Bufstream 0.1.0);
- `stop()` of a client never hangs its caller.
"""

import asyncio
import random
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import chain
from typing import Any, Final, TypeVar

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    InvalidProducerEpoch,
    InvalidTopicError,
    KafkaConnectionError,
    KafkaError,
    NodeNotReadyError,
    NotCoordinatorForGroupError,
    ProducerFenced,
    RequestTimedOutError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.producer.sender import EndTxnHandler
from aiokafka.structs import ConsumerRecord, OffsetAndMetadata

from worker import security
from worker.errors import ConfigError, FencedError, KafkaUnavailableError, StateError, TopicError, TransactionError
from worker.events import Headers
from worker.settings import KafkaSettings
from worker.topics import Found, Plan, Topics, TopicSpec, partition_of, plan
from worker.wire import GroupsRequest, TopicsRequest

log = structlog.get_logger()

Encoded = tuple[bytes | None, bytes | None, Headers]
Outputs = Mapping[tuple[str, int], Sequence[Encoded]]
Answer = TypeVar("Answer")

CLOSE_TIMEOUT: Final = 5.0
_BATCH_BYTES: Final = 128 * 1024  # larger ones do not stay in the caches: aiokafka copies a request six times
_FENCED: Final = (ProducerFenced, InvalidProducerEpoch)
_NOT_YET: Final = (GroupCoordinatorNotAvailableError, GroupLoadInProgressError, NotCoordinatorForGroupError)
_PATIENCE: Final = 10.0
_NOT_ALLOWED: Final = TopicAuthorizationFailedError
_NO_TOPIC: Final = (UnknownTopicOrPartitionError, InvalidTopicError)
_TRANSACTION: Final = 1  # the kind of coordinator
_LOOK_MS: Final = 1_000
_LOOKED_AT: Final = 2_000
_APPEAR_SECONDS: Final = 0.05
_TOPIC_CONFIG_SOURCE: Final = 1  # DYNAMIC_TOPIC_CONFIG in DescribeConfigs


# How often a position is kept that nothing but ends of transactions has moved, in seconds.
MARKERS_SECONDS: Final = 300.0


def emptied(position: int, start: int, end: int) -> bool:
    """Return whether retention has emptied a partition of which all but the last offset was handled.

    As a rule that offset is the end of a transaction, which is no record, but takes an offset as records do.
    """
    return position == start - 1 and start == end


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


def _inner(client: Any) -> Any:
    """Return what makes a client's connections."""
    return client.client if isinstance(client, AIOKafkaProducer) else client._client  # ruff: ignore[private-member-access] - there is no public way to it


class _Consumer(AIOKafkaConsumer):  # type: ignore[misc]  # aiokafka has no types
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
        security.RenewingClient.take(_inner(client), self.settings)
        try:
            async with asyncio.timeout(self.settings.start_timeout):
                await client.start()
        except BaseException as error:
            closing = client.close() if isinstance(client, AIOKafkaAdminClient) else client.stop()
            await bounded_stop(closing, what)
            if isinstance(error, _FENCED):
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
    async def admin(self) -> AsyncGenerator["Admin"]:
        """Open an admin client; raises KafkaUnavailableError."""
        client = _AnyBroker(**self._common())
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
        consumer = _Consumer(
            **self._common(),
            group_id=group,
            enable_auto_commit=False,
            isolation_level="read_committed" if committed else "read_uncommitted",
            **({"auto_offset_reset": "none"} | more),
        )
        await self._start(consumer, "consumer")
        return consumer

    async def demand(self, client: AIOKafkaConsumer | AIOKafkaProducer | AIOKafkaAdminClient, *topics: str) -> None:
        """Raise TopicError for topics of ours that are not there, or that have another number of partitions.

        A client would wait for them in vain and not say why, or leave out what is in the others.
        Raises KafkaUnavailableError.
        """
        try:
            there = await _inner(client).fetch_all_metadata()
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
        probe = await self.consumer(committed=False)
        try:
            found: dict[TopicPartition, int] = await probe.end_offsets(where)
        finally:
            await bounded_stop(probe.stop(), "probe")
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

    async def producer(self, transactional_id: str) -> "TransactionalProducer":
        """Start a producer, which fences every earlier one of the same id and ends its open transaction.

        Raises KafkaUnavailableError, FencedError; ConfigError under `python -O`.
        """
        if sys.flags.optimize:
            raise ConfigError(["Python runs with -O, which removes checks that aiokafka's transactions rest on"])
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
        except _FENCED as error:
            raise _fenced(transactional_id) from error
        return TransactionalProducer(client, transactional_id, settings)


def unreadable(topic: str, error: Exception) -> KafkaUnavailableError:
    """Return what to raise, from `error`, where a topic cannot be read."""
    hint = None
    if isinstance(error, TopicAuthorizationFailedError):
        hint = "`rollcall acls operator` prints the rights of who looks after a deployment; a worker has fewer."
    return KafkaUnavailableError(f"{topic} cannot be read ({type(error).__name__})", hint=hint)


def linger(consumer: AIOKafkaConsumer, milliseconds: int) -> None:
    """Have the broker answer a fetch after so many milliseconds if there is nothing to send.

    aiokafka has one fetch under way to a broker. That for a partition without records holds up those that have some,
    which are asked for only when what came of them before has been handled.
    """
    consumer._fetcher._fetch_max_wait_ms = milliseconds  # ruff: ignore[private-member-access] - public only at the start


async def undecodable(consumer: AIOKafkaConsumer, inputs: Iterable[TopicPartition]) -> StateError:
    """Return what is to be said where a record cannot be decoded: aiokafka does not say which one it is.

    It reads no record, and none after it in the same batch, that has a header whose name is not UTF-8.
    """
    place = "an input"
    for where in inputs:
        try:
            consumer.resume(where)
            for _ in range(_LOOKED_AT):
                if not await consumer.getmany(where, timeout_ms=_LOOK_MS, max_records=1):
                    break
        except UnicodeDecodeError:
            place = (
                f"{where.topic}, partition {where.partition}, offset {await consumer.position(where)} or soon after,"
            )
            break
    message = f"{place} has a header whose name is not UTF-8: it cannot be read"
    hint = "Another program has written there: `rollcall acls` says who may. docs/recover.md says how to go on."
    return StateError(message, hint=hint)


def _fenced(transactional_id: str) -> FencedError:
    return FencedError(f"the producer {transactional_id} was fenced: another worker owns its partition now")


class _EndTxnOnce(EndTxnHandler):  # type: ignore[misc]  # aiokafka has no types
    """EndTxn that is never sent again after an answer was lost."""

    def handle_error(self) -> float:
        message = "the answer to EndTxn was lost"
        raise TransactionError(message)

    async def do(self, node_id: int) -> Any:
        try:
            response = await self._sender.client.send(node_id, self.create_request(), group=self.group)
        except KafkaError as error:
            message = f"the answer to EndTxn was lost ({type(error).__name__})"
            raise TransactionError(message) from error
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
        client._sender._do_txn_commit = self._end_once  # ruff: ignore[private-member-access] - see the module's second guarantee

    async def _end_once(self, commit_result: int) -> None:
        sender = self._client._sender  # ruff: ignore[private-member-access]
        node = await sender._find_coordinator(_TRANSACTION, self._id)  # ruff: ignore[private-member-access]
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
        except _FENCED as error:
            raise _fenced(self._id) from error
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
            message = f"the topics' metadata is not to be had ({type(error).__name__})"
            raise KafkaUnavailableError(message) from error

    async def close(self) -> None:
        """Close, without waiting for what cannot end."""
        await bounded_stop(self._stop(), f"producer {self._id}")

    async def _stop(self) -> None:
        try:
            await self._client.stop()
        finally:
            await self._client.client.close()


async def _patiently(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    """Ask until a coordinator answers: a new cluster makes the topics that they keep when it is first asked for one."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return await ask()
        except _NOT_YET:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(_APPEAR_SECONDS)


class _AnyBroker(AIOKafkaAdminClient):  # type: ignore[misc]  # aiokafka has no types
    """An admin client that asks the next broker where one is away; everything asked may be asked twice."""

    async def _send_request(self, request: Any, node_id: int | None = None) -> Any:
        known = [broker.nodeId for broker in self._client.cluster.brokers()]
        nodes = [node_id] if node_id is not None else random.sample(known, len(known))
        for node in nodes[:-1]:
            with suppress(NodeNotReadyError, KafkaConnectionError, RequestTimedOutError):
                return await self._client.send(node, request)
        return await self._client.send(nodes[-1], request)


class Admin:
    """What Rollcall asks of a cluster; `client` asks what else there is to ask."""

    def __init__(self, client: AIOKafkaAdminClient, settings: KafkaSettings) -> None:
        """Wrap a started `client`."""
        self.client = client
        self.network = client._client  # ruff: ignore[private-member-access] - sends what the admin client has no method for
        self._settings = settings

    async def found(self, names: Iterable[str]) -> dict[str, Found]:
        """Return, of the topics `names`, those that exist, with partition count and settings.

        Raises TopicError for one that may not be looked at: nobody can tell whether it is there.
        """
        counts = {}
        for row in await self.client.describe_topics(list(names)):
            error = for_code(row["error_code"])
            if row["error_code"] and error not in _NO_TOPIC:
                hint = "Does this principal have DESCRIBE on the topic?" if error is _NOT_ALLOWED else None
                raise TopicError(f"topic {row['topic']} cannot be looked at: {error.__name__}", hint=hint)
            if not row["error_code"]:
                counts[row["topic"]] = len(row["partitions"])
        return {name: Found(counts[name], config) for name, config in (await self._configs(list(counts))).items()}

    async def _configs(self, names: Sequence[str], *, own_only: bool = False) -> dict[str, dict[str, str]]:
        """Return the settings of topics, `own_only` without the defaults; of those that are still there."""
        if not names:
            return {}
        resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
        configs: dict[str, dict[str, str]] = {}
        for response in await self.client.describe_configs(resources):
            for code, message, _, name, entries in response.resources:
                if not code:
                    configs[name] = {
                        entry[0]: entry[1] for entry in entries if not own_only or entry[3] == _TOPIC_CONFIG_SOURCE
                    }
                elif for_code(code) not in _NO_TOPIC:
                    what = f"the settings of topic {name} cannot be read: {message or for_code(code).__name__}"
                    raise TopicError(what)
        return configs

    async def members(self, group: str) -> int:
        """Return how many members a consumer group has; none where there is no such group."""
        _, _, _, _, _, members, *_ = await self.group(group)
        return len(members)

    async def group(self, name: str) -> tuple[Any, ...]:
        """Return what the cluster says of a consumer group, as `GroupsRequest` has it; raises KafkaError."""
        return await _patiently(partial(self._group, name))

    async def _group(self, name: str) -> tuple[Any, ...]:
        node = await self.client.find_coordinator(name)
        row: tuple[Any, ...] = (await self.network.send(node, GroupsRequest([name]))).groups[0]
        if row[0]:
            message = f"{name} cannot be described"
            raise for_code(row[0])(message)
        return row

    async def coordinator(self, transactional_id: str) -> int:
        """Return the node that looks after a transactional id; raises KafkaError."""
        node: int = await _patiently(partial(self.client.find_coordinator, transactional_id, _TRANSACTION))
        return node

    async def create(self, specs: Sequence[TopicSpec]) -> frozenset[str]:
        """Create topics; return the names of those that were there already, which are left alone. Raises TopicError."""
        if not specs:
            return frozenset()
        brokers = len((await self.client.describe_cluster())["brokers"])
        replicas = self._settings.replication or min(3, brokers)
        new = [NewTopic(spec.name, spec.partitions, replicas, topic_configs=spec.settings) for spec in specs]
        response = await self.client.create_topics(new)
        there = set()
        for name, code, *more in response.topic_errors:
            if for_code(code) is TopicAlreadyExistsError:
                there.add(name)
            elif code:
                reason = (more[0] if more else None) or for_code(code).__name__
                hint = "Does this principal have CREATE on the topic?" if for_code(code) is _NOT_ALLOWED else None
                message = f"topic {name} cannot be created: {reason}"
                raise TopicError(message, hint=hint)
        await self._appear({spec.name for spec in specs})
        return frozenset(there)

    async def renew(self, spec: TopicSpec) -> None:
        """Delete a topic with all that is on it, and make it anew; one that is away is made. Raises TopicError."""
        before = await self._id(spec.name)
        response = await self.client.delete_topics([spec.name])
        for name, code in response.topic_error_codes:
            if code and for_code(code) is not UnknownTopicOrPartitionError:
                hint = "Does this principal have DELETE on the topic?" if for_code(code) is _NOT_ALLOWED else None
                message = f"topic {name} cannot be deleted: {for_code(code).__name__}"
                raise TopicError(message, hint=hint)
        async with asyncio.timeout(self._settings.request_timeout):
            while await self.create([spec]):  # brokers with ZooKeeper delete it a moment later
                await asyncio.sleep(_APPEAR_SECONDS)
            while await self._id(spec.name) in {None, before}:  # what has appeared may still be the old one
                await asyncio.sleep(_APPEAR_SECONDS)

    async def _id(self, name: str) -> str | None:
        """Return the id of a topic as a broker knows it, None of one that it does not know."""
        response = await self.client._send_request(TopicsRequest([name]))  # ruff: ignore[private-member-access]
        return next((id_.hex() for code, _, id_, *_ in response.topics if not code), None)

    async def _appear(self, names: set[str]) -> None:
        """Wait until topics that were just made are known to the brokers: they hear of it a moment later."""
        async with asyncio.timeout(self._settings.request_timeout):
            while True:
                rows = await self.client.describe_topics(list(names))
                if names <= {row["topic"] for row in rows if not row["error_code"]}:
                    return
                await asyncio.sleep(_APPEAR_SECONDS)

    async def alter(self, changes: Mapping[str, Mapping[str, str]]) -> None:
        """Set settings of topics, leaving their other settings as they are. Raises TopicError."""
        if not changes:
            return
        own = await self._configs(list(changes), own_only=True)  # AlterConfigs replaces them all
        resources = [
            ConfigResource(ConfigResourceType.TOPIC, name, configs={**own.get(name, {}), **settings})
            for name, settings in changes.items()
        ]
        for response in await self.client.alter_configs(resources):
            for code, message, _, name in response.resources:
                if code:
                    what = f"topic {name} cannot be changed: {message or for_code(code).__name__}"
                    raise TopicError(what)

    async def topic_ids(self, names: Sequence[str]) -> tuple[str, dict[str, str]]:
        """Return the cluster's id and, by name, the ids of topics; raises TopicError for one that does not exist."""
        response = await self.client._send_request(TopicsRequest(names))  # ruff: ignore[private-member-access]
        ids = {}
        for code, name, topic_id, *_ in response.topics:
            if code:
                message = f"topic {name} cannot be used: {for_code(code).__name__}"
                raise TopicError(message, hint="`rollcall topics apply` makes the topics.")
            ids[name] = topic_id.hex()
        return response.cluster_id, ids


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
