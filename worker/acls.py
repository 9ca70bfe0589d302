"""Who needs which rights in Kafka: a list of ACLs for each role, and nothing beyond it.

`rollcall acls ROLE` prints it as commands, `rollcall check` holds the running principal against it, and the tests run
every role under exactly these. Reading and writing a topic include describing it (Apache Kafka's documentation,
"Authorization and ACLs"); start-up checks describe every declared topic and its settings, which is why all workers may.
"""

import shlex
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

from worker.topics import Topics

Role = Literal[
    "poll", "keys", "pairs", "clusters", "requests", "executor", "operator", "approver", "topics", "subscriber"
]
Resource = Literal["topic", "group", "transactional-id", "cluster"]
Operation = Literal["Read", "Write", "Create", "Describe", "DescribeConfigs", "AlterConfigs"]

ROLES: Final[tuple[Role, ...]] = get_args(Role)
# The roles that are worker processes; each is a stage.
WORKERS: Final[tuple[Role, ...]] = ("poll", "keys", "pairs", "clusters", "requests", "executor")
CLUSTER: Final = "kafka-cluster"
PUBLIC: Final = ("events", "latest", "clusters", "identity", "deletions", "receipts")


@dataclass(frozen=True, slots=True)
class Grant:
    """What is allowed on one resource; `prefixed`: on all whose name starts with `name`."""

    resource: Resource
    name: str
    operations: frozenset[Operation]
    prefixed: bool = False


@dataclass(frozen=True, slots=True)
class _Flow:
    """Topics by the names they have in `Topics`. What every worker reads and writes besides is in `_flow`."""

    reads: tuple[str, ...]
    writes: tuple[str, ...] = ()


_FLOWS: Final[Mapping[Role, _Flow]] = {
    "poll": _Flow(("control",), ("events", "latest", "control")),
    "keys": _Flow(("latest",), ("keys", "links")),
    "pairs": _Flow(("keys",), ("links",)),
    "clusters": _Flow(("links",), ("clusters", "identity", "departures")),
    "requests": _Flow(("latest", "departures", "approvals", "clusters", "requests"), ("requests",)),
    "executor": _Flow(("requests", "approvals"), ("requests", "deletions", "receipts")),
    "operator": _Flow((*PUBLIC, "deadletters", "status", "control"), ("control",)),
    "approver": _Flow((*PUBLIC, "status"), ("approvals",)),
    "subscriber": _Flow(PUBLIC),
    "topics": _Flow(()),
}


def grants(role: Role, topics: Topics, *, group: str = "my-service") -> tuple[Grant, ...]:
    """Return what a role needs; `group` is the subscriber's consumer group."""
    found: defaultdict[tuple[Resource, str, bool], set[Operation]] = defaultdict(set)
    for given in (*_flow(role, topics), *_declared(role, topics), *_others(role, topics, group)):
        found[given.resource, given.name, given.prefixed] |= given.operations
    return tuple(Grant(*where[:2], frozenset(operations), where[2]) for where, operations in sorted(found.items()))


def _allow(resource: Resource, name: str, *operations: Operation, prefixed: bool = False) -> Grant:
    return Grant(resource, name, frozenset(operations), prefixed)


def _flow(role: Role, topics: Topics) -> Iterator[Grant]:
    """Yield what follows from the topics that a role reads and writes."""
    for name in _FLOWS[role].reads:
        yield _allow("topic", getattr(topics, name), "Read", "Describe")
    for name in _FLOWS[role].writes:
        yield _allow("topic", getattr(topics, name), "Write", "Describe")
    if role in WORKERS:
        yield _allow("topic", topics.deadletters, "Write", "Describe")
        yield _allow("topic", topics.status, "Read", "Write", "Describe")
        yield _allow("topic", topics.state(role), "Read", "Write", "Describe")
        yield _allow("group", topics.group(role), "Read", "Describe")
        yield _allow("transactional-id", f"{topics.group(role)}.", "Write", "Describe", prefixed=True)


def _declared(role: Role, topics: Topics) -> Iterator[Grant]:
    """Yield what it takes to compare the topics with their declaration, and to make them so."""
    for spec in topics.declared():
        if role in {*WORKERS, "operator", "topics"}:
            yield _allow("topic", spec.name, "Describe", "DescribeConfigs")
        if role == "topics":
            yield _allow("topic", spec.name, "Create", "AlterConfigs")


def _others(role: Role, topics: Topics, group: str) -> Iterator[Grant]:
    """Yield what it takes to see how far the stages are and what the cluster's clock shows, or to subscribe."""
    if role == "operator":
        for stage in WORKERS:
            yield _allow("group", topics.group(stage), "Describe")
        yield _allow("cluster", CLUSTER, "Describe")
    if role == "subscriber":
        yield _allow("group", group, "Read", "Describe")


def commands(given: Iterable[Grant], principal: str, bootstrap: str) -> list[str]:
    """Return the commands that grant all of it to `principal`, such as `User:poller`: one for all that is alike."""
    alike: defaultdict[tuple[Resource, bool, tuple[Operation, ...]], list[str]] = defaultdict(list)
    for grant in given:
        alike[grant.resource, grant.prefixed, tuple(sorted(grant.operations))].append(grant.name)
    return [
        shlex.join(_arguments(*key, names, principal, bootstrap)) for key, names in sorted(alike.items(), reverse=True)
    ]


def _arguments(
    resource: Resource,
    prefixed: bool,  # ruff: ignore[boolean-type-hint-positional-argument] - a part of a key
    operations: tuple[Operation, ...],
    names: list[str],
    principal: str,
    bootstrap: str,
) -> list[str]:
    line = ["kafka-acls.sh", "--bootstrap-server", bootstrap, "--add", "--allow-principal", principal]
    for operation in operations:
        line += ["--operation", operation]
    if prefixed:
        line += ["--resource-pattern-type", "prefixed"]
    if resource == "cluster":
        return [*line, "--cluster"]
    for name in sorted(names):
        line += [f"--{resource}", name]
    return line
