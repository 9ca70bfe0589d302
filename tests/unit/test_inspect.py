"""What the command line reads: problems and statuses."""

import io
import socket
from typing import Any

import pytest
from rich.console import Console

from worker import config, inspect


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
