"""What the tests do to a broker as its administrator, by requests that Rollcall itself has no use for."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    CompactArray,
    CompactBytes,
    CompactString,
    Int8,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

from worker.acls import CLUSTER, Grant

_TEXT = CompactString("utf-8")
_TAGS = ("tags", TaggedFields)
_SCRAM_SHA_512 = 2
_ITERATIONS = 4096
_RESOURCES = {"topic": 2, "group": 3, "cluster": 4, "transactional-id": 5}
_OPERATIONS = {
    "Read": 3,
    "Write": 4,
    "Create": 5,
    "Delete": 6,
    "Describe": 8,
    "DescribeConfigs": 10,
    "AlterConfigs": 11,
}
_LITERAL, _PREFIXED = 3, 4
_ALLOW = 3


class _ScramResponse(Response):  # type: ignore[misc]
    API_KEY = 51
    API_VERSION = 0
    SCHEMA: ClassVar[Schema] = Schema(
        ("throttle_time_ms", Int32),
        ("results", CompactArray(("user", _TEXT), ("error_code", Int16), ("message", _TEXT), _TAGS)),
        _TAGS,
    )


class _ScramRequestV0(RequestStruct):  # type: ignore[misc]
    API_KEY = 51
    API_VERSION = 0
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _ScramResponse
    SCHEMA = Schema(
        ("deletions", CompactArray(("name", _TEXT), ("mechanism", Int8), _TAGS)),
        (
            "upsertions",
            CompactArray(
                ("name", _TEXT),
                ("mechanism", Int8),
                ("iterations", Int32),
                ("salt", CompactBytes),
                ("salted_password", CompactBytes),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class _ScramRequest(Request[_ScramRequestV0]):  # type: ignore[misc]
    API_KEY = 51

    def __init__(self, users: Sequence[tuple[str, str]]) -> None:
        self._users = users

    def build(self, request_struct_class: type[_ScramRequestV0]) -> _ScramRequestV0:
        rows: list[tuple[Any, ...]] = []
        for name, password in self._users:
            salt = os.urandom(16)
            salted = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _ITERATIONS)
            rows.append((name, _SCRAM_SHA_512, _ITERATIONS, salt, salted, {}))
        return request_struct_class([], rows, {})


class _AclsResponse(Response):  # type: ignore[misc]
    API_KEY = 30
    API_VERSION = 2
    SCHEMA: ClassVar[Schema] = Schema(
        ("throttle_time_ms", Int32), ("results", CompactArray(("error_code", Int16), ("message", _TEXT), _TAGS)), _TAGS
    )


class _AclsRequestV2(RequestStruct):  # type: ignore[misc]
    API_KEY = 30
    API_VERSION = 2
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _AclsResponse
    SCHEMA = Schema(
        (
            "creations",
            CompactArray(
                ("resource_type", Int8),
                ("resource_name", _TEXT),
                ("pattern_type", Int8),
                ("principal", _TEXT),
                ("host", _TEXT),
                ("operation", Int8),
                ("permission", Int8),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class _AclsRequest(Request[_AclsRequestV2]):  # type: ignore[misc]
    API_KEY = 30

    def __init__(self, rows: Sequence[tuple[Any, ...]]) -> None:
        self._rows = rows

    def build(self, request_struct_class: type[_AclsRequestV2]) -> _AclsRequestV2:
        return request_struct_class(list(self._rows), {})


class Governor:
    """The administrator of one broker, by its internal listener."""

    def __init__(self, bootstrap: str) -> None:
        """`bootstrap` is where nobody has to say who they are."""
        self._bootstrap = bootstrap

    async def _ask(self, request: Request[Any]) -> Any:
        client = AIOKafkaAdminClient(bootstrap_servers=self._bootstrap)
        await client.start()
        try:
            return await client._client.send(client._client.get_random_node(), request)
        finally:
            await client.close()

    async def users(self, given: Iterable[tuple[str, str]]) -> None:
        """Give users their passwords for SCRAM-SHA-512 (RFC 5802): new users, or new passwords."""
        answer = await self._ask(_ScramRequest(list(given)))
        assert not [message for _, code, message, _ in answer.results if code]

    async def allow(self, principal: str, grants: Iterable[Grant]) -> None:
        """Grant a principal (`User:name`) exactly that."""
        rows: list[tuple[Any, ...]] = [
            (
                _RESOURCES[grant.resource],
                CLUSTER if grant.resource == "cluster" else grant.name,
                _PREFIXED if grant.prefixed else _LITERAL,
                principal,
                "*",
                _OPERATIONS[operation],
                _ALLOW,
                {},
            )
            for grant in grants
            for operation in sorted(grant.operations)
        ]
        answer = await self._ask(_AclsRequest(rows))
        assert not [message for code, message, _ in answer.results if code]
