"""What our principal may do in Kafka, asked of the cluster itself, and the cluster's clock. Changes nothing.

Topics, groups and the cluster say which operations they allow us (KIP-430). A transactional id does not: it is tried by
ending a transaction of a producer that cannot exist, which the coordinator refuses before it looks at any state, with
one answer where we may write under that id and another where we may not.
"""

import time
from collections.abc import Iterable, Sequence
from typing import Final

from aiokafka.errors import GroupAuthorizationFailedError, KafkaError, TransactionalIdAuthorizationFailed
from aiokafka.protocol.transaction import EndTxnRequest

from worker.acls import Grant, Operation
from worker.kafka import Admin
from worker.wire import QuorumRequest, TopicsRequest

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
_NO_PRODUCER: Final = 2**62
_NOT_AUTHORIZED: Final = frozenset({29, 30, 31, 53})  # of a topic, a group, the cluster, a transactional id
_UNKNOWN_TOPIC: Final = 3


class Rights:
    """Asks one cluster."""

    def __init__(self, admin: Admin) -> None:
        """Ask by `admin`."""
        self._admin = admin
        self._client = admin.network

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
        try:
            *_, bits, _ = await self._admin.group(name)
        except GroupAuthorizationFailedError:
            return frozenset()
        return _operations(bits)

    async def _transactional_id(self, name: str) -> frozenset[Operation]:
        try:
            node = await self._admin.coordinator(name)
        except TransactionalIdAuthorizationFailed:
            return frozenset()
        answer = await self._client.send(node, EndTxnRequest(name, _NO_PRODUCER, 0, False))
        return frozenset({"Describe"}) if answer.error_code in _NOT_AUTHORIZED else frozenset({"Write", "Describe"})


def _operations(bits: int) -> frozenset[Operation]:
    return frozenset(operation for operation, bit in _BITS.items() if bits >> bit & 1)
