"""One broker process: its folder made ready, started under its guard, asked for an answer, ended within a bound."""

import asyncio
import contextlib
import os
import re
import sys
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiokafka.conn import create_conn
from aiokafka.errors import KafkaError
from aiokafka.protocol.metadata import MetadataRequest

from worker.embedded import guard
from worker.embedded.java import Java
from worker.embedded.java import find as find_java
from worker.embedded.layout import BROKER_LOG, HOST, STARTED, Layout, Security
from worker.embedded.layout import plan as make_plan
from worker.errors import EmbeddedKafkaError

START_SECONDS: Final = 120.0
"""How long a broker may take until it answers."""
STOP_SECONDS: Final = 20.0
"""How long a broker may take to stop before it is killed."""
POLL_SECONDS: Final = 0.05
PORT_ATTEMPTS: Final = 5
"""How often a start begins again because somebody took a port."""

_MARGIN_SECONDS: Final = 10.0
_PROBE_MS: Final = 3_000
_LOG_LINES: Final = 8
_LOG_BYTES: Final = 65_536
_TELLS_LITTLE: Final = re.compile(r"^\s|^$| INFO ")  # frames of a stack, listed settings
_PORT_TAKEN: Final = "Address already in use"
_ENVIRONMENT: Final = ("HOME", "JAVA_TOOL_OPTIONS", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TMPDIR")


class PortTakenError(EmbeddedKafkaError):
    """Somebody took a port between our choosing it and the broker's binding it."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a caller may ask of a broker: see `cluster`."""

    security: Security
    config: Mapping[str, str]
    jvm_args: Sequence[str]


class Node:
    """One node of a cluster."""

    def __init__(self, layout: Layout, node_id: int, command: Sequence[str], *, temporary: bool) -> None:
        """Describe the node with that id; `temporary`: the whole folder goes should this program die."""
        self.node_id = node_id
        self.folder = layout.node_folder(node_id)
        self.port = layout.ports[node_id - 1].internal
        self._command = command
        self._doomed = str(layout.folder) if temporary else "-"
        self._guard: asyncio.subprocess.Process | None = None
        self._pid: int | None = None

    async def spawn(self, lock: int) -> None:
        """Start the broker; it does not answer yet. `lock` is the descriptor of the data folder's lock."""
        arguments = ("attached", str(lock), str(STOP_SECONDS), self._doomed, *self._command)
        self._guard = await start_guard(self.folder, lock, arguments)
        if self._guard.stdout is not None:
            self._pid = int(await self._guard.stdout.readline() or 0) or None

    @property
    def has_ended(self) -> bool:
        """Whether the broker does not run: ended by us or by itself."""
        return self._guard is None or self._guard.returncode is not None

    @property
    def pid(self) -> int | None:
        """The broker's process id while it runs, else None."""
        return None if self.has_ended else self._pid

    async def stop(self) -> None:
        """End the broker with SIGTERM, and SIGKILL `STOP_SECONDS` later; nothing where it does not run."""
        await self._end(b"t", STOP_SECONDS + _MARGIN_SECONDS)

    async def kill(self) -> None:
        """End the broker with SIGKILL; nothing where it does not run."""
        await self._end(b"k", _MARGIN_SECONDS)

    async def _end(self, order: bytes, seconds: float) -> None:
        ending, self._guard = self._guard, None
        if ending is None or ending.stdin is None:
            return
        with contextlib.suppress(ConnectionError):  # the broker has ended by itself, and its guard with it
            ending.stdin.write(order)
            await ending.stdin.drain()
        try:
            await asyncio.wait_for(ending.wait(), seconds)
        except TimeoutError:
            ending.kill()  # the kernel then kills the broker
            await ending.wait()


async def start_guard(folder: Path, lock: int, arguments: Iterable[str]) -> asyncio.subprocess.Process:
    """Start the guard (its arguments: see there) in the node's folder, away from the terminal's signals.

    It and the broker see a few variables of our environment only: none of our secrets.
    """
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-IS",
        guard.__file__,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=folder,
        env=_environment(),
        pass_fds=(lock,),
        start_new_session=True,
    )


def _environment() -> dict[str, str]:
    return {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}


async def start_nodes(nodes: Sequence[Node], lock: int) -> None:
    """Start brokers that do not run, and wait until each of them knows all of them as registered and alive.

    Raises `EmbeddedKafkaError` with the end of the broker's log where one ends or does not answer within
    `START_SECONDS`, `PortTakenError` where that is because of a port; none of them runs then.
    """
    try:
        for node in nodes:
            await node.spawn(lock)
        await _await_answers(nodes)
    except BaseException:
        await asyncio.gather(*(node.kill() for node in nodes))
        raise


async def _await_answers(nodes: Sequence[Node]) -> None:
    deadline = time.monotonic() + START_SECONDS
    waiting, ids = list(nodes), {node.node_id for node in nodes}
    while waiting:
        for node in nodes:
            if node.has_ended:
                raise start_error(node.folder, "it ended before it answered")
        if time.monotonic() > deadline:
            raise start_error(waiting[0].folder, f"it did not answer within {START_SECONDS:.0f} s")
        await asyncio.sleep(POLL_SECONDS)
        waiting = [node for node in waiting if not await is_ready(node.folder, node.port, ids)]


async def is_ready(folder: Path, port: int, expected: Collection[int]) -> bool:
    """Whether the node in that folder has started, and answers on that port with all brokers `expected` (ids) alive.

    Both are needed: one listener answers while another's port turns out to be taken.
    """
    with contextlib.suppress(FileNotFoundError):
        return bool((folder / STARTED).stat().st_size) and await _lists(port, expected)
    return False


async def _lists(port: int, expected: Collection[int]) -> bool:
    try:
        connection = await create_conn(HOST, port, client_id="rollcall-embedded", request_timeout_ms=_PROBE_MS)
    except (OSError, KafkaError, TimeoutError):
        return False
    try:
        metadata = await connection.send(MetadataRequest([]))
    except (OSError, KafkaError, TimeoutError):
        return False
    finally:
        connection.close()
    return set(expected) <= {broker[0] for broker in metadata.brokers}


async def prepare(folder: Path, nodes: int, options: Options, *, keep_ports: bool) -> tuple[Layout, list[list[str]]]:
    """Make the folder ready and return what is in it, with the command line of every node's broker."""
    found = await asyncio.to_thread(find_java)
    plan = make_plan(folder, nodes, keep_ports=keep_ports)
    plan.write(options.security, options.config)
    await _format_storage(found, plan)
    folders = [plan.node_folder(number) for number in range(1, nodes + 1)]
    return plan, [found.broker_command(folder, options.jvm_args) for folder in folders]


async def _format_storage(java: Java, layout: Layout) -> None:
    """Format what is not formatted yet ("kafka-storage format")."""
    wanted = [layout.node_folder(node_id) for node_id in range(1, len(layout.ports) + 1)]
    wanted = [folder for folder in wanted if not (folder / "data" / "meta.properties").exists()]
    arguments = ("format", "--cluster-id", layout.cluster_id, "--config", "server.properties", "--ignore-formatted")
    command = java.command("kafka.tools.StorageTool", *arguments)
    for outcome in await asyncio.gather(*(_run(command, folder) for folder in wanted), return_exceptions=True):
        if outcome is not None:
            raise outcome


async def _run(command: Sequence[str], folder: Path) -> None:
    with (folder / guard.CONSOLE).open("wb") as console:
        tool = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=console, stderr=console, cwd=folder, env=_environment()
        )
    try:
        code = await asyncio.wait_for(tool.wait(), START_SECONDS)
    except TimeoutError as error:
        raise start_error(folder, f"formatting its storage did not end within {START_SECONDS:.0f} s") from error
    finally:
        if tool.returncode is None:
            tool.kill()
            await tool.wait()
    if code:
        raise start_error(folder, f"formatting its storage ended with code {code}")


def start_error(folder: Path, what: str) -> EmbeddedKafkaError:
    """Return the error of a node that did not start: what happened, the end of its logs, and what to do."""
    lines = _tail(folder / guard.CONSOLE) + _tail(folder / BROKER_LOG)
    text = "\n".join(f"  | {line}" for line in lines) or "  | (no warning, no error)"
    kind = PortTakenError if any(_PORT_TAKEN in line for line in lines) else EmbeddedKafkaError
    return kind(
        f"starting the embedded Kafka's {folder.name}: {what}. The end of its logs:\n{text}",
        hint="Common causes: a setting it does not know, too little memory (a node takes up to 0.7 GB), data of a "
        f"newer Kafka. All its logs are in {folder}, unless that was temporary.",
    )


def _tail(path: Path) -> list[str]:
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _LOG_BYTES))
        lines = file.read().decode("utf-8", "replace").splitlines()
        return [line for line in lines if not _TELLS_LITTLE.search(line)][-_LOG_LINES:]
    return []
