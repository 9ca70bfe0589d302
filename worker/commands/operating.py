"""`rollcall check`, `status` and `acls`: whether all is in order, how things stand, and who needs which rights."""

import sys
from collections.abc import Sequence
from pathlib import Path

import click
import orjson

from worker import acls as rights
from worker import checking, inspect
from worker import config as configuration
from worker.acls import ROLES
from worker.commands.common import config as configured
from worker.commands.common import finish, out, run
from worker.errors import ConfigError


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
    found: checking.Findings = run(checking.check(path, roles))
    if found.problems:
        left = [f"  (not looked at before that is mended: {what})" for what in found.passed_over]
        finish(ConfigError.exit_code, "\n".join([str(ConfigError(found.problems, where=str(path))), *left]))
    click.echo(f"{path}: in order ({found.sources} sources)")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="JSON lines instead of a table.")
@click.pass_context
def status(ctx: click.Context, *, as_json: bool) -> None:
    """Show the state of sources and handlers."""
    rows = run(inspect.statuses(configured(ctx)))
    if as_json:
        for row in rows:
            click.echo(orjson.dumps(row))
        return
    out().print(inspect.status_table(rows))


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
