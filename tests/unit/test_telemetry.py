"""Metrics and log lines: named by rule, and documented as they are, no more and no less."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client import Counter, Gauge, Histogram

from worker import logevents, telemetry
from worker.checkpoint import Checkpoint
from worker.condition import Condition
from worker.errors import RollcallError, TransactionError
from worker.kafka import Connection
from worker.membership import Membership, _Owned
from worker.settings import KafkaSettings
from worker.task import Task

ROOT = Path(__file__).parents[2]
SOURCES = [path for folder in ("worker", "handlers") for path in sorted((ROOT / folder).rglob("*.py"))]
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
METRICS = {name: metric for name, metric in vars(telemetry).items() if isinstance(metric, Counter | Gauge | Histogram)}


def logged() -> Iterator[tuple[str, str, frozenset[str]]]:
    """Yield (name, level, fields) of every call of a logger in the code."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS:
                owner = node.func.value
                name = owner.id if isinstance(owner, ast.Name) else getattr(owner, "attr", "")
                if name.lstrip("_") == "log":
                    (event,) = node.args
                    assert isinstance(event, ast.Constant), f"{path}:{node.lineno}: a line has a name of its own"
                    yield event.value, node.func.attr, frozenset(str(keyword.arg) for keyword in node.keywords)


def test_every_line_is_registered() -> None:
    """By name and level, with the fields that the register says; and nothing is registered that is never logged."""
    found = list(logged())
    assert {name for name, _, _ in found} == set(logevents.EVENTS)
    for name, level, fields in found:
        assert level == logevents.EVENTS[name].level, name
        assert fields <= set(logevents.EVENTS[name].fields), name


def test_every_field_is_used() -> None:
    """No field is registered that no line has."""
    lines = list(logged())
    for name, event in logevents.EVENTS.items():
        used = {field for logged_name, _, fields in lines if logged_name == name for field in fields}
        assert used == set(event.fields), name


@pytest.mark.parametrize("name", METRICS)
def test_metrics_are_named_by_convention(name: str) -> None:
    """Prefix, base units, and the suffixes of Prometheus' conventions for names."""
    (family,) = METRICS[name].describe()
    assert family.name.startswith("rollcall_")
    assert family.name.islower()
    assert not family.name.endswith("_total")
    assert family.documentation.endswith(".")
    assert not any(unit in family.name for unit in ("_ms", "millis", "minutes", "percent", "_kb"))
    if isinstance(METRICS[name], Histogram):
        assert family.name.endswith("_seconds")


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_is_set(name: str) -> None:
    """None is declared that nothing sets."""
    assert any(f"telemetry.{name}" in path.read_text("utf-8") for path in SOURCES)


@pytest.mark.parametrize(("document", "table"), [("metrics", telemetry.table()), ("logs", logevents.table())])
def test_the_documents_are_as_the_code(document: str, table: str) -> None:
    """`make reference` writes them anew."""
    assert table in (ROOT / "docs" / f"{document}.md").read_text("utf-8")


def of(source: str) -> dict[str, float]:
    """Return what the gauges say of a source, by name."""
    samples = [sample for metric in telemetry.REGISTRY.collect() for sample in metric.samples if metric.type == "gauge"]
    return {sample.name: sample.value for sample in samples if sample.labels.get("source") == source}


def test_a_source_is_shown_while_it_is_ours() -> None:
    """From the state on that it is taken up with; a source that is never read is missed, too."""
    condition = Condition("mine", "drivly", following=("head", "tail"))
    condition.take_up(Checkpoint("pepper", "tag", live=7, held={"plan": "p", "missing": 12, "live": 7}), 1_000_000)
    condition.begin("degraded", RollcallError("a record cannot be read"))
    condition.raise_alarm("listing", "it is empty")
    condition.raise_alarm("held", "12 are missing")
    condition.clear_alarm("listing")
    condition.ended("head", 2_000_000, enumerates=False)
    assert of("mine") == {
        "rollcall_customers_live": 7,
        "rollcall_absences_held": 12,
        "rollcall_source_alarms": 1,
        "rollcall_source_state": 1,
        "rollcall_last_poll_timestamp_seconds": 2_000,
        "rollcall_checkpoint_timestamp_seconds": 1_000,
    }
    condition.ended("tail", 3_000_000, enumerates=False)
    assert of("mine")["rollcall_checkpoint_timestamp_seconds"] == 2_000
    condition.hide()
    assert of("mine") == {}


async def test_the_counters_that_alerts_watch_are_there_before_they_count() -> None:
    """From a task's start on, also where that fails: Prometheus takes the first value that it sees for no increase."""

    class Failing:
        stage = "shown"

        async def start(self, _: object) -> None:
            raise TransactionError("it cannot be started")

        async def close(self) -> None:
            pass

    member = Membership(Connection(KafkaSettings()), "group", "topic", make=Any, run=Any, grace=1)  # type: ignore[arg-type]
    with pytest.raises(TransactionError):
        await member._work(0, _Owned(), cast("Task", Failing()))
    samples = [sample for metric in telemetry.REGISTRY.collect() for sample in metric.samples]
    shown = {
        (sample.name, *list(sample.labels.values())[1:]): sample.value
        for sample in samples
        if sample.labels.get("stage") == "shown" and sample.name.endswith("_total")
    }
    assert shown == {
        ("rollcall_dead_letters_total",): 0,
        ("rollcall_task_starts_total", "failed"): 0,
        ("rollcall_task_starts_total", "fenced"): 0,
        ("rollcall_transactions_total", "committed"): 0,
        ("rollcall_transactions_total", "failed"): 0,
        ("rollcall_transactions_total", "fenced"): 0,
    }


def test_a_line_is_written_at_once() -> None:
    """Also where Python does not buffer, as container images have it: lines of two processes in one file stay whole."""
    program = """
import io, sys
class Pipe(io.RawIOBase):
    writes = []
    def writable(self): return True
    def write(self, data): self.writes.append(bytes(data)); return len(data)
error = sys.stderr
sys.stderr = io.TextIOWrapper(Pipe(), write_through=True)
from worker.telemetry import configure_logging
import structlog
configure_logging()
structlog.get_logger().info("task_restored", entries=3)
assert len(Pipe.writes) == 1 and Pipe.writes[0].endswith(b"}\\n"), Pipe.writes
sys.stderr = error
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=30)
