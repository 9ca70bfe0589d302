"""What our principal may do in Kafka, asked of the cluster itself, and the cluster's clock. Changes nothing.

Topics, groups and the cluster say which operations they allow us (KIP-430). A transactional id does not: it is tried by
ending a transaction of a producer that cannot exist, which the coordinator refuses before it looks at any state, with
one answer where we may write under that id and another where we may not.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Final

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError, for_code
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.transaction import EndTxnRequest

from worker.acls import Grant, Operation
from worker.wire import GroupsRequest, QuorumRequest, TopicsRequest

# AclOperation's codes are the positions of the bits (KIP-430).
_BITS: Final[dict[Operation, int]] = {
    "Read": 3,
    "Write": 4,
    "Create": 5,
    "Delete": 6,
    "Describe": 8,
    "DescribeConfigs": 10,
    "AlterConfigs": 11,
}
_TRANSACTION: Final = 1
_GROUP: Final = 0
_NO_PRODUCER: Final = 2**62
_NOT_AUTHORIZED: Final = frozenset({29, 30, 31, 53})  # of a topic, a group, the cluster, a transactional id
_UNKNOWN_TOPIC: Final = 3
_NOT_YET: Final = frozenset({14, 15, 16})  # a coordinator is loading, not there yet, or has moved
_PATIENCE: Final = 10.0
_PAUSE: Final = 0.2


class Rights:
    """Asks one cluster; `client` is started and stays the caller's."""

    def __init__(self, client: AIOKafkaClient) -> None:
        """Ask by `client`."""
        self._client = client

    async def missing(self, wanted: Iterable[Grant]) -> list[tuple[Grant, frozenset[Operation]]]:
        """Return which of the wanted operations are refused to us, by resource; raises KafkaError."""
        given = list(wanted)
        topics = await self._topics([one.name for one in given if one.resource == "topic"])
        found = []
        for one in given:
            match one.resource:
                case "topic":
                    allowed = topics[one.name]
                case "cluster":
                    allowed = await self._cluster()
                case "group":
                    allowed = await self._group(one.name)
                case "transactional-id":
                    allowed = await self._transactional_id(f"{one.name}0" if one.prefixed else one.name)
            if refused := one.operations - allowed:
                found.append((one, refused))
        return found

    async def clock(self) -> tuple[int, int] | None:
        """Return (the cluster's time, ours at that moment) in ms since the epoch, None where it does not tell us."""
        before = time.time_ns()
        try:
            answer = await self._client.send(self._client.get_random_node(), QuorumRequest())
        except (KafkaError, NotImplementedError):  # older than Kafka 3.3, or without KRaft
            return None
        ours = (before + time.time_ns()) // 2_000_000
        for _, partitions, _ in answer.topics:
            for _, code, leader, _, _, voters, *_ in partitions:
                times = [caught_up for replica, _, _, caught_up, _ in voters if replica == leader]
                if not code and times and times[0] > 0:
                    return times[0], ours
        return None

    async def _topics(self, names: Sequence[str]) -> dict[str, frozenset[Operation]]:
        answer = await self._client.send(self._client.get_random_node(), TopicsRequest(names, rights=True))
        allowed = dict.fromkeys(names, frozenset[Operation]())
        for code, name, _, _, _, bits, _ in answer.topics:
            if code == _UNKNOWN_TOPIC:  # whoever may not describe it is told something else; no more can be known
                allowed[name] = frozenset(_BITS)
            elif code not in _NOT_AUTHORIZED:
                allowed[name] = _operations(bits)
        return allowed

    async def _cluster(self) -> frozenset[Operation]:
        answer = await self._client.send(self._client.get_random_node(), TopicsRequest([], rights=True))
        return _operations(answer.cluster_authorized_operations)

    async def _group(self, name: str) -> frozenset[Operation]:
        deadline = time.monotonic() + _PATIENCE
        while True:
            node, code = await self._coordinator(name, _GROUP)
            if not code:
                code, *_, bits, _ = (await self._client.send(node, GroupsRequest([name]))).groups[0]
            if not code:
                return _operations(bits)
            if code in _NOT_AUTHORIZED:
                return frozenset()
            await _pause(code, name, deadline)

    async def _transactional_id(self, name: str) -> frozenset[Operation]:
        node, code = await self._coordinator(name, _TRANSACTION)
        if code in _NOT_AUTHORIZED:
            return frozenset()
        answer = await self._client.send(node, EndTxnRequest(name, _NO_PRODUCER, 0, False))
        return frozenset({"Describe"}) if answer.error_code in _NOT_AUTHORIZED else frozenset({"Write", "Describe"})

    async def _coordinator(self, name: str, kind: int) -> tuple[int, int]:
        """Return (node, 0) or (-1, why we may not know); a new cluster first has to make the coordinators' topics."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            answer = await self._client.send(self._client.get_random_node(), FindCoordinatorRequest(name, kind))
            if not answer.error_code or answer.error_code in _NOT_AUTHORIZED:
                return answer.coordinator_id, answer.error_code
            await _pause(answer.error_code, name, deadline)


async def _pause(code: int, name: str, deadline: float) -> None:
    """Wait before a coordinator is asked again; raises the error where that is no use, or has lasted too long."""
    if code not in _NOT_YET or time.monotonic() > deadline:
        raise for_code(code)(f"{name} cannot be described")
    await asyncio.sleep(_PAUSE)


def _operations(bits: int) -> frozenset[Operation]:
    return frozenset(operation for operation, bit in _BITS.items() if bits >> bit & 1)
