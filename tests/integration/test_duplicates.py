"""`rollcall duplicates` and what it reads, on a real broker; and that no value of a customer is a key of anything."""

import asyncio
import csv
import io
import os
import pty
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lmdb
import orjson
import pytest
import yaml

from handlers.dedupe.settings import KEY_KINDS, DedupeSettings
from tests.integration.conftest import Deployment
from tests.waiting import until
from worker import inspect, service
from worker.config import Config, load, parse
from worker.events import Customer
from worker.testkit import deleted, latest, person
from worker.topics import REBUILT

DEADLINE = 90.0
PAGE = Path(__file__).parents[2] / "docs" / "duplicates.md"
ADA: dict[str, Any] = {"given": "Adelina", "family": "Quimby", "born": "1980-02-03", "emails": ["adelina@example.com"]}
HOME: dict[str, Any] = {"address": ("12 Mill Lane", "Springfield", "62701"), "phones": ["+12025550799"]}
OFFICE = "+12025550733"
# What may not show anywhere but in the values of records.
PERSONAL = (
    *("adelina", "quimby", "zebedee", "1980-02-03", "1991-11-30", "mill lane", "springfield", "62701"),
    *("adelina@example.com", "shared@example.com", "2025550799", "2025550733"),
    *("orla", "piers", "fenwick", "quay street", "riverton"),
)


def customers() -> list[Customer]:
    """Return a person in two systems and twice in one, a household, an e-mail clash, an office phone of all.

    The last two are of systems with the same people, in which each can be nobody else.
    """
    quay = ("7 Quay Street", "Riverton", "82501")
    crowd = [person("mail", str(n), given=f"G{n}x", family=f"F{n}y", phones=[OFFICE]) for n in range(60)]
    return [
        person("crm", "1", **ADA, phones=[*HOME["phones"], OFFICE], address=HOME["address"]),
        person("shop", "1", **ADA, phones=[OFFICE]),
        person("crm", "2", **ADA, phones=[OFFICE]),
        person("crm", "3", given="Zebedee", family="Quimby", born="1991-11-30", emails=["shared@example.com"], **HOME),
        person("crm", "4", given="Gaston", family="Lequeux", born="1961-05-06", emails=["shared@example.com"]),
        *crowd,
        person("erp", "1", given="Orla", family="Fenwick", address=quay),
        person("till", "1", given="Piers", family="Fenwick", address=quay),
    ]


@dataclass(frozen=True)
class Found:
    """A deployment in which the duplicates have been found."""

    config: Config
    deployment: Deployment
    folder: Path

    async def rollcall(self, *arguments: str, terminal: bool = False) -> tuple[int, str, str]:
        """Run a command; return exit code, output and errors. On a terminal, output is what it shows."""
        command = [sys.executable, "-m", "worker.cli", "-c", str(self.folder / "rollcall.yaml"), "duplicates"]
        ours, theirs = pty.openpty() if terminal else (-1, asyncio.subprocess.PIPE)
        process = await asyncio.create_subprocess_exec(
            *command, *arguments, stdout=theirs, stderr=asyncio.subprocess.PIPE, env=os.environ | {"COLUMNS": "200"}
        )
        if not terminal:
            async with asyncio.timeout(DEADLINE):
                output, errors = await process.communicate()
            return process.returncode or 0, output.decode(), errors.decode()
        os.close(theirs)
        shown = await asyncio.to_thread(_read, ours)
        _, errors = await process.communicate()
        return process.returncode or 0, shown.decode(), errors.decode()

    async def lines(self, *arguments: str) -> list[dict[str, Any]]:
        """Return the JSON lines of a command that has to succeed."""
        code, output, errors = await self.rollcall(*arguments)
        assert code == 0, errors
        return [orjson.loads(line) for line in output.splitlines()]


def _read(terminal: int) -> bytes:
    shown = b""
    while True:
        try:
            part = os.read(terminal, 65_536)
        except OSError:  # how a terminal ends
            part = b""
        if not part:
            os.close(terminal)
            return shown
        shown += part


@pytest.fixture
async def found(deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Found:
    """Publish the customers and have the three stages find who is one person."""
    monkeypatch.setenv("ROLLCALL_PEPPER", "a pepper for the tests of duplicates")
    kafka = deployment.connection.settings
    raw: Mapping[str, Any] = {
        "prefix": deployment.topics.prefix,
        "kafka": {"bootstrap": kafka.bootstrap, "partitions": kafka.partitions},
        "state_dir": str(tmp_path / "workers"),
        "handlers": {"dedupe": {"one_to_one": [["erp", "till"]]}},
    }
    (tmp_path / "rollcall.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    config = load(tmp_path / "rollcall.yaml")
    rows = [(deployment.topics.latest, *latest(customer, 1)) for customer in customers()]
    rows.append((deployment.topics.latest, *deleted("crm", "9", 2)))
    await deployment.connection.publish(deployment.topics, rows)
    stop = asyncio.Event()
    serving = asyncio.ensure_future(service.serve(config, REBUILT, stop=stop))
    try:
        await until(lambda: _settled(config))
    finally:
        stop.set()
        await serving
    return Found(config, deployment, tmp_path)


async def _settled(config: Config) -> bool:
    """Return whether the three of them are one, by what identifies them, and the two, and the clash is reported."""
    rows = {
        row.key: orjson.loads(row.value or b"null") for row in await inspect.records(config, config.topics.clusters)
    }
    identity = [orjson.loads(row.value or b"") for row in await inspect.records(config, config.topics.identity)]
    clash = any(event.get("reason") == "email_clash" and event["a"] == "crm/3" for event in identity)
    done = [row for row in rows.values() if row and row["size"] == 3]
    only_each_other = bool(rows.get(b"erp/1"))
    return clash and only_each_other and len(done) == 3 and any(step["generic"] for row in done for step in row["path"])


async def test_clusters_and_reviews_are_listed(found: Found) -> None:
    """Within one source and across are told apart, and an e-mail clash within one source is reported as one."""
    lines = await found.lines("list")
    (group,) = [line for line in lines if line["kind"] == "cluster" and line["winner"] != "erp/1"]
    assert group["members"] == ["crm/1", "crm/2", "shop/1"]
    assert (group["sources"], group["members_by_source"]) == ("several", {"crm": 2, "shop": 1})
    reviews = {(line["a"], line["b"]): line for line in lines if line["kind"] == "review"}
    clash = reviews["crm/3", "crm/4"]
    assert (clash["reason"], clash["sources"]) == ("email_clash", "same")
    assert ("crm/1", "crm/2") in reviews
    assert [line["kind"] for line in await found.lines("list", "--sources", "same")] == ["review"] * len(reviews)
    code, shown, errors = await found.rollcall("list", terminal=True)
    assert (code, errors) == (0, "")
    assert "crm/2, shop/1" in shown or "crm/1" in shown
    assert "2 clusters" in shown


async def test_why_two_are_one(found: Found) -> None:
    """The account names the keys that met, the weights, the vetoes, and what too many share; and no value."""
    (account,) = await found.lines("why", "shop/1", "crm/2")
    assert (account["a"], account["b"], account["verdict"]) == ("crm/2", "shop/1", "linked")
    assert account["fields"] == {"birth_date": 7, "given": 5, "family": 6}
    assert account["values"] == {"email": 8}
    assert account["standing"] == account["score"] == 26
    assert account["crowded"] == ["phone"]
    assert set(account["met"]) == {"email", "birth date and name", "given and family name"}
    assert not any(account["vetoes"].values())
    assert account["published"]["clusters"][0] == account["published"]["clusters"][1] is not None
    ends = {account["published"]["path"][0]["a"], account["published"]["path"][-1]["b"]}
    assert ends <= {"crm/1", "crm/2", "shop/1"}
    code, shown, errors = await found.rollcall("why", "crm/1", "crm/2", terminal=True)
    assert (code, errors) == (0, "")
    assert "crm/1 and crm/2: linked" in shown
    assert "published as one" in shown


async def test_why_two_are_one_who_can_be_nobody_else(found: Found) -> None:
    """The pair alone is apart; the evidence, and the account, say why it is linked all the same."""
    (account,) = await found.lines("why", "erp/1", "till/1")
    assert (account["verdict"], account["one_to_one"]) == ("apart", True)
    assert account["vetoes"]["given_name"]
    (step,) = account["published"]["path"]
    assert step["one_to_one"]
    code, shown, errors = await found.rollcall("why", "erp/1", "till/1", terminal=True)
    assert (code, errors) == (0, "")
    assert "erp/1 and till/1: apart" in shown
    assert "linked all the same where neither may be anybody else" in shown
    assert "published as one" in shown


async def test_why_two_are_not_one(found: Found) -> None:
    """A household: the veto that holds is named."""
    (account,) = await found.lines("why", "crm/1", "crm/3")
    assert account["verdict"] == "apart"
    assert account["standing"] is None
    assert account["vetoes"]["given_name"]
    assert account["published"] == {"clusters": [account["published"]["clusters"][0], None], "path": [], "review": None}
    (strangers,) = await found.lines("why", "mail/1", "crm/3")
    assert strangers["met"] == strangers["crowded"] == []
    (crowd,) = await found.lines("why", "mail/1", "mail/2")
    assert (crowd["met"], crowd["crowded"], crowd["verdict"]) == ([], ["phone"], "apart")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("why", "crm/1", "crm/77"), "has never been published"),
        (("why", "crm/1", "crm/9"), "is deleted"),
        (("why", "crm/1", "crm/1"), "two different customers"),
        (("list", "--source", "nowhere"), "there is no source"),
        (("export", "--output", "nowhere/at/all.jsonl"), "cannot be written"),
    ],
)
async def test_what_cannot_be_answered_is_said(found: Found, arguments: tuple[str, ...], said: str) -> None:
    """A wrong name is a usage error, with what to do."""
    code, output, errors = await found.rollcall(*arguments)
    assert (code, output) == (2, "")
    assert said in errors


async def test_all_of_it_is_exported(found: Found) -> None:
    """JSON lines and CSV say the same, to a file or to a pipe."""
    rows = await found.lines("export")
    assert [row["customer"] for row in rows] == ["crm/1", "crm/2", "erp/1", "shop/1", "till/1"]
    assert [row["winner"] for row in rows].count(True) == 2
    code, _, errors = await found.rollcall("export", "--format", "csv", "--output", str(found.folder / "all.csv"))
    assert code == 0, errors
    read = list(csv.DictReader(io.StringIO((found.folder / "all.csv").read_text(encoding="utf-8"))))
    assert [row | {"winner": str(row["winner"]), "size": str(row["size"])} for row in rows] == read


async def test_no_value_of_a_customer_is_a_key_or_is_shown(found: Found) -> None:
    """Keys of topics, keys in the stores' files, their names, and what the commands print have ids and hashes only."""
    shown: list[bytes] = []
    for spec in found.deployment.topics.declared():
        shown += [record.key or b"" for record in await found.deployment.read(spec.name)]
    assert len(shown) > 500
    for file in (found.folder / "workers").rglob("*"):
        shown.append(str(file.relative_to(found.folder)).encode())
        if file.name == "data.mdb":
            shown += _keys(file.parent)
    for arguments in (("list",), ("why", "crm/1", "shop/1"), ("why", "crm/3", "crm/4"), ("export",)):
        code, output, errors = await found.rollcall(*arguments)
        assert (code, errors) == (0, "")
        shown.append(output.encode())
    for value in PERSONAL:
        assert not [one for one in shown if value.encode() in one.lower()], value


def _keys(folder: Path) -> list[bytes]:
    found: list[bytes] = []
    with lmdb.open(str(folder), max_dbs=3, readonly=True, lock=False) as env:
        for name in (b"data", b"scratch", b"info"):
            database = env.open_db(name, create=False)
            with env.begin(db=database) as txn:
                found += [bytes(key) for key, _ in txn.cursor()]
    return found


def blocks(language: str) -> list[str]:
    """Return the code in the page, by language."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


async def test_the_page_works_as_it_is_written(found: Found) -> None:
    """Its commands run, and its configuration is one."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    (script,) = blocks("sh")
    process = await asyncio.create_subprocess_exec(
        *("bash", "-eu", "-o", "pipefail", "-c", script), cwd=found.folder, env=os.environ | {"PATH": path}
    )
    async with asyncio.timeout(DEADLINE):
        assert await process.wait() == 0
    assert len((found.folder / "duplicates.jsonl").read_text(encoding="utf-8").splitlines()) == 5
    (example,) = blocks("yaml")
    raw = yaml.safe_load((found.folder / "rollcall.yaml").read_text(encoding="utf-8"))
    source = {"kind": "drivly", "url": "https://crm.example.com/api", "key": {"env": "KEY"}}
    raw["sources"] = dict.fromkeys(("crm", "shop"), source)
    assert parse(raw | yaml.safe_load(example)).file.handlers.dedupe.scope_of("shop") == "retail"


def shown(value: Any) -> str:
    """Return a default as the page shows it."""
    match value:
        case bool():
            return str(value).lower()
        case tuple():
            return ", ".join(map(str, value))
        case _:
            return f"{value:g}"


def test_the_page_has_every_default() -> None:
    """Weights, vetoes and caps are those of the code, all of them."""
    rows = re.findall(
        r"^\| `(weights|vetoes|caps)\.(\w+)` \| ([^|]*) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE
    )
    settings = DedupeSettings().model_dump()
    expected = {
        (section, name): shown(value)
        for section in ("weights", "vetoes", "caps")
        for name, value in settings[section].items()
    }
    assert {(section, name): text for section, name, text in rows} == expected
    assert set(KEY_KINDS) == set(re.findall(r"`([A-Z])` ", PAGE.read_text(encoding="utf-8")))
