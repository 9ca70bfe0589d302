"""The topics of a deployment, declared once: name, key, cleanup and the settings that the guarantees rest on.

`plan` compares the declaration with what a cluster has; a worker refuses to start over a topic that is missing or
wrong, because a state topic that deletes, or an event topic that trusts the producer's clock, loses data silently.
"""

import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

DAY_MS: Final = 86_400_000

PREFIX_PATTERN: Final = r"^[a-z][a-z0-9_-]*(\.[a-z0-9_-]+)*$"
LONGEST_PREFIX: Final = 63

Cleanup = Literal["compact", "delete"]

# The stages, in the order in which the data flows through them.
POLL: Final = "poll"
STAGES: Final = (POLL, "keys", "pairs", "clusters", "requests", "executor")
# Those whose state follows from the table of customers, and so can be built anew beside the old one.
REBUILT: Final = ("keys", "pairs", "clusters")


def remedy(stage: str) -> str:
    """Return what to do where a stage cannot go on from its state; another name is that of a plug-in."""
    if stage in REBUILT:
        return f"`rollcall rebuild {stage}` builds its state anew from the table of customers."
    if stage == POLL:
        return "Run the release that wrote it, or start over under a new prefix (docs/recover.md, The topics are lost)."
    return f"`rollcall rebuild {stage} --empty` has it begin anew with no memory: docs/recover.md says what that means."


def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition of a key, as Kafka's default partitioner computes it: murmur2, made positive, modulo."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def murmur2(key: bytes) -> int:
    """Return the hash of `key` as Kafka's own clients compute it (`Utils.murmur2`): aiokafka's, four times as fast."""
    length, mixer, bits = len(key), 0x5BD1E995, 0xFFFFFFFF
    found = 0x9747B28C ^ length
    words = length // 4
    for word in struct.unpack_from(f"<{words}I", key):
        mixed = word * mixer & bits
        found = found * mixer & bits ^ (mixed ^ mixed >> 24) * mixer & bits
    if rest := key[words * 4 :]:
        found = (found ^ int.from_bytes(rest, "little")) * mixer & bits
    found = (found ^ found >> 13) * mixer & bits
    return found ^ found >> 15


def prefix_problem(prefix: str) -> str | None:
    """Return why `prefix` cannot be the prefix of a deployment, None if it can.

    The last two rules keep deployments apart: `rollcall.state.keys` is the state of a stage of the default one.
    """
    if not re.fullmatch(PREFIX_PATTERN, prefix) or len(prefix) > LONGEST_PREFIX:
        return "a prefix is words of small letters, digits, - and _ with dots between them, at most 63 characters"
    if prefix.split(".", maxsplit=1)[0] == "rollcall":
        return "internal topics start with rollcall: choose another prefix"
    if prefix.rsplit(".", maxsplit=1)[-1] == "state":
        return "a prefix that ends with state would meet the state topics of another deployment"
    return None


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """One declared topic. `config` is in Kafka's own names and units."""

    name: str
    key: str
    cleanup: Cleanup
    partitions: int
    public: bool
    config: Mapping[str, str] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, str]:
        """Return every setting that is created with the topic and checked later."""
        return {"cleanup.policy": self.cleanup, **self.config}


@dataclass(frozen=True, slots=True)
class Topics:
    """The names of all topics of one deployment.

    Public names start with `prefix`. Internal ones start with `rollcall.`, or with `rollcall.<prefix>.` where the
    prefix is not the default, so that deployments with different prefixes never meet.

    `generation` numbers the state of the duplicate search, with all that belongs to it; one that is being built beside
    the present one (`shadow`) publishes to internal topics, where it is compared with what is published.
    """

    prefix: str = "customers"
    partitions: int = 8
    receipts_retention_ms: int = -1
    plugins: tuple[str, ...] = ()
    generation: int = 1
    shadow: bool = False

    @property
    def internal(self) -> str:
        """Return what internal names start with, without the dot."""
        return "rollcall" if self.prefix == "customers" else f"rollcall.{self.prefix}"

    def _generated(self, name: str) -> str:
        """Return a name as the present generation has it."""
        return name if self.generation == 1 else f"{name}.{self.generation}"

    def _published(self, name: str, short: str) -> str:
        """Return where this generation publishes what belongs into topic `name`."""
        return f"{self.internal}.shadow.{short}.{self.generation}" if self.shadow else name

    @property
    def events(self) -> str:
        """Return the log of all changes."""
        return f"{self.prefix}.events"

    @property
    def latest(self) -> str:
        """Return the table of live customers."""
        return f"{self.prefix}.latest"

    @property
    def clusters(self) -> str:
        """Return the table of which cluster a customer is in."""
        return self._published(f"{self.prefix}.clusters", "clusters")

    @property
    def identity(self) -> str:
        """Return the log of merges, splits, changed winners and reviews."""
        return self._published(f"{self.prefix}.identity", "identity")

    @property
    def deletions(self) -> str:
        """Return the table of deletions, by target and customer."""
        return f"{self.prefix}.deletions"

    @property
    def receipts(self) -> str:
        """Return the log of receipts, one a request."""
        return f"{self.prefix}.receipts"

    @property
    def deadletters(self) -> str:
        """Return where records go that cannot be handled."""
        return f"{self.prefix}.deadletters"

    @property
    def keys(self) -> str:
        """Return the match keys, from the keys stage to the pairs stage."""
        return self._generated(f"{self.internal}.keys")

    @property
    def links(self) -> str:
        """Return nodes and links, from the keys and pairs stages to the clusters stage."""
        return self._generated(f"{self.internal}.links")

    @property
    def departures(self) -> str:
        """Return customers that left a cluster, from the clusters stage to the deletes."""
        return self._published(f"{self.internal}.departures", "departures")

    @property
    def requests(self) -> str:
        """Return requested deletions, from the requests stage to the executor."""
        return f"{self.internal}.requests"

    @property
    def control(self) -> str:
        """Return operators' commands."""
        return f"{self.internal}.control"

    @property
    def approvals(self) -> str:
        """Return operators' decisions on deletions; apart from `control` for an ACL of its own."""
        return f"{self.internal}.approvals"

    @property
    def replays(self) -> str:
        """Return records that are given to a stage once more: dead letters retried, copies replayed."""
        return f"{self.internal}.replays"

    @property
    def status(self) -> str:
        """Return the newest status of every source, stage, plan and command."""
        return f"{self.internal}.status"

    def state(self, stage: str) -> str:
        """Return the changelog of a stage's state."""
        name = f"{self.internal}.state.{stage}"
        return self._generated(name) if stage in REBUILT else name

    def group(self, stage: str) -> str:
        """Return the consumer group of a stage."""
        name = f"{self.prefix}.{stage}"
        return self._generated(name) if stage in REBUILT else name

    def transactional_id(self, stage: str, partition: int) -> str:
        """Return the transactional id of the one producer that writes for this stage and partition."""
        return f"{self.group(stage)}.{partition}"

    def declared(self) -> tuple[TopicSpec, ...]:
        """Return every topic, the state topics of all stages and plug-ins among them."""
        compact = {"delete.retention.ms": str(30 * DAY_MS)}
        table = compact | {"min.compaction.lag.ms": str(DAY_MS)}
        log = {"retention.ms": str(30 * DAY_MS), "message.timestamp.type": "LogAppendTime"}
        kept = log | {"retention.ms": str(self.receipts_retention_ms)}
        state = compact | {"segment.ms": str(DAY_MS), "max.message.bytes": str(4 * 1024 * 1024)}
        rows: list[tuple[str, str, Cleanup, bool, Mapping[str, str]]] = [
            (self.events, "<source>/<customer id>", "delete", True, log),
            (self.latest, "<source>/<customer id>", "compact", True, table),
            (self.clusters, "<source>/<customer id>", "compact", True, compact),
            (self.identity, "cluster id", "delete", True, log),
            (self.deletions, "<target>/<customer id>", "compact", True, compact),
            (self.receipts, "request id", "delete", True, kept),
            (self.deadletters, "key of the failed record", "delete", True, log),
            (self.keys, "<source>/<customer id>", "compact", False, compact),
            (self.links, "node or link", "compact", False, compact),
            (self.departures, "<source>/<customer id>", "delete", False, log),
            (self.requests, "request id", "compact", False, compact),
            (self.control, "addressee", "delete", False, log),
            (self.approvals, "addressee", "delete", False, log),
            (self.replays, "key of the record", "delete", False, log),
            (self.status, "what it is the status of", "compact", False, compact),
            *((self.state(stage), "state key", "compact", False, state) for stage in (*STAGES, *self.plugins)),
        ]
        return tuple(
            TopicSpec(name, key, cleanup, self.partitions, public, config)
            for name, key, cleanup, public, config in rows
        )


@dataclass(frozen=True, slots=True)
class Found:
    """A topic as a cluster has it."""

    partitions: int
    config: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Plan:
    """What has to be done for a cluster to have the declared topics: `create`, `alter` (name to settings), `wrong`.

    `wrong` cannot be mended by a command: a partition count that differs. `there`: names of topics that were to be
    made, and had been made by somebody else by then.
    """

    create: tuple[TopicSpec, ...]
    alter: Mapping[str, Mapping[str, str]]
    wrong: tuple[str, ...]
    there: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        """Return whether nothing needs doing."""
        return not (self.create or self.alter or self.wrong)

    def with_late(self, late: Sequence[TopicSpec], of_late: "Plan") -> "Plan":
        """Return the plan without making the topics `late`, which are there, and with what they lack."""
        there = tuple(spec.name for spec in late)
        create = tuple(spec for spec in self.create if spec.name not in there)
        return Plan(create, {**self.alter, **of_late.alter}, self.wrong + of_late.wrong, there)

    def problems(self) -> list[str]:
        """Return the plan as a list of sentences, for a person who has to mend it."""
        lines = [f"topic {spec.name} is missing" for spec in self.create]
        for name, settings in self.alter.items():
            lines += [f"topic {name}: {setting} should be {value}" for setting, value in settings.items()]
        return lines + list(self.wrong)


def plan(declared: Iterable[TopicSpec], found: Mapping[str, Found]) -> Plan:
    """Compare `declared` with what is `found` (by name)."""
    create: list[TopicSpec] = []
    alter: dict[str, dict[str, str]] = {}
    wrong: list[str] = []
    for spec in declared:
        have = found.get(spec.name)
        if have is None:
            create.append(spec)
            continue
        if have.partitions != spec.partitions:
            wrong.append(
                f"topic {spec.name} has {have.partitions} partitions, the configuration says {spec.partitions}: keys "
                "would move under their state. Set kafka.partitions back, or start over under a new prefix and resync"
            )
        differing = {name: value for name, value in spec.settings.items() if have.config.get(name) != value}
        if differing:
            alter[spec.name] = differing
    return Plan(tuple(create), alter, tuple(wrong))
