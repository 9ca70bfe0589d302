"""`rollcall watch`, `pause`, `resume`, `resync` and `sources`: what an operator orders of sources.

Orders travel as records on the control topic; the command waits for the worker's answer. Needs Kafka and nothing else.
"""

import re
import sys
from typing import Any, Final

import click
import orjson

from worker import inspect, ordering
from worker.commands.common import config as configured
from worker.commands.common import finish, run
from worker.config import Config
from worker.errors import UsageError
from worker.orders import Order, What
from worker.settings import NAME_PATTERN

_NAME: Final = re.compile(NAME_PATTERN).match
_WHO: Final = click.option("--who", help="Who orders it, as claimed; default: user and machine.")
_TIMEOUT: Final = click.option(
    "--timeout",
    default=30.0,
    show_default=True,
    help="Seconds to wait for the worker's answer; it is carried out anyway.",
)
_IDS: Final = click.argument("ids", nargs=-1, metavar="[ID]...")
_FILE: Final = click.option(
    "--file", "file", type=click.File(encoding="utf-8"), help="A file with one id a line; - is standard input."
)


def _order(config: Config, wanted: Order, timeout: float) -> None:
    """Give an order, print the answer, and exit 1 if it was refused."""
    answer = run(ordering.carry_out(config, wanted, timeout))
    click.echo(f"{answer['outcome']}: {answer['message']}")
    if answer["outcome"] != "done":
        sys.exit(1)


@click.group()
def watch() -> None:
    """Choose which customers to look up in a source that cannot list them."""


def _ids(ids: tuple[str, ...], file: Any) -> list[str]:
    try:
        found = [*ids, *(ordering.lines(file.read()) if file is not None else ())]
    except UnicodeDecodeError as error:
        raise UsageError(f"the file {file.name} is not UTF-8") from error
    if not found:
        raise UsageError("name the customers, or a file of them with --file")
    return found


@watch.command("add")
@click.argument("source")
@_IDS
@_FILE
@_WHO
@_TIMEOUT
@click.pass_context
def watch_add(
    ctx: click.Context, source: str, ids: tuple[str, ...], file: Any, who: str | None, timeout: float
) -> None:
    """Watch customers of SOURCE."""
    config = configured(ctx)
    wanted = ordering.watchable(config, source, _ids(ids, file))
    _order(config, ordering.given("watch", source, who, ids=wanted), timeout)


@watch.command("remove")
@click.argument("source")
@_IDS
@_FILE
@_WHO
@_TIMEOUT
@click.pass_context
def watch_remove(
    ctx: click.Context, source: str, ids: tuple[str, ...], file: Any, who: str | None, timeout: float
) -> None:
    """Watch customers of SOURCE no more; what was published of them stays as it is."""
    config = configured(ctx)
    wanted = ordering.watchable(config, source, _ids(ids, file))
    _order(config, ordering.given("unwatch", source, who, ids=wanted), timeout)


@watch.command("list")
@click.argument("source")
@click.option("--json", "as_json", is_flag=True, help="JSON lines.")
@click.pass_context
def watch_list(ctx: click.Context, source: str, *, as_json: bool) -> None:
    """Show who is watched, and what is known of each: live, deleted, not found, set aside, not looked up."""
    for customer_id, known in run(ordering.watched(configured(ctx), source)):
        click.echo(orjson.dumps({"id": customer_id, "state": known}) if as_json else f"{customer_id}  {known}")


@click.command()
@click.argument("source")
@_WHO
@_TIMEOUT
@click.pass_context
def pause(ctx: click.Context, source: str, who: str | None, timeout: float) -> None:
    """Ask SOURCE nothing until it is resumed; also over restarts."""
    _simple(ctx, "pause", source, who, timeout)


@click.command()
@click.argument("source")
@_WHO
@_TIMEOUT
@click.pass_context
def resume(ctx: click.Context, source: str, who: str | None, timeout: float) -> None:
    """Let a paused SOURCE go on."""
    _simple(ctx, "resume", source, who, timeout)


def _simple(ctx: click.Context, what: What, source: str, who: str | None, timeout: float, **more: Any) -> None:
    config = configured(ctx)
    ordering.configured(config, source)
    _order(config, ordering.given(what, source, who, **more), timeout)


@click.command()
@click.argument("source")
@click.option("--id", "customer_id", help="Only look this customer up, now.")
@_WHO
@_TIMEOUT
@click.pass_context
def resync(ctx: click.Context, source: str, customer_id: str | None, who: str | None, timeout: float) -> None:
    """Read SOURCE from the start, and publish what differs from what was published."""
    if customer_id is None:
        _simple(ctx, "resync", source, who, timeout)
        return
    config = configured(ctx)
    ordering.configured(config, source)
    if config.sources[source].adapter.lookup(customer_id) is None:
        hint = f"Without --id, {source} is read as a whole."
        raise UsageError(f"{customer_id!r} cannot be looked up in {source}", hint=hint)
    _order(config, ordering.given("look up", source, who, ids=[customer_id]), timeout)


@click.group()
def sources() -> None:
    """Say what becomes of a source's customers.

    A source that is taken out of the configuration is asked nothing any more, and nothing becomes of its customers
    until one of forget, delete and rename is ordered.
    """


@sources.command()
@click.argument("source")
@click.argument("plan")
@_WHO
@_TIMEOUT
@click.pass_context
def approve(ctx: click.Context, source: str, plan: str, who: str | None, timeout: float) -> None:
    """Let a PLAN of absences pass that is held, as `rollcall status` shows it."""
    _simple(ctx, "approve", source, who, timeout, plan=plan)


@sources.command()
@click.argument("source")
@_WHO
@_TIMEOUT
@click.pass_context
def forget(ctx: click.Context, source: str, who: str | None, timeout: float) -> None:
    """Forget the customers of SOURCE; on the topics they stay as they are."""
    config = configured(ctx)
    ordering.left(config, source)
    _order(config, ordering.given("forget", source, who), timeout)


@sources.command()
@click.argument("source")
@click.option("--yes", is_flag=True, help="It is meant.")
@_WHO
@_TIMEOUT
@click.pass_context
def delete(ctx: click.Context, source: str, who: str | None, timeout: float, *, yes: bool) -> None:
    """Publish all customers of SOURCE as deleted (reason: absent), and forget them."""
    config = configured(ctx)
    ordering.left(config, source)
    if not yes:
        count = _live(config, source)
        finish(2, f"{count} customers of {source} would be published as deleted; say --yes if that is meant")
    _order(config, ordering.given("delete", source, who), timeout)


@sources.command()
@click.argument("source")
@click.argument("name")
@_WHO
@_TIMEOUT
@click.pass_context
def rename(ctx: click.Context, source: str, name: str, who: str | None, timeout: float) -> None:
    """Publish all customers of SOURCE as deleted, and hand them over to NAME, which is configured after that."""
    config = configured(ctx)
    ordering.left(config, source)
    if _NAME(name) is None or name == source:
        raise UsageError(f"{name!r} is no other name for a source: a letter, then letters, digits, - and _")
    if name in config.sources or _live(config, name):
        hint = f"Rename first, then configure {name}; or `rollcall sources delete {source}`."
        raise UsageError(f"there is a source {name} already", hint=hint)
    _order(config, ordering.given("rename", source, who, name=name), timeout)


def _live(config: Config, source: str) -> int:
    """Return how many live customers a source has, by its status."""
    rows = run(inspect.statuses(config))
    return next((int(row["live"]) for row in rows if row.get("kind") == "source" and row["source"] == source), 0)


COMMANDS = (watch, pause, resume, resync, sources)
