"""The types on the topics: keys, ids and headers."""

from datetime import UTC, datetime

import pytest
from cloudevents.core.bindings import kafka
from hypothesis import given
from hypothesis import strategies as st

from worker import events
from worker.events import CREATED, DELETED, customer_key, event_headers, event_id, header, split_key

sources = st.from_regex(r"[a-z][a-z0-9_-]{0,62}", fullmatch=True)
ids = st.text(min_size=1, max_size=300)


@given(sources, ids)
def test_a_key_says_which_customer_it_is(source: str, customer_id: str) -> None:
    """Also where the id holds a slash: a source's name never does."""
    assert split_key(customer_key(source, customer_id)) == (source, customer_id)


@given(st.tuples(sources, ids), st.tuples(sources, ids))
def test_different_customers_have_different_keys(one: tuple[str, str], other: tuple[str, str]) -> None:
    """And the same customer has one."""
    assert (customer_key(*one) == customer_key(*other)) == (one == other)


@pytest.mark.parametrize("key", [b"", b"/", b"crm", b"crm/", b"/7", b"\xff/7"])
def test_what_is_no_key_is_refused(key: bytes) -> None:
    """By a ValueError, whatever is wrong with it."""
    with pytest.raises(ValueError, match=r"key|utf-8"):
        split_key(key)


@given(ids, ids, st.integers(1, 10**9), st.integers(1, 10**9))
def test_an_events_id_is_that_of_its_customer_and_sequence(one: str, other: str, first: int, second: int) -> None:
    """Whoever computes it: a subscriber can drop duplicate events by it."""
    keys = customer_key("crm", one), customer_key("crm", other)
    assert (event_id(keys[0], first) == event_id(keys[1], second)) == ((one, first) == (other, second))


def test_headers_are_cloudevents_in_binary_mode() -> None:
    """As the Kafka binding of CloudEvents 1.0 has it (section 3.2): `ce_` and the name, and content-type."""
    headers = event_headers(
        key=b"crm/7",
        source="crm",
        type_=DELETED,
        sequence=3,
        time="2025-01-31T12:00:00.000Z",
        reason="gone",
    )
    assert dict(headers) == {
        "ce_specversion": b"1.0",
        "ce_id": event_id(b"crm/7", 3).encode(),
        "ce_source": b"/rollcall/crm",
        "ce_type": b"customer.deleted",
        "ce_subject": b"crm/7",
        "ce_time": b"2025-01-31T12:00:00.000Z",
        "ce_sequence": b"3",
        "ce_dataschema": b"urn:rollcall:customer-event:1",
        "content-type": b"application/json",
        "ce_reason": b"gone",
    }


def test_an_event_is_read_by_another_implementation() -> None:
    """The CNCF's own SDK takes it for a CloudEvent, and reads the same."""
    headers = event_headers(key=b"crm/7", source="crm", type_=CREATED, sequence=1, time="2025-01-31T12:00:00.000Z")
    event = kafka.from_binary_event(kafka.KafkaMessage(dict(headers), b"crm/7", b'{"id": "7"}'))
    assert event.get_time() == datetime(2025, 1, 31, 12, tzinfo=UTC)
    assert (event.get_type(), event.get_subject(), event.get_data()) == (CREATED, "crm/7", {"id": "7"})
    assert event.get_extension("sequence") == "1"


@given(st.lists(st.tuples(st.sampled_from(["ce_type", "other"]), st.binary(max_size=9))))
def test_a_header_is_the_first_of_its_name_as_text(headers: list[tuple[str, bytes]]) -> None:
    """None where there is none, or where it is not UTF-8."""
    values = [value for name, value in headers if name == "ce_type"]
    try:
        expected = values[0].decode() if values else None
    except UnicodeDecodeError:
        expected = None
    assert header(headers, "ce_type") == expected


def test_what_may_change_is_everything_but_who_it_is() -> None:
    """`changed` never names the customer's identity or our own bookkeeping."""
    assert set(events.Customer.__annotations__) - set(events.FIELDS) == {"source", "id", "first_seen"}
