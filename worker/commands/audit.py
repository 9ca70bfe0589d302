"""`rollcall audit`: holds an upstream against what was published. Needs Kafka, the upstream, and its credential."""

import sys

import click
import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from worker.audit import Audit, Report
from worker.commands.common import config as configured
from worker.commands.common import out, run
from worker.commands.common import table as new_table
from worker.inspect import plain

_SHOWN = 20


def _table(report: Report) -> Table:
    table = new_table(f"audit of {report.source}", "")
    rows: list[tuple[str, object]] = [
        ("customers upstream", report.upstream),
        ("customers published", report.published),
        ("customers in the checkpoint", report.remembered),
        ("compared, field by field", report.compared),
        ("published while this ran", report.late),
        ("absences held for approval", report.held),
    ]
    for name, share in (("half", 0.5), ("95 %", 0.95), ("all", 1.0)):
        if (delay := report.delay(share)) is not None:
            rows.append((f"delay of {name} of {len(report.delays)} changes", f"{delay:.1f} s"))
    for name, value in rows:
        table.add_row(name, str(value))
    for kind in sorted({finding.kind for finding in report.findings}):
        count = sum(finding.kind == kind for finding in report.findings)
        table.add_row(f"WRONG: {kind}", str(count), style="red")
    for name, count in report.fields().items():
        table.add_row(Text(f"  differs in {plain(name)}"), str(count), style="red")
    return table


@click.command()
@click.argument("source")
@click.option("--sample", type=click.IntRange(min=1), help="Look only so many customers up, at random.")
@click.option("--patience", default=60.0, show_default=True, help="Seconds to wait for what differs to be published.")
@click.option(
    "--rate", type=click.FloatRange(min=0, min_open=True), help="Requests a second; default: half the source's."
)
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")
@click.pass_context
def audit(
    ctx: click.Context, source: str, sample: int | None, patience: float, rate: float | None, *, as_json: bool
) -> None:
    """Compare SOURCE's upstream with customers.latest and with the checkpoint; exits 1 where something differs."""
    config = configured(ctx)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading what was published", total=None)

        def progress(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        report: Report = run(Audit(config, source, rate=rate, progress=progress).run(sample=sample, patience=patience))
    if as_json:
        click.echo(orjson.dumps(report.as_json()))
    else:
        out().print(_table(report))
        for finding in report.findings[:_SHOWN]:
            click.echo(plain(f"{source}/{finding.id}: {finding.kind} {', '.join(finding.fields)}".rstrip()))
        if len(report.findings) > _SHOWN:
            click.echo(f"... and {len(report.findings) - _SHOWN} more; --json names all")
        click.echo("Something differs." if report.findings else "Everything is as it must be.")
    sys.exit(0 if report.clean else 1)


COMMANDS = (audit,)
