"""The values: documented, closed, the application's own where they are its configuration, and refused with a reason."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from handlers.deletes.settings import DeletesSettings
from tests.charts.rendering import (
    CHART,
    OAUTH,
    ROOT,
    SETS,
    Rendered,
    default_values,
    guided,
    merged,
    refused,
    render,
    thorough,
    value_set,
)
from worker import config as configuration

sys.path.insert(0, str(ROOT / "charts"))
import schema  # the chart's own script, not a package

SOURCE = {"kind": "drivly", "url": "https://commerce.example.com/api", "key": {"file": "/secrets/rollcall/key"}}
APPLICATIONS_OWN = {".config", ".topics.kafka"}
OVERRIDABLE = [f"/$defs/{name}" for name in ("worker", "workload", "poll")]
VOLUME = {"state": {"type": "volume"}}
SASL = {"security_protocol": "SASL_SSL", "username": "me", "password": {"file": "/secrets/rollcall/password"}}


def test_the_schema_is_up_to_date_with_the_application() -> None:
    """values.schema.json is what charts/schema.py makes of the application's schema today."""
    written = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    assert written == schema.schema(), "run `make chart-docs`"


def test_the_schema_knows_exactly_the_values_there_are() -> None:
    """Every value of values.yaml is in the schema, and every value of the schema is in values.yaml."""
    written = schema.schema()

    def differing(node: Any, known: dict[str, Any], at: str) -> Iterator[str]:
        if "$ref" in known:
            known = written["$defs"][known["$ref"].rpartition("/")[2]]
        if "properties" not in known or at in APPLICATIONS_OWN:
            return
        yield from (f"{at}.{name}" for name in set(node) ^ set(known["properties"]))
        for name in set(node) & set(known["properties"]):
            yield from differing(node[name], known["properties"][name], f"{at}.{name}")

    values = default_values() | {"global": {}}  # Helm's own
    overrides = {f".workloads.{stage}" for stage in values["workloads"]}
    found = {path for path in differing(values, written, "") if path.rpartition(".")[0] not in overrides}
    assert found == {".worker.resources.claims", ".topics.resources.claims"}  # nothing would be a fitting example


def test_every_object_of_the_schema_is_closed() -> None:
    """No part of the schema lets an unknown value through, but for Kubernetes' own objects and conditions on a kind."""

    def opened(node: Any, at: str) -> Iterator[str]:
        if isinstance(node, list):
            for item in node:
                yield from opened(item, at)
        elif isinstance(node, dict):
            if "properties" in node and "additionalProperties" not in node:
                yield at
            for name, item in node.items():
                yield from opened(item, f"{at}/{name}")

    kubernetes = ("env", "volumes", "volumeMounts", "containers", "initContainers")
    permitted = {f"{at}/properties/{name}/items" for at in OVERRIDABLE for name in kubernetes}
    permitted |= {f"/properties/topics/properties/{name}/items" for name in ("volumes", "volumeMounts")}
    found = {path for path in opened(schema.schema(), "") if "/patternProperties/" not in path}
    assert found == permitted


@pytest.mark.parametrize("kind", ["sources", "targets"])
def test_every_kind_is_closed(kind: str) -> None:
    """A condition on a kind leads to a closed definition, for sources and for targets of deletions."""
    written = schema.schema()
    deletes = written["$defs"]["DeletesSettings"]["properties"]
    names = written["properties"]["config"]["properties"] if kind == "sources" else deletes
    (choice,) = names[kind]["patternProperties"].values()
    assert names[kind]["additionalProperties"] is False
    known = {
        condition["if"]["properties"]["kind"]["const"]: condition["then"]["$ref"].rpartition("/")[2]
        for condition in choice["allOf"]
        if "then" in condition
    }
    *_, last = choice["allOf"]
    listed = choice["properties"]["kind"].get("enum") or last["if"]["properties"]["kind"]["enum"]  # of the chart's own
    assert sorted(known) == listed
    assert all(written["$defs"][name]["additionalProperties"] is False for name in known.values())


def test_a_source_of_an_adapter_of_ones_own_is_taken_as_it_is() -> None:
    """An image may have kinds that the chart does not know: settings are their adapters' business, but for the url."""
    ledger = {
        "kind": "ledger",
        "url": "https://ledger.example.com:8443",
        "key": {"file": "/secrets/rollcall/ledger"},
        "books": ["main"],
    }
    rendered = render(merged(value_set("minimal"), {"config": {"sources": {"books": ledger}}}))
    assert yaml.safe_load(rendered.config())["sources"]["books"] == ledger
    (policy,) = [one for one in rendered.all("NetworkPolicy") if one["metadata"]["name"].endswith("-poll")]
    assert 8443 in [port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]]


def test_the_applications_defaults_are_the_charts() -> None:
    """What values.yaml says of the configuration is what the application would have taken anyway."""
    ours, theirs = default_values()["config"], configuration.parse({"pepper": {"env": "X"}}).file
    assert ours["prefix"] == theirs.prefix
    for name in set(ours["kafka"]) - {"bootstrap"}:
        assert ours["kafka"][name] == getattr(theirs.kafka, name)


def test_the_application_accepts_what_is_rendered(rendered: Rendered, tmp_path: Path) -> None:
    """Each rendered rollcall.yaml, the workers' and the topics job's, is read by the application without a problem."""
    for manifest in rendered.all("ConfigMap"):
        if "rollcall.yaml" in manifest.get("data", {}):
            path = tmp_path / "rollcall.yaml"
            path.write_text(manifest["data"]["rollcall.yaml"], encoding="utf-8")
            configuration.load(path)


def test_an_executor_has_its_undo_key_as_a_file() -> None:
    """The application's own default is an environment variable, which no pod has: the worker would not start."""
    defaults, found = default_values(), 0
    for values in (*map(value_set, SETS), *map(yaml.safe_load, guided("yaml values"))):
        whole = merged(defaults, values)
        settings = DeletesSettings.model_validate(whole["config"].get("handlers", {}).get("deletes", {}))
        if not any(target.undo for target in settings.targets.values()):
            continue
        found += 1
        executor = whole["workloads"]["executor"]
        assert executor["enabled"]
        if settings.undo_key is not None:
            assert settings.undo_key.file is not None
            mounted = (*whole["secrets"], *whole["worker"]["secrets"], *executor.get("secrets", ()))
            assert settings.undo_key.file.parent in [Path("/secrets") / name for name in mounted]
    assert found > 2


def test_numbers_reach_the_application_as_they_were_written(production: Rendered) -> None:
    """Large and fractional numbers survive Helm: 2000000 does not become 2e+06."""
    config = yaml.safe_load(production.config())
    assert config["kafka"]["max_record_bytes"] == 2_000_000
    assert repr(config["sources"]["fleet"]["rate"]) == "2.5"


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"replicas": 3}, "additional properties 'replicas' not allowed"),
        (
            {"workloads": {"pairs": {"replica": 3}}},
            "at '/workloads/pairs': additional properties 'replica' not allowed",
        ),
        ({"workloads": {"pears": {}}}, "additional properties 'pears' not allowed"),
        ({"autoscaling": {"type": "both"}}, "value must be one of 'none', 'keda', 'hpa'"),
        ({"autoscaling": {"keda": {"enabled": True}, "hpa": {"enabled": True}}}, "additional properties"),
        ({"autoscaling": {"minReplicas": 0}}, "at '/autoscaling/minReplicas': minimum: got 0, want 1"),
        ({"workloads": {"poll": {"autoscaling": {"type": "keda"}}}}, "a poller does not scale by itself"),
        ({"config": {"grace": 60}}, "set `drainSeconds`"),
        ({"config": {"listen": "0.0.0.0:1"}}, "the chart listens on `port`"),
        ({"config": {"state_dir": "/data"}}, "the chart mounts `worker.state` there"),
        ({"config": {"pepper": {"env": "PEPPER"}}}, "list the Secret in `secrets` and give `file`"),
        ({"config": {"pepper": "hunter2"}}, "at '/config/pepper': got string, want object"),
        ({"config": {"kafka": {"portitions": 3}}}, "additional properties 'portitions' not allowed"),
        ({"config": {"kafka": {"partitions": "many"}}}, "at '/config/kafka/partitions': got string, want integer"),
        ({"config": {"sources": {"a": SOURCE | {"rat": 1}}}}, "additional properties 'rat' not allowed"),
        ({"config": {"sources": {"a": {"kind": "drivly"}}}}, "missing properties 'url', 'key'"),
        ({"config": {"sources": {"a": {"kind": "ledger"}}}}, "at '/config/sources/a': missing property 'url'"),
        ({"config": {"sources": {"a": {"kind": "ledger", "url": 1}}}}, "at '/config/sources/a/url': got number"),
        ({"config": {"sources": {"a": {"kind": "No Kind", "url": "x"}}}}, "at '/config/sources/a/kind'"),
        (
            {"config": {"handlers": {"deletes": {"targets": {"a": {"kind": "htp"}}}}}},
            "at '/config/handlers/deletes/targets/a/kind': value must be",
        ),
        ({"config": {"sources": {"A": SOURCE}}}, "additional properties 'A' not allowed"),
        ({"drainSeconds": 5}, "at '/drainSeconds': minimum: got 5, want 10"),
        ({"image": {"digest": "sha256:abc"}}, "at '/image/digest'"),
        ({"worker": {"state": {"sizeGiB": "2Gi"}}}, "got string, want integer"),
        ({"worker": {"pdb": {"maxUnavailable": 0}}}, "at '/worker/pdb/maxUnavailable': minimum: got 0, want 1"),
        ({"worker": {"env": [{"value": "x"}]}}, "missing property 'name'"),
        ({"secrets": ["Not A Name"]}, "at '/secrets/0'"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_by_the_schema(values: dict[str, Any], why: str) -> None:
    """A bad value is refused before anything is rendered, and the message names the place and what is wanted."""
    message = refused(values)
    assert "don't meet the specifications of the schema" in message
    assert why in message


def null_at(path: str) -> dict[str, Any]:
    """Return the least that works, with a null at a path, as a bare `key:` makes it."""
    value: Any = None
    for name in reversed(path.split(".")):
        value = {name: value}
    return merged(value_set("minimal"), value)


@pytest.mark.parametrize("program", ["helm", pytest.param("helm4", marks=thorough)])
@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("workloads.executor", "at '/workloads': missing property 'executor'"),
        ("workloads.requests", "at '/workloads': missing property 'requests'"),
        ("workloads.executor.enabled", "at '/workloads/executor': missing property 'enabled'"),
        ("workloads.requests.enabled", "at '/workloads/requests': missing property 'enabled'"),
        ("workloads.keys.replicas", "at '/workloads/keys/replicas': got null, want integer"),
        ("workloads", "at '': missing property 'workloads'"),
        ("plugins", "at '': missing property 'plugins'"),
        ("secrets", "at '': missing property 'secrets'"),
        ("port", "at '': missing property 'port'"),
        ("drainSeconds", "at '': missing property 'drainSeconds'"),
        ("config.sources", "at '/config': missing property 'sources'"),
        ("config.handlers", "at '/config/handlers': got null, want object"),
        ("config.kafka.partitions", "at '/config/kafka': missing property 'partitions'"),
        ("config.kafka.sasl_mechanism", "at '/config/kafka': missing property 'sasl_mechanism'"),
        ("networkPolicy", "at '': missing property 'networkPolicy'"),
        ("networkPolicy.dns.port", "at '/networkPolicy/dns': missing property 'port'"),
        ("topics.kafka", "at '/topics': missing property 'kafka'"),
        ("worker.resources", "at '/worker': missing property 'resources'"),
        ("worker.probes.startup", "at '/worker/probes': missing property 'startup'"),
        ("autoscaling.type", "at '/autoscaling': missing property 'type'"),
    ],
)
def test_a_null_that_takes_a_default_away_is_refused(path: str, why: str, program: str) -> None:
    """A bare `executor:` must not switch deletions on; no null may end in a 0 or in an error of a template."""
    message = refused(null_at(path), program=program)
    assert "don't meet the specifications of the schema" in message
    assert why in message


@pytest.mark.parametrize("path", ["autoscaling.maxReplicas", "worker.resources.limits", "podSecurityContext.runAsUser"])
def test_a_null_that_takes_away_what_need_not_be_there_is_accepted(path: str) -> None:
    """That is how Helm leaves a default out, such as a user that the platform chooses."""
    assert render(null_at(path)).workloads()


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (
            {"worker": {"env": [{"name": "A"}]}, "workloads": {"keys": {"env": [{"name": "A"}]}}},
            'workloads.keys.env: "A" is there twice',
        ),
        ({"worker": {"volumes": [{"name": "state"}]}}, 'workloads.poll.volumes: "state" is there twice'),
        ({"worker": {"volumes": [{"name": "secret-rollcall"}]}}, '"secret-rollcall" is there twice'),
        ({"worker": {"volumeMounts": [{"name": "x", "mountPath": "/tmp"}]}}, '"/tmp" is there twice'),
        ({"worker": {"containers": [{"name": "rollcall"}]}}, 'containers: "rollcall" is there twice'),
        (
            {"worker": {"containers": [{"name": "a"}], "initContainers": [{"name": "a"}]}},
            'containers: "a" is there twice',
        ),
        (
            {"config": {"pepper": {"file": "/secrets/other/pepper"}}},
            'the Secret "other" is in no list of `secrets`',
        ),
        ({"secrets": ["rollcall", "a.b", "a-b"]}, 'workloads.poll.volumes: "secret-a-b" is there twice'),
        ({"topics": {"secrets": ["rollcall", "a.b", "a-b"]}}, 'topics.volumes: "secret-a-b" is there twice'),
        (
            {"autoscaling": {"type": "keda", "minReplicas": 9}},
            "workloads.keys.autoscaling.minReplicas: 9 is more than the most pods, 8",
        ),
        ({"autoscaling": {"type": "hpa", "minReplicas": 3, "maxReplicas": 2}}, "3 is more than the most pods, 2"),
        ({"autoscaling": {"type": "keda"}, "config": {"kafka": SASL}}, "keda.authentication: KEDA can't log on"),
        (
            {"autoscaling": {"type": "keda"}, "keda": {"authentication": {"secretName": "keda"}}}
            | {"config": {"kafka": OAUTH}},
            "keda.authentication: with OAUTHBEARER KEDA wants to know its own token endpoint too",
        ),
        ({"config": {"kafka": OAUTH | {"oauth": None}}}, "config.kafka.oauth: sasl_mechanism OAUTHBEARER needs it"),
        (
            {"fullnameOverride": "x" * 45, "workloads": {"pairs": VOLUME, "clusters": VOLUME}},
            f'the StatefulSet "{"x" * 45}-clusters" would never get a pod, its name has 54',
        ),
        (
            {"config": {"handlers": {"plugins": {"m" * 40: {}}}}, "plugins": {"m" * 40: VOLUME}},
            "52; set a shorter fullnameOverride, or give the plug-in a shorter name",
        ),
        (
            {"config": {"handlers": {"plugins": {"welcome_mail": {}, "welcome-mail": {}}}}},
            'plugins.welcome_mail: its workload would be "live-rollcall-welcome-mail", as that of welcome-mail is',
        ),
        (
            {"config": {"handlers": {"plugins": {f"{'m' * 60}a": {}, f"{'m' * 60}b": {}}}}},
            "give the plug-in another name",
        ),
        (
            {"config": {"handlers": {"plugins": {"topics": {}}}}},
            "plugins.topics: the chart has a topics pod of its own",
        ),
        ({"config": {"handlers": {"plugins": {"test": {}}}}}, "plugins.test: the chart has a test pod of its own"),
        ({"config": {"handlers": {"plugins": {"mail_": {}}}}}, "plugins.mail_: names in Kubernetes end with a letter"),
        ({"config": {"kafka": {"bootstrap": " , "}}}, "config.kafka.bootstrap: it names no broker"),
        ({"worker": {"enabled": False}, "workloads": {}}, "all of them are off"),
        ({"plugins": {"mail": {}}}, "plugins.mail: there is no such plug-in in config.handlers.plugins"),
        (
            {"topics": {"kafka": {"password": {"file": "/secrets/admin/password"}}}},
            '"admin" is not among topics.secrets',
        ),
        ({"topics": {"kafka": {"ca_file": "/secrets/admin/ca.crt"}}}, '"admin" is not among topics.secrets'),
        ({"topics": {"secrets": ["admin"]}, "config": {"kafka": SASL}}, '"rollcall" is not among topics.secrets'),
        ({"topics": {"kafka": OAUTH, "secrets": ["admin"]}}, '"rollcall" is not among topics.secrets'),
        ({"topics": {"volumes": [{"name": "secret-rollcall"}]}}, 'topics.volumes: "secret-rollcall" is there twice'),
        ({"topics": {"volumeMounts": [{"name": "x", "mountPath": "/tmp"}]}}, 'topics.volumeMounts: "/tmp" is there'),
    ],
)
def test_values_that_contradict_one_another_are_refused(values: dict[str, Any], why: str) -> None:
    """What a schema can't see is refused too, in a sentence of the chart's own."""
    message = refused(values)
    assert "the values can't be used:" in message
    assert why in message


def test_only_a_path_that_begins_there_is_one_of_a_secret() -> None:
    """`/secrets/` in the middle of a path of one's own volume, or of a URL, names no Secret."""
    kafka = SASL | {"password": {"file": "/run/secrets/kafka/password"}}
    source = SOURCE | {"url": "https://commerce.example.com/secrets/api/v1"}
    values = {"config": {"kafka": kafka, "sources": {"dealers": source}}}
    assert render(merged(value_set("minimal"), values)).workloads()


def test_a_workload_may_override_anything_a_worker_has() -> None:
    """A workload's own section goes over the common one: maps are merged, lists of things are added."""
    values = merged(
        value_set("minimal"),
        {
            "worker": {"env": [{"name": "A", "value": "1"}], "podLabels": {"a": "1"}, "tolerations": [{"key": "a"}]},
            "workloads": {
                "keys": {
                    "replicas": 4,
                    "env": [{"name": "B", "value": "2"}],
                    "podLabels": {"b": "2"},
                    "tolerations": [{"key": "b"}],
                    "resources": {"limits": {"memory": "3Gi"}},
                }
            },
        },
    )
    keys = render(values).workloads()["keys"]
    template = keys["spec"]["template"]
    container = template["spec"]["containers"][0]
    assert keys["spec"]["replicas"] == 4
    assert container["env"] == [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]
    assert {"a": "1", "b": "2"}.items() <= template["metadata"]["labels"].items()
    assert template["spec"]["tolerations"] == [{"key": "b"}]
    assert container["resources"]["limits"]["memory"] == "3Gi"
    assert container["resources"]["limits"]["cpu"] == "2"


def test_the_kept_sets_are_those_that_are_promised() -> None:
    """There is a value set for the least, for production, for each way to scale, and for everything on."""
    assert {"minimal", "production", "keda", "hpa", "everything"} <= set(SETS)
