"""Ours, for `drop.py`: the handler loop, as every stage runs on it, with a handler that drops what it has seen.

Usage: drop_rollcall.py BOOTSTRAP PREFIX FOLDER PARTITIONS. Reads <prefix>.in, writes <prefix>.out.
"""

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path

import uvloop

from worker.consumer import HandlerLoop
from worker.handling import Call, Done, Input, Outcome, Record, Reply, Skip, Tx
from worker.kafka import Connection
from worker.settings import KafkaSettings
from worker.task import Task, TaskSpec
from worker.topics import Topics

_DONE, _SEEN = Done(), Skip("seen")


class Drop:
    """Passes every key on once."""

    stage = "drop"
    version = 1

    def __init__(self, prefix: str) -> None:
        """Read and write the topics of `prefix`."""
        self.inputs = (Input(f"{prefix}.in"),)
        self._output = f"{prefix}.out"

    def open(self, tx: Tx, partition: int, ends: Mapping[str, int], now: int) -> int | None:
        """Need no timer."""

    def on_record(self, tx: Tx, record: Record, now: int) -> Outcome:  # ruff: ignore[unused-method-argument] - the contract has it
        """Drop what was seen."""
        key = record.key or b""
        if tx.get(key) is not None:
            return _SEEN
        tx.put(key, b"1")
        tx.send(self._output, key, record.value)
        return _DONE

    def on_reply(self, tx: Tx, call: Call, reply: Reply, now: int) -> None:
        """Make no calls."""

    def on_timer(self, tx: Tx, now: int) -> int | None:
        """Need no timer."""


async def main(bootstrap: str, prefix: str, folder: str, partitions: int) -> None:
    """Run one task a partition until terminated."""
    connection = Connection(KafkaSettings(bootstrap=bootstrap, partitions=partitions))
    topics = Topics(prefix=prefix, partitions=partitions, plugins=("drop",))
    async with connection.admin() as admin:
        cluster, ids = await admin.topic_ids([topics.state("drop")])
    spec = TaskSpec("drop", 1, Path(folder) / "state", cluster, ids[topics.state("drop")])

    async def mine() -> None:  # ruff: ignore[unused-async] - awaited by contract
        return

    async def run(partition: int) -> None:
        task = Task(connection, topics, spec, partition)
        await task.start(mine)
        await HandlerLoop(Drop(prefix), task, {}).run()

    await asyncio.gather(*map(run, range(partitions)))


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:4], int(sys.argv[4])))
