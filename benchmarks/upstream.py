"""An upstream for benchmarks: an HTTP server in a process of its own that costs next to nothing.

    python -m benchmarks.upstream --customers 50000 [--rate 200 --after 10 --seconds 30]

It answers `GET /api/customers` as Payload CMS does (`page` or a keyset on (updatedAt, id), 100 a page) with customers
of 1.4 kB out of the simulator. With `--rate`, so many customers a second are changed, one after the other, each at its
own moment, beginning `--after` seconds after the first page was asked for; `consumerTitle` says when, in nanoseconds
of CLOCK_MONOTONIC, which all processes of a machine share. `GET /stats` says when the first page was asked for, in
seconds of that clock, and how many pages were answered. It prints its URL, and stops when its standard input ends.
"""

import argparse
import asyncio
import re
import sys
import time
from bisect import bisect_right
from datetime import UTC, datetime
from email.utils import formatdate
from urllib.parse import unquote_plus

import orjson
import uvloop

from worker.simulator import Drivly
from worker.times import rfc3339

BYTES = 1_400
"""What a customer weighs, as JSON."""

_PAGE = re.compile(r"[?&]page=(\d+)").search
_LIMIT = re.compile(r"[?&]limit=(\d+)").search
_BEHIND = re.compile(r"\[updatedAt\]\[greater_than\]=([^&]+).*\[id\]\[greater_than\]=(\d+)").search
_UNTIL = re.compile(r"\[updatedAt\]\[less_than_equal\]=([^&]+)").search
_AFTER_ID = re.compile(r"\[id\]\[greater_than\]=(\d+)").search


class Customers:
    """Customers in the order of (updatedAt, id); one that changes moves to the end."""

    def __init__(self, count: int) -> None:
        """Render `count` customers, last changed an hour ago, a millisecond apart."""
        simulator = Drivly(seed=1, customers=count)
        start = int(time.time() * 1000) - 3_600_000
        self.docs: list[bytes] = []
        self.keys: list[tuple[str, int]] = []
        for number, given in enumerate(sorted(simulator.customers().values(), key=lambda doc: int(doc["id"]))):
            moment = rfc3339(start + number)
            doc = {**given, "id": int(given["id"]), "updatedAt": moment, "createdAt": moment, "consumerTitle": "0" * 19}
            doc["consumerNotes"] = ""
            doc["consumerNotes"] = "x" * max(0, BYTES - len(orjson.dumps(doc)))
            self.docs.append(orjson.dumps(doc))
            self.keys.append((moment, doc["id"]))
        self.count = count
        self._base = list(self.docs[:count])
        self._stamps = [moment.encode() for moment, _ in self.keys]
        self._next = 0

    def change(self) -> None:
        """Change the next customer, now."""
        number = self._next
        self._next = (number + 1) % self.count
        stamp, title = rfc3339(int(time.time() * 1000)), b"%019d" % time.monotonic_ns()
        stamp = max(stamp, self.keys[-1][0])
        doc = self._base[number].replace(self._stamps[number], stamp.encode(), 1).replace(b"0" * 19, title, 1)
        key = (stamp, orjson.loads(doc)["id"])
        place = bisect_right(self.keys, key)
        self.keys.insert(place, key)
        self.docs.insert(place, doc)

    def page(self, target: str) -> bytes:
        """Answer a request."""
        limit = int(found[1]) if (found := _LIMIT(target)) else 100
        if "select[updatedAt]" in target:
            return self._sweep(target, limit)
        start, end = 0, len(self.docs)
        if behind := _BEHIND(target):
            start = bisect_right(self.keys, (behind[1], int(behind[2])))
        elif page := _PAGE(target):
            start = (int(page[1]) - 1) * limit
        if until := _UNTIL(target):
            end = bisect_right(self.keys, (until[1], sys.maxsize))
        return self._answer(self.docs[start : min(end, start + limit)], more=start + limit < end)

    def _sweep(self, target: str, limit: int) -> bytes:
        start = int(found[1]) - int(self.keys[0][1]) + 1 if (found := _AFTER_ID(target)) else 0
        rows = [
            b'{"id":%d,"updatedAt":"%s"}' % (self.keys[number][1], self._stamps[number])
            for number in range(start, min(start + limit, self.count))
        ]
        return self._answer(rows, more=start + limit < self.count)

    def _answer(self, rows: list[bytes], *, more: bool) -> bytes:
        return b'{"docs":[%s],"hasNextPage":%s,"totalDocs":%d}' % (
            b",".join(rows),
            b"true" if more else b"false",
            self.count,
        )


class Server(asyncio.Protocol):
    """One connection; requests have no bodies."""

    customers: Customers
    first = 0.0
    pages = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport: asyncio.WriteTransport = transport  # type: ignore[assignment]
        self._read = b""

    def data_received(self, data: bytes) -> None:
        """Answer whole requests."""
        self._read += data
        while b"\r\n\r\n" in self._read:
            head, _, self._read = self._read.partition(b"\r\n\r\n")
            target = unquote_plus(head.split(b" ", 2)[1].decode())
            self._transport.write(self._respond(target))

    def _respond(self, target: str) -> bytes:
        if target.startswith("/stats"):
            body = orjson.dumps({"first": Server.first, "pages": Server.pages})
        else:
            Server.first = Server.first or time.monotonic()
            Server.pages += 1
            body = self.customers.page(target)
        date = formatdate(datetime.now(UTC).timestamp(), usegmt=True).encode()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: %s\r\nContent-Length: %d\r\n\r\n"
        return head % (date, len(body)) + body


async def churn(customers: Customers, rate: float, after: float, seconds: float) -> None:
    """Change `rate` customers a second for `seconds`."""
    while not Server.first:
        await asyncio.sleep(0.01)
    start = Server.first + after
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, start + number / rate - time.monotonic()))
        customers.change()


async def main(arguments: argparse.Namespace) -> None:
    """Serve until standard input ends."""
    Server.customers = Customers(arguments.customers)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Server, "127.0.0.1", 0)
    changing = asyncio.ensure_future(
        churn(Server.customers, arguments.rate, arguments.after, arguments.seconds if arguments.rate else 0)
    )
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    changing.cancel()
    server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--customers", type=int, required=True)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--after", type=float, default=0.0)
    parser.add_argument("--seconds", type=float, default=0.0)
    uvloop.run(main(parser.parse_args()))
