"""What Rollcall asks of a cluster: topics, their settings and ids, groups and coordinators."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.client import CoordinationType
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    InvalidTopicError,
    NotCoordinatorForGroupError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)

from worker.errors import TopicError
from worker.settings import KafkaSettings
from worker.topics import Found, TopicSpec
from worker.wire import GroupsRequest, TopicsRequest

Answer = TypeVar("Answer")

_NOT_YET: Final = (GroupCoordinatorNotAvailableError, GroupLoadInProgressError, NotCoordinatorForGroupError)
_PATIENCE: Final = 10.0
_NOT_ALLOWED: Final = TopicAuthorizationFailedError
_NO_TOPIC: Final = (UnknownTopicOrPartitionError, InvalidTopicError)
_APPEAR_SECONDS: Final = 0.05
_TOPIC_CONFIG_SOURCE: Final = 1  # DYNAMIC_TOPIC_CONFIG in DescribeConfigs


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
            raise for_code(row[0])(f"{name} cannot be described")
        return row

    async def coordinator(self, transactional_id: str) -> int:
        """Return the node that looks after a transactional id; raises KafkaError."""
        node: int = await _patiently(
            partial(self.client.find_coordinator, transactional_id, CoordinationType.TRANSACTION)
        )
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
                raise TopicError(f"topic {name} cannot be created: {reason}", hint=hint)
        await self._appear({spec.name for spec in specs})
        return frozenset(there)

    async def renew(self, spec: TopicSpec) -> None:
        """Delete a topic with all that is on it, and make it anew; one that is away is made. Raises TopicError."""
        before = await self._id(spec.name)
        response = await self.client.delete_topics([spec.name])
        for name, code in response.topic_error_codes:
            if code and for_code(code) is not UnknownTopicOrPartitionError:
                hint = "Does this principal have DELETE on the topic?" if for_code(code) is _NOT_ALLOWED else None
                raise TopicError(f"topic {name} cannot be deleted: {for_code(code).__name__}", hint=hint)
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
                    raise TopicError(f"topic {name} cannot be changed: {message or for_code(code).__name__}")

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
