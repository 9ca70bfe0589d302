"""What finding duplicate customers costs, from ten thousand customers to a million.

    python -m benchmarks.identity_speed [--sizes 10000,30000,100000,300000,1000000] [--hot 100000]
    python -m benchmarks.identity_speed --sizes 20000 --broker

The three stages run in one process, one partition, on the stores and transactions that they have in a worker; only the
consumer and the producer are left out, so this is the stages' own CPU. It is measured as CPU time, which other
processes on the machine do not lengthen much; the customers are made beforehand by another process. Names come with
real frequencies, postcodes are a fixed number, households share addresses, phones and e-mail addresses.

Each line is for the customers that took the population from the size before to this one: so it says what a customer
costs in a population of that size. Recall and precision (of pairs) are of the whole population at that size. `--hot`:
so many customers of the last size have one e-mail address in common. `--broker`: the whole of it, with a real broker
and a real worker, for the last size.
"""

import argparse
import asyncio
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import orjson

from benchmarks.identity.people import records
from benchmarks.machine import anonymous_mb, cpu_seconds
from handlers.dedupe import DedupeSettings, explain, stages
from worker import config as configuration
from worker import embedded, inspect
from worker.config import Config
from worker.demo.workers import Workers
from worker.events import Headers
from worker.handling import Dead, Handler, Record
from worker.kafka import Connection, apply_topics
from worker.overview import overview
from worker.privacy import Hasher
from worker.service import collect_seldom
from worker.state import Identity, Store
from worker.task import Transaction
from worker.testkit import latest
from worker.topics import Topics

BATCH = 2_000
QUIET = 5
HOT = "frontdesk.of.all@example.com"
NAMES = ("keys", "pairs", "clusters")
COLUMNS = (
    *("customers", *(f"{name} us" for name in NAMES), "all us", "a second", "dearest batch us", "messages"),
    *("RssAnon MB", "state MB", "recall", "precision", "largest"),
)


def write(file: Path, sizes: Sequence[int], seed: int, hot: int) -> None:
    """Write the customers, one a line; every size is a population of its own, in no order."""
    source = records(2 * sizes[-1], seed)
    chance = random.Random(seed)
    with file.open("wb") as out:
        for before, size in zip((0, *sizes), sizes, strict=False):
            segment = [customer for _, customer in islice(source, size - before)]
            chance.shuffle(segment)
            for place, customer in enumerate(segment):
                if size == sizes[-1] and place < hot:
                    contact = {"value": HOT, "normalized": HOT, "label": None, "preferred": False}
                    customer["emails"].append(contact)  # type: ignore[arg-type]
                out.write(orjson.dumps(customer) + b"\n")


class Stage:
    """One stage over a real store."""

    def __init__(self, handler: Handler, folder: Path) -> None:
        """Open it."""
        self.handler = handler
        self.topic = handler.inputs[0].topic
        self.store = Store(folder, Identity("benchmark", "benchmark"), oldest=0)
        self.offset = 0
        self.seconds = 0.0
        tx = self._begin()
        handler.open(tx, 0, {self.topic: 0}, 0)
        self.store.commit(0, 0)

    def _begin(self) -> Transaction:
        return Transaction(self.store.begin(), 1, 1_000_000)

    def work(
        self, given: Sequence[tuple[bytes, bytes | None, Headers]]
    ) -> dict[str, list[tuple[bytes, bytes | None, Headers]]]:
        """Handle records in one transaction; return what it sent, by topic."""
        started = time.process_time()
        tx = self._begin()
        for key, value, headers in given:
            record = Record(self.topic, 0, self.offset, 0, key, value, headers)
            self.offset += 1
            outcome = self.handler.on_record(tx, record, 0)
            if isinstance(outcome, Dead):
                raise TypeError(outcome.reason)
        tx.settle()
        self.store.commit(self.offset, 0)
        self.seconds += time.process_time() - started
        return {
            topic: [(key or b"", value, headers) for key, value, headers in rows]
            for (topic, _), rows in tx.outputs.items()
        }


class Run:
    """The three stages, fed from a file."""

    def __init__(self, folder: Path) -> None:
        """Open them."""
        self.topics = Topics(partitions=1)
        made = [make() for make in stages(DedupeSettings(), self.topics, Hasher(b"a pepper for benchmarks"))]
        self.stages = [Stage(handler, folder / handler.stage) for handler in made]
        self.sent: Counter[str] = Counter()
        self.folder = folder

    def feed(self, lines: Sequence[bytes]) -> None:
        """Put customers in and work until at rest."""
        waiting: dict[str, list[tuple[bytes, bytes | None, Headers]]] = defaultdict(list)
        waiting[self.topics.latest] = [latest(orjson.loads(line), 1) for line in lines]
        for stage in self.stages:
            for batch in batched(waiting.pop(stage.topic, []), BATCH):
                for topic, rows in stage.work(batch).items():
                    self.sent[topic] += len(rows)
                    if topic in {known.topic for known in self.stages}:
                        waiting[topic] += rows

    @property
    def seconds(self) -> list[float]:
        """Return the CPU time of each stage."""
        return [stage.seconds for stage in self.stages]

    def clusters(self) -> Iterator[list[str]]:
        """Yield the members of each cluster."""
        with self.stages[-1].store.reading() as state:
            for _, value in state.scan(b"c"):
                yield orjson.loads(value)[0]


def batched(rows: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Yield the rows in lists of `size`."""
    iterator = iter(rows)
    while batch := list(islice(iterator, size)):
        yield batch


def accuracy(clusters: Iterator[list[str]], file: Path, size: int) -> tuple[float, float, int]:
    """Return recall and precision of the pairs, and the size of the largest cluster."""
    people: Counter[str] = Counter()
    with file.open("rb") as lines:
        for line in islice(lines, size):
            people[orjson.loads(line)["id"].partition("-")[0]] += 1
    true = sum(count * (count - 1) // 2 for count in people.values())
    found = right = largest = 0
    for members in clusters:
        names = [member.partition("/")[2].partition("-")[0] for member in members]
        right += sum(a == b for a, b in combinations(names, 2))
        found += len(names) * (len(names) - 1) // 2
        largest = max(largest, len(names))
    return right / max(true, 1), right / max(found, 1), largest


def apart(run: Run, file: Path, size: int) -> tuple[float, float, int]:
    """Return the accuracy, worked out in another process: what that takes in memory is not the stages'."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        os.write(writer, orjson.dumps(accuracy(run.clusters(), file, size)))
        os._exit(0)
    os.close(writer)
    found = os.read(reader, 1000)
    os.close(reader)
    os.waitpid(child, 0)
    recall, precision, largest = orjson.loads(found)
    return recall, precision, largest


def line(done: int, size: int, seconds: Sequence[float], rest: Sequence[str]) -> str:
    """Return a line of the table for the customers from `done` to `size`."""
    costs = [spent / (size - done) * 1e6 for spent in seconds]
    parts = [f"{size:,}", *(f"{cost:.0f}" for cost in costs), f"{sum(costs):.0f}", f"{1e6 / sum(costs):,.0f}", *rest]
    return "| " + " | ".join(parts) + " |"


def measure(file: Path, folder: Path, sizes: Sequence[int]) -> None:
    """Feed the customers and print a line for each size."""
    collect_seldom()
    run = Run(folder)
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|", flush=True)
    with file.open("rb") as lines:
        done = 0
        for size in sizes:
            before, messages, dearest = run.seconds, run.sent.total(), 0.0
            for batch in batched(islice(lines, size - done), BATCH):
                started = sum(run.seconds)
                run.feed(batch)
                dearest = max(dearest, (sum(run.seconds) - started) / len(batch) * 1e6)
            spent = [now - was for now, was in zip(run.seconds, before, strict=True)]
            disk = sum(path.stat().st_blocks * 512 for path in folder.rglob("data.mdb")) / 1e6
            rest = [f"{dearest:.0f}", f"{(run.sent.total() - messages) / (size - done):.1f}"]
            rest += [f"{anonymous_mb(os.getpid()):.0f}", f"{disk:,.0f}"]
            recall, precision, largest = apart(run, file, size)
            print(line(done, size, spent, [*rest, f"{recall:.4f}", f"{precision:.4f}", str(largest)]), flush=True)
            done = size


async def publish(config: Config, file: Path) -> None:
    """Put the customers on `customers.latest`."""
    with file.open("rb") as lines:
        for batch in batched(lines, 10 * BATCH):
            rows = [(config.topics.latest, *latest(orjson.loads(line), 1)) for line in batch]
            await Connection(config.file.kafka).publish(config.topics, rows)


async def at_rest(config: Config, size: int) -> None:
    """Wait until the stages' lags have not moved for a while; they count the markers of transactions, too."""
    last: list[Any] = []
    same = 0
    while same < QUIET:
        lags = [row["lag"] for row in await overview(config) if row.get("stage") in NAMES]
        done = None not in lags and sum(lags) < size / 10
        same = same + 1 if done and lags == last else 0
        last = lags
        await asyncio.sleep(1)


async def with_broker(file: Path, folder: Path, size: int) -> None:
    """Put the customers through a broker and a worker, and print what that took."""
    os.environ["ROLLCALL_PEPPER"] = "a pepper for benchmarks"
    async with embedded.cluster(folder / "kafka") as kafka:
        path = folder / "rollcall.yaml"
        settings = {"kafka": {"bootstrap": kafka.bootstrap, "partitions": 4}, "state_dir": str(folder / "state")}
        path.write_text(orjson.dumps(settings).decode(), encoding="utf-8")
        config = configuration.load(path)
        await apply_topics(config.file.kafka, config.topics)
        await publish(config, file)
        workers = Workers(path, folder, {"dedupe": ["handle", "dedupe"]})
        started = time.monotonic()
        await workers.start_all()
        await workers.ready()
        await at_rest(config, size)
        took, pid = time.monotonic() - started - QUIET, workers.pid("dedupe")
        used, memory = cpu_seconds(pid) / size * 1e6, anonymous_mb(pid)
        await workers.stop_all()
        rows = await inspect.records(config, config.topics.clusters)
        groups = explain.groups({row.key: row.value for row in rows if row.key is not None})
        recall, precision, largest = accuracy((group["members"] for group in groups), file, size)
    print(f"{size:,} customers through a broker: {took:.0f} s, {used:.0f} us of the worker's CPU each,")
    print(f"RssAnon {memory:.0f} MB; recall {recall:.4f}, precision {precision:.4f}, largest cluster {largest}")


def main() -> None:
    """Make the customers, then measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="10000,30000,100000,300000,1000000")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hot", type=int, default=0)
    parser.add_argument("--broker", action="store_true", help="the last size, through a real broker and a real worker")
    given = parser.parse_args()
    sizes = [int(size) for size in given.sizes.split(",")]
    with tempfile.TemporaryDirectory(prefix="rollcall-bench-") as name:
        folder = Path(name)
        file = folder / "customers.jsonl"
        maker = multiprocessing.get_context("spawn").Process(target=write, args=(file, sizes, given.seed, given.hot))
        maker.start()
        maker.join()
        if maker.exitcode:
            sys.exit("the customers could not be made")
        if given.broker:
            asyncio.run(with_broker(file, folder, sizes[-1]))
        else:
            measure(file, folder, sizes)


if __name__ == "__main__":
    main()
