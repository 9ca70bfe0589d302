"""Handlers that others write: an `async def handle(event, context)`, or a class with such a method.

A plug-in reads `customers.events`. What it writes (state of the customer, records for its own topics) is gathered while
it runs, with no transaction open, so that it may wait for whatever it likes; when it has ended, all of that and the
position are committed in one Kafka transaction. Nothing else writes a task's state, so what it has read cannot have
changed meanwhile. Guarantees:

- what it wrote counts once for each event, or not at all: after a crash it is called again with the same state;
- events of one customer come one after the other, in order; those of different customers may run at the same time;
- an event that it fails on again and again goes to the dead letters, and later ones of that customer wait behind it
  until an operator has retried or discarded it.
"""

import asyncio
import hashlib
import importlib
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, Final, Literal, cast

import orjson
import structlog
from pydantic import Field

from worker.acls import ROLES
from worker.errors import ConfigError, RecordError, RecordTooLargeError, StoreError
from worker.events import CustomerEvent, Headers, header, split_key
from worker.handling import Dead, Done, Outcome, Record, Retry, Skip
from worker.redelivery import REPLAY
from worker.settings import Duration, Model
from worker.topics import Topics

log = structlog.get_logger()

ENTRY_POINTS: Final = "rollcall.handlers"
_RESERVED: Final = frozenset({*ROLES, "all", "dedupe", "deletes"})

Handle = Callable[["Event", "Context"], Awaitable[Outcome | None]]


class PluginSettings(Model):
    """A handler of one's own."""

    target: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        description="module:attr; default: the entry point of this name in the group rollcall.handlers",
    )
    settings: dict[str, Any] = Field(default_factory=dict, description="Given to the handler, which checks them")
    outputs: list[str] = Field(default_factory=list, description="Topics that it may write to; they are there already")
    start: Literal["earliest", "latest"] = Field(default="earliest", description="Where it starts on customers.events")
    replays: bool = Field(default=False, description="Whether it takes what `rollcall replay` sends it")
    version: int = Field(default=1, ge=1, description="Of the format of its state; another one is refused")
    attempts: int = Field(default=5, ge=1, description="Failed calls for one event, after which it is a dead letter")
    retry: Duration = Field(default=1.0, gt=0, description="Pause after the first failure; doubles up to a minute")
    timeout: Duration = Field(default=30.0, gt=0, description="For one call")
    concurrency: int = Field(default=8, ge=1, le=1000, description="Customers that are handled at once, a partition")


def problems(plugins: Mapping[str, PluginSettings], topics: Topics) -> list[str]:
    """Return what is wrong with the configured plug-ins, each with its path below `handlers`."""
    own = {spec.name for spec in topics.declared()}
    found = [f"plugins.{name}: this is the name of a built-in handler or role" for name in plugins if name in _RESERVED]
    for name, given in plugins.items():
        found += [f"plugins.{name}.outputs: {topic} is Rollcall's own" for topic in given.outputs if topic in own]
    return found


@dataclass(frozen=True, slots=True)
class Event:
    """What has become of a customer; `data` is as the JSON Schema `customer-event` says.

    `sequence` is the customer's version. `replay` is None but for a copy that `rollcall replay` has made.
    """

    id: str
    type: str
    source: str
    customer_id: str
    key: str
    sequence: int
    time: str
    data: CustomerEvent
    replay: str | None = None

    @classmethod
    def read(cls, record: Record) -> "Event":
        """Read a record of `customers.events`; raises RecordError where it is none."""
        said = {name: header(record.headers, f"ce_{name}") for name in ("id", "type", "time", "sequence")}
        try:
            source, customer_id = split_key(record.key or b"")
            data = orjson.loads(record.value or b"")
            sequence = int(said["sequence"] or "")
        except (ValueError, TypeError) as error:
            raise RecordError("not a customer's event") from error
        if not (said["id"] and said["type"] and isinstance(data, dict)):
            raise RecordError("not a customer's event")
        return cls(
            id=said["id"],
            type=said["type"],
            source=source,
            customer_id=customer_id,
            key=(record.key or b"").decode(),
            sequence=sequence,
            time=said["time"] or "",
            data=cast("CustomerEvent", data),
            replay=header(record.headers, REPLAY),
        )


Check = Callable[[str, bytes, bytes | None, Headers], None]


@dataclass
class Context:
    """What a handler has beside the event: state of this customer, topics to write to, its settings.

    Values of the state are JSON. Nothing that is written here is seen by anybody before all of it is committed, and
    nothing of it ever is where the handler raises, or returns Retry or Dead.
    """

    settings: Mapping[str, Any]
    attempt: int
    outputs: frozenset[str]
    read: Callable[[bytes], bytes | None]
    check: Check
    state: bytes
    changes: dict[bytes, bytes | None] = field(default_factory=dict)
    sent: list[tuple[str, bytes, bytes | None, Headers]] = field(default_factory=list)

    def get(self, name: str) -> Any:
        """Return what is kept of this customer under `name`, None where there is nothing."""
        key = self._key(name)
        value = self.changes[key] if key in self.changes else self.read(key)
        return None if value is None else orjson.loads(value)

    def put(self, name: str, value: Any) -> None:
        """Keep `value` (JSON) of this customer under `name`, a word of at most 200 bytes; None forgets it.

        Raises RecordTooLargeError for a value that the broker would refuse.
        """
        key, raw = self._key(name), None if value is None else orjson.dumps(value)
        self.check("the state", key, raw, [])
        self.changes[key] = raw

    def send(self, topic: str, key: str | bytes, value: Any, headers: Mapping[str, str | bytes] | None = None) -> None:
        """Publish a record: `value` is bytes, None, or what becomes JSON.

        Raises LookupError for a topic that is not among the configured outputs, RecordTooLargeError for a record that
        the broker would refuse.
        """
        if topic not in self.outputs:
            raise LookupError(f"{topic} is not among the outputs of this handler")
        raw = value if value is None or isinstance(value, bytes) else orjson.dumps(value)
        named = [(name, given.encode() if isinstance(given, str) else given) for name, given in (headers or {}).items()]
        record = (topic, key.encode() if isinstance(key, str) else key, raw, named)
        self.check(*record)
        self.sent.append(record)

    def _key(self, name: str) -> bytes:
        raw = name.encode()
        if not 1 <= len(raw) <= _NAME_BYTES:
            raise ValueError("a name in the state has 1 to 200 bytes")
        return self.state + raw


_NAME_BYTES: Final = 200


def customer_hash(key: bytes) -> bytes:
    """Return the 16 bytes that stand for a customer in the state: ids may be longer than a state's key."""
    return hashlib.blake2b(key, digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Plugin:
    """A plug-in that was found: its name, its settings, and what makes the handler of a partition."""

    name: str
    settings: PluginSettings
    target: Any

    def make(self) -> tuple[Handle, Any]:
        """Return what is called with each event, and the instance behind it (None for a function).

        Raises ConfigError where a class does not take its settings, or has no `async def handle(self, event, context)`.
        """
        instance = None
        handle = self.target
        if isinstance(self.target, type):
            try:
                instance = self.target(**self.settings.settings)
            except Exception as error:
                raise ConfigError([f"handlers.plugins.{self.name}.settings: {_words(error)}"]) from error
            handle = getattr(instance, "handle", None)
        if not inspect.iscoroutinefunction(handle):
            what = "async def handle(event, context), or a class that has one"
            raise ConfigError([f"handlers.plugins.{self.name}.target: it is not {what}"])
        return cast("Handle", handle), instance


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def load(name: str, settings: PluginSettings) -> Plugin:
    """Find a plug-in by its target, or by the entry point of its name; raises ConfigError."""
    path = f"handlers.plugins.{name}"
    try:
        target = _entry_point(name) if settings.target is None else _attribute(settings.target)
    except Exception as error:  # whatever the module does when it is imported
        raise ConfigError([f"{path}.target: {_words(error)}"]) from error
    plugin = Plugin(name, settings, target)
    plugin.make()
    return plugin


def _attribute(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _entry_point(name: str) -> Any:
    found = entry_points(group=ENTRY_POINTS, name=name)
    if not found:
        raise LookupError(f"there is no entry point {name!r} in the group {ENTRY_POINTS}, and no target is set")
    return next(iter(found)).load()


@dataclass(frozen=True, slots=True)
class Effect:
    """What came of one event: the outcome (None where it was not finished), and what it writes unless it failed.

    `error` is the class of what it failed with, `Dead` where that was decided.
    """

    outcome: Outcome | None
    changes: Mapping[bytes, bytes | None] = field(default_factory=dict)
    sent: Sequence[tuple[str, bytes, bytes | None, Headers]] = ()
    error: str = "Dead"


Wait = Callable[[float], Awaitable[bool]]
_LONGEST_PAUSE: Final = 60.0
_LONGEST_WAIT: Final = 365 * 24 * 3600


def _cancelled() -> bool:
    """Return whether it is the running task that is to end, and not something that it has waited for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _wrong(outcome: object) -> str | None:
    """Return what is wrong with what a handler returned, None where it is an outcome with what belongs into it."""
    match outcome:
        case None | Done():
            return None
        case Retry(after):
            well = isinstance(after, int | float) and abs(after) <= _LONGEST_WAIT  # no nan, which equals nothing
            return None if well else "a Retry after what is no number of seconds"
        case Skip(reason) | Dead(reason):
            return None if isinstance(reason, str) else f"a {type(outcome).__name__} for a reason that is no text"
    return f"{type(outcome).__name__}, which is no outcome"


class Caller:
    """Calls a plug-in's handler with one event until that has come to something; writes nothing itself."""

    def __init__(self, plugin: Plugin, handle: Handle, check: Check, wait: Wait) -> None:
        """`check` raises RecordTooLargeError; `wait` waits for so many seconds, or says False where work has to end."""
        self._plugin = plugin
        self._handle = handle
        self._check = check
        self._wait = wait
        self.log = log.bind(stage=plugin.name)

    async def call(self, record: Record, read: Callable[[bytes], bytes | None]) -> Effect:
        """Return what came of an event; `read` is the state before it. Raises StoreError where that cannot be read."""
        settings = self._plugin.settings
        try:
            event = Event.read(record)
        except RecordError as error:
            return Effect(Dead(error.message), error=type(error).__name__)
        if event.replay is not None and not settings.replays:
            return Effect(Skip("replay"))
        calls, failures, pause = 0, 0, settings.retry
        while True:
            calls += 1
            effect = await self._attempt(record, event, read, calls)
            match effect.outcome:
                case Retry(after):  # not now, by its own word: that is no failure
                    seconds = after
                case None:
                    failures += 1
                    self._say(record, effect.error, failures)
                    if failures >= settings.attempts:
                        failed = f"it failed {failures} times, at last with {effect.error}"
                        return Effect(Dead(failed), error=effect.error)
                    seconds, pause = pause, min(pause * 2, _LONGEST_PAUSE)
                case _:
                    return effect
            if not await self._wait(seconds):
                return Effect(None)

    def _say(self, record: Record, error: str, attempt: int) -> None:
        topic, partition, offset = record.topic, record.partition, record.offset
        self.log.warning(
            "handler_failed", topic=topic, partition=partition, offset=offset, error=error, attempt=attempt
        )

    async def _attempt(
        self, record: Record, event: Event, read: Callable[[bytes], bytes | None], number: int
    ) -> Effect:
        """Call it for the time `number`; the outcome is None where it failed."""
        settings = self._plugin.settings
        state = b"s" + customer_hash(record.key or b"")
        outputs = frozenset(settings.outputs)
        context = Context(settings.settings, number, outputs, read, self._check, state)
        try:
            outcome = await self._within(self._handle(event, context))
        except StoreError:  # no fault of the handler's or the event's
            raise
        except RecordTooLargeError as error:
            return Effect(Dead(error.message), error=type(error).__name__)
        except (Exception, asyncio.CancelledError) as error:  # its text may quote the event: only its class is kept
            if isinstance(error, asyncio.CancelledError) and _cancelled():
                raise
            return Effect(None, error=type(error).__name__)
        if (wrong := _wrong(outcome)) is not None:
            return Effect(Dead(f"the handler returned {wrong}"))
        if isinstance(outcome, Retry | Dead):
            return Effect(outcome)
        return Effect(outcome or Done(), context.changes, context.sent)

    async def _within(self, call: Awaitable[Outcome | None]) -> Outcome | None:
        async with asyncio.timeout(self._plugin.settings.timeout):
            return await call
