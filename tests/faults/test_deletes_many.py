"""A flood of deletions, and a target that is down for long: real workers, a broker, simulated targets.

The published deletions go in as the poller would publish them. `ROLLCALL_FAULT_REQUESTS` says how many come at once
(2,000 by default, so that it fits into every run of the tests; the figure to hold is 100,000).
"""

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from worker import config as configuration
from worker import embedded, inspect
from worker.config import Config
from worker.demo.scenes import rollcall
from worker.demo.workers import Workers
from worker.errors import RollcallError
from worker.events import Headers
from worker.kafka import Connection, apply_topics
from worker.simulator import Drivly
from worker.testkit import deleted, latest, person
from worker.times import now_ms, rfc3339

MANY = int(os.environ.get("ROLLCALL_FAULT_REQUESTS", "2000"))
KEY = "users API-Key a-synthetic-key"
WORKER = "handlers"
DEADLINE = 60.0 + MANY / 50
AT_ONCE = 5_000

pytestmark = pytest.mark.timeout(DEADLINE * 4)


@dataclass(frozen=True)
class Place:
    """A worker of the deletes, what it reads, and the systems that it deletes from."""

    config: Config
    workers: Workers
    targets: dict[str, Drivly]

    async def publish(self, ids: Iterable[str], *, gone: bool, source: str = "crm", version: int = 0) -> None:
        """Publish customers, or that they are gone, as the poller does; `version` is 1 or 2 unless it says so."""
        topics, moment = self.config.topics, rfc3339(now_ms())
        rows: list[tuple[str, bytes, bytes | None, Headers]] = []
        for one in ids:
            if gone:
                key, value, headers = deleted(source, one, version or 2, "gone", moment)
                rows.append((topics.latest, key, value, [*headers, ("ce_live", b"1000")]))
            else:
                rows.append((topics.latest, *latest(person(source, one), version or 1, moment)))
        for start in range(0, len(rows), AT_ONCE):
            await Connection(self.config.file.kafka).publish(topics, rows[start : start + AT_ONCE])

    async def receipts(self) -> list[dict[str, Any]]:
        """Return the receipts."""
        return [
            orjson.loads(record.value or b"")
            async for record in inspect.read_all(self.config, self.config.topics.receipts)
        ]

    async def plans(self) -> list[dict[str, Any]]:
        """Return the plans that wait for a person."""
        return [row for row in await self.command("list", "--json") if row.get("kind") == "plan"]

    async def command(self, *arguments: str) -> list[dict[str, Any]]:
        """Run `rollcall deletions`, and return the lines of JSON that it prints."""
        printed = await rollcall(self.config.path, "deletions", *arguments)
        return [orjson.loads(line) for line in printed.splitlines() if line.startswith(b"{")]

    async def approve(self, plan: dict[str, Any]) -> bytes:
        """Approve a plan as it was seen; raises RollcallError where that is refused."""
        return await rollcall(self.config.path, "deletions", "approve", f"{plan['plan']}@{plan['hash']}")

    def deletes(self, name: str = "shop") -> Counter[str]:
        """Return how many DELETEs a target got, by customer."""
        asked = self.targets[name].requests
        return Counter(one.path.rsplit("/", 1)[-1] for one in asked if one.method == "DELETE")

    async def crash(self) -> None:
        """Kill the worker where it stands, and start another one."""
        await self.workers.kill(WORKER)
        await self.workers.start(WORKER)


@asynccontextmanager
async def place(folder: Path, *names: str, **deletes: Any) -> AsyncGenerator[Place]:
    """Run a worker of the deletes, with simulated targets of these names and a same-id route to each."""
    os.environ |= {"MANY_KEY": KEY, "ROLLCALL_PEPPER": "a pepper of the tests"}
    key = {"kind": "drivly", "key": {"env": "MANY_KEY"}, "allow_private_addresses": True, "rate": 100_000}
    targets = {name: await Drivly(seed=1, authorization=KEY).start() for name in names}
    settings = {name: {**key, "burst": 10_000, "undo": False, "concurrency": 32} for name in names}
    async with embedded.cluster(folder / "kafka") as kafka:
        content = {
            "kafka": {"bootstrap": kafka.bootstrap, "partitions": 4, "session_timeout": "6s"},
            "state_dir": str(folder / "state"),
            "log": {"format": "json"},
            "listen": "127.0.0.1:0",
            "sources": {"crm": {**key, "url": "https://crm.example.com/api"}},
            "handlers": {
                "deletes": {
                    "targets": {name: {**settings[name], "url": f"{targets[name].url}/api"} for name in names},
                    "routes": [{"source": "crm", "target": name} for name in names],
                    "backoff": "200ms",
                    "probe": "1s",
                    "breaker": {"pause": "500ms", "longest": "1s"},
                    **deletes,
                }
            },
        }
        path = folder / "rollcall.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        config = configuration.load(path)
        await apply_topics(config.file.kafka, config.topics)
        workers = Workers(path, folder, {WORKER: ["handle", "deletes"]})
        try:
            await workers.start_all()
            await workers.ready()
            yield Place(config, workers, targets)
        finally:
            await workers.stop_all()
            for target in targets.values():
                await target.stop()


async def until(condition: Callable[[], Awaitable[Any]], what: str) -> Any:
    """Wait until a condition gives something, and return that; fail saying what did not happen."""
    deadline = time.monotonic() + DEADLINE
    while True:
        started = time.monotonic()
        if found := await condition():
            return found
        now = time.monotonic()
        assert now < deadline, f"not within {DEADLINE:g} s: {what}"
        await asyncio.sleep(max(0.5, 4 * (now - started)))  # looking at very many must not be the most of the work


async def test_very_many_at_once_are_one_plan_and_each_is_done_once(tmp_path: Path) -> None:
    """Nothing is deleted before a person says so; killed twice on the way, each is deleted once and receipted once."""
    window = max(2, MANY // 5_000)  # a plan is open for ten of them at most: until all have been published
    async with place(tmp_path, "shop", guard={"window": f"{window}s"}) as there:
        shop = there.targets["shop"]
        ids = [str(shop.create(None)) for _ in range(MANY)]
        spared = str(shop.create(None))
        await there.publish(ids, gone=False)
        await there.publish(ids, gone=True)

        async def held() -> Any:
            plans = await there.plans()
            return plans[0] if plans and plans[0]["count"] == MANY and not plans[0]["open"] else None

        early = await until(held, "all of them to be held in one plan")
        assert not there.deletes()
        await there.crash()
        assert (await there.approve(early)).startswith(b"done")

        async def some() -> bool:
            return len(shop.customers()) < MANY - MANY // 4

        await until(some, "a part of them to be deleted")
        await there.crash()

        async def all_receipted() -> Any:
            found = await there.receipts()
            return found if len(found) >= MANY else None

        receipts = await until(all_receipted, "a receipt for each")
        assert Counter(receipt["customer"] for receipt in receipts) == Counter(ids)
        assert {receipt["outcome"] for receipt in receipts} <= {"VERIFIED", "ALREADY_ABSENT"}
        seen = there.deletes()  # the last of them: the simulated system does not remember more
        assert set(seen) <= set(ids)
        assert set(seen.values()) == {1}
        assert set(shop.customers()) == {spared}


async def test_a_target_that_is_down_for_long_keeps_no_other_waiting(tmp_path: Path) -> None:
    """One target is away, without an answer at all: the other's deletions are done; its own once it is back."""
    async with place(tmp_path, "shop", "mail", guard={"window": "500ms", "count": 50}) as there:
        shop, mail = there.targets["shop"], there.targets["mail"]
        ids = [str(shop.create(None)) for _ in range(20)]
        assert [str(mail.create(None)) for _ in ids] == ids
        keep = str(shop.create(None)), str(mail.create(None))
        shop.fault("cut", bytes=0)
        await there.publish(ids, gone=False)
        await there.publish(ids, gone=True)

        async def other_is_done() -> bool:
            return len([one for one in await there.receipts() if one["target"] == "mail"]) == len(ids)

        await until(other_is_done, "the other target's receipts")
        assert not there.deletes("shop")
        await there.crash()
        shop.clear_faults()

        async def both_are_done() -> bool:
            return len(await there.receipts()) == 2 * len(ids)

        await until(both_are_done, "the receipts of the one that was away")
        assert {one["outcome"] for one in await there.receipts()} == {"VERIFIED"}
        assert (set(shop.customers()), set(mail.customers())) == ({keep[0]}, {keep[1]})


async def test_an_approval_of_what_is_not_held_any_more_is_refused(tmp_path: Path) -> None:
    """A plan that has changed since it was shown needs a new look; one that was decided on is decided on."""
    async with place(tmp_path, "shop", guard={"window": "1s", "count": 2, "fraction": 0}) as there:
        shop = there.targets["shop"]
        ids = [str(shop.create(None)) for _ in range(6)]
        await there.publish(ids, gone=False)
        await there.publish(ids, gone=True)

        async def held(count: int) -> Any:
            plans = await there.plans()
            return plans[0] if plans and plans[0]["count"] == count and not plans[0]["open"] else None

        before = await until(lambda: held(6), "the plan")
        await there.publish(ids[:1], gone=False, version=3)  # this one is back
        after = await until(lambda: held(5), "the plan without it")
        with pytest.raises(RollcallError, match="ended with 1"):
            await there.approve(before)
        assert not there.deletes()
        assert (await there.approve(after)).startswith(b"done")

        async def all_receipted() -> bool:
            return len(await there.receipts()) == len(ids)

        await until(all_receipted, "the receipts")
        with pytest.raises(RollcallError, match=r"ended with [12]"):
            await there.approve(after)
        assert there.deletes() == Counter(ids[1:])
        assert set(shop.customers()) == {ids[0]}


async def test_a_return_before_and_after_the_delete(tmp_path: Path) -> None:
    """Deleted and created again in either order of the race: never deleted when back, deleted again when gone again."""
    async with place(tmp_path, "shop", guard={"window": "500ms", "count": 50}) as there:
        shop = there.targets["shop"]
        first, second, keep = (str(shop.create(None)) for _ in range(3))
        await there.publish([first, second], gone=False)
        shop.fault("status", status=503, path="/api/customers/[0-9]+")  # so that the requests have to wait
        await there.publish([first, second], gone=True)
        await there.publish([first, second], gone=False, version=3)  # both are back before the DELETE
        await there.publish([second], gone=True, version=4)  # and one goes again
        shop.clear_faults()

        async def all_receipted() -> Any:
            found = await there.receipts()
            return found if len(found) == 3 else None

        found = await until(all_receipted, "the receipts")
        outcomes = sorted((one["customer"], one["sequence"], one["outcome"]) for one in found)
        assert outcomes == [(first, 2, "SUPERSEDED"), (second, 2, "SUPERSEDED"), (second, 4, "VERIFIED")]
        assert there.deletes() == Counter([second])
        assert set(shop.customers()) == {first, keep}
        again = {"id": int(second), "firstName": "Ada"}  # it is created again after its DELETE
        shop.create(again, id=int(second))
        await there.publish([second], gone=False, version=5)
        await there.publish([keep], gone=False)
        await there.publish([keep], gone=True)

        async def fourth() -> bool:
            return len(await there.receipts()) == 4

        await until(fourth, "a later deletion's receipt")
        assert set(shop.customers()) == {first, second}
