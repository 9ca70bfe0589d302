"""The customers' versions, in a file, for the day on which the cluster's topics are lost.

A customer's sequence is the one thing that no upstream knows. Exported now and then, it is taken up again in front of
the first poll over new topics: every customer goes on above the version that the file has, so that subscribers who drop
what they have seen take nothing new for old. `ahead` is left free above the file for what was published after it.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import orjson

from worker import inspect
from worker.changes import Entry, grave
from worker.config import Config
from worker.errors import RecordError, UsageError
from worker.events import split_key
from worker.kafka import Admin, Connection
from worker.keys import ENTRIES
from worker.service import POLL_VERSION
from worker.task import Task, TaskSpec, Transaction
from worker.topics import POLL, partition_of

_CHUNK: Final = 2_000
_LARGEST: Final = 2**53
_NONE: Final = "not a customer's version"


@dataclass(frozen=True, slots=True)
class Known:
    """A customer (`<source>/<id>`) with its newest version; `first_seen` in milliseconds since the epoch."""

    key: str
    sequence: int
    first_seen: int

    def line(self) -> bytes:
        """Return it as a line of the file."""
        return orjson.dumps({"key": self.key, "sequence": self.sequence, "first_seen": self.first_seen}) + b"\n"

    @classmethod
    def read(cls, line: bytes) -> "Known":
        """Read a line of the file; raises RecordError for any other."""
        try:
            found: dict[str, Any] = orjson.loads(line)
            known = cls(found["key"], found["sequence"], found["first_seen"])
            split_key(known.key.encode())
            right = all(type(one) is int and 0 <= one < _LARGEST for one in (known.sequence, known.first_seen))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RecordError(_NONE) from error
        if not right:
            raise RecordError(_NONE)
        return known


async def known(config: Config) -> AsyncIterator[Known]:
    """Yield every customer that was ever published, deleted ones too, in the order of the keys of each partition."""
    newest: dict[bytes, bytes] = {}
    async for row in inspect.read_all(config, config.topics.state(POLL)):
        if row.key.startswith(ENTRIES) and row.value is not None:
            newest[row.key] = row.value
        else:
            newest.pop(row.key, None)
    for key, value in sorted(newest.items()):
        entry = Entry.unpack(value)
        try:
            name = key[len(ENTRIES) :].decode()
        except UnicodeDecodeError:
            continue  # a hash that stands for an id too long for a key: nothing was published of it
        if entry.sequence:
            yield Known(name, entry.sequence, entry.first_seen)


def read(path: Path) -> Iterator[Known]:
    """Yield what a file has; raises UsageError that names the line which is none."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield Known.read(line)
            except RecordError as error:
                raise UsageError(f"{path} is no export of sequences: line {number} is {error.message}") from error


@dataclass(slots=True)
class Taken:
    """What an import has done: customers taken up, and those left as they are because they were known already."""

    taken: int = 0
    left: int = 0


async def take_up(config: Config, customers: Iterable[Known], ahead: int) -> Taken:
    """Take up versions, each raised by `ahead`, for customers of whom the topics know nothing yet.

    No poller may be running: raises UsageError where one is. Raises TopicError, StateError, FencedError,
    KafkaUnavailableError.
    """
    by_partition: dict[int, list[Known]] = {}
    for one in customers:
        source = one.key.partition("/")[0]
        by_partition.setdefault(partition_of(source.encode(), config.topics.partitions), []).append(one)
    connection = Connection(config.file.kafka)
    async with connection.admin() as admin:
        await connection.demand(admin.client, config.topics.state(POLL))
        await _nobody_polls(config, admin)
        cluster_id, ids = await admin.topic_ids([config.topics.state(POLL)])
    done = Taken()
    with TemporaryDirectory(prefix="rollcall-sequences-") as folder:
        spec = TaskSpec(POLL, POLL_VERSION, Path(folder), cluster_id, ids[config.topics.state(POLL)])
        for partition, rows in by_partition.items():
            task = Task(connection, config.topics, spec, partition)
            try:
                await task.start(_granted)
                for start in range(0, len(rows), _CHUNK):
                    await task.transact(_work(rows[start : start + _CHUNK], ahead, done))
            finally:
                await task.close()
    return done


async def _granted() -> None:
    """Nobody is asked: that no poller runs was checked, and one that starts now fences us."""


def _work(rows: list[Known], ahead: int, done: Taken) -> Callable[[Transaction], None]:
    def work(tx: Transaction) -> None:
        for one in rows:
            key = ENTRIES + one.key.encode()
            if tx.get(key) is not None:
                done.left += 1
                continue
            tx.put(key, grave(one.sequence + ahead, one.first_seen).pack())
            done.taken += 1

    return work


async def _nobody_polls(config: Config, admin: Admin) -> None:
    """Raise UsageError if the pollers' group has a member."""
    group = config.topics.group(POLL)
    members = await admin.members(group)
    if members:
        hint = "Stop every poller first, import, and start them again."
        raise UsageError(f"{members} poller{'s are' if members > 1 else ' is'} running in the group {group}", hint=hint)
