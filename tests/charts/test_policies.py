"""What keeps pods apart from the rest and alive through a drain: each pod under exactly one budget and one policy."""

from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from tests.charts.rendering import OAUTH, STAGES, Rendered, merged, render, selects, value_set


def ports(rule: dict[str, Any]) -> set[tuple[Any, str]]:
    """Return the ports of a rule, with their protocols."""
    return {(port["port"], port["protocol"]) for port in rule["ports"]}


def egress(rendered: Rendered, component: str) -> list[dict[str, Any]]:
    """Return the egress rules of a component's policy."""
    rules: list[dict[str, Any]] = rendered.one("NetworkPolicy", f"-{component}")["spec"]["egress"]
    return rules


def test_every_worker_is_under_exactly_one_budget(rendered: Rendered) -> None:
    """A budget that selects nothing protects nobody, and two that select one pod block its eviction."""
    budgets = rendered.all("PodDisruptionBudget")
    selectors = [budget["spec"]["selector"] for budget in budgets]
    selected = dict.fromkeys(range(len(budgets)), 0)
    for name, pod in rendered.pods():
        found = [number for number, one in enumerate(selectors) if selects(one, pod["metadata"]["labels"])]
        assert len(found) == ("rollcall/worker" in pod["metadata"]["labels"]), name
        for number in found:
            selected[number] += 1
    assert set(selected.values()) <= {1}
    assert len(budgets) == len(rendered.workloads())


def test_no_budget_blocks_a_drain(rendered: Rendered) -> None:
    """At least one pod may always go, and one that is not ready never holds up its node."""
    for budget in rendered.all("PodDisruptionBudget"):
        assert budget["spec"]["maxUnavailable"] >= 1
        assert "minAvailable" not in budget["spec"]
        assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_every_pod_is_under_exactly_one_network_policy(rendered: Rendered) -> None:
    """Workers, the topics job and the test pod each have a policy of their own, for both directions."""
    for name, pod in rendered.pods():
        labels = pod["metadata"]["labels"]
        found = [one for one in rendered.all("NetworkPolicy") if selects(one["spec"]["podSelector"], labels)]
        assert len(found) == 1, name
        assert found[0]["spec"]["policyTypes"] == ["Ingress", "Egress"]


def test_policies_of_hooks_come_with_their_hooks(rendered: Rendered) -> None:
    """What a hook's pod needs is a hook too, made before it: the release's own objects are not there yet."""
    for manifest in rendered.manifests:
        annotations = manifest["metadata"].get("annotations", {})
        component = manifest["metadata"].get("labels", {}).get("app.kubernetes.io/component")
        if component in {"topics", "test"}:
            assert "helm.sh/hook" in annotations, manifest["metadata"]["name"]
            weight = int(annotations.get("helm.sh/hook-weight", "0"))
            assert (weight == -10) is (manifest["kind"] not in {"Job", "Pod"})
    for kind, name in (("Job", "topics"), ("Pod", "test")):
        spec = rendered.one(kind, f"-{name}")["spec"]
        spec = spec.get("template", {}).get("spec", spec)
        for volume in spec["volumes"]:
            if "configMap" in volume:
                wanted = rendered.one("ConfigMap", volume["configMap"]["name"])
                assert wanted["metadata"]["labels"]["app.kubernetes.io/component"] == name


def test_a_worker_reaches_what_it_needs_and_nothing_else(production: Rendered) -> None:
    """All reach DNS and the brokers; the poller the upstreams; the executor the targets; nobody anything else."""
    for stage in STAGES:
        dns, brokers, *more = egress(production, stage)
        assert ports(dns) == {(53, "UDP"), (53, "TCP")}
        assert ports(brokers) == {(9093, "TCP")}
        assert brokers["to"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kafka"}}}]
        assert [ports(rule) for rule in more] == {
            "poll": [{(443, "TCP"), (8443, "TCP")}],
            "executor": [{(443, "TCP")}],
        }.get(stage, [])
    assert len(egress(production, "topics")) == 2


def test_the_ports_are_those_of_the_configuration(rendered: Rendered) -> None:
    """Each upstream and each broker of the configuration can be reached at its port."""
    workers = next(m for m in rendered.all("ConfigMap") if "state_dir" in m.get("data", {}).get("rollcall.yaml", ""))
    config = yaml.safe_load(workers["data"]["rollcall.yaml"])
    opened = {port for rule in egress(rendered, "poll") for port, _ in ports(rule)}
    for address in config["kafka"]["bootstrap"].split(","):
        assert int(address.strip().rpartition(":")[2]) in opened
    for source in config["sources"].values():
        url = urlsplit(source["url"])
        assert (url.port or {"http": 80, "https": 443}[url.scheme]) in opened


@pytest.mark.parametrize(
    ("bootstrap", "opened", "asked"),
    [
        ("kafka", {9092}, "kafka:9092"),
        ("kafka:9093,", {9093}, "kafka:9093"),
        (" a:9093 , b,, [2001:db8::1]:9094,[2001:db8::2]", {9093, 9092, 9094}, "a:9093,b:9092,[2001:db8::1]:9094,"),
    ],
)
def test_a_broker_without_a_port_has_kafkas(bootstrap: str, opened: set[int], asked: str) -> None:
    """A list of brokers may leave a port out, or have empty parts, as Kafka's clients take it; no rule is of port 0."""
    values = {"config": {"kafka": {"bootstrap": bootstrap}}, "autoscaling": {"type": "keda"}}
    rendered = render(merged(value_set("minimal"), values))
    for component in ("keys", "topics"):
        assert ports(egress(rendered, component)[1]) == {(port, "TCP") for port in opened}
    (trigger,) = rendered.one("ScaledObject", "-keys")["spec"]["triggers"]
    assert trigger["metadata"]["bootstrapServers"].startswith(asked)
    assert not trigger["metadata"]["bootstrapServers"].endswith(",")


def test_the_token_endpoint_is_reached_by_whoever_logs_on() -> None:
    """With OAUTHBEARER each worker, and the topics job, gets to the port of the token endpoint that it uses."""
    own = OAUTH["oauth"] | {"token_url": "https://admin.example.com/token"}
    kafka = {"config": {"kafka": OAUTH}, "topics": {"kafka": {"oauth": own}}}
    rendered = render(merged(value_set("minimal"), kafka))
    for component, port in (("poll", 8443), ("keys", 8443), ("topics", 443)):
        assert [ports(rule) for rule in egress(rendered, component)][2] == {(port, "TCP")}
        assert "to" not in egress(rendered, component)[2]
    there = [{"ipBlock": {"cidr": "203.0.113.0/24"}}]
    rendered = render(merged(value_set("minimal"), kafka | {"networkPolicy": {"oauth": {"to": there}}}))
    assert egress(rendered, "keys")[2]["to"] == there
    password = {"sasl_mechanism": "PLAIN", "username": "me", "password": {"file": "/secrets/rollcall/password"}}
    assert len(egress(render(merged(value_set("minimal"), {"config": {"kafka": OAUTH | password}})), "keys")) == 2


def test_upstreams_are_public_addresses_unless_the_application_may_call_others(minimal: Rendered) -> None:
    """Private ranges stay closed, as the application itself keeps them, until a source allows them."""
    rule = egress(minimal, "poll")[-1]
    closed = {address for block in rule["to"] for address in block["ipBlock"]["except"]}
    assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fc00::/7"} <= closed
    private = {"config": {"sources": {"dealers": {"allow_private_addresses": True}}}}
    assert "to" not in egress(render(merged(value_set("minimal"), private)), "poll")[-1]


def test_metrics_are_read_by_those_who_may(everything: Rendered, minimal: Rendered) -> None:
    """The one port that is open is declared by the container; where readers are named, `helm test` is one of them."""
    for rendered in (everything, minimal):
        for stage, workload in rendered.workloads().items():
            (rule,) = rendered.one("NetworkPolicy", workload["metadata"]["name"])["spec"]["ingress"]
            declared = {port["name"] for port in rendered.worker(stage)["ports"]}
            assert {port for port, _ in ports(rule)} <= declared, workload["metadata"]["name"]
    (rule,) = everything.one("NetworkPolicy", "-keys")["spec"]["ingress"]
    tester = everything.one("Pod", "-test")["metadata"]["labels"]
    assert any(selects(peer["podSelector"], tester) for peer in rule["from"] if "podSelector" in peer)


def test_telemetry_and_proxies_are_reached_where_they_are_named(everything: Rendered) -> None:
    """Further rules are taken over, for every worker or for one."""
    assert any(ports(rule) == {(587, "TCP")} for rule in egress(everything, "welcome-mail"))
    for stage in STAGES:
        rules = egress(everything, stage)
        assert any(ports(rule) == {(4317, "TCP"), (4318, "TCP")} for rule in rules)
        assert any(ports(rule) == {(3128, "TCP")} for rule in rules)


def test_policies_can_be_left_to_somebody_else() -> None:
    """Switched off, not one is made."""
    rendered = render(merged(value_set("minimal"), {"networkPolicy": {"enabled": False}}))
    assert rendered.all("NetworkPolicy") == []


def test_the_service_and_the_monitor_select_the_workers_and_nobody_else(rendered: Rendered) -> None:
    """Neither the topics job nor the test pod is taken for a worker; the ports they name are declared."""
    service = rendered.one("Service", "")
    (port,) = service["spec"]["ports"]
    monitors = rendered.all("PodMonitor")
    selectors = [{"matchLabels": service["spec"]["selector"]}, *(monitor["spec"]["selector"] for monitor in monitors)]
    for _, pod in rendered.pods():
        labels = pod["metadata"]["labels"]
        for selector in selectors:
            assert selects(selector, labels) is ("rollcall/worker" in labels)
    for stage in rendered.workloads():
        declared = {one["name"] for one in rendered.worker(stage)["ports"]}
        assert port["targetPort"] in declared
        for monitor in monitors:
            assert {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]} <= declared
