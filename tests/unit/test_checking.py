"""What `rollcall check` finds without a broker: the file, the secrets, this machine. With one: `tests/secure`."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from worker import checking
from worker.checking import Findings
from worker.checking.clocks import answered, apart

PEPPER = "a pepper that is long enough"
UNSET = "is empty or not set"


@pytest.fixture
def nowhere() -> Iterator[str]:
    """Return an address that is taken, and where nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture(autouse=True)  # ruff: ignore[pytest-fixture-autouse] - no test must see the secrets of the machine
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the pepper, and no other secret."""
    monkeypatch.setenv("ROLLCALL_PEPPER", PEPPER)
    for name in ("CRM_KEY", "SHOP_KEY", "ROLLCALL_UNDO_KEY"):
        monkeypatch.delenv(name, raising=False)


async def found(folder: Path, nowhere: str, raw: dict[str, Any], *roles: str) -> Findings:
    """Check a configuration whose Kafka does not answer."""
    kafka = {"bootstrap": nowhere, "start_timeout": "1s", **raw.pop("kafka", {})}
    path = folder / "rollcall.yaml"
    path.write_text(yaml.safe_dump({"state_dir": str(folder), "kafka": kafka, **raw}), "utf-8")
    return await checking.check(path, roles)


async def test_every_problem_is_named_at_once(nowhere: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pepper, credentials of sources and targets, the undo key, Kafka: each with its path."""
    monkeypatch.delenv("ROLLCALL_PEPPER")
    target = {"kind": "drivly", "url": "https://shop.example.com/api", "key": {"env": "SHOP_KEY"}}
    source = {"kind": "drivly", "url": "https://crm.example.com/api", "key": {"env": "CRM_KEY"}}
    raw = {"sources": {"crm": source}, "handlers": {"deletes": {"targets": {"shop": target}}}}
    problems = (await found(tmp_path, nowhere, raw)).problems
    without = "undo_key: null does without undo copies"
    assert problems[:4] == [
        f"pepper: the environment variable ROLLCALL_PEPPER {UNSET}",
        f"handlers.deletes.undo_key: the environment variable ROLLCALL_UNDO_KEY {UNSET}; {without}",
        f"sources.crm.key: the environment variable CRM_KEY {UNSET}",
        f"handlers.deletes.targets.shop.key: the environment variable SHOP_KEY {UNSET}",
    ]
    assert len(problems) == 5
    assert problems[4].startswith(f"kafka: Kafka at {nowhere} ")


async def test_a_role_needs_its_own_secrets_only(nowhere: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A poller has no credential of a target, and an operator not even the pepper."""
    target = {"kind": "drivly", "url": "https://shop.example.com/api", "key": {"env": "SHOP_KEY"}}
    source = {"kind": "drivly", "url": "https://crm.example.com/api", "key": {"env": "CRM_KEY"}}
    raw = {"sources": {"crm": source}, "handlers": {"deletes": {"targets": {"shop": target}}}}
    paths = {}
    for role in ("poll", "keys", "executor", "operator"):
        if role == "operator":
            monkeypatch.delenv("ROLLCALL_PEPPER")
        problems = (await found(tmp_path, nowhere, dict(raw), role)).problems
        paths[role] = [line.partition(":")[0] for line in problems]
    executor = ["handlers.deletes.undo_key", "handlers.deletes.targets.shop.key", "kafka"]
    assert paths == {
        "poll": ["sources.crm.key", "kafka"],
        "keys": ["kafka"],
        "executor": executor,
        "operator": ["kafka"],
    }


async def test_a_secret_of_two_lines_is_named(nowhere: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, and the API is not asked with it."""
    monkeypatch.setenv("CRM_KEY", "one\ntwo")
    source = {"kind": "drivly", "url": "https://crm.example.com/api", "key": {"env": "CRM_KEY"}}
    key, kafka = (await found(tmp_path, nowhere, {"sources": {"crm": source}}, "poll")).problems
    assert key.startswith("sources.crm.key: the environment variable CRM_KEY has a line break")
    assert kafka.startswith("kafka: ")


async def test_a_short_pepper_can_be_guessed(nowhere: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever guesses it can find out whose social security number a hash is."""
    monkeypatch.setenv("ROLLCALL_PEPPER", "pepper")
    pepper, kafka = (await found(tmp_path, nowhere, {})).problems
    assert pepper.startswith("pepper: 6 characters can be guessed")
    assert kafka.startswith("kafka: ")


async def test_one_mistake_hides_no_other(nowhere: str, tmp_path: Path) -> None:
    """What rests on a wrong setting is not looked at, and that is said; everything else is."""
    source = {"kind": "drivly", "url": "https://crm.example.com/api", "key": {"env": "CRM_KEY"}}
    wrong = {**source, "page_size": 0}
    targets = {"shop": {"kind": "drivly", "key": {"env": "SHOP_KEY"}}}
    raw: dict[str, Any] = {
        "kafka": {"partitions": 0},
        "listen": "nowhere",
        "colour": "red",
        "sources": {"crm": source, "erp": wrong},
        "handlers": {"deletes": {"targets": targets}},
    }
    result = await found(tmp_path, nowhere, raw)
    assert [line.partition(":")[0] for line in result.problems] == [
        "kafka.partitions",
        "listen",
        "handlers.deletes.targets.shop.url",
        "colour",
        "sources.erp.page_size",
        "sources.crm.key",
    ]
    assert result.passed_over == ["Kafka, its topics and rights", "the address to listen on"]


async def test_an_unknown_setting_puts_nothing_in_doubt(nowhere: str, tmp_path: Path) -> None:
    """The rest of its section is what it was."""
    result = await found(tmp_path, nowhere, {"kafka": {"colour": "red"}})
    assert [line.partition(":")[0] for line in result.problems] == ["kafka.colour", "kafka"]


async def test_a_file_that_says_nothing_usable(tmp_path: Path) -> None:
    """Nothing more can be said of it."""
    path = tmp_path / "rollcall.yaml"
    path.write_text("- a list\n", "utf-8")
    result = await checking.check(path)
    assert result == Findings(["the file holds no settings: write name: value"], ["anything but the file itself"])


async def test_a_certificate_that_is_not_there_is_a_problem_of_kafka(nowhere: str, tmp_path: Path) -> None:
    """And no traceback."""
    (problem,) = (
        await found(tmp_path, nowhere, {"kafka": {"security_protocol": "SSL", "ca_file": "none.pem"}})
    ).problems
    assert problem.startswith("kafka: ")
    assert "kafka.ca_file: none.pem: No such file or directory" in problem


async def test_where_state_cannot_be_written(nowhere: str, tmp_path: Path) -> None:
    """A file in the way, or no right to write there; nothing is made by looking."""
    (tmp_path / "file").touch()
    for folder, reason in (("file", "Not a directory"), ("file/below", "Not a directory")):
        result = await found(tmp_path, nowhere, {"state_dir": str(tmp_path / folder)})
        assert f"state_dir: {tmp_path / folder} cannot be written ({reason})" in result.problems[1]
    result = await found(tmp_path, nowhere, {"state_dir": str(tmp_path / "new" / "state")})
    assert [line.partition(":")[0] for line in result.problems] == ["kafka"]
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
async def test_a_folder_of_somebody_else(nowhere: str, tmp_path: Path) -> None:
    """It cannot be written."""
    (tmp_path / "theirs").mkdir(mode=0o500)
    for folder in ("theirs", "theirs/below"):
        result = await found(tmp_path, nowhere, {"state_dir": str(tmp_path / folder)})
        assert "(Permission denied)" in result.problems[1]


async def test_an_address_that_is_taken(nowhere: str, tmp_path: Path) -> None:
    """It is named; port 0 is always free."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        result = await found(tmp_path, nowhere, {"listen": listen})
    assert f"listen: {listen} cannot be had (Address already in use)" in result.problems[1]
    assert len((await found(tmp_path, nowhere, {"listen": "127.0.0.1:0"})).problems) == 1


def test_clocks_that_are_apart() -> None:
    """By more than an HTTP date can be off; which way is said."""
    assert not apart("x", None)
    assert not apart("x", (1_000_000, 1_009_000))
    assert apart("x", (1_000_000, 1_061_000))[0].startswith("x: this machine's clock is 61 s ahead of the one there")
    assert "is 61 s behind the one there" in apart("x", (1_061_000, 1_000_000))[0]
    assert answered(None) is answered("yesterday") is None
    theirs, ours = answered("Thu, 01 Jan 1970 00:00:10 GMT") or (0, 0)
    assert theirs == 10_000 < ours
