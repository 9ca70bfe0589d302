"""`rollcall demo`: all of it on one machine, for a minute, and a verdict.

A real broker, five simulated systems of all four kinds behind real HTTP, the very worker processes that production
runs. What happens is random by a seed; at the end the topics are held against the systems (`checks`).
"""

import asyncio
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import yaml
from rich.console import Console
from rich.live import Live
from rich.table import Table

from worker import config as configuration
from worker import embedded, inspect, ordering
from worker.config import Config
from worker.demo import checks, scenes
from worker.demo.workers import Workers
from worker.demo.world import API_KEY, CLIENT_SECRET, CRM, GARAGE, KEY, PASSWORD, SHOP, World
from worker.errors import RollcallError
from worker.kafka import apply_topics
from worker.simulator import Connect, Dintero, Drivly, MyKaarma

_SETTLE_SECONDS: Final = 60.0
_ANSWER_SECONDS: Final = 30.0
_REQUESTER: Final = "00000000-0000-4000-8000-000000000001"
_SHOWN: Final = 10


def settings(bootstrap: str, world: World) -> dict[str, Any]:
    """Return the demo's configuration: everything is quick, so that a minute is enough."""
    api = {
        "allow_private_addresses": True,
        "rate": 500,
        "burst": 100,
    }
    quick = {"interval": "500ms", "scan_interval": "2s", "absence_guard_count": 60, **api}
    drivly = {"kind": "drivly", "key": {"env": "DEMO_KEY"}, "lookback": "3s", **quick}
    urls = {name: f"{system.url}/api" for name, system in world.systems.items() if isinstance(system, Drivly)}
    return {
        "kafka": {"bootstrap": bootstrap, "partitions": 4},
        "log": {"format": "json"},
        "sources": {
            **{name: {**drivly, "url": url} for name, url in urls.items()},
            **{name: {**source, **quick} for name, source in _others(world).items()},
        },
        "handlers": {
            "deletes": {
                "targets": {
                    SHOP: {"kind": "drivly", "url": urls[SHOP], "key": {"env": "DEMO_KEY"}, "undo": False, **api}
                },
                "routes": [{"source": CRM, "target": SHOP, "link": "reference", "reference": "customerId"}],
                "guard": {"window": "2s", "count": 35},
            },
        },
    }


def _others(world: World) -> dict[str, dict[str, Any]]:
    """Return the sources of the smaller systems, as far as they are there."""
    found: dict[str, dict[str, Any]] = {}
    for name, system in world.systems.items():
        match system:
            case Connect():
                found[name] = {"key": {"env": "DEMO_API_KEY"}}
            case MyKaarma():
                credential = {"username": {"env": "DEMO_USER"}, "password": {"env": "DEMO_PASSWORD"}}
                found[name] = {**credential, "requester_user_uuid": _REQUESTER, "dealer_uuids": system.dealers}
            case Dintero():
                client = {"client_id": {"env": "DEMO_CLIENT"}, "client_secret": {"env": "DEMO_CLIENT_SECRET"}}
                found[name] = {**client, "aid": system.account, "lookback": "3s"}
            case _:
                continue
        found[name] |= {"kind": system.kind, "url": system.url}
    return found


@asynccontextmanager
async def _stage(seed: int, customers: int) -> AsyncGenerator[tuple[World, Config, Workers, Path]]:
    """Set everything up, and take it down again whatever happens."""
    folder = Path(tempfile.mkdtemp(prefix="rollcall-demo-"))
    world = World(seed, all_kinds=True, reserve=scenes.AT_ONCE)
    os.environ |= {"DEMO_KEY": KEY, "DEMO_API_KEY": API_KEY, "DEMO_USER": "rollcall", "DEMO_PASSWORD": PASSWORD}
    os.environ |= {"DEMO_CLIENT": "dintero-test-client", "DEMO_CLIENT_SECRET": CLIENT_SECRET}
    pepper = folder / "pepper"  # in a file, so that a worker that is started by hand finds it
    pepper.write_text(secrets.token_hex(32), encoding="ascii")
    try:
        async with embedded.cluster(folder / "kafka") as kafka:
            await world.start(customers)
            path = folder / "rollcall.yaml"
            content = settings(kafka.bootstrap, world) | {
                "state_dir": str(folder / "state"),
                "pepper": {"file": str(pepper)},
            }
            path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
            config = configuration.load(path)
            await apply_topics(config.file.kafka, config.topics)
            workers = Workers(path, folder)
            try:
                await workers.start_all()
                await workers.ready()
                yield world, config, workers, path
            finally:
                await workers.stop_all()
                await world.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _read(config: Config) -> checks.Topics:
    async def all_of(name: str) -> list[Any]:
        return [record async for record in inspect.read_all(config, getattr(config.topics, name))]

    names = ("events", "latest", "clusters", "receipts", "deadletters")
    return checks.Topics(*await asyncio.gather(*map(all_of, names)))


async def run(*, customers: int, seconds: float, seed: int, keep: bool) -> int:
    """Run the demo; return the exit code: 0 where everything is as it must be, else 1.

    `customers`, in the largest systems: 200 at least, so that the outage hides more than `absence_guard_count`, and
    there are enough to be deleted at once.
    """
    console, started = Console(highlight=False, soft_wrap=True), time.monotonic()
    if (mine := asyncio.current_task()) is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, mine.cancel)
    console.print("Starting a Kafka broker, five simulated systems, a poller and the handlers (15 seconds or so) ...")
    async with _stage(seed, customers) as (world, config, workers, path):
        kinds = ", ".join(
            f"{name} ({system.kind}, {len(system.customers())})" for name, system in world.systems.items()
        )
        console.print(f"Running. The systems and their customers: {kinds}.")
        console.print(
            f"For {seconds:g} seconds customers come, change and go, some are entered twice; a customer deleted in the "
            f"{CRM} is to be deleted in the {SHOP}."
        )
        await _watch(console, world, config, workers, seconds)
        results = await _settle(console, world, config, workers)
        if not any(check.wrong for check in results):
            played = await _play(console, world, config, path)
            results = await _settle(console, world, config, workers) + played
        code = _report(console, world, results)
        console.print(f"It took {time.monotonic() - started:.0f} seconds.")
        if code:
            console.print(f"The workers' logs are in {path.parent} as long as this runs.", style="red")
        _explain(console, config, path)
        if keep:
            await _keep(console)
    return code


async def _watch(console: Console, world: World, config: Config, workers: Workers, seconds: float) -> None:
    """Let the world churn, and show how it goes: a live table on a terminal, lines elsewhere."""
    await _fill_watch_list(world, config)
    churn = asyncio.ensure_future(world.churn(seconds))
    started = time.monotonic()
    try:
        if console.is_terminal:
            with Live(console=console, refresh_per_second=4) as live:
                while not churn.done():
                    await _fill_watch_list(world, config)
                    live.update(_progress(world, await _read(config), time.monotonic() - started))
                    await asyncio.wait([churn], timeout=1)
        else:
            while not churn.done():
                await _fill_watch_list(world, config)
                topics = await _read(config)
                console.print(
                    f"{time.monotonic() - started:5.1f} s  {sum(world.done.values())} changes made upstream, "
                    f"{len(topics.events)} events published, {len(checks.table(topics.latest))} customers, "
                    f"{len(checks.table(topics.clusters))} of them known twice, "
                    f"{len(topics.receipts)} deletions carried on"
                )
                await asyncio.wait([churn], timeout=5)
        await churn
        await _fill_watch_list(world, config)
    finally:
        churn.cancel()
    if died := workers.died():
        raise RollcallError("\n".join(died))


async def _fill_watch_list(world: World, config: Config) -> None:
    """Have the garage's new customers watched, as `rollcall watch add` does."""
    ids, world.unwatched[:] = list(world.unwatched), []
    if ids:
        wanted = ordering.given("watch", GARAGE, ids=ordering.watchable(config, GARAGE, ids))
        await ordering.carry_out(config, wanted, _ANSWER_SECONDS)


def _progress(world: World, topics: checks.Topics, seconds: float) -> Table:
    table = Table(title=f"{seconds:.0f} s")
    table.add_column("")
    table.add_column("upstream", justify="right")
    table.add_column("on the topics", justify="right")
    latest = checks.table(topics.latest)
    for name, system in world.systems.items():
        mine = sum(key.startswith(f"{name}/") for key in latest)
        table.add_row(f"customers of {name}", str(len(system.customers())), str(mine))
    table.add_row("changes / events", str(sum(world.done.values())), str(len(topics.events)))
    groups = {membership["cluster"] for membership in checks.table(topics.clusters).values()}
    table.add_row("people with duplicates", str(len(world.clusters())), str(len(groups)))
    table.add_row("deletions to carry / receipts", str(len(world.carried)), str(len(topics.receipts)))
    return table


async def _play(console: Console, world: World, config: Config, path: Path) -> list[checks.Check]:
    """Play the scenes that come after the churn."""
    console.print(f"An outage: the {CRM} lists only some of its customers. Nobody may be taken for deleted ...")
    outage = await scenes.outage(world, config, console.print)
    console.print(f"Many customers are really deleted in the {CRM} at once. That waits for a person ...")
    return [outage, await scenes.mass_deletion(world, path, console.print)]


async def _settle(console: Console, world: World, config: Config, workers: Workers) -> list[checks.Check]:
    """Wait until everything is right, but not for ever; return what was found last."""
    console.print("Waiting for the topics to catch up ...")
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        results = checks.run(world, await _read(config))
        if died := workers.died():
            raise RollcallError("\n".join(died))
        if not any(check.wrong for check in results) or time.monotonic() > deadline:
            return results
        await asyncio.sleep(1)


def _report(console: Console, world: World, results: list[checks.Check]) -> int:
    console.print()
    console.print("What happened: " + ", ".join(f"{count} {what}" for what, count in world.done.most_common()))
    console.print()
    table = Table("checked", "count", "wrong")
    for check in results:
        style = "red" if check.wrong else None
        table.add_row(check.name, str(check.count), str(len(check.wrong)), style=style)
    console.print(table)
    for check in results:
        for line in check.wrong[:_SHOWN]:
            console.print(f"  {check.name}: {line}", style="red")
        if len(check.wrong) > _SHOWN:
            console.print(f"  ... and {len(check.wrong) - _SHOWN} more", style="red")
    failed = any(check.wrong for check in results)
    console.print(
        "Something differs." if failed else "Everything is as it must be.", style="red" if failed else "green"
    )
    return 1 if failed else 0


def _explain(console: Console, config: Config, path: Path) -> None:
    """Say what there is to look at."""
    table = Table("topic", "key", "cleanup")
    for spec in config.topics.declared():
        if spec.public:
            table.add_row(spec.name, spec.key, spec.cleanup)
    console.print()
    console.print(table)
    console.print("Look at them while the demo is kept running (rollcall demo --keep):")
    for command in ("tail events --from-beginning", "tail receipts --from-beginning", "status"):
        console.print(f"  {sys.argv[0]} --config {path} {command}")


async def _keep(console: Console) -> None:
    console.print("\nEverything goes on running until Ctrl-C.")
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        console.print("Stopping ...")
