"""The data folder of the embedded broker: its configuration, its ports, and who uses it."""

import asyncio
import os
import re
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker import embedded
from worker.embedded import guard, layout
from worker.errors import EmbeddedKafkaError

ONE = layout.Layout(Path("folder"), "id", (layout.Ports(1, 2, 3),))
THREE = layout.Layout(Path("folder"), "id", tuple(layout.Ports(n, n + 1, n + 2) for n in (1, 4, 7)))


def test_a_single_node_replicates_to_itself() -> None:
    """Internal topics can be made by one broker."""
    settings = layout.properties(ONE, 1, "plaintext", {})
    assert settings["offsets.topic.replication.factor"] == "1"
    assert settings["transaction.state.log.min.isr"] == "1"


def test_three_nodes_are_one_quorum_with_two_in_sync() -> None:
    """Every node names all voters, and replicates to all three."""
    settings = layout.properties(THREE, 2, "plaintext", {})
    assert settings["node.id"] == "2"
    assert settings["controller.quorum.voters"] == "1@127.0.0.1:3,2@127.0.0.1:6,3@127.0.0.1:9"
    assert settings["transaction.state.log.replication.factor"] == "3"
    assert settings["transaction.state.log.min.isr"] == "2"


def test_given_settings_override_ours() -> None:
    """An authorizer can be added, and any default changed."""
    config = {"num.io.threads": "9", "authorizer.class.name": "com.example.A"}
    assert layout.properties(ONE, 1, "plaintext", config).items() >= config.items()


def test_security_is_the_client_listener_s_only() -> None:
    """Nodes and our own probe go on talking in the clear, on the loopback."""
    protocols = layout.properties(ONE, 1, "sasl_ssl", {})["listener.security.protocol.map"]
    assert protocols == "CLIENT:SASL_SSL,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT"


def as_java_reads(text: str) -> dict[str, str]:
    """Read a properties file by the rules of java.util.Properties, "load": what the rendering must survive."""
    controls = {"n": "\n", "t": "\t", "r": "\r", "f": "\f"}

    def unescape(match: re.Match[str]) -> str:
        return chr(int(match[2], 16)) if match[2] else controls.get(match[1], match[1])

    pairs = [line.split("=", 1) for line in text.splitlines()]
    read = {name: re.sub(r"\\(u([0-9a-f]{4})|.)", unescape, value.lstrip(" \t\f")) for name, value in pairs}
    return {name: value.encode("utf-16", "surrogatepass").decode("utf-16") for name, value in read.items()}


VALUES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\b"))


@given(value=VALUES, after=VALUES)
def test_any_value_reaches_java_as_it_is(value: str, after: str) -> None:
    """Quotes, backslashes, line ends, leading spaces and any script survive; no value becomes another setting."""
    settings = {"a.setting": value, "another": after}
    assert as_java_reads(layout.render(settings)) == settings


def test_free_ports_lie_below_those_of_outgoing_connections() -> None:
    """A client that reconnects to a dead node cannot take its port."""
    ports = [port for node in layout.free_ports(3) for port in (node.client, node.internal, node.controller)]
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split()[0])
    assert len(set(ports)) == len(ports) == 9
    assert max(ports) < max(lowest, 32_000)


def test_a_data_folder_keeps_its_cluster_and_ports(tmp_path: Path) -> None:
    """What was written is found again."""
    made = layout.plan(tmp_path, 1)
    made.write("plaintext", {})
    assert layout.plan(tmp_path, 1) == made


def test_a_taken_port_moves_the_cluster_and_keeps_its_id(tmp_path: Path) -> None:
    """Somebody else's port is left alone."""
    made = layout.plan(tmp_path, 1)
    made.write("plaintext", {})
    with socket.socket() as other:
        other.bind(("127.0.0.1", made.ports[0].client))
        other.listen()
        moved = layout.plan(tmp_path, 1)
    assert moved.cluster_id == made.cluster_id
    assert moved.ports != made.ports


def test_a_cluster_of_another_size_is_refused(tmp_path: Path) -> None:
    """The quorum of a data folder cannot grow."""
    layout.plan(tmp_path, 1).write("plaintext", {})
    with pytest.raises(EmbeddedKafkaError, match="holds a cluster of 1"):
        layout.plan(tmp_path, 3)


@pytest.mark.parametrize("text", ["{", "{}", '{"cluster_id": "x", "ports": [{}]}'])
def test_a_torn_description_is_refused(tmp_path: Path, text: str) -> None:
    """A data folder is never formatted over because its description can't be read."""
    (tmp_path / "cluster.json").write_text(text)
    with pytest.raises(EmbeddedKafkaError, match=r"cluster\.json"):
        layout.plan(tmp_path, 1)


async def test_a_data_folder_is_used_once_at_a_time(tmp_path: Path) -> None:
    """The second user is told who the first is, and may come after it."""
    async with layout.hold(tmp_path, "program"):
        assert layout.holder(tmp_path) == layout.Holder(os.getpid(), "program")
        with pytest.raises(layout.InUseError, match=str(os.getpid())):
            async with layout.hold(tmp_path, "program"):
                pass
    assert layout.holder(tmp_path) is None
    async with layout.hold(tmp_path, "program"):
        pass


async def test_a_process_with_a_broker_s_old_pid_is_never_signalled(tmp_path: Path) -> None:
    """A number left in the lock is nobody's once the lock is free."""
    layout.plan(tmp_path, 1).write("plaintext", {})
    stranger = await asyncio.create_subprocess_exec("sleep", "60")
    try:
        (tmp_path / "lock").write_bytes(guard.record(stranger.pid, "background"))
        assert embedded.status(tmp_path) is None
        assert not await embedded.stop_detached(tmp_path)
        assert stranger.returncode is None
    finally:
        stranger.kill()
        await stranger.wait()


@pytest.mark.parametrize("role", ["program", "starting"])
async def test_a_program_is_not_stopped_for_its_broker(tmp_path: Path, role: guard.Role) -> None:
    """`stop_detached` ends brokers in the background only, never what runs or starts one."""
    layout.plan(tmp_path, 1).write("plaintext", {})
    async with layout.hold(tmp_path, role):
        with pytest.raises(layout.InUseError):
            await embedded.stop_detached(tmp_path)
