"""The workloads: one a role, restricted, probed, spread, and not restarted without a reason."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.charts.rendering import CHART, STAGES, Rendered, default_values, merged, render, value_set
from worker.cli import main
from worker.service import stages_of
from worker.topics import STAGES as APPLICATIONS_STAGES

SIZES = {"Mi": 2**20, "Gi": 2**30}


def bytes_of(quantity: str) -> int:
    """Return a quantity with one of the units that the chart uses."""
    return int(quantity[:-2]) * SIZES[quantity[-2:]]


def test_there_is_one_workload_a_role() -> None:
    """The stages are the application's; each is a workload of its own that runs just this stage."""
    assert STAGES == APPLICATIONS_STAGES
    values = merged(value_set("minimal"), {"workloads": {"requests": {"enabled": True}, "executor": {"enabled": True}}})
    rendered = render(values)
    assert set(rendered.workloads()) == set(STAGES)
    for stage in STAGES:
        container = rendered.worker(stage)
        assert container["command"] == ["rollcall"]
        assert container["args"][:2] == ["--config", "/etc/rollcall/rollcall.yaml"]
        command, *names = container["args"][2:]
        context = main.commands[command].make_context(command, list(names))
        assert command == ("poll" if stage == "poll" else "handle")
        assert stages_of(context.params.get("names", ())) == [stage] or stage == "poll"


def test_a_plug_in_handler_is_a_workload_too(everything: Rendered) -> None:
    """It runs what the configuration names, is sized by its own section, and its topics are made by the job."""
    workload = everything.workloads()["welcome_mail"]
    assert workload["metadata"]["name"] == "customer-events-welcome-mail"
    assert workload["spec"]["replicas"] == 2
    assert everything.worker("welcome_mail")["args"][2:] == ["handle", "welcome_mail"]
    for name in ("-topics", "customer-events"):
        assert set(yaml.safe_load(everything.config(name))["handlers"]["plugins"]) == {"welcome_mail"}


def test_deletions_are_off_until_they_are_asked_for(minimal: Rendered) -> None:
    """By default nothing that deletes anything runs."""
    assert set(minimal.workloads()) == {"poll", "keys", "pairs", "clusters"}


def test_roles_are_switched_and_sized_apart() -> None:
    """A role that is off leaves nothing behind, and another's size is its own."""
    sizes = {"pairs": {"enabled": False}, "keys": {"replicas": 5}}
    rendered = render(merged(value_set("minimal"), {"workloads": sizes}))
    assert [m["kind"] for m in rendered.manifests if m["metadata"]["name"].endswith("-pairs")] == []
    assert rendered.workloads()["keys"]["spec"]["replicas"] == 5
    assert rendered.workloads()["clusters"]["spec"]["replicas"] == 1


def test_every_pod_keeps_to_the_restricted_profile(rendered: Rendered) -> None:
    """Non-root, seccomp, no capabilities, read-only root, no service account token: each pod, each container."""
    for name, pod in rendered.pods():
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["enableServiceLinks"] is False, name
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), name
        for container in spec["containers"] + spec.get("initContainers", []):
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False, name
            assert security["readOnlyRootFilesystem"] is True, name
            assert security["capabilities"] == {"drop": ["ALL"]}, name


def test_what_a_worker_writes_has_a_place(rendered: Rendered) -> None:
    """On a read-only root, the state and /tmp are volumes that can be written, and the rest is read only."""
    for stage in rendered.workloads():
        mounts = {mount["mountPath"]: mount for mount in rendered.worker(stage)["volumeMounts"]}
        written = {path for path, mount in mounts.items() if not mount.get("readOnly")}
        assert written == {"/state", "/tmp"}
        config = next(m for m in rendered.all("ConfigMap") if "state_dir" in m.get("data", {}).get("rollcall.yaml", ""))
        assert yaml.safe_load(config["data"]["rollcall.yaml"])["state_dir"] in mounts


def test_secrets_are_existing_ones_mounted_as_files(rendered: Rendered) -> None:
    """No Secret is made, none is in an environment, and whole folders are mounted, so that a rotation is seen."""
    assert rendered.all("Secret") == []
    for name, pod in rendered.pods():
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        for container in pod["spec"]["containers"]:
            assert all("valueFrom" not in one for one in container.get("env", [])), name
            assert "envFrom" not in container, name
            for mount in container.get("volumeMounts", []):
                if "secret" in volumes.get(mount["name"], {}):
                    assert "subPath" not in mount, name
                    assert mount["readOnly"] is True, name
                    assert volumes[mount["name"]]["secret"]["defaultMode"] == 0o440, name
                    assert mount["mountPath"] == f"/secrets/{volumes[mount['name']]['secret']['secretName']}", name


def test_a_secret_may_have_any_name_that_kubernetes_permits() -> None:
    """Dots and a great length, which a volume's name may not have, do not reach it; the path keeps the whole name."""
    name = f"kafka.{'x' * 80}.tls"
    rendered = render(merged(value_set("minimal"), {"worker": {"secrets": [name]}}))
    (mount,) = [one for one in rendered.worker("keys")["volumeMounts"] if one["mountPath"] == f"/secrets/{name}"]
    assert "." not in mount["name"]
    assert len(mount["name"]) <= 63
    volumes = rendered.workloads()["keys"]["spec"]["template"]["spec"]["volumes"]
    assert [v["secret"]["secretName"] for v in volumes if v["name"] == mount["name"]] == [name]


def test_every_file_of_the_configuration_is_mounted_where_it_is_used(production: Rendered) -> None:
    """A worker sees the files of its own Secrets: the executor the targets', the poller the upstreams'."""
    found = {
        stage: {mount["mountPath"].removeprefix("/secrets/") for mount in production.worker(stage)["volumeMounts"]}
        for stage in STAGES
    }
    assert {"rollcall", "rollcall-kafka", "rollcall-upstreams"} <= found["poll"]
    assert {"rollcall", "rollcall-kafka", "rollcall-targets"} <= found["executor"]
    assert "rollcall-targets" not in found["poll"] | found["keys"]
    assert "rollcall-upstreams" not in found["executor"] | found["keys"]


def test_every_probe_names_a_declared_port_and_a_path_that_is_served(rendered: Rendered) -> None:
    """A probe of a port that the container does not have would never succeed, and no linter sees it."""
    for stage in rendered.workloads():
        container = rendered.worker(stage)
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        asked = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
        assert {name: probe["path"] for name, probe in asked.items()} == {
            "startup": "/livez",
            "liveness": "/livez",
            "readiness": "/readyz",
        }
        for probe in asked.values():
            assert probe["port"] in ports
        config = next(m for m in rendered.all("ConfigMap") if "state_dir" in m.get("data", {}).get("rollcall.yaml", ""))
        assert yaml.safe_load(config["data"]["rollcall.yaml"])["listen"] == f"0.0.0.0:{ports['http']}"


def test_the_startup_probe_lasts_as_long_as_the_longest_restore() -> None:
    """A worker that takes its time to answer for the first time is not killed for it."""
    values = merged(value_set("minimal"), {"worker": {"probes": {"startup": {"seconds": 7201}}}})
    probe = render(values).worker("keys")["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 7201


def test_the_grace_period_is_longer_than_the_drain(rendered: Rendered) -> None:
    """A worker has time to drain, to leave its groups and to close its clients before it is killed."""
    for stage, workload in rendered.workloads().items():
        config = next(m for m in rendered.all("ConfigMap") if "state_dir" in m.get("data", {}).get("rollcall.yaml", ""))
        grace = yaml.safe_load(config["data"]["rollcall.yaml"])["grace"]
        assert workload["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == grace + 20, stage


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet"])
def test_state_is_a_cache_on_the_node_or_on_a_volume(kind: str) -> None:
    """With an emptyDir a Deployment, whose disk use is bounded; with volumes a StatefulSet that leaves none behind."""
    state = {"type": "emptyDir" if kind == "Deployment" else "volume", "sizeGiB": 7}
    rendered = render(merged(value_set("minimal"), {"worker": {"state": state}}))
    workload = rendered.workloads()["keys"]
    assert workload["kind"] == kind
    limits = rendered.worker("keys")["resources"]["limits"]
    volumes = {volume["name"]: volume for volume in workload["spec"]["template"]["spec"]["volumes"]}
    if kind == "Deployment":
        assert volumes["state"]["emptyDir"]["sizeLimit"] == "7Gi"
        assert bytes_of(limits["ephemeral-storage"]) > bytes_of("7Gi")
        assert workload["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    else:
        (claim,) = workload["spec"]["volumeClaimTemplates"]
        assert claim["metadata"]["name"] == "state"
        assert claim["spec"]["resources"]["requests"]["storage"] == "7Gi"
        assert workload["spec"]["persistentVolumeClaimRetentionPolicy"] == {
            "whenDeleted": "Delete",
            "whenScaled": "Delete",
        }
        assert workload["spec"]["serviceName"] == rendered.one("Service", "rollcall")["metadata"]["name"]


def test_a_long_name_still_gets_pods() -> None:
    """A StatefulSet's pods are labelled with its name and a hash, which fits; a Deployment's name may be longer."""
    values = merged(value_set("minimal"), {"fullnameOverride": "x" * 43, "worker": {"state": {"type": "volume"}}})
    for workload in render(values).workloads().values():
        assert len(f"{workload['metadata']['name']}-0123456789") <= 63
    rendered = render(merged(value_set("minimal"), {"fullnameOverride": "x" * 52}))
    assert max(len(one["metadata"]["name"]) for one in rendered.manifests) <= 63


def test_resources_are_real_and_memory_is_limited(rendered: Rendered) -> None:
    """Each container of ours says what it needs, and what it may have at most."""
    for name, pod in rendered.pods():
        for container in pod["spec"]["containers"]:
            for part in ("requests", "limits"):
                assert {"cpu", "memory", "ephemeral-storage"} <= set(container["resources"][part]), name


def test_pods_of_a_workload_are_spread(minimal: Rendered) -> None:
    """Over zones and over nodes, each revision by itself, by labels that the pods really have."""
    for stage, workload in minimal.workloads().items():
        template = workload["spec"]["template"]
        constraints = template["spec"]["topologySpreadConstraints"]
        assert [one["topologyKey"] for one in constraints] == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
        for one in constraints:
            assert one["labelSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items(), stage
            assert one["labelSelector"] == workload["spec"]["selector"]
            assert one["matchLabelKeys"] == ["pod-template-hash"]


def test_no_name_is_there_twice(rendered: Rendered) -> None:
    """Neither objects nor containers, volumes, mounts or variables share a name."""
    objects = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in rendered.manifests]
    assert len(objects) == len(set(objects))
    for name, pod in rendered.pods():
        spec = pod["spec"]
        containers = spec["containers"] + spec.get("initContainers", [])
        lists = [[one["name"] for one in containers], [one["name"] for one in spec["volumes"]]]
        for container in containers:
            lists += [[one["name"] for one in container.get("env", [])]]
            lists += [[one["mountPath"] for one in container.get("volumeMounts", [])]]
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= {*lists[1], "state"}, name
        assert all(len(names) == len(set(names)) for names in lists), name


def test_a_digest_wins_over_a_tag() -> None:
    """The image is named by its digest where there is one, else by its tag, else by the application's version."""
    digest = f"sha256:{'ab' * 32}"

    def image(**values: str) -> str:
        name: str = render(merged(value_set("minimal"), {"image": values})).worker("poll")["image"]
        return name

    assert image(tag="1.2", digest=digest) == f"rollcall@{digest}"
    assert image(tag="1.2") == "rollcall:1.2"
    assert image() == f"rollcall:{yaml.safe_load((CHART / 'Chart.yaml').read_text(encoding='utf-8'))['appVersion']}"


def templates(rendered: Rendered) -> dict[str, Any]:
    """Return the pod templates of the workloads."""
    return {stage: workload["spec"]["template"] for stage, workload in rendered.workloads().items()}


def test_the_same_values_restart_nothing(tmp_path: Path, minimal: Rendered) -> None:
    """A new version of the chart, and monitoring switched on, leave every pod template as it is."""
    chart = shutil.copytree(CHART, tmp_path / "rollcall")
    about = yaml.safe_load((chart / "Chart.yaml").read_text(encoding="utf-8"))
    (chart / "Chart.yaml").write_text(yaml.safe_dump(about | {"version": "9.9.9"}), encoding="utf-8")
    more = {"metrics": {"rules": {"enabled": True}, "podMonitor": {"enabled": True}}, "topics": {"enabled": False}}
    assert templates(render(merged(value_set("minimal"), more), chart=chart)) == templates(minimal)


def test_a_changed_configuration_restarts_every_worker(minimal: Rendered) -> None:
    """The annotation over the rendered configuration changes with it."""
    changed = render(merged(value_set("minimal"), {"config": {"log": {"level": "debug"}}}))
    for stage, template in templates(changed).items():
        annotations = templates(minimal)[stage]["metadata"]["annotations"]
        assert template["metadata"]["annotations"]["checksum/config"] != annotations["checksum/config"]


def test_everything_that_is_asked_for_reaches_the_pods(everything: Rendered) -> None:
    """Labels, annotations, selectors, tolerations, classes, further containers and volumes are all there."""
    asked = value_set("everything")["worker"]
    spec = everything.workloads()["pairs"]["spec"]["template"]["spec"]
    metadata = everything.workloads()["pairs"]["spec"]["template"]["metadata"]
    for name in ("nodeSelector", "tolerations", "affinity", "priorityClassName", "runtimeClassName", "initContainers"):
        assert spec[name] == asked[name]
    assert asked["podLabels"].items() <= metadata["labels"].items()
    assert asked["podAnnotations"].items() <= metadata["annotations"].items()
    assert asked["containers"][0] in spec["containers"]
    assert asked["volumes"][0] in spec["volumes"]
    assert asked["volumeMounts"][0] in spec["containers"][0]["volumeMounts"]
    assert spec["imagePullSecrets"] == [{"name": "images"}]
    assert everything.one("ConfigMap", "cloud-ca")["data"] == {"release": "live"}
    assert everything.one("ConfigMap", "customer-events-more")
    for manifest in everything.manifests:
        if manifest["metadata"]["name"].startswith("customer-events"):
            assert manifest["metadata"].get("labels", {"team": "identity"})["team"] == "identity"


def test_labels_and_annotations_are_there_once_and_the_charts_own_win() -> None:
    """A label in `commonLabels` and `podLabels`, or one that selects pods, neither comes twice nor replaces ours."""
    ours = ("app.kubernetes.io/component", "app.kubernetes.io/part-of", "rollcall/worker", "team", "tier")
    values = merged(
        value_set("production"),
        {
            "commonLabels": dict.fromkeys(ours, "common")
            | {"release": "common", "app.kubernetes.io/version": "common"},
            "worker": {
                "podLabels": dict.fromkeys(ours[:-1], "pods"),
                "podAnnotations": {"checksum/config": "x", "kubectl.kubernetes.io/default-container": "x"},
            },
        },
    )
    rendered = render(values)
    for stage, workload in rendered.workloads().items():
        metadata = workload["spec"]["template"]["metadata"]
        assert [metadata["labels"][name] for name in ours] == [stage, "rollcall", "true", "pods", "common"]
        assert workload["spec"]["selector"]["matchLabels"].items() <= metadata["labels"].items()
        assert "x" not in metadata["annotations"].values()
        assert workload["metadata"]["labels"]["team"] == "common"
        assert workload["metadata"]["labels"]["app.kubernetes.io/version"] != "common"
    assert rendered.one("PodMonitor", "")["metadata"]["labels"]["release"] == "prometheus"


def test_what_looks_like_something_else_stays_a_string() -> None:
    """A plug-in, or a release, may have a name that YAML would take for a number or for a truth value."""
    values = {"nameOverride": "123", "config": {"handlers": {"plugins": {"on": {}, "null": {}}}}}
    for manifest in render(merged(value_set("minimal"), values)).manifests:
        labels = manifest["metadata"].get("labels", {})
        assert all(isinstance(value, str) for value in labels.values()), manifest["metadata"]["name"]


def test_the_default_values_render() -> None:
    """The chart renders with nothing but its own values, as linters do it."""
    assert render(default_values()).workloads()
