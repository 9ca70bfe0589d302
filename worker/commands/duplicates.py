"""`rollcall duplicates`: which customers are one person, why two are or are not, and all of it as a file.

Reads Kafka's public topics and nothing else. Tables on a terminal, JSON lines in a pipe; no value of a customer is
shown, only kinds of values, weights and ids.
"""

import csv
import sys
from collections.abc import Iterable, Mapping, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Literal, TextIO

import click
import orjson

from handlers.dedupe import explain
from handlers.dedupe.events import Review
from handlers.dedupe.explain import Census, Group, Published, Reviews, Why
from handlers.dedupe.graph import source_of
from worker import inspect
from worker.commands.common import cell, out, run, written
from worker.commands.common import config as configured
from worker.commands.common import table as new_table
from worker.config import Config
from worker.errors import UsageError
from worker.events import Customer

_JSON = click.option("--json", "as_json", is_flag=True, help="JSON lines also on a terminal.")
COLUMNS = ("cluster", "customer", "winner", "size", "path")


@click.group()
def duplicates() -> None:
    """Show the customers that are one person, and why."""


@duplicates.command("list")
@click.option("--source", help="Only clusters and pairs with a customer of this source.")
@click.option("--sources", type=click.Choice(["same", "several"]), help="Only within one source, or only across.")
@click.option("--reviews", is_flag=True, help="Only the pairs that a person should look at.")
@_JSON
@click.pass_context
def list_(
    ctx: click.Context, source: str | None, sources: Literal["same", "several"] | None, *, reviews: bool, as_json: bool
) -> None:
    """Show the clusters, and the pairs that are left to a person: nearly alike, or an e-mail clash in one source."""
    config = configured(ctx)
    _known(config, source)
    groups = [] if reviews else list(explain.groups(run(_table(config, config.topics.clusters))))
    pairs: list[Review] = run(_reviews(config))
    groups = [one for one in groups if _wanted(one["members"], one["sources"], source, sources)]
    pairs = [one for one in pairs if _wanted((one["a"], one["b"]), one["sources"], source, sources)]
    if as_json or not sys.stdout.isatty():
        for group in groups:
            click.echo(orjson.dumps({"kind": "cluster", **group}))
        for pair in pairs:
            click.echo(orjson.dumps({"kind": "review", **pair}))
        return
    _show(groups, pairs)


@duplicates.command()
@click.argument("a")
@click.argument("b")
@_JSON
@click.pass_context
def why(ctx: click.Context, a: str, b: str, *, as_json: bool) -> None:
    """Show why the customers A and B (<source>/<id>) are one person or are not. Reads all customers, to count them."""
    config = configured(ctx)
    found: tuple[Why, Published] = run(_why(config, a, b))
    if as_json or not sys.stdout.isatty():
        click.echo(orjson.dumps({**found[0], "published": found[1]}))
        return
    _explain(*found)


@duplicates.command()
@click.option("--format", "format_", type=click.Choice(["jsonl", "csv"]), default="jsonl", show_default=True)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="A file; default: standard output.")
@click.pass_context
def export(ctx: click.Context, format_: Literal["jsonl", "csv"], output: Path | None) -> None:
    """Export every customer that is in a cluster: cluster, winner or not, and the links from it to the winner."""
    config = configured(ctx)
    rows = explain.export(run(_table(config, config.topics.clusters)))
    if output is None:
        _write(sys.stdout, format_, rows)
        return
    with written(output) as file, TextIOWrapper(file, encoding="utf-8", newline="") as text:
        _write(text, format_, rows)


def _write(file: TextIO, format_: Literal["jsonl", "csv"], rows: Iterable[Mapping[str, Any]]) -> None:
    if format_ == "csv":
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
        return
    file.writelines(orjson.dumps(row).decode() + "\n" for row in rows)


async def _table(config: Config, topic: str) -> dict[bytes, bytes | None]:
    """Return the newest value by key."""
    return {record.key: record.value async for record in inspect.read_all(config, topic)}


async def _reviews(config: Config) -> list[Review]:
    reviews = Reviews()
    async for record in inspect.read_all(config, config.topics.identity):
        reviews.take(record.headers, record.value)
    return reviews.open()


async def _why(config: Config, a: str, b: str) -> tuple[Why, Published]:
    if a == b:
        raise UsageError("give two different customers")
    topics, settings, hasher = config.topics, config.file.handlers.dedupe, config.hasher()
    one, other = await _customers(config, (a, b))
    census = Census(one, other, settings, hasher)
    if census.wanted:
        async for record in inspect.read_all(config, topics.latest):
            census.take(record.key, record.value)
    account = explain.why(one, other, settings, hasher, census.crowded())
    reviews = await _reviews(config)
    return account, explain.published(account["a"], account["b"], await _table(config, topics.clusters), reviews)


async def _customers(config: Config, names: Sequence[str]) -> list[Customer]:
    """Return live customers by their names; raises UsageError for one that is not there."""
    values: dict[bytes, bytes | None] = {}
    wanted = {name.encode() for name in names}
    async for record in inspect.read_all(config, config.topics.latest):
        if record.key in wanted:
            values[record.key] = record.value
    for name in names:
        if values.get(name.encode()) is None:
            state = "is deleted" if name.encode() in values else "has never been published"
            hint = "Customers are named <source>/<id>. `rollcall tail --from beginning --customer` shows its past."
            raise UsageError(f"there is no customer {inspect.plain(name)}: it {state}", hint=hint)
    return [orjson.loads(values[name.encode()] or b"") for name in names]


def _known(config: Config, source: str | None) -> None:
    if source is not None and source not in config.file.sources:
        names = ", ".join(sorted(config.file.sources)) or "none"
        raise UsageError(f"there is no source {inspect.plain(source)!r}; there are: {names}")


def _wanted(members: Sequence[str], kind: str, source: str | None, sources: str | None) -> bool:
    of_source = source is None or source in map(source_of, members)
    return of_source and sources in {None, kind}


def _show(groups: Sequence[Group], pairs: Sequence[Review]) -> None:
    if groups:
        table = new_table("cluster", "sources", "stays", "is one with", title="One person")
        for group in groups:
            rest = ", ".join(name for name in group["members"] if name != group["winner"])
            table.add_row(group["cluster"], group["sources"], cell(group["winner"]), cell(rest))
        out().print(table)
    if pairs:
        table = new_table("a", "b", "score", "sources", "because", title="To be looked at")
        for pair in pairs:
            table.add_row(cell(pair["a"]), cell(pair["b"]), f"{pair['score']:g}", pair["sources"], pair["reason"])
        out().print(table)
    clashes = sum(pair["reason"] == "email_clash" for pair in pairs)
    click.echo(f"{len(groups)} clusters, {len(pairs)} pairs to be looked at, {clashes} of them e-mail clashes")


def _explain(account: Why, published: Published) -> None:
    verdict, needed = account["verdict"], f"{account['link']:g} links, {account['review']:g} is reviewed"
    standing = "out of the question" if account["standing"] is None else f"{account['standing']:g}"
    click.echo(f"{inspect.plain(account['a'])} and {inspect.plain(account['b'])}: {verdict}")
    click.echo(f"  stands at: {standing} ({needed})")
    click.echo(f"  met under: {', '.join(account['met']) or 'nothing: they are never compared'}")
    if account["crowded"]:
        click.echo(f"  shared by too many to count: {', '.join(account['crowded'])}")
    if len(set(account["scopes"])) > 1:
        click.echo(f"  in different scopes: {', '.join(account['scopes'])}")
    table = new_table("what is compared", "adds")
    for name, weight in {**account["values"], **account["fields"]}.items():
        table.add_row(name.replace("_", " "), f"{weight:+g}")
    table.add_row("together", f"{account['score']:g}")
    out().print(table)
    vetoes = ", ".join(
        f"{name.replace('_', ' ')}: {'yes' if holds else 'no'}" for name, holds in account["vetoes"].items()
    )
    click.echo(f"  vetoes: {vetoes}{' (outweighed)' if account['lifted'] else ''}")
    click.echo(f"  needs in common beside the score: {account['needs']}")
    if account["one_to_one"]:
        click.echo("  linked all the same where neither may be anybody else: their sources are one to one")
    if account["blocked"]:
        click.echo(f"  kept apart whatever else: {account['blocked'].replace('_', ' ')}")
    if account["email_clash"]:
        click.echo("  one e-mail address on two customers of one source and kind")
    _tell_published(published)


def _tell_published(published: Published) -> None:
    one, other = published["clusters"]
    if one is not None and one == other:
        click.echo(f"published as one: cluster {one}")
        for step in published["path"]:
            click.echo(f"  {inspect.plain(step['a'])} = {inspect.plain(step['b'])} ({step['score']:g})")
    else:
        click.echo(f"published: {one or 'alone'} and {other or 'alone'}")
    if published["review"]:
        click.echo(f"to be looked at: {published['review'].replace('_', ' ')}")


COMMANDS = (duplicates,)
