"""`rollcall rebuild dedupe`: a new generation of the duplicate search's state, beside the one that is at work.

The new generation reads `customers.latest` from its beginning, under topics and groups of its own, and publishes to
internal topics. Once it has caught up, and nobody works with the old one any more, what it says is compared with what
is published: only what differs is published, with the identity events that lead from one to the other. The old
generation stays as it is, for a way back. Whatever is cut short goes on where it was when it is started again.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import starmap
from typing import Any, Final

import orjson
from aiokafka import TopicPartition

from handlers import GROUPS
from handlers.dedupe.events import MERGED, SPLIT, WINNER_CHANGED, IdentityType, identity_headers
from handlers.dedupe.graph import Edge
from handlers.dedupe.lineage import Shape, changes
from worker import inspect, service
from worker.config import Config
from worker.errors import UsageError
from worker.kafka import Connection, Encoded, apply_topics, bounded_stop
from worker.topics import Topics, partition_of

STAGES: Final = tuple(GROUPS["dedupe"])
_POLL_SECONDS: Final = 0.5
_BATCH: Final = 1_000

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Next(Config):
    """A configuration with the next generation of the state, which publishes beside the present one."""

    @property
    def topics(self) -> Topics:
        """Return the topics of the next generation."""
        present = super().topics
        return replace(present, generation=present.generation + 1, shadow=True)


@dataclass(frozen=True, slots=True)
class Difference:
    """What was published: memberships set or changed, memberships removed, identity events."""

    generation: int
    changed: int
    removed: int
    events: int


async def rebuild(config: Config, handler: str, tell: Tell) -> Difference:
    """Build the next generation of a handler's state; return what it has published.

    Waits until no worker runs the present generation. Raises UsageError for a handler whose state does not follow from
    the table of customers, and whatever a worker raises.
    """
    if handler != "dedupe":
        hint = "What `deletes` has asked for and done is in its state alone; a plug-in takes another name and version."
        raise UsageError(f"the state of {handler!r} cannot be rebuilt from customers.latest; dedupe's can", hint=hint)
    file = config.file.model_copy(update={"listen": "127.0.0.1:0"})
    following = Next(config.path, file, config.sources)
    await apply_topics(config.file.kafka, following.topics)
    async with _at_work(following):
        tell(f"generation {following.topics.generation} reads {config.topics.latest}")
        await _caught_up(following, tell)
        await _alone(config, tell)
        await _caught_up(following, tell)
    return await publish_difference(config, following.topics)


@asynccontextmanager
async def _at_work(config: Config) -> AsyncGenerator[None]:
    """Run the stages while the block runs; what ends them ends the block."""
    stop = asyncio.Event()
    block = asyncio.current_task()
    serving = asyncio.ensure_future(service.serve(config, STAGES, stop=stop))

    def ended(_: object) -> None:
        if not stop.is_set() and block is not None:
            block.cancel()

    serving.add_done_callback(ended)
    try:
        yield
    except asyncio.CancelledError:
        if serving.done():
            serving.result()
        raise
    finally:
        stop.set()
        await serving


async def _caught_up(config: Config, tell: Tell) -> None:
    """Wait until every stage has handled what the one before it has written."""
    topics = config.topics
    inputs = dict(zip(STAGES, (topics.latest, topics.keys, topics.links), strict=True))
    told = ""
    while True:
        behind = {stage: await _behind(config, topics.group(stage), topic) for stage, topic in inputs.items()}
        if not any(behind.values()):
            return
        line = ", ".join(f"{stage} {count} behind" for stage, count in behind.items())
        if line != told:
            told = line
            tell(line)
        await asyncio.sleep(_POLL_SECONDS)


async def _behind(config: Config, group: str, topic: str) -> int:
    """Return how many offsets a group has yet to handle; those that hold no record (markers) do not count."""
    consumer = await Connection(config.file.kafka).consumer(group=group)
    try:
        where = [TopicPartition(topic, one) for one in range(config.topics.partitions)]
        consumer.assign(where)
        ends = await consumer.end_offsets(where)
        starts = await consumer.beginning_offsets(where)
        behind = 0
        for one in where:
            position = await consumer.committed(one) or starts[one]
            if position < ends[one]:
                consumer.seek(one, position)
                behind += ends[one] - position if await _holds(consumer, one, ends[one]) else 0
            else:
                consumer.seek(one, ends[one])
        return behind
    finally:
        await bounded_stop(consumer.stop(), "lag")


async def _holds(consumer: Any, one: TopicPartition, end: int) -> bool:
    """Return whether there is a record before `end`."""
    while await consumer.position(one) < end:
        if (await consumer.getmany(one, timeout_ms=200, max_records=1)).get(one):
            return True
    return False


async def _alone(config: Config, tell: Tell) -> None:
    """Wait until no worker runs the present generation."""
    told = False
    async with Connection(config.file.kafka).admin() as admin:
        while sum([await admin.members(config.topics.group(stage)) for stage in STAGES]):
            if not told:
                told = True
                tell("caught up; now stop every worker that runs dedupe: this goes on when they have stopped")
            await asyncio.sleep(_POLL_SECONDS)


async def publish_difference(config: Config, made: Topics) -> Difference:
    """Publish what the generation that publishes to `made` says otherwise, in transactions; return how much it was."""
    topics = config.topics
    before, after = await _table(config, topics.clusters), await _table(config, made.clusters)
    changed = {key: value for key, value in after.items() if before.get(key) != value}
    removed = before.keys() - after.keys()
    live = {key.decode() for key in await _table(config, topics.latest)}
    gone = sorted({key.decode() for key in removed} - live)
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    events = list(changes(_shapes(before), _shapes(after), gone, rebuilt=True))
    rows: list[tuple[str, Encoded]] = [(topics.clusters, (key, value, [])) for key, value in sorted(changed.items())]
    rows += [(topics.clusters, (key, None, [])) for key in sorted(removed)]
    for number, event in enumerate(events):
        type_: IdentityType = WINNER_CHANGED if "previous" in event else MERGED if "joined" in event else SPLIT
        origin = b"rebuild:%d:%d" % (made.generation, number)
        headers = identity_headers(type_, event["cluster"], now, origin)
        rows.append((topics.identity, (event["cluster"].encode(), orjson.dumps(event), headers)))
    await _publish(config, rows)
    return Difference(made.generation, len(changed), len(removed), len(events))


async def _publish(config: Config, rows: Sequence[tuple[str, Encoded]]) -> None:
    producer = await Connection(config.file.kafka).producer(f"{config.topics.prefix}.rebuild.dedupe")
    try:
        for start in range(0, len(rows), _BATCH):
            outputs: defaultdict[tuple[str, int], list[Encoded]] = defaultdict(list)
            for topic, row in rows[start : start + _BATCH]:
                outputs[topic, partition_of(row[0] or b"", config.topics.partitions)].append(row)
            await producer.transact(outputs, {}, "")
    finally:
        await producer.close()


async def _table(config: Config, topic: str) -> dict[bytes, bytes]:
    newest: dict[bytes, bytes | None] = {}
    async for row in inspect.read_all(config, topic):
        newest[row.key] = row.value
    return {key: value for key, value in newest.items() if value is not None}


def _shapes(memberships: Mapping[bytes, bytes]) -> dict[str, Shape]:
    """Return the clusters that memberships make up."""
    members: defaultdict[str, list[str]] = defaultdict(list)
    winners: dict[str, str] = {}
    steps: defaultdict[str, set[tuple[str, str, float]]] = defaultdict(set)
    for key, value in memberships.items():
        found = orjson.loads(value)
        cluster = found["cluster"]
        members[cluster].append(key.decode())
        winners[cluster] = found["winner"]
        steps[cluster] |= {(step["a"], step["b"], step["score"]) for step in found["path"]}
    return {
        cluster: Shape(tuple(sorted(names)), winners[cluster], tuple(starmap(Edge, sorted(steps[cluster]))))
        for cluster, names in members.items()
    }
