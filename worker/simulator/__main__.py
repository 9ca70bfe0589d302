"""`python -m worker.simulator KIND`: one simulated upstream as a process of its own.

Prints one JSON line with its URL once it answers, and stops on SIGTERM, SIGINT, or (with --until-stdin-ends) when
whoever started it ends and its standard input closes.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import signal
import sys
from typing import Any

import orjson
import uvloop

from worker.simulator import Connect, Dintero, Drivly, MyKaarma, Simulator

SYSTEMS: dict[str, type[Simulator]] = {system.kind: system for system in (Connect, Dintero, Drivly, MyKaarma)}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m worker.simulator", description="Simulate an upstream system.")
    parser.add_argument("kind", choices=sorted(SYSTEMS))
    parser.add_argument("--seed", type=int, default=0, help="decides all chance")
    parser.add_argument("--customers", type=int, default=0, help="synthetic customers to start with")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--churn", type=float, default=0.0, metavar="RATE", help="random writes a second")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="an argument of the system")
    parser.add_argument("--print-url", action="store_true", help="print the bare URL instead of a JSON line")
    parser.add_argument("--until-stdin-ends", action="store_true", help="stop when standard input closes")
    return parser.parse_args()


def _options(given: list[str]) -> dict[str, Any]:
    return {name: _value(text) for name, _, text in (option.partition("=") for option in given)}


def _value(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


async def _run(arguments: argparse.Namespace) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    options = _options(arguments.option)
    sim = SYSTEMS[arguments.kind](seed=arguments.seed, customers=arguments.customers, **options)
    gc.freeze()
    await sim.start(arguments.port)
    try:
        sim.keep_churning(arguments.churn)
        line = sim.url if arguments.print_url else orjson.dumps({"kind": sim.kind, "url": sim.url}).decode()
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
        if arguments.until_stdin_ends:
            loop.add_reader(sys.stdin.fileno(), lambda: None if os.read(sys.stdin.fileno(), 4096) else stop.set())
        await stop.wait()
    finally:
        await sim.stop()


if __name__ == "__main__":
    uvloop.run(_run(_arguments()))
