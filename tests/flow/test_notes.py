"""What an adapter had to do in another way than usual is said for as long as that takes."""

from pathlib import Path

from structlog.testing import capture_logs

from tests.flow.local import TOPICS, World, dintero_settings
from worker.simulator import Dintero
from worker.sources import Cursor, Moment, Request
from worker.sources.dintero import Dintero as Adapter


async def test_a_fallback_to_a_whole_listing_is_said_until_the_listing_ends(tmp_path: Path) -> None:
    """dintero: more customers with one time than fill a page; it is logged, and shown for as long as it lasts."""
    said: list[str | None] = []

    class Spied(Adapter):
        def request(self, feed: str, cursor: Cursor | None, moment: Moment) -> Request:
            if feed == "since" and cursor and "after" in cursor:
                said.append(world.condition.message)
            return super().request(feed, cursor, moment)

    async with Dintero(seed=1, customers=40, client_id="client", client_secret="secret") as loyalty:
        world = World(tmp_path, "dintero", dintero_settings(loyalty, scan_interval="20ms", page_size=10))
        with capture_logs() as lines:
            async with world.polling(Spied):
                await world.until(lambda: world.source.detector.checkpoint.read and len(world.latest) == 40)
                said.clear()
                loyalty.bulk_update(list(loyalty.customers())[:30])
                await world.until(lambda: len(said) > 3)
                await world.until(lambda: world.status["message"] is None and world.status["state"] == "running")
    note = "10 customers with one time fill a page of changes: everybody is read by starting_after"
    assert set(said) == {note}
    assert note in {value["message"] for _, value, _ in world.records(TOPICS.status)}
    assert {line["note"] for line in lines if line["event"] == "source_note"} == {note}
