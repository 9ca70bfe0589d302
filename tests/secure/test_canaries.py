"""Planted values, in every field of customers and every secret: all runs, much goes wrong, and all is searched."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
import yaml

from tests.secure.collector import Collector
from tests.secure.conftest import Secured
from tests.secure.plant import connection
from tests.waiting import until
from worker import acls, inspect
from worker import config as configuration
from worker.config import Config
from worker.kafka import Connection, apply_topics
from worker.settings import KafkaSettings
from worker.simulator.drivly import Drivly
from worker.sources.drivly import Drivly as Adapter
from worker.topics import Topics

SECRETS = {
    name: f"canary-secret-{name}-7f3a"
    for name in ("pepper", "crm", "shop", "kafka", "rotated", "collector", "stranger")
} | {"undo": "c0ffee15" * 8}
# Of what goes wrong: each kind of fault of the simulators that quotes records, breaks answers, or leads elsewhere.
FAULTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("html", {}),
    ("redirect", {}),
    ("truncated", {}),
    ("cut", {}),
    ("drop", {}),
    ("wrong_types", {"count": 5}),
    ("missing_ids", {}),
    ("nulls", {}),
    ("nan", {}),
    ("deep", {}),
    ("charset", {}),
    ("huge", {}),
    ("status", {"status": 500}),
    ("status", {"status": 429}),
    ("status", {"status": 404}),
)
# What makes a customer one, and ties it to others; all else is planted.
KEPT = {"id", "customerId", "updatedAt", "createdAt", "tenants"}
DATES = {"consumerDateOfBirth": "1903-04-05", "consumerDriversLicenseExpiration": "2093-04-05"}
COMMANDS = (
    ("status",),
    ("status", "--json"),
    ("check",),
    ("topics", "plan"),
    ("deletions", "list"),
    ("deletions", "list", "--json"),
    ("deadletters", "list"),
    ("deadletters", "list", "--json"),
    ("deadletters", "retry", "--stage", "keys"),
    ("pause", "crm"),
    ("resume", "crm"),
    ("resync", "crm"),
    ("resync", "nobody"),
    ("audit", "crm"),
    ("replay", "--to", "deletes", "--from", "beginning"),
)


def plant(name: str, value: Any) -> Any:
    """Return what is planted into a field in place of `value`: the same for every customer, and no other field's."""
    match value:
        case "" | None | bool():
            return value
        case int():
            return 777_000_000 + crc32(name.encode()) % 1_000_000
        case str():
            return DATES.get(name, f"Canary{name}")
        case list():
            return [plant(name, one) for one in value]
    return value


def planted(row: dict[str, Any]) -> dict[str, Any]:
    """Return what is planted into a customer."""
    fields = {name: plant(name, value) for name, value in row.items() if name not in KEPT}
    return fields | {
        "email": "canary.email@example.com",
        "phone": "+12025550177",
        "consumerSocialSecurity": "987-65-4321",
    }


def texts(fields: dict[str, Any]) -> dict[str, str]:
    """Return what to search for, by field."""
    first = {name: value[0] if isinstance(value, list) and value else value for name, value in fields.items()}
    return {name: str(value) for name, value in first.items() if isinstance(value, str | int) and value}


class Everything:
    """The deployment, and all that anybody has said."""

    def __init__(self, folder: Path, path: Path) -> None:
        """Run what is configured in `path`."""
        self.folder = folder
        self.path = path
        self.planted: dict[str, str] = {}
        self.outputs: list[Path] = []
        self.commands: list[bytes] = []

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        """Start a process whose output is kept, and look at what a list of processes shows of it."""
        out = self.folder / f"output{len(self.outputs)}"
        self.outputs.append(out)
        command = [sys.executable, "-m", "worker.cli", "--config", str(self.path), *arguments]
        with out.open("wb") as file:
            process = await asyncio.create_subprocess_exec(*command, stdout=file, stderr=file)
        self.commands.append(await asyncio.to_thread(Path(f"/proc/{process.pid}/cmdline").read_bytes))
        return process

    async def run(self, *arguments: str) -> None:
        """Run a command to its end, whatever that is."""
        async with asyncio.timeout(60):
            await (await self.start(*arguments)).wait()

    @asynccontextmanager
    async def workers(self) -> AsyncGenerator[list[asyncio.subprocess.Process]]:
        """Run a poller and a handler."""
        processes = [await self.start("poll"), await self.start("handle")]
        try:
            yield processes
        finally:
            for process in processes:
                if process.returncode is None:
                    process.terminate()
            for process in processes:
                await process.wait()

    def said(self) -> bytes:
        """Return all output, and all command lines."""
        return b"\n".join([*(out.read_bytes() for out in self.outputs), *self.commands])


async def everything_on(config: Config) -> bytes:
    """Return every record of every topic, with key and headers."""
    found: list[bytes] = []
    for spec in config.topics.declared():
        for record in await inspect.records(config, spec.name):
            found += [record.key or b"", record.value or b"", *(value for _, value in record.headers)]
    return b"\n".join(found)


async def test_nothing_planted_comes_out(
    secured: Secured,
    admin: KafkaSettings,
    topics: Topics,
    collector: Collector,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither in logs, errors, traces, command lines or on topics; of a customer, only what is published on purpose."""
    await apply_topics(admin, topics)
    monkeypatch.setenv("ROLLCALL_PEPPER", SECRETS["pepper"])
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"authorization={SECRETS['collector']}")
    monkeypatch.setenv("UNDO_KEY", SECRETS["undo"])
    systems = {name: Drivly(seed=len(name), customers=6, authorization=SECRETS[name]) for name in ("crm", "shop")}
    for system in systems.values():
        await system.start()
    try:
        everything = await prepared(secured, topics, systems, tmp_path)
        await go_wrong(everything, systems, secured)
    finally:
        for system in systems.values():
            await system.stop()
    said = everything.said()
    assert b"source_trouble" in said
    assert b"without ce_sequence" in said  # the broken record is a dead letter
    assert collector.spans
    config = configuration.load(everything.path)
    on_topics = await everything_on(config)
    on_disk = b"".join(path.read_bytes() for path in (tmp_path / "state").rglob("*") if path.is_file())
    for name, secret in SECRETS.items():
        for what, where in (("output", said), ("traces", collector.said), ("topics", on_topics), ("disk", on_disk)):
            assert secret.encode() not in where, f"the secret {name} is in the {what}"
    assert len(everything.planted) > 25
    for name, value in everything.planted.items():
        text = value.encode()
        assert text not in said, f"{name} is in the output"
        assert text not in collector.said, f"{name} is in the traces"
        if name in Adapter.privacy:
            assert text not in on_topics, f"{name} is on a topic"
            assert text not in on_disk, f"{name} is on the disk"
    assert b"canary.email@example.com" in on_topics  # the search does find what is there


async def prepared(secured: Secured, topics: Topics, systems: dict[str, Drivly], folder: Path) -> Everything:
    """Plant everything, and write the configuration."""
    found: dict[str, str] = {}
    for system in systems.values():
        for customer_id, row in system.customers().items():
            system.update(int(customer_id), planted(row))
            found |= texts(planted(row))
    shop = list(systems["shop"].customers())
    for customer_id, partner in zip(list(systems["crm"].customers()), shop, strict=True):
        systems["crm"].update(int(customer_id), {"customerId": partner})
    roles = (*acls.WORKERS, "operator", "approver", "topics")
    given = [grant for role in roles for grant in acls.grants(role, topics)]
    who = await secured.user(f"{topics.prefix}-canary", given, password=SECRETS["kafka"])
    quick = {"allow_private_addresses": True, "rate": 500, "burst": 100}
    api = {
        name: {
            "kind": "drivly",
            "url": f"{system.url}/api",
            "key": secured.secret(f"{name}.key", SECRETS[name]),
            **quick,
        }
        for name, system in systems.items()
    }
    timing = {"interval": "100ms", "scan_interval": "500ms", "lookback": "1s", "absence_guard_count": 50}
    raw = {
        "prefix": topics.prefix,
        "kafka": connection(secured.settings(**who)),
        "log": {"level": "debug", "format": "json"},
        "state_dir": str(folder / "state"),
        "sources": {name: {**one, **timing} for name, one in api.items()},
        "handlers": {
            "deletes": {
                "undo_key": {"env": "UNDO_KEY"},
                "targets": {"shop": api["shop"]},
                "routes": [{"source": "crm", "target": "shop", "link": "reference", "reference": "customerId"}],
                "guard": {"window": "1s", "count": 50},
            }
        },
    }
    path = folder / "rollcall.yaml"
    path.write_text(yaml.safe_dump(raw), "utf-8")
    everything = Everything(folder, path)
    everything.planted = found
    return everything


async def go_wrong(everything: Everything, systems: dict[str, Drivly], secured: Secured) -> None:
    """Have all of it run, and everything fail once: upstreams, targets, credentials, records, processes."""
    config = configuration.load(everything.path)
    crm, shop = systems["crm"], systems["shop"]

    async def published() -> bool:
        latest = {record.key for record in await inspect.records(config, config.topics.latest) if record.value}
        return latest >= {f"{name}/{key}".encode() for name, one in systems.items() for key in one.customers()}

    async def receipt(count: int) -> bool:
        return len(await inspect.records(config, config.topics.receipts)) >= count

    async with everything.workers() as processes:
        await until(published, "the customers were not published")
        tasks = len(acls.WORKERS) * config.file.kafka.partitions
        await until(lambda: everything.said().count(b'"event":"task_restored"') == tasks, "not all was taken up")
        for kind, options in FAULTS:
            met = crm.fault(kind, times=3, **options)
            crm.update(int(next(iter(crm.customers()))))
            await until(lambda met=met: hit(met), f"{kind} was not met")  # type: ignore[misc]
            crm.clear_faults()
        shop.fault("status", method="DELETE", status=500, body='{"message":"Canarybody"}', times=2)
        crm.delete(int(list(crm.customers())[-1]))
        await until(lambda: receipt(1), "the deletion was not carried out")
        garbage = b'{"name":"Canarygarbage'
        await Connection(config.file.kafka).publish(config.topics, [(config.topics.latest, b"crm/broken", garbage)])
        for name in ("crm", "stranger"):  # another credential, which is refused, and back
            (secured.folder / "crm.key").write_text(SECRETS["stranger" if name == "crm" else "crm"], "utf-8")
            met_before = len(crm.requests)
            await until(lambda since=met_before: asked(crm, since), "the source was not asked again")  # type: ignore[misc]
        crm.authorization = SECRETS["rotated"]  # and one that is rotated, without a restart
        (secured.folder / "crm.key").write_text(SECRETS["rotated"], "utf-8")
        for command in COMMANDS:
            await everything.run(*command)
        for process in processes:
            process.send_signal(signal.SIGKILL)
    os.environ["ROLLCALL_PEPPER"] = SECRETS["stranger"]  # refused: the state is of another pepper
    await everything.run("poll")
    os.environ["ROLLCALL_PEPPER"] = SECRETS["pepper"]
    async with everything.workers():
        newcomer = str(crm.create(planted(crm.customers()[next(iter(crm.customers()))])))

        async def has_come() -> bool:
            latest = await inspect.records(config, config.topics.latest)
            return f"crm/{newcomer}".encode() in {record.key for record in latest}

        await until(has_come, "nothing was published after the restart, under the rotated credential")


async def hit(met: Any) -> bool:  # ruff: ignore[unused-async] - a condition to wait for
    """Return whether a fault was met."""
    return bool(met.hits)


async def asked(system: Drivly, since: int) -> bool:  # ruff: ignore[unused-async] - a condition to wait for
    """Return whether a system was asked something since."""
    return len(system.requests) > since
