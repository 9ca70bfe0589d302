"""A real Apache Kafka, in KRaft mode, as child processes: for the demo, the tests and a first try. Not for production.

    async with embedded.cluster() as kafka:            one node, data in a temporary folder
    async with embedded.cluster(folder, nodes=3) as kafka:
        kafka.bootstrap, kafka.nodes[0].pid, await kafka.kill(0), await kafka.start_node(0)

    await embedded.start_detached(folder); embedded.status(folder); await embedded.stop_detached(folder)

It guarantees that every broker is Apache Kafka itself, from jars verified against a lock (`jars`); that all of it
listens on 127.0.0.1 only; that no broker of `cluster` outlives the program, however that ends (`guard`); that a data
folder is used once at a time, and a process that merely got a broker's old pid is never signalled (`layout`); and that
every wait has a bound. Linux; needs the extra `embedded`, or a Java 17 and a filled cache.
"""

import asyncio
import contextlib
import itertools
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from worker.embedded import java, layout
from worker.embedded.layout import Layout, Security
from worker.embedded.node import (
    POLL_SECONDS,
    START_SECONDS,
    STOP_SECONDS,
    Node,
    PortTakenError,
    format_storage,
    is_ready,
    start_error,
    start_guard,
    start_nodes,
)
from worker.errors import EmbeddedKafkaError

__all__ = ["Cluster", "Running", "Security", "cluster", "start_detached", "status", "stop_detached"]

_PORT_ATTEMPTS: Final = 5
_KILL_SECONDS: Final = 10.0


class Cluster:
    """A running cluster; made by `cluster`."""

    def __init__(self, plan: Layout, nodes: Sequence[Node], lock: int) -> None:
        """Take the running nodes that `plan` describes; `lock` is the descriptor of the data folder's lock."""
        self.bootstrap = plan.bootstrap
        self.cluster_id = plan.cluster_id
        self.data_dir = plan.folder
        self.nodes = tuple(nodes)
        self._lock = lock

    async def kill(self, index: int) -> None:
        """End a node with SIGKILL and wait until it is gone; nothing where it does not run."""
        await self.nodes[index].kill()

    async def stop_node(self, index: int) -> None:
        """Stop a node cleanly and wait until it is gone; it is killed where that takes over 20 s."""
        await self.nodes[index].stop()

    async def start_node(self, index: int) -> None:
        """Start a node that was stopped or killed, on the same ports and data, and wait until it answers.

        Raises `EmbeddedKafkaError`, with the end of the broker's log, where it does not within 120 s.
        """
        node = self.nodes[index]
        if node.has_ended:
            await start_nodes([node], self._lock)


@dataclass(frozen=True, slots=True)
class Running:
    """A broker that runs: where it answers, its process, and whether it runs in the background or for a program."""

    bootstrap: str
    pid: int
    detached: bool


@dataclass(frozen=True, slots=True)
class _Options:
    security: Security
    config: Mapping[str, str]
    jvm_args: Sequence[str]


@asynccontextmanager
async def cluster(
    data_dir: Path | None = None,
    nodes: int = 1,
    *,
    security: Security = "plaintext",
    config: Mapping[str, str] | None = None,
    jvm_args: Sequence[str] = (),
) -> AsyncIterator[Cluster]:
    """Run a cluster of `nodes` brokers (each a controller too) and yield it once every node knows all others.

    With `data_dir` the data stays there and a later call goes on with it: the same cluster id, the same ports where
    they are free. Without, it is in a temporary folder that goes at the end, and the brokers are killed: nothing of
    theirs is kept. Topics are replicated to min(3, nodes) nodes, with min(2, nodes) in sync.

    `security` is the protocol of the client listener, named CLIENT; what it needs (`listener.name.client.*`) and any
    other broker setting (an authorizer, say) comes by `config`, which overrides ours. `jvm_args` are added to ours.

    Raises `EmbeddedKafkaError` where it cannot be installed or does not start; the message says why and what to do.
    """
    options = _Options(security, config or {}, jvm_args)
    with _folder(data_dir) as folder:
        async with layout.hold(folder) as lock:
            running = await _start(folder, nodes, lock, options, temporary=data_dir is None)
            try:
                yield running
            finally:
                await asyncio.gather(*(node.kill() if data_dir is None else node.stop() for node in running.nodes))


@contextmanager
def _folder(data_dir: Path | None) -> Iterator[Path]:
    if data_dir is not None:
        yield data_dir.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="rollcall-kafka-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


async def _start(folder: Path, nodes: int, lock: int, options: _Options, *, temporary: bool) -> Cluster:
    for attempt in itertools.count(1):
        plan, commands = await _prepare(folder, nodes, options, keep_ports=attempt == 1)
        started = [Node(plan, number, command, temporary=temporary) for number, command in enumerate(commands, start=1)]
        try:
            await start_nodes(started, lock)
        except PortTakenError:
            if attempt == _PORT_ATTEMPTS:
                raise
        else:
            break
    return Cluster(plan, started, lock)


async def _prepare(folder: Path, nodes: int, options: _Options, *, keep_ports: bool) -> tuple[Layout, list[list[str]]]:
    """Make the folder ready and return what is in it, with the command line of every node's broker."""
    found = await asyncio.to_thread(java.find)
    plan = layout.plan(folder, nodes, keep_ports=keep_ports)
    plan.write(options.security, options.config)
    await format_storage(found, plan)
    folders = [plan.node_folder(number) for number in range(1, nodes + 1)]
    return plan, [found.broker_command(folder, options.jvm_args) for folder in folders]


async def start_detached(
    data_dir: Path, *, config: Mapping[str, str] | None = None, jvm_args: Sequence[str] = ()
) -> Running:
    """Start one broker in the background and return it once it answers; it stays when this program ends.

    Where one already runs in that folder, that one is returned, once it answers. Its logs are in the folder. Raises
    `EmbeddedKafkaError` where a program uses the folder by `cluster`, or the broker does not start.
    """
    folder = data_dir.absolute()
    options = _Options("plaintext", config or {}, jvm_args)
    for attempt in itertools.count(1):
        try:
            await _spawn_detached(folder, options, keep_ports=attempt == 1)
            return await _await_detached(folder)
        except layout.InUseError as error:
            if not error.detached:
                raise
            return await _await_detached(folder)
        except PortTakenError:
            if attempt == _PORT_ATTEMPTS:
                raise
        except BaseException:
            await stop_detached(folder)
            raise
    raise AssertionError  # the loop has no end of its own


async def _spawn_detached(folder: Path, options: _Options, *, keep_ports: bool) -> None:
    async with layout.hold(folder, detached=True) as lock:
        plan, [command] = await _prepare(folder, 1, options, keep_ports=keep_ports)
        starter = await start_guard(plan.node_folder(1), lock, ("detached", str(lock), *command))
        await starter.wait()


async def _await_detached(folder: Path) -> Running:
    node_folder = folder / "node-1"
    deadline = time.monotonic() + START_SECONDS
    while True:
        plan = layout.read(folder)
        ready = plan is not None and await is_ready(node_folder, plan.ports[0].internal, {1})
        running = status(folder)
        if running is None:
            raise start_error(node_folder, "it ended before it answered")
        if ready:
            return running
        if time.monotonic() > deadline:
            raise start_error(node_folder, f"it did not answer within {START_SECONDS:.0f} s")
        await asyncio.sleep(POLL_SECONDS)


def status(data_dir: Path) -> Running | None:
    """Return what runs on that data folder, None where nothing does; it need not answer (yet)."""
    user, plan = layout.holder(data_dir), layout.read(data_dir)
    return None if user is None or plan is None else Running(plan.bootstrap, user.pid, user.detached)


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
