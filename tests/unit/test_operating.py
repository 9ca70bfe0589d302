"""What `rollcall status` prints of the rows that it is given, and `rollcall acls` of a role."""

import io
import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from worker.acls import ROLES
from worker.cli import main
from worker.commands.operating import tables
from worker.overview import _held

ROOT = Path(__file__).parents[2]


def printed(rows: list[dict[str, Any]]) -> str:
    """Return the tables as they are printed."""
    console = Console(file=io.StringIO(), width=200)
    for table in tables(rows):
        console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_the_rows_are_tables_by_kind() -> None:
    """Whatever words a message has: none of them is taken for markup, or commands the terminal."""
    shown = printed([
        {"kind": "source", "source": "crm", "state": "failing", "message": "[/red] where[and][0]\x1b[2J", "live": 7},
        {"kind": "source", "source": "erp", "checkpoint_seconds": 61, "alarm": "an alarm", "message": "less"},
        {"kind": "stage", "stage": "keys", "state": "running", "workers": 2, "tasks": 8, "partitions": 8, "lag": 0},
        {"kind": "command", "id": "of no interest"},
    ])
    assert "[/red] where[and][0]\N{REPLACEMENT CHARACTER}[2J" in shown
    assert "less; an alarm" in shown
    assert "61 s" in shown
    assert "of no interest" not in shown
    (keys,) = [line for line in shown.splitlines() if "keys" in line]
    assert keys.split()[1::2][:6] == ["keys", "running", "2", "8", "8", "0"]


def test_what_waits_at_a_target_is_shown_and_who_is_to_do_what() -> None:
    """Of each plan its command, and of what was held by itself the one that lists it."""
    waits = {"window": 0, "plan": 12, "person": 3, "route": 0, "turn": 40}
    (row,) = [
        line for line in printed([{"kind": "deletions", "target": "shop", **waits}]).splitlines() if "shop" in line
    ]
    assert row.split()[1::2] == ["shop", "0", "12", "3", "0", "40"]
    plan = {"target": "shop", "state": "held", "plan": "plan-1", "hash": "ab", "count": 12, "reason": "many"}
    told = [{"target": "shop", "waits": waits}, {"target": "erp", "waits": dict.fromkeys(waits, 0)}]
    assert [(one["count"], one["decide"]) for one in _held([], [plan], told)] == [
        (12, "rollcall deletions approve plan-1@ab"),
        (3, "rollcall deletions list --state HELD --target shop"),
    ]


def test_nothing_is_no_table() -> None:
    """A deployment without anything has none."""
    assert not printed([])


@pytest.mark.parametrize("role", ROLES)
def test_a_roles_rights_are_commands(role: str, tmp_path: Path) -> None:
    """Each is a line for kafka-acls.sh, and grants something to that principal on topics of this prefix only."""
    path = tmp_path / "rollcall.yaml"
    path.write_text("{prefix: shop, kafka: {bootstrap: 'kafka.example.com:9093'}}", "utf-8")
    result = CliRunner().invoke(main, ["--config", str(path), "acls", role, "--group", "shop.billing"])
    assert result.exit_code == 0
    for line in result.stdout.splitlines():
        command, *arguments = shlex.split(line)
        assert command == "kafka-acls.sh"
        assert arguments[:3] == ["--bootstrap-server", "kafka.example.com:9093", "--add"]
        assert arguments[3:5] == ["--allow-principal", f"User:rollcall-{role}"]
        assert "--operation" in arguments
        kinds = {"--topic", "--group", "--transactional-id"}
        named = [name for kind, name in pairwise(arguments) if kind in kinds]
        assert named or arguments[-1] == "--cluster"
        assert all(name.startswith(("shop.", "rollcall.shop.")) for name in named)


def test_a_role_that_there_is_not(tmp_path: Path) -> None:
    """It is refused with the names of those that there are, plug-ins included."""
    path = tmp_path / "rollcall.yaml"
    path.write_text("{handlers: {plugins: {billing: {}}}}", "utf-8")
    result = CliRunner().invoke(main, ["--config", str(path), "acls", "boss"])
    assert result.exit_code == 2
    assert "there is no role 'boss'; there are poll, keys" in result.stderr
    assert "billing" in result.stderr


def test_the_threat_model_names_tests_that_there_are() -> None:
    """Each defence is shown by a file, or a folder, of tests."""
    named = set(re.findall(r"`(tests/[^` ]+)`", (ROOT / "SECURITY.md").read_text("utf-8")))
    assert len(named) > 10
    for name in named:
        assert list(ROOT.glob(name)), name
