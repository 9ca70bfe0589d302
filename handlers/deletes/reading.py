"""Reads what others publish: customers, departures and clusters. Raises RecordError for what it cannot read."""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, cast, get_args

import orjson

from worker.errors import RecordError
from worker.events import Reason, header, split_key
from worker.handling import Record


def customer_of(key: bytes) -> tuple[str, str]:
    """Return (source, customer id) of a record's key."""
    try:
        return split_key(key)
    except ValueError as error:
        raise RecordError("the key is not that of a customer") from error


def sequence_of(record: Record) -> int:
    """Return the version of the customer that a record is about."""
    found = number_of(header(record.headers, "ce_sequence"))
    if found is None:
        raise RecordError("a customer without ce_sequence")
    return found


def reason_of(record: Record) -> Reason:
    """Return how a deletion was proved."""
    found = header(record.headers, "ce_reason")
    if found not in get_args(Reason):
        raise RecordError("a deletion without a known ce_reason")
    return cast("Reason", found)


def references_of(value: bytes) -> list[tuple[str, str]]:
    """Return the typed ids of a customer."""
    try:
        return [(str(given["type"]), str(given["id"])) for given in orjson.loads(value)["references"]]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise RecordError("a customer that cannot be read") from error


def departure_of(record: Record) -> dict[str, Any]:
    """Return what matters of a departure; an older program does not say which memberships it leaves."""
    try:
        found = orjson.loads(record.value or b"")
        picked = {name: found[name] for name in ("cause", "sequence", "cluster", "remaining", "evidence", "doubt")}
        picked["memberships"] = dict(found.get("memberships") or {})
        for name in picked["remaining"]:
            split_key(name.encode())
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise RecordError("a departure that cannot be read") from error
    return picked


def membership_of(record: Record) -> dict[str, Any] | None:
    """Return the cluster that a customer is in, None where it is alone."""
    if record.value is None:
        return None
    try:
        found = orjson.loads(record.value)
        split_key(found["winner"].encode())
        _ = [(step["a"], step["b"], step["score"]) for step in found["path"]]
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise RecordError("a cluster's record that cannot be read") from error
    return cast("dict[str, Any]", found)


def membership_digest(value: bytes | None) -> str:
    """Return by which digest a departure names a membership."""
    return "" if value is None else blake2b(value, digest_size=8).hexdigest()


def facts_of_link(step: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a link's evidence goes into a receipt: who, kinds and weights; never a value."""
    return {name: step[name] for name in ("customer", "a", "b", "score", "keys", "fields", "exact_id") if name in step}


def number_of(value: str | None) -> int | None:
    """Return a number, None where it is none."""
    return int(value) if value is not None and value.isascii() and value.isdigit() else None
