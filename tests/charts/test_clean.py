"""The chart is clean under linters and under schemas of two Kubernetes versions, for every kept value set."""

import json
import re
import shutil
import subprocess
import textwrap
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.charts.rendering import (
    CHART,
    GUIDE,
    KUBERNETES,
    ROOT,
    SETS,
    STAGES,
    Rendered,
    guided,
    helm,
    merged,
    render,
    template,
    thorough,
    tool,
    value_set,
)
from worker.acls import ROLES, grants
from worker.topics import Topics

# What kube-score may call critical: an image named by a digest or by a version that is never pushed again need not be
# pulled each time, and a soft topology spread does what it wants anti-affinity for.
EXCEPTED = (
    "container-image-pull-policy",
    "deployment-has-host-podantiaffinity",
    "statefulset-has-host-podantiaffinity",
)
# What checkov may find, by its name (and by the resource's), and why.
CHECKOV_EXCEPTED = {
    "CKV_K8S_15": "pull policy: as above",
    "CKV_K8S_43": "an image without a digest: the value sets show both, and a digest is the operator's to give",
    "CKV_K8S_8 Pod.prod.live-rollcall-test": "a pod that runs to its end has no use for a probe",
    "CKV_K8S_9 Pod.prod.live-rollcall-test": "the same",
    "CKV_K8S_8 Pod.prod.customer-events-test": "the same",
    "CKV_K8S_9 Pod.prod.customer-events-test": "the same",
}


def manifests(name: str, kubernetes: str = KUBERNETES[-1], program: str = "helm") -> str:
    """Return a value set, rendered, as text."""
    done = template(value_set(name), kubernetes=kubernetes, program=program)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("program", ["helm", pytest.param("helm4", marks=thorough)])
def test_helm_lint_finds_nothing(name: str, program: str) -> None:
    """No warning and no error, with both of Helm's versions."""
    where = ("--kube-version", KUBERNETES[-1], "--values", CHART / "ci" / f"{name}-values.yaml")
    done = helm("lint", "--strict", "--quiet", CHART, *where, program=program)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stdout + done.stderr


@pytest.mark.parametrize("name", SETS)
@thorough
def test_both_versions_of_helm_make_the_same(name: str) -> None:
    """Helm 3 and Helm 4 differ in blank lines at most."""
    assert list(yaml.safe_load_all(manifests(name))) == list(yaml.safe_load_all(manifests(name, program="helm4")))


def kubeconform(text: str, *schemas: str) -> dict[str, Any]:
    """Return what kubeconform says of manifests, under these folders of schemas."""
    where = [f"-schema-location={tool(one)}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json" for one in schemas]
    command = [tool("kubeconform"), "-strict", "-output", "json", "-summary", *where]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("kubernetes", KUBERNETES)
@pytest.mark.parametrize("name", SETS)
def test_every_object_is_what_its_kind_permits(name: str, kubernetes: str) -> None:
    """Strictly: no property that the kind does not have, custom resources of KEDA and Prometheus included."""
    minor = kubernetes.rpartition(".")[0]
    found = kubeconform(manifests(name, kubernetes), f"kubernetes-{minor}", "keda", "prometheus")
    assert found["resources"] == []
    summary = found["summary"]
    assert (summary["invalid"], summary["errors"], summary["skipped"]) == (0, 0, 0)
    assert summary["valid"] == len(render(value_set(name)).manifests)


def test_the_schemas_do_refuse_what_is_wrong() -> None:
    """The check above is one that can fail: a misspelt property of a pod, and of a custom resource, are found."""
    text = manifests("keda").replace("terminationGracePeriodSeconds", "terminationGracePeriod")
    text = text.replace("pollingInterval", "pollInterval")
    found = kubeconform(text, "kubernetes-1.36", "keda")["resources"]
    kinds = {one["kind"] for one in found if one["status"] == "statusInvalid"}
    assert {"Deployment", "ScaledObject"} <= kinds


@pytest.mark.parametrize("name", SETS)
def test_kube_score_finds_nothing_critical(name: str) -> None:
    """Nothing but what is excepted above, with a reason."""
    ignored = [part for one in EXCEPTED for part in ("--ignore-test", one)]
    done = subprocess.run(
        [tool("kube-score"), "score", "--kubernetes-version", "v1.33", "--output-format", "ci", *ignored, "-"],
        input=manifests(name),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "[OK]" in done.stdout
    assert [line for line in done.stdout.splitlines() if line.startswith("[CRITICAL]")] == []


@thorough
@pytest.mark.parametrize("name", SETS)
def test_checkov_finds_nothing(name: str, tmp_path: Path) -> None:
    """Nothing but what is excepted above, with a reason; checkov has an environment of its own."""
    (tmp_path / "manifests.yaml").write_text(manifests(name), encoding="utf-8")
    done = subprocess.run(
        [
            tool("checkov") / "bin" / "python",
            "-m",
            "checkov.main",
            "--framework",
            "kubernetes",
            "--directory",
            tmp_path,
            "--output",
            "json",
            "--compact",
            "--quiet",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    failed = json.loads(done.stdout)["results"]["failed_checks"]
    found = {f"{one['check_id']} {one['resource']}" for one in failed}
    assert {one for one in found if not CHECKOV_EXCEPTED.keys() & {one, one.split()[0]}} == set()


def test_the_readme_is_what_helm_docs_makes(tmp_path: Path) -> None:
    """README.md is up to date with values.yaml; `make chart-docs` writes it."""
    chart = shutil.copytree(CHART, tmp_path / "rollcall")
    command = [tool("helm-docs"), "--chart-search-root", tmp_path, "--log-level", "warning"]
    subprocess.run(command, check=True)
    assert (chart / "README.md").read_text(encoding="utf-8") == (CHART / "README.md").read_text(encoding="utf-8")


def test_every_value_is_documented() -> None:
    """Each row of the README's table says what the value is for."""
    rows = re.findall(r"^\| `([^`]+)` \|.*\| (.*) \|$", (CHART / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) > 80
    assert [name for name, text in rows if not text.strip()] == []


@pytest.mark.parametrize("block", guided("yaml values"), ids=lambda text: text.split(":")[0])
def test_the_values_of_the_guide_are_accepted(block: str) -> None:
    """Each example of docs/kubernetes.md renders over the least that works."""
    values = yaml.safe_load(block)
    listed = {"worker": {"secrets": ["rollcall", "rollcall-kafka", "rollcall-targets"]}}
    assert render(merged(merged(value_set("minimal"), listed), values)).workloads()


def test_what_the_guide_names_is_there(minimal: Rendered) -> None:
    """Commands, hooks and labels that a person is told to use exist in what is rendered under the guide's name."""
    text = GUIDE.read_text(encoding="utf-8")
    names = {manifest["metadata"]["name"].removeprefix("live-") for manifest in minimal.manifests}
    for page in (text, (ROOT / "docs" / "runbooks.md").read_text(encoding="utf-8")):
        assert set(re.findall(r"(?:deploy|deployment|job)/([a-z-]+)", page)) <= names
        assert "deployment/rollcall-poll -- rollcall -c /etc/rollcall/rollcall.yaml status" in page
    assert "rollcall/worker" in next(iter(minimal.workloads().values()))["spec"]["template"]["metadata"]["labels"]
    stateful = {manifest["metadata"]["name"].removeprefix("live-") for manifest in minimal.workloads().values()}
    assert set(re.findall(r"delete statefulset ([a-z-]+)", text)) <= stateful
    assert "files/alerts.yaml" in text
    assert "files/dashboard.json" in text


def test_the_guide_grants_what_the_workers_need_and_no_more() -> None:
    """Its table is what `rollcall acls` gives to all stages together: approvals are read, and never written."""
    text, topics = GUIDE.read_text(encoding="utf-8"), Topics()
    given = [grant for stage in STAGES for grant in grants(stage, topics) if grant.resource == "topic"]
    for right in ("Read", "Write"):
        (row,) = re.findall(rf"^\| workers \| topics (.*) \| {right} \|$", text, re.MULTILINE)
        patterns = re.findall(r"`([^`]+)`", row)
        told = {spec.name for spec in topics.declared() if any(fnmatch(spec.name, one) for one in patterns)}
        assert told == {grant.name for grant in given if right in grant.operations}
    declared = {spec.name for spec in topics.declared()}
    assert {grant.name for grant in given if {"Describe", "DescribeConfigs"} <= grant.operations} == declared
    for role in re.findall(r"acls ([a-z]+)", text):
        assert role in ROLES


def test_the_capacity_page_counts_the_topics_there_are() -> None:
    """The arithmetic of partitions follows the application's own list of topics."""
    text = (ROOT / "docs" / "capacity.md").read_text(encoding="utf-8")
    count, states = len(Topics().declared()), len(STAGES)
    assert f"There are {count - states} topics and a state\ntopic for each of the {states} stages" in text
    assert set(re.findall(r"`(\d+) \S P \S replication`", text)) == {str(count)}
    for partitions, replicas in re.findall(r"^\| (\d+) \| ([\d,]+) \|$", text, re.MULTILINE):
        assert int(replicas.replace(",", "")) == count * int(partitions) * 3


def notes(values: dict[str, Any], base: str = "minimal") -> str:
    """Return what Helm tells after an install: it is not among the manifests, so it is put into one."""
    text = """
        apiVersion: v1
        kind: ConfigMap
        metadata:
          name: notes
        data:
          text: |
            {{ include (print .Template.BasePath "/NOTES.txt") . | nindent 4 }}
    """
    more = values | {"extraObjects": [textwrap.dedent(text)]}
    rendered = render(merged(value_set(base) if base else {}, more))
    found: str = rendered.one("ConfigMap", "notes")["data"]["text"]
    return found


def test_the_pod_of_helm_test_is_there_when_its_logs_are_read(minimal: Rendered) -> None:
    """`helm test --logs`, as notes and guide have it, reads the logs last, and Helm 3 fails where the pod is gone."""
    pod = minimal.one("Pod", "-test")["metadata"]
    assert pod["annotations"]["helm.sh/hook-delete-policy"] == "before-hook-creation"
    text = GUIDE.read_text(encoding="utf-8")
    assert "helm -n rollcall test rollcall --logs" in text
    assert f"kubectl -n rollcall delete pod {pod['name'].removeprefix('live-')}" in text.partition("## Uninstall")[2]


def test_the_notes_say_what_to_do_next() -> None:
    """After an install a person is told how to see that it works, and what is still missing."""
    text = notes({})
    assert "rollout status deployment/live-rollcall-poll" in text
    assert "test live --logs" in text
    assert "There are no sources yet" not in text
    assert "There are no sources yet" in notes({}, base="")
    assert "keys has 9 pods for 8 partitions" in notes({"workloads": {"keys": {"replicas": 9}}})
    assert "keys scales to 8 pods at most, not to 20" in notes({"autoscaling": {"type": "hpa", "maxReplicas": 20}})
    assert "`rollcall topics apply`" in notes({"topics": {"enabled": False}})
    off = {"workloads": {name: {"enabled": False} for name in ("requests", "executor")}}
    off |= {"worker": {"secrets": ["rollcall-upstreams", "rollcall-targets"]}}
    assert "nothing carries them out" in notes(off, base="production")
