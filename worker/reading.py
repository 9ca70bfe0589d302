"""Reads parts of a topic: from a time or an offset up to another, and of that only what is wanted.

Nothing before the part is read: times are looked up by the broker (ListOffsets), and a single customer's records are in
one partition only. What cannot be is refused before anything is read.
"""

import re
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from worker.errors import UsageError
from worker.events import header
from worker.kafka import Connection, unreadable
from worker.topics import partition_of

_RELATIVE: Final = re.compile(r"([0-9]+)(s|m|h|d)")
_OFFSET: Final = re.compile(r"(?:([0-9]{1,4})-)?([0-9]{1,18})")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
HINT: Final = "Write beginning, end, 15m, 2025-01-31T12:00:00Z, or an offset: 120, or 3-120 in partition 3 only."

Edge = Literal["beginning", "end"]


@dataclass(frozen=True, slots=True)
class Moment:
    """A place in a topic: one of its edges, a time (ms since the epoch), or an offset, in all partitions or in one."""

    edge: Edge | None = None
    time: int | None = None
    offset: int | None = None
    partition: int | None = None


def moment(text: str, now: int) -> Moment:
    """Return the place that a person has written; `now` in ms since the epoch. Raises UsageError."""
    if text in {"beginning", "end"}:
        return Moment(edge="end" if text == "end" else "beginning")
    if match := _RELATIVE.fullmatch(text):
        return Moment(time=max(0, now - int(match[1]) * _SECONDS[match[2]] * 1000))
    if match := _OFFSET.fullmatch(text):
        return Moment(offset=int(match[2]), partition=int(match[1]) if match[1] else None)
    try:
        parsed = datetime.fromisoformat(text)
        at = round((parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{text!r} is neither a time nor an offset", hint=HINT) from error
    if at < 0:
        raise UsageError(f"{text!r} is before there were any records (1970)", hint=HINT)
    return Moment(time=at)


@dataclass(frozen=True, slots=True)
class Span:
    """From a place up to, and without, another one."""

    start: Moment
    until: Moment

    def check(self, now: int) -> None:
        """Raise UsageError where nothing can be in it; `now` in ms since the epoch."""
        start, until = self.start, self.until
        if start.time is not None and start.time > now:
            raise UsageError("--from is in the future: nothing is there yet")
        times = start.time is not None and until.time is not None and start.time >= until.time
        offsets = start.offset is not None and until.offset is not None and start.offset >= until.offset
        if times or offsets or start.edge == "end" or until.edge == "beginning":
            raise UsageError("--until is not after --from: there is nothing between them", hint=HINT)
        if start.partition is not None and until.partition not in {None, start.partition}:
            raise UsageError("--from and --until are in different partitions")

    def within(self, where: Sequence[TopicPartition]) -> list[TopicPartition]:
        """Return those partitions that it is in; raises UsageError where it is in another one only."""
        named = {at.partition for at in (self.start, self.until) if at.partition is not None}
        found = [one for one in where if not named or one.partition in named]
        if not found:
            raise UsageError(f"there is no partition {min(named)} to read from", hint=HINT)
        return found


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which records are wanted; None, or an empty tuple, wants all. `types` are those of CloudEvents."""

    source: str | None = None
    types: tuple[str, ...] = ()
    customer: str | None = None

    def partitions(self, count: int) -> list[int]:
        """Return the partitions that can hold what is wanted."""
        return list(range(count)) if self.customer is None else [partition_of(self.customer.encode(), count)]

    def matcher(self) -> Callable[[bytes | None, Sequence[tuple[str, bytes]]], bool]:
        """Return what tells by a record's key and headers whether it is wanted."""
        types = {type_.encode() for type_ in self.types}
        whole = None if self.customer is None else self.customer.encode()
        start = b"" if self.source is None else f"{self.source}/".encode()

        def wants(key: bytes | None, headers: Sequence[tuple[str, bytes]]) -> bool:
            if (whole is not None and key != whole) or not (key or b"").startswith(start):
                return False
            return not types or any(name == "ce_type" and value in types for name, value in headers)

        return wants


def type_name(text: str) -> str:
    """Return the CloudEvents type that is meant by `created` or by `customer.created`."""
    return text if "." in text else f"customer.{text}"


async def partitions_of(connection: Connection, topic: str) -> int:
    """Return a topic's number of partitions; raises UsageError where there is no such topic."""
    async with connection.admin() as admin:
        found = (await admin.found([topic])).get(topic)
    if found is None:
        hint = "`rollcall topics plan` shows what is missing of ours; another service's is made by whoever has it."
        raise UsageError(f"there is no topic {topic}", hint=hint)
    return found.partitions


async def places(consumer: AIOKafkaConsumer, where: Sequence[TopicPartition], at: Moment) -> dict[TopicPartition, int]:
    """Return the offset of a place in each partition, within what is there now; raises KafkaUnavailableError.

    A time that is past a partition's last record is its end.
    """
    starts, ends = await edges(consumer, where)
    if at.time is not None:
        with _asking(where):
            found = await consumer.offsets_for_times(dict.fromkeys(where, at.time))
        return {one: ends[one] if found.get(one) is None else found[one].offset for one in where}
    if at.offset is not None:
        return {one: min(max(at.offset, starts[one]), ends[one]) for one in where}
    return starts if at.edge == "beginning" else ends


async def edges(
    consumer: AIOKafkaConsumer, where: Sequence[TopicPartition]
) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
    """Return where each partition begins and ends now; raises KafkaUnavailableError."""
    with _asking(where):
        return await consumer.beginning_offsets(where), await consumer.end_offsets(where)


@contextmanager
def _asking(where: Sequence[TopicPartition]) -> Generator[None]:
    try:
        yield
    except KafkaError as error:
        raise unreadable(where[0].topic, error) from error


def pick(value: Any, headers: Sequence[tuple[str, bytes]], fields: Sequence[str]) -> dict[str, Any]:
    """Return only some fields of a value, by dotted name, those of lists of objects as lists; headers by their name."""
    return {field: header(headers, field) if field.startswith("ce_") else _inside(value, field) for field in fields}


def _inside(value: Any, field: str) -> Any:
    if isinstance(value, list):
        return [_inside(one, field) for one in value]
    name, dot, rest = field.partition(".")
    found = value.get(name) if isinstance(value, Mapping) else None
    return _inside(found, rest) if dot else found
