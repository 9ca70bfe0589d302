"""The kinds of faults: each one a coroutine that does its damage to a site, and undoes what a person would undo.

A worker that is killed is started again at once, as Kubernetes does; everything else is left to the product.
"""

import asyncio
import random
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Literal

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from tests.faults import fleet, proxy
from tests.faults.fleet import Worker
from tests.faults.site import Site
from tests.faults.upstreams import CLUB

_CATCH: Final = 25.0
"""Seconds to wait for the moment that a fault lies in wait for."""
_CATCH_DELETE: Final = 60.0
"""The same, for a DELETE: it takes two enumerations of the crm that no other fault has met."""


class NothingToHurtError(Exception):
    """The fault cannot happen now: every worker is busy with another, or the moment did not come."""


@dataclass
class Hand:
    """What a fault has to work with: the site, and its own chance."""

    site: Site
    chance: random.Random

    @asynccontextmanager
    async def one(self, role: str | None = None) -> AsyncIterator[Worker]:
        """Take a worker that runs, away from other faults."""
        running = self.site.fleet.running(role)
        if not running:
            raise NothingToHurtError
        worker = self.chance.choice(running)
        async with self.taken(worker):
            yield worker

    @asynccontextmanager
    async def taken(self, worker: Worker) -> AsyncIterator[None]:
        """Keep other faults away from a worker, which runs again in the end."""
        worker.busy = True
        try:
            yield
        finally:
            if not worker.runs:
                await self.site.fleet.start(worker.name)
            worker.busy = False

    async def pause(self, least: float, most: float) -> None:
        """Wait for a random time."""
        await asyncio.sleep(self.chance.uniform(least, most))


async def kill_poller(hand: Hand) -> None:
    """Kill a poller at a random moment."""
    async with hand.one("poller") as worker:
        await hand.site.fleet.kill(worker)


async def kill_handler(hand: Hand) -> None:
    """Kill a worker of the handlers at a random moment."""
    async with hand.one("handler") as worker:
        await hand.site.fleet.kill(worker)


async def _kill_at(hand: Hand, key: int, side: Literal["request", "answer"], *, after: float = 0.0) -> None:
    """Kill whoever sends the next request of a kind, or waits for its answer; the frame goes on, or is lost with it."""
    async with hand.site.network.trap(key, side) as trap:
        try:
            async with asyncio.timeout(_CATCH):
                port = await trap.caught
        except TimeoutError:
            raise NothingToHurtError from None
        worker = hand.site.fleet.owner(port)
        if worker is None or worker.busy:
            raise NothingToHurtError
        async with hand.taken(worker):
            if after:
                trap.verdict.set_result(True)
                await asyncio.sleep(after)
            await hand.site.fleet.kill(worker)
            if not after:
                trap.verdict.set_result(hand.chance.random() < 0.5)


async def kill_mid_transaction(hand: Hand) -> None:
    """Kill a worker whose EndTxn is under way: before the broker has it, or before the answer is back."""
    await _kill_at(hand, proxy.END_TXN, hand.chance.choice(("request", "answer")))


async def kill_mid_restore(hand: Hand) -> None:
    """Kill a worker that has just fenced its predecessor and reads its state."""
    async with hand.one() as first:
        await hand.site.fleet.kill(first)
    await _kill_at(hand, proxy.INIT_PRODUCER_ID, "answer", after=hand.chance.uniform(0.001, 0.1))


async def kill_mid_rebalance(hand: Hand) -> None:
    """Kill a worker between joining its group and knowing its partitions."""
    async with hand.one() as first:
        await hand.site.fleet.kill(first)
    await _kill_at(hand, proxy.SYNC_GROUP, hand.chance.choice(("request", "answer")))


async def kill_mid_delete(hand: Hand) -> None:
    """Kill the worker whose DELETE the shop is about to carry out, or has just carried out."""
    loop = asyncio.get_running_loop()
    shop = hand.site.world.shop
    caught, freed = loop.create_future(), loop.create_future()
    shop.trap = (hand.chance.choice(("before", "after")), caught, freed)
    try:
        async with asyncio.timeout(_CATCH_DELETE):
            worker = hand.site.fleet.owner(await caught)
        if worker is None or worker.busy:
            raise NothingToHurtError
        async with hand.taken(worker):
            await hand.site.fleet.kill(worker)
    except TimeoutError:
        raise NothingToHurtError from None
    finally:
        shop.trap = None
        freed.set_result(None)


async def stall(hand: Hand) -> None:
    """Halt a worker (SIGSTOP) for longer than its transactions and its membership last, and wake it up."""
    async with hand.one() as worker:
        if worker.process is None:
            raise NothingToHurtError
        worker.process.send_signal(signal.SIGSTOP)
        try:
            await hand.pause(8, 14)
        finally:
            worker.process.send_signal(signal.SIGCONT)


@asynccontextmanager
async def _one_broker_less(hand: Hand, index: int) -> AsyncIterator[None]:
    if hand.site.down is not None:
        raise NothingToHurtError
    hand.site.down = index
    try:
        yield
        await hand.site.kafka.start_node(index)
    finally:
        hand.site.down = None


async def kill_broker(hand: Hand) -> None:
    """Kill a broker, and start it again some seconds later."""
    index = hand.chance.randrange(len(hand.site.kafka.nodes))
    async with _one_broker_less(hand, index):
        await hand.site.kafka.kill(index)
        await hand.pause(3, 10)


async def kill_coordinator(hand: Hand) -> None:
    """Kill the broker that coordinates a task's transactions, or a group."""
    topics = hand.site.topics
    admin = AIOKafkaAdminClient(bootstrap_servers=hand.site.inside)
    await admin.start()
    try:
        if hand.chance.random() < 0.5:
            node = await admin.find_coordinator(topics.group(hand.chance.choice(("poll", "keys", "executor"))))
        else:
            partition = hand.chance.randrange(4)
            node = await admin.find_coordinator(topics.transactional_id("poll", partition), 1)
    finally:
        await admin.close()
    async with _one_broker_less(hand, node - 1):
        await hand.site.kafka.kill(node - 1)
        await hand.pause(3, 10)


async def fill_disk(hand: Hand) -> None:
    """Fill the disk of a broker until it gives up, make room, and start it again."""
    index = hand.site.small
    if index is None:
        raise NothingToHurtError
    async with _one_broker_less(hand, index):
        ballast = hand.site.kafka.nodes[index].folder / "data" / "ballast"
        node = hand.site.kafka.nodes[index]
        with ballast.open("wb", buffering=0) as file:
            free = shutil.disk_usage(ballast.parent).free
            file.truncate(0)
            try:
                while free > 0:
                    free -= file.write(b"\0" * min(free, 1 << 20))
            except OSError:
                pass
        try:
            async with asyncio.timeout(25):
                while not node.has_ended:
                    await asyncio.sleep(0.2)
        except TimeoutError:
            await hand.site.kafka.kill(index)
        finally:
            ballast.unlink()
        await hand.site.kafka.kill(index)  # its guard, where it has ended by itself


async def slow_network(hand: Hand) -> None:
    """Have every frame to and from Kafka travel for a while."""
    hand.site.network.delay = hand.chance.uniform(0.1, 0.6)
    try:
        await hand.pause(5, 10)
    finally:
        hand.site.network.delay = 0.0


async def cut_network(hand: Hand) -> None:
    """Cut every connection to one broker, or to all, and refuse new ones for a while."""
    ways = hand.site.proxies if hand.chance.random() < 0.5 else [hand.chance.choice(hand.site.proxies)]
    for way in ways:
        way.cut()
    try:
        await hand.pause(2, 12)
    finally:
        for way in ways:
            way.mend()


async def silent_network(hand: Hand) -> None:
    """Let nothing through to one broker, or to all, without a word, for longer than a transaction may take."""
    ways = hand.site.proxies if hand.chance.random() < 0.5 else [hand.chance.choice(hand.site.proxies)]
    for way in ways:
        way.silence()
    try:
        await hand.pause(4, 12)
    finally:
        for way in ways:
            way.mend()


async def late_end_txn(hand: Hand) -> None:
    """Have the answers to EndTxn come after the worker has given up on them."""
    hand.site.network.late[proxy.END_TXN] = 9.0
    try:
        await hand.pause(2, 4)
    finally:
        hand.site.network.late.clear()


async def lose_end_txn(hand: Hand) -> None:
    """Have the answers to EndTxn lost, and the connection with them."""
    hand.site.network.lost.add(proxy.END_TXN)
    try:
        await hand.pause(1, 3)
    finally:
        hand.site.network.lost.clear()


async def rolling_restart(hand: Hand) -> None:
    """Stop and start every worker in turn, politely."""
    for worker in hand.site.fleet.running():
        if worker.busy or not worker.runs:
            continue
        async with hand.taken(worker):
            await hand.site.fleet.stop(worker)
        await hand.pause(0.5, 2)


async def scale(hand: Hand) -> None:
    """Scale a role up to four workers, and back to as many as there were."""
    workers, role = hand.site.fleet, hand.chance.choice(("poller", "handler"))
    before = len(workers.running(role))
    added = []
    try:
        for number in range(1, 5):
            name = f"{role}-{number}"
            known = workers.workers.get(name)
            if known is None or not (known.runs or known.busy):
                added.append(await workers.start(name))
        await hand.pause(5, 12)
    finally:
        for worker in added[: max(0, before + len(added) - 1)]:
            worker.busy = True
            await workers.stop(worker)
            worker.busy = False


async def reject_sends(hand: Hand) -> None:
    """Have a topic take only tiny records for a while."""
    topics = hand.site.topics
    topic = hand.chance.choice((topics.events, topics.latest, topics.links, topics.state("poll"), topics.state("keys")))
    specs = {spec.name: spec.settings for spec in topics.declared()}
    admin = AIOKafkaAdminClient(bootstrap_servers=hand.site.inside)
    await admin.start()
    try:
        await _alter(admin, topic, {**specs[topic], "max.message.bytes": "100"})
        await hand.pause(3, 6)
        await _alter(admin, topic, specs[topic])
    finally:
        await admin.close()


async def _alter(admin: AIOKafkaAdminClient, topic: str, settings: dict[str, str]) -> None:
    async with asyncio.timeout(30):
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs=settings)])


async def step_clock(hand: Hand) -> None:
    """Step the clock of one worker, and back."""
    async with hand.one() as worker:
        hand.site.fleet.set_clock(worker, hand.chance.choice((-20.0, -3.0, 5.0, 30.0)))
        await hand.pause(3, 8)
        hand.site.fleet.set_clock(worker, 0.0)


async def delete_state(hand: Hand) -> None:
    """Kill a worker and delete its local state."""
    async with hand.one() as worker:
        await hand.site.fleet.kill(worker)
        shutil.rmtree(worker.state, ignore_errors=True)


async def damage_state(hand: Hand) -> None:
    """Kill a worker and damage the files of its local state."""
    async with hand.one() as worker:
        await hand.site.fleet.kill(worker)
        fleet.damage(worker, hand.chance)


async def old_state(hand: Hand) -> None:
    """Kill a worker and put an older copy of its state in place; now and then one that is weeks old by its own word."""
    async with hand.one() as worker:
        await hand.site.fleet.kill(worker)
        there = fleet.put_back(worker)
        if there and hand.chance.random() < 0.3:
            fleet.make_old(worker, days=20)
        if not there:
            fleet.set_aside(worker)


async def upstream_outage(hand: Hand) -> None:
    """Have an upstream, or all of them, answer 500, nothing, or half an answer."""
    what: list[tuple[str, dict[str, object]]] = [
        ("status", {"status": 503}),
        ("never", {}),
        ("cut", {}),
        ("html", {"status": 502}),
        ("answer_after", {}),
    ]
    kind, options = hand.chance.choice(what)
    await _upstream(hand, kind, options, (3, 9))


async def too_many_requests(hand: Hand) -> None:
    """Have an upstream answer 429 with a wait, most of the time."""
    await _upstream(hand, "retry_later", {"seconds": 1, "probability": 0.8}, (4, 8))


async def truncated_pages(hand: Hand) -> None:
    """Have an upstream's answers end in the middle, or hold something else."""
    kind = hand.chance.choice(("truncated", "wrong_types", "missing_ids", "duplicate_ids"))
    options: dict[str, object] = {"field": "id"} if kind == "wrong_types" else {}
    await _upstream(hand, "truncated" if options else kind, {"probability": 0.5, "method": "GET"}, (4, 8))


async def _upstream(hand: Hand, kind: str, options: dict[str, object], seconds: tuple[float, float]) -> None:
    upstreams = list(hand.site.world.upstreams.values())
    met = upstreams if hand.chance.random() < 0.3 else [hand.chance.choice(upstreams)]
    numbers = [(upstream.sim, upstream.sim.fault(kind, **options).number) for upstream in met]
    try:
        await hand.pause(*seconds)
    finally:
        for sim, number in numbers:
            sim.clear_faults(number)


async def expire_tokens(hand: Hand) -> None:
    """Have every access token of the club expire at once."""
    hand.site.world.upstreams[CLUB].sim.tokens.clear()  # type: ignore[attr-defined]


Kind = Callable[[Hand], Awaitable[None]]

KILLS: Final[tuple[Kind, ...]] = (
    kill_poller,
    kill_handler,
    kill_mid_transaction,
    kill_mid_restore,
    kill_mid_rebalance,
    kill_mid_delete,
)
OTHERS: Final[tuple[Kind, ...]] = (
    stall,
    kill_broker,
    kill_coordinator,
    fill_disk,
    slow_network,
    cut_network,
    silent_network,
    late_end_txn,
    lose_end_txn,
    rolling_restart,
    scale,
    reject_sends,
    step_clock,
    delete_state,
    damage_state,
    old_state,
    upstream_outage,
    too_many_requests,
    truncated_pages,
    expire_tokens,
)
