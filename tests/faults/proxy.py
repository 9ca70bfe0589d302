"""A broker's client port as the workers see it, behind which the network may be slow, silent or gone.

It relays whole Kafka frames (Kafka protocol guide, "Network": a size, then a request's key, version and correlation id),
so that a fault can meet one kind of request: an answer to EndTxn that comes too late, a worker killed between its
request and the answer.
"""

import asyncio
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, Literal

# API keys (Kafka protocol guide, "Api Keys").
SYNC_GROUP: Final = 14
INIT_PRODUCER_ID: Final = 22
END_TXN: Final = 26

_REQUEST: Final = struct.Struct(">hhi")
_ANSWER: Final = struct.Struct(">i")


@dataclass
class Trap:
    """Holds the next frame of a kind; `caught` becomes the client's port, `verdict` whether the frame goes on."""

    key: int
    side: Literal["request", "answer"]
    caught: "asyncio.Future[int]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    verdict: "asyncio.Future[bool]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


@dataclass
class Network:
    """What the way to all brokers is like at the moment; the proxies look at it frame by frame."""

    delay: float = 0.0
    late: dict[int, float] = field(default_factory=dict)
    """By API key, the seconds by which answers come late."""
    lost: set[int] = field(default_factory=set)
    """API keys whose answers are lost, and the connection with them."""
    traps: list[Trap] = field(default_factory=list)
    requests: int = 0

    @asynccontextmanager
    async def trap(self, key: int, side: Literal["request", "answer"]) -> AsyncIterator[Trap]:
        """Hold the next frame of a kind until the block ends; it goes on then, unless the verdict was another."""
        trap = Trap(key, side)
        self.traps.append(trap)
        try:
            yield trap
        finally:
            if trap in self.traps:
                self.traps.remove(trap)
            if not trap.verdict.done():
                trap.verdict.set_result(True)

    async def passes(self, key: int, side: Literal["request", "answer"], port: int) -> bool:
        """Hold a frame as long as a trap holds it; return whether it goes on."""
        for trap in self.traps:
            if (trap.key, trap.side) == (key, side) and not trap.caught.done():
                self.traps.remove(trap)
                trap.caught.set_result(port)
                return await asyncio.shield(trap.verdict)  # the client may go before
        return True


class Proxy:
    """The way to one broker."""

    def __init__(self, network: Network, target: int) -> None:
        """Lead to the local port `target`."""
        self.port = 0
        self._network = network
        self._target = target
        self._cut = False
        self._flows = asyncio.Event()
        self._flows.set()
        self._server: asyncio.Server | None = None
        self._relays: set[asyncio.Task[None]] = set()
        self._open: set[asyncio.StreamWriter] = set()

    async def start(self, port: int) -> None:
        """Listen on 127.0.0.1:`port`."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close everything."""
        if self._server is not None:
            self._server.close()
        self.cut()
        for relay in self._relays:
            relay.cancel()
        await asyncio.gather(*self._relays, return_exceptions=True)

    def cut(self) -> None:
        """Reset every connection, and every new one, until `mend`."""
        self._cut = True
        for writer in list(self._open):
            writer.transport.abort()

    def silence(self) -> None:
        """Let nothing through any more, without closing anything, until `mend`."""
        self._flows.clear()

    def mend(self) -> None:
        """Be a good network again."""
        self._cut = False
        self._flows.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._cut:
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, back}
        self._open |= both
        waiting: dict[int, int] = {}
        port = writer.get_extra_info("peername")[1]
        relays = [
            asyncio.ensure_future(self._requests(reader, back, waiting, port)),
            asyncio.ensure_future(self._answers(there, writer, waiting, port)),
        ]
        self._relays.update(relays)
        try:
            await asyncio.wait(relays, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._open -= both
            for one in both:
                one.transport.abort()
            for relay in relays:
                relay.cancel()
            await asyncio.gather(*relays, return_exceptions=True)
            self._relays.difference_update(relays)

    async def _requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, waiting: dict[int, int], port: int
    ) -> None:
        network = self._network
        with suppress(OSError, EOFError):
            while True:
                frame = await self._frame(reader)
                key, _, correlation = _REQUEST.unpack_from(frame, 4)
                network.requests += 1
                if network.traps and not await network.passes(key, "request", port):
                    return
                waiting[correlation] = key
                writer.write(frame)
                await writer.drain()

    async def _answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, waiting: dict[int, int], port: int
    ) -> None:
        network = self._network
        with suppress(OSError, EOFError):
            while True:
                frame = await self._frame(reader)
                key = waiting.pop(_ANSWER.unpack_from(frame, 4)[0], -1)
                if key in network.lost:
                    return
                if network.traps and not await network.passes(key, "answer", port):
                    return
                if key in network.late:
                    await asyncio.sleep(network.late[key])
                writer.write(frame)
                await writer.drain()

    async def _frame(self, reader: asyncio.StreamReader) -> bytes:
        head = await reader.readexactly(4)
        body = await reader.readexactly(int.from_bytes(head, "big"))
        if self._network.delay:
            await asyncio.sleep(self._network.delay)
        await self._flows.wait()
        return head + body


@asynccontextmanager
async def proxies(network: Network, ports: Sequence[tuple[int, int]]) -> AsyncIterator[list[Proxy]]:
    """Run a proxy for each (port to listen on, port of the broker)."""
    running = [Proxy(network, target) for _, target in ports]
    try:
        for proxy, (port, _) in zip(running, ports, strict=True):
            await proxy.start(port)
        yield running
    finally:
        for proxy in running:
            await proxy.stop()
