"""How a deployment stands, as `rollcall status` shows it: sources, stages, what waits for a person, and what is left.

Everything comes out of Kafka: what sources and targets say of themselves on the status topic, and how far each stage's
group has come. A stage's lag counts offsets, so it is an upper bound: transactions take some, too.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from io import BytesIO
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.coordinator.protocol import ConsumerProtocol
from aiokafka.errors import GroupAuthorizationFailedError, KafkaError, TopicAuthorizationFailedError

from handlers.deletes import operate
from handlers.deletes.machine import State
from worker import acls, deadletters, inspect
from worker.config import Config
from worker.errors import KafkaUnavailableError
from worker.kafka import Admin, Connection, unreadable
from worker.times import milliseconds, now_ms, rfc3339
from worker.topics import Topics

Row = dict[str, Any]
# A source says how it is once a minute at least.
_SILENT_SECONDS: Final = 180
_COUNTED: Final = 20_000
_GROUP_STATES: Final = {
    "Stable": "running",
    "PreparingRebalance": "rebalancing",
    "CompletingRebalance": "rebalancing",
    "Empty": "no worker",
    "Dead": "no worker",
}


async def overview(config: Config) -> list[Row]:
    """Return what there is to say, a row a thing; `kind` tells them apart. Raises KafkaUnavailableError."""
    said = await inspect.statuses(config)
    now = now_ms()
    by_kind = defaultdict[Any, list[Row]](list)
    for row in said:
        by_kind[row.get("kind")].append(row)
    return [
        *(_source(row, now) for row in by_kind["source"]),
        *await _stages(config),
        *_held(by_kind["source"], by_kind["plan"], by_kind["deletions"]),
        *await _failed(config),
        *by_kind["target"],
        *({**row, **row["waits"]} for row in by_kind["deletions"] if any(row["waits"].values())),
        *(row for row in by_kind["replay"] if row["state"] == "unfinished"),
        await _dead_letters(config),
    ]


# Sources


def _source(row: Row, now: int) -> Row:
    """Return a source's own words, with the ages that a person would have to work out."""
    ages = {
        "silent_seconds": _age(row.get("at"), now),
        "checkpoint_seconds": _age(row.get("checkpoint_at"), now),
        "polled_seconds": _age(row.get("polled_at"), now),
        "scanned_seconds": _age(row.get("scanned_at"), now),
    }
    if (ages["silent_seconds"] or 0) > _SILENT_SECONDS:
        was = f"it was {row.get('state')}, and says nothing any more: is a poller running?"
        row = {**row, "state": "silent", "message": was}
    return {**row, **ages}


def _age(moment: str | None, now: int) -> int | None:
    at = milliseconds(moment)
    return None if at is None else max(0, (now - at) // 1000)


# Stages


async def _stages(config: Config) -> list[Row]:
    stages = (*acls.WORKERS, *config.topics.plugins)
    connection = Connection(config.file.kafka)
    try:
        async with connection.reader("reader of offsets") as consumer, connection.admin() as admin:
            return [await _stage(stage, config.topics, admin, consumer) for stage in stages]
    except KafkaError as error:
        raise KafkaUnavailableError(f"the groups cannot be read ({type(error).__name__})") from error


async def _stage(stage: str, topics: Topics, admin: Admin, consumer: Any) -> Row:
    """Return how a stage stands: its workers, the partitions that they have, and how far it is behind."""
    row: Row = {"kind": "stage", "stage": stage, "partitions": topics.partitions}
    try:
        state, owned = await _members(topics.group(stage), admin)
        lag = None if stage == "poll" else await _lag(stage, topics, admin, consumer)
    except GroupAuthorizationFailedError:
        return {**row, "state": "unknown", "message": "this principal may not describe its group"}
    tasks = len({partition for member in owned for partition in member})
    return {**row, "state": state, "workers": len(owned), "tasks": tasks, "lag": lag}


async def _members(group: str, admin: Admin) -> tuple[str, list[list[int]]]:
    """Return the state of a group, and the partitions of each of its members."""
    _, _, state, _, _, members, *_ = await admin.group(group)
    return _GROUP_STATES.get(state, state), [_partitions(assignment) for *_, assignment, _ in members]


def _partitions(assignment: bytes) -> list[int]:
    if not assignment:
        return []
    decoded = ConsumerProtocol.ASSIGNMENT.decode(BytesIO(assignment))
    return [partition for _, partitions in decoded.assignment for partition in partitions]


async def _lag(stage: str, topics: Topics, admin: Admin, consumer: Any) -> int:
    """Return how many offsets of its primary input a stage has not passed; a partition's last is its marker."""
    topic = acls.primary(stage, topics)
    where = [TopicPartition(topic, partition) for partition in range(topics.partitions)]
    committed = await admin.client.list_consumer_group_offsets(topics.group(stage))
    ends: Mapping[TopicPartition, int] = await consumer.end_offsets(where)
    starts: Mapping[TopicPartition, int] = await consumer.beginning_offsets(where)
    reached = {one: committed[one].offset if one in committed else starts[one] for one in where}
    return sum(max(0, ends[one] - max(reached[one], starts[one]) - 1) for one in where)


# What waits for a person


def _held(sources: Iterable[Row], plans: Iterable[Row], deletions: Iterable[Row]) -> list[Row]:
    """Return what is held: plans of absences, by source; of deletions, by target; and deletions by themselves."""
    absences = [
        {
            "kind": "held",
            "what": what,
            "of": row["source"],
            "plan": row[field]["plan"],
            "count": row[field][count],
            "decide": f"rollcall sources approve {row['source']} {row[field]['plan']}",
        }
        for row in sources
        for field, what, count in (("held", "absences", "missing"), ("unobserved", "unobserved", "customers"))
        if row.get(field)
    ]
    planned = [
        {
            "kind": "held",
            "what": "deletions",
            "of": row["target"],
            "plan": operate.handle(row),
            "count": row["count"],
            "reason": row["reason"],
            "decide": f"rollcall deletions approve {operate.handle(row)}",
        }
        for row in plans
        if row["state"] == "held"
    ]
    alone = [
        _listed(row["target"], State.HELD, "each by itself", row["waits"]["person"])
        for row in deletions
        if row["waits"]["person"]
    ]
    return [*absences, *planned, *alone]


def _listed(target: str, state: str, how: str, count: int) -> Row:
    """Return deletions of a target that a person goes through one by one."""
    decide = f"rollcall deletions list --state {state} --target {target}"
    return {"kind": "held", "what": f"deletions, {how},", "of": target, "plan": None, "count": count, "decide": decide}


async def _failed(config: Config) -> list[Row]:
    """Return the deletions that only a person can go on with; none where the table is too large to be read for it."""
    topic = config.topics.deletions
    try:
        if await _most(config, topic) > _COUNTED:
            return []
        ledger = operate.newest(await inspect.records(config, topic))
    except KafkaUnavailableError as error:
        if not isinstance(error.__cause__, TopicAuthorizationFailedError):
            raise
        return []
    ended = Counter((row["request"]["target"], row["state"]) for row in ledger.values())
    return [
        _listed(target, state, state, count)
        for (target, state), count in sorted(ended.items())
        if state in {State.BLOCKED, State.FAILED}
    ]


async def _dead_letters(config: Config) -> Row:
    """Return how many dead letters wait; where there are very many they are not read, and not more than so many."""
    try:
        most = await _most(config, config.topics.deadletters)
        if most > _COUNTED:
            return {"kind": "deadletters", "count": most, "exact": False}
        letters = await deadletters.waiting(config)
    except KafkaUnavailableError as error:
        if not isinstance(error.__cause__, TopicAuthorizationFailedError):
            raise
        return {"kind": "deadletters", "count": None, "exact": False, "message": "this principal may not read them"}
    newest = max((letter.at for letter in letters), default=None)
    return {
        "kind": "deadletters",
        "count": len(letters),
        "exact": True,
        "by_stage": dict(Counter(letter.stage for letter in letters)),
        "newest_at": None if newest is None else rfc3339(newest),
    }


async def _most(config: Config, topic: str) -> int:
    """Return how many records a topic has at most; raises KafkaUnavailableError."""
    where = [TopicPartition(topic, partition) for partition in range(config.topics.partitions)]
    try:
        async with Connection(config.file.kafka).reader("reader of offsets") as consumer:
            starts, ends = await consumer.beginning_offsets(where), await consumer.end_offsets(where)
    except KafkaError as error:
        raise unreadable(topic, error) from error
    return sum(ends[one] - starts[one] for one in where)
