"""`rollcall check`, `status` and `acls`: whether all is in order, how things stand, and who needs which rights."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import click
import orjson
from rich.table import Table
from rich.text import Text

from worker import acls as rights
from worker import checking, inspect, overview, telemetry
from worker import config as configuration
from worker.acls import ROLES
from worker.commands.common import config as configured
from worker.commands.common import finish, out, run
from worker.commands.common import table as new_table
from worker.errors import ConfigError
from worker.overview import Row

# Of each kind of row: the columns' names and the fields in them.
_COLUMNS: Final[Mapping[str, Mapping[str, str]]] = {
    "source": {
        "source": "source",
        "state": "state",
        "live": "live",
        "set aside": "set_aside",
        "checkpoint": "checkpoint_seconds",
        "last scan": "scanned_seconds",
        "": "message",
    },
    "stage": {
        "stage": "stage",
        "state": "state",
        "workers": "workers",
        "tasks": "tasks",
        "of": "partitions",
        "lag": "lag",
        "": "message",
    },
    "target": {"target": "target", "state": "state", "": "reason"},
    "deletions": {
        "deletions at": "target",
        "being judged": "window",
        "in held plans": "plan",
        "held alone": "person",
        "without route": "route",
        "in turn": "turn",
    },
    "replay": {"replay": "name", "state": "state", "": "message"},
}


@click.command()
@click.option(
    "--role",
    "roles",
    multiple=True,
    help="Only what this role needs (see `acls`); several times for several. Default: all stages of workers.",
)
@click.pass_context
def check(ctx: click.Context, roles: Sequence[str]) -> None:
    """Check everything, and name every problem: configuration, secrets, sources, Kafka's topics and rights, clocks."""
    path: Path = configuration.find(ctx.find_root().obj)
    telemetry.configure_logging()  # as by default: what the file says of it may be among the problems
    found: checking.Findings = run(checking.check(path, roles))
    if found.problems:
        left = [f"  (not looked at before that is mended: {what})" for what in found.passed_over]
        finish(ConfigError.exit_code, "\n".join([str(ConfigError(found.problems, where=str(path))), *left]))
    click.echo(f"{path}: in order ({found.sources} sources)")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="JSON lines instead of a table.")
@click.pass_context
def status(ctx: click.Context, *, as_json: bool) -> None:
    """Show how it stands: sources, stages with their lag, what waits for a person, targets, what is unfinished."""
    rows: list[Row] = run(overview.overview(configured(ctx)))
    if as_json:
        for row in rows:
            click.echo(orjson.dumps(row))
        return
    for table in tables(rows):
        out().print(table)
    for row in rows:
        if row["kind"] == "held":
            click.echo(f"waits for you: {row['count']} {row['what']} of {row['of']}: `{row['decide']}`")
        if row["kind"] == "deadletters":
            most = "" if row["exact"] else "up to "
            known = row["message"] if row["count"] is None else f"{most}{row['count']}"
            click.echo(f"dead letters: {known}" + (" (`rollcall deadletters list`)" if row["count"] else ""))


def tables(rows: Sequence[Row]) -> Iterator[Table]:
    """Yield a table of each kind that there is something of."""
    for kind, columns in _COLUMNS.items():
        shown = [row for row in rows if row["kind"] == kind]
        if not shown:
            continue
        table = new_table(*columns)
        for row in shown:
            table.add_row(*(Text(_cell(row, field)) for field in columns.values()))
        yield table


def _cell(row: Row, field: str) -> str:
    """Return a value as it is shown; what comes from outside never commands the terminal."""
    value = row.get(field)
    if field == "message":
        value = "; ".join(filter(None, (value, row.get("alarm"))))
    if value is None:
        return ""
    return f"{value} s" if field.endswith("_seconds") else inspect.plain(str(value))


@click.command()
@click.argument("role", metavar=f"[{'|'.join(ROLES)}|PLUG-IN]")
@click.option("--principal", help="Default: User:rollcall-ROLE.")
@click.option("--group", default="my-service", show_default=True, help="The subscriber's consumer group.")
@click.pass_context
def acls(ctx: click.Context, role: str, principal: str | None, group: str) -> None:
    """Print the commands that give a role the rights it needs in Kafka, and no others."""
    config = configured(ctx)
    plugin = config.file.handlers.plugins.get(role)
    given = rights.grants(role, config.topics, group=group, outputs=() if plugin is None else plugin.outputs)
    for line in rights.commands(given, principal or f"User:rollcall-{role}", config.file.kafka.bootstrap):
        sys.stdout.write(line + "\n")


COMMANDS = (check, status, acls)
