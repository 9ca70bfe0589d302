"""The command line: exit codes and messages a person can act on."""

import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from worker.cli import main
from worker.commands.common import out
from worker.commands.common import written as written_whole
from worker.commands.deletions import held_table
from worker.errors import UsageError

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, with a pepper."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROLLCALL_PEPPER", "a pepper that is long enough")
    return tmp_path


@pytest.fixture
def nowhere() -> str:
    """Return an address where nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


def rollcall(*arguments: str) -> Result:
    """Run a command."""
    return CliRunner().invoke(main, arguments)


def written(text: str) -> None:
    """Write the configuration."""
    Path("rollcall.yaml").write_text(text, encoding="utf-8")


COMMANDS = (["check"], ["poll"], ["handle"], ["status"], ["tail"], ["topics", "plan"], ["topics", "apply"])


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_without_a_configuration_a_command_says_where_it_looked(command: list[str]) -> None:
    """Exit code 2, and what to do; nothing on standard output."""
    result = rollcall(*command)
    assert result.exit_code == 2
    assert "there is no configuration: name a file with --config, or write rollcall.yaml" in result.stderr
    assert not result.stdout


def test_a_configuration_that_is_not_there_is_named() -> None:
    """With the path that was asked for."""
    result = rollcall("--config", "none.yaml", "check")
    assert result.exit_code == 2
    assert "none.yaml has 1 problem" in result.stderr
    assert "No such file" in result.stderr


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_wrong_configuration_is_refused_with_every_problem(command: list[str]) -> None:
    """Each on a line of its own, with its path."""
    written("prefix: A\nsources: {crm: {kind: shopify}}\ncolour: red\n")
    result = rollcall(*command)
    assert result.exit_code == 2
    assert "rollcall.yaml has 3 problems:" in result.stderr
    for problem in (
        "  - prefix: ",
        "  - sources.crm: there is no source kind 'shopify'",
        "  - colour: there is no such",
    ):
        assert problem in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", [command for command in COMMANDS if command != ["check"]], ids=" ".join)
def test_a_kafka_that_does_not_answer_is_named(nowhere: str, command: list[str]) -> None:
    """Exit code 3, with its address; no traceback."""
    written(f"kafka: {{bootstrap: '{nowhere}', start_timeout: 1s}}\n")
    result = rollcall(*command)
    assert (result.exit_code, result.exception.__class__) == (3, SystemExit)
    assert f"rollcall: Kafka at {nowhere} " in result.stderr
    assert not result.stdout


def test_check_names_a_kafka_that_does_not_answer_among_the_problems(
    nowhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names every problem and ends with 2."""
    monkeypatch.delenv("ROLLCALL_PEPPER")
    written(f"kafka: {{bootstrap: '{nowhere}', start_timeout: 1s}}\n")
    result = rollcall("check")
    assert result.exit_code == 2
    assert "- pepper: the environment variable ROLLCALL_PEPPER is empty or not set" in result.stderr
    assert f"- kafka: Kafka at {nowhere} " in result.stderr
    assert "rollcall.yaml has 2 problems:" in result.stderr


def test_check_alone_says_what_is_wrong(nowhere: str) -> None:
    """Not Kafka's client as well, in words of its own before the first line."""
    written(f"kafka: {{bootstrap: '{nowhere}', start_timeout: 1s}}\n")
    command = [sys.executable, "-m", "worker.cli", "check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    first, *more = result.stderr.splitlines()
    assert first == "rollcall.yaml has 1 problem:"
    assert [line.startswith(f"  - kafka: Kafka at {nowhere} ") for line in more] == [True]
    assert "are kafka.bootstrap and kafka.security_protocol right?" in result.stderr


def test_a_worker_without_its_pepper_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every hash would be another one."""
    monkeypatch.delenv("ROLLCALL_PEPPER")
    written("")
    result = rollcall("poll")
    assert result.exit_code == 2
    assert "pepper: the environment variable ROLLCALL_PEPPER is empty or not set" in result.stderr


def test_a_stage_that_does_not_exist_is_named_with_those_that_do() -> None:
    """Handlers and single stages."""
    written("")
    result = rollcall("handle", "dedupe", "merge")
    assert result.exit_code == 2
    assert "there is no handler or stage 'merge'; there are all, dedupe, deletes, keys, pairs" in result.stderr


def test_a_topic_that_cannot_be_shown_is_named_with_those_that_can() -> None:
    """Before Kafka is asked."""
    written("")
    result = rollcall("tail", "control")
    assert result.exit_code == 2
    assert "there is no topic 'control' to show; there are events, latest" in result.stderr


@pytest.mark.parametrize("command", [["poll", "--colour"], ["nonsense"], ["topics", "nonsense"]], ids=" ".join)
def test_a_command_that_does_not_exist_is_a_usage_error(command: list[str]) -> None:
    """Exit code 2."""
    assert rollcall(*command).exit_code == 2


def test_the_schema_for_editors_is_printed() -> None:
    """It needs no configuration."""
    result = rollcall("config-schema")
    assert result.exit_code == 0
    assert orjson.loads(result.stdout)["title"] == "Rollcall's configuration"


def test_no_broker_is_running_where_none_was_started() -> None:
    """Exit code 1, with the folder."""
    for command in ("status", "stop"):
        result = rollcall("kafka", command, "--data", "kafka")
        assert result.exit_code == 1
        assert "no broker is running on kafka" in result.stderr


def test_the_exit_code_is_that_of_the_process() -> None:
    """As a shell sees it."""
    command = [sys.executable, "-m", "worker.cli", "check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 2
    assert result.stderr.startswith("rollcall: ")


UNKNOWN = 2**31 - 7
ORDERS = (
    ["deletions", "approve", "x"],
    ["deletions", "retry", "x"],
    ["deadletters", "retry", "3-17"],
    ["erase", "--customer", "crm/1"],
    ["pause", "crm"],
)


@pytest.mark.parametrize("command", ORDERS, ids=" ".join)
def test_an_order_is_given_by_somebody_without_a_name(
    command: list[str], nowhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container, where the user has a number and no name: it fails over Kafka, not over that."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: UNKNOWN)
    monkeypatch.setenv("KEY", "key")
    source = "{kind: drivly, url: 'https://crm.example.com/api', key: {env: KEY}}"
    target = "{targets: {x: {kind: drivly, url: 'https://x.example.com', key: {env: KEY}}}, routes: []}"
    written(f"kafka: {{bootstrap: '{nowhere}'}}\nsources: {{crm: {source}}}\nhandlers: {{deletes: {target}}}\n")
    result = rollcall(*command)
    assert result.exit_code == 3, result.output
    assert "Is it running" in result.stderr


def test_names_in_a_table_are_shown_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """They are there to be copied: in a pipe, however wide, and on a narrow terminal over several lines."""
    plan = {"plan": f"plan-{'7e29aa08' * 3}", "hash": "228a9f4a9f0a", "target": "t", "count": 1, "reason": "r"}
    table = held_table([plan])
    out().print(table)
    assert f"{plan['plan']}@{plan['hash']}" in capsys.readouterr().out
    narrow = Console(width=50)
    with narrow.capture() as shown:
        narrow.print(table)
    cells = [line.split("│")[1].strip() for line in shown.get().splitlines() if line.startswith("│")]
    assert "".join(cells) == f"{plan['plan']}@{plan['hash']}"


@pytest.mark.parametrize("place", ["nowhere/out.jsonl", "file/out.jsonl"])
def test_a_file_that_cannot_be_written_is_named(elsewhere: Path, place: str) -> None:
    """Not by a traceback, and nothing is left beside it."""
    (elsewhere / "file").touch()
    with pytest.raises(UsageError, match=f"{place} cannot be written"), written_whole(elsewhere / place):
        pass
    result = rollcall("schema", "--write", "file/schemas")
    assert (result.exit_code, "cannot be written: Not a directory" in result.stderr) == (2, True)


def test_a_file_is_replaced_when_it_is_whole(elsewhere: Path) -> None:
    """What was there stays where writing fails."""
    file = elsewhere / "out"
    file.write_bytes(b"before")
    with suppress(ZeroDivisionError), written_whole(file) as part:
        part.write(b"%d" % (1 // 0))
    assert [path.name for path in elsewhere.iterdir()] == ["out"]
    assert file.read_bytes() == b"before"
    with written_whole(file) as part:
        part.write(b"after")
    assert file.read_bytes() == b"after"


def test_a_data_folder_that_is_a_file_is_refused(elsewhere: Path) -> None:
    """By name, and not by a traceback."""
    (elsewhere / "file").touch()
    result = rollcall("kafka", "status", "--data", "file")
    assert isinstance(result.exception, SystemExit)
    assert "reading file/cluster.json of an embedded Kafka: NotADirectoryError" in result.stderr
