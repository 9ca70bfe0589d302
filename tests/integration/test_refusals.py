"""A worker process at its two ends: what it refuses to start on, and how it stops while Kafka is away."""

import asyncio
import sys
from contextlib import suppress
from pathlib import Path

import orjson
import pytest
import yaml
from aiokafka import TopicPartition
from aiokafka.admin import NewPartitions, RecordsToDelete

from tests.integration.conftest import Deployment
from tests.integration.polling import Poller
from tests.waiting import until
from worker import embedded, overview
from worker.acls import Grant
from worker.errors import KafkaUnavailableError
from worker.handling import Record
from worker.kafka import Connection
from worker.plugin_testkit import event
from worker.rights import Rights
from worker.sequences import Known
from worker.settings import KafkaSettings
from worker.testkit import person
from worker.topics import partition_of

pytestmark = [pytest.mark.timeout(180), pytest.mark.usefixtures("pepper")]
SECONDS = 60.0


@pytest.fixture
def pepper(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the workers their secret."""
    monkeypatch.setenv("ROLLCALL_PEPPER", "a pepper of the tests")


async def started(
    path: Path, *arguments: str, options: tuple[str, ...] = (), folder: Path | None = None
) -> asyncio.subprocess.Process:
    """Start the command line, in a folder."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, *options, "-m", "worker.cli", "--config", str(path), *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=folder,
    )


async def ended(process: asyncio.subprocess.Process) -> tuple[int, str]:
    """Wait until it has ended by itself; return its exit code and everything that it has said."""
    try:
        async with asyncio.timeout(SECONDS):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        raise
    return process.returncode or 0, output.decode()


async def said(process: asyncio.subprocess.Process, words: str) -> None:
    """Read what it says up to a line that holds these words."""
    assert process.stdout is not None
    async with asyncio.timeout(SECONDS):
        while words not in (line := (await process.stdout.readline()).decode()):
            assert line, f"it has ended without saying {words}"


def written(folder: Path, **content: object) -> Path:
    """Write a configuration."""
    path = folder / "rollcall.yaml"
    path.write_text(yaml.safe_dump({"state_dir": str(folder / "state"), **content}), encoding="utf-8")
    return path


@pytest.mark.parametrize("command", [["poll"], ["handle", "dedupe"]])
async def test_python_o_is_refused(command: list[str], tmp_path: Path) -> None:
    """No worker starts where Python drops the checks that aiokafka has as assertions; Kafka is not even asked."""
    path = written(tmp_path, kafka={"bootstrap": "127.0.0.1:1"})
    code, output = await ended(await started(path, *command, options=("-O",)))
    assert code == 2
    assert "Python runs with -O" in output


async def test_no_command_writes_in_a_transaction_under_python_o() -> None:
    """Replay, rebuild and orders have transactions too: no producer is to be had for them."""
    script = """
import asyncio
from worker.kafka import Connection
from worker.settings import KafkaSettings
asyncio.run(Connection(KafkaSettings(bootstrap="127.0.0.1:1")).producer("one"))
"""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-O", "-c", script), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    code, output = await ended(process)
    assert code == 1
    assert "ConfigError" in output
    assert "Python runs with -O" in output


@pytest.mark.parametrize("protocol", ["SSL", "SASL_SSL", "SASL_PLAINTEXT"])
async def test_a_listener_of_another_protocol(
    protocol: str, kafka: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the protocol that a person is told to check: neither rights nor the broker's health."""
    monkeypatch.setenv("T_PASSWORD", "canary")
    who = {"username": "jane", "password": {"env": "T_PASSWORD"}} if protocol.startswith("SASL") else {}
    where = {"bootstrap": kafka.bootstrap, "security_protocol": protocol, "start_timeout": 10}
    with pytest.raises(KafkaUnavailableError) as refused:
        async with Connection(KafkaSettings.model_validate(where | who)).admin():
            pass
    assert "check kafka.security_protocol, and the port in kafka.bootstrap" in (refused.value.hint or "")
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize(
    "command",
    [
        ["status"],
        ["deadletters", "list"],
        ["deletions", "list"],
        ["deletions", "approve", "plan-1@1"],
        ["duplicates", "list"],
        ["sequences", "export", "versions.jsonl"],
        ["sequences", "import", "sequences.jsonl"],
        ["pause", "crm", "--timeout", "3"],
        ["watch", "list", "crm"],
    ],
    ids=" ".join,
)
async def test_a_command_says_that_a_topic_is_not_there(
    command: list[str], kafka: KafkaSettings, tmp_path: Path
) -> None:
    """Under a wrong prefix, or before the topics are made, nobody waits for what will not come."""
    source = {"kind": "drivly", "url": "http://crm.example.com", "key": {"env": "T_KEY"}}
    where = {"bootstrap": kafka.bootstrap, "partitions": kafka.partitions}
    path = written(tmp_path, prefix="nothing", kafka=where, sources={"crm": source})
    (tmp_path / "sequences.jsonl").write_bytes(Known("crm/7", 500, 1).line())
    code, output = await ended(await started(path, *command, folder=tmp_path))
    assert code == 2, output
    assert "there is no topic " in output
    assert "`rollcall topics plan`" in output


@pytest.mark.parametrize("more", [-1, 6])
async def test_a_command_with_another_partition_count_reads_and_writes_nothing(
    more: int, deployment: Deployment, tmp_path: Path
) -> None:
    """It would leave out what is in the other partitions, or wait for what is in none."""
    settings = deployment.connection.settings
    source = {"kind": "drivly", "url": "http://crm.example.com", "key": {"env": "T_KEY"}}
    where = {"bootstrap": settings.bootstrap, "partitions": settings.partitions + more}
    path = written(tmp_path, prefix=deployment.topics.prefix, kafka=where, sources={"crm": source})
    kept, versions = tmp_path / "versions.jsonl", tmp_path / "sequences.jsonl"
    kept.write_text("the last export\n")
    versions.write_bytes(Known("crm/7", 500, 1).line())
    commands: tuple[tuple[str, ...], ...] = (
        ("status",),
        ("deadletters", "list"),
        ("deletions", "list"),
        ("erase", "--email", "someone@example.com"),
        ("duplicates", "list"),
        ("sequences", "export", str(kept)),
        ("sequences", "import", str(versions)),
        ("pause", "crm"),
        ("watch", "list", "crm"),
        ("rebuild", "requests", "--empty"),
        ("replay", "--to", "group:billing", "--from", "beginning"),
    )
    if more > 0:  # too many are told as too few are: one command is enough
        commands = (("pause", "crm"),)
    processes = [await started(path, *command, folder=tmp_path) for command in commands]
    for command, (code, output) in zip(commands, await asyncio.gather(*map(ended, processes)), strict=True):
        assert code, command
        said = " ".join(output.split())
        assert f"has {settings.partitions} partitions, the configuration says {where['partitions']}" in said, command
        assert "Set kafka.partitions" in said
    assert kept.read_text() == "the last export\n"
    assert not await deployment.read(deployment.topics.state("poll"))


async def test_a_changed_partition_count_is_refused(kafka: KafkaSettings, tmp_path: Path) -> None:
    """Somebody added a partition to a topic: keys would be looked for where their state is not."""
    poller = Poller(kafka, tmp_path)
    await poller.configure({}, log={"format": "json"})
    topic = poller.config.topics.latest
    async with Connection(kafka).admin() as admin:
        await admin.client.create_partitions({topic: NewPartitions(kafka.partitions + 1)})
        async with asyncio.timeout(SECONDS):
            while (await admin.found([topic]))[topic].partitions == kafka.partitions:
                await asyncio.sleep(0.1)
    for command in ("poll", "handle"):
        code, output = await ended(await started(poller.path, command))
        assert code == 2
        assert (
            f"topic {topic} has {kafka.partitions + 1} partitions, the configuration says {kafka.partitions}" in output
        )


async def test_a_second_deployment_under_the_prefix_is_refused(kafka: KafkaSettings, tmp_path: Path) -> None:
    """With the same pepper and the same partitions: its name is another one."""
    poller = Poller(kafka, tmp_path)
    await poller.configure({}, deployment="north", log={"format": "json"})
    worker = await started(poller.path, "poll")
    await said(worker, "listening")
    worker.terminate()
    assert (await ended(worker))[0] == 0
    await poller.configure({}, deployment="south", log={"format": "json"})
    code, output = await ended(await started(poller.path, "poll"))
    assert code == 1
    assert "belong to a deployment named 'north'; `deployment` is 'south' here" in output
    code, _, errors = await poller.rollcall("check")
    assert code == 2
    assert "deployment: is 'south', and the topics under the prefix" in errors


async def caught_up(poller: Poller, stage: str, where: TopicPartition, end: int) -> None:
    """Wait until a stage has handled so much of a partition, by its offset in the group."""
    group = poller.config.topics.group(stage)

    async def committed() -> bool:
        with suppress(KafkaUnavailableError):  # of the very first group the broker first makes a topic
            async with Connection(poller.config.file.kafka).admin() as admin:
                found = await admin.client.list_consumer_group_offsets(group)
            return where in found and found[where].offset >= end
        return False

    await until(committed)


async def test_input_that_retention_has_deleted_is_not_skipped(kafka: KafkaSettings, tmp_path: Path) -> None:
    """A plug-in that was away for longer than events are kept does not go on as if nothing were missing."""
    (tmp_path / "billing.py").write_text("async def handle(event, context):\n    pass\n", encoding="utf-8")
    poller = Poller(kafka, tmp_path)
    await poller.configure({}, plugins={"billing": {"target": "billing:handle"}}, log={"format": "json"})
    topics, connection = poller.config.topics, Connection(kafka)
    records = [event(person("crm", "7", given="Ada"), number) for number in range(1, 6)]
    where = TopicPartition(topics.events, partition_of(b"crm/7", kafka.partitions))

    async def publish(*some: Record) -> None:
        await connection.publish(topics, [(topics.events, r.key or b"", r.value, list(r.headers)) for r in some])

    worker = await started(poller.path, "handle", "billing", folder=tmp_path)
    await said(worker, "listening")
    await publish(*records[:2])
    await caught_up(poller, "billing", where, 2)
    worker.terminate()
    assert (await ended(worker))[0] == 0
    await publish(*records[2:])
    async with connection.admin() as admin:
        await admin.client.delete_records({where: RecordsToDelete(4)})
    code, output = await ended(await started(poller.path, "handle", "billing", folder=tmp_path))
    assert code == 1
    assert f"{where.topic}/{where.partition} starts at offset 4 now, but was handled only up to 2" in output
    assert "2 offsets were deleted unread" in output


async def test_a_worker_stops_in_its_time_while_kafka_is_away(tmp_path: Path) -> None:
    """SIGTERM with no broker there, and a client that keeps its connection to the probes: it ends, and says so.

    Before that the cluster is new: whoever asks for groups waits until it has made the topic in which they are kept.
    """
    async with embedded.cluster(tmp_path / "kafka") as cluster:
        settings = {"bootstrap": cluster.bootstrap, "partitions": 2}
        poller = Poller(KafkaSettings(**settings), tmp_path)
        await poller.configure({}, log={"format": "json"})
        async with Connection(poller.config.file.kafka).admin() as admin:
            grant = Grant("group", poller.config.topics.group("poll"), frozenset({"Read"}))
            rows, *told = await asyncio.gather(
                overview.overview(poller.config), admin.members(grant.name), Rights(admin).missing([grant])
            )
        assert {row["state"] for row in rows if row["kind"] == "stage"} == {"no worker"}
        assert told == [0, []]
        worker = await started(poller.path, "poll")
        port = await _port(worker)
        await cluster.kill(0)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert b"200 OK" in await reader.readline()
        worker.terminate()
        code, output = await ended(worker)
        writer.close()
    assert code == 0
    assert '"event":"stopped"' in output
    assert "stop_overdue" not in output


async def test_a_worker_that_is_still_waiting_for_kafka_stops_at_once(tmp_path: Path) -> None:
    """SIGTERM before the checks of the start have come to an end is obeyed like any other."""
    held = await asyncio.start_server(_silent, "127.0.0.1", 0)
    async with held:
        port = held.sockets[0].getsockname()[1]
        path = written(tmp_path, kafka={"bootstrap": f"127.0.0.1:{port}"}, log={"format": "json"})
        worker = await started(path, "poll")
        await asyncio.wait_for(_ASKED.wait(), SECONDS)
        worker.terminate()
        code, output = await ended(worker)
    assert code == 0
    assert '"event":"stopping"' in output
    assert '"event":"stopped"' in output


_ASKED = asyncio.Event()


async def _silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take a request of Kafka's protocol, and never answer."""
    await reader.read(1)
    _ASKED.set()
    await reader.read()
    writer.close()


async def _port(worker: asyncio.subprocess.Process) -> int:
    """Return where the probes are served."""
    assert worker.stdout is not None
    async with asyncio.timeout(SECONDS):
        while line := await worker.stdout.readline():
            event = orjson.loads(line)
            if event["event"] == "listening":
                return int(event["port"])
    raise AssertionError
