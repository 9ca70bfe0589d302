"""What an operator is shown of deletions: ids come from outside, and are shown as they are."""

import io

import pytest
from rich.console import Console
from rich.table import Table

from handlers.deletes.operate import Erasure, Row
from worker.commands.deletions import deletions_table, erasure_table, held_table

ID = "crm/[red]x[/red]\x1b[31m"
SHOWN = "crm/[red]x[/red]\N{REPLACEMENT CHARACTER}[31m"
ROW: Row = {
    "request": "1",
    "target": "crm",
    "customer": ID.removeprefix("crm/"),
    "state": "HELD",
    "since": "2025-01-01T00:00:00.000Z",
    "authority": "gone",
    "origin": ID,
    "plan_or_reason": None,
}
PLAN = {"plan": "plan-1", "hash": "2", "target": "crm", "count": 3, "reason": "[/] of [bold]many"}


@pytest.mark.parametrize(
    ("table", "text"),
    [
        (deletions_table([ROW]), SHOWN),
        (held_table([PLAN]), PLAN["reason"]),
        (erasure_table(Erasure({ID: 1})), SHOWN),
    ],
    ids=["deletions", "plans", "erasure"],
)
def test_brackets_in_an_id_are_no_markup(table: Table, text: str) -> None:
    """An id with brackets is readable, and one with control characters commands nothing."""
    console = Console(file=io.StringIO(), width=400, color_system=None)
    console.print(table)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert text in shown
    assert "\x1b" not in shown
