"""What whoever reads a topic has to tell apart: emptied, not readable, not decodable."""

from collections.abc import Iterable
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import TopicAuthorizationFailedError

from worker.errors import KafkaUnavailableError, StateError

# How often a position is kept that nothing but ends of transactions has moved, in seconds.
MARKERS_SECONDS: Final = 300.0
_LOOK_MS: Final = 1_000
_LOOKED_AT: Final = 2_000


def emptied(position: int, start: int, end: int) -> bool:
    """Return whether retention has emptied a partition of which all but the last offset was handled.

    As a rule that offset is the end of a transaction, which is no record, but takes an offset as records do.
    """
    return position == start - 1 and start == end


def unreadable(topic: str, error: Exception) -> KafkaUnavailableError:
    """Return what to raise, from `error`, where a topic cannot be read."""
    hint = None
    if isinstance(error, TopicAuthorizationFailedError):
        hint = "`rollcall acls operator` prints the rights of who looks after a deployment; a worker has fewer."
    return KafkaUnavailableError(f"{topic} cannot be read ({type(error).__name__})", hint=hint)


async def undecodable(consumer: AIOKafkaConsumer, inputs: Iterable[TopicPartition]) -> StateError:
    """Return what is to be said where a record cannot be decoded: aiokafka does not say which one it is.

    It reads no record, and none after it in the same batch, that has a header whose name is not UTF-8.
    """
    place = "an input"
    for where in inputs:
        try:
            consumer.resume(where)
            for _ in range(_LOOKED_AT):
                if not await consumer.getmany(where, timeout_ms=_LOOK_MS, max_records=1):
                    break
        except UnicodeDecodeError:
            place = (
                f"{where.topic}, partition {where.partition}, offset {await consumer.position(where)} or soon after,"
            )
            break
    message = f"{place} has a header whose name is not UTF-8: it cannot be read"
    hint = "Another program has written there: `rollcall acls` says who may. docs/recover.md says how to go on."
    return StateError(message, hint=hint)
