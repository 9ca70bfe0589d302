"""`rollcall check` on a configuration with planted mistakes: it names every one, with its path and what to do."""

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from aiokafka.admin import NewPartitions
from click.testing import CliRunner

from tests.secure.conftest import Secured
from worker import acls, checking
from worker.cli import main
from worker.kafka import Connection, apply_topics
from worker.rights import Rights
from worker.settings import KafkaSettings
from worker.simulator.drivly import Drivly
from worker.topics import Topics

KEY = "users API-Key right"


@pytest.fixture
async def drivly() -> AsyncIterator[Drivly]:
    """Run an upstream of three customers."""
    simulator = Drivly(seed=1, customers=3, authorization=KEY)
    await simulator.start()
    yield simulator
    await simulator.stop()


def source(url: str, key: dict[str, str]) -> dict[str, Any]:
    """Return the settings of a source."""
    return {"kind": "drivly", "url": url, "key": key, "allow_private_addresses": True}


async def checked(folder: Path, raw: dict[str, Any], *roles: str) -> checking.Findings:
    """Check a configuration."""
    path = folder / "rollcall.yaml"
    path.write_text(yaml.safe_dump(raw), "utf-8")
    return await checking.check(path, roles)


def withheld(grant: acls.Grant, topics: Topics) -> frozenset[acls.Operation]:
    """Return what is planted as not granted: to write events."""
    return frozenset({"Write"}) if grant.name == topics.events else frozenset()


def connection(settings: KafkaSettings) -> dict[str, Any]:
    """Return settings as they stand in a file."""
    return settings.model_dump(mode="json", exclude_defaults=True, exclude_none=True)


async def test_ten_planted_mistakes_are_named(
    secured: Secured, admin: KafkaSettings, topics: Topics, drivly: Drivly, tmp_path: Path
) -> None:
    """In one run: of the file, the secrets, the sources, the topics, the rights, the pepper, the machine."""
    await apply_topics(admin, topics)
    async with Connection(admin).admin() as client:
        await client.client.delete_topics([topics.identity])
        await client.alter({topics.latest: {"cleanup.policy": "delete"}})
    state = orjson.dumps({"kind": "source", "source": "crm", "pepper": "0badcafe"})
    await Connection(admin).publish(topics, [(topics.status, b"source/crm", state)])
    granted = [replace(one, operations=one.operations - withheld(one, topics)) for one in acls.grants("poll", topics)]
    who = await secured.user("planted", granted)
    slow = Drivly(seed=2, customers=1, authorization=KEY)
    slow.clock_offset = -3600.0
    await slow.start()
    (tmp_path / "file").touch()
    right, wrong = secured.secret("right", KEY), secured.secret("wrong", "users API-Key wrong")
    with socket.socket() as taken, socket.socket() as closed:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        closed.bind(("127.0.0.1", 0))
        raw = {
            "prefix": topics.prefix,
            "kafka": connection(secured.settings(**who)),
            "state_dir": str(tmp_path / "file"),
            "listen": f"127.0.0.1:{taken.getsockname()[1]}",
            "grace": "soon",
            "sources": {
                "crm": source(f"{drivly.url}/api", right),
                "erp": source(f"{drivly.url}/api", {"file": str(tmp_path / "none")}),
                "shop": source(f"{drivly.url}/api", wrong),
                "club": source(f"http://127.0.0.1:{closed.getsockname()[1]}/api", right),
                "late": source(f"{slow.url}/api", right),
                "typo": {**source(f"{drivly.url}/api", right), "intervall": "5s"},
            },
            "handlers": {"deletes": {"routes": [{"source": "crm", "target": "nobody"}]}},
        }
        try:
            result = await checked(tmp_path, raw, "poll")
        finally:
            await slow.stop()
    said = "\n".join(result.problems)
    for planted in (
        "grace: 'soon' is not a duration; write a number with a unit",
        "handlers.deletes: routes.0.target: there is no target 'nobody'",
        "sources.typo.intervall: there is no such setting",
        f"sources.erp.key: the file {tmp_path / 'none'} cannot be read: No such file or directory",
        "sources.shop: reading a page of the head: GET /api/customers answered 403. The credential is not accepted",
        "sources.club: http://127.0.0.1:",
        "sources.late.url: this machine's clock is 360",
        " s ahead of the one there: synchronise them (NTP)",
        f"kafka: poll may not Write topic {topics.events}: `rollcall acls poll` prints what grants it",
        f"topics: {topics.identity} is missing (1 of ",
        f"topics: {topics.latest}: cleanup.policy should be compact: `rollcall topics apply` mends it",
        "pepper: the deployment's state was made under another one (0badcafe, this is ",
        "state_dir: ",
        "listen: 127.0.0.1:",
    ):
        assert planted in said, said
    assert len(result.problems) >= 13
    assert not result.passed_over
    assert KEY not in said


async def test_a_deployment_in_order(
    secured: Secured, admin: KafkaSettings, topics: Topics, drivly: Drivly, tmp_path: Path
) -> None:
    """Nothing is said of it, and nothing is asked but one page of one customer."""
    await apply_topics(admin, topics)
    who = await secured.user("orderly", [one for role in acls.WORKERS for one in acls.grants(role, topics)])
    target = {**source(f"{drivly.url}/api", secured.secret("right", KEY)), "canary_id": "1"}
    raw = {
        "prefix": topics.prefix,
        "kafka": connection(secured.settings(**who)),
        "state_dir": str(tmp_path / "state"),
        "sources": {"crm": source(f"{drivly.url}/api", secured.secret("right", KEY))},
        "handlers": {"deletes": {"undo_key": None, "targets": {"crm": target}}},
    }
    before = len(drivly.requests)
    assert await checked(tmp_path, raw) == checking.Findings(sources=1)
    page, canary = list(drivly.requests)[before:]
    assert "&limit=1&" in page.query
    assert canary.path == "/api/customers/1"


async def test_missing_topics_are_one_line(
    secured: Secured, admin: KafkaSettings, topics: Topics, tmp_path: Path
) -> None:
    """Before the first `topics apply` all of them are."""
    raw = {"prefix": topics.prefix, "kafka": connection(admin), "state_dir": str(tmp_path)}
    (problem,) = (await checked(tmp_path, raw)).problems
    many = len(topics.declared())
    assert f"and {many - 3} more are missing ({many} of {many}): `rollcall topics apply` makes them" in problem


async def test_another_number_of_partitions_is_one_line(
    secured: Secured, admin: KafkaSettings, topics: Topics, tmp_path: Path
) -> None:
    """Mostly all topics have the one that was meant; one that has a number of its own is named alone."""
    await apply_topics(admin, replace(topics, partitions=3))
    async with Connection(admin).admin() as client:
        await client.client.create_partitions({topics.status: NewPartitions(5)})
        async with asyncio.timeout(30):
            while (await client.found([topics.status]))[topics.status].partitions != 5:
                await asyncio.sleep(0.1)
    raw = {"prefix": topics.prefix, "kafka": connection(admin), "state_dir": str(tmp_path)}
    said = (await checked(tmp_path, raw)).problems
    one = [problem for problem in said if problem.startswith(f"kafka.partitions: topic {topics.status} has 5 ")]
    many = len(topics.declared()) - 1
    others = [
        problem for problem in said if f" and {many - 3} more have 3 partitions, the configuration says 1" in problem
    ]
    assert (len(one), len(others), len(said)) == (1, 1, 2), said


async def test_a_principal_without_any_right(
    secured: Secured, admin: KafkaSettings, topics: Topics, tmp_path: Path
) -> None:
    """It is told by role and right; a topic that it may not see does not count as missing."""
    await apply_topics(admin, topics)
    who = await secured.user("nobody")
    raw = {"prefix": topics.prefix, "kafka": connection(secured.settings(**who)), "state_dir": str(tmp_path)}
    problems = (await checked(tmp_path, raw, "keys")).problems
    starts = [problem.split(f" {topics.prefix}")[0].split(" rollcall")[0] for problem in problems]
    assert starts == [
        "kafka: keys may not Describe group",
        "kafka: keys may not Read group",
        "kafka: keys may not Describe topic",
        "kafka: keys may not DescribeConfigs topic",
        "kafka: keys may not Read topic",
        "kafka: keys may not Write topic",
        "kafka: keys may not Describe transactional-id",
        "kafka: keys may not Write transactional-id",
    ]


async def test_the_clusters_clock(secured: Secured, admin: KafkaSettings) -> None:
    """Who may describe the cluster can read its clock, which here is ours; to others it is not told."""
    async with Connection(admin).admin() as client:
        theirs, ours = await Rights(client).clock() or (0, 0)
    assert abs(theirs - ours) < 5_000
    async with Connection(secured.settings(**await secured.user("timeless"))).admin() as client:
        assert await Rights(client).clock() is None


def test_the_command_ends_with_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The problems are on standard error, and the exit code tells that there are some."""
    (tmp_path / "rollcall.yaml").write_text("grace: soon\nkafka: {partitions: 0}\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["check"])
    assert result.exit_code == 2
    assert "rollcall.yaml has 2 problems:\n  - kafka.partitions: " in result.stderr
    assert result.stderr.endswith("(not looked at before that is mended: Kafka, its topics and rights)\n")
