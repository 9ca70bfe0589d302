"""How long the executor's state of very many past deletions takes to restore from Kafka, and in how much memory.

    python benchmarks/ledger.py [--deletions 100000 1000000] [--undo]

What a deletion leaves behind in the state is taken from real ones: the executor carries some out, from the request to
the receipt, and what it then keeps of each is written to its changelog under other ids, as often as is asked for. A
process of its own, with an empty disk, restores that as a worker does, and takes the partition up. Its anonymous
memory (RssAnon) is looked at all the while; LMDB's map is the page cache's. `--undo` keeps undo copies, as for the
first 30 days: their records stay in the state for so long.
"""

import argparse
import asyncio
import hashlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import orjson

from handlers.deletes.drafts import Cause, request_of
from handlers.deletes.executor import Executor
from handlers.deletes.model import KIND, digest, message, person
from handlers.deletes.settings import DeletesSettings, Route
from handlers.deletes.undo import Undo
from worker import embedded
from worker.handling import Call, Record, Reply
from worker.kafka import Connection, apply_topics
from worker.settings import KafkaSettings
from worker.task import Task, TaskSpec, Transaction
from worker.testkit import MemoryTx
from worker.times import now_ms, rfc3339
from worker.topics import Topics

SAMPLES = 50
PART = 10_000
TOPICS = Topics(partitions=1)
ROUTE = Route.model_validate({"source": "crm", "target": "shop"})
SETTINGS = DeletesSettings.model_validate({
    "targets": {"shop": {"kind": "drivly", "url": "https://shop.example.com/api", "key": {"env": "KEY"}}},
    "routes": [ROUTE.model_dump()],
    "guard": {"window": 0, "count": 1_000_000, "cap": 1_000_000},
})


class Past:
    """Carries deletions out in memory, and knows what they leave behind."""

    def __init__(self, undo: Undo | None) -> None:
        """Start with an empty state."""
        self.now = now_ms()
        self.tx = MemoryTx()
        self._executor = Executor(TOPICS, SETTINGS, undo)
        self._executor.open(self.tx, 0, {TOPICS.requests: 0, TOPICS.approvals: 0}, self.now)
        self._offset = 0
        self._gone: set[str] = set()

    def carry_out(self, customer: str) -> None:
        """Take one deletion from its request to its receipt."""
        cause = Cause("crm", customer, 2, self.now, "tombstone", 1000, self.now, {"reason": "tombstone"})
        request = request_of(cause, "shop", customer, self.now, route=ROUTE)
        self._give("request", message(request))
        receipts = 0
        while not receipts:
            self.now += 1_000
            self._executor.on_timer(self.tx, self.now)
            work = deque(self._taken())
            while work:
                found = work.popleft()
                if isinstance(found, Call):
                    self._executor.on_reply(self.tx, found, self._answer(found), self.now)
                elif found[0] == TOPICS.receipts:
                    receipts += 1
                elif dict(found[3]).get(KIND) == b"check":
                    self._give("vouch", found[2] or b"")
                work.extend(self._taken())

    def _taken(self) -> Iterator[Call | tuple[str, bytes, bytes | None, list[tuple[str, bytes]], bytes]]:
        self.tx.commit()
        sent, calls = [*self.tx.sent], [*self.tx.calls]
        self.tx.sent.clear()
        self.tx.calls.clear()
        yield from sent
        yield from calls

    def _give(self, kind: str, value: bytes) -> None:
        record = Record(TOPICS.requests, 0, self._offset, self.now, b"", value, [(KIND, kind.encode())])
        self._offset += 1
        self._executor.on_record(self.tx, record, self.now)

    def _answer(self, call: Call) -> Reply:
        customer = call.path.rpartition("/")[2]
        if customer in self._gone:
            return Reply(404)
        if call.method == "DELETE":
            self._gone.add(customer)
            return Reply(200)
        row = {"id": customer, "updatedAt": rfc3339(0), "createdAt": rfc3339(0), "firstName": "Ada", "email": "a" * 200}
        return Reply(200, body=orjson.dumps(row))


def residue(undo: Undo | None) -> list[list[tuple[bytes, bytes]]]:
    """Return what each of some deletions leaves in the state, with `{id}` and `{who}` for what is its own."""
    past, found = Past(undo), []
    for number in range(1, SAMPLES + 1):
        before = set(past.tx.data)
        past.carry_out(str(number))
        id_ = next(key[2:] for key in past.tx.data if key.startswith(b"r/") and key not in before)
        new = [
            (key, value) for key, value in past.tx.data.items() if key not in before and key[:2] not in {b"p/", b"t/"}
        ]
        who = person("shop", str(number))
        found.append([
            (key.replace(id_, b"{id}").replace(who, b"{who}"), value.replace(id_, b"{id}")) for key, value in new
        ])
    kinds = {key[:2] for rows in found[1:] for key, _ in rows}
    assert {b"r/", b"i/", b"d/"} <= kinds, kinds
    return found[1:]


async def fill(connection: Connection, spec: TaskSpec, count: int, undo: Undo | None) -> int:
    """Write so many deletions to the executor's changelog; return how many bytes of keys and values that is."""
    kept, size = residue(undo), 0

    async def mine() -> None:  # ruff: ignore[unused-async] - awaited by contract
        return

    task = Task(connection, TOPICS, spec, 0)
    await task.start(mine)
    for start in range(0, count, PART):

        def work(tx: Transaction, start: int = start) -> None:
            nonlocal size
            for number in range(start, min(start + PART, count)):
                id_, who = digest("bench", number).encode(), hashlib.blake2b(b"%d" % number, digest_size=16).digest()
                own = number.to_bytes(8, "big")
                for key, value in kept[number % len(kept)]:
                    name = key[:10] + own if key.startswith(b"u/") else key.replace(b"{id}", id_).replace(b"{who}", who)
                    content = value.replace(b"{id}", id_)
                    tx.put(name, content)
                    size += len(name) + len(content)

        await task.transact(work)
    await task.close()
    return size


class Watch(threading.Thread):
    """Looks at this process's anonymous memory, in MB, until it is stopped."""

    def __init__(self) -> None:
        """Begin."""
        super().__init__(daemon=True)
        self.most = self.now()
        self._end = threading.Event()

    @staticmethod
    def now() -> float:
        """Return what it is now."""
        text = Path("/proc/self/status").read_text(encoding="ascii")
        return int(text.split("RssAnon:")[1].split()[0]) / 1024

    def run(self) -> None:
        """Look again and again."""
        while not self._end.wait(0.02):
            self.most = max(self.most, self.now())

    def stop(self) -> float:
        """Return the most that was seen."""
        self._end.set()
        self.join()
        return max(self.most, self.now())


async def restore(bootstrap: str, cluster: str, topic: str, folder: Path) -> None:
    """Restore and take up the partition as a worker with an empty disk does; print the figures as JSON."""
    connection = Connection(KafkaSettings(bootstrap=bootstrap))
    before, watch = Watch.now(), Watch()
    watch.start()
    started = time.monotonic()

    async def mine() -> None:  # ruff: ignore[unused-async] - awaited by contract
        return

    task = Task(connection, TOPICS, TaskSpec("executor", 1, folder, cluster, topic), 0)
    await task.start(mine)
    took = time.monotonic() - started
    executor = Executor(TOPICS, SETTINGS)
    ends = {TOPICS.requests: 0, TOPICS.approvals: 0}
    await task.transact(lambda tx: executor.open(tx, 0, ends, now_ms()))
    await task.transact(lambda tx: executor.on_timer(tx, now_ms()))
    up = time.monotonic() - started - took
    keys = task.store.entries()
    await task.close()
    print(orjson.dumps({"seconds": took, "up": up, "before": before, "most": watch.stop(), "keys": keys}).decode())


async def run(deletions: int, *, undo: bool) -> None:
    """Run once and print the figures."""
    with tempfile.TemporaryDirectory(prefix="rollcall-bench-") as name:
        folder = Path(name)
        async with embedded.cluster(folder / "kafka") as kafka:
            settings = KafkaSettings(bootstrap=kafka.bootstrap, partitions=1)
            connection = Connection(settings)
            await apply_topics(settings, TOPICS)
            topic = TOPICS.state("executor")
            async with connection.admin() as admin:
                cluster, ids = await admin.topic_ids([topic])
            spec = TaskSpec("executor", 1, folder / "writer", cluster, ids[topic])
            size = await fill(connection, spec, deletions, Undo("ab" * 32) if undo else None)
            arguments = [kafka.bootstrap, cluster, ids[topic], str(folder / "reader")]
            command = [sys.executable, __file__, "--restore", *arguments]
            done = await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
            found = orjson.loads(done.stdout.splitlines()[-1])
            disk = (folder / "reader" / "executor" / "0" / "data.mdb").stat().st_blocks * 512
    print(
        f"{deletions} deletions{' with undo copies' if undo else ''}: {found['keys']} keys, {size / 1e6:.0f} MB",
        end=": ",
    )
    print(f"restored in {found['seconds']:.1f} s, taken up in {found['up'] * 1000:.0f} ms", end="; ")
    print(f"RssAnon {found['before']:.0f} MB before, {found['most']:.0f} MB at most; {disk / 1e6:.0f} MB on disk")


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--deletions", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--undo", action="store_true", help="With undo copies, as in the first 30 days.")
    parser.add_argument("--restore", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.environ.setdefault("KEY", "synthetic")
    if arguments.restore:
        bootstrap, cluster, topic, folder = arguments.restore
        asyncio.run(restore(bootstrap, cluster, topic, Path(folder)))
        return
    for count in arguments.deletions:
        asyncio.run(run(count, undo=arguments.undo))


if __name__ == "__main__":
    main()
