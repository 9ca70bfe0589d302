"""What an operator does about dead letters: sees them, has them handled once more, or lets them be.

A retry goes through the stage that the record failed in, by the topic `replays`, and is answered in the transaction
that carries it out. What became of a dead letter stands beside it on its topic, so nothing is settled twice.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal

import orjson

from worker import inspect
from worker.config import Config
from worker.errors import UsageError
from worker.kafka import Connection
from worker.redelivery import Letter, Redelivery, letter_key, open_letters, resolved_headers
from worker.topics import POLL, STAGES, partition_of

_SAID: Final = ("path", "status", "size", "hash")


async def waiting(config: Config) -> list[Letter]:
    """Return the dead letters of which nothing has become yet; raises KafkaUnavailableError."""
    return open_letters(await inspect.records(config, config.topics.deadletters))


def named(letters: Sequence[Letter], names: Sequence[str]) -> list[Letter]:
    """Return the dead letters with these names, in the order in which they came; raises UsageError for another name."""
    missing = set(names) - {letter.name for letter in letters}
    if missing:
        message = f"there is no dead letter {', '.join(sorted(missing))} that waits for anything"
        raise UsageError(message, hint="`rollcall deadletters list` names them; a settled one is not among them.")
    return [letter for letter in letters if letter.name in names]


def shown(letter: Letter, *, payload: bool) -> dict[str, Any]:
    """Return a dead letter for printing; its payload, which may hold personal data, only where it is asked for."""
    record = letter.record
    found: dict[str, Any] = {
        "name": letter.name,
        "at": letter.at,
        "stage": letter.stage,
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "key": (record.key or b"").decode(errors="replace"),
        "error": letter.error,
        "reason": letter.reason,
        "bytes": len(record.value or b""),
        **upstream(letter),
    }
    if payload:
        found["headers"] = {
            name: None if value is None else value.decode(errors="replace") for name, value in record.headers
        }
        found["value"] = None if record.value is None else record.value.decode(errors="replace")
    return found


def upstream(letter: Letter) -> dict[str, Any]:
    """Return what the dead letter of an upstream says beside its reason; nothing for one of a record of Kafka's."""
    if letter.stage != POLL or letter.record.topic:
        return {}
    try:
        said = orjson.loads(letter.record.value or b"null")
    except orjson.JSONDecodeError:
        return {}
    return {name: said.get(name) for name in _SAID} if isinstance(said, dict) else {}


def place(letter: Letter) -> str:
    """Return where the record of a dead letter came from: its place in Kafka, or path and status of an upstream's."""
    record = letter.record
    if record.topic:
        return f"{record.topic} {record.partition}-{record.offset}"
    said = upstream(letter)
    return " ".join(str(said[name]) for name in ("path", "status") if said.get(name) is not None)


async def settle(
    config: Config,
    letters: Sequence[Letter],
    verb: Literal["retry", "discard"],
    who: str,
    value: bytes | None = None,
) -> dict[str, Mapping[str, Any]]:
    """Retry or discard dead letters, in their order; return by name the answers (`outcome` and `message`).

    `value` takes the place of the record's own. Raises UsageError for one that no stage can retry, and
    UnavailableError where Kafka is not there or no worker answers.
    """
    running = {*STAGES[1:], *config.topics.plugins}
    if verb == "retry":
        _check(letters, running)
    through = [one for one in letters if verb == "retry" or one.stage in config.topics.plugins]
    given = {secrets.token_hex(8): letter for letter in through}
    records = [_record(config, command, letter, verb, who, value) for command, letter in given.items()]
    others = [letter for letter in letters if letter not in through]
    records += [_resolved(config, letter) for letter in others]
    # To the task that had it: what a record's key leads to is not where each topic has it (`partition_key`).
    where = [letter.record.partition for letter in through]
    where += [partition_of(letter_key(letter.record), config.topics.partitions) for letter in others]
    await Connection(config.file.kafka).publish(config.topics, records, where)
    answers = await inspect.answers(config, list(given)) if given else {}
    told: dict[str, Mapping[str, Any]] = {letter.name: answers[command] for command, letter in given.items()}
    return told | {letter.name: {"outcome": "discarded", "message": "it is let be"} for letter in others}


def _check(letters: Sequence[Letter], running: set[str]) -> None:
    for letter in letters:
        if letter.stage == POLL and letter.record.topic:
            message = f"{letter.name} is of a record of {letter.record.topic}, which is no order"
            raise UsageError(message, hint="Give the order again (`rollcall pause` and the like), and discard this.")
        if letter.stage == POLL:
            message = f"{letter.name} is of an upstream, whose record is read again with every poll until it is right"
            raise UsageError(message, hint="Mend it upstream; `rollcall resync` reads a source anew at once.")
        if letter.stage not in running:
            message = f"{letter.name} is of the stage {letter.stage!r}, which this configuration does not have"
            raise UsageError(message, hint="Configure it again, or discard the dead letter.")


Sent = tuple[str, bytes, bytes | None, list[tuple[str, bytes]]]


def _record(
    config: Config, command: str, letter: Letter, verb: Literal["retry", "discard"], who: str, value: bytes | None
) -> Sent:
    record = letter.record if value is None else replace(letter.record, value=value)
    given = Redelivery(letter.stage, verb, record, command, letter.name, who)
    return config.topics.replays, letter_key(record), record.value, given.headers()


def _resolved(config: Config, letter: Letter) -> Sent:
    headers = resolved_headers(letter.name, letter.stage, "discarded")
    return config.topics.deadletters, letter_key(letter.record), None, headers
