"""`rollcall deletions` and `rollcall erase`: what an operator sees of deletions, and decides about them.

Decisions travel as records on the approvals topic, whose ACL says who may decide; the command waits for the worker's
answer. Needs Kafka and nothing else.
"""

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import click
import orjson
from rich.table import Table

from handlers.deletes import operate
from handlers.deletes.decisions import Decision, record_of
from handlers.deletes.machine import State
from handlers.deletes.operate import Command
from handlers.deletes.undo import Undo
from worker import inspect, ordering
from worker.commands.common import cell, finish, out, run, written
from worker.commands.common import config as configured
from worker.commands.common import table as new_table
from worker.config import Config
from worker.errors import ConfigError
from worker.kafka import Connection
from worker.times import now_ms


@click.group()
def deletions() -> None:
    """List, show, approve, reject and retry deletions carried downstream."""


_WHO = click.option("--who", default=ordering.user, help="Who decides, as claimed; default: the user.")
_JSON = click.option("--json", "as_json", is_flag=True, help="JSON lines instead of a table.")


def _command(who: str) -> Command:
    return Command(secrets.token_hex(8), who, now_ms())


async def _decide(config: Config, decisions: Sequence[Decision]) -> list[dict[str, Any]]:
    """Publish decisions, and return what became of them."""
    topics = config.topics
    records = [(topics.approvals, *record_of(given)) for given in decisions]
    await Connection(config.file.kafka).publish(topics, records)
    answers = await inspect.answers(config, [given["id"] for given in decisions])
    return [answers[given["id"]] for given in decisions]


def _tell(answers: Sequence[dict[str, Any]]) -> None:
    """Print what became of decisions; exit 1 if one was refused."""
    for answer in answers:
        click.echo(f"{answer['outcome']}: {answer['message']}")
    if any(answer["outcome"] == "refused" for answer in answers):
        finish(1, "a decision was refused")


@deletions.command("list")
@click.option("--state", type=click.Choice(list(State), case_sensitive=False), help="Only this state.")
@click.option("--target", help="Only this target.")
@click.option("--source", help="Only deletions that came from this source.")
@_JSON
@click.pass_context
def list_(ctx: click.Context, state: str | None, target: str | None, source: str | None, *, as_json: bool) -> None:
    """Show held plans, and the newest deletion of each customer."""
    config = configured(ctx)
    records = run(inspect.records(config, config.topics.deletions))
    plans = operate.plans(run(inspect.records(config, config.topics.status)))
    rows = operate.listing(records, state=state, target=target, source=source, plans=plans)
    if as_json:
        for line in [*plans, *rows]:
            click.echo(orjson.dumps(line))
        return
    if plans:
        out().print(held_table(plans))
        for plan in plans:
            click.echo(f"`rollcall deletions approve {inspect.plain(operate.handle(plan))}`, or `reject`")
    out().print(deletions_table(rows))


def held_table(plans: Sequence[dict[str, Any]]) -> Table:
    """Return the plans as a table for people; what comes from outside is shown as it is, and commands nothing."""
    table = new_table("plan that waits for you", "target", "deletions", "reason", title="Held")
    for plan in plans:
        table.add_row(*map(cell, (operate.handle(plan), plan["target"], str(plan["count"]), plan["reason"])))
    return table


def deletions_table(rows: Sequence[operate.Row]) -> Table:
    """Return the newest deletion of each customer as a table for people."""
    table = new_table("request", "target/customer", "state", "since", "because", "from", "plan or reason")
    for row in rows:
        what = f"{row['target']}/{row['customer']}"
        cells = (row["request"], what, row["state"], row["since"], row["authority"], row["origin"])
        table.add_row(*map(cell, (*cells, row["plan_or_reason"] or "")))
    return table


def erasure_table(plan: operate.Erasure) -> Table:
    """Return whom an erasure is about, and where each is deleted, as a table for people."""
    table = new_table("customer", "deleted at")
    for key in plan.customers:
        table.add_row(cell(key), cell(", ".join(plan.targets.get(key, ())) or "no target is configured for it"))
    return table


@deletions.command()
@click.argument("name")
@click.option("--copy", "with_copy", is_flag=True, help="Open the undo copy, with the key that is configured.")
@click.pass_context
def show(ctx: click.Context, name: str, *, with_copy: bool) -> None:
    """Show all that is known of one deletion: by its request, or by TARGET/CUSTOMER."""
    config = configured(ctx)
    undo = _undo(config) if with_copy else None
    found = operate.show(
        run(inspect.records(config, config.topics.deletions)),
        run(inspect.records(config, config.topics.receipts)),
        name,
        undo,
    )
    click.echo(orjson.dumps(found, option=orjson.OPT_INDENT_2))


def _undo(config: Config) -> Undo:
    reference = config.file.handlers.deletes.undo_key
    if reference is None:
        raise ConfigError(["handlers.deletes.undo_key is not set: there are no undo copies"], where=str(config.path))
    try:
        return Undo(reference.read())
    except ValueError as error:
        raise ConfigError([f"handlers.deletes.undo_key: {error}"], where=str(config.path)) from error


def _verdict(ctx: click.Context, what: Literal["approve", "reject"], name: str, who: str) -> None:
    config = configured(ctx)
    given = operate.approve_or_reject(
        what,
        run(inspect.records(config, config.topics.status)),
        run(inspect.records(config, config.topics.deletions)),
        name,
        _command(who),
    )
    _tell(run(_decide(config, [given])))


@deletions.command()
@click.argument("plan")
@_WHO
@click.pass_context
def approve(ctx: click.Context, plan: str, who: str) -> None:
    """Approve a held PLAN (<plan>@<hash>, as `list` shows it) or a single request."""
    _verdict(ctx, "approve", plan, who)


@deletions.command()
@click.argument("plan")
@_WHO
@click.pass_context
def reject(ctx: click.Context, plan: str, who: str) -> None:
    """Reject a held PLAN (without a hash: as it is now) or a single request."""
    _verdict(ctx, "reject", plan, who)


@deletions.command()
@click.argument("name")
@_WHO
@click.pass_context
def retry(ctx: click.Context, name: str, who: str) -> None:
    """Make a blocked or failed request anew, or let a paused target go on."""
    config = configured(ctx)
    records = run(inspect.records(config, config.topics.deletions))
    receipts = run(inspect.records(config, config.topics.receipts))
    given = operate.retry(records, config.file.handlers.deletes, name, _command(who), receipts)
    _tell(run(_decide(config, [given])))


@deletions.command()
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="A file; default: standard output.")
@click.pass_context
def export(ctx: click.Context, output: Path | None) -> None:
    """Export every receipt, as CloudEvents in JSON lines."""
    config = configured(ctx)
    lines = operate.export(run(inspect.records(config, config.topics.receipts)))
    if output is None:
        for line in lines:
            click.echo(line, nl=False)
        return
    with written(output) as file:
        file.writelines(lines)


@click.command()
@click.option("--customer", help="This customer: <source>/<id>.")
@click.option("--email", help="Everybody with this e-mail address.")
@click.option("--yes", is_flag=True, help="Do it; without, only the plan is shown.")
@_WHO
@click.pass_context
def erase(ctx: click.Context, customer: str | None, email: str | None, who: str, *, yes: bool) -> None:
    """Delete a person from every system: a customer, or all with an e-mail address, and everybody in their clusters.

    With --yes it ends with 0 only if everybody's erasure was taken on, and their own systems are targets: else with 1.
    """
    if (customer is None) == (email is None):
        raise click.UsageError("give either --customer or --email")
    config = configured(ctx)
    plan = operate.erasure(
        run(inspect.records(config, config.topics.latest)),
        run(inspect.records(config, config.topics.clusters)),
        config.file.handlers.deletes,
        customer=customer,
        email=email,
    )
    out().print(erasure_table(plan))
    stays = f"stays in its own system, which is no target: {', '.join(map(inspect.plain, plan.staying))}"
    if not yes:
        click.echo("nothing was done; --yes does it" + (f"\n{stays}" if plan.staying else ""))
        return
    if decisions := operate.erase(plan, _command(who)):
        _tell(run(_decide(config, decisions)))
    if plan.staying:
        finish(1, f"{len(plan.staying)} of {len(plan.customers)} {stays}")


COMMANDS = (deletions, erase)
