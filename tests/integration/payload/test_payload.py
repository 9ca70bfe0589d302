"""The drivly adapter against a real Payload server: what it publishes is what the server has, and a DELETE arrives."""

import asyncio
import os
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.integration.payload.server import Payload, payload
from tests.integration.polling import Poller
from tests.waiting import until
from worker import inspect
from worker.settings import KafkaSettings
from worker.simulator import Drivly

CRM_KEY = "users API-Key crm"


def expected(row: dict[str, Any]) -> dict[str, Any]:
    """Return what of a row must stand in the normalized customer, as the API's document names it."""
    return {
        "given": row["consumerFirstName"],
        "family": row["consumerLastName"],
        "email": row["email"].casefold(),
        "phone": row["phone"],
        "birth": row["consumerDateOfBirth"][:10],
        "status": row["consumerStatus"],
        "reference": row["customerId"],
        "created": row["createdAt"],
        "updated": row["updatedAt"],
        "residence": row.get("consumerResidenceType"),
    }


def found(customer: dict[str, Any]) -> dict[str, Any]:
    """Return the same of a published customer."""
    references = {one["type"]: one["id"] for one in customer["references"]}
    return {
        "given": customer["name"]["given"],
        "family": customer["name"]["family"],
        "email": customer["emails"][0]["normalized"],
        "phone": customer["phones"][0]["normalized"],
        "birth": customer["date_of_birth"],
        "status": customer["status"],
        "reference": references["customerId"],
        "created": customer["created_at"],
        "updated": customer["updated_at"],
        "residence": customer["attributes"].get("consumerResidenceType"),
    }


async def equal(poller: Poller, server: Payload) -> bool:
    """Return whether `customers.latest` is what the server has."""
    latest, rows = await poller.latest("shop"), await server.rows()
    return {id_: found(one) for id_, one in latest.items()} == {id_: expected(row) for id_, row in rows.items()}


@pytest.mark.timeout(400)
async def test_a_real_payload_is_published_as_it_is(kafka: KafkaSettings, tmp_path: Path) -> None:
    """Seeded, churned while it is polled, and at the end deleted from by Rollcall itself."""
    poller = Poller(kafka, tmp_path)
    async with payload(tmp_path) as server, Drivly(seed=3, customers=5, authorization=CRM_KEY) as crm:
        os.environ |= {"T_SHOP": server.authorization, "T_CRM": CRM_KEY}
        shop_key = {"key": {"env": "T_SHOP"}}
        ids = await asyncio.gather(*(server.create() for _ in range(40)))
        quick = {"kind": "drivly", "lookback": "2s", "scan_interval": "1s", "page_size": 7}
        await poller.configure(
            {
                "shop": {**quick, **shop_key, "url": server.url, "absence_guard_count": 30},
                "crm": {**quick, "key": {"env": "T_CRM"}, "url": f"{crm.url}/api"},
            },
            deletes={
                "targets": {
                    "shop": {
                        "kind": "drivly",
                        "url": server.url,
                        **shop_key,
                        "undo": False,
                        "allow_private_addresses": True,
                        "rate": 100,
                    }
                },
                "routes": [{"source": "crm", "target": "shop", "link": "reference", "reference": "customerId"}],
                "guard": {"window": "100ms"},
            },
        )
        async with poller.running("poll", "requests", "executor"):
            await until(lambda: equal(poller, server))
            await server.churn(60)
            await until(lambda: equal(poller, server))

            victim = ids[0] if str(ids[0]) in await server.rows() else await server.create()
            linked = str(crm.create({"customerId": str(victim)}))
            await until(lambda: _has(poller, "crm", linked))
            crm.delete(int(linked))

            async def gone() -> bool:
                return str(victim) not in await server.rows()

            await until(gone)
            await until(lambda: equal(poller, server))
            receipts = [
                orjson.loads(record.value or b"")
                for record in await until(lambda: inspect.records(poller.config, poller.config.topics.receipts))
            ]
        assert [(one["target"], one["customer"], one["outcome"]) for one in receipts] == [
            ("shop", str(victim), "VERIFIED")
        ]
        reasons = {
            id_: headers["ce_reason"] for id_, headers, _ in await poller.events("shop") if "ce_reason" in headers
        }
        assert reasons[str(victim)] == "gone"
        published = [
            record.value or b"" for record in await inspect.records(poller.config, poller.config.topics.events)
        ]
        assert not any(b"000-00-" in value or b"consumerIncome" in value for value in published)
        assert (await poller.status("shop"))["alarm"] is None


async def _has(poller: Poller, source: str, id_: str) -> bool:
    return id_ in await poller.latest(source)
