"""`rollcall tail`, `deadletters`, `replay`, `sequences`: what was published, and what to do when something was not.

Needs Kafka and nothing else. A payload is printed only where it is asked for.
"""

from pathlib import Path
from typing import Literal

import click
import orjson
from rich.markup import escape
from rich.progress import Progress
from rich.text import Text

from worker import deadletters as letters
from worker import ordering
from worker import rebuild as rebuilding
from worker import replay as replays
from worker import sequences as versions
from worker.commands.common import config as configured
from worker.commands.common import finish, out, run, written
from worker.commands.common import table as new_table
from worker.config import Config
from worker.errors import UsageError
from worker.inspect import plain
from worker.reading import Moment, Span, Wanted, moment, type_name
from worker.redelivery import Letter, chosen
from worker.tail import View
from worker.tail import tail as show
from worker.times import now_ms, rfc3339


@click.command()
@click.argument("topic", default="events")
@click.option("--from", "start", metavar="WHERE", help="beginning, end (default), 15m, a time, or an offset.")
@click.option("--from-beginning", is_flag=True, help="The same as --from beginning.")
@click.option("--until", metavar="WHERE", help="Stop there: a time, an offset, or end as it is now.")
@click.option("--follow/--no-follow", default=None, help="Go on at the end; the default without --until.")
@click.option("--source", help="Only this source.")
@click.option("--type", "types", multiple=True, help="Only this type: created, updated, deleted, merged, split ...")
@click.option("--customer", help="Only this customer: <source>/<id>.")
@click.option("--fields", help="Only these fields of the value, with commas: changed,customer.emails.value")
@click.pass_context
def tail(
    ctx: click.Context,
    topic: str,
    start: str | None,
    until: str | None,
    follow: bool | None,  # ruff: ignore[boolean-type-hint-positional-argument] - click gives it by name
    source: str | None,
    types: tuple[str, ...],
    customer: str | None,
    fields: str | None,
    *,
    from_beginning: bool,
) -> None:
    """Show records of a public topic: events, latest, clusters, identity, deletions, receipts, deadletters."""
    if from_beginning and start:
        raise UsageError("--from-beginning and --from say two things")
    if until and follow:
        raise UsageError("--until and --follow say two things")
    now = now_ms()
    first = moment("beginning" if from_beginning else start or "end", now)
    last = moment(until, now) if until else None
    if last is not None or first.time is not None:
        Span(first, last or Moment(edge="end")).check(now)
    wanted = Wanted(source, tuple(map(type_name, types)), customer)
    going_on = until is None if follow is None else follow
    names = tuple(filter(None, (fields or "").split(",")))
    run(show(configured(ctx), topic, View(wanted, first, last, going_on, names)))


@click.group()
def deadletters() -> None:
    """List, show, retry and discard records that could not be handled."""


_STAGE = click.option("--stage", help="Only those of this stage, or of this plug-in.")
_SOURCE = click.option("--source", help="Only those of this source.")
_KEY = click.option("--key", help="Only those with this key.")
_WHO = click.option("--who", default=ordering.user, help="Who decides, as claimed; default: the user.")


@deadletters.command("list")
@_STAGE
@_SOURCE
@_KEY
@click.option("--json", "as_json", is_flag=True, help="JSON lines instead of a table.")
@click.pass_context
def list_(ctx: click.Context, stage: str | None, source: str | None, key: str | None, *, as_json: bool) -> None:
    """Show the dead letters of which nothing has become yet, without what is in them."""
    found = chosen(run(letters.waiting(configured(ctx))), stage=stage, source=source, key=key)
    if as_json:
        for letter in found:
            click.echo(orjson.dumps(letters.shown(letter, payload=False)))
        return
    table = new_table("name", "since", "stage", "from", "key", "why")
    for letter in found:
        place = letters.place(letter)
        key_ = (letter.record.key or b"").decode(errors="replace")
        why = letter.reason if letter.error in {"", "Dead"} else f"{letter.error}: {letter.reason}"
        cells = (plain(text) for text in (letter.stage, place, key_, why))
        table.add_row(letter.name, rfc3339(letter.at), *map(Text, cells))
    out().print(table)


@deadletters.command("show")
@click.argument("name")
@click.option("--payload", is_flag=True, help="With headers and value, which may hold personal data.")
@click.pass_context
def show_letter(ctx: click.Context, name: str, *, payload: bool) -> None:
    """Show one dead letter."""
    (letter,) = letters.named(run(letters.waiting(configured(ctx))), [name])
    click.echo(orjson.dumps(letters.shown(letter, payload=payload), option=orjson.OPT_INDENT_2))


def _chosen(
    ctx: click.Context, names: tuple[str, ...], stage: str | None, source: str | None, key: str | None
) -> list[Letter]:
    """Return what a command is about: by name, or all that the filters let through."""
    if bool(names) == bool(stage or source or key):
        raise UsageError("say which: names, or --stage, --source, --key")
    waiting = run(letters.waiting(configured(ctx)))
    return letters.named(waiting, names) if names else chosen(waiting, stage=stage, source=source, key=key)


def _settle(
    ctx: click.Context, found: list[Letter], verb: Literal["retry", "discard"], who: str, value: bytes | None = None
) -> None:
    """Have it done, and say what became of each; exit 1 if one failed."""
    told = run(letters.settle(configured(ctx), found, verb, who, value))
    for name, answer in told.items():
        click.echo(f"{name} {answer['outcome']}: {answer['message']}")
    if not told:
        click.echo("there is none")
    failed = sum(answer["outcome"] == "failed" for answer in told.values())
    if failed:
        finish(1, f"{failed} failed again, and still wait{'s' if failed == 1 else ''}")


@deadletters.command()
@click.argument("names", nargs=-1)
@_STAGE
@_SOURCE
@_KEY
@click.option(
    "--value", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="A file with another value."
)
@_WHO
@click.pass_context
def retry(
    ctx: click.Context,
    names: tuple[str, ...],
    stage: str | None,
    source: str | None,
    key: str | None,
    value: Path | None,
    who: str,
) -> None:
    """Have dead letters handled once more, in their order.

    A built-in stage answers `superseded` where a newer version of the customer has passed. What waits behind a dead
    letter of a plug-in follows it. Exits 1 if one failed again.
    """
    found = _chosen(ctx, names, stage, source, key)
    if value is not None and len(found) != 1:
        raise UsageError(f"--value is for one dead letter, not for {len(found)}")
    _settle(ctx, found, "retry", who, None if value is None else value.read_bytes())


@deadletters.command()
@click.argument("names", nargs=-1)
@_STAGE
@_SOURCE
@_KEY
@_WHO
@click.pass_context
def discard(
    ctx: click.Context, names: tuple[str, ...], stage: str | None, source: str | None, key: str | None, who: str
) -> None:
    """Let dead letters be; what waits behind one of a plug-in goes on without it."""
    _settle(ctx, _chosen(ctx, names, stage, source, key), "discard", who)


@click.command()
@click.option(
    "--to", "name", help="A plug-in, deletes, a topic or a group of another service (topic:NAME, group:NAME)."
)
@click.option("--from", "start", metavar="WHERE", help="beginning, 15m, a time, or an offset.")
@click.option("--until", metavar="WHERE", default="end", show_default=True, help="The same; end as it is now.")
@click.option("--source", help="Only this source.")
@click.option("--type", "types", multiple=True, help="Only this type: created, updated, deleted.")
@click.option("--customer", help="Only this customer: <source>/<id>.")
@click.option("--with-deletes", is_flag=True, help="Request deletions downstream once more.")
@click.option("--run", "really", is_flag=True, help="Do it; without, only the counts are shown.")
@click.option("--rate", type=click.FloatRange(min=1), default=1000.0, show_default=True, help="Copies a second.")
@click.option("--resume", metavar="ID", help="Go on with a replay that was stopped.")
@click.pass_context
def replay(
    ctx: click.Context,
    name: str | None,
    start: str | None,
    until: str,
    source: str | None,
    types: tuple[str, ...],
    customer: str | None,
    rate: float,
    resume: str | None,
    *,
    with_deletes: bool,
    really: bool,
) -> None:
    """Give events of the past once more to a handler, or to another service.

    Copies have the header rollcall-replay and never go into a public topic of ours.
    """
    config = configured(ctx)
    if resume is not None:
        if name or start:
            raise UsageError("--resume continues a replay exactly as it was started: give no other option with it")
        _copy(config, run(replays.resumed(config, resume)), rate)
        return
    if name is None or start is None:
        raise UsageError("say where to (--to) and from where on (--from)")
    now = now_ms()
    span = Span(moment(start, now), moment(until, now))
    span.check(now)
    wanted = Wanted(source, tuple(map(type_name, types)), customer)
    target = run(replays.target_of(config, name, with_deletes=with_deletes))
    if target.kind == "group" and (wanted != Wanted() or until != "end"):
        raise UsageError("a group reads on from where it is set: nothing can be left out")
    plan = run(replays.plan(config, target, wanted, span))
    if target.kind == "group":
        _set_back(config, plan, really=really)
        return
    if not really:
        _tell(run(replays.count(config, plan)), target)
        return
    _copy(config, plan, rate)


def _tell(found: replays.Counts, target: replays.Target) -> None:
    """Say what a replay would do."""
    for type_, count in sorted(found.wanted.items()):
        click.echo(f"{count:>9} {type_}")
    click.echo(f"{sum(found.wanted.values()):>9} of {found.read} events would be copied to {target.name}")
    if found.foreign:
        click.echo(f"{found.foreign:>9} records are not events of customers, and are left out", err=True)
    click.echo("nothing was done; --run does it")


def _set_back(config: Config, plan: replays.Plan, *, really: bool) -> None:
    """Set a group's position back, or say what that would be."""
    told = run(replays.set_back(config, plan)) if really else {}
    for partition, offset in sorted(plan.start.items()):
        before = f", from {told[partition]}" if told.get(partition) is not None else ""
        click.echo(f"{config.topics.events} {partition}: to offset {offset}{before}")
    click.echo("done" if really else "nothing was done; --run does it, once every member of the group has stopped")


def _copy(config: Config, plan: replays.Plan, rate: float) -> None:
    """Make the copies, with a bar on a terminal; say how to go on where it is stopped."""
    click.echo(f"replay {plan.id}: if it is stopped, `rollcall replay --resume {plan.id}` goes on with it")
    with Progress(console=out()) as bar:
        task = bar.add_task(escape(f"to {plan.target.name}"), total=plan.total, completed=plan.passed)
        run(replays.run(config, plan, rate, lambda done: bar.update(task, completed=done.passed)))
    click.echo(f"{plan.copied} copies were made for {plan.target.name}")


@click.group()
def sequences() -> None:
    """Keep the customers' versions in a file, for the day on which the topics are lost."""


@sequences.command("export")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.pass_context
def sequences_export(ctx: click.Context, file: Path) -> None:
    """Write every customer with its newest version to FILE, which it takes the place of when it is whole."""
    count = run(_export(configured(ctx), file))
    click.echo(f"{file}: {count} customers")


async def _export(config: Config, file: Path) -> int:
    count = 0
    with written(file) as lines:
        async for one in versions.known(config):
            lines.write(one.line())
            count += 1
    return count


@sequences.command("import")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option(
    "--ahead",
    type=click.IntRange(0, 1_000_000),
    default=1000,
    show_default=True,
    help="Versions to leave free above each exported one.",
)
@click.pass_context
def sequences_import(ctx: click.Context, file: Path, ahead: int) -> None:
    """Take up the versions in FILE on new topics, before the first poll; customers known already are left alone."""
    done = run(versions.take_up(configured(ctx), list(versions.read(file)), ahead))
    click.echo(f"{done.taken} taken up, {done.left} left as they are")


@click.command()
@click.argument("handler")
@click.option(
    "--empty", is_flag=True, help="Take the state of the deletes (or a stage of them) or of a plug-in away instead."
)
@click.option(
    "--behind", is_flag=True, help="Rebuild although deletions are unhandled; `deletes` never hears of those."
)
@click.pass_context
def rebuild(ctx: click.Context, handler: str, *, empty: bool, behind: bool) -> None:
    """Build the state of HANDLER (dedupe, of which a stage is a part) anew from customers.latest; publish what differs.

    It works beside the running workers until it has caught up, then waits until they are stopped.

    The deletes' state and a plug-in's are nowhere else: --empty has them begin anew, as if it was lost. Nothing of the
    past is executed then, and what was open is held for a person (docs/recover.md).
    """
    config = configured(ctx)
    if empty:
        run(rebuilding.empty(config, handler, lambda line: click.echo(line, err=True)))
        click.echo(f"now start the workers that run {handler} again")
        return
    found = run(rebuilding.rebuild(config, handler, lambda line: click.echo(line, err=True), behind=behind))
    events = f"{found.events} identity events ({found.reviews} of them about pairs for review)"
    click.echo(f"{found.changed} memberships changed, {found.removed} removed, {events}")
    click.echo(f"now set handlers.dedupe_generation: {found.generation}, and start the workers again")


COMMANDS = (deadletters, rebuild, replay, sequences, tail)
