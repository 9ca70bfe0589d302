"""How long it takes until work goes on after a fault: every source and every stage, not just any of them."""

import asyncio
import time
from collections.abc import Awaitable
from operator import itemgetter
from typing import Final

import orjson
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from tests.faults.site import Site
from tests.faults.upstreams import Facts, facts_of_customer

DEADLINE: Final = 150.0


def _shows(site: Site, key: str, facts: Facts) -> bool:
    record = site.follower.newest.get(key)
    if record is None or record.value is None:
        return False
    customer = orjson.loads(record.value)["customer"]
    kind = site.world.upstreams[key.partition("/")[0]].sim.kind
    return customer is not None and facts_of_customer(kind, customer) == facts


async def _published(site: Site, name: str) -> bool:
    """Return whether a change made now in a source is published in time; a customer that is gone is followed by another."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        key, facts = site.world.probe(name)
        source, _, customer = key.partition("/")
        writes = site.world.upstreams[source].writes[customer]
        while writes[-1].facts == facts and time.monotonic() < deadline:
            if _shows(site, key, facts):
                return True
            await asyncio.sleep(0.1)
    return False


async def _handled(site: Site, stage: str, topic: str) -> bool:
    """Return whether a stage has handled in time what is in its input now."""
    wanted = {where: end for where, end in site.follower.ends.items() if where.topic == topic}
    deadline = time.monotonic() + DEADLINE
    admin = AIOKafkaAdminClient(bootstrap_servers=site.inside)
    try:
        while time.monotonic() < deadline:
            try:
                await admin.start()
                found = await admin.list_consumer_group_offsets(site.topics.group(stage))
            except (KafkaError, OSError):
                found = {}
            if all(where in found and found[where].offset >= end for where, end in wanted.items()):
                return True
            await asyncio.sleep(0.3)
    finally:
        await admin.close()
    return False


async def _timed(name: str, wait: Awaitable[bool]) -> tuple[str, float, bool]:
    started = time.monotonic()
    well = await wait
    return name, time.monotonic() - started, well


async def recovery(site: Site) -> tuple[str, float, list[str]]:
    """Wait until all sources publish and all stages have caught up with now.

    Returns who took longest, the seconds, and who did not make it.
    """
    waits = [_timed(name, _published(site, name)) for name in site.world.upstreams]
    waits += [_timed(stage, _handled(site, stage, topic)) for stage, topic in site.inputs().items()]
    done = await asyncio.gather(*waits)
    slowest, seconds, _ = max(done, key=itemgetter(1))
    return slowest, seconds, [name for name, _, well in done if not well]
