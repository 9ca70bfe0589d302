"""Decisions as records: what is written can be read, what is no decision is refused."""

from typing import Any

import orjson
import pytest

from handlers.deletes.decisions import decision, read_decision, record_of
from worker.errors import RecordError
from worker.handling import Record

GOOD = decision("c-1", "approve", who="me", at=1, target="crm", plan="plan-1", hash_="ab")


def record(key: bytes, value: Any) -> Record:
    """Return a record of the approvals topic."""
    return Record("rollcall.approvals", 0, 0, 1, key, value if isinstance(value, bytes) else orjson.dumps(value))


@pytest.mark.parametrize(
    "given",
    [
        GOOD,
        decision("c-2", "reject", who="me", at=1, target="crm", request="r-1"),
        decision("c-3", "retry", who="me", at=1, target="crm"),
        decision("c-4", "erase", who="me", at=1, customer="shop/a/b", sequence=3),
    ],
)
def test_what_is_written_can_be_read(given: Any) -> None:
    """In the partition of whoever carries it out."""
    key, value = record_of(given)
    assert key == (given["customer"] or given["target"]).encode()
    assert read_decision(record(key, value)) == given


def test_a_decision_without_addressee_is_not_written() -> None:
    """Nobody would carry it out."""
    for what, missing in (("erase", "customer"), ("approve", "target")):
        with pytest.raises(ValueError, match=missing):
            record_of(decision("c", what, who="me", at=1))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"yes",
        b"[]",
        b"null",
        {},
        {**GOOD, "what": "delete"},
        {**GOOD, "id": ""},
        {**GOOD, "at": "now"},
        {**GOOD, "target": "erp"},
        {**GOOD, "what": "erase", "customer": "crm"},
    ],
)
def test_what_is_no_decision_is_refused(value: Any) -> None:
    """Also one that was written to somebody else's partition."""
    with pytest.raises(RecordError):
        read_decision(record(b"crm", value))
