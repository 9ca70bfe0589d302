"""`rollcall replay`: a part of `customers.events` once more, for a plug-in, the deletes, or another service.

Copies are marked with the header `rollcall-replay` and go to the topic `replays` (for handlers) or to a topic of
another service; never into a public topic of ours. They are read and written partition by partition, so that those of
one customer stay in order. Copies and how far the replay has come are written in one transaction: one that was stopped
goes on where it was, and copies nothing twice. A consumer group of another service is not sent copies: its position on
`customers.events` is set back.
"""

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Literal

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError
from aiokafka.structs import ConsumerRecord

from handlers import GROUPS
from worker import inspect
from worker.config import Config
from worker.errors import KafkaUnavailableError, UsageError
from worker.events import DELETED, Headers, header
from worker.handling import Record
from worker.kafka import Connection, Encoded, unreadable
from worker.reading import Span, Wanted, edges, partitions_of, places
from worker.redelivery import REPLAY, WITH_DELETES, Redelivery
from worker.topics import STAGES, partition_of

_READ: Final = 5_000
_BATCH: Final = 1_000
_KNOWN: Final = frozenset({"customer.created", "customer.updated", DELETED})

Kind = Literal["plugin", "deletes", "topic", "group"]
_Rows = tuple[int, list[ConsumerRecord], int]


@dataclass(frozen=True, slots=True)
class Target:
    """Where a replay goes; `partitions` is the count of the topic that is written to."""

    kind: Kind
    name: str
    partitions: int = 0


@dataclass(slots=True)
class Plan:
    """A replay: where to, which records, and how far it has come (`at`, by partition, from `start` up to `until`)."""

    id: str
    target: Target
    wanted: Wanted
    start: dict[int, int]
    until: dict[int, int]
    at: dict[int, int]
    copied: int = 0

    @property
    def total(self) -> int:
        """Return how many offsets it spans."""
        return sum(self.until[one] - self.start[one] for one in self.start)

    @property
    def passed(self) -> int:
        """Return how many of them have been passed."""
        return sum(self.at[one] - self.start[one] for one in self.start)

    def status(self) -> bytes:
        """Return it as it stands on the status topic."""
        whole = {str(name): value for name, value in asdict(self).items() if name not in {"start", "until", "at"}}
        offsets = {str(one): [self.start[one], self.at[one], self.until[one]] for one in self.start}
        state = "done" if self.passed >= self.total else "unfinished"
        message = f"to {self.target.name}: {self.copied} copies, {self.passed} of {self.total} offsets"
        known = {"kind": "replay", "name": self.id, "state": state, "message": message, "offsets": offsets}
        return orjson.dumps(whole | known)

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> "Plan":
        """Read what `status` wrote."""
        offsets = {int(one): places_ for one, places_ in row["offsets"].items()}
        start, at, until = ({one: found[number] for one, found in offsets.items()} for number in range(3))
        wanted = Wanted(row["wanted"]["source"], tuple(row["wanted"]["types"]), row["wanted"]["customer"])
        return cls(row["id"], Target(**row["target"]), wanted, start, until, at, row["copied"])


@dataclass
class Counts:
    """What a part of the topic holds: `read` records, `foreign` ones among them, and `wanted` ones by type."""

    read: int = 0
    foreign: int = 0
    wanted: Counter[str] = field(default_factory=Counter)


async def target_of(config: Config, name: str, *, with_deletes: bool) -> Target:
    """Return what a person means by `name`; raises UsageError where that cannot take a replay."""
    kind, colon, rest = name.partition(":")
    if colon and kind in {"topic", "group"}:
        return await _topic(config, rest) if kind == "topic" else Target("group", rest)
    plugin = config.file.handlers.plugins.get(name)
    if plugin is not None:
        if not plugin.replays:
            hint = f"Set handlers.plugins.{name}.replays: true, and restart it."
            raise UsageError(f"the handler {name} does not take replays", hint=hint)
        return Target("plugin", name, config.topics.partitions)
    if name == "deletes":
        if not with_deletes:
            hint = "--with-deletes requests them once more; the guard, the look-ups and approvals are as always."
            raise UsageError("a replay deletes nothing downstream unless it is told to", hint=hint)
        return Target("deletes", "requests", config.topics.partitions)
    if name in GROUPS or name in STAGES:
        hint = "`rollcall rebuild dedupe` starts it anew."
        if name == "poll":
            hint = "`rollcall resync` reads sources anew."
        elif name in GROUPS["deletes"]:
            hint = "Deletions are requested once more by `--to deletes --with-deletes`."
        raise UsageError(f"{name} does not read {config.topics.events}: there is nothing to replay to it", hint=hint)
    return await _other(config, name)


async def _other(config: Config, name: str) -> Target:
    """Return the topic or the group that bears a name that is nobody's here."""
    async with Connection(config.file.kafka).admin() as admin:
        topic = (await admin.found([name])).get(name)
    positions = await _positions(config, name)
    if topic is not None and positions:
        raise UsageError(f"{name} is a topic and a group", hint=f"Write topic:{name} or group:{name}.")
    if positions:
        return Target("group", name)
    if topic is None:
        known = ", ".join(["deletes", *config.topics.plugins])
        hint = f"Handlers: {known}. A group that has never read {config.topics.events} is written group:{name}."
        raise UsageError(f"there is no handler, no topic and no group {name!r}", hint=hint)
    return await _topic(config, name)


async def _topic(config: Config, name: str) -> Target:
    if name in {spec.name for spec in config.topics.declared()}:
        raise UsageError(f"{name} is Rollcall's own: a replay goes to handlers and to topics of other services")
    return Target("topic", name, await partitions_of(Connection(config.file.kafka), name))


async def _positions(config: Config, group: str) -> dict[int, int]:
    """Return where a group stands on `customers.events`; empty where there is no such group."""
    try:
        async with Connection(config.file.kafka).reader("group reader", group=group) as consumer:
            where = [TopicPartition(config.topics.events, one) for one in range(config.topics.partitions)]
            consumer.assign(where)
            found = {one.partition: await consumer.committed(one) for one in where}
    except KafkaError as error:
        raise KafkaUnavailableError(f"the group {group} cannot be looked up ({type(error).__name__})") from error
    return {partition: offset for partition, offset in found.items() if offset is not None}


async def plan(config: Config, target: Target, wanted: Wanted, span: Span) -> Plan:
    """Return the replay of a part of `customers.events`.

    Raises UsageError where nothing is in it, or the stage that it is for has not begun to work.
    """
    connection = Connection(config.file.kafka)
    topic = config.topics.events
    await _demand_begun(connection, config, target)
    where = span.within([TopicPartition(topic, one) for one in wanted.partitions(config.topics.partitions)])
    async with connection.reader("replay plan") as consumer:
        await connection.demand(consumer, topic)
        starts = await places(consumer, where, span.start)
        ends = await places(consumer, where, span.until)
        kept, _ = await edges(consumer, where)
    start = {one.partition: starts[one] for one in where}
    until = {one.partition: max(ends[one], starts[one]) for one in where}
    if target.kind == "group":  # it is set back, never forward: nothing is skipped that it has not read yet
        before = await _positions(config, target.name)
        stands = {one: max(before.get(one.partition, starts[one]), kept[one]) for one in where}
        start = {one.partition: min(starts[one], stands[one]) for one in where}
    if start == until:
        raise UsageError(f"{topic} has no records between --from and --until", hint="It keeps 30 days by default.")
    return Plan(secrets.token_hex(4), target, wanted, start, until, dict(start))


async def _demand_begun(connection: Connection, config: Config, target: Target) -> None:
    """Raise UsageError where a stage of ours has no state: it would begin behind whatever was copied for it before."""
    if target.kind not in {"plugin", "deletes"}:
        return
    state = config.topics.state(target.name)
    async with connection.reader("state reader") as consumer:
        await connection.demand(consumer, state)
        ends = await consumer.end_offsets([TopicPartition(state, one) for one in range(config.topics.partitions)])
    if not all(ends.values()):
        message = f"{target.name} has not begun to work on every partition: copies would be lost on it"
        hint = f"Start it (`rollcall handle {target.name}`); replay once `rollcall status` shows it running."
        raise UsageError(message, hint=hint)


async def resumed(config: Config, id_: str) -> Plan:
    """Return a replay that was begun; raises UsageError where there is none, nothing is left of it, or as `plan`."""
    found = await _stored(config, id_)
    if found is None:
        hint = "`rollcall status` shows those that were begun."
        raise UsageError(f"there is no replay {id_!r} to go on with", hint=hint)
    if found.passed >= found.total:
        raise UsageError(f"the replay {id_} is done: {found.copied} copies were made")
    await _demand_begun(Connection(config.file.kafka), config, found.target)
    return found


async def _stored(config: Config, id_: str) -> Plan | None:
    """Return a replay as its newest committed part has left it."""
    for row in await inspect.statuses(config):
        if row.get("kind") == "replay" and row.get("name") == id_:
            return Plan.read(row)
    return None


async def _read(consumer: AIOKafkaConsumer, plan_: Plan, topic: str, most: int) -> AsyncIterator[_Rows]:
    """Yield the records up to the plan's ends, each time some of one partition, with the position behind them.

    Raises UsageError where some of them are not there any more, KafkaUnavailableError.
    """
    where = [TopicPartition(topic, one) for one in plan_.at]
    consumer.assign(where)
    for one in where:
        consumer.seek(one, plan_.at[one.partition])
    while open_ := [one for one in where if await consumer.position(one) < plan_.until[one.partition]]:
        for one, rows in (await _next(consumer, open_, most)).items():
            end = plan_.until[one.partition]
            yield one.partition, [row for row in rows if row.offset < end], rows[-1].offset + 1
        for one in open_:  # markers of transactions take offsets too: the end may be behind the last record
            position = await consumer.position(one)
            if position >= plan_.until[one.partition]:
                yield one.partition, [], position


async def _next(
    consumer: AIOKafkaConsumer, where: Sequence[TopicPartition], most: int
) -> dict[TopicPartition, list[ConsumerRecord]]:
    """Return the next records of some partitions; raises as `_read` does."""
    try:
        found: dict[TopicPartition, list[ConsumerRecord]] = await consumer.getmany(
            *where, timeout_ms=500, max_records=most
        )
    except OffsetOutOfRangeError as error:
        gone = error.args[0]
        starts, _ = await edges(consumer, list(gone))
        parts = ", ".join(f"{one.partition}-{at} to {one.partition}-{starts[one] - 1}" for one, at in gone.items())
        message = f"{where[0].topic} has not kept {parts}: they were deleted before they were read"
        hint = (
            "Begin a new replay of what is left: --from beginning, or a later time. What this one has copied it copies "
            "again, under the same ce_id and ce_sequence."
        )
        raise UsageError(message, hint=hint) from error
    except KafkaError as error:
        raise unreadable(where[0].topic, error) from error
    return found


async def count(config: Config, plan_: Plan) -> Counts:
    """Read the part and count; nothing is written."""
    found = Counts()
    wants = plan_.wanted.matcher()
    connection = Connection(config.file.kafka)
    async with connection.reader("replay", max_partition_fetch_bytes=8 * 1024 * 1024) as consumer:
        async for _, rows, _ in _read(consumer, plan_, config.topics.events, _READ):
            for row in rows:
                found.read += 1
                type_ = header(row.headers, "ce_type")
                if type_ not in _KNOWN:
                    found.foreign += 1
                elif wants(row.key, row.headers) and _goes(plan_.target, type_):
                    found.wanted[type_] += 1
    return found


def _goes(target: Target, type_: str) -> bool:
    return target.kind != "deletes" or type_ == DELETED


async def run(config: Config, plan_: Plan, rate: float, told: Callable[[Plan], None]) -> None:
    """Make the copies, at most `rate` a second; `told` is called after each part.

    How far it has come is read once nobody else can go on with it any more. Raises FencedError where somebody else goes
    on with the same replay, TransactionError, KafkaUnavailableError.
    """
    connection = Connection(config.file.kafka)
    wants = plan_.wanted.matcher()
    most = max(1, min(_BATCH, int(rate)))
    async with connection.reader("replay") as consumer:
        producer = await connection.producer(f"{config.topics.prefix}.replay.{plan_.id}")
        next_at = time.monotonic()
        try:
            newest = await _stored(config, plan_.id)
            if newest is not None:
                plan_.at, plan_.copied = newest.at, newest.copied
            async for partition, rows, end in _read(consumer, plan_, config.topics.events, most):
                chosen = [
                    one for one in rows if header(one.headers, "ce_type") in _KNOWN and wants(one.key, one.headers)
                ]
                plan_.at[partition] = min(end, plan_.until[partition])
                outputs = _copies(config, plan_, chosen)
                plan_.copied += sum(map(len, outputs.values()))
                await asyncio.sleep(max(0.0, next_at - time.monotonic()))
                next_at = max(next_at, time.monotonic()) + sum(map(len, outputs.values())) / rate
                await producer.transact(outputs | _status(config, plan_), {}, "")
                told(plan_)
        finally:
            await producer.close()


def _status(config: Config, plan_: Plan) -> dict[tuple[str, int], list[Encoded]]:
    key = f"replay/{plan_.id}".encode()
    where = (config.topics.status, partition_of(key, config.topics.partitions))
    return {where: [(key, plan_.status(), [])]}


def _copies(config: Config, plan_: Plan, rows: Sequence[ConsumerRecord]) -> dict[tuple[str, int], list[Encoded]]:
    """Return the copies by where they go, in order."""
    outputs: dict[tuple[str, int], list[Encoded]] = {}
    for row in rows:
        copy = _copy(config, plan_, row)
        if copy is not None:
            topic = plan_.target.name if plan_.target.kind == "topic" else config.topics.replays
            where = (topic, partition_of(row.key or b"", plan_.target.partitions))
            outputs.setdefault(where, []).append(copy)
    return outputs


def _copy(config: Config, plan_: Plan, row: ConsumerRecord) -> Encoded | None:
    """Return the copy of an event, None where there is none to be made."""
    headers: Headers = [*row.headers, (REPLAY, plan_.id.encode())]
    record = Record(row.topic, row.partition, row.offset, row.timestamp, row.key, row.value, headers)
    match plan_.target.kind:
        case "topic":
            return row.key, row.value, headers
        case "plugin":
            return row.key, row.value, Redelivery(plan_.target.name, "replay", record).headers()
        case _:
            if header(row.headers, "ce_type") != DELETED:
                return None
            given = Redelivery(plan_.target.name, "replay", _deletion(config, record))
            return row.key, None, given.headers()


def _deletion(config: Config, record: Record) -> Record:
    """Return a deletion as it stood on `customers.latest`, which is what the deletes read."""
    live = _live(record.value)
    headers = [(name, value + WITH_DELETES.encode() if name == REPLAY else value) for name, value in record.headers]
    headers += [] if live is None else [("ce_live", b"%d" % live)]
    return replace(record, topic=config.topics.latest, value=None, headers=headers)


def _live(value: bytes | None) -> int | None:
    try:
        found = orjson.loads(value or b"")["live"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return found if isinstance(found, int) else None


async def set_back(config: Config, plan_: Plan) -> dict[int, int | None]:
    """Set a group's position to the plan's start; return where it stood. Raises UsageError where it is running."""
    before = await _positions(config, plan_.target.name)
    try:
        async with Connection(config.file.kafka).reader("group position", group=plan_.target.name) as consumer:
            where = {TopicPartition(config.topics.events, one): offset for one, offset in plan_.start.items()}
            consumer.assign(list(where))
            await consumer.commit(where)
    except KafkaError as error:
        message = f"the position of the group {plan_.target.name} cannot be set ({type(error).__name__})"
        raise UsageError(
            message, hint="Stop every member of the group first, or give this principal the ACL."
        ) from error
    return {one: before.get(one) for one in plan_.start}
