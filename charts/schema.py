"""Write the chart's values.schema.json: the chart's own part by hand, `config` from the application's own schema.

The schema is closed: a misspelt value is refused instead of ignored. What has a default is required: Helm takes the
default of a null key away before it looks at the schema, so a bare `executor:` would lose its `enabled: false`. Where a
value is refused for a reason, the reason stands as the only value permitted, because that is what Helm prints ("value
must be '...'").
`python charts/schema.py` writes it, `--check` only compares (a test does that too).
"""

import json
import sys
from pathlib import Path
from typing import Any, Final

from worker.config import json_schema
from worker.settings import NAME_PATTERN
from worker.topics import STAGES

Schema = dict[str, Any]

TARGET: Final = Path(__file__).parent / "rollcall" / "values.schema.json"
OFF: Final = ("requests", "executor")  # until somebody switches them on: they delete

# The settings that are the chart's, and what to use instead.
CHARTS_OWN: Final = {
    "listen": "leave it out: the chart listens on `port`",
    "state_dir": "leave it out: the chart mounts `worker.state` there",
    "grace": "leave it out and set `drainSeconds`: the pod's grace period is tied to it",
}
FILES_ONLY: Final = "leave it out: Secrets are mounted as files; list the Secret in `secrets` and give `file`"
POLL_SCALES: Final = "leave it out: one source has one owner, so a poller does not scale by itself; set `replicas`"

# What only editors need.
EDITORS: Final = frozenset({"title", "default", "format", "discriminator"})

NAME: Final = {"type": "string", "pattern": "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", "maxLength": 253}
OPTIONAL_NAME: Final = {"type": "string", "pattern": "^([a-z0-9]([a-z0-9.-]*[a-z0-9])?)?$", "maxLength": 253}
STRINGS: Final = {"type": "object", "additionalProperties": {"type": "string"}}
OBJECT: Final = {"type": "object"}  # Kubernetes' own: the API server checks it
OBJECTS: Final = {"type": "array", "items": {"type": "object"}}
TEXT: Final = {"type": "string"}
FLAG: Final = {"type": "boolean"}


def closed(properties: Schema, **more: Any) -> Schema:
    """Return the schema of an object that has these properties and no others."""
    return {"type": "object", "additionalProperties": False, "properties": properties, **more}


def whole(properties: Schema, *optional: str) -> Schema:
    """Return the schema of an object that has all of these properties but the optional ones, and no others."""
    return closed(properties, required=sorted(set(properties) - set(optional)))


def partial(node: Any) -> Any:
    """Return a schema in which nothing is required: of what is put over other values."""
    if isinstance(node, dict) and node.get("additionalProperties") is False:
        kept = {name: item for name, item in node.items() if name != "required"}
        return kept | {"properties": {name: partial(item) for name, item in node["properties"].items()}}
    return node


def number(low: int, high: int) -> Schema:
    """Return the schema of a whole number from `low` to `high`."""
    return {"type": "integer", "minimum": low, "maximum": high}


def listing(items: Schema) -> Schema:
    """Return the schema of a list without repetitions."""
    return {"type": "array", "items": items, "uniqueItems": True}


def one_of(*values: str) -> Schema:
    """Return the schema of a choice."""
    return {"enum": list(values)}


def named(key: str) -> Schema:
    """Return the schema of a list of Kubernetes' objects that have a name under `key`."""
    return {"type": "array", "items": {"type": "object", "required": [key], "properties": {key: {"type": "string"}}}}


def ports(low: int) -> Schema:
    """Return the schema of a list of ports, with at least `low` of them."""
    return listing(number(1, 65535)) | {"minItems": low}


def worker() -> Schema:
    """Return the schema of `worker`, which every workload may override."""
    probe = whole({"period": number(1, 300), "failures": number(1, 100)})
    return whole({
        "enabled": FLAG,
        "replicas": number(0, 1000),
        "resources": closed({"requests": OBJECT, "limits": OBJECT, "claims": OBJECTS}),
        "state": whole({
            "type": one_of("emptyDir", "volume"),
            "sizeGiB": number(1, 16384),
            "storageClassName": TEXT,
        }),
        "secrets": listing(NAME),
        "egress": OBJECTS,
        "env": named("name"),
        "volumes": named("name"),
        "volumeMounts": named("mountPath"),
        "initContainers": named("name"),
        "containers": named("name"),
        "podLabels": STRINGS,
        "podAnnotations": STRINGS,
        "nodeSelector": STRINGS,
        "tolerations": OBJECTS,
        "affinity": OBJECT,
        "topologySpread": whole({
            "keys": listing(TEXT),
            "whenUnsatisfiable": one_of("ScheduleAnyway", "DoNotSchedule"),
        }),
        "priorityClassName": TEXT,
        "runtimeClassName": TEXT,
        "minReadySeconds": number(0, 3600),
        "progressDeadlineSeconds": number(60, 86400),
        "revisionHistoryLimit": number(0, 100),
        "probes": whole({
            "startup": whole({"seconds": number(60, 86400)}),
            "liveness": probe,
            "readiness": probe,
        }),
        "pdb": whole({"enabled": FLAG, "maxUnavailable": number(1, 1000)}),
    })


def autoscaling() -> Schema:
    """Return the schema of `autoscaling`; its `type` is one choice, so no workload can have two scalers."""
    return whole(
        {
            "type": one_of("none", "keda", "hpa"),
            "minReplicas": number(1, 1000),
            "maxReplicas": {"type": ["integer", "null"], "minimum": 1, "maximum": 1000},
            "lagThreshold": number(1, 1_000_000_000),
            "cpuUtilization": number(1, 100),
            "scaleDown": whole({"stabilizationSeconds": number(0, 3600), "periodSeconds": number(1, 1800)}),
        },
        "maxReplicas",
    )


def chart() -> Schema:
    """Return the schema of all values but `config`, and the definitions that it uses."""
    peers = {"type": "array", "items": {"type": "object", "minProperties": 1}}
    container = closed({"requests": OBJECT, "limits": OBJECT, "claims": OBJECTS})
    own = {"$ref": "#/$defs/workload"}
    return {
        "nameOverride": {"type": "string", "maxLength": 40},
        "fullnameOverride": {"type": "string", "maxLength": 52},
        "commonLabels": STRINGS,
        "image": whole({
            "repository": {"type": "string", "minLength": 1},
            "tag": TEXT,
            "digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
            "pullPolicy": one_of("IfNotPresent", "Always", "Never"),
            "pullSecrets": listing(NAME),
        }),
        "secrets": listing(NAME),
        "drainSeconds": number(10, 3600),
        "port": number(1024, 65535),
        "worker": {"$ref": "#/$defs/worker"},
        "autoscaling": {"$ref": "#/$defs/autoscaling"},
        "keda": whole({
            "pollingInterval": number(1, 3600),
            "kafkaVersion": {"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
            "authentication": whole({
                "existing": OPTIONAL_NAME,
                "secretName": OPTIONAL_NAME,
                "keys": closed(dict.fromkeys(("username", "password", "ca", "cert", "key"), TEXT)),
            }),
        }),
        "workloads": whole({
            "poll": {"$ref": "#/$defs/poll"},
            **dict.fromkeys(STAGES[1:], own),
            **dict.fromkeys(OFF, own | {"required": ["enabled"]}),
        }),
        "plugins": {
            "type": "object",
            "patternProperties": {NAME_PATTERN: own},
            "additionalProperties": False,
        },
        "topics": whole({
            "enabled": FLAG,
            "kafka": {"$ref": "#/$defs/KafkaSettings"},
            "secrets": listing(NAME),
            "egress": OBJECTS,
            "volumes": named("name"),
            "volumeMounts": named("mountPath"),
            "backoffLimit": number(0, 100),
            "deadlineSeconds": number(30, 86400),
            "resources": container,
        }),
        "serviceAccount": whole({"create": FLAG, "name": OPTIONAL_NAME, "annotations": STRINGS}),
        "podSecurityContext": OBJECT,
        "securityContext": OBJECT,
        "networkPolicy": whole({
            "enabled": FLAG,
            "dns": whole({"to": peers, "port": number(1, 65535)}),
            "brokers": whole({"to": peers, "ports": ports(0)}),
            "oauth": whole({"to": peers}),
            "upstreams": whole({"to": peers}),
            "targets": whole({"to": peers}),
            "telemetry": whole({"to": peers, "ports": ports(1)}),
            "metricsFrom": peers,
        }),
        "metrics": whole({
            "podMonitor": whole({
                "enabled": FLAG,
                "labels": STRINGS,
                "interval": {"type": "string", "pattern": "^[1-9][0-9]*(s|m)$"},
            }),
            "rules": whole({
                "enabled": FLAG,
                "labels": STRINGS,
                "staleSeconds": number(60, 604_800),
                "checkpointSeconds": number(60, 604_800),
            }),
            "dashboard": whole({"enabled": FLAG, "labels": STRINGS}),
        }),
        "tests": whole({"deadlineSeconds": number(10, 3600)}),
        "extraObjects": {"type": "array", "items": {"type": ["object", "string"]}},
        "global": OBJECT,  # Helm's own
    }


def definitions() -> Schema:
    """Return what the chart's part refers to."""
    over = partial(worker())["properties"]
    return {
        "worker": worker(),
        "autoscaling": autoscaling(),
        "workload": closed(over | {"autoscaling": partial(autoscaling())}),
        "poll": closed(over | {"autoscaling": {"const": POLL_SCALES}}),
    }


def by_kind(choices: list[Schema], known: Schema) -> Schema:
    """Return a choice between kinds as conditions, so that Helm names what is wrong with the kind that was meant.

    A `oneOf` would say that none of all kinds matches.
    """
    kinds = {known[choice["$ref"].rpartition("/")[2]]["properties"]["kind"]["const"]: choice for choice in choices}
    return {
        "type": "object",
        "required": ["kind"],
        "properties": {"kind": {"enum": sorted(kinds)}},
        "allOf": [
            {"if": {"properties": {"kind": {"const": kind}}, "required": ["kind"]}, "then": choice}
            for kind, choice in sorted(kinds.items())
        ],
    }


def opened(choice: Schema) -> Schema:
    """Return a choice between kinds that takes others too: an image may have adapters that are not known here.

    Of theirs the chart wants the `url`, for the network policy; the rest is looked at by the worker.
    """
    url = {"required": ["url"], "properties": {"url": TEXT}}
    others = {"if": {"properties": {"kind": choice["properties"]["kind"]}}, "else": url}
    kind = {"type": "string", "pattern": NAME_PATTERN}
    return choice | {"properties": {"kind": kind}, "allOf": [*choice["allOf"], others]}


def tidied(node: Any, known: Schema) -> Any:
    """Return a part of the application's schema as Helm's validator understands it, without what only editors need."""
    if isinstance(node, list):
        return [tidied(item, known) for item in node]
    if not isinstance(node, dict):
        return node
    kept: Schema = {}
    for key, value in node.items():
        if key == "properties":
            kept[key] = {name: tidied(item, known) for name, item in value.items()}
        elif key not in EDITORS:
            kept[key] = tidied(value, known)
    choices: list[Schema] = kept.get("oneOf", [])
    if choices and all("$ref" in choice for choice in choices):
        kept.pop("oneOf")
        kept |= by_kind(choices, known)
    return kept


def application() -> tuple[Schema, Schema]:
    """Return the schema of `config` and its definitions, less what is the chart's."""
    raw = json_schema()
    known = raw.pop("$defs")
    config = tidied({key: value for key, value in raw.items() if key not in {"$schema", "title"}}, known)
    found = {name: tidied(definition, known) for name, definition in known.items()}
    config["properties"] |= {name: {"const": reason} for name, reason in CHARTS_OWN.items()}
    config["required"] = ["kafka", "pepper", "prefix", "sources"]
    config["properties"]["kafka"] |= {"required": ["bootstrap", "partitions", "sasl_mechanism", "security_protocol"]}
    sources = config["properties"]["sources"]["patternProperties"]
    sources |= {name: opened(choice) for name, choice in sources.items()}
    found["DeletesSettings"]["properties"]["targets"]["additionalProperties"] = False
    found["Secret"] = closed(
        {"file": {"type": "string", "pattern": "^/"}, "env": {"const": FILES_ONLY}}, required=["file"]
    )
    return config, found


def schema() -> Schema:
    """Return the whole of values.schema.json."""
    config, found = application()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Values of the chart rollcall",
        **whole({**chart(), "config": config}, "global"),
        "$defs": definitions() | found,
    }


def main(arguments: list[str]) -> int:
    """Write the schema; with `--check` return 1 where the written one is another."""
    text = json.dumps(schema(), indent=1, sort_keys=True) + "\n"
    if "--check" in arguments:
        same = TARGET.read_text(encoding="utf-8") == text
        sys.stdout.write("" if same else f"{TARGET.name} is out of date: run python charts/schema.py\n")
        return 0 if same else 1
    TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
