"""What subscribers may rely on: the public topics, their keys, headers and values, generated from the types themselves.

The JSON Schemas and the AsyncAPI document are made here and nowhere else. What a version of a schema has promised stays
true: `write` refuses to write over a schema with one that would break its readers, which then needs a new number.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NotRequired, TypedDict

import orjson

from handlers.dedupe.events import (
    IDENTITY_SCHEMA,
    MERGED,
    REVIEW,
    SPLIT,
    WINNER_CHANGED,
    Membership,
    Merged,
    Review,
    Split,
    WinnerChanged,
)
from handlers.deletes.machine import State
from handlers.deletes.model import Attempt, Decided, Request
from handlers.deletes.receipts import RECEIPT_SCHEMA, RECEIPT_TYPE, Receipt
from worker.errors import RollcallError, UsageError
from worker.events import CREATED, DATA_SCHEMA, DELETED, UPDATED, Customer, CustomerEvent
from worker.schema import DIALECT, Schema, breaks, schema_of
from worker.topics import Topics, TopicSpec

ASYNCAPI: Final = "asyncapi"
VERSION: Final = "1.0.0"
CUSTOMER_SCHEMA: Final = "urn:rollcall:customer:1"


class Deletion(TypedDict):
    """The newest state of the newest deletion of a customer at a target.

    `since` is RFC 3339 in UTC, the other times are milliseconds since the epoch. `undo` is an encrypted copy of what
    was deleted, where that is configured; by the request `undo_of`, which may be an earlier one. A step of `history` is
    the time, the event and the state that followed.
    """

    state: State
    since: str
    reason: str | None
    request: Request
    group: str | None
    attempts: list[Attempt]
    decisions: list[Decided]
    history: list[tuple[int, str, str]]
    undo: str | None
    undo_of: NotRequired[str | None]


class SetAside(TypedDict):
    """A record of an upstream that could not be used; its content is nowhere. `size` is in bytes.

    `path` and `status` are those of the request that it came by, `hash` is a keyed one of the record or of the answer.
    """

    source: str
    id: str
    reason: str
    size: int
    path: NotRequired[str]
    status: NotRequired[int]
    hash: NotRequired[str]


@dataclass(frozen=True, slots=True)
class Contract:
    """One published type: the name and urn of its schema."""

    name: str
    kind: Any
    urn: str

    def schema(self) -> Schema:
        """Return its JSON Schema."""
        return {"$schema": DIALECT, "$id": self.urn, **schema_of(self.kind)}


CONTRACTS: Final = (
    Contract("customer-event", CustomerEvent, DATA_SCHEMA),
    Contract("customer", Customer, CUSTOMER_SCHEMA),
    Contract("membership", Membership, "urn:rollcall:membership:1"),
    Contract("identity-event", Merged | Split | WinnerChanged | Review, IDENTITY_SCHEMA),
    Contract("deletion", Deletion, "urn:rollcall:deletion:1"),
    Contract("receipt", Receipt, RECEIPT_SCHEMA),
    Contract("set-aside", SetAside, "urn:rollcall:set-aside:1"),
)


def schemas() -> dict[str, Schema]:
    """Return every JSON Schema by name."""
    return {contract.name: contract.schema() for contract in CONTRACTS}


def _cloud_event(types: list[str], more: Mapping[str, Schema], optional: Mapping[str, Schema]) -> Schema:
    """Return the schema of the headers of a CloudEvent in binary mode (CloudEvents Kafka binding, section 3.2)."""
    text: Schema = {"type": "string"}
    required: dict[str, Schema] = {
        "ce_specversion": {"const": "1.0"},
        "ce_id": text,
        "ce_source": text,
        "ce_type": {"enum": types},
        "ce_subject": text,
        "ce_time": {"type": "string", "format": "date-time"},
        "ce_dataschema": text,
        "content-type": {"const": "application/json"},
        **more,
    }
    return {"type": "object", "properties": required | {"traceparent": text, **optional}, "required": list(required)}


_SEQUENCE: Final[Schema] = {
    "type": "string",
    "pattern": "^[1-9][0-9]*$",
    "description": "The customer's version: 1, 2, 3, never reused, also not after a deletion",
}
_REASON: Final[Schema] = {
    "enum": ["tombstone", "gone", "absent"],
    "description": "On a deletion: how it was proved",
}
_LIVE: Final[Schema] = {
    "type": "string",
    "pattern": "^[0-9]+$",
    "description": "On a deletion: the customers that the source has left",
}
_EVENTS_OWN: Final[Schema] = {
    "type": "string",
    "description": f"The schema of the event, {DATA_SCHEMA}. The value here is its member `customer` alone, "
    f"which follows {CUSTOMER_SCHEMA}",
}
_VERSIONED: Final[Mapping[str, Schema]] = {"ce_sequence": _SEQUENCE}
_DELETED: Final[Mapping[str, Schema]] = {"ce_reason": _REASON, "ce_live": _LIVE}
_IDENTITY: Final = [MERGED, SPLIT, WINNER_CHANGED, REVIEW]
_DEAD: Final = {
    "stage": "Which stage, or `poll`",
    "topic": "The record's topic",
    "partition": "Its partition",
    "offset": "Its offset",
    "error": "The error's class, `Dead` where the stage has decided so",
    "reason": "A sentence, or a word, without customer data",
    "resolved": "On a record without a value: which dead letter is settled, <partition>-<offset>; absent: its key's",
    "outcome": "With it: done, superseded or discarded",
}


def header_schemas() -> dict[str, Schema]:
    """Return, by the last part of a topic's name, the schema of the headers; none where there are no headers."""
    letters = {f"rollcall-dead-{name}": {"type": "string", "description": text} for name, text in _DEAD.items()}
    return {
        "events": _cloud_event([CREATED, UPDATED, DELETED], _VERSIONED, _DELETED),
        "latest": _cloud_event([CREATED, UPDATED, DELETED], {**_VERSIONED, "ce_dataschema": _EVENTS_OWN}, _DELETED),
        "identity": _cloud_event(_IDENTITY, {}, {}),
        "receipts": _cloud_event([RECEIPT_TYPE], {}, {}),
        "deadletters": {"type": "object", "properties": letters},
    }


_MESSAGES: Final[Mapping[str, Mapping[str, tuple[str | None, str]]]] = {
    "events": {"customerEvent": ("customer-event", "A customer was created, updated or deleted")},
    "latest": {
        "customer": ("customer", f"The newest version of a live customer, by {CUSTOMER_SCHEMA}"),
        "customerTombstone": (None, "The customer is deleted; the headers say why and in which version"),
    },
    "clusters": {
        "membership": ("membership", "The cluster that a customer is in"),
        "membershipTombstone": (None, "The customer is alone, or gone"),
    },
    "identity": {"identityEvent": ("identity-event", "What has become of a cluster of duplicate customers")},
    "deletions": {"deletion": ("deletion", "The newest state of a deletion at a target")},
    "receipts": {"receipt": ("receipt", "How a requested deletion has ended")},
    "deadletters": {
        "setAside": ("set-aside", "A record of an upstream that cannot be used"),
        "deadLetter": (
            None,
            "A record that could not be handled, bytes and headers, or what became of it",
        ),
    },
}


def asyncapi(topics: Topics) -> Schema:
    """Return the AsyncAPI 3.0 document of a deployment: what Rollcall sends, seen from Rollcall."""
    specs = {spec.name: spec for spec in topics.declared() if spec.public}
    named = {short: specs[getattr(topics, short)] for short in _MESSAGES}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Rollcall",
            "version": VERSION,
            "description": "Customers created, changed and deleted, each version once and in order. Read with "
            "isolation.level=read_committed. Fields may be added: ignore those that you do not know.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {short: _channel(short, spec) for short, spec in named.items()},
        "operations": {f"send{short.title()}": _operation(short) for short in _MESSAGES},
        "components": {"schemas": {name: _embedded(name, schema) for name, schema in schemas().items()}},
    }


def _channel(short: str, spec: TopicSpec) -> Schema:
    configuration: dict[str, Any] = {"cleanup.policy": [spec.cleanup]}
    if "retention.ms" in spec.config:
        configuration["retention.ms"] = int(spec.config["retention.ms"])
    return {
        "address": spec.name,
        "description": f"Key: {spec.key}",
        "messages": {name: _message(short, *what) for name, what in _MESSAGES[short].items()},
        "bindings": {
            "kafka": {
                "partitions": spec.partitions,
                "topicConfiguration": configuration,
                "bindingVersion": "0.5.0",
            }
        },
    }


def _message(short: str, schema: str | None, summary: str) -> Schema:
    headers = header_schemas().get(short)
    payload: Schema = {"$ref": f"#/components/schemas/{schema}"} if schema else {}
    return {
        "summary": summary,
        **({"headers": headers} if headers else {}),
        "payload": payload if schema else {"description": "Null, or the failed record's own bytes"},
        "bindings": {"kafka": {"key": {"type": "string"}, "bindingVersion": "0.5.0"}},
    }


def _operation(short: str) -> Schema:
    return {"action": "send", "channel": {"$ref": f"#/channels/{short}"}}


def _embedded(name: str, schema: Schema) -> Schema:
    """Return a schema as it stands within the document: AsyncAPI's references are from the document's root."""
    text = orjson.dumps({key: value for key, value in schema.items() if key not in {"$id", "$schema"}})
    moved: Schema = orjson.loads(text.replace(b'"#/$defs/', b'"#/components/schemas/%s/$defs/' % name.encode()))
    return moved


def documents(topics: Topics) -> dict[str, Schema]:
    """Return everything there is to print, by name: the schemas, and the AsyncAPI document."""
    return {**schemas(), ASYNCAPI: asyncapi(topics)}


def encode(document: Schema) -> bytes:
    """Return a document as it is printed and written."""
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def write(folder: Path, topics: Topics) -> list[Path]:
    """Write every document into `folder`; return the files.

    Raises RollcallError, and writes nothing, where a schema that is there would be changed so that its readers break;
    UsageError where it cannot be written.
    """
    wanted = {folder / f"{name}.json": document for name, document in documents(topics).items()}
    broken = [
        f"  - {path.stem}: {problem}"
        for path, document in wanted.items()
        if path.stem != ASYNCAPI and path.exists()
        for problem in breaks(orjson.loads(path.read_bytes()), document)
    ]
    if broken:
        message = f"the schemas in {folder} promise what the types no longer keep:\n" + "\n".join(broken)
        raise RollcallError(message, hint="Keep the old field, or publish a new type under a new urn.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, document in wanted.items():
            path.write_bytes(encode(document))
    except OSError as error:
        raise UsageError(f"{error.filename} cannot be written: {error.strerror}") from error
    return list(wanted)
