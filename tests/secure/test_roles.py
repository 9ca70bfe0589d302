"""Every role under exactly the rights that `rollcall acls` prints for it: all works, and no right goes unused."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from tests import programs
from tests.secure.conftest import Secured
from tests.secure.plant import Plant, Right, rollcall, rulings
from tests.waiting import until
from worker import acls, inspect
from worker.config import Config
from worker.kafka import Connection
from worker.settings import KafkaSettings
from worker.topics import Topics

GARBAGE = b"crm/no customer"


@pytest.fixture
async def plant(secured: Secured, admin: KafkaSettings, topics: Topics, tmp_path: Path) -> AsyncIterator[Plant]:
    """Return a deployment whose upstreams run."""
    made = Plant(secured, admin, topics, tmp_path)
    await made.prepare(20)
    yield made
    await made.world.stop()


def granted(role: str, topics: Topics) -> set[Right]:
    """Return a role's rights, less those that others include (Kafka's documentation, "Authorization and ACLs")."""
    given = acls.grants(role, topics, group=f"{topics.prefix}.reader")
    included = {"Describe": {"Read", "Write"}, "DescribeConfigs": {"AlterConfigs"}}
    return {
        (one.resource, one.name, operation)
        for one in given
        for operation in one.operations
        if not included.get(operation, set()) & one.operations
    }


def seldom(role: str, topics: Topics) -> set[Right]:
    """Return the rights of a role that a run like this one need not use, each for a reason."""
    control: Right = ("topic", topics.control, "Write")  # one poller hands customers over to another: a renamed source
    letters: Right = ("topic", topics.deadletters, "Write")  # only who meets a record that cannot be handled
    deployment: Right = ("transactional-id", f"{topics.prefix}.deployment", "Write")  # the first worker ever
    orders: Right = ("transactional-id", f"{topics.prefix}.order.", "Write")  # an order of more than one record
    return {"poll": {control, letters, deployment}, "operator": {orders}}.get(role, {letters, deployment})


async def operate(config: Config, topics: Topics) -> None:
    """Do what an operator does."""
    assert "in order" in await rollcall(config, "check", "--role", "operator")
    rows = [orjson.loads(line) for line in (await rollcall(config, "status", "--json")).splitlines()]
    stages = {row["stage"]: (row["state"], row["tasks"]) for row in rows if row["kind"] == "stage"}
    assert stages == dict.fromkeys(acls.WORKERS, ("running", 1))
    assert {row["state"] for row in rows if row["kind"] == "source"} == {"running"}
    (letters,) = [row for row in rows if row["kind"] == "deadletters"]
    assert letters["by_stage"] == {"keys": 1, "requests": 1}
    for topic in (*acls.PUBLIC, "deadletters"):
        await inspect.records(config, getattr(topics, topic))
    assert "customers" in await rollcall(config, "sequences", "export", str(config.path.with_suffix(".sequences")))
    await rollcall(config, "pause", "crm")
    await rollcall(config, "resume", "crm")
    await rollcall(config, "deadletters", "retry", "--stage", "keys", code=1)  # it is no better than it was
    await rollcall(config, "deadletters", "discard", "--stage", "requests")
    to_deletes = ("replay", "--to", "deletes", "--with-deletes", "--from", "beginning", "--type", "deleted", "--run")
    await rollcall(config, *to_deletes)


async def decide(config: Config, customer: str) -> None:
    """Do what an approver does: look at deletions, and erase a person."""
    (newest, *_) = (await rollcall(config, "deletions", "list", "--json")).splitlines()
    assert "VERIFIED" in await rollcall(config, "deletions", "show", orjson.loads(newest)["request"])
    erase = ("erase", "--customer", f"crm/{customer}", "--yes")
    assert "done: the erasure is requested" in await rollcall(config, *erase, code=1)  # the crm itself is no target


async def test_the_whole_path_under_least_privilege(plant: Plant) -> None:
    """From a poll to a deletion downstream, with a principal of its own for each stage, and persons around it."""
    topics, secured = plant.topics, plant.secured
    configs = {role: await plant.role(role) for role in (*acls.WORKERS, "operator", "approver", "subscriber")}
    operator, approver, subscriber = (configs.pop(role) for role in ("operator", "approver", "subscriber"))
    since = secured.log.stat().st_size
    async with plant.running(configs):

        async def published() -> bool:
            return set(await plant.live(subscriber, topics.latest)) == set(plant.world.live())

        async def carried_out() -> bool:
            return len(await plant.live(subscriber, topics.receipts)) >= 2

        async def set_aside() -> bool:
            return len(await plant.live(operator, topics.deadletters)) >= 2

        await until(published, "the customers were not published")
        assert plant.shown()
        plant.world.delete_at_once(2)
        await until(carried_out, "the deletions were not carried out")
        await Connection(plant.admin).publish(topics, [(topics.latest, GARBAGE, b"{")])
        await until(set_aside, "what is no customer was not set aside")
        await operate(operator, topics)
        there = plant.world.live()
        await decide(approver, next(one for one in plant.world.links if f"crm/{one}" in there))
        await follow(subscriber, topics)
    for role in configs:  # another machine: the state comes out of Kafka
        shutil.rmtree(plant.folder / role)
    async with plant.running(configs):
        newcomer = f"crm/{plant.world.create('crm', plant.world.people.person())}"

        async def has_come() -> bool:
            return newcomer in await plant.live(subscriber, topics.latest)

        await until(has_come, "the customer was not published after the restart")
    ruled = rulings(secured.log, since)
    for role in (*acls.WORKERS, "operator", "approver", "subscriber"):
        found = ruled[f"{topics.prefix}-{role}"]
        assert not found.refused, role
        assert granted(role, topics) - found.used <= seldom(role, topics), role


async def test_a_worker_may_look_at_how_it_stands_but_not_at_customers(plant: Plant) -> None:
    """`status` in a worker's pod says what it may say; what may not be read is an error that names the role."""
    topics = plant.topics
    config = await plant.role("keys")
    letter = [(topics.deadletters, GARBAGE, b"{")]
    await Connection(plant.admin).publish(topics, letter)
    assert "dead letters: this principal may not read them" in await rollcall(config, "status")
    for arguments in (("tail", "events", "--from", "beginning"), ("deadletters", "list")):
        code, said, complained = await programs.rollcall(config.path, *arguments)
        assert (code, said) == (3, "")
        assert "`rollcall acls operator`" in complained
        assert "Traceback" not in complained


async def test_topics_are_made_and_mended_by_who_may_do_nothing_else(plant: Plant, prefix: str) -> None:
    """`rollcall topics apply` under the rights of its role, on a cluster without the topics."""
    topics = replace(plant.topics, prefix=f"{prefix}-made")
    since = plant.secured.log.stat().st_size
    who = await plant.secured.user(prefix, acls.grants("topics", topics))
    config = plant.configure("topics", plant.secured.settings(**who), prefix=topics.prefix)
    assert f"made {topics.events} (1 partitions" in await rollcall(config, "topics", "apply")
    async with Connection(plant.admin).admin() as admin:
        await admin.alter({spec.name: {"cleanup.policy": "delete"} for spec in topics.declared()})
        await admin.alter({topics.events: {"cleanup.policy": "compact"}})
    assert f"altered {topics.latest}" in await rollcall(config, "topics", "apply")
    found = rulings(plant.secured.log, since)[prefix]
    assert found.refused <= {
        ("Cluster", acls.CLUSTER, "DESCRIBE")
    }  # aiokafka asks what else we may do, and needs it not
    logs = {spec.name for spec in topics.declared() if spec.cleanup == "delete"} - {topics.events}
    unused = {(name, operation) for _, name, operation in granted("topics", topics) - found.used}
    assert unused <= {(name, "AlterConfigs") for name in logs}


async def follow(config: Config, topics: Topics) -> None:
    """Read all public topics as another team does, in a group of its own, and commit how far."""
    consumer = await Connection(config.file.kafka).consumer(
        group=f"{topics.prefix}.reader", auto_offset_reset="earliest"
    )
    consumer.subscribe([getattr(topics, name) for name in acls.PUBLIC])
    try:
        async with asyncio.timeout(30):
            while not await consumer.getmany(timeout_ms=200):
                pass
        await consumer.commit()
    finally:
        await consumer.stop()
