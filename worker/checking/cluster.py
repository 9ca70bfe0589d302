"""Kafka: it can be reached, the topics are as declared, each role may do its work, and the state is ours."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

from aiokafka.errors import KafkaError

from worker import acls, inspect
from worker.checking.clocks import apart
from worker.checking.secrets import readable
from worker.config import Config
from worker.errors import ConfigError, RollcallError
from worker.kafka import Admin, Connection
from worker.rights import Rights
from worker.topics import Found, TopicSpec, plan

_MANY: Final = 3


async def problems(config: Config, roles: Sequence[str]) -> list[str]:
    """Return what is wrong with the cluster, in view of these roles."""
    if not readable(config.file.kafka.secrets()):
        return []
    try:
        async with Connection(config.file.kafka).admin() as admin:
            rights = Rights(admin)
            refused, hidden = await _refused(config, roles, rights)
            topics, there = await _topics(config, admin, hidden)
            outputs = await _outputs(config, admin, roles, hidden)
            clock = apart("kafka.bootstrap", await rights.clock())
        status = there.get(config.topics.status)
        whole = status is not None and status.partitions == config.topics.partitions
        state = await _other_deployment(config, roles) if whole else []
    except RollcallError as error:
        return [f"kafka: {error.message}. {error.hint or ''}".rstrip(" .")]
    except (KafkaError, TimeoutError) as error:
        return [f"kafka: its rights cannot be asked for ({type(error).__name__}): try again"]
    return [*refused, *topics, *outputs, *clock, *state]


async def _refused(config: Config, roles: Sequence[str], rights: Rights) -> tuple[list[str], set[str]]:
    """Return what we may not do, by role, and which topics we may not look at."""
    lines, hidden = [], set[str]()
    for role in roles:
        by_kind: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        plugin = config.file.handlers.plugins.get(role)
        needed = acls.grants(role, config.topics, outputs=() if plugin is None else plugin.outputs)
        for grant, operations in await rights.missing(needed):
            for operation in sorted(operations):
                by_kind[grant.resource, operation].append(grant.name)
                if grant.resource == "topic" and operation in {"Describe", "DescribeConfigs"}:
                    hidden.add(grant.name)
        lines += [
            f"kafka: {role} may not {operation} {resource} {_listed(names)}: `rollcall acls {role}` prints what "
            "grants it"
            for (resource, operation), names in sorted(by_kind.items())
        ]
    return lines, hidden


async def _topics(config: Config, admin: Admin, hidden: set[str]) -> tuple[list[str], Mapping[str, Found]]:
    """Return what is wrong with the topics, and those that there are, of those that we may look at."""
    seen = [spec for spec in config.topics.declared() if spec.name not in hidden]
    found = await admin.found(spec.name for spec in seen)
    wanted = plan(seen, found)
    apply = "`rollcall topics apply`"
    lines = [f"topics: {_missing(wanted.create, len(seen))}: {apply} makes them"] if wanted.create else []
    lines += [
        f"topics: {name}: {setting} should be {value}: {apply} mends it"
        for name, settings in wanted.alter.items()
        for setting, value in settings.items()
    ]
    return lines + _uneven(wanted.wrong), found


async def _outputs(config: Config, admin: Admin, roles: Sequence[str], hidden: set[str]) -> list[str]:
    """Return which topics that plug-ins write to are not there, of those that we may look at."""
    wanted = [
        (f"handlers.plugins.{name}.outputs", topic)
        for name, settings in config.file.handlers.plugins.items()
        if name in roles
        for topic in settings.outputs
        if topic not in hidden
    ]
    found = await admin.found({topic for _, topic in wanted}) if wanted else {}
    return [
        f"{path}: there is no topic {topic}; make it first, Rollcall makes its own topics only"
        for path, topic in wanted
        if topic not in found
    ]


def _uneven(wrong: Sequence[str]) -> list[str]:
    """Return what is wrong with the topics' numbers of partitions, said once of all that have the same one."""
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for line in wrong:
        topic, _, what = line.partition(" has ")
        alike[what].append(topic.removeprefix("topic "))
    return [
        f"kafka.partitions: {f'topic {names[0]} has' if len(names) == 1 else f'topics {_listed(names)} have'} {what}"
        for what, names in alike.items()
    ]


def _missing(specs: Sequence[TopicSpec], of: int) -> str:
    names = [spec.name for spec in specs]
    return f"{_listed(names)} {'is' if len(names) == 1 else 'are'} missing ({len(names)} of {of})"


def _listed(names: Sequence[str]) -> str:
    if len(names) <= _MANY:
        return ", ".join(names)
    return f"{', '.join(names[:_MANY])} and {len(names) - _MANY} more"


async def _other_deployment(config: Config, roles: Sequence[str]) -> list[str]:
    """Compare our pepper and our deployment's name with those of the state, as the status topic tells them."""
    if not any(map(acls.is_worker, roles)):
        return []
    rows = await inspect.statuses(config)
    return _other_pepper(config, rows) + _other_name(config, rows)


def _other_pepper(config: Config, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    try:
        ours = config.hasher().check()
    except ConfigError:
        return []
    theirs = {row["pepper"] for row in rows if row.get("pepper")}
    if theirs <= {ours}:
        return []
    others = ", ".join(sorted(theirs - {ours}))
    text = f"the deployment's state was made under another one ({others}, this is {ours}): give the old value back"
    return [f"pepper: {text}; a new one needs a new prefix and a resync"]


def _other_name(config: Config, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    ours, prefix = config.file.deployment, config.topics.prefix
    theirs = {row.get("name", "") for row in rows if row.get("kind") == "deployment"}
    text = "two deployments need two prefixes, one keeps its name"
    return [
        f"deployment: is {ours!r}, and the topics under the prefix {prefix!r} belong to {name!r}: {text}"
        for name in sorted(theirs - {ours})
    ]
