"""Who needs which rights in Kafka: a list of ACLs for each role, and nothing beyond it.

`rollcall acls ROLE` prints it as commands, `rollcall check` holds the running principal against it, and the tests run
every role under exactly these. Reading and writing a topic include describing it (Apache Kafka's documentation,
"Authorization and ACLs"); start-up checks describe every declared topic and its settings, which is why all workers may.
"""

import shlex
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from worker.errors import UsageError
from worker.topics import REBUILT, STAGES, Topics

Resource = Literal["topic", "group", "transactional-id", "cluster"]
Operation = Literal["Read", "Write", "Create", "Describe", "DescribeConfigs", "AlterConfigs", "Delete"]

# The roles that are worker processes; each is a stage. A plug-in is a role of its own, by its name.
WORKERS: Final = STAGES
ROLES: Final = (*WORKERS, "operator", "approver", "rebuild", "topics", "subscriber")
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


_FLOWS: Final[Mapping[str, _Flow]] = {
    "poll": _Flow(("control",), ("events", "latest", "control")),
    "keys": _Flow(("latest", "replays"), ("keys", "links")),
    "pairs": _Flow(("keys", "replays"), ("links",)),
    "clusters": _Flow(("links", "replays"), ("clusters", "identity", "departures")),
    "requests": _Flow(("latest", "departures", "approvals", "clusters", "requests", "replays"), ("requests",)),
    "executor": _Flow(("requests", "approvals", "replays"), ("requests", "deletions", "receipts")),
    "operator": _Flow((*PUBLIC, "deadletters", "status"), ("control", "replays", "deadletters", "status")),
    "approver": _Flow(("latest", "clusters", "deletions", "receipts", "status"), ("approvals",)),
    "rebuild": _Flow(("latest", "clusters", "identity", "status"), ("clusters", "identity")),
    "subscriber": _Flow(PUBLIC),
    "topics": _Flow(()),
}
_PLUGIN: Final = _Flow(("events", "replays"))


def grants(role: str, topics: Topics, *, group: str = "my-service", outputs: Iterable[str] = ()) -> tuple[Grant, ...]:
    """Return what a role needs; raises UsageError where there is no such role.

    `group` is the subscriber's consumer group, `outputs` are the topics that a plug-in may write to.
    """
    require(role, topics)
    found: defaultdict[tuple[Resource, str, bool], set[Operation]] = defaultdict(set)
    for given in (*_flow(role, topics, outputs), *_declared(role, topics), *_others(role, topics, group)):
        found[given.resource, given.name, given.prefixed] |= given.operations
    return tuple(Grant(*where[:2], frozenset(operations), where[2]) for where, operations in sorted(found.items()))


def require(role: str, topics: Topics) -> None:
    """Raise UsageError where there is no such role."""
    if role not in ROLES and role not in topics.plugins:
        raise UsageError(f"there is no role {role!r}; there are {', '.join((*ROLES, *topics.plugins))}")


def primary(stage: str, topics: Topics) -> str:
    """Return the topic whose group tells how far a stage of handlers has come."""
    return str(getattr(topics, _FLOWS.get(stage, _PLUGIN).reads[0]))


def is_worker(role: str) -> bool:
    """Return whether a role is a stage of workers: a built-in one, or a plug-in."""
    return role in WORKERS or role not in ROLES


def _allow(resource: Resource, name: str, *operations: Operation, prefixed: bool = False) -> Grant:
    return Grant(resource, name, frozenset(operations), prefixed)


def _flow(role: str, topics: Topics, outputs: Iterable[str]) -> Iterator[Grant]:
    """Yield what follows from the topics that a role reads and writes."""
    flow = _FLOWS.get(role, _PLUGIN)
    for name in flow.reads:
        yield _allow("topic", getattr(topics, name), "Read", "Describe")
    for name in (*(getattr(topics, written) for written in flow.writes), *outputs):
        yield _allow("topic", name, "Write", "Describe")
    if is_worker(role):
        yield _allow("topic", topics.deadletters, "Write", "Describe")
        yield _allow("topic", topics.status, "Read", "Write", "Describe")
        yield _allow("topic", topics.state(role), "Read", "Write", "Describe")
        yield _allow("group", topics.group(role), "Read", "Describe")
        yield _allow("transactional-id", f"{topics.group(role)}.", "Write", "Describe", prefixed=True)
        yield _allow("transactional-id", f"{topics.prefix}.deployment", "Write", "Describe")


def _declared(role: str, topics: Topics) -> Iterator[Grant]:
    """Yield what it takes to compare the topics with their declaration, and to make them so."""
    for spec in topics.declared():
        if is_worker(role) or role in {"operator", "topics"}:
            yield _allow("topic", spec.name, "Describe", "DescribeConfigs")
        if role == "topics":
            yield _allow("topic", spec.name, "Create", "AlterConfigs")


def _others(role: str, topics: Topics, group: str) -> Iterator[Grant]:
    """Yield what it takes to see how far the stages are and what the cluster's clock shows, or to subscribe."""
    if role == "operator":
        yield _allow("topic", topics.state("poll"), "Read", "Describe")  # watch lists, and the customers' versions
        for stage in (*WORKERS, *topics.plugins):
            yield _allow("group", topics.group(stage), "Describe")
        yield _allow("cluster", CLUSTER, "Describe")
        for name in ("order", "replay"):
            yield _allow("transactional-id", f"{topics.prefix}.{name}.", "Write", "Describe", prefixed=True)
    if role == "rebuild":
        yield from _rebuild(topics)
    if role == "subscriber":
        yield _allow("group", group, "Read", "Describe")


def _rebuild(topics: Topics) -> Iterator[Grant]:
    """Yield what it takes to build the next generation of the duplicate search's state beside the present one."""
    made = replace(topics, generation=topics.generation + 1, shadow=True)
    present = {spec.name for spec in topics.declared()}
    for stage in REBUILT:
        yield from grants(stage, made)
        yield _allow("group", topics.group(stage), "Describe")  # whether anybody works with the present one still
    for name in (topics.keys, topics.links):  # and whether it has left something unhandled
        yield _allow("topic", name, "Read", "Describe")
    for one in grants("topics", made):
        if one.name not in present:
            yield replace(one, operations=one.operations | {"Delete"})
    for name in (made.clusters, made.identity):
        yield _allow("topic", name, "Read", "Describe")
    yield _allow("transactional-id", f"{topics.prefix}.rebuild.dedupe", "Write", "Describe")


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
