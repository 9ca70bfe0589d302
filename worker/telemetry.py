"""Logging and metrics, in one place: how log lines look, and every metric there is.

Log lines are JSON, or text on a terminal, and go to standard error. Nothing out of a customer's record is ever given to
a logger or a label: sources, stages, partitions, counts and reasons only.
"""

import logging
import sys
from typing import Final

import orjson
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY: Final = CollectorRegistry()
Metric = Counter | Gauge


def _counter(name: str, text: str, *labels: str) -> Counter:
    return Counter(f"rollcall_{name}", text, labels, registry=REGISTRY)


def _gauge(name: str, text: str, *labels: str) -> Gauge:
    return Gauge(f"rollcall_{name}", text, labels, registry=REGISTRY)


def _seconds(name: str, text: str, *labels: str) -> Histogram:
    return Histogram(f"rollcall_{name}_seconds", text, labels, registry=REGISTRY)


TASKS = _gauge("tasks", "Tasks that this worker runs.", "stage")
TASK_STARTS = _counter("task_starts_total", "Tasks started, by why the one before ended.", "stage", "after")
RESTORE_RECORDS = _counter("restore_records_total", "Changelog records read to restore state.", "stage")
RESTORE_SECONDS = _seconds("restore_duration", "Time to restore a task's state.", "stage")
RESTORE_LEFT = _gauge("restore_left_seconds", "Until a task's state is restored, as it goes now.", "stage", "partition")
STORE_WIPES = _counter("store_wipes_total", "Local stores that could not be used and were read anew.", "stage")
TRANSACTIONS = _counter("transactions_total", "Transactions by outcome.", "stage", "outcome")
TRANSACTION_SECONDS = _seconds("transaction_duration", "Time of a committed transaction.", "stage")
RECORDS_OUT = _counter("records_written_total", "Records written to topics in committed transactions.", "stage")
RECORDS_IN = _counter("records_handled_total", "Records handled, by outcome.", "stage", "outcome")
EVENTS = _counter("events_total", "Customer events published.", "source", "type")
ROWS = _counter("rows_read_total", "Customer records read from a source.", "source", "outcome")
REQUESTS = _counter("http_requests_total", "HTTP requests sent.", "lane", "outcome")
REQUEST_SECONDS = _seconds("http_request_duration", "Time of an HTTP request.", "lane")
CHECKPOINT = _gauge(
    "checkpoint_timestamp_seconds", "When all feeds of changes of a source were read, or it was taken up.", "source"
)
POLLED = _gauge(
    "last_poll_timestamp_seconds", "When a source was last read to its end, or taken up by this worker.", "source"
)
LIVE = _gauge("customers_live", "Live customers of a source.", "source")
HELD = _gauge("absences_held", "Absences that the guard holds back.", "source")
ALARMS = _gauge("source_alarms", "Alarms of a source: what is withheld, for a person to look at.", "source")
STATE = _gauge("source_state", "1 for the state that a source is in.", "source", "state")
DEAD_LETTERS = _counter("dead_letters_total", "Records set aside; by `poll`, those of sources, too.", "stage")
LAG = _gauge("input_lag_records", "Records of an input not yet handled.", "stage", "topic", "partition")
DELETIONS = _counter("deletions_total", "Deletions that ended, by the state they ended in.", "target", "state")
DELETIONS_OPEN = _gauge("deletions_open", "Deletions under way, by what they wait for.", "target", "waits_for")
DELETIONS_OVERDUE = _gauge("deletions_overdue_seconds", "For how long the next deletion has been due.", "target")
TARGET_STATE = _gauge("target_state", "1 for the state that a target is in.", "target", "state")


def show(stage: str) -> None:
    """Have a stage's counters start at zero: to Prometheus the step from no counter to one of 1 is no increase."""
    DEAD_LETTERS.labels(stage)
    for after in ("failed", "fenced"):
        TASK_STARTS.labels(stage, after)
    for outcome in ("committed", "failed", "fenced"):
        TRANSACTIONS.labels(stage, outcome)


def table() -> str:
    """Return every metric as a table in Markdown, as it stands in `docs/metrics.md`."""
    rows = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for metric in (value for value in globals().values() if isinstance(value, Counter | Gauge | Histogram)):
        (family,) = metric.describe()
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = ", ".join(f"`{label}`" for label in metric._labelnames)  # ruff: ignore[private-member-access] - there is no public way to them
        rows.append(f"| `{name}` | {family.type} | {labels} | {family.documentation} |")
    return "\n".join(rows) + "\n"


def configure_logging(*, level: str = "info", text: bool | None = None) -> None:
    """Set up structlog: JSON lines, or text where `text` says so (by default, where standard error is a terminal)."""
    as_text = sys.stderr.isatty() if text is None else text
    renderer = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if as_text
        else structlog.processors.JSONRenderer(serializer=lambda event, **_: orjson.dumps(event, default=str).decode())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        # In one write with its line end, also unbuffered: the lines of several processes must not mix in one file.
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    # aiokafka logs what it then also raises; of what ends its own tasks our consumers hear (worker.kafka).
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
