"""The topics job: before everything else, with a credential of its own, and as often as one likes."""

import os
import stat
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.charts.rendering import Rendered, merged, render, value_set

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
