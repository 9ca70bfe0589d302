"""`rollcall tail`: shows records of a public topic as they come; JSON in a pipe, on a terminal a line for people."""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError
from aiokafka.structs import ConsumerRecord

from worker.acls import PUBLIC
from worker.config import Config
from worker.errors import UsageError
from worker.events import header
from worker.inspect import plain
from worker.kafka import Connection, unreadable
from worker.reading import Moment, Span, Wanted, partitions_of, pick, places

SHOWN: Final = (*PUBLIC, "deadletters")
_KEYED_OTHERWISE: Final = {"identity": "the id of a cluster", "receipts": "the id of a request"}
_READ: Final = 2_000
_WIDTH: Final = 160


@dataclass(frozen=True, slots=True)
class View:
    """What is to be shown, from where, and whether to go on when the end is reached."""

    wanted: Wanted
    start: Moment
    until: Moment | None
    follow: bool
    fields: tuple[str, ...] = ()


async def tail(config: Config, topic: str, view: View) -> None:
    """Print records of a public topic.

    Raises UsageError where there is no such topic or what was to be read next has been deleted, KafkaUnavailableError.
    """
    if topic not in SHOWN:
        raise UsageError(f"there is no topic {topic!r} to show; there are {', '.join(SHOWN)}")
    if topic in _KEYED_OTHERWISE and (view.wanted.source or view.wanted.customer):
        message = f"the keys of {topic} are no customers: --source and --customer find nothing there"
        raise UsageError(message, hint=f"The key is {_KEYED_OTHERWISE[topic]}; use --type, --from and --until.")
    name = getattr(config.topics, topic)
    connection = Connection(config.file.kafka)
    count = await partitions_of(connection, name)
    span = Span(view.start, Moment(edge="end") if view.until is None else view.until)
    where = span.within([TopicPartition(name, one) for one in view.wanted.partitions(count)])
    try:
        async with connection.reader("tail") as consumer:
            starts = await places(consumer, where, view.start)
            ends = None if view.follow else await places(consumer, where, span.until)
            consumer.assign(where)
            for one in where:
                consumer.seek(one, starts[one])
            await _show(consumer, where, ends, view)
    except OffsetOutOfRangeError as error:
        message = f"{name} has not kept what was to be read next: it was deleted meanwhile"
        raise UsageError(message, hint="Begin anew: --from beginning, or a later time.") from error
    except KafkaError as error:
        raise unreadable(name, error) from error
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at its end


async def _show(
    consumer: Any, where: Sequence[TopicPartition], ends: dict[TopicPartition, int] | None, view: View
) -> None:
    wants, line = view.wanted.matcher(), _pretty if sys.stdout.isatty() else _json_line
    while True:
        open_ = where if ends is None else [one for one in where if await consumer.position(one) < ends[one]]
        if not open_:
            return
        for one, records in (await consumer.getmany(*open_, timeout_ms=500, max_records=_READ)).items():
            for record in records:
                if (ends is None or record.offset < ends[one]) and wants(record.key, record.headers):
                    sys.stdout.write(line(record, view.fields) + "\n")
        sys.stdout.flush()


def _json_line(record: ConsumerRecord, fields: Sequence[str]) -> str:
    value: Any = _json(record.value)
    if fields:
        value = pick(value, record.headers, fields)
    elif isinstance(value, list | dict):
        # As it came, but in one line: what was read may nest too deeply to be written again.
        value = orjson.Fragment(record.value.replace(b"\n", b" ").replace(b"\r", b" "))
    return orjson.dumps({
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp,
        "key": (record.key or b"").decode(errors="replace"),
        "headers": {name: None if raw is None else raw.decode(errors="replace") for name, raw in record.headers},
        "value": value,
    }).decode()


def _pretty(record: ConsumerRecord, fields: Sequence[str]) -> str:
    moment = time.strftime("%H:%M:%S", time.localtime(record.timestamp / 1000))
    key = plain((record.key or b"").decode(errors="replace"))
    type_ = (header(record.headers, "ce_type") or ("null" if record.value is None else "")).removeprefix("customer.")
    sequence = header(record.headers, "ce_sequence")
    number = f"#{sequence}" if sequence else ""
    text = plain(_summary(record, fields))
    return f"{moment} {plain(type_):<10} {key:<28} {plain(number):<5} {text[:_WIDTH]}"


def _summary(record: ConsumerRecord, fields: Sequence[str]) -> str:
    value = _json(record.value)
    if fields:
        picked = pick(value, record.headers, fields)
        return ", ".join(f"{name}={orjson.dumps(found).decode()}" for name, found in picked.items())
    if isinstance(value, dict) and "changed" in value:
        return str(value.get("reason") or ", ".join(map(str, value["changed"])))
    return "" if value is None else (record.value or b"").decode(errors="replace")


def _json(value: bytes | None) -> Any:
    if value is None:
        return None
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return value.decode(errors="replace")
