"""What `rollcall tail` shows of a record, and which part of a topic a person may ask for."""

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from aiokafka.structs import ConsumerRecord
from hypothesis import given
from hypothesis import strategies as st

from worker import config, tail
from worker.errors import UsageError
from worker.reading import Moment, Span, Wanted, moment, pick

NOW = 1_700_000_000_000


async def test_a_topic_that_cannot_be_shown_is_named_before_kafka_is_asked() -> None:
    """With those that can."""
    checked = config.parse({"kafka": {"bootstrap": "127.0.0.1:1"}})
    with pytest.raises(UsageError, match="there is no topic 'status' to show; there are events, latest"):
        await tail.tail(checked, "status", tail.View(Wanted(), Moment(), None, follow=False))


@pytest.mark.parametrize("topic", ["identity", "receipts"])
async def test_a_topic_that_is_not_keyed_by_customer_says_so(topic: str) -> None:
    """Nothing would be found."""
    checked = config.parse({"kafka": {"bootstrap": "127.0.0.1:1"}})
    with pytest.raises(UsageError, match="are no customers"):
        await tail.tail(checked, topic, tail.View(Wanted(source="crm"), Moment(), None, follow=False))


@pytest.mark.parametrize(
    ("wanted", "keys"),
    [
        (Wanted(), [b"crm/7", b"crm2/7", b"crm/77", None, b"\xff"]),
        (Wanted(source="crm"), [b"crm/7", b"crm/77"]),
        (Wanted(customer="crm/7"), [b"crm/7"]),
        (Wanted(source="crm2", customer="crm/7"), []),
    ],
)
def test_records_are_chosen_by_their_key(wanted: Wanted, keys: list[bytes | None]) -> None:
    """By source, by customer, or all of them."""
    assert [key for key in (b"crm/7", b"crm2/7", b"crm/77", None, b"\xff") if wanted.matcher()(key, [])] == keys


def record(key: bytes | None = b"crm/7", value: bytes | None = b'{"id": "7"}', headers: Any = ()) -> Any:
    """Return a record as a consumer has it."""
    return ConsumerRecord("customers.events", 3, 42, 1_700_000_000_000, 0, key, value, 0, 0, 0, headers)


def test_a_header_may_be_empty_or_null() -> None:
    """A dead letter's reason may be; the line is printed all the same."""
    line = tail._json_line(record(headers=[("empty", b""), ("null", None), ("torn", b"\xff")]), ())
    assert orjson.loads(line)["headers"] == {"empty": "", "null": None, "torn": "\N{REPLACEMENT CHARACTER}"}


def test_in_a_pipe_a_record_is_a_line_of_json() -> None:
    """All that it has, its value as JSON."""
    line = tail._json_line(record(headers=[("ce_type", b"customer.created")]), ())
    assert orjson.loads(line) == {
        "topic": "customers.events",
        "partition": 3,
        "offset": 42,
        "timestamp": 1_700_000_000_000,
        "key": "crm/7",
        "headers": {"ce_type": "customer.created"},
        "value": {"id": "7"},
    }


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, None),
        (b"", ""),
        (b"no json", "no json"),
        (b'{\n"a":\r\n1}', {"a": 1}),
        (b"\xff", "\N{REPLACEMENT CHARACTER}"),
        (b"[" * 300 + b"]" * 300, orjson.loads(b"[" * 300 + b"]" * 300)),
    ],
)
def test_whatever_a_record_holds_is_shown(value: bytes | None, shown: Any) -> None:
    """A dead letter may be anything; a header may be null."""
    line = tail._json_line(record(key=None, value=value, headers=[("odd", None), ("bytes", b"\xff")]), ())
    found = orjson.loads(line)
    assert "\n" not in line
    assert found["value"] == shown
    assert found["headers"] == {"odd": None, "bytes": "\N{REPLACEMENT CHARACTER}"}
    assert not found["key"]


def test_on_a_terminal_a_record_is_a_short_line() -> None:
    """Type, sequence and the beginning of the value; null for what is deleted."""
    headers = [("ce_type", b"customer.created"), ("ce_sequence", b"3")]
    line = tail._pretty(record(value=b"x" * 1000, headers=headers), ())
    assert "created" in line
    assert "#3" in line
    assert len(line) < 250
    assert "null" in tail._pretty(record(value=None), ())


def test_nothing_that_a_record_holds_can_command_the_terminal() -> None:
    """Escape sequences come from outside."""
    line = tail._pretty(record(key=b"crm/\x1b[2J", value=b"\x1b]0;title\x07\r\nx", headers=[]), ())
    assert not any(ord(letter) < 32 or ord(letter) == 127 for letter in line)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("beginning", Moment(edge="beginning")),
        ("end", Moment(edge="end")),
        ("90s", Moment(time=NOW - 90_000)),
        ("7d", Moment(time=NOW - 7 * 86_400_000)),
        ("120", Moment(offset=120)),
        ("3-120", Moment(offset=120, partition=3)),
        ("2023-11-14", Moment(time=1_699_920_000_000)),
        ("2023-11-14T01:00:00+01:00", Moment(time=1_699_920_000_000)),
        ("2023-11-14T00:00:00Z", Moment(time=1_699_920_000_000)),
    ],
)
def test_a_place_is_a_time_an_offset_or_an_edge(text: str, place: Moment) -> None:
    """A time without a zone is UTC."""
    assert moment(text, NOW) == place


@given(st.text(max_size=12))
def test_whatever_is_written_is_a_place_or_refused(text: str) -> None:
    """With a sentence that says what can be written."""
    try:
        found: object = moment(text, NOW)
    except UsageError as error:
        found = error.hint
    assert found not in {None, Moment()}


@given(st.datetimes(min_value=datetime(1971, 1, 1), timezones=st.just(UTC)))  # ruff: ignore[call-datetime-without-tzinfo]
def test_a_time_is_read_as_it_was_written(at: datetime) -> None:
    """To the millisecond."""
    whole = at.replace(microsecond=at.microsecond // 1000 * 1000)
    assert moment(at.isoformat(timespec="milliseconds"), NOW).time == round(whole.timestamp() * 1000)


@pytest.mark.parametrize(
    ("start", "until"),
    [("1h", "2h"), ("9999-01-01", "end"), ("20", "20"), ("end", "end"), ("1h", "beginning"), ("1-20", "2-30")],
)
def test_a_part_with_nothing_in_it_is_refused(start: str, until: str) -> None:
    """Before anything is read."""
    with pytest.raises(UsageError):
        Span(moment(start, NOW), moment(until, NOW)).check(NOW)


def test_types_are_one_choice() -> None:
    """A record of another type, or of none, is not wanted."""
    wants = Wanted(source="crm", types=("customer.created", "customer.deleted")).matcher()
    assert wants(b"crm/1", [("ce_type", b"customer.deleted")])
    assert not wants(b"crm/1", [("ce_type", b"customer.updated")])
    assert not wants(b"crm/1", [("odd", None)])  # type: ignore[list-item]
    assert not wants(b"shop/1", [("ce_type", b"customer.deleted")])


def test_fields_are_picked_by_dotted_names() -> None:
    """Those of a list's elements as a list, headers by their name, null for what is not there."""
    value = {"customer": {"emails": [{"value": "a@example.com"}, {}]}, "changed": ["emails"]}
    headers = [("ce_sequence", b"3")]
    assert pick(value, headers, ["customer.emails.value", "changed", "ce_sequence", "none.such"]) == {
        "customer.emails.value": ["a@example.com", None],
        "changed": ["emails"],
        "ce_sequence": "3",
        "none.such": None,
    }
    assert pick(None, [], ["a.b"]) == {"a.b": None}
