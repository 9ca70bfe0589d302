"""The topics job: before everything else, with a credential of its own, and as often as one likes."""

import os
import stat
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.charts.rendering import OAUTH, Rendered, merged, render, thorough, value_set
from worker import config as configuration

RECORDER = """#!/bin/sh
echo "$*" >>"$CALLS"
count=$(wc -l <"$CALLS")
exit "$(echo "$CODES" | cut -d' ' -f"$count")"
"""


def test_the_job_runs_before_anything_else_and_cleans_up(rendered: Rendered) -> None:
    """It is a hook of installs and upgrades, after what it needs, and is made anew each time."""
    job = rendered.one("Job", "-topics")
    annotations = job["metadata"]["annotations"]
    assert annotations["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert annotations["helm.sh/hook-delete-policy"] == "before-hook-creation,hook-succeeded"
    for kind in ("ConfigMap", "ServiceAccount", "NetworkPolicy"):
        needed = rendered.one(kind, "-topics")["metadata"]["annotations"]
        assert int(needed["helm.sh/hook-weight"]) < int(annotations["helm.sh/hook-weight"])
        assert needed["helm.sh/hook"] == annotations["helm.sh/hook"]
    assert job["spec"]["template"]["spec"]["serviceAccountName"] == job["metadata"]["name"]


def test_it_has_a_credential_of_its_own(production: Rendered) -> None:
    """It sees its own Secret and no other, and its configuration has neither sources nor targets."""
    spec = production.one("Job", "-topics")["spec"]["template"]["spec"]
    assert [v["secret"]["secretName"] for v in spec["volumes"] if "secret" in v] == ["rollcall-topics"]
    config = yaml.safe_load(production.config("-topics"))
    workers = yaml.safe_load(production.config("rollcall"))
    assert set(config) == {"prefix", "kafka"}
    assert config["kafka"]["username"] == "rollcall-topics"
    assert config["kafka"]["password"] == {"file": "/secrets/rollcall-topics/password"}
    for name in ("bootstrap", "partitions", "replication", "security_protocol"):
        assert config["kafka"][name] == workers["kafka"][name]


@pytest.mark.parametrize("program", ["helm", pytest.param("helm4", marks=thorough)])
def test_it_may_log_on_in_another_way(program: str) -> None:
    """A null takes away what the workers alone log on with, so that the job need not see their Secret."""
    own = {"oauth": None, "sasl_mechanism": "PLAIN", "username": "t", "password": {"file": "/secrets/admin/password"}}
    values = {"config": {"kafka": OAUTH}, "topics": {"kafka": own, "secrets": ["admin"]}}
    kafka = yaml.safe_load(render(merged(value_set("minimal"), values), program=program).config("-topics"))["kafka"]
    assert "oauth" not in kafka
    assert (kafka["username"], kafka["security_protocol"]) == ("t", "SASL_SSL")


def test_it_is_given_no_settings_of_plug_ins() -> None:
    """It needs their names; a Secret that only their settings name need not be mounted in it."""
    plugins = {"mail": {"settings": {"password": {"file": "/secrets/mail/password"}}}}
    values = {"config": {"handlers": {"plugins": plugins}}, "plugins": {"mail": {"secrets": ["mail"]}}}
    rendered = render(merged(value_set("minimal"), values))
    assert yaml.safe_load(rendered.config("-topics"))["handlers"] == {"plugins": {"mail": {}}}
    assert yaml.safe_load(rendered.config("live-rollcall"))["handlers"]["plugins"] == plugins


def test_it_has_volumes_and_rules_of_its_own(everything: Rendered) -> None:
    """What a worker may be given for its brokers' certificates and proxies, the job may be given too."""
    asked = value_set("everything")["topics"]
    spec = everything.one("Job", "-topics")["spec"]["template"]["spec"]
    assert asked["volumes"][0] in spec["volumes"]
    assert asked["volumeMounts"][0] in spec["containers"][0]["volumeMounts"]
    assert asked["egress"][0] in everything.one("NetworkPolicy", "-topics")["spec"]["egress"]


@pytest.mark.parametrize("base", ["minimal", "everything"])
def test_it_makes_the_topics_that_the_workers_use(base: str, tmp_path: Path) -> None:
    """Its configuration and the workers' lead to the same topics, also once the duplicate search was rebuilt."""
    rendered = render(merged(value_set(base), {"config": {"handlers": {"dedupe_generation": 2}}}))
    declared = []
    for manifest in rendered.all("ConfigMap"):
        if "rollcall.yaml" in manifest.get("data", {}):
            path = tmp_path / "rollcall.yaml"
            path.write_text(manifest["data"]["rollcall.yaml"], encoding="utf-8")
            declared.append(configuration.load(path).topics)
    jobs, workers = declared
    assert jobs == workers
    assert jobs.generation == 2


def test_it_can_be_left_out() -> None:
    """Whoever makes topics in another way gets nothing of it."""
    rendered = render(merged(value_set("minimal"), {"topics": {"enabled": False}}))
    assert rendered.all("Job") == []
    assert not [one for one in rendered.manifests if one["metadata"]["name"].endswith("-topics")]


@pytest.mark.parametrize(
    ("codes", "ends", "calls"),
    [
        ("0 0 0", 0, ["topics plan", "topics apply", "topics plan"]),
        ("1 0 0", 0, ["topics plan", "topics apply", "topics plan"]),
        ("3", 3, ["topics plan"]),
        ("1 1", 1, ["topics plan", "topics apply"]),
        ("1 0 1", 1, ["topics plan", "topics apply", "topics plan"]),
    ],
)
def test_it_plans_makes_and_checks(minimal: Rendered, tmp_path: Path, codes: str, ends: int, calls: list[str]) -> None:
    """A plan that differs is what `apply` is for; anything else that fails ends it, the check at the end included.

    The command's exit codes are played here; against a real broker it runs in test_live.py.
    """
    (container,) = minimal.one("Job", "-topics")["spec"]["template"]["spec"]["containers"]
    command = tmp_path / "rollcall"
    command.write_text(RECORDER, encoding="utf-8")
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    said = tmp_path / "calls"
    environment = {one["name"]: one["value"] for one in container["env"]}
    environment |= {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CALLS": str(said), "CODES": codes}
    done = subprocess.run([*container["command"], *container["args"]], env=environment, check=False)
    assert done.returncode == ends
    prefix = "--config /etc/rollcall/rollcall.yaml "
    assert said.read_text(encoding="utf-8").splitlines() == [prefix + call for call in calls]
