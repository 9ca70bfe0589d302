"""Deletions carried downstream by real workers, while the target and the workers fail: done once, receipted once."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import orjson
import pytest

from tests.faults.conftest import Site, site
from tests.waiting import until
from worker import inspect
from worker.demo.scenes import rollcall
from worker.demo.world import CRM, KEY, SHOP
from worker.errors import RollcallError
from worker.simulator import Drivly

pytestmark = pytest.mark.timeout(180)
OVER = {
    "kafka": {"session_timeout": "6s"},
    "sources": {name: {"absence_guard_count": 1000, "scan_interval": "1s"} for name in (CRM, SHOP)},
    "handlers": {
        "deletes": {
            "guard": {"window": "1s", "count": 12, "period": "10s"},
            "backoff": "500ms",
            "probe": "1s",
            "breaker": {"pause": "1s", "longest": "2s"},
            "targets": {SHOP: {"timeout": "3s"}},
        }
    },
}


@pytest.fixture(scope="module")
async def shop(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """Run one deployment for the file; every test deletes customers of its own."""
    folder: Path = tmp_path_factory.mktemp("deletes")
    roles = {"poller": ["poll"], "handlers": ["handle", "deletes"]}
    async with site(folder, customers=400, over=OVER, roles=roles) as deployment:
        yield deployment


def doom(deployment: Site, count: int) -> list[str]:
    """Delete so many crm customers; return the ids of their counterparts in the shop."""
    before = len(deployment.world.carried)
    deployment.world.delete_at_once(count)
    return deployment.world.carried[before:]


async def outcomes(deployment: Site, ids: Sequence[str]) -> dict[str, list[str]]:
    """Return the outcomes on the receipts of these shop customers."""
    found: dict[str, list[str]] = {customer: [] for customer in ids}
    for record in await inspect.records(deployment.config, deployment.config.topics.receipts):
        receipt = orjson.loads(record.value or b"")
        if receipt["target"] == SHOP and receipt["customer"] in found:
            found[receipt["customer"]].append(receipt["outcome"])
    return found


async def receipted(deployment: Site, ids: Sequence[str]) -> dict[str, list[str]]:
    """Wait for a receipt of each of these shop customers, and return the outcomes."""
    await until(lambda: _all(deployment, ids), "a receipt for every deletion")
    return await outcomes(deployment, ids)


async def _all(deployment: Site, ids: Sequence[str]) -> bool:
    return all((await outcomes(deployment, ids)).values())


async def paused(deployment: Site) -> bool:
    """Return whether the executor has tried the shop, and asks nothing of it now but its canary."""
    states = {
        row["target"]: row["state"] for row in await inspect.statuses(deployment.config) if row.get("kind") == "target"
    }
    return states.get(SHOP) == "paused"


def deletes(deployment: Site, ids: Sequence[str]) -> Counter[str]:
    """Return how many DELETEs the shop got for each of these customers."""
    paths = (r.path.rsplit("/", 1)[-1] for r in deployment.world.systems[SHOP].requests if r.method == "DELETE")
    return Counter(customer for customer in paths if customer in ids)


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "cut", "bytes": 0, "method": "DELETE", "times": 2},
        {"kind": "answer_after", "status": 500, "method": "DELETE", "times": 2},
        {"kind": "never", "method": "DELETE", "times": 1},
        {"kind": "retry_later", "seconds": 1, "times": 4},
        {"kind": "status", "status": 503, "times": 3},
    ],
    ids=["answer lost", "500 after success", "no answer", "429 storm", "503"],
)
async def test_a_failing_target(shop: Site, fault: dict[str, object]) -> None:
    """What became of a DELETE is looked up before another is sent: each customer is gone, with one receipt."""
    settings = dict(fault)
    shop.world.systems[SHOP].fault(str(settings.pop("kind")), **settings)
    ids = doom(shop, 3)
    try:
        found = await receipted(shop, ids)
    finally:
        shop.world.systems[SHOP].clear_faults()
    left = shop.world.systems[SHOP].customers()
    assert not [customer for customer in ids if customer in left]
    assert all(len(got) == 1 and got[0] in {"VERIFIED", "ALREADY_ABSENT"} for got in found.values()), found
    if fault["kind"] in {"cut", "answer_after"}:  # the first DELETE was carried out: no second one was sent
        assert set(deletes(shop, ids).values()) == {1}


async def test_the_worker_is_killed_around_the_calls(shop: Site) -> None:
    """SIGKILL before, during and after slow DELETEs: every one is done, receipted once, and none is done blindly."""
    shop.world.systems[SHOP].fault("latency", seconds=0.4, method="DELETE")
    ids = doom(shop, 8)
    try:
        for _ in range(4):
            await asyncio.sleep(2.2)
            await shop.workers.kill("handlers")
            await shop.workers.start("handlers")
        found = await receipted(shop, ids)
    finally:
        shop.world.systems[SHOP].clear_faults()
    left = shop.world.systems[SHOP].customers()
    assert not [customer for customer in ids if customer in left]
    assert all(len(got) == 1 for got in found.values()), found
    assert max(deletes(shop, ids).values()) == 1


async def test_a_credential_that_stops_working(shop: Site) -> None:
    """A refused credential pauses the target; nothing is lost, and it goes on once the credential works again."""
    system = shop.world.systems[SHOP]
    system.fault("status", status=401, path="/api/customers/[0-9]+")
    ids = doom(shop, 3)
    await until(lambda: paused(shop), "the target to be paused")
    assert not any((await outcomes(shop, ids)).values())
    system.clear_faults()
    assert {tuple(got) for got in (await receipted(shop, ids)).values()} == {("VERIFIED",)}
    assert isinstance(system, Drivly)
    assert system.authorization == KEY


async def test_404_for_everything_proves_nothing(shop: Site) -> None:
    """A wrong base URL answers 404 to everything: nobody is taken for deleted until the canary is found again."""
    system = shop.world.systems[SHOP]
    system.fault("status", status=404)
    ids = doom(shop, 3)
    await until(lambda: paused(shop), "the target to be paused")
    assert not any((await outcomes(shop, ids)).values())
    assert all(customer in system.customers() for customer in ids)
    system.clear_faults()
    assert {tuple(got) for got in (await receipted(shop, ids)).values()} == {("VERIFIED",)}


async def test_a_customer_that_comes_back_is_spared(shop: Site) -> None:
    """A customer deleted and created again before its deletion was carried on supersedes the request."""
    crm, target = shop.world.systems[CRM], shop.world.systems[SHOP]
    target.fault("status", status=503, path="/api/customers/[0-9]+")  # so that the request has to wait
    crm_id = shop.world._doomed[-1]
    body = crm.customers()[crm_id]
    (shop_id,) = doom(shop, 1)

    async def published(type_: str) -> bool:
        records = await inspect.records(shop.config, shop.config.topics.events)
        mine = [dict(record.headers)["ce_type"] for record in records if record.key == f"{CRM}/{crm_id}".encode()]
        return bool(mine) and mine[-1] == type_.encode()

    await until(lambda: published("customer.deleted"), "the deletion to be published")
    fields = {name: value for name, value in body.items() if name not in {"id", "createdAt", "updatedAt"}}
    crm.create(fields, id=int(crm_id))
    await until(lambda: published("customer.created"), "the return to be published")
    target.clear_faults()
    assert await receipted(shop, [shop_id]) == {shop_id: ["SUPERSEDED"]}
    assert shop_id in target.customers()
    assert not deletes(shop, [shop_id])


async def test_approvals_that_come_twice(shop: Site) -> None:
    """A held plan is done once it is approved; the same approval once more changes nothing and says so."""
    ids = doom(shop, 20)
    path = shop.config.path

    async def held() -> list[dict[str, object]]:
        lines = (await rollcall(path, "deletions", "list", "--json")).splitlines()
        return [plan for plan in map(orjson.loads, lines) if plan.get("kind") == "plan"]

    async def all_held() -> bool:
        return sum(int(str(plan["count"])) for plan in await held()) >= len(ids)

    await until(all_held, "the plan to be held")
    assert not deletes(shop, ids)
    for plan in await held():
        name = f"{plan['plan']}@{plan['hash']}"
        assert (await rollcall(path, "deletions", "approve", name)).startswith(b"done")
        with pytest.raises(RollcallError, match=r"ended with [12]"):
            await rollcall(path, "deletions", "approve", name)
    assert {tuple(got) for got in (await receipted(shop, ids)).values()} == {("VERIFIED",)}
    assert set(deletes(shop, ids).values()) == {1}
