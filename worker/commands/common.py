"""What every command shares: the configuration, the event loop, tables on a terminal and JSON lines elsewhere."""

import asyncio
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, NoReturn

import click
from rich.console import Console

from worker import config as configuration
from worker import telemetry
from worker.config import Config


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine on the fastest event loop there is, and return its result."""
    try:
        import uvloop  # ruff: ignore[import-outside-top-level] - not on every platform
    except ImportError:
        return asyncio.run(work)
    return uvloop.run(work)


def config(ctx: click.Context) -> Config:
    """Read the configuration that `--config` names, and set up logging by it; raises ConfigError."""
    path: Path | None = ctx.find_root().obj
    found = configuration.load(configuration.find(path))
    log = found.file.log
    telemetry.configure_logging(level=log.level, text=None if log.format is None else log.format == "text")
    return found


def out() -> Console:
    """Return the console for tables and progress on standard output."""
    return Console(soft_wrap=True, highlight=False)


def finish(code: int, message: str) -> NoReturn:
    """Say why on standard error, and end with an exit code."""
    click.echo(message, err=True)
    sys.exit(code)
