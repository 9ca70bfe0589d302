"""`rollcall rebuild` under exactly the rights of its role, while nobody else works with the duplicate search."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.secure.conftest import Secured
from tests.secure.plant import Plant, rollcall, rulings
from worker import acls
from worker.events import Headers
from worker.kafka import Connection
from worker.settings import KafkaSettings
from worker.testkit import deleted, latest, person
from worker.topics import Topics

ADA: dict[str, Any] = {"given": "Ada", "family": "Archer", "born": "1980-02-03", "emails": ["ada@example.com"]}


async def test_a_rebuild_needs_no_more_than_its_role_has(
    secured: Secured, admin: KafkaSettings, topics: Topics, tmp_path: Path
) -> None:
    """It makes the next generation's topics, works in their groups, and publishes what differs: nothing is refused.

    Nor is it to look at what the present one has left, and to make the topics anew once more.
    """
    plant = Plant(secured, admin, topics, tmp_path)
    await plant.prepare(2)
    try:
        twins: Sequence[tuple[bytes, bytes | None, Headers]] = [
            latest(person(name, "1", **ADA), 1) for name in ("crm", "shop")
        ]
        await Connection(admin).publish(topics, [(topics.latest, *row) for row in twins])
        since = secured.log.stat().st_size
        config = await plant.role("rebuild")
        printed = await rollcall(config, "rebuild", "dedupe")
        assert "2 memberships changed, 0 removed, 1 identity events" in printed
        assert "dedupe_generation: 2" in printed
        await Connection(admin).publish(topics, [(topics.latest, *deleted("crm", "9", 1))])
        await rollcall(config, "rebuild", "dedupe", code=2)
        printed = await rollcall(config, "rebuild", "dedupe", "--behind")
        assert "0 memberships changed, 0 removed, 0 identity events" in printed
        found = rulings(secured.log, since)[f"{topics.prefix}-rebuild"]
        assert found.refused <= {("Cluster", acls.CLUSTER, "DESCRIBE")}  # aiokafka asks what else we may do
        assert sorted(await plant.live(config, topics.clusters)) == ["crm/1", "shop/1"]
    finally:
        await plant.world.stop()
