"""Orders on the wire: what is written is read, whatever is on the topic is not taken for one."""

from itertools import starmap

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker import orders
from worker.errors import RecordError, UsageError

ids = st.lists(st.text(min_size=1, max_size=60), max_size=40)


@given(ids, st.integers(1_500, 5_000))
def test_a_long_order_is_split_and_loses_nothing(wanted: list[str], max_bytes: int) -> None:
    """Its parts are numbered, fit into a record, and have every id once, in order."""
    given_ = orders.order("1", "watch", "crm", who="ann@here", at=5, ids=wanted)
    records = list(orders.parts(given_, max_bytes))
    read = list(starmap(orders.read, records))
    assert [part["part"] for part in read if part] == list(range(1, len(records) + 1))
    assert {part["parts"] for part in read if part} == {len(records)}
    assert [id_ for part in read if part for id_ in part["ids"]] == wanted
    assert all(len(value) <= max_bytes for _, value in records)


def test_an_id_that_fits_into_no_record_is_refused() -> None:
    """Before anything is written."""
    given_ = orders.order("1", "watch", "crm", who="ann", at=5, ids=["x" * 2_000])
    with pytest.raises(UsageError, match="too long"):
        list(orders.parts(given_, 2_000))


def test_what_is_for_somebody_else_is_passed_over() -> None:
    """The topic is shared with other addressees."""
    assert orders.read(b"keys", orjson.dumps({"to": "stage", "anything": 1})) is None


@pytest.mark.parametrize(
    "change",
    [
        {"what": "explode"},
        {"id": ""},
        {"source": "shop"},
        {"at": "noon"},
        {"ids": 7},
        {"seen": ["x"]},
        {"what": ["watch"]},
    ],
)
def test_what_is_no_order_is_refused(change: dict[str, object]) -> None:
    """It goes to the dead letters and is not carried out."""
    given_ = {**orders.order("1", "pause", "crm", who="ann", at=5), **change}
    with pytest.raises(RecordError):
        orders.read(b"crm", orjson.dumps(given_))


@given(st.binary() | st.recursive(st.none() | st.integers(0, 9) | st.text(), st.lists).map(orjson.dumps))
def test_any_bytes_are_refused_or_passed_over(value: bytes) -> None:
    """Nothing on the topic stops the worker."""
    with pytest.raises(RecordError):
        orders.read(b"crm", value)


def test_an_answer_says_what_was_asked_and_by_whom() -> None:
    """Under a key of its own, so that whoever asked finds it."""
    given_ = orders.order("1", "pause", "crm", who="ann", at=5)
    key, value = orders.answer(given_, "refused", "it is paused already", 9)
    assert key == b"command/1"
    assert orjson.loads(value) == {
        "kind": "command",
        "id": "1",
        "what": "pause",
        "source": "crm",
        "who": "ann",
        "at": 5,
        "outcome": "refused",
        "message": "it is paused already",
        "handled_at": 9,
    }
