"""`rollcall rebuild`: a new generation of the duplicate search's state, beside the one that is at work; or no state.

The new generation reads `customers.latest` from its beginning, under topics and groups of its own, and publishes to
internal topics. Once it has caught up, and nobody works with the old one any more, what it says is compared with what
is published: only what differs is published, with the identity events that lead from one to the other, and pairs for
review that were opened or closed by it. The old generation is no way back: what it remembers to have published is not
what is published. Whatever is cut short begins anew when it is started again, and publishes what is left: a change of
clusters and what is told of it are published together or not yet.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import starmap
from operator import itemgetter
from typing import Any, Final

import orjson
from aiokafka import TopicPartition

from handlers import GROUPS
from handlers.dedupe.events import (
    REVIEW,
    IdentityType,
    Review,
    identity_headers,
    identity_type,
)
from handlers.dedupe.explain import open_reviews
from handlers.dedupe.graph import Edge, founder_id
from handlers.dedupe.lineage import Shape, changes
from worker import acls, inspect, service
from worker.config import Config
from worker.errors import RollcallError, UsageError
from worker.handling import Record
from worker.kafka import Connection, Encoded, TransactionalProducer, apply_topics
from worker.times import now_ms, rfc3339
from worker.topics import REBUILT, STAGES, Topics, partition_of, remedy

_POLL_SECONDS: Final = 0.5
_BATCH: Final = 1_000
_STOP: Final = "caught up; now pause the sources, wait until nothing is behind, and stop every worker that runs dedupe"

Tell = Callable[[str], None]
_Row = tuple[str, Encoded]  # with its topic


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
    """What was published: memberships set or changed, memberships removed, identity events, reviews among them."""

    generation: int
    changed: int
    removed: int
    events: int
    reviews: int = 0


async def rebuild(config: Config, handler: str, tell: Tell, *, behind: bool = False) -> Difference:
    """Build the next generation of a handler's state; return what it has published.

    Waits until no worker runs the present generation. Raises UsageError for a handler whose state does not follow from
    the table of customers, and, unless `behind`, where deletions are left that the present generation has not handled:
    they would be told to nobody. Raises RollcallError where it is told to stop, and whatever a worker raises, too.
    """
    if handler not in {"dedupe", *REBUILT}:
        raise _refusal(config, handler)
    file = config.file.model_copy(update={"listen": "127.0.0.1:0"})
    following = Next(config.path, file, config.sources)
    number = following.topics.generation
    if not behind and not await _members(config, REBUILT):
        await _demand_handled(config)  # at the end it would be no other: nobody is there to handle them
    await _alone(following, REBUILT, tell, f"generation {number} is at work; stop that rebuild, or those workers")
    await _begin(config, following.topics)
    async with _at_work(following):
        tell(f"generation {number} reads {config.topics.latest}")
        await _caught_up(following, tell)
        await _alone(config, REBUILT, tell, _STOP)
        await _caught_up(following, tell)
    if not behind:  # also of what came until just now: the next generation has handled it, and told nobody
        await _demand_handled(config)
    return await publish_difference(config, following.topics)


async def _begin(config: Config, made: Topics) -> None:
    """Make the topics of a generation anew, whatever an earlier rebuild has left there, and have it read all."""
    connection = Connection(config.file.kafka)
    present = {spec.name for spec in config.topics.declared()}
    await _shut_out(connection, made, REBUILT)
    async with connection.admin() as admin:
        for spec in made.declared():
            if spec.name not in present:
                await admin.renew(spec)
    await apply_topics(config.file.kafka, made)
    for stage, topic in _inputs(made).items():
        async with connection.reader("beginning", group=made.group(stage)) as consumer:
            where = [TopicPartition(topic, one) for one in range(made.partitions)]
            consumer.assign(where)
            await consumer.commit(await consumer.beginning_offsets(where))


def _inputs(topics: Topics) -> dict[str, str]:
    """Return the topic that each stage reads."""
    return {stage: acls.primary(stage, topics) for stage in REBUILT}


async def _shut_out(connection: Connection, topics: Topics, stages: Iterable[str]) -> None:
    """Fence those that were halted in the midst of these stages, and may wake up."""
    for stage in stages:
        for partition in range(topics.partitions):
            await (await connection.producer(topics.transactional_id(stage, partition))).close()


async def _demand_handled(config: Config) -> None:
    """Raise UsageError where the present generation has left deletions unhandled, or what may follow from some.

    Only it tells the deletes who has departed: the next one is silent until the rebuild is done.
    """
    left = [
        stage
        for stage, topic in _inputs(config.topics).items()
        if await _behind(config, config.topics.group(stage), topic, deletions=True)
    ]
    if left:
        message = f"generation {config.topics.generation} has left deletions unhandled ({', '.join(left)})"
        hint = (
            "The deletes would be told nothing of them. Start the workers again, pause the sources, wait until "
            "`rollcall status` shows nothing behind, and rebuild. Where they cannot start, --behind goes on without."
        )
        raise UsageError(message, hint=hint)


def _refusal(config: Config, handler: str) -> UsageError:
    """Return why a handler's state cannot be built anew, and what to do instead."""
    text = f"the state of {handler!r} cannot be rebuilt from customers.latest"
    if handler in {"deletes", *GROUPS["deletes"]}:
        hint = (
            "What was asked for and done is in that state alone, and a past is never executed. A local store that is "
            f"damaged may be removed: it is read from Kafka. Otherwise: {remedy(handler)}"
        )
        return UsageError(text, hint=hint)
    if handler in config.file.handlers.plugins or handler == "poll":
        return UsageError(text, hint=remedy(handler))
    return UsageError(text, hint="The duplicate search's can: `rollcall rebuild dedupe`.")


async def empty(config: Config, handler: str, tell: Tell) -> None:
    """Take the state of the deletes, of one of their stages or of a plug-in away: it begins anew, as if it was lost.

    Waits until no worker runs it, and shuts out those that were halted and may wake up. Raises UsageError for a state
    that must not be lost, or follows from the table of customers; TopicError, KafkaUnavailableError.
    """
    stages = tuple(GROUPS["deletes"]) if handler == "deletes" else (handler,)
    if not {*GROUPS["deletes"], *config.file.handlers.plugins}.issuperset(stages):
        known = ", ".join(["deletes", *GROUPS["deletes"], *config.file.handlers.plugins])
        hint = remedy(handler) if handler in STAGES else f"That can be done to {known}."
        raise UsageError(f"the state of {handler!r} is not to be emptied", hint=hint)
    topics, connection = config.topics, Connection(config.file.kafka)
    specs = {spec.name: spec for spec in topics.declared()}
    async with connection.reader("reader of topics") as consumer:
        await connection.demand(consumer, topics.latest)
    await _alone(config, stages, tell, f"now stop every worker that runs {handler}")
    for stage in stages:
        await _shut_out(connection, topics, [stage])
        async with connection.admin() as admin:
            await admin.renew(specs[topics.state(stage)])
        tell(f"{topics.state(stage)} is empty")


@asynccontextmanager
async def _at_work(config: Config) -> AsyncGenerator[None]:
    """Run the stages while the block runs; what ends them ends the block, also a signal, which they take."""
    stop = asyncio.Event()
    block = asyncio.current_task()
    serving = asyncio.ensure_future(service.serve(config, REBUILT, stop=stop))
    over = False

    def ended(_: object) -> None:
        if not over and block is not None:
            block.cancel()

    serving.add_done_callback(ended)
    try:
        yield
        if stop.is_set():  # by a signal; the stages have not ended yet
            raise _stopped()
    except asyncio.CancelledError:
        if not serving.done():
            raise
        serving.result()
        raise _stopped() from None
    finally:
        over = True
        stop.set()
        await serving


def _stopped() -> RollcallError:
    hint = "Nothing was published. It begins anew when it is started again."
    return RollcallError("the rebuild was stopped", hint=hint)


async def _caught_up(config: Config, tell: Tell) -> None:
    """Wait until every stage has handled what the one before it has written."""
    topics = config.topics
    told = ""
    while True:
        behind = {stage: await _behind(config, topics.group(stage), topic) for stage, topic in _inputs(topics).items()}
        if not any(behind.values()):
            return
        line = ", ".join(f"{stage} {count} behind" for stage, count in behind.items())
        if line != told:
            told = line
            tell(line)
        await asyncio.sleep(_POLL_SECONDS)


async def _behind(config: Config, group: str, topic: str, *, deletions: bool = False) -> int:
    """Return how many offsets a group has yet to handle; those that hold no record (markers) do not count.

    `deletions`: a partition counts only where one of its records has no value.
    """
    connection = Connection(config.file.kafka)
    async with connection.reader("lag", group=group) as consumer:
        await connection.demand(consumer, topic)
        where = [TopicPartition(topic, one) for one in range(config.topics.partitions)]
        consumer.assign(where)
        ends = await consumer.end_offsets(where)
        starts = await consumer.beginning_offsets(where)
        behind = 0
        for one in where:
            position = max(await consumer.committed(one) or 0, starts[one])
            if position < ends[one]:
                consumer.seek(one, position)
                behind += ends[one] - position if await _holds(consumer, one, ends[one], deletions=deletions) else 0
            else:
                consumer.seek(one, ends[one])
        return behind


async def _holds(consumer: Any, one: TopicPartition, end: int, *, deletions: bool) -> bool:
    """Return whether there is a record before `end`, or one without a value."""
    while await consumer.position(one) < end:
        rows = (await consumer.getmany(one, timeout_ms=200, max_records=_BATCH)).get(one, [])
        if any(row.value is None or not deletions for row in rows):
            return True
    return False


async def _members(config: Config, stages: Sequence[str]) -> int:
    """Return how many members the groups of these stages have."""
    async with Connection(config.file.kafka).admin() as admin:
        return sum([await admin.members(config.topics.group(stage)) for stage in stages])


async def _alone(config: Config, stages: Sequence[str], tell: Tell, what: str) -> None:
    """Wait until no worker runs these stages, as configured at present; say `what` is to be done where one does."""
    told = False
    while await _members(config, stages):
        if not told:
            told = True
            tell(f"{what}: this goes on when they have stopped")
        await asyncio.sleep(_POLL_SECONDS)


async def publish_difference(config: Config, made: Topics) -> Difference:
    """Publish what the generation that publishes to `made` says otherwise, in transactions; return how much it was.

    What is published is read once nobody else can publish for a rebuild any more. What has to do with each other, the
    memberships of some clusters and the events that tell of them, is in one transaction: what is published is also what
    was told, so that one that is cut short goes on with the rest.
    """
    producer = await Connection(config.file.kafka).producer(f"{config.topics.prefix}.rebuild.dedupe")
    try:
        parts, difference = await _differing(config, made)
        await _publish(producer, config.topics.partitions, parts)
    finally:
        await producer.close()
    return difference


async def _differing(config: Config, made: Topics) -> tuple[list[list[_Row]], Difference]:
    """Return what is to be published, in parts that belong together, and how much it is."""
    topics = config.topics
    before, after = await _table(config, topics.clusters), await _table(config, made.clusters)
    live = await _live(config, topics.latest)
    reviews = _reviews(await inspect.records(config, topics.identity), await inspect.records(config, made.identity))
    memberships = list(_memberships(before, after))
    removed = {key for _, key, value in memberships if value is None}
    old, new = _shapes(before), _shapes(after)
    events = list(changes(old, new, sorted(key.decode() for key in removed - live), rebuilt=True))
    related = _related(old, new)
    told = _Told(topics.identity, made.generation, rfc3339(now_ms()))
    rows: list[tuple[str, _Row]]
    rows = [(related[cluster], (topics.clusters, (key, value, []))) for cluster, key, value in memberships]
    rows += [(related[event["cluster"]], told.row(identity_type(event), event["cluster"], event)) for event in events]
    # A review is told for itself: it follows from what was told before.
    rows += [(f"review {number}", told.row(REVIEW, founder_id(one["a"]), one)) for number, one in enumerate(reviews)]
    counts = len(memberships) - len(removed), len(removed), len(events) + len(reviews), len(reviews)
    return _parts(rows), Difference(made.generation, *counts)


def _parts(rows: Iterable[tuple[str, _Row]]) -> list[list[_Row]]:
    """Return the rows by the part that they belong to."""
    parts: defaultdict[str, list[_Row]] = defaultdict(list)
    for name, row in rows:
        parts[name].append(row)
    return list(parts.values())


def _memberships(
    before: Mapping[bytes, bytes], after: Mapping[bytes, bytes]
) -> Iterator[tuple[str, bytes, bytes | None]]:
    """Yield what differs: a cluster, a customer of it, and its membership, None where it has none any more."""
    for key in sorted(before.keys() | after.keys()):
        value = after.get(key)
        if value != before.get(key):
            yield orjson.loads(value or before[key])["cluster"], key, value


@dataclass(frozen=True, slots=True)
class _Told:
    """The identity events of a rebuild."""

    topic: str
    generation: int
    time: str

    def row(self, type_: IdentityType, cluster: str, event: Mapping[str, Any]) -> _Row:
        """Return an event as it is published; another rebuild that tells the same gives it another id."""
        value = orjson.dumps(event)
        origin = b"rebuild:%d:%s:%s" % (self.generation, self.time.encode(), value)
        return self.topic, (cluster.encode(), value, identity_headers(type_, cluster, self.time, origin))


def _related(old: Mapping[str, Shape], new: Mapping[str, Shape]) -> dict[str, str]:
    """Return, by cluster, one that stands for all that it has to do with: those that share a customer, and theirs."""
    beside: defaultdict[str, set[str]] = defaultdict(set)
    before = {name: cluster for cluster, shape in old.items() for name in shape.members}
    for cluster, shape in [*old.items(), *new.items()]:
        for other in {before.get(name, cluster) for name in shape.members}:
            beside[cluster].add(other)
            beside[other].add(cluster)
    found: dict[str, str] = {}
    for first in beside:
        waiting = [first]
        while waiting:
            if (cluster := waiting.pop()) not in found:
                found[cluster] = first
                waiting += beside[cluster]
    return found


def _reviews(published: Sequence[Record], made: Sequence[Record]) -> list[Review]:
    """Return what becomes of pairs for review: those that are open now and were not so, and those that no longer are.

    Reviews stand on `customers.identity` alone, whose retention deletes them: one that it has deleted is opened again.
    """
    before, after = ({(one["a"], one["b"]): one for one in open_reviews(rows)} for rows in (published, made))
    news = itemgetter("reason", "score")
    opened = [one for pair, one in after.items() if pair not in before or news(before[pair]) != news(one)]
    told: list[Review] = [{**one, "rebuilt": True} for one in opened]
    told += [{**one, "status": "closed", "rebuilt": True} for pair, one in before.items() if pair not in after]
    return told


async def _publish(producer: TransactionalProducer, partitions: int, parts: Iterable[list[_Row]]) -> None:
    """Publish, many parts in a transaction, but each in one."""
    batch: list[_Row] = []
    for part in parts:
        batch += part
        if len(batch) >= _BATCH:
            await producer.transact(_outputs(batch, partitions), {}, "")
            batch = []
    if batch:
        await producer.transact(_outputs(batch, partitions), {}, "")


def _outputs(rows: Iterable[_Row], partitions: int) -> dict[tuple[str, int], list[Encoded]]:
    outputs: defaultdict[tuple[str, int], list[Encoded]] = defaultdict(list)
    for topic, row in rows:
        outputs[topic, partition_of(row[0] or b"", partitions)].append(row)
    return outputs


async def _table(config: Config, topic: str) -> dict[bytes, bytes]:
    newest: dict[bytes, bytes | None] = {}
    async for row in inspect.read_all(config, topic):
        newest[row.key] = row.value
    return {key: value for key, value in newest.items() if value is not None}


async def _live(config: Config, topic: str) -> set[bytes]:
    """Return the keys of a table that has as many rows as there are customers: without what they hold."""
    live = set[bytes]()
    async for row in inspect.read_all(config, topic):
        (live.discard if row.value is None else live.add)(row.key)
    return live


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
