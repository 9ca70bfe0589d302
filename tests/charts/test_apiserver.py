"""Real API servers of two Kubernetes versions: what they say of every object, and what an upgrade does to them.

Part of `make chart-check`. There is no kubelet and no controller: nothing runs, but everything is admitted or refused,
under the restricted profile of Pod Security, as in a cluster.
"""

import base64
import json
import os
import secrets
import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.charts.rendering import (
    CHART,
    KUBERNETES,
    NAMESPACE,
    ROOT,
    SETS,
    STAGES,
    Manifest,
    guided,
    helm,
    render,
    thorough,
    tool,
    value_set,
)

pytestmark = thorough
DEADLINE_SECONDS = 120.0
LEVELS = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@dataclass(frozen=True)
class Answer:
    """What the API server said: status, body and warnings."""

    status: int
    body: dict[str, Any]
    warnings: list[str]


@dataclass(frozen=True)
class Server:
    """A running API server."""

    port: int
    token: str
    certificate: Path
    version: str

    def ask(
        self, path: str, body: Manifest | bytes | None = None, *, method: str | None = None, kind: str = "json"
    ) -> Answer:
        """Send a request (`kind` is what the body is written in) and return the answer, whatever its status."""
        headers = {
            "Authorization": f"Bearer {self.token}",
            "Content-Type": f"application/{kind}",
            "Accept": "application/json",
        }
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        request = urllib.request.Request(f"https://127.0.0.1:{self.port}{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, context=self._context(), timeout=30) as answer:
                warnings = answer.headers.get_all("Warning") or []
                return Answer(answer.status, _json(answer.read()), warnings)
        except urllib.error.HTTPError as error:
            return Answer(error.code, _json(error.read()), [])

    def _context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.certificate))

    def path(self, manifest: Manifest) -> str:
        """Return where objects of the manifest's kind are made."""
        version = manifest["apiVersion"]
        prefix = f"/apis/{version}" if "/" in version else f"/api/{version}"
        resources = self.ask(prefix).body["resources"]
        names = [one for one in resources if one["kind"] == manifest["kind"] and "/" not in one["name"]]
        namespace = f"/namespaces/{NAMESPACE}" if names[0]["namespaced"] else ""
        return f"{prefix}{namespace}/{names[0]['name']}"

    def kubeconfig(self, folder: Path) -> Path:
        """Write a file that lets Helm in."""
        authority = base64.b64encode(self.certificate.read_bytes()).decode()
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "it",
            "clusters": [
                {
                    "name": "it",
                    "cluster": {
                        "server": f"https://127.0.0.1:{self.port}",
                        "certificate-authority-data": authority,
                    },
                }
            ],
            "users": [{"name": "it", "user": {"token": self.token}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it", "namespace": NAMESPACE}}],
        }
        path = folder / "kubeconfig"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        path.chmod(0o600)
        return path


def _json(raw: bytes) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(raw)
    except ValueError:
        return {"message": raw.decode(errors="replace")}
    return found


def _keys(folder: Path) -> Path:
    """Write the key that service account tokens would be signed with."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    path = folder / "accounts.key"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )
    return path


def _started(folder: Path, version: str) -> Iterator[Server]:
    """Run etcd and an API server for as long as the generator lives."""
    etcd_port, peer_port, port = free_port(), free_port(), free_port()
    token, key = secrets.token_hex(16), _keys(folder)
    (folder / "tokens.csv").write_text(f"{token},admin,admin,system:masters\n", encoding="utf-8")
    store = f"http://127.0.0.1:{etcd_port}"
    peer = f"http://127.0.0.1:{peer_port}"
    commands: list[list[str | Path]] = [
        [
            *(tool("etcd"), "--data-dir", folder / "etcd", "--listen-client-urls", store),
            *("--advertise-client-urls", store, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", f"default={peer}", "--unsafe-no-fsync"),
        ],
        [
            *(tool(f"kube-apiserver-{version}"), "--etcd-servers", store, "--secure-port", str(port)),
            *("--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1", "--cert-dir", folder / "certificates"),
            *("--token-auth-file", folder / "tokens.csv", "--authorization-mode", "AlwaysAllow"),
            *("--service-account-issuer", "https://kubernetes.default.svc", "--service-account-key-file", key),
            *("--service-account-signing-key-file", key, "--service-cluster-ip-range", "10.0.0.0/24"),
            *("--disable-admission-plugins", "ServiceAccount", "--event-ttl", "1m"),
        ],
    ]
    with (folder / "log").open("ab") as log:
        processes = [subprocess.Popen(command, stdout=log, stderr=log) for command in commands]
    try:
        server = Server(port, token, folder / "certificates" / "apiserver.crt", version)
        _wait(server, processes, folder / "log")
        yield server
    finally:
        for process in reversed(processes):
            process.kill()  # nothing of theirs is kept, and an API server waits a minute for its watchers
            process.wait()


def _wait(server: Server, processes: list[subprocess.Popen[bytes]], log: Path) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline and all(process.poll() is None for process in processes):
        try:
            if server.certificate.exists() and server.ask("/readyz").status == HTTPStatus.OK:
                return
        except (OSError, ssl.SSLError):
            pass
        time.sleep(0.2)
    pytest.fail(f"the API server did not come up:\n{log.read_text(encoding='utf-8')[-4000:]}")


def _prepare(server: Server) -> None:
    """Make the namespace, under the restricted profile, and the custom resources' definitions."""
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": LEVELS}}
    assert server.ask("/api/v1/namespaces", namespace).status == HTTPStatus.CREATED
    kinds = [path for name in ("keda", "prometheus") for path in tool(name).glob("*.yaml")]
    where = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    for path in kinds:
        answer = server.ask(where, path.read_bytes(), kind="yaml")
        assert answer.status == HTTPStatus.CREATED, answer.body
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        served = [server.ask(f"/apis/{group}").status for group in ("keda.sh/v1alpha1", "monitoring.coreos.com/v1")]
        if served == [HTTPStatus.OK, HTTPStatus.OK]:
            return
        time.sleep(0.2)
    pytest.fail("the custom resources are not served")


@pytest.fixture(scope="module", params=[version.rpartition(".")[0] for version in KUBERNETES])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return an API server of each version."""
    for one in _started(tmp_path_factory.mktemp("apiserver"), request.param):
        _prepare(one)
        yield one


@pytest.mark.parametrize("name", SETS)
def test_every_object_is_admitted_without_a_warning(server: Server, name: str) -> None:
    """A dry run with strict fields: admitted, nothing unknown, nothing deprecated, nothing against the profile."""
    for manifest in render(value_set(name)).manifests:
        what = f"{manifest['kind']} {manifest['metadata']['name']}"
        answer = server.ask(f"{server.path(manifest)}?dryRun=All&fieldValidation=Strict", manifest)
        assert answer.status == HTTPStatus.CREATED, f"{what}: {answer.body.get('message')}"
        assert answer.warnings == [], what


def test_the_server_does_refuse_what_is_wrong(server: Server) -> None:
    """The check above is one that can fail: an unknown field, and a pod against the profile, are refused."""
    rendered = render(value_set("minimal"))
    workload, pod = rendered.workloads()["poll"], rendered.one("Pod", "-test")
    workload["spec"]["template"]["spec"]["terminationGracePeriod"] = 3
    answer = server.ask(f"{server.path(workload)}?dryRun=All&fieldValidation=Strict", workload)
    assert "unknown field" in answer.body["message"]
    pod["spec"]["hostNetwork"] = True
    answer = server.ask(f"{server.path(pod)}?dryRun=All&fieldValidation=Strict", pod)
    assert "violates PodSecurity" in answer.body["message"]


@pytest.mark.parametrize("program", ["helm", "helm4"])
def test_an_upgrade_leaves_the_number_of_pods_to_what_scales_them(server: Server, tmp_path: Path, program: str) -> None:
    """What an autoscaler has set stays over an upgrade; without one, the values count. With both versions of Helm."""
    config = ("--kubeconfig", server.kubeconfig(tmp_path), "--namespace", NAMESPACE)
    name = f"up-{program}"
    where = ("--values", CHART / "ci" / "hpa-values.yaml", "--no-hooks", *config)
    done = helm("install", name, CHART, *where, program=program)
    assert done.returncode == 0, done.stderr
    keys = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{name}-rollcall-keys"
    scale = {"spec": {"replicas": 5}}
    assert server.ask(f"{keys}/scale", scale, method="PATCH", kind="merge-patch+json").status == HTTPStatus.OK
    done = helm("upgrade", name, CHART, *where, "--set", "config.log.level=debug", program=program)
    assert done.returncode == 0, done.stderr
    found = server.ask(keys).body["spec"]
    assert found["replicas"] == 5
    assert server.ask(keys.replace("-keys", "-executor")).body["spec"]["replicas"] == 1
    done = helm("uninstall", name, "--no-hooks", *config, program=program)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("program", ["helm", "helm4"])
def test_switching_scaling_on_does_what_the_guide_says(server: Server, tmp_path: Path, program: str) -> None:
    """Helm takes the number of pods away, which makes it 1 until the scaler has had a look."""
    config = ("--kubeconfig", server.kubeconfig(tmp_path), "--namespace", NAMESPACE, "--no-hooks")
    name = f"on-{program}"
    where = ("--values", CHART / "ci" / "minimal-values.yaml", "--set", "workloads.keys.replicas=3", *config)
    assert helm("install", name, CHART, *where, program=program).returncode == 0
    keys = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{name}-rollcall-keys"
    assert server.ask(keys).body["spec"]["replicas"] == 3
    done = helm("upgrade", name, CHART, *where, "--set", "autoscaling.type=hpa", program=program)
    assert done.returncode == 0, done.stderr
    assert server.ask(keys).body["spec"]["replicas"] == 1
    helm("uninstall", name, *config, program=program)


@pytest.mark.parametrize("program", ["helm", "helm4"])
def test_a_larger_volume_needs_the_step_of_the_guide(server: Server, tmp_path: Path, program: str) -> None:
    """The claims of a StatefulSet cannot be changed: an upgrade fails, and succeeds once it was deleted by itself."""
    config = ("--kubeconfig", server.kubeconfig(tmp_path), "--namespace", NAMESPACE, "--no-hooks")
    name = f"size-{program}"
    volumes = ("--set", "worker.state.type=volume", "--values", CHART / "ci" / "minimal-values.yaml", *config)
    larger = (*volumes, "--set", "worker.state.sizeGiB=9", "--set", "worker.replicas=2")
    done = helm("install", name, CHART, *volumes, program=program)
    assert done.returncode == 0, done.stderr
    done = helm("upgrade", name, CHART, *larger, program=program)
    assert done.returncode != 0
    assert "updates to statefulset spec for fields other than" in done.stderr
    sets = f"/apis/apps/v1/namespaces/{NAMESPACE}/statefulsets/{name}-rollcall"
    for stage in STAGES[:4]:
        orphan = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Orphan"}
        assert server.ask(f"{sets}-{stage}", orphan, method="DELETE").status == HTTPStatus.OK
        let_go: Manifest = {"metadata": {"finalizers": None}}  # as the garbage collector does, which is not here
        server.ask(f"{sets}-{stage}", let_go, method="PATCH", kind="merge-patch+json")
    done = helm("upgrade", name, CHART, *larger, program=program)
    assert done.returncode == 0, done.stderr
    for stage in STAGES[:4]:
        (claim,) = server.ask(f"{sets}-{stage}").body["spec"]["volumeClaimTemplates"]
        assert claim["spec"]["resources"]["requests"]["storage"] == "9Gi"
    helm("uninstall", name, *config, program=program)


def test_the_steps_of_the_guide_work_as_written(server: Server, tmp_path: Path) -> None:
    """The commands of docs/kubernetes.md make a release; only its hooks, which need a kubelet, are left out."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    (tmp_path / "charts").symlink_to(ROOT / "charts")
    (tmp_path / "values.yaml").write_text(guided("yaml values")[0].replace("REGISTRY", "images.example.com"), "utf-8")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "helm").symlink_to(tool("helm"))
    environment = {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "KUBECONFIG": str(server.kubeconfig(tmp_path)),
        "HOME": str(tmp_path),
    }
    for block in guided("sh steps"):
        command = block.replace("helm install", "helm install --no-hooks")
        done = subprocess.run(
            ["sh", "-ec", command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
    found = server.ask("/apis/apps/v1/namespaces/rollcall/deployments").body["items"]
    assert {one["metadata"]["name"] for one in found} == {f"rollcall-{stage}" for stage in ("poll", *STAGES[1:4])}
    secret = server.ask("/api/v1/namespaces/rollcall/secrets/rollcall").body["data"]
    assert set(secret) == {"pepper", "dealers"}
    assert len(base64.b64decode(secret["pepper"])) == 64
