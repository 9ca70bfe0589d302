"""Scaling the handler stages: by lag or by CPU, never both, never past the partitions, and calmly down."""

from typing import get_args

import pytest

from handlers import factory
from tests.charts.rendering import OAUTH, STAGES, Manifest, Rendered, merged, render, value_set
from worker.config import HandlersSettings
from worker.privacy import Hasher
from worker.settings import KafkaSettings
from worker.topics import Topics

HANDLERS = STAGES[1:]
# What the scaler of KEDA 2.21 reads from a trigger's metadata (pkg/scalers/kafka_scaler.go); it ignores other names
# without a word.
METADATA = {
    *("bootstrapServers", "consumerGroup", "topic", "partitionLimitation", "lagThreshold", "activationLagThreshold"),
    *("offsetResetPolicy", "allowIdleConsumers", "excludePersistentLag", "scaleToZeroOnInvalidOffset"),
    *("limitToPartitionsWithLag", "ensureEvenDistributionOfPartitions", "fullMetadata", "version", "tls", "unsafeSsl"),
    *("sasl", "saslTokenProvider", "awsRegion"),
}
CREDENTIALS = {"username", "password", "ca", "cert", "key", "keyPassword"}
DELETES = {"workloads": {"requests": {"enabled": True}, "executor": {"enabled": True}}}


def trigger(scaled: Manifest) -> dict[str, str]:
    """Return the metadata of a ScaledObject's only trigger."""
    (one,) = scaled["spec"]["triggers"]
    assert one["type"] == "kafka"
    metadata: dict[str, str] = one["metadata"]
    return metadata


@pytest.mark.parametrize(("prefix", "generation"), [("customers", 1), ("people", 1), ("customers", 2), ("people", 13)])
def test_the_lag_is_that_of_the_stages_own_group_on_its_own_input(prefix: str, generation: int) -> None:
    """Group and topic of each trigger are those that the application uses, whatever the prefix, rebuilt or not."""
    config = {"prefix": prefix, "handlers": {"dedupe_generation": generation}}
    rendered = render(merged(value_set("minimal"), DELETES | {"autoscaling": {"type": "keda"}, "config": config}))
    topics = Topics(prefix, generation=generation)
    for stage in HANDLERS:
        handler = factory(stage, HandlersSettings(), topics, Hasher(b"a pepper of this test"))()
        found = trigger(rendered.one("ScaledObject", f"-{stage}"))
        assert found["consumerGroup"] == topics.group(stage)
        assert found["topic"] == handler.inputs[0].topic


def test_a_plug_in_scales_on_the_events() -> None:
    """A plug-in handler reads the public log, in a group of its own name."""
    values = {"autoscaling": {"type": "keda"}, "config": {"handlers": {"plugins": {"mail": {"target": "a:B"}}}}}
    found = trigger(render(merged(value_set("minimal"), values)).one("ScaledObject", "-mail"))
    assert (found["topic"], found["consumerGroup"]) == (Topics().events, Topics().group("mail"))


def test_every_name_in_a_trigger_is_one_that_keda_reads(keda: Rendered, everything: Rendered) -> None:
    """A misspelt name would be ignored, and the stage would scale on a default."""
    for rendered in (keda, everything):
        for scaled in rendered.all("ScaledObject"):
            assert set(trigger(scaled)) <= METADATA
            assert all(isinstance(value, str) for value in trigger(scaled).values())
    (authentication,) = keda.all("TriggerAuthentication")
    assert {one["parameter"] for one in authentication["spec"]["secretTargetRef"]} <= CREDENTIALS


def test_keda_logs_on_with_a_credential_of_its_own(keda: Rendered, everything: Rendered) -> None:
    """The trigger names the mechanism and the TriggerAuthentication, which takes all from an existing Secret."""
    (authentication,) = keda.all("TriggerAuthentication")
    for scaled in keda.all("ScaledObject"):
        assert scaled["spec"]["triggers"][0]["authenticationRef"] == {"name": authentication["metadata"]["name"]}
        assert (trigger(scaled)["sasl"], trigger(scaled)["tls"]) == ("scram_sha256", "enable")
    assert {one["name"] for one in authentication["spec"]["secretTargetRef"]} == {"keda-kafka"}
    assert {one["parameter"]: one["key"] for one in authentication["spec"]["secretTargetRef"]} == {
        "username": "username",
        "password": "password",
        "ca": "ca.crt",
    }
    assert everything.all("TriggerAuthentication") == []
    for scaled in everything.all("ScaledObject"):
        assert scaled["spec"]["triggers"][0]["authenticationRef"] == {"name": "kafka"}
        assert "sasl" not in trigger(scaled)


def test_keda_fetches_its_own_tokens() -> None:
    """With OAUTHBEARER the mechanism is named, and all the rest is in a TriggerAuthentication of the operator's."""
    values = {"autoscaling": {"type": "keda"}, "keda": {"authentication": {"existing": "tokens"}}}
    rendered = render(merged(value_set("minimal"), values | {"config": {"kafka": OAUTH}}))
    for scaled in rendered.all("ScaledObject"):
        assert (trigger(scaled)["sasl"], trigger(scaled)["tls"]) == ("oauthbearer", "enable")
        assert scaled["spec"]["triggers"][0]["authenticationRef"] == {"name": "tokens"}


def test_every_mechanism_has_its_name_in_keda() -> None:
    """Whatever the application can log on with, the trigger says in KEDA's words (kafka_scaler.go, `Sasl`)."""
    known = {"PLAIN": "plaintext", "SCRAM-SHA-256": "scram_sha256", "SCRAM-SHA-512": "scram_sha512"}
    known |= {"OAUTHBEARER": "oauthbearer"}
    assert set(get_args(KafkaSettings.model_fields["sasl_mechanism"].annotation)) == set(known)
    values = {"autoscaling": {"type": "keda"}, "keda": {"authentication": {"existing": "own"}}}
    for mechanism, name in known.items():
        kafka = OAUTH | {"sasl_mechanism": mechanism}
        rendered = render(merged(value_set("minimal"), values | {"config": {"kafka": kafka}}))
        assert trigger(rendered.one("ScaledObject", "-keys"))["sasl"] == name


def test_nothing_scales_past_the_partitions(keda: Rendered, everything: Rendered) -> None:
    """A pod more than there are partitions would have nothing to do, whatever was asked for."""
    assert {scaled["spec"]["maxReplicaCount"] for scaled in keda.all("ScaledObject")} == {12}
    assert keda.one("ScaledObject", "-clusters")["spec"]["minReplicaCount"] == 2
    assert {scaled["spec"]["maxReplicaCount"] for scaled in everything.all("ScaledObject")} == {6}
    assert everything.one("HorizontalPodAutoscaler", "-pairs")["spec"]["maxReplicas"] == 6


@pytest.mark.parametrize("how", ["keda", "hpa"])
def test_scaling_down_is_calm(how: str) -> None:
    """One pod at a time, and only after fewer have been enough for ten minutes: each step is a rebalance."""
    rendered = render(merged(value_set("minimal"), {"autoscaling": {"type": how}}))
    for stage in ("keys", "pairs", "clusters"):
        if how == "keda":
            spec = rendered.one("ScaledObject", stage)["spec"]
            behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
            assert spec["fallback"]["behavior"] == "currentReplicasIfHigher"
        else:
            behavior = rendered.one("HorizontalPodAutoscaler", stage)["spec"]["behavior"]
        down = behavior["scaleDown"]
        assert down["stabilizationWindowSeconds"] == 600
        assert down["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 300}]


def test_the_number_of_pods_is_said_by_one_place_only(rendered: Rendered) -> None:
    """While something scales a workload its manifest has no `replicas`, which would undo that on each upgrade."""
    scalers = rendered.all("ScaledObject") + rendered.all("HorizontalPodAutoscaler")
    targets = [scaler["spec"]["scaleTargetRef"] for scaler in scalers]
    names = [target["name"] for target in targets]
    assert len(names) == len(set(names))
    for workload in rendered.workloads().values():
        scaled = workload["metadata"]["name"] in names
        assert ("replicas" in workload["spec"]) is not scaled
    for target in targets:
        (found,) = [w for w in rendered.workloads().values() if w["metadata"]["name"] == target["name"]]
        assert (target["apiVersion"], target["kind"]) == (found["apiVersion"], found["kind"])


def test_a_poller_never_scales_by_itself(rendered: Rendered) -> None:
    """One source has one owner: a poller has no lag, and more of it would not help."""
    assert "replicas" in rendered.workloads()["poll"]["spec"]


def test_a_stage_may_differ_from_the_rest() -> None:
    """One stage may be scaled by something else, or by nothing."""
    values = DELETES | {"autoscaling": {"type": "keda"}}
    values = merged(values, {"workloads": {"pairs": {"autoscaling": {"type": "hpa"}}, "executor": {"replicas": 2}}})
    values = merged(values, {"workloads": {"executor": {"autoscaling": {"type": "none"}}}})
    rendered = render(merged(value_set("minimal"), values))
    assert {one["metadata"]["labels"]["app.kubernetes.io/component"] for one in rendered.all("ScaledObject")} == {
        "keys",
        "clusters",
        "requests",
    }
    (hpa,) = rendered.all("HorizontalPodAutoscaler")
    assert hpa["metadata"]["name"].endswith("-pairs")
    (metric,) = hpa["spec"]["metrics"]
    assert metric["containerResource"]["container"] == rendered.worker("pairs")["name"]
    assert rendered.workloads()["executor"]["spec"]["replicas"] == 2
