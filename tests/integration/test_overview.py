"""What `rollcall status` makes of what is in Kafka."""

from pathlib import Path

import orjson
import pytest

from tests.integration.polling import Poller
from worker.kafka import Connection
from worker.overview import overview
from worker.settings import KafkaSettings

pytestmark = pytest.mark.timeout(180)


async def test_deletions_that_only_a_person_can_go_on_with_are_named(kafka: KafkaSettings, tmp_path: Path) -> None:
    """By target and state, as each customer's newest deletion is; those that were done are nobody's business."""
    poller = Poller(kafka, tmp_path)
    await poller.configure({})
    ends = [
        ("shop/1", "BLOCKED"),
        ("shop/2", "BLOCKED"),
        ("shop/2", "VERIFIED"),
        ("erp/1", "FAILED"),
        ("shop/3", "BLOCKED"),
    ]
    topics = poller.config.topics
    records = [
        (topics.deletions, key.encode(), orjson.dumps({"request": {"target": key[:-2]}, "state": state}), [])
        for key, state in ends
    ]
    await Connection(kafka).publish(topics, records)
    held = [row for row in await overview(poller.config) if row["kind"] == "held"]
    assert [(row["of"], row["count"], row["decide"]) for row in held] == [
        ("erp", 1, "rollcall deletions list --state FAILED --target erp"),
        ("shop", 2, "rollcall deletions list --state BLOCKED --target shop"),
    ]
