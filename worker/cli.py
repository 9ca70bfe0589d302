"""The command line: puts the parts together and turns errors into exit codes.

Exit codes: 0 ok, 1 something differs or failed, 2 usage or configuration, 3 something needed is not available, 130
ended by Ctrl-C.
"""

import sys
from pathlib import Path
from typing import Any

import click
import orjson

from worker import config as configuration
from worker import service
from worker.commands import audit, contract, deletions, duplicates, operating, recovery, sources
from worker.commands.common import config as configured
from worker.commands.common import finish, run
from worker.errors import RollcallError
from worker.kafka import apply_topics, plan_topics
from worker.topics import POLL


class _Commands(click.Group):
    """A group whose commands end with the exit code of the error that they raise."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RollcallError as error:
            click.echo(f"rollcall: {error}", err=True)
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            sys.exit(130)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rollcall-cdc", prog_name="rollcall")
@click.option(
    "--config", "-c", "path", type=click.Path(path_type=Path), help="Default: ./rollcall.yaml, then /etc/rollcall."
)
@click.pass_context
def main(ctx: click.Context, path: Path | None) -> None:
    """Detect customers created, changed and deleted behind REST APIs, and publish that to Kafka."""
    ctx.obj = path


@main.command()
@click.pass_context
def poll(ctx: click.Context) -> None:
    """Poll the sources, until SIGTERM."""
    run(service.serve(configured(ctx), [POLL]))


@main.command()
@click.argument("names", nargs=-1)
@click.pass_context
def handle(ctx: click.Context, names: tuple[str, ...]) -> None:
    """Run handlers (dedupe, deletes), single stages of them, or plug-ins by name; default: all."""
    config = configured(ctx)
    run(service.serve(config, service.stages_of(names, config.topics.plugins)))


@main.group()
def topics() -> None:
    """Make and check the topics."""


@topics.command("plan")
@click.pass_context
def topics_plan(ctx: click.Context) -> None:
    """Show what the cluster lacks; exits 1 if anything."""
    config = configured(ctx)
    wanted = run(plan_topics(config.file.kafka, config.topics))
    for line in wanted.problems():
        click.echo(line)
    click.echo("the topics are as declared" if wanted.empty else "`rollcall topics apply` makes and alters them")
    sys.exit(0 if wanted.empty else 1)


@topics.command("apply")
@click.pass_context
def topics_apply(ctx: click.Context) -> None:
    """Make missing topics and mend settings; exits 1 if something is wrong that cannot be mended."""
    config = configured(ctx)
    wanted = run(apply_topics(config.file.kafka, config.topics))
    for spec in wanted.create:
        click.echo(f"made {spec.name} ({spec.partitions} partitions, {spec.cleanup})")
    for name in wanted.there:
        click.echo(f"{name} was there already: somebody else has made it just now")
    for name in wanted.alter:
        click.echo(f"altered {name}")
    for line in wanted.wrong:
        click.echo(line, err=True)
    if wanted.empty:
        click.echo("the topics are as declared")
    sys.exit(1 if wanted.wrong else 0)


@main.group()
def kafka() -> None:
    """Start and stop an embedded Kafka broker: for the demo, tests and a first try."""


_DATA = click.option(
    "--data",
    type=click.Path(path_type=Path),
    default=Path(".rollcall/kafka"),
    show_default=True,
    help="The broker's data folder.",
)


@kafka.command("start")
@_DATA
def kafka_start(data: Path) -> None:
    """Start the broker (or find it running) and print its address."""
    from worker import embedded  # ruff: ignore[import-outside-top-level] - needs the extra `embedded`

    running = run(embedded.start_detached(data))
    click.echo(running.bootstrap)


@kafka.command("stop")
@_DATA
def kafka_stop(data: Path) -> None:
    """Stop the broker; exits 1 if none was running."""
    from worker import embedded  # ruff: ignore[import-outside-top-level]

    if not run(embedded.stop_detached(data)):
        finish(1, f"no broker is running on {data}")


@kafka.command("status")
@_DATA
def kafka_status(data: Path) -> None:
    """Print the running broker's address; exits 1 if none is running."""
    from worker import embedded  # ruff: ignore[import-outside-top-level]

    running = embedded.status(data)
    if running is None:
        finish(1, f"no broker is running on {data}")
    click.echo(f"{running.bootstrap} (pid {running.pid})")


@main.command()
@click.option(
    "--customers",
    type=click.IntRange(200),
    default=500,
    show_default=True,
    help="In the crm and in the shop, at the start; a fifth of that in each other system.",
)
@click.option("--seconds", type=click.IntRange(1), default=30, show_default=True, help="Of churn.")
@click.option("--seed", default=1, show_default=True)
@click.option("--keep", is_flag=True, help="Leave everything running until Ctrl-C.")
def demo(customers: int, seconds: int, seed: int, *, keep: bool) -> None:
    """Run all of it here: a broker, five simulated systems, pollers, handlers; then check the result."""
    from worker import demo as demonstration  # ruff: ignore[import-outside-top-level] - needs the extra `embedded`

    sys.exit(run(demonstration.run(customers=customers, seconds=seconds, seed=seed, keep=keep)))


@main.command("config-schema")
def config_schema() -> None:
    """Print the JSON Schema of the configuration file, for editors."""
    click.echo(orjson.dumps(configuration.json_schema(), option=orjson.OPT_INDENT_2))


SUBJECTS = (audit, contract, deletions, duplicates, operating, recovery, sources)
for command in (command for subject in SUBJECTS for command in subject.COMMANDS):
    main.add_command(command)

if __name__ == "__main__":
    main()
