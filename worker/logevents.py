"""Every line that a worker may log: its name, level, fields, what it means and what to do about it.

The code logs by these names and fields and no others; a test compares. What is in a field is a name, a count or an
error's words, never anything out of a customer's record.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Level = Literal["info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class LogEvent:
    """A line of the log. `fields` are those beside `event`, `level`, `timestamp` and what says where it was."""

    level: Level
    meaning: str
    fields: tuple[str, ...] = ()
    todo: str = ""


EVENTS: Final[Mapping[str, LogEvent]] = {
    # A worker's life
    "starting": LogEvent("info", "The checks passed; work begins.", ("stages", "prefix", "state")),
    "listening": LogEvent("info", "Probes and metrics are served.", ("host", "port")),
    "stopping": LogEvent("info", "SIGTERM came, or a stage failed; open work is finished.", ("grace_seconds",)),
    "stopped": LogEvent("info", "The worker has ended as it should."),
    "stop_overdue": LogEvent(
        "error", "Something did not end, and the process was ended over it.", ("after_seconds",), "Report it."
    ),
    "unexpected_error": LogEvent("error", "A mistake of the program's own.", ("what", "error"), "Report it."),
    "left_open": LogEvent("info", "What a client that did not stop in time had left open is closed now.", ("what",)),
    "configuration_differs": LogEvent(
        "warning",
        "The last worker of these stages started with other sources or handlers.",
        ("paths", "since"),
        "Nothing during a rolling update; else see which workers have the old file.",
    ),
    "configuration_not_compared": LogEvent(
        "warning", "Whether the configuration differs from the last worker's could not be found out.", ("error",)
    ),
    # Partitions and tasks
    "partitions_assigned": LogEvent("info", "The group has handed partitions out anew.", ("partitions", "gone")),
    "group_not_joined": LogEvent("warning", "The group could not be joined; tried again.", ("reason",)),
    "group_membership_lost": LogEvent("warning", "The membership failed; the group is joined anew.", ("error",)),
    "group_silent": LogEvent(
        "warning",
        "The group has not answered for longer than `session_timeout`: others may have taken the partitions.",
        ("seconds",),
        "Is Kafka there? The worker goes on by itself once it is.",
    ),
    "group_heard_again": LogEvent("info", "The group answers again.", ()),
    "task_start_put_off": LogEvent("info", "A partition is not ours for certain yet; said once.", ("reason",)),
    "store_read_anew": LogEvent("info", "The local store is not used; the state comes from Kafka.", ("reason",)),
    "task_restoring": LogEvent(
        "info", "How far the state has been read.", ("records", "percent", "per_second", "seconds_left")
    ),
    "task_restored": LogEvent("info", "The state is complete.", ("start", "offset", "records", "seconds", "keys")),
    "store_failed": LogEvent("warning", "The local disk failed.", ("reason", "hint"), "Look at the disk."),
    "task_failed": LogEvent("warning", "A task has ended over an error; it starts again.", ("error", "reason", "hint")),
    "task_fenced": LogEvent("warning", "Another worker owns the partition now.", ("reason",)),
    "task_cut_short": LogEvent("warning", "A task did not end within the grace.", ("partition", "after_seconds")),
    "task_abandoned": LogEvent("error", "A task did not end at all.", ("partition", "after_seconds"), "Report it."),
    "transaction_outlasts_hold": LogEvent("warning", "A rebalance did not wait for a transaction.", ("seconds",)),
    # Kafka
    "kafka_client_abandoned": LogEvent("warning", "A client did not stop in time.", ("client", "after_seconds")),
    "kafka_client_close_failed": LogEvent("warning", "A client failed while stopping.", ("client", "error")),
    "kafka_credential_kept": LogEvent(
        "warning", "A credential cannot be read; the last one is used.", ("reason",), "Mend the secret."
    ),
    # Sources
    "source_state": LogEvent("info", "A source is in another state.", ("source", "state")),
    "source_trouble": LogEvent(
        "warning", "Something keeps a source from being polled.", ("source", "state", "reason", "hint"), "See `hint`."
    ),
    "source_note": LogEvent("info", "A feed is read in another way than usual.", ("source", "feed", "note")),
    "source_alarm": LogEvent(
        "error", "Something is withheld, for a person to look at.", ("source", "alarm"), "`rollcall status` says more."
    ),
    "source_alarm_over": LogEvent("info", "An alarm is over.", ("source", "about")),
    "source_republished": LogEvent("warning", "Everything of a source is published anew.", ("reason",)),
    "source_republished_whole": LogEvent("info", "All customers of a source have been published anew."),
    "source_scope_changed": LogEvent("warning", "Filter or credential changed: it is read anew.", ("reason",)),
    "cursor_expired": LogEvent("warning", "The upstream forgot a cursor; the feed starts over.", ("feed", "reason")),
    "absence_not_concluded": LogEvent("info", "An enumeration proves no absence.", ("feed", "reason")),
    # Orders of operators
    "order": LogEvent("info", "An order was carried out or refused.", ("order", "what", "source", "outcome")),
    "order_set_aside": LogEvent("warning", "A record of the control topic is no order.", ("offset", "reason")),
    "orders_lost": LogEvent(
        "error",
        "Orders, or records given once more, were deleted before they were read.",
        ("topic", "partition", "position"),
        "Give them again.",
    ),
    # Handlers
    "record_set_aside": LogEvent(
        "error", "A record is a dead letter now.", ("topic", "offset", "error"), "`rollcall deadletters list`."
    ),
    "handler_failed": LogEvent(
        "warning",
        "A handler of your own failed on an event; unless that was its last attempt, it is called again.",
        ("topic", "partition", "offset", "error", "attempt"),
        "Look for the cause by the error's class.",
    ),
    "input_emptied": LogEvent(
        "warning",
        "Retention emptied an input whose last offset was not seen: as a rule the end of a transaction.",
        ("topic", "position"),
        "If an operator's command of that time was not answered, give it again.",
    ),
    "plan_held": LogEvent(
        "warning",
        "So many deletions wait for a person.",
        ("plan", "target", "source", "count", "reason"),
        "`rollcall status` has the command that lets them pass; `rollcall deletions list --state HELD`.",
    ),
    "target_paused": LogEvent(
        "warning", "Nothing is deleted at a target any more.", ("target", "reason"), "Mend the reason."
    ),
    "circuit_open": LogEvent("warning", "A target fails; it is left alone for a while.", ("target", "seconds")),
    "target_working": LogEvent("info", "A target that was paused or failed is asked again.", ("target",)),
    "call_unanswered": LogEvent("warning", "A call to a target got no whole answer.", ("lane", "reason")),
    "call_failed": LogEvent("warning", "A call to a target was not made, or was refused.", ("lane", "reason")),
    "traces_not_exported": LogEvent("warning", "Spans do not reach the collector.", ("error",), "See the collector."),
    # Tools
    "embedded_kafka.fetch": LogEvent(
        "info", "The embedded broker's jars are being fetched.", ("version", "jars", "folder")
    ),
}


def table() -> str:
    """Return the lines as a table in Markdown, as it stands in `docs/logs.md`."""
    rows = ["| event | level | meaning | fields | what to do |", "|---|---|---|---|---|"]
    for name, event in EVENTS.items():
        fields = ", ".join(f"`{field}`" for field in event.fields)
        rows.append(f"| `{name}` | {event.level} | {event.meaning} | {fields} | {event.todo} |")
    return "\n".join(rows) + "\n"
