"""What a simulated system is asked and answers, and the faults that act on a finished answer.

An answer is plain data, so that a system can be asked without a socket and every fault is a small function.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import orjson

from worker.simulator.faults import Fault

JSON = "application/json; charset=utf-8"
HTML = b"<!DOCTYPE html><html><head><title>Just a moment...</title></head><body>Please wait.</body></html>"


@dataclass(slots=True)
class Ask:
    """One request, as the wire brought it."""

    method: str
    path: str
    query: str
    """Still percent-encoded."""
    headers: Mapping[str, str]
    body: bytes = b""
    faults: list[Fault] = field(default_factory=list)

    def fault(self, kind: str) -> Fault | None:
        """Return the fault of this kind that the request has met, if any."""
        return next((fault for fault in self.faults if fault.kind == kind), None)


@dataclass(slots=True)
class Answer:
    """One response, and how its connection ends."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = JSON
    cut_at: int | None = None
    """Bytes of the body after which the connection is cut; None leaves it whole."""
    drop: bool = False
    """Close the connection behind the answer without having said so."""


def as_json(value: Any, status: int = 200) -> Answer:
    """Make an answer with `value` as its JSON body."""
    return Answer(status, orjson.dumps(value))


Records = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a system's answers hold customers, for the faults that spoil them."""

    records: str | None
    """The member that holds the customers; None where the answer itself is the list."""
    key: str
    """The member of a customer that is its id."""

    def find(self, payload: Any) -> Records:
        """Find the customers in a parsed answer, in place; empty where there are none."""
        held = payload.get(self.records) if self.records and isinstance(payload, dict) else payload
        if self.records and isinstance(held, dict):
            return [held]
        return [record for record in held if isinstance(record, dict)] if isinstance(held, list) else []


def spoil(answer: Answer, fault: Fault, layout: Layout) -> None:
    """Do to a finished answer what `fault` says; kinds that do not act here leave it alone."""
    if fault.kind in ON_RECORDS:
        _on_records(answer, fault, layout)
    elif fault.kind in ON_ANSWER:
        ON_ANSWER[fault.kind](answer, fault)


def _on_records(answer: Answer, fault: Fault, layout: Layout) -> None:
    try:
        payload = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        return
    records = layout.find(payload)
    if not records:
        return
    raw = ON_RECORDS[fault.kind](payload, records, fault, layout)
    answer.body = orjson.dumps(payload)
    for marker, text in (raw or {}).items():
        answer.body = answer.body.replace(orjson.dumps(marker), text)


Raw = dict[str, bytes] | None
"""JSON strings to be replaced by text that no serializer writes."""


def _chosen(records: Records, fault: Fault) -> Records:
    return records[: int(fault.option("count", 1))]


def _wrong_types(_payload: Any, records: Records, fault: Fault, layout: Layout) -> Raw:
    for record in _chosen(records, fault):
        names = (
            [fault.options["field"]] if "field" in fault.options else [name for name in record if name != layout.key]
        )
        for name in names:
            record[name] = fault.option("value", _other_type(record.get(name)))
    return None


def _other_type(value: Any) -> Any:
    match value:
        case str():
            return {"unexpected": [value]}
        case bool() | None:
            return [[]]
        case int() | float():
            return "many"
        case _:
            return 7


def _missing_ids(_payload: Any, records: Records, fault: Fault, layout: Layout) -> Raw:
    for record in _chosen(records, fault):
        record.pop(layout.key, None)
    return None


def _duplicate_ids(payload: Any, records: Records, fault: Fault, layout: Layout) -> Raw:
    held = payload[layout.records] if layout.records else payload
    if isinstance(held, list):
        held.extend(_chosen(records, fault))
    return None


def _nulls(_payload: Any, records: Records, fault: Fault, layout: Layout) -> Raw:
    for record in _chosen(records, fault):
        record.update({name: None for name in record if name != layout.key})
    return None


def _field(fault: Fault, records: Records, layout: Layout) -> str:
    named: str | None = fault.option("field", None)
    return named or next(name for name in [*records[0], "extra"] if name != layout.key)


def _huge(_payload: Any, records: Records, fault: Fault, layout: Layout) -> Raw:
    records[0][_field(fault, records, layout)] = "x" * int(fault.option("bytes", 2_000_000))
    return None


def _deep(_payload: Any, records: Records, fault: Fault, layout: Layout) -> Raw:
    levels = int(fault.option("levels", 100_000))
    records[0][_field(fault, records, layout)] = "@deep@"
    return {"@deep@": b"[" * levels + b"]" * levels}


def _nan(_payload: Any, records: Records, fault: Fault, layout: Layout) -> Raw:
    records[0][_field(fault, records, layout)] = "@nan@"
    return {"@nan@": b"NaN"}


ON_RECORDS: dict[str, Callable[[Any, Records, Fault, Layout], Raw]] = {
    "wrong_types": _wrong_types,
    "missing_ids": _missing_ids,
    "duplicate_ids": _duplicate_ids,
    "nulls": _nulls,
    "huge": _huge,
    "deep": _deep,
    "nan": _nan,
}


def _part(answer: Answer, fault: Fault) -> int:
    return int(fault.option("bytes", len(answer.body) * float(fault.option("fraction", 0.5))))


def _truncated(answer: Answer, fault: Fault) -> None:
    answer.body = answer.body[: _part(answer, fault)]


def _charset(answer: Answer, fault: Fault) -> None:
    answer.body = answer.body.decode().encode(fault.option("encoding", "utf-16"))
    answer.content_type = f"application/json; charset={fault.option('announced', 'utf-8')}"


def _answer_after(answer: Answer, fault: Fault) -> None:
    answer.status = int(fault.option("status", 500))
    answer.body = str(fault.option("body", '{"errors":[{"message":"Something went wrong."}]}')).encode()


def _gzip_bomb(answer: Answer, fault: Fault) -> None:
    answer.body = _bomb(int(fault.option("bytes", 256_000_000)))
    answer.headers["Content-Encoding"] = "gzip"


@lru_cache(maxsize=4)
def _bomb(size: int) -> bytes:
    packer = zlib.compressobj(wbits=31)
    chunk = b" " * 1_000_000
    parts = [packer.compress(chunk) for _ in range(size // len(chunk))]
    return b"".join([*parts, packer.compress(b" " * (size % len(chunk))), packer.flush()])


def _cut(answer: Answer, fault: Fault) -> None:
    answer.cut_at = _part(answer, fault)


def _drop(answer: Answer, _fault: Fault) -> None:
    answer.drop = True


ON_ANSWER: dict[str, Callable[[Answer, Fault], None]] = {
    "truncated": _truncated,
    "charset": _charset,
    "answer_after": _answer_after,
    "gzip_bomb": _gzip_bomb,
    "cut": _cut,
    "drop": _drop,
}
