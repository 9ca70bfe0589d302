"""Requests of Kafka's protocol that aiokafka does not have, or not in the version that is needed.

Each is written after the message's definition in Apache Kafka's source (clients/src/main/resources/common/message) and
used by reading only: none of them changes anything in a cluster. Nor does aiokafka's own question for topics, once it
is asked over an `AskingConnection`.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, cast

from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactBytes,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)

# aiokafka has no types, hence the ignored "type: misc" of every subclass.


class _Uuid:
    """Kafka's UUID on the wire: sixteen bytes."""

    @classmethod
    def decode(cls, data: Any) -> bytes:
        return cast("bytes", data.read(16))

    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return value

    @classmethod
    def repr(cls, value: bytes) -> str:
        return value.hex()


_TEXT = CompactString("utf-8")
_TAGS = ("tags", TaggedFields)


class _MetadataResponse(Response):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 10
    SCHEMA: ClassVar[Schema] = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", CompactArray(("node_id", Int32), ("host", _TEXT), ("port", Int32), ("rack", _TEXT), _TAGS)),
        ("cluster_id", _TEXT),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("topic", _TEXT),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        _TAGS,
                    ),
                ),
                ("authorized_operations", Int32),
                _TAGS,
            ),
        ),
        ("cluster_authorized_operations", Int32),
        _TAGS,
    )


class _MetadataRequestV10(RequestStruct):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 10
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _MetadataResponse
    SCHEMA = Schema(
        ("topics", CompactArray(("topic_id", _Uuid), ("name", _TEXT), _TAGS)),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
        _TAGS,
    )


class TopicsRequest(Request[_MetadataRequestV10]):  # type: ignore[misc]
    """Metadata v10 of topics by name: the first version that tells a topic's id (KIP-516); aiokafka stops at v5.

    With `rights`, also which operations the asking principal may do on them, or without names on the cluster (KIP-430).
    """

    API_KEY = 3

    def __init__(self, names: Sequence[str], *, rights: bool = False) -> None:
        """`names` of topics; one that does not exist is not made."""
        self._names = names
        self._rights = rights

    def build(self, request_struct_class: type[_MetadataRequestV10]) -> _MetadataRequestV10:
        """Return the request as it is sent."""
        no_id = bytes(16)
        topics: list[tuple[bytes, str, dict[int, bytes]]] = [(no_id, name, {}) for name in self._names]
        return request_struct_class(topics, False, self._rights and not topics, self._rights and bool(topics), {})


class AskingConnection(AIOKafkaConnection):  # type: ignore[misc]
    """A connection over which to ask for a topic does not make it, and which breaks as aiokafka expects.

    aiokafka's clients ask in a way that has a broker make what is missing, with settings that are not ours, where it
    has auto.create.topics.enable, as Kafka has by default (KIP-4; from Metadata v4 on the client may say no).

    Between a reset and the moment in which aiokafka's reader hears of it, uvloop refuses a write with RuntimeError. The
    tasks in which aiokafka fetches and asks for metadata end over what is no error of its own, and nobody is told.
    """

    def send(self, request: Any, expect_response: bool = True) -> Any:  # ruff: ignore[boolean-type-hint-positional-argument, boolean-default-value-positional-argument] - aiokafka's own
        """Send a request."""
        if isinstance(request, MetadataRequest):
            request._allow_auto_topic_creation = False  # ruff: ignore[private-member-access] - its maker cannot be reached
        try:
            return super().send(request, expect_response)
        except KafkaError:  # which is a RuntimeError, too
            raise
        except RuntimeError as error:
            self.close(reason=CloseReason.CONNECTION_BROKEN)
            raise KafkaConnectionError(f"Connection at {self.host}:{self.port} broken: {error}") from error


class _GroupsResponse(Response):  # type: ignore[misc]
    API_KEY = 15
    API_VERSION = 5
    SCHEMA: ClassVar[Schema] = Schema(
        ("throttle_time_ms", Int32),
        (
            "groups",
            CompactArray(
                ("error_code", Int16),
                ("group", _TEXT),
                ("state", _TEXT),
                ("protocol_type", _TEXT),
                ("protocol", _TEXT),
                (
                    "members",
                    CompactArray(
                        ("member_id", _TEXT),
                        ("instance_id", _TEXT),
                        ("client_id", _TEXT),
                        ("client_host", _TEXT),
                        ("metadata", CompactBytes),
                        ("assignment", CompactBytes),
                        _TAGS,
                    ),
                ),
                ("authorized_operations", Int32),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class _GroupsRequestV5(RequestStruct):  # type: ignore[misc]
    API_KEY = 15
    API_VERSION = 5
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _GroupsResponse
    SCHEMA = Schema(("groups", CompactArray(_TEXT)), ("include_authorized_operations", Boolean), _TAGS)


class GroupsRequest(Request[_GroupsRequestV5]):  # type: ignore[misc]
    """DescribeGroups v5, with what the asking principal may do; aiokafka's own reads that part wrongly."""

    API_KEY = 15

    def __init__(self, names: Sequence[str]) -> None:
        """`names` of groups, of one coordinator."""
        self._names = names

    def build(self, request_struct_class: type[_GroupsRequestV5]) -> _GroupsRequestV5:
        """Return the request as it is sent."""
        return request_struct_class(list(self._names), True, {})


_REPLICAS = CompactArray(
    ("replica_id", Int32),
    ("log_end_offset", Int64),
    ("last_fetch_timestamp", Int64),
    ("last_caught_up_timestamp", Int64),
    _TAGS,
)


class _QuorumResponse(Response):  # type: ignore[misc]
    API_KEY = 55
    API_VERSION = 1
    SCHEMA: ClassVar[Schema] = Schema(
        ("error_code", Int16),
        (
            "topics",
            CompactArray(
                ("topic", _TEXT),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("error_code", Int16),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("high_watermark", Int64),
                        ("voters", _REPLICAS),
                        ("observers", _REPLICAS),
                        _TAGS,
                    ),
                ),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class _QuorumRequestV1(RequestStruct):  # type: ignore[misc]
    API_KEY = 55
    API_VERSION = 1
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _QuorumResponse
    SCHEMA = Schema(
        ("topics", CompactArray(("topic", _TEXT), ("partitions", CompactArray(("partition", Int32), _TAGS)), _TAGS)),
        _TAGS,
    )


class QuorumRequest(Request[_QuorumRequestV1]):  # type: ignore[misc]
    """DescribeQuorum v1 (KIP-836): the controller states until when each replica had caught up, by its own clock.

    For the leader itself that is now, which makes it the one way to read a cluster's clock without writing anything.
    """

    API_KEY = 55

    def build(self, request_struct_class: type[_QuorumRequestV1]) -> _QuorumRequestV1:
        """Return the request as it is sent: about the metadata log."""
        return request_struct_class([("__cluster_metadata", [(0, {})], {})], {})
