"""Clusters that live as long as a program's `async with`, of one node or several."""

import asyncio
import itertools
import tempfile
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from worker.embedded import layout
from worker.embedded.layout import Layout, Security
from worker.embedded.node import PORT_ATTEMPTS, Node, Options, PortTakenError, prepare, start_nodes


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

        It answers only where most nodes run: start several at once (`asyncio.gather`) where they don't. Raises
        `EmbeddedKafkaError`, with the end of the broker's log, where it does not answer within 120 s.
        """
        node = self.nodes[index]
        if node.has_ended:
            await start_nodes([node], self._lock)


@asynccontextmanager
async def cluster(
    data_dir: Path | None = None,
    nodes: int = 1,
    *,
    security: Security = "plaintext",
    config: Mapping[str, str] | None = None,
    jvm_args: Sequence[str] = (),
) -> AsyncGenerator[Cluster]:
    """Run a cluster of `nodes` brokers (each a controller too) and yield it once every node knows all others.

    With `data_dir` the data stays there and a later call goes on with it: the same cluster id, the same ports where
    they are free. Without, it is in a temporary folder that goes at the end, and the brokers are killed: nothing of
    theirs is kept. Topics are replicated to min(3, nodes) nodes, with min(2, nodes) in sync.

    `security` is the protocol of the client listener, named CLIENT; what it needs (`listener.name.client.*`) and any
    other broker setting (an authorizer, say) comes by `config`, which overrides ours. `jvm_args` are added to ours.

    Raises `EmbeddedKafkaError` where it cannot be installed or does not start; the message says why and what to do.
    """
    options = Options(security, config or {}, jvm_args)
    with _folder(data_dir) as folder:
        async with layout.hold(folder, "program") as lock:
            running = await _start(folder, nodes, lock, options, temporary=data_dir is None)
            try:
                yield running
            finally:
                await asyncio.gather(*(node.kill() if data_dir is None else node.stop() for node in running.nodes))


@contextmanager
def _folder(data_dir: Path | None) -> Generator[Path]:
    if data_dir is not None:
        yield data_dir.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="rollcall-kafka-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


async def _start(folder: Path, nodes: int, lock: int, options: Options, *, temporary: bool) -> Cluster:
    for attempt in itertools.count(1):
        plan, commands = await prepare(folder, nodes, options, keep_ports=attempt == 1)
        started = [Node(plan, number, command, temporary=temporary) for number, command in enumerate(commands, start=1)]
        try:
            await start_nodes(started, lock)
        except PortTakenError:
            if attempt == PORT_ATTEMPTS:
                raise
        else:
            break
    return Cluster(plan, started, lock)
