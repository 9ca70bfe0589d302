"""What is published of a deletion: its newest state, and in the end its receipt. Neither holds personal data.

A receipt says what was asked, by which authority and on what evidence, who decided, every attempt with its status, the
verification and the outcome. There is one a request. It is a CloudEvent in binary mode (CloudEvents Kafka binding,
section 3.2) whose id is the request's, so that the same receipt is the same event, whoever reads it twice.
"""

from typing import Any, Final, TypedDict

import orjson

from handlers.deletes.machine import State
from handlers.deletes.model import Attempt, Decided, Deletion, Request
from worker.events import Headers
from worker.times import rfc3339

RECEIPT_TYPE: Final = "customer.deletion.receipt"
RECEIPT_SCHEMA: Final = "urn:rollcall:deletion-receipt:1"


class Verification(TypedDict):
    """How it is known that the customer is gone: a look-up after the DELETE, or the target's word alone."""

    how: str
    at: str | None


class Receipt(TypedDict):
    """The data of a receipt. Times are RFC 3339 in UTC."""

    request: str
    target: str
    customer: str | None
    origin: str
    sequence: int
    authority: str
    evidence: dict[str, Any]
    route: str | None
    dry_run: bool
    requested_at: str
    decisions: list[dict[str, Any]]
    attempts: list[dict[str, Any]]
    verification: Verification | None
    outcome: str
    reason: str | None
    ended_at: str
    retry_of: str | None
    undo_copy: bool


def ledger_key(request: Request) -> bytes:
    """Return the key on the table of deletions; the origin stands in for a customer whose id nobody knows."""
    customer = request["customer"]
    if customer is None:
        customer = f"{request['source']}/{request['origin']}"
    return f"{request['target']}/{customer}".encode()


def ledger(
    deletion: Deletion, *, undo: str | None, undo_of: str | None = None, state: State | None = None
) -> dict[str, Any]:
    """Return the newest state of a deletion as it is published; `undo` is the encrypted copy, of request `undo_of`."""
    return {
        "state": state or deletion.state,
        "since": rfc3339(deletion.since),
        "reason": deletion.reason,
        "request": deletion.request,
        "group": deletion.group,
        "attempts": deletion.attempts,
        "decisions": deletion.decisions,
        "history": deletion.history,
        "undo": undo,
        "undo_of": undo_of,
    }


def receipt(deletion: Deletion, now: int) -> tuple[bytes, bytes, Headers]:
    """Return key, value and headers of the receipt of a deletion that has ended; `now` in ms since the epoch."""
    request = deletion.request
    data: Receipt = {
        "request": request["id"],
        "target": request["target"],
        "customer": request["customer"],
        "origin": f"{request['source']}/{request['origin']}",
        "sequence": request["sequence"],
        "authority": request["authority"],
        "evidence": request["evidence"],
        "route": request["route"],
        "dry_run": request["dry_run"],
        "requested_at": rfc3339(request["asked_at"]),
        "decisions": [_decision(decided) for decided in deletion.decisions],
        "attempts": [_attempt(attempt) for attempt in deletion.attempts],
        "verification": _verification(deletion),
        "outcome": deletion.state,
        "reason": deletion.reason,
        "ended_at": rfc3339(now),
        "retry_of": request["retry_of"],
        "undo_copy": deletion.undo is not None,
    }
    key = request["id"].encode()
    headers: Headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", key),
        ("ce_source", b"/rollcall/deletions/" + request["target"].encode()),
        ("ce_type", RECEIPT_TYPE.encode()),
        ("ce_subject", ledger_key(request)),
        ("ce_time", rfc3339(now).encode()),
        ("ce_dataschema", RECEIPT_SCHEMA.encode()),
        ("content-type", b"application/json"),
    ]
    return key, orjson.dumps(data), headers


def _verification(deletion: Deletion) -> Verification | None:
    if deletion.verified is not None:
        return {"how": "look-up", "at": rfc3339(deletion.verified)}
    return {"how": "the target's answer", "at": None} if deletion.state == State.DELETED else None


def _decision(decided: Decided) -> dict[str, Any]:
    return {**decided, "at": rfc3339(decided["at"])}


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {**attempt, "at": rfc3339(attempt["at"])}
