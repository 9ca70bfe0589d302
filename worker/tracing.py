"""OpenTelemetry: one trace for each change of a customer, from the poll that publishes it to the deletion downstream.

The context travels in the header `traceparent` of the records (W3C Trace Context, section 3.2). Without a configured
endpoint this module is not even loaded; with one its classes stand in for `Task` and the handlers. Guarantees:

- a span is handed on when its transaction was committed: what had to be done again is not told twice;
- nothing of a customer is in a span: names of sources, stages, topics and targets, methods, statuses, outcomes;
- upstreams and targets are not sent the context;
- what is not known any more (a request that outlives its worker) begins no trace of its own.
"""

import asyncio
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Final, Self

import aiohttp
import structlog
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from worker.events import Headers, header
from worker.handling import Call, Handler, Input, Outcome, Record, Reply, Tx
from worker.kafka import Connection
from worker.state import Store, StoreTransaction
from worker.task import Task, TaskSpec, Transaction
from worker.topics import Topics

log = structlog.get_logger()

HEADER: Final = "traceparent"
_ROOM: Final = (HEADER, bytes(55))
_REQUESTS: Final = 10_000
_FAILED: Final = 400
_PROPAGATOR: Final = TraceContextTextMapPropagator()


class _Said(logging.Handler):
    """Says in a line of our own that traces do not get out; what OpenTelemetry says of it may quote an answer."""

    def emit(self, record: logging.LogRecord) -> None:
        log.warning("traces_not_exported", error=record.name)


class Tracing:
    """What a worker's traces have in common; `threads` are the contexts of the requests for deletion under way."""

    def __init__(self, provider: TracerProvider) -> None:
        """Make spans by `provider`."""
        self._provider = provider
        self.tracer = provider.get_tracer("rollcall")
        self.threads: OrderedDict[bytes, bytes] = OrderedDict()

    @classmethod
    def start(cls) -> Self:
        """Export by OTLP over HTTP, as the environment says (OpenTelemetry's "Environment Variable Specification")."""
        heard = logging.getLogger("opentelemetry")
        heard.handlers, heard.propagate = [_Said(logging.WARNING)], False
        named = {} if "OTEL_SERVICE_NAME" in os.environ else {"service.name": "rollcall"}
        provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return cls(provider)

    def task(self, connection: Connection, topics: Topics, spec: TaskSpec, partition: int) -> Task:
        """Return the task of a partition, traced."""
        return TracedTask(self, connection, topics, spec, partition)

    def handler(self, handler: Handler) -> Handler:
        """Return a handler, traced."""
        return TracedHandler(handler)

    async def stop(self) -> None:
        """Hand on what is left."""
        await asyncio.to_thread(self._provider.shutdown)

    def span(self, name: str, kind: SpanKind, parent: bytes | None, attributes: Mapping[str, str]) -> Span:
        """Begin a span below `parent` (a traceparent), or a trace."""
        return self.tracer.start_span(name, _context(parent), kind, attributes)

    def remember(self, request: bytes, traceparent: bytes) -> None:
        """Keep a request's context until it is answered, as long as there are not too many."""
        self.threads[request] = traceparent
        while len(self.threads) > _REQUESTS:
            self.threads.popitem(last=False)

    def calls_to(self, target: str) -> aiohttp.TraceConfig:
        """Return what makes a span of each request to a target whose context is known."""
        config = aiohttp.TraceConfig()

        async def started(_: Any, own: SimpleNamespace, sent: aiohttp.TraceRequestStartParams) -> None:  # ruff: ignore[unused-async] - aiohttp's contract
            parent = sent.headers.popall(HEADER, [])
            attributes = {"http.request.method": sent.method, "server.address": sent.url.host or ""}
            name = f"{sent.method} {target}"
            own.span = self.span(name, SpanKind.CLIENT, parent[0].encode(), attributes) if parent else None

        async def answered(_: Any, own: SimpleNamespace, got: aiohttp.TraceRequestEndParams) -> None:  # ruff: ignore[unused-async] - aiohttp's contract
            if own.span is not None:
                own.span.set_attribute("http.response.status_code", got.response.status)
                own.span.set_status(StatusCode.ERROR if got.response.status >= _FAILED else StatusCode.UNSET)
                own.span.end()

        async def failed(_: Any, own: SimpleNamespace, got: aiohttp.TraceRequestExceptionParams) -> None:  # ruff: ignore[unused-async] - aiohttp's contract
            if own.span is not None:
                own.span.set_status(StatusCode.ERROR, type(got.exception).__name__)
                own.span.end()

        config.on_request_start.append(started)
        config.on_request_end.append(answered)
        config.on_request_exception.append(failed)
        return config


def _context(traceparent: bytes | None) -> Context:
    carrier = {} if traceparent is None else {HEADER: traceparent.decode("ascii", "replace")}
    return _PROPAGATOR.extract(carrier, Context())


def _known(headers: Sequence[tuple[str, bytes]]) -> bytes | None:
    """Return the context that a record came with, None without a valid one."""
    value = (header(headers, HEADER) or "").encode()
    return value if get_current_span(_context(value)).get_span_context().is_valid else None


def _traceparent(span: Span) -> bytes:
    context = span.get_span_context()
    return b"00-%032x-%016x-%02x" % (context.trace_id, context.span_id, context.trace_flags)


def _request(key: bytes) -> bytes:
    """Return the request's id out of a key or a call's id: what stands before the first colon."""
    return key.partition(b":")[0]


class TracedTransaction(Transaction):
    """A transaction whose records carry the context of what they came of, which is `current`."""

    __slots__ = ("_names", "_roots", "_spans", "_tracing", "current")

    def __init__(
        self, state: StoreTransaction, partitions: int, max_bytes: int, tracing: Tracing, names: Topics
    ) -> None:
        """Write as any transaction; `names` tell the topics apart."""
        super().__init__(state, partitions, max_bytes)
        self._tracing, self._names = tracing, names
        self._spans: list[Span] = []
        self._roots: dict[bytes, bytes] = {}
        self.current: bytes | None = None

    def begin(self, name: str, parent: bytes | None, attributes: Mapping[str, str]) -> Span | None:
        """Have what follows be part of a span below `parent`; without one, of none."""
        self.current = None
        if parent is None:
            return None
        span = self._tracing.span(name, SpanKind.CONSUMER, parent, attributes)
        self._spans.append(span)
        self.current = _traceparent(span)
        return span

    def committed(self) -> None:
        """Hand the spans on."""
        for span in self._spans:
            span.end()

    def check_size(self, topic: str, key: bytes, value: bytes | None, headers: Headers | None) -> None:
        """Leave room for the header."""
        super().check_size(topic, key, value, [*(headers or ()), _ROOM])

    def send_to(self, topic: str, partition: int, key: bytes, value: bytes | None, headers: Headers | None) -> None:
        """Publish a record with the context it is part of, where there is one."""
        found = self._context_of(topic, key, headers or [])
        with_it = headers if found is None else [*(headers or ()), (HEADER, found)]
        super().send_to(topic, partition, key, value, with_it)
        if topic == self._names.requests and value is None:
            self._tracing.threads.pop(_request(key), None)

    def call(self, call: Call) -> None:
        """Have a call made whose span knows where it belongs."""
        found = self._tracing.threads.get(_request(call.id.encode()), self.current)
        super().call(call if found is None else replace(call, headers=(*call.headers, (HEADER, found.decode()))))

    def at_end(self, work: Callable[[], None]) -> None:
        """Have `work` done as part of what is under way now."""
        context = self.current

        def later() -> None:
            self.current = context
            work()

        super().at_end(later)

    def _context_of(self, topic: str, key: bytes, headers: Headers) -> bytes | None:
        if any(name == HEADER for name, _ in headers):
            return None
        if topic in {self._names.requests, self._names.receipts}:
            return self._thread(_request(key))
        if topic in {self._names.events, self._names.latest} and self.current is None:
            return self._root(topic, key, headers)
        return self.current

    def _thread(self, request: bytes) -> bytes | None:
        if self.current is not None and request not in self._tracing.threads:
            self._tracing.remember(request, self.current)
        return self._tracing.threads.get(request)

    def _root(self, topic: str, key: bytes, headers: Headers) -> bytes:
        """Begin the trace of a change; the event and the newest customer are both part of it."""
        if key not in self._roots:
            source = key.partition(b"/")[0].decode()
            about = {"rollcall.source": source, "rollcall.event": header(headers, "ce_type") or ""}
            attributes = about | {"messaging.system": "kafka", "messaging.destination.name": topic}
            span = self._tracing.span(f"poll {source}", SpanKind.PRODUCER, None, attributes)
            self._spans.append(span)
            self._roots[key] = _traceparent(span)
        return self._roots[key] if topic == self._names.events else self._roots.pop(key)


class TracedTask(Task):
    """A task whose transactions carry traces."""

    def __init__(
        self, tracing: Tracing, connection: Connection, topics: Topics, spec: TaskSpec, partition: int
    ) -> None:
        """Prepare as any task."""
        super().__init__(connection, topics, spec, partition)
        self._tracing = tracing

    def _transaction(self, store: Store) -> Transaction:
        size = self.connection.settings.max_record_bytes
        return TracedTransaction(store.begin(), self.topics.partitions, size, self._tracing, self.topics)

    async def _commit(self, tx: Transaction, store: Store) -> None:
        await super()._commit(tx, store)
        if isinstance(tx, TracedTransaction):
            tx.committed()


class TracedHandler:
    """A handler whose work on a record, or a reply, is a span of the trace that the record came with."""

    def __init__(self, handler: Handler) -> None:
        """Wrap `handler`."""
        self._handler = handler
        self.stage = handler.stage
        self.version = handler.version
        self.inputs: tuple[Input, ...] = handler.inputs

    def open(self, tx: Tx, partition: int, ends: Mapping[str, int], now: int) -> int | None:
        """Take up a partition."""
        return self._handler.open(tx, partition, ends, now)

    def on_record(self, tx: Tx, record: Record, now: int) -> Outcome:
        """Handle one record below the span that wrote it."""
        span = self._begin(tx, f"handle {self.stage}", _known(record.headers), record.topic)
        outcome = self._handler.on_record(tx, record, now)
        if span is not None:
            span.set_attribute("rollcall.outcome", type(outcome).__name__.lower())
        return outcome

    def on_reply(self, tx: Tx, call: Call, reply: Reply, now: int) -> None:
        """Take a reply below the span that asked for the call."""
        parent = _known([(name, value.encode()) for name, value in call.headers])
        self._begin(tx, f"reply {self.stage}", parent, None)
        self._handler.on_reply(tx, call, reply, now)

    def on_timer(self, tx: Tx, now: int) -> int | None:
        """Do what is due: part of no one trace."""
        self._begin(tx, "", None, None)
        return self._handler.on_timer(tx, now)

    def _begin(self, tx: Tx, name: str, parent: bytes | None, topic: str | None) -> Span | None:
        attributes = {"rollcall.stage": self.stage}
        if topic is not None:
            attributes |= {"messaging.system": "kafka", "messaging.destination.name": topic}
        return tx.begin(name, parent, attributes) if isinstance(tx, TracedTransaction) else None
