"""What every command shares: the configuration, the event loop, tables, files that are written."""

import asyncio
import sys
from collections.abc import Coroutine, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final, NoReturn

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from worker import config as configuration
from worker import telemetry
from worker.config import Config
from worker.errors import UsageError
from worker.inspect import plain
from worker.kafka import unawaited

_PIPE_WIDTH: Final = 1_000


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine on the fastest event loop there is, and return its result."""

    async def working() -> Any:
        asyncio.get_running_loop().set_exception_handler(unawaited)
        return await work

    try:
        import uvloop  # ruff: ignore[import-outside-top-level] - not on every platform
    except ImportError:
        return asyncio.run(working())
    return uvloop.run(working())


def config(ctx: click.Context) -> Config:
    """Read the configuration that `--config` names, and set up logging by it; raises ConfigError."""
    path: Path | None = ctx.find_root().obj
    found = configuration.load(configuration.find(path))
    log = found.file.log
    telemetry.configure_logging(level=log.level, text=None if log.format is None else log.format == "text")
    return found


def out() -> Console:
    """Return the console for tables and progress on standard output; nothing is too wide for a pipe."""
    return Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)


def table(*columns: str, title: str | None = None) -> Table:
    """Return an empty table that shows its cells whole: names in it are there to be copied."""
    made = Table(title=title, title_justify="left")
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def cell(text: str) -> Text:
    """Return a text that neither the terminal nor rich takes for anything but text: ids may have [brackets]."""
    return Text(plain(text))


@contextmanager
def written(path: Path) -> Generator[IO[bytes]]:
    """Write a file that takes the place of what was there when it is whole, and not before.

    A pipe or a device is written as it is. Raises UsageError where it cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        if path.exists() and not path.is_file():
            with path.open("wb") as device:
                yield device
            return
        with part.open("wb") as file:
            yield file
        part.replace(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def finish(code: int, message: str) -> NoReturn:
    """Say why on standard error, and end with an exit code."""
    click.echo(message, err=True)
    sys.exit(code)
