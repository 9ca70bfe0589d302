"""Other people's clients read what is published: the same records, the same partitions, the same events."""

import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary_event
from cloudevents.core.formats.json import JSONFormat

from tests.programs import run
from tests.subscribers.conftest import Demo
from worker.embedded import java
from worker.embedded.jars import VERSION, Jar, class_path
from worker.errors import EmbeddedKafkaError
from worker.events import header

EXAMPLES = Path(__file__).parents[2] / "examples"
TOOLS = Jar(
    "org.apache.kafka", "kafka-tools", VERSION, "1c2836cee57a947d2db461410ac5008ca80facbd19b7ed9d284ca883782ea741"
)
QUIET = ("-Dlog4j2.statusLoggerLevel=OFF", "-Dlog4j2.level=OFF")


async def expected(demo: Demo) -> set[str]:
    """Return `<key> #<sequence>` of every event."""
    return {
        f"{(record.key or b'').decode()} #{header(record.headers, 'ce_sequence')}"
        for record in await demo.records("events")
    }


async def aborted_at_the_end(demo: Demo) -> None:
    """Put a transaction that was aborted at the end of every partition: there are records, and nothing to read."""
    kafka = demo.config.file.kafka
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id="a-worker-that-died")
    await producer.start()
    try:
        await producer.begin_transaction()
        for partition in range(kafka.partitions):
            await producer.send_and_wait("customers.events", b"{}", key=b"crm/never", partition=partition)
        await producer.abort_transaction()
    finally:
        await producer.stop()


async def seen(command: Sequence[str], cwd: Path | None = None, *, ends: int = 0) -> list[str]:
    """Return the same, as an example has printed it; `ends` is its exit code."""
    code, output, errors = await run(command, cwd=cwd)
    assert code == ends, errors
    return [line.partition(":")[0] for line in output.splitlines() if " #" in line]


async def test_the_cloudevents_sdk_reads_every_event(demo: Demo) -> None:
    """The official SDK for Python takes each record as a valid CloudEvent with all its attributes."""
    records = await demo.records("events")
    for record in records:
        message = KafkaMessage(headers=dict(record.headers), key=record.key, value=record.value or b"")
        event = from_binary_event(message, JSONFormat())
        assert event.get_type().startswith("customer.")
        assert event.get_subject() == (record.key or b"").decode()
        assert event.get_data()["id"] == event.get_subject().partition("/")[2]
        assert event.get_extension("sequence") == header(record.headers, "ce_sequence")
    assert len({header(record.headers, "ce_id") for record in records}) == len(records)


async def test_the_python_examples_run(demo: Demo) -> None:
    """One reacts to every event once, also when it is started again; one builds the table of all live customers."""
    await aborted_at_the_end(demo)
    bootstrap = demo.config.file.kafka.bootstrap
    subscriber = str(EXAMPLES / "python" / "subscriber.py")
    command = [sys.executable, subscriber, bootstrap, "--group", "a-python-service", "--once"]
    assert sorted(await seen(command)) == sorted(await expected(demo))
    assert await seen(command) == []
    code, output, errors = await run([sys.executable, str(EXAMPLES / "python" / "table.py"), bootstrap])
    assert code == 0, errors
    newest = {record.key: record.value for record in await demo.records("latest")}
    live = sum(value is not None for value in newest.values())
    assert sum(int(line.partition(": ")[2]) for line in output.splitlines()) == live


DIES = """
import os, runpy, signal, sys
from aiokafka import AIOKafkaConsumer
AIOKafkaConsumer.commit = lambda self: os.kill(os.getpid(), signal.SIGKILL)
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


async def test_the_python_example_does_nothing_twice_after_a_crash(demo: Demo, tmp_path: Path) -> None:
    """Killed after its work and before its commit it is given the same events again, and its table knows them."""
    subscriber, bootstrap = str(EXAMPLES / "python" / "subscriber.py"), demo.config.file.kafka.bootstrap
    rest = [subscriber, bootstrap, "--group", "a-service-that-crashes", "--table", str(tmp_path / "table"), "--once"]
    first = await seen([sys.executable, "-u", "-c", DIES, *rest], ends=-signal.SIGKILL)
    assert first
    assert sorted(first + await seen([sys.executable, *rest])) == sorted(await expected(demo))


async def test_the_javascript_example_runs(demo: Demo, packages: Path) -> None:
    """KafkaJS sees every event once, also when it is started again."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no Node here")
    await aborted_at_the_end(demo)
    command = [node, "subscriber.js", demo.config.file.kafka.bootstrap, "a-javascript-service", "--once"]
    assert sorted(await seen(command, packages)) == sorted(await expected(demo))
    assert await seen(command, packages) == []


PARTITIONER = """
import { createRequire } from 'node:module'
const { Partitioners } = createRequire(import.meta.url)('kafkajs')
const partition = Partitioners.JavaCompatiblePartitioner()
const count = Number(process.argv[2])
const partitionMetadata = Array.from({ length: count }, (_, partitionId) => ({ partitionId, leader: 1 }))
const keys = JSON.parse(process.argv[3])
console.log(JSON.stringify(keys.map((key) => partition({ topic: 't', partitionMetadata, message: { key } }))))
"""


async def test_kafkajs_puts_a_key_into_the_same_partition(demo: Demo, packages: Path) -> None:
    """What another service writes with KafkaJS under a customer's key is in the same partition as the customer."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no Node here")
    placed = {(record.key or b"").decode(): record.partition for record in await demo.records("events")}
    keys = sorted(placed)[:500]
    (packages / "partitions.mjs").write_text(PARTITIONER)
    given = "[" + ",".join(f'"{key}"' for key in keys) + "]"
    partitions = str(demo.config.file.kafka.partitions)
    code, output, errors = await run([node, "partitions.mjs", partitions, given], cwd=packages)
    assert code == 0, errors
    assert output.strip() == "[" + ",".join(str(placed[key]) for key in keys) + "]"


async def test_the_java_console_consumer_reads_what_is_committed(demo: Demo) -> None:
    """Kafka's own console consumer with `read_committed` sees every event once."""
    wanted = await expected(demo)
    found = java.find()
    try:
        tools = class_path(jars=[TOOLS])
    except EmbeddedKafkaError as error:
        pytest.skip(f"Kafka's tools cannot be had: {error.message}")
    command = java.Java(found.executable, (*found.class_path, *tools)).command(
        "org.apache.kafka.tools.consumer.ConsoleConsumer",
        *("--bootstrap-server", demo.config.file.kafka.bootstrap, "--topic", "customers.events", "--from-beginning"),
        *("--isolation-level", "read_committed", "--max-messages", str(len(wanted)), "--timeout-ms", "30000"),
        *("--property", "print.key=true", "--property", "print.headers=true"),
        *("--property", "print.value=false"),
        options=QUIET,
    )
    code, output, errors = await run(command)
    assert code == 0, errors
    lines = [line.partition("\t") for line in output.splitlines() if "ce_sequence" in line]
    assert sorted(f"{key} #{sequence_in(headers, ':')}" for headers, _, key in lines) == sorted(wanted)


def sequence_in(headers: str, sign: str) -> str:
    """Return the sequence in headers as a client prints them."""
    return dict(part.split(sign, 1) for part in headers.split(",") if part.startswith("ce_"))["ce_sequence"]


async def test_the_java_example_runs_and_partitions_are_those_of_java(demo: Demo, tmp_path: Path) -> None:
    """The example sees every event once, and Java's default partitioner puts each key where it is."""
    found = java.find()
    if not (found.executable.parent / "javac").exists():
        pytest.skip("this Java has no compiler, which runs the example from its source")
    await aborted_at_the_end(demo)
    bootstrap, config = demo.config.file.kafka.bootstrap, demo.config.file.kafka
    command = found.command(str(EXAMPLES / "java" / "Subscriber.java"), bootstrap, "a-java-service", "--once")
    assert sorted(await seen(command)) == sorted(await expected(demo))
    assert await seen(command) == []
    placed = {(record.key or b"").decode(): record.partition for record in await demo.records("events")}
    (tmp_path / "Partitions.java").write_text(JAVA_PARTITIONS)
    (tmp_path / "keys").write_text("\n".join(sorted(placed)))
    source = str(tmp_path / "Partitions.java")
    code, output, errors = await run(
        found.command(source, str(tmp_path / "keys"), str(config.partitions), options=QUIET)
    )
    assert code == 0, errors
    assert [int(line) for line in output.split() if line.isdecimal()] == [placed[key] for key in sorted(placed)]


JAVA_PARTITIONS = """
import java.nio.file.*;
import org.apache.kafka.clients.producer.internals.BuiltInPartitioner;
public class Partitions {
  public static void main(String[] given) throws Exception {
    for (String key : Files.readAllLines(Path.of(given[0])))
      System.out.println(BuiltInPartitioner.partitionForKey(key.getBytes("UTF-8"), Integer.parseInt(given[1])));
  }
}
"""


async def test_kcat_reads_what_is_committed(demo: Demo) -> None:
    """Debian's kcat (librdkafka) sees every event once."""
    kcat = shutil.which("kcat") or shutil.which("kafkacat")
    if kcat is None:
        pytest.skip("kcat is not installed")
    command = [kcat, "-b", demo.config.file.kafka.bootstrap, "-t", "customers.events", "-C", "-e", "-q"]
    code, output, errors = await run([*command, "-X", "isolation.level=read_committed", "-f", "%k\\t%h\\n"])
    assert code == 0, errors
    lines = [line.partition("\t") for line in output.splitlines()]
    found = [f"{key} #{sequence_in(headers, '=')}" for key, _, headers in lines]
    assert sorted(found) == sorted(await expected(demo))
