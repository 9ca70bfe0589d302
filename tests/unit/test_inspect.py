"""What the command line reads: statuses."""

import io
from typing import Any

from rich.console import Console

from worker import inspect


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
