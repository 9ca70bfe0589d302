"""What the command line reads: problems, statuses, records."""

import io
import socket
from typing import Any

import orjson
import pytest
from aiokafka.structs import ConsumerRecord
from rich.console import Console

from worker import config, inspect
from worker.errors import UsageError
from worker.inspect import Wanted


@pytest.fixture
def nowhere() -> str:
    """Return an address where nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


async def test_every_problem_is_named_at_once(nowhere: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pepper, credentials of sources and targets, the undo key, Kafka: each with its path."""
    for name in ("ROLLCALL_PEPPER", "CRM_KEY", "SHOP_KEY", "ROLLCALL_UNDO_KEY"):
        monkeypatch.delenv(name, raising=False)
    target = {"kind": "drivly", "url": "https://shop.example.com/api", "key": {"env": "SHOP_KEY"}}
    checked = config.parse({
        "kafka": {"bootstrap": nowhere, "start_timeout": "1s"},
        "sources": {"crm": {"kind": "drivly", "url": "https://crm.example.com/api", "key": {"env": "CRM_KEY"}}},
        "handlers": {"deletes": {"targets": {"shop": target}}},
    })
    found = await inspect.problems(checked)
    unset = "is empty or not set"
    without = "undo_key: null does without undo copies"
    assert found[:4] == [
        f"pepper: the environment variable ROLLCALL_PEPPER {unset}",
        f"handlers.deletes.undo_key: the environment variable ROLLCALL_UNDO_KEY {unset}; {without}",
        f"sources.crm.key: the environment variable CRM_KEY {unset}",
        f"handlers.deletes.targets.shop.key: the environment variable SHOP_KEY {unset}",
    ]
    assert len(found) == 5
    assert found[4].startswith("kafka: ")
    assert nowhere in found[4]


async def test_an_undo_key_is_missed_only_where_it_is_needed(nowhere: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a target that keeps undo copies nobody needs it."""
    monkeypatch.setenv("ROLLCALL_PEPPER", "x")
    monkeypatch.delenv("ROLLCALL_UNDO_KEY", raising=False)
    checked = config.parse({"kafka": {"bootstrap": nowhere, "start_timeout": "1s"}})
    assert [line.partition(":")[0] for line in await inspect.problems(checked)] == ["kafka"]


async def test_a_certificate_that_is_not_there_is_a_problem_of_kafka(
    nowhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no traceback."""
    monkeypatch.setenv("ROLLCALL_PEPPER", "x")
    kafka = {"bootstrap": nowhere, "security_protocol": "SSL", "ca_file": "none.pem"}
    (problem,) = await inspect.problems(config.parse({"kafka": kafka}))
    assert problem.startswith("kafka: ")


async def test_a_topic_that_cannot_be_shown_is_named_before_kafka_is_asked() -> None:
    """With those that can."""
    checked = config.parse({"kafka": {"bootstrap": "127.0.0.1:1"}})
    with pytest.raises(UsageError, match="there is no topic 'status' to show; there are events, latest"):
        await inspect.tail(checked, "status", from_beginning=False, follow=False, wanted=Wanted())


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
    assert [key for key in (b"crm/7", b"crm2/7", b"crm/77", None, b"\xff") if wanted.wants(key)] == keys


def record(key: bytes | None = b"crm/7", value: bytes | None = b'{"id": "7"}', headers: Any = ()) -> Any:
    """Return a record as a consumer has it."""
    return ConsumerRecord("customers.events", 3, 42, 1_700_000_000_000, 0, key, value, 0, 0, 0, headers)


def test_in_a_pipe_a_record_is_a_line_of_json() -> None:
    """All that it has, its value as JSON."""
    line = inspect._line(record(headers=[("ce_type", b"customer.created")]), pretty=False)
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
    line = inspect._line(record(key=None, value=value, headers=[("odd", None), ("bytes", b"\xff")]), pretty=False)
    found = orjson.loads(line)
    assert "\n" not in line
    assert found["value"] == shown
    assert found["headers"] == {"odd": None, "bytes": "\N{REPLACEMENT CHARACTER}"}
    assert not found["key"]


def test_on_a_terminal_a_record_is_a_short_line() -> None:
    """Type, sequence and the beginning of the value; null for what is deleted."""
    headers = [("ce_type", b"customer.created"), ("ce_sequence", b"3")]
    line = inspect._line(record(value=b"x" * 1000, headers=headers), pretty=True)
    assert "customer.created #3" in line
    assert len(line) < 250
    assert "null" in inspect._line(record(value=None), pretty=True)


def test_nothing_that_a_record_holds_can_command_the_terminal() -> None:
    """Escape sequences come from outside."""
    line = inspect._line(record(key=b"crm/\x1b[2J", value=b"\x1b]0;title\x07\r\nx", headers=[]), pretty=True)
    assert not any(ord(letter) < 32 or ord(letter) == 127 for letter in line)


def test_the_statuses_are_a_table() -> None:
    """Whatever words a message has: none of them is taken for markup."""
    rows: list[dict[str, Any]] = [
        {"kind": "source", "source": "crm", "state": "failing", "message": "[/red] where[and][0]", "live": 7},
        {"kind": "stage", "name": "keys", "state": "running", "alarm": "an alarm", "message": "less"},
    ]
    console = Console(file=io.StringIO(), width=200)
    console.print(inspect.status_table(rows))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "source crm" in shown
    assert "[/red] where[and][0]" in shown
    assert "an alarm" in shown
    assert "less" not in shown
