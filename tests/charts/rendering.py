"""Rendering the chart and looking at what comes out; shared by all tests of the chart."""

import copy
import os
import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "rollcall"
GUIDE = ROOT / "docs" / "kubernetes.md"
SETS = sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*-values.yaml"))
KUBERNETES = ("1.33.13", "1.36.3")
STAGES = ("poll", "keys", "pairs", "clusters", "requests", "executor")
RELEASE, NAMESPACE = "live", "prod"
# Of `config.kafka`: tokens from an endpoint of its own.
OAUTH: dict[str, Any] = {
    "security_protocol": "SASL_SSL",
    "sasl_mechanism": "OAUTHBEARER",
    "oauth": {
        "token_url": "https://tokens.example.com:8443/token",
        "client_id": "rollcall",
        "client_secret": {"file": "/secrets/rollcall/oauth"},
    },
}
# The slower half runs with `make chart-check` only.
THOROUGH = bool(os.environ.get("ROLLCALL_CHART_CHECK"))
thorough = pytest.mark.skipif(not THOROUGH, reason="part of `make chart-check`")

sys.path.insert(0, str(ROOT / "charts"))
import tools  # ruff: ignore[module-import-not-at-top-of-file] - the chart's own script, not a package

Manifest = dict[str, Any]


class Once(yaml.CSafeLoader):
    """YAML that refuses a key that is there twice, as API servers do in strict mode, and PyYAML does not."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # ruff: ignore[boolean-type-hint-positional-argument, boolean-default-value-positional-argument] PyYAML's
        """Return the mapping."""
        found: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        assert len(found) == len(node.value), f"a key is there twice among {sorted(found)}"
        return found


def tool(name: str) -> Path:
    """Return a tool of charts/tools.txt, or skip the test where it was not made."""
    path = Path(tools.tools()[name].path)
    if not path.exists():
        pytest.skip(f"{name} is not there: `make chart-tools` makes it, and needs Go")
    return path


def default_values() -> dict[str, Any]:
    """Return values.yaml."""
    values: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    return values


def value_set(name: str) -> dict[str, Any]:
    """Return one of the kept value sets."""
    values: dict[str, Any] = yaml.safe_load((CHART / "ci" / f"{name}-values.yaml").read_text(encoding="utf-8"))
    return values


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with `over` put over it, as Helm does with values."""
    result = copy.deepcopy(base)
    for key, value in over.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


@dataclass(frozen=True)
class Rendered:
    """What Helm made of the chart."""

    manifests: list[Manifest]

    def all(self, kind: str) -> list[Manifest]:
        """Return the manifests of a kind."""
        return [manifest for manifest in self.manifests if manifest["kind"] == kind]

    def one(self, kind: str, name: str) -> Manifest:
        """Return the manifest of a kind whose name ends so; fails unless there is exactly one."""
        found = [manifest for manifest in self.all(kind) if manifest["metadata"]["name"].endswith(name)]
        assert len(found) == 1, f"{kind} {name}: {[manifest['metadata']['name'] for manifest in self.all(kind)]}"
        return found[0]

    def workloads(self) -> dict[str, Manifest]:
        """Return the Deployments and StatefulSets, by stage."""
        found = self.all("Deployment") + self.all("StatefulSet")
        return {manifest["metadata"]["labels"]["app.kubernetes.io/component"]: manifest for manifest in found}

    def worker(self, stage: str) -> Manifest:
        """Return a stage's worker container."""
        containers = self.workloads()[stage]["spec"]["template"]["spec"]["containers"]
        return next(container for container in containers if container["name"] == "rollcall")

    def pods(self) -> Iterator[tuple[str, Manifest]]:
        """Yield every pod, or template of one, by the name of what makes it."""
        for manifest in self.manifests:
            if manifest["kind"] in {"Deployment", "StatefulSet", "Job"}:
                yield manifest["metadata"]["name"], manifest["spec"]["template"]
            elif manifest["kind"] == "Pod":
                yield manifest["metadata"]["name"], manifest

    def config(self, name: str = "rollcall") -> str:
        """Return the rollcall.yaml of a ConfigMap."""
        text: str = self.one("ConfigMap", name)["data"]["rollcall.yaml"]
        return text


def helm(*arguments: str | Path, program: str = "helm") -> subprocess.CompletedProcess[str]:
    """Run Helm."""
    return subprocess.run([tool(program), *arguments], capture_output=True, text=True, check=False)


def template(
    values: dict[str, Any], *, chart: Path = CHART, kubernetes: str = KUBERNETES[-1], program: str = "helm"
) -> subprocess.CompletedProcess[str]:
    """Run `helm template`, whatever comes of it."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        yaml.safe_dump(values, file)
        file.flush()
        where = ("--namespace", NAMESPACE, "--kube-version", kubernetes, "--values", file.name)
        return helm("template", RELEASE, chart, *where, program=program)


def render(values: dict[str, Any], *, chart: Path = CHART, program: str = "helm") -> Rendered:
    """Render the chart; fails with Helm's message where it does not."""
    done = template(values, chart=chart, program=program)
    assert done.returncode == 0, done.stderr
    return Rendered([manifest for manifest in yaml.load_all(done.stdout, Loader=Once) if manifest])


def refused(values: dict[str, Any], *, program: str = "helm") -> str:
    """Return why Helm refuses the values; fails where it does not."""
    done = template(values, program=program)
    assert done.returncode != 0, "these values should have been refused"
    return done.stderr


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Return whether a selector of `matchLabels` selects these labels; an empty one selects all."""
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def guided(mark: str) -> list[str]:
    """Return the blocks of the guide with a mark, as they are to be written."""
    blocks = re.findall(rf"^( *)```{mark}\n(.*?)^\1```$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(text) for _, text in blocks]
