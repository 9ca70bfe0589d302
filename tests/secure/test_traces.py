"""Traces: one from the poll to the deletion downstream, with nothing of a customer; none where none are wanted."""

import subprocess
import sys
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.secure.collector import Collector
from tests.secure.conftest import Secured
from tests.secure.plant import Plant, words
from tests.waiting import taken_up, until
from worker import acls, inspect, service
from worker.config import Config
from worker.events import header
from worker.handling import Record
from worker.settings import KafkaSettings
from worker.topics import Topics


def way(spans: list[Span], last: Span) -> list[str]:
    """Return the names of the spans from the first one of a trace down to `last`."""
    by_id = {span.span_id: span for span in spans if span.trace_id == last.trace_id}
    names = [last.name]
    while last.parent_span_id:
        last = by_id[last.parent_span_id]
        names.insert(0, last.name)
    return names


def leads_to(record: Record) -> str:
    """Return where a record's header leads to, less its flags."""
    return (header(record.headers, "traceparent") or "").rpartition("-")[0]


def context(span: Span) -> str:
    """Return the header that leads to a span, less its flags."""
    return f"00-{span.trace_id.hex()}-{span.span_id.hex()}"


async def test_a_trace_from_the_poll_to_the_deletion(
    collector: Collector, secured: Secured, admin: KafkaSettings, topics: Topics, tmp_path: Path
) -> None:
    """Its spans lie one below the other, and the records that are published lead to them."""
    plant = Plant(secured, admin, topics, tmp_path)
    await plant.prepare(20)
    config = plant.configure("all", admin)
    said = words(list(plant.world.live().values()))
    assert len(said) > 24
    try:
        await delete_one(plant, config)
    finally:
        await plant.world.stop()
    deletes = [span for span in collector.spans if span.name.startswith("DELETE ")]
    assert deletes
    for span in deletes:
        names = way(collector.spans, span)
        assert (names[0].split()[0], names[1], names[-1]) == ("poll", "handle requests", span.name)
        assert "handle executor" in names
        assert span.kind == Span.SPAN_KIND_CLIENT
        assert span.status.code != Status.STATUS_CODE_ERROR
    trace = {span.trace_id for span in deletes}
    receipts = await inspect.records(config, topics.receipts)
    assert receipts
    known = {context(span) for span in collector.spans if span.trace_id in trace}
    assert {leads_to(receipt) for receipt in receipts} <= known
    events, latest = await inspect.records(config, topics.events), await inspect.records(config, topics.latest)
    roots = {context(span) for span in collector.spans if not span.parent_span_id}
    published = [leads_to(record) for record in events]
    assert set(published) == roots
    assert len(published) == len(set(published))
    assert {leads_to(record) for record in latest} == roots
    assert {span.name for span in collector.spans} >= {f"handle {stage}" for stage in acls.WORKERS if stage != "poll"}
    assert not [word for word in said if word.encode() in collector.said]


async def delete_one(plant: Plant, config: Config) -> None:
    """Have two customers deleted upstream, and wait for the receipts; targets are not sent the context."""
    async with plant.running(dict.fromkeys(acls.WORKERS, config)):

        async def published() -> bool:
            return set(await plant.live(config, plant.topics.latest)) == set(plant.world.live())

        async def carried_out() -> bool:
            return len(await plant.live(config, plant.topics.receipts)) >= 2

        await until(published, "the customers were not published")
        await taken_up("requests", "executor", partitions=config.file.kafka.partitions)
        plant.world.delete_at_once(2)
        await until(carried_out, "the deletions were not carried out")


OFF = """
import sys
from worker import cli, service, task
assert service._traces() is None
assert not [name for name in sys.modules if name.startswith("opentelemetry") or name == "worker.tracing"]
"""


def test_nothing_of_it_is_loaded_where_it_is_off() -> None:
    """So it can cost nothing: neither in a worker nor on the command line."""
    subprocess.run([sys.executable, "-c", OFF], check=True, env={"PATH": "/usr/bin"})


@pytest.mark.parametrize("value", ["true", "TRUE"])
def test_it_can_be_switched_off(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By OpenTelemetry's own variable."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_SDK_DISABLED", value)
    assert service._traces() is None
