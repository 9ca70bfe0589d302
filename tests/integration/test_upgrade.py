"""Releases and configurations beside one another: there, back, and half of each."""

import asyncio
import shutil
import subprocess
import tempfile
import zipfile
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from handlers.dedupe.pairs import Pairs
from tests.integration.polling import QUICK, Poller, linked
from tests.waiting import until
from worker import comparing, inspect, service
from worker import config as configuration
from worker.demo.workers import Workers
from worker.settings import KafkaSettings
from worker.simulator.drivly import Drivly

ROOT = Path(__file__).parents[2]
# An earlier state of this repository, whose formats are those of a release.
EARLIER = "d09a15cf1765e72c699015f53057913e9f5c64ac"
KEY = "users API-Key upgrade"


@pytest.fixture(scope="session")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the earlier program."""
    if shutil.which("git") is None:
        pytest.skip("there is no git")
    archive = subprocess.run(
        ["git", "archive", "--format=zip", EARLIER, "worker", "handlers"], cwd=ROOT, capture_output=True, check=False
    )
    if archive.returncode:
        pytest.skip(f"{EARLIER} is not here: it needs a clone with its whole history")
    folder = tmp_path_factory.mktemp("earlier")
    with zipfile.ZipFile(BytesIO(archive.stdout)) as files:
        files.extractall(folder)
    return folder


@pytest.fixture
async def systems() -> AsyncIterator[dict[str, Drivly]]:
    """Return two upstreams; every customer of the first names one of the second."""
    async with linked(8, KEY) as found:
        yield found


def sources(systems: dict[str, Drivly], key: Path) -> dict[str, Any]:
    """Return the upstreams as they are configured."""
    key.write_text(KEY, "utf-8")
    common = {"kind": "drivly", "key": {"file": str(key)}, "lookback": "1s", "absence_guard_count": 20}
    return {name: {**common, "url": f"{system.url}/api"} for name, system in systems.items()}


def deletes(systems: dict[str, Drivly], key: Path) -> dict[str, Any]:
    """Return the route from the first to the second."""
    target = {"kind": "drivly", "url": f"{systems['shop'].url}/api", "key": {"file": str(key)}, "undo": False}
    api = {name: QUICK[name] for name in ("allow_private_addresses", "rate", "burst")}
    return {
        "targets": {"shop": {**target, **api}},
        "routes": [{"source": "crm", "target": "shop", "link": "reference", "reference": "customerId"}],
        "guard": {"window": "1s", "count": 20},
    }


@asynccontextmanager
async def release(program: Path, poller: Poller, handler: str = "deletes") -> AsyncGenerator[Workers]:
    """Run a release's workers, a poller and a handler, from when both are ready, and stop them in order.

    What happens before a handler's very first start is the past for it, of which it carries out nothing.
    """
    logs = Path(tempfile.mkdtemp(prefix="logs-", dir=poller.folder))
    workers = Workers(poller.path, logs, {"poller": ["poll"], handler: ["handle", handler]}, program)
    try:
        await workers.start_all()
        await workers.ready()
        yield workers
    except AssertionError as error:
        error.add_note("".join(map(workers.log, workers.names)))
        raise
    finally:
        names = workers.names
        codes = await asyncio.gather(*map(workers.stop, names))
    assert codes == [0, 0], "".join(map(workers.log, names))


async def as_upstream(poller: Poller, systems: dict[str, Drivly]) -> None:
    """Wait until `customers.latest` has whom the upstreams have, as they are."""

    async def so() -> bool:
        for name, system in systems.items():
            latest = await poller.latest(name)
            if latest.keys() != system.customers().keys():
                return False
            if any(latest[key]["updated_at"] != row["updatedAt"] for key, row in system.customers().items()):
                return False
        return True

    await until(so)


async def receipts(poller: Poller) -> Counter[str]:
    """Return the outcomes of all deletions."""
    found = await inspect.records(poller.config, poller.config.topics.receipts)
    return Counter(str(orjson.loads(record.value or b"{}").get("outcome")) for record in found)


def logged(workers: Workers) -> set[str]:
    """Return the names of the lines that workers have logged."""
    lines = [line for name in workers.names for line in workers.log(name).splitlines()]
    return {orjson.loads(line)["event"] for line in lines if line.startswith("{")}


async def test_a_release_takes_over_and_is_rolled_back(
    kafka: KafkaSettings, earlier: Path, systems: dict[str, Drivly], tmp_path: Path
) -> None:
    """Poller and deletes go on with each other's state, on disk and in Kafka: nothing is lost, or comes twice."""
    poller, key = Poller(kafka, tmp_path), tmp_path / "key"
    log = {"level": "info", "format": "json"}
    await poller.configure(sources(systems, key), deletes(systems, key), log=log)
    crm = systems["crm"]
    deleted = 0
    for program in (earlier, ROOT, earlier, ROOT):
        async with release(program, poller) as workers:
            await as_upstream(poller, systems)
            first, second, *_ = crm.customers()
            crm.update(int(first))
            crm.delete(int(second))
            crm.create()
            deleted += 1

            async def carried_out() -> bool:
                return sum((await receipts(poller)).values()) >= deleted  # ruff: ignore[function-uses-loop-variable] - awaited

            await until(carried_out)
            await as_upstream(poller, systems)
            assert not {"task_failed", "source_republished"} & logged(workers)
        for name in systems:
            published = await poller.events(name)
            created = Counter(id_ for id_, headers, _ in published if headers["ce_type"] == "customer.created")
            assert set(created.values()) == {1}
    assert sum((await receipts(poller)).values()) == deleted


async def clusters(poller: Poller) -> set[frozenset[str]]:
    """Return the published clusters of more than one."""
    newest = {one.key: one.value for one in await inspect.records(poller.config, poller.config.topics.clusters)}
    groups: dict[str, set[str]] = {}
    for key, value in newest.items():
        if value is not None:
            groups.setdefault(orjson.loads(value)["cluster"], set()).add((key or b"").decode())
    return {frozenset(group) for group in groups.values()}


async def test_a_search_of_an_older_format_is_built_anew(kafka: KafkaSettings, earlier: Path, tmp_path: Path) -> None:
    """The duplicate search refuses the earlier state, is built anew by the command it names, and goes on from there."""
    poller, key = Poller(kafka, tmp_path), tmp_path / "key"
    systems = {name: await Drivly(seed=5, customers=6, authorization=KEY).start() for name in ("crm", "shop")}
    try:
        log = {"level": "info", "format": "json"}
        await poller.configure(sources(systems, key), log=log)
        pairs = {frozenset({f"crm/{id_}", f"shop/{id_}"}) for id_ in systems["crm"].customers()}

        async def found() -> bool:
            return await clusters(poller) == pairs

        async with release(earlier, poller, "dedupe"):
            await until(found)
        code, _, errors = await poller.rollcall("handle", "pairs")
        assert code == 1
        assert f"has format 1, this version of Rollcall writes {Pairs.version}" in errors
        assert "`rollcall rebuild pairs`" in errors
        code, said, errors = await poller.rollcall("rebuild", "pairs")
        assert code == 0, errors
        assert "handlers.dedupe_generation: 2" in said
        assert await found()
        content = yaml.safe_load(poller.path.read_text("utf-8"))
        content["handlers"]["dedupe_generation"] = 2
        poller.path.write_text(yaml.safe_dump(content), "utf-8")
        poller.config = configuration.load(poller.path)
        async with release(ROOT, poller, "dedupe"):
            gone = min(systems["shop"].customers())
            systems["shop"].delete(int(gone))
            pairs -= {frozenset({f"crm/{gone}", f"shop/{gone}"})}
            await until(found)
    finally:
        for system in systems.values():
            await system.stop()


async def test_a_newer_release_is_said_by_the_older(
    kafka: KafkaSettings, systems: dict[str, Drivly], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the format of the state has changed, going back ends with what to do, and nothing is touched."""
    poller, key = Poller(kafka, tmp_path), tmp_path / "key"
    await poller.configure(sources(systems, key))
    with monkeypatch.context() as newer:
        newer.setattr(service, "POLL_VERSION", service.POLL_VERSION + 1)
        async with poller.running():
            await as_upstream(poller, systems)
    before = await inspect.records(poller.config, poller.config.topics.events)
    code, _, errors = await poller.rollcall("poll")
    assert code == 1
    assert f"the state of poll has format {service.POLL_VERSION + 1}" in errors
    assert "run that one" in errors
    assert await inspect.records(poller.config, poller.config.topics.events) == before


async def test_two_configurations_beside_one_another(
    kafka: KafkaSettings, systems: dict[str, Drivly], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """As in a rolling update: what differs is said once, nobody is taken for deleted, nothing is published twice."""
    poller, key = Poller(kafka, tmp_path), tmp_path / "key"
    both = sources(systems, key)
    await poller.configure({"crm": both["crm"]})
    old = poller.config
    content = yaml.safe_load(poller.path.read_text("utf-8"))
    content["sources"] = {name: {**QUICK, **one, "interval": "200ms"} for name, one in both.items()}
    new_path = tmp_path / "new.yaml"
    new_path.write_text(yaml.safe_dump(content), "utf-8")
    new = configuration.load(new_path)
    assert comparing.differing(comparing.parts(old), comparing.parts(new)) == ["sources.crm", "sources.shop"]
    crm = {"crm": systems["crm"]}
    async with poller.running():
        await as_upstream(poller, crm)
        poller.config = new
        async with poller.running():  # now each owns some of the partitions, by its own configuration
            for _ in range(3):
                crm["crm"].update(int(next(iter(crm["crm"].customers()))))
                await as_upstream(poller, crm)
            published = len(await poller.events("crm"))
            polled = len(systems["crm"].requests)

            async def asked_again() -> bool:  # ruff: ignore[unused-async] - a condition to wait for
                return len(systems["crm"].requests) > polled + 20

            await until(asked_again)
            assert len(await poller.events("crm")) == published
    async with poller.running():  # the old one is gone
        await as_upstream(poller, systems)
    events = [event for name in systems for event in await poller.events(name)]
    types = Counter(headers["ce_type"] for _, headers, _ in events)
    assert types["customer.deleted"] == 0
    assert types["customer.created"] == sum(len(system.customers()) for system in systems.values())
    lines_said = "".join(capfd.readouterr()).splitlines()
    said = [line for line in lines_said if "configuration_differs" in line]
    assert len(said) == 1
    assert "sources.shop" in said[0]
