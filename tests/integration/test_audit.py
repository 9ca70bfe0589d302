"""`rollcall audit`, on a real broker: it finds what is wrong, and nothing where nothing is."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest

from tests.integration.polling import Poller
from tests.waiting import until
from worker import ordering
from worker.audit import Audit, Finding
from worker.settings import KafkaSettings
from worker.simulator import Connect, Dintero, Drivly, MyKaarma, Simulator

KEY = "users API-Key x"
os.environ |= {"T_KEY": KEY, "T_API": "connect-test-key", "T_USER": "rollcall", "T_PASSWORD": "mykaarma-test-password"}
os.environ |= {"T_CLIENT": "client", "T_SECRET": "secret"}
KINDS = ["drivly", "connect", "mykaarma", "dintero"]


@asynccontextmanager
async def upstream(kind: str, customers: int = 25, **options: Any) -> AsyncGenerator[tuple[Simulator, dict[str, Any]]]:
    """Start a simulated system; give it with the settings of a source of it."""
    match kind:
        case "drivly":
            async with Drivly(seed=1, customers=customers, authorization=KEY) as crm:
                url = f"{crm.url}/api"
                yield crm, {"kind": kind, "url": url, "key": {"env": "T_KEY"}, "lookback": "1s"}
        case "connect":
            async with Connect(seed=1, customers=customers, api_key="connect-test-key", **options) as telco:
                yield telco, {"kind": kind, "url": telco.url, "key": {"env": "T_API"}, "page_size": 10}
        case "mykaarma":
            async with MyKaarma(seed=1, customers=customers) as dealer:
                settings = {"username": {"env": "T_USER"}, "password": {"env": "T_PASSWORD"}}
                settings |= {"requester_user_uuid": str(UUID(int=7)), "dealer_uuids": dealer.dealers}
                yield dealer, {"kind": kind, "url": dealer.url, **settings}
        case _:
            async with Dintero(seed=1, customers=customers, client_id="client", client_secret="secret") as loyalty:
                settings = {"client_id": {"env": "T_CLIENT"}, "client_secret": {"env": "T_SECRET"}, "lookback": "1s"}
                yield loyalty, {"kind": kind, "url": loyalty.url, "aid": loyalty.account, **settings}


async def filled(poller: Poller, simulator: Simulator, kind: str) -> None:
    """Wait until a source is published as it is."""
    if kind == "mykaarma":
        await ordering.carry_out(poller.config, ordering.given("watch", "it", ids=sorted(simulator.customers())), 30)

    async def published() -> bool:
        return len(await poller.latest("it")) == len(simulator.customers())

    await until(published)


@pytest.fixture
def poller(kafka: KafkaSettings, tmp_path: Path) -> Poller:
    """Return a deployment that is not configured yet."""
    return Poller(kafka, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
async def test_what_was_missed_is_found_by_customer_and_field(poller: Poller, kind: str) -> None:
    """And nothing where everything is published: the upstream's own changes during the audit are no findings."""
    async with upstream(kind) as (simulator, settings):
        await poller.configure({"it": settings})
        async with poller.running():
            await filled(poller, simulator, kind)
            simulator.churn(10)
            if kind == "mykaarma":
                wanted = ordering.given("watch", "it", ids=sorted(simulator.customers()))
                await ordering.carry_out(poller.config, wanted, 30)
            clean = await Audit(poller.config, "it", rate=1000).run()
            assert clean.findings == []
            assert clean.published == clean.upstream == len(simulator.customers())
            assert clean.compared >= clean.upstream

            await ordering.carry_out(poller.config, ordering.given("pause", "it"), 30)
            changed, deleted, *_ = sorted(simulator.customers())
            field = {"drivly": "consumerFirstName", "connect": "name", "mykaarma": "fname", "dintero": "first_name"}
            simulator.update(_id(kind, changed), {field[kind]: "Zebedee"})
            simulator.delete(_id(kind, deleted))
            expected = {(deleted, "extra"), (changed, "differs")}
            if kind != "mykaarma":  # whom nobody watches nobody misses
                expected.add((str(simulator.create()), "missed"))
            report = await Audit(poller.config, "it", rate=1000).run(patience=0)
            assert {(one.id, one.kind) for one in report.findings} == expected
            assert "name" in report.fields()
            assert not report.clean


def _id(kind: str, customer_id: str) -> Any:
    return int(customer_id) if kind == "drivly" else customer_id


@pytest.mark.parametrize("edition", ["offset", "cursor"])
async def test_what_an_upstream_may_do_is_no_finding(poller: Poller, edition: str) -> None:
    """The older edition's times move by themselves, which brings no event; the newer one forgets a cursor."""
    async with upstream("connect", edition=edition) as (simulator, settings):
        await poller.configure({"it": settings})
        async with poller.running():
            await filled(poller, simulator, "connect")
            await ordering.carry_out(poller.config, ordering.given("pause", "it"), 30)
            touched = min(simulator.customers())
            simulator.update(touched, {"name": simulator.customers()[touched]["name"]})
            simulator.fault("expired_cursor", times=1, skip=1)
            report = await Audit(poller.config, "it", rate=1000).run(patience=0)
            assert (report.findings, report.compared) == ([], 25)
            simulator.update(touched, {"name": "Zebedee"})
            report = await Audit(poller.config, "it", rate=1000).run(patience=0)
            assert [(one.id, one.kind) for one in report.findings] == [(touched, "differs")]


async def test_the_command_says_it_in_words_and_in_its_exit_code(poller: Poller) -> None:
    """As a table for persons and as JSON for machines; a sample looks only some customers up."""
    async with upstream("drivly") as (simulator, settings):
        await poller.configure({"it": settings})
        async with poller.running():
            await filled(poller, simulator, "drivly")
            for number in range(1, 6):
                simulator.update(number)
            code, output, _ = await poller.rollcall("audit", "it", "--rate", "1000")
            assert code == 0, output
            assert "Everything is as it must be." in output
            code, output, _ = await poller.rollcall("audit", "it", "--sample", "7", "--json", "--rate", "1000")
            report = orjson.loads(output)
            assert (code, report["compared"], report["clean"]) == (0, 7, True)
            assert report["delay_seconds"]["max"] < 60
            simulator.fault("stale")
            simulator.update(3)
            await poller.rollcall("pause", "it")
            simulator.clear_faults()
            code, output, _ = await poller.rollcall("audit", "it", "--patience", "0", "--json", "--rate", "1000")
            report = orjson.loads(output)
            assert (code, report["findings"]) == (1, {"differs": 1})
            assert [one["id"] for one in report["customers_with_findings"]] == ["3"]
            simulator.fault("status", status=503)
            assert (await poller.rollcall("audit", "shop"))[0] == 2


async def test_a_source_without_look_ups_has_no_sample(poller: Poller) -> None:
    """It is audited as a whole, or not at all."""
    async with upstream("dintero", 5) as (simulator, settings):
        await poller.configure({"it": settings})
        async with poller.running():
            await filled(poller, simulator, "dintero")
            code, _, errors = await poller.rollcall("audit", "it", "--sample", "2")
            assert code == 2
            assert "no look-up by id" in errors


async def test_what_is_held_for_a_person_is_no_finding(poller: Poller) -> None:
    """It is counted apart."""
    async with upstream("connect", 40) as (simulator, settings):
        await poller.configure({"it": settings})
        async with poller.running():
            await filled(poller, simulator, "connect")
            for id_ in sorted(simulator.customers())[:15]:
                simulator.delete(id_)

            async def held() -> Any:
                return (await poller.status("it")).get("held")

            await until(held)
            report = await Audit(poller.config, "it", rate=1000).run(patience=0)
            assert (report.held, report.findings) == (15, [])


async def test_who_was_removed_from_a_watch_list_is_no_finding(poller: Poller) -> None:
    """It stays published as it was, whatever becomes of it; the others are held against the upstream."""
    async with upstream("mykaarma", 6) as (simulator, settings):
        await poller.configure({"it": settings})
        async with poller.running():
            await filled(poller, simulator, "mykaarma")
            ids = sorted(simulator.customers())
            await ordering.carry_out(poller.config, ordering.given("unwatch", "it", ids=ids[:2]), 30)
            await ordering.carry_out(poller.config, ordering.given("pause", "it"), 30)
        simulator.delete(ids[0])
        for id_ in ids[1:3]:
            simulator.update(id_, {"company": "Example 9"})
        report = await Audit(poller.config, "it", rate=1000).run(patience=0)
        assert report.findings == [Finding(ids[2], "differs", ("company",))]
        assert (report.compared, report.published) == (4, 6)


async def test_a_state_that_is_not_of_one_mind_with_the_table_is_a_finding(poller: Poller) -> None:
    """A record that somebody else wrote to the table, for example."""
    async with upstream("connect", 5) as (simulator, settings):
        await poller.configure({"it": settings})
        async with poller.running():
            await filled(poller, simulator, "connect")
            victim = min(simulator.customers())
            topics = poller.config.topics
            await ordering.Connection(poller.config.file.kafka).publish(
                topics, [(topics.latest, f"it/{victim}".encode(), None)]
            )
            report = await Audit(poller.config, "it", rate=1000).run(patience=0)
            assert Finding(victim, "state") in report.findings
            assert Finding(victim, "missed") in report.findings


async def test_a_record_that_is_none_is_named(poller: Poller) -> None:
    """Something that another program wrote to the table ends the audit with where it is, and no traceback."""
    async with upstream("connect", 5) as (simulator, settings):
        await poller.configure({"it": settings})
        async with poller.running():
            await filled(poller, simulator, "connect")
        topics = poller.config.topics
        await ordering.Connection(poller.config.file.kafka).publish(topics, [(topics.latest, b"it/alien", b"no JSON")])
        code, _, errors = await poller.rollcall("audit", "it")
        assert code == 1
        assert f"{topics.latest}, partition" in errors
        assert "is no JSON" in errors
        assert "Traceback" not in errors
