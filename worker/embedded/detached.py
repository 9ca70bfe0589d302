"""One broker in the background, that stays when the program which started it ends: for the command line."""

import asyncio
import contextlib
import itertools
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from worker.embedded import layout
from worker.embedded.layout import Layout
from worker.embedded.node import (
    POLL_SECONDS,
    PORT_ATTEMPTS,
    START_SECONDS,
    STOP_SECONDS,
    Options,
    PortTakenError,
    is_ready,
    prepare,
    start_error,
    start_guard,
)
from worker.errors import EmbeddedKafkaError

_KILL_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Running:
    """What runs on a data folder.

    `pid` is the broker's where that is `detached`, in the background, else that of the program that runs or starts it.
    """

    bootstrap: str
    pid: int
    detached: bool


async def start_detached(
    data_dir: Path, *, config: Mapping[str, str] | None = None, jvm_args: Sequence[str] = ()
) -> Running:
    """Start one broker in the background and return it once it answers; it stays when this program ends.

    Where one already runs in that folder, that one is returned, once it answers. Its logs are in the folder. Raises
    `EmbeddedKafkaError` where a program uses the folder by `cluster`, or the broker does not start.
    """
    folder = data_dir.absolute()  # ruff: ignore[blocking-path-method-in-async-function] - asks for the working directory only
    options = Options("plaintext", config or {}, jvm_args)
    for attempt in itertools.count(1):
        try:
            await _spawn_detached(folder, options, keep_ports=attempt == 1)
            return await _await_detached(folder)
        except layout.InUseError as error:
            if error.user is not None and error.user.role == "program":
                raise
            return await _await_detached(folder)
        except PortTakenError:
            if attempt == PORT_ATTEMPTS:
                raise
        except BaseException:
            await stop_detached(folder)
            raise
    raise AssertionError  # the loop has no end of its own


async def _spawn_detached(folder: Path, options: Options, *, keep_ports: bool) -> None:
    async with layout.hold(folder, "starting") as lock:
        plan, [command] = await prepare(folder, 1, options, keep_ports=keep_ports)
        starter = await start_guard(plan.node_folder(1), lock, ("detached", str(lock), *command))
        await starter.wait()


async def _await_detached(folder: Path) -> Running:
    node_folder = folder / "node-1"
    deadline = time.monotonic() + START_SECONDS
    while True:
        plan = layout.read(folder)
        ready = plan is not None and await is_ready(node_folder, plan.ports[0].internal, {1})
        user = layout.holder(folder)
        if user is None:
            raise start_error(node_folder, "it ended before it answered")
        if plan and ready:
            return _running(plan, user)
        if time.monotonic() > deadline:
            raise start_error(node_folder, f"it did not answer within {START_SECONDS:.0f} s")
        await asyncio.sleep(POLL_SECONDS)


def status(data_dir: Path) -> Running | None:
    """Return what runs on that data folder, None where nothing does; it need not answer (yet)."""
    user, plan = layout.holder(data_dir), layout.read(data_dir)
    return None if user is None or plan is None else _running(plan, user)


def _running(plan: Layout, user: layout.Holder) -> Running:
    return Running(plan.bootstrap, user.pid, user.role == "background")


async def stop_detached(data_dir: Path) -> bool:
    """Stop the broker that runs in the background on that folder, and return whether there was one.

    It gets SIGTERM, and SIGKILL 20 s later; only while the folder's lock shows that the process is still the broker.
    Raises `EmbeddedKafkaError` where a program uses the folder by `cluster`, or the broker does not end.
    """
    running = status(data_dir)
    if running is None:
        return False
    if not running.detached:
        raise layout.InUseError(data_dir, layout.holder(data_dir))
    for number, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, _KILL_SECONDS)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(running.pid, number)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            await asyncio.sleep(POLL_SECONDS)
            running = status(data_dir)
            if running is None:
                return True
    raise EmbeddedKafkaError(
        f"stopping the embedded Kafka of {data_dir}: process {running.pid} lives on after SIGKILL.",
        hint="It waits for a disk or a file system that does not answer, most likely.",
    )
