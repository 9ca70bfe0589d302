"""Alerts and dashboard: files of their own, over metrics that there really are."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import Metric

from tests.charts.rendering import CHART, Rendered, default_values, merged, render, thorough, tool, value_set
from worker import logevents, telemetry
from worker.cli import main
from worker.settings import KafkaSettings, SourceSettings

ALERTS = CHART / "files" / "alerts.yaml"
RUNBOOKS = CHART.parents[1] / "docs" / "runbooks.md"
SETTINGS = {*KafkaSettings.model_fields, *SourceSettings.model_fields}
DASHBOARD = CHART / "files" / "dashboard.json"
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


def metrics() -> dict[str, Metric]:
    """Return every series' name that a worker can have, with its metric."""
    found = list(telemetry.REGISTRY.collect())
    return {metric.name + suffix: metric for metric in found for suffix in SUFFIXES[metric.type]}


def labels() -> dict[str, set[str]]:
    """Return the labels of every metric, by its name."""
    collectors = telemetry.REGISTRY._collector_to_names
    return {name: set(collector._labelnames) for collector, names in collectors.items() for name in names}


def rules() -> list[dict[str, Any]]:
    """Return the alerts."""
    (group,) = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def expressions() -> list[str]:
    """Return every expression of the alerts and of the dashboard."""
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return [rule["expr"] for rule in rules()] + [
        target["expr"] for panel in panels for target in panel.get("targets", [])
    ]


def test_every_expression_is_over_metrics_that_exist() -> None:
    """No alert and no panel waits for a series that no worker has."""
    known = metrics()
    for expression in expressions():
        names = set(re.findall(r"rollcall_[a-z_]+", expression))
        assert names
        assert names <= set(known), expression


def test_every_label_is_one_that_the_metric_has() -> None:
    """Selectors and groupings use the metrics' own labels, and the namespace that a scrape adds."""
    known = labels()
    for expression in expressions():
        for name, selector in re.findall(r"(rollcall_[a-z_]+)\{([^}]*)\}", expression):
            assert set(re.findall(r"(\w+)=", selector)) <= known[name] | {"namespace"}, expression
        possible = set().union(*(known[name] for name in re.findall(r"rollcall_[a-z_]+", expression)))
        for grouping in re.findall(r"by \(([^)]*)\)", expression):
            assert {one.strip() for one in grouping.split(",")} <= possible | {"namespace", "le"}, expression


def test_the_dashboard_shows_every_metric_a_person_would_look_for() -> None:
    """Each metric of the worker is on the dashboard, but for those that only count what another one shows."""
    shown = {name for expression in expressions() for name in re.findall(r"rollcall_[a-z_]+", expression)}
    missing = {metric.name for metric in metrics().values()} - {metrics()[name].name for name in shown}
    assert missing <= {
        "rollcall_restore_duration_seconds",
        "rollcall_records_written",
    }


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    """A summary, a description, a runbook and a severity each."""
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names))
    for rule in rules():
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
        assert rule["labels"]["severity"] in {"critical", "warning"}


def test_every_alert_has_a_runbook_and_none_is_left_over() -> None:
    """Each links to a section of its name, which says what it means, where to look, and what to do."""
    sections = re.split(r"^## ", RUNBOOKS.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    books = {title: body for title, _, body in (section.partition("\n") for section in sections)}
    assert {rule["annotations"]["runbook_url"] for rule in rules()} == {
        f"docs/{RUNBOOKS.name}#{title.lower()}" for title in books
    }
    assert set(books) == {rule["alert"] for rule in rules()}
    for title, body in books.items():
        for part in ("**Means.**", "**Look.**", "**Do.**"):
            assert part in body, (title, part)


def test_runbooks_name_what_there_is() -> None:
    """Commands, metrics and log lines in them are ones that Rollcall has."""
    words = re.findall(r"`([^`\n]+)`", RUNBOOKS.read_text(encoding="utf-8"))
    named = [word.split() for word in words if word.startswith("rollcall ")]
    assert named
    for _, command, *_ in named:
        assert command in main.commands, command
    for word in words:
        if word.startswith("rollcall_"):
            assert word in {metric.name for metric in metrics().values()} | set(metrics()), word
        elif re.fullmatch(r"[a-z]+(_[a-z]+)+", word):
            assert word in {*logevents.EVENTS, *SETTINGS}, word


def test_the_files_reach_the_cluster_as_they_are(production: Rendered) -> None:
    """The PrometheusRule and the dashboard's ConfigMap hold the files, untouched by Helm's templates."""
    (rule,) = production.all("PrometheusRule")
    assert rule["spec"] == yaml.safe_load(ALERTS.read_text(encoding="utf-8"))
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    config = production.one("ConfigMap", "-dashboard")
    assert json.loads(config["data"]["rollcall.json"]) == json.loads(DASHBOARD.read_text(encoding="utf-8"))
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_how_long_a_source_may_stand_still_is_a_value() -> None:
    """The limits that the runbooks tell to raise are values; whatever they are, no other alert changes."""

    def limits(**values: int) -> dict[str, str]:
        over = {"metrics": {"rules": {"enabled": True, **values}}}
        (rule,) = render(merged(value_set("minimal"), over)).all("PrometheusRule")
        (group,) = rule["spec"]["groups"]
        return {one["alert"]: one["expr"] for one in group["rules"]}

    usual = limits()
    assert usual["RollcallSourceStale"].endswith("> 900")
    assert usual["RollcallCheckpointStale"].endswith("> 7200")
    for stale, checkpoint in ((7200, 900), (90, 9000)):
        found = limits(staleSeconds=stale, checkpointSeconds=checkpoint)
        assert found == usual | {
            "RollcallSourceStale": usual["RollcallSourceStale"].replace("> 900", f"> {stale}"),
            "RollcallCheckpointStale": usual["RollcallCheckpointStale"].replace("> 7200", f"> {checkpoint}"),
        }


def test_values_that_runbooks_name_are_there() -> None:
    """A reader who is told to raise a value finds it."""
    named = re.findall(r"`metrics\.rules\.(\w+)`", RUNBOOKS.read_text(encoding="utf-8"))
    assert {"staleSeconds", "checkpointSeconds"} <= set(named) <= set(default_values()["metrics"]["rules"])


def test_monitoring_is_off_where_its_operator_may_be_missing(minimal: Rendered) -> None:
    """Without being asked the chart makes no custom resource, so that it installs on a bare cluster."""
    assert {manifest["apiVersion"] for manifest in minimal.manifests} <= {
        *("v1", "apps/v1", "batch/v1", "policy/v1", "networking.k8s.io/v1"),
    }


@thorough
def test_every_alert_fires_when_it_should_and_only_then() -> None:
    """Each alert is tried by promtool over series that set it off, and over some that do not."""
    tests = Path(__file__).with_name("alerts_test.yaml")
    done = subprocess.run([tool("promtool"), "test", "rules", tests], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    tested = {
        check["alertname"]
        for one in yaml.safe_load(tests.read_text(encoding="utf-8"))["tests"]
        for check in one["alert_rule_test"]
        if check.get("exp_alerts")
    }
    assert tested == {rule["alert"] for rule in rules()}
