"""Try a plug-in without Kafka: give it events, and look at what it keeps, sends and fails on.

    trial = Trial(handle, settings={"url": "..."}, outputs=["orders.customers"])
    await trial.give(event(person("crm", "7", given="Ada"), 1))
    assert trial.sent == [("orders.customers", "7", {...})]
    trial.state("crm/7"), trial.dead, await trial.retry("crm/7"), await trial.discard("crm/7")

It runs the very code that runs in production (`handlers.plugins`, `handlers.parking`), with a state in memory. Pauses
between attempts take no time and are noted in `pauses`. Not imitated: partitions, transactions, restarts; a crash can
be played by giving an event to a new Trial over the state of the old one (`Trial(..., like=old)`).
"""

from collections.abc import Iterator
from typing import Any, Final, Literal

import orjson

from handlers.parking import Batch, Runner
from handlers.plugins import Caller, Plugin, PluginSettings, customer_hash
from worker.events import (
    CREATED,
    DELETED,
    FIELDS,
    UPDATED,
    Customer,
    CustomerEvent,
    EventType,
    Headers,
    Reason,
    customer_key,
    event_headers,
)
from worker.handling import Outcome, Record
from worker.redelivery import REPLAY, Redelivery, letter_key
from worker.task import check_size

_TIME: Final = "2025-01-01T00:00:00.000Z"


def event(customer: Customer, sequence: int, *, changed: list[str] | None = None, replay: str | None = None) -> Record:
    """Return an event: the customer was created (sequence 1) or updated. `changed` defaults to all fields."""
    type_: EventType = CREATED if sequence == 1 else UPDATED
    named = list(FIELDS) if changed is None else changed
    return _record(customer["source"], customer["id"], sequence, type_, customer, named, None, replay)


def deletion(source: str, customer_id: str, sequence: int, reason: Reason = "tombstone") -> Record:
    """Return the event of a deletion."""
    return _record(source, customer_id, sequence, DELETED, None, [], reason, None)


def _record(
    source: str,
    customer_id: str,
    sequence: int,
    type_: EventType,
    customer: Customer | None,
    changed: list[str],
    reason: Reason | None,
    replay: str | None,
) -> Record:
    key = customer_key(source, customer_id)
    data: CustomerEvent = {
        "source": source,
        "id": customer_id,
        "customer": customer,
        "changed": changed,
        "first_seen": _TIME,
        "detected_at": _TIME,
        "reason": reason,
        "live": None if reason is None else 1,
    }
    headers = event_headers(key=key, source=source, type_=type_, sequence=sequence, time=_TIME, reason=reason)
    headers += [] if replay is None else [(REPLAY, replay.encode())]
    return Record("customers.events", 0, sequence, 0, key, orjson.dumps(data), headers)


class Trial:
    """One plug-in on one partition, in memory."""

    def __init__(self, target: Any, *, name: str = "trial", like: "Trial | None" = None, **settings: Any) -> None:
        """Take `settings` as in the configuration (`handlers.plugins.NAME`); `like`: go on with that one's state.

        Raises ConfigError where the target is no handler, or does not take its settings.
        """
        self.name = name
        self.data: dict[bytes, bytes] = {} if like is None else like.data
        self.sent: list[tuple[str, str | bytes, Any]] = []
        self.dead: list[tuple[str, str]] = [] if like is None else like.dead
        self.outcomes: list[Outcome] = []
        self.answers: list[str] = []
        self.pauses: list[float] = []
        self.letters: dict[str, Record] = {} if like is None else like.letters
        self._limit = 1_000_000
        plugin = Plugin(name, PluginSettings(**settings), target)
        handle, self.instance = plugin.make()
        self._runner = Runner(Caller(plugin, handle, self._check, self._wait), name, plugin.settings.concurrency)

    async def give(self, *events: Record) -> None:
        """Give it events, those of one customer in order."""
        self._keep(await self._runner.handle(events, self.data.get, replays=False))

    async def retry(self, key: str) -> str:
        """Retry the dead letter of a customer, and let what waits behind it follow; return what became of it."""
        return await self._settle(key, "retry")

    async def discard(self, key: str) -> str:
        """Discard the dead letter of a customer, and let what waits behind it follow; return what became of it."""
        return await self._settle(key, "discard")

    def state(self, key: str) -> dict[str, Any]:
        """Return what is kept of a customer, by name."""
        start = b"s" + customer_hash(key.encode())
        found = {name[len(start) :].decode(): value for name, value in self.data.items() if name.startswith(start)}
        return {name: orjson.loads(value) for name, value in found.items()}

    async def _settle(self, key: str, verb: Literal["retry", "discard"]) -> str:
        letter = self.letters[key]
        given = Redelivery(self.name, verb, letter, "command", "letter")
        carrier = Record("replays", 0, 0, 0, letter_key(letter), letter.value, given.headers())
        self._keep(await self._runner.handle([carrier], self.data.get, replays=True))
        while (batch := await self._runner.drain(self.data.get, self._scan)) is not None:
            self._keep(batch)
        return self.answers[-1]

    def _keep(self, batch: Batch) -> None:
        for key, value in batch.writes.items():
            self.data.pop(key, None)
            if value is not None:
                self.data[key] = value
        for topic, raw, value, _ in batch.sent:
            self.sent.append((topic, _text(raw), _json(value)))
        for record, _, reason in batch.buried:
            named = letter_key(record).decode(errors="backslashreplace")
            self.dead.append((named, reason))
            self.letters[named] = record
        self.outcomes += batch.outcomes
        self.answers += [outcome for _, outcome, _ in batch.answers]

    def _scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        yield from sorted((key, value) for key, value in self.data.items() if key.startswith(prefix))

    def _check(self, topic: str, key: bytes, value: bytes | None, headers: Headers) -> None:
        check_size(self._limit, topic, key, value, headers)

    async def _wait(self, seconds: float) -> bool:
        self.pauses.append(seconds)
        return True


def _text(raw: bytes) -> str | bytes:
    """Return a key as text, as it is where it is none."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def _json(raw: bytes | None) -> Any:
    """Return what a value says, as it is where it is no JSON."""
    try:
        return None if raw is None else orjson.loads(raw)
    except orjson.JSONDecodeError:
        return raw
