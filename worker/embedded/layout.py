"""The data folder of an embedded broker: what lies in it, who uses it, and the configuration rendered into it.

    cluster.json            the cluster's id and ports
    lock                    held (flock) by every process that uses the folder; names its holder
    node-1/                 server.properties, log4j2.properties, data/, tmp/, broker.log, console.log,
                            started (empty until the broker says that it has bound every listener)
    node-2/ ...

A lock that is held proves that its holder lives, whatever became of the number of a process that once wrote itself into
it. Every listener binds 127.0.0.1.
"""

import asyncio
import base64
import contextlib
import fcntl
import json
import os
import random
import shutil
import socket
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Final, Literal

from worker.embedded import guard
from worker.errors import EmbeddedKafkaError

Security = Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"]

HOST: Final = "127.0.0.1"
BROKER_LOG: Final = "broker.log"
STARTED: Final = "started"
_PORTS: Final = range(15_000, 32_000)
_PORT_TRIES: Final = 1_000
_LOCK_TRIES: Final = 5
_LOCK_POLL_SECONDS: Final = 0.05

_LOGGING: Final = f"""\
rootLogger.level=info
rootLogger.appenderRef.file.ref=file
rootLogger.appenderRef.started.ref=started
appender.file.type=RollingFile
appender.file.name=file
appender.file.fileName={BROKER_LOG}
appender.file.filePattern={BROKER_LOG}.%i
appender.file.layout.type=PatternLayout
appender.file.layout.pattern=%d{{ISO8601}} %p %m (%c{{1}})%n
appender.file.policies.type=Policies
appender.file.policies.start.type=OnStartupTriggeringPolicy
appender.file.policies.size.type=SizeBasedTriggeringPolicy
appender.file.policies.size.size=10MB
appender.file.strategy.type=DefaultRolloverStrategy
appender.file.strategy.max=2
appender.started.type=File
appender.started.name=started
appender.started.fileName={STARTED}
appender.started.append=false
appender.started.layout.type=PatternLayout
appender.started.filter.started.type=RegexFilter
appender.started.filter.started.regex=.*Kafka Server started.*
appender.started.filter.started.onMatch=ACCEPT
appender.started.filter.started.onMismatch=DENY
"""


@dataclass(frozen=True, slots=True)
class Ports:
    """One node's ports: for clients, for its peers and our own probe, and for the controllers."""

    client: int
    internal: int
    controller: int


@dataclass(frozen=True, slots=True)
class Holder:
    """Who uses a data folder: a process and what it is (`guard.record`)."""

    pid: int
    role: guard.Role


class InUseError(EmbeddedKafkaError):
    """Another process uses the data folder."""

    def __init__(self, folder: Path, user: Holder | None) -> None:
        """Say who uses `folder`; `user` is None where it has just ended."""
        super().__init__(
            f"opening {folder} for an embedded Kafka: process {user.pid if user else '(ended)'} uses it.",
            hint="Stop that one first (`rollcall kafka stop` where it runs in the background), or use another folder.",
        )
        self.user = user


@dataclass(frozen=True, slots=True)
class Layout:
    """A data folder with the identity of the cluster in it."""

    folder: Path
    cluster_id: str
    ports: tuple[Ports, ...]

    @property
    def bootstrap(self) -> str:
        """The `host:port` of every node's client listener, with commas."""
        return ",".join(f"{HOST}:{ports.client}" for ports in self.ports)

    def node_folder(self, node_id: int) -> Path:
        """Return the folder of the node with that id, counted from 1."""
        return self.folder / f"node-{node_id}"

    def write(self, security: Security, config: Mapping[str, str]) -> None:
        """Write `cluster.json` and every node's files; what Kafka itself has written stays."""
        for node_id in range(1, len(self.ports) + 1):
            node = self.node_folder(node_id)
            shutil.rmtree(node / "tmp", ignore_errors=True)  # native libraries that killed brokers left
            (node / "tmp").mkdir(parents=True)
            (node / "log4j2.properties").write_text(_LOGGING, "ascii")
            (node / "server.properties").write_text(render(properties(self, node_id, security, config)), "ascii")
        text = json.dumps({"cluster_id": self.cluster_id, "ports": [asdict(ports) for ports in self.ports]})
        fresh = self.folder / "cluster.json.new"
        fresh.write_text(text, "utf-8")
        fresh.replace(self.folder / "cluster.json")


def read(folder: Path) -> Layout | None:
    """Return what is in the folder, None where no cluster is; raise `EmbeddedKafkaError` where it can't be read."""
    try:
        stored = json.loads((folder / "cluster.json").read_text("utf-8"))
        return Layout(folder, stored["cluster_id"], tuple(Ports(**ports) for ports in stored["ports"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EmbeddedKafkaError(
            f"reading {folder / 'cluster.json'} of an embedded Kafka: {type(error).__name__}.",
            hint="It was altered or torn: mend it, or remove the whole folder and the data in it.",
        ) from error


def plan(folder: Path, nodes: int, *, keep_ports: bool = True) -> Layout:
    """Return the cluster to run in the folder: the one that is there, on its ports where all are free, or a new one.

    Raises `EmbeddedKafkaError` where the folder holds a cluster of another size.
    """
    found = read(folder)
    if found is None:
        return Layout(folder, _cluster_id(), free_ports(nodes))
    if len(found.ports) != nodes:
        raise EmbeddedKafkaError(
            f"starting {nodes} node(s) in {folder}: it holds a cluster of {len(found.ports)}.",
            hint="Use another folder, or ask for as many nodes as there are.",
        )
    usable = keep_ports and all(_is_free(port) for ports in found.ports for port in astuple(ports))
    return found if usable else Layout(folder, found.cluster_id, free_ports(nodes))


def properties(layout: Layout, node_id: int, security: Security, config: Mapping[str, str]) -> dict[str, str]:
    """Return the broker configuration of one node; `config` overrides any of it.

    `security` is the protocol of the listener CLIENT, the one that `bootstrap` names; its key store or SASL settings
    come with `config`, as `listener.name.client.*`. Nodes talk on INTERNAL and CONTROLLER, plain and on the loopback.
    Names: "Broker Configs" in Apache Kafka's documentation.
    """
    ports, nodes = layout.ports[node_id - 1], len(layout.ports)
    replicas, in_sync = str(min(nodes, 3)), str(min(nodes, 2))
    own = {"CLIENT": ports.client, "INTERNAL": ports.internal, "CONTROLLER": ports.controller}
    voters = (f"{number}@{HOST}:{peer.controller}" for number, peer in enumerate(layout.ports, start=1))
    return {
        "process.roles": "broker,controller",
        "node.id": str(node_id),
        "controller.quorum.voters": ",".join(voters),
        "listeners": ",".join(f"{name}://{HOST}:{port}" for name, port in own.items()),
        "listener.security.protocol.map": f"CLIENT:{security.upper()},INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "INTERNAL",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": "data",
        "auto.create.topics.enable": "false",
        "default.replication.factor": replicas,
        "min.insync.replicas": in_sync,
        "offsets.topic.num.partitions": "4",
        "offsets.topic.replication.factor": replicas,
        "transaction.state.log.num.partitions": "4",
        "transaction.state.log.replication.factor": replicas,
        "transaction.state.log.min.isr": in_sync,
        "group.initial.rebalance.delay.ms": "0",
        "log.retention.check.interval.ms": "30000",
        "log.cleaner.dedupe.buffer.size": str(16 << 20),  # the default of 128 MiB is resident from the start
        "broker.session.timeout.ms": "5000",  # the default of 9 s is how long a killed node can't come back
        "broker.heartbeat.interval.ms": "1000",
        "num.network.threads": "2",
        "num.io.threads": "4",
        **config,
    }


def render(settings: Mapping[str, str]) -> str:
    """Return the settings as a Java properties file, in ASCII (java.util.Properties, "load")."""
    return "".join(f"{name}={_escape(value)}\n" for name, value in settings.items())


def _escape(value: str) -> str:
    escaped = json.dumps(value)[1:-1]  # the escapes of JSON are escapes there too
    return f"\\{escaped}" if escaped.startswith(" ") else escaped


def free_ports(nodes: int) -> tuple[Ports, ...]:
    """Return ports that nobody listens on just now, three a node.

    They lie below the range that Linux gives to outgoing connections: a client that reconnects while a node is down can
    then not take the node's port as its own. A port may still be taken before it is bound; the caller starts over then.
    """
    found: list[int] = []
    for _ in range(_PORT_TRIES):
        port = random.choice(_PORTS)  # ruff: ignore[suspicious-non-cryptographic-random-usage] - no secret
        if port not in found and _is_free(port):
            found.append(port)
        if len(found) == 3 * nodes:
            return tuple(Ports(*found[at : at + 3]) for at in range(0, len(found), 3))
    raise EmbeddedKafkaError(
        f"looking for {3 * nodes} free ports on {HOST} between {_PORTS.start} and {_PORTS.stop}: too few found.",
        hint="Something holds nearly all of them: see `ss -ltn`.",
    )


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _cluster_id() -> str:
    """Return a random id in Kafka's form: 16 bytes in URL-safe base64; a leading dash would read as an option."""
    while True:
        name = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not name.startswith("-"):
            return name


@asynccontextmanager
async def hold(folder: Path, role: guard.Role) -> AsyncGenerator[int]:
    """Hold the data folder in that role, and yield the lock's descriptor, to be inherited by brokers.

    The folder stays held until the last process with that descriptor has ended. Raises `InUseError` where another
    process holds it, `EmbeddedKafkaError` where the folder cannot be written.
    """
    lock = _open_lock(folder)
    try:
        me = guard.record(os.getpid(), role)
        if not os.fstat(lock).st_size:
            os.pwrite(lock, me, 0)  # a lock that is held always names somebody
        await _take(lock, folder)
        os.pwrite(lock, me, 0)
        yield lock
    finally:
        os.close(lock)


def _open_lock(folder: Path) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        message = f"opening {folder} for an embedded Kafka: {error.strerror}."
        raise EmbeddedKafkaError(message, hint="Use a folder that can be written.") from error


async def _take(lock: int, folder: Path) -> None:
    for _ in range(_LOCK_TRIES):  # somebody's `holder` may hold it for an instant
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        await asyncio.sleep(_LOCK_POLL_SECONDS)
    raise InUseError(folder, holder(folder))


def holder(folder: Path) -> Holder | None:
    """Return who uses the data folder, None where nobody does."""
    try:
        lock = os.open(folder / "lock", os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return Holder(**json.loads(os.pread(lock, guard.RECORD_BYTES, 0)))
    else:
        return None
    finally:
        os.close(lock)
