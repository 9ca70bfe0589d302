"""What a source that is renamed hands over to its new name, over a real store."""

from collections.abc import AsyncGenerator
from pathlib import Path

import orjson
import pytest

from tests.flow.local import TOPICS, LocalTask, Sent
from worker import orders, redelivery
from worker.checkpoint import Checkpoint
from worker.keys import JOBS, Keys
from worker.leaving import Leaving
from worker.task import Transaction
from worker.watch import WatchList

STAYS, REMOVED, BACK = "stays", "removed", "removed and watched"


@pytest.fixture
async def task(tmp_path: Path) -> AsyncGenerator[LocalTask]:
    """Give a task that knows a source `old` with a watch list."""
    topics: dict[str, list[Sent]] = {}
    made, old = LocalTask(tmp_path, topics), WatchList("old")

    def listed(tx: Transaction) -> None:
        old.add(tx, [STAYS, REMOVED, BACK])
        old.remove(tx, [REMOVED, BACK])
        tx.put(b"s/old", Checkpoint("pepper", "tag").pack())

    await made.transact(listed)
    yield made
    await made.close()


async def rename(task: LocalTask, leaving: Leaving, new: WatchList) -> None:
    """Rename `old`, to the end, and let its new owner take over what was sent."""
    given = orders.order("1", "rename", "old", who="somebody", at=0, name="new")
    assert await task.transact(lambda tx: leaving.begin(tx, given)) is None
    while await task.transact(lambda tx: next(tx.scan(JOBS), None)):
        await task.transact(lambda tx: leaving.go_on(tx, Keys("old").job, 1))
    for key, value, _ in task.sent[TOPICS.control]:
        sent = orders.read(key, value)
        assert sent is not None
        await task.transact(lambda tx, sent=sent: leaving.adopt(tx, sent, new))  # type: ignore[misc]


async def test_who_was_removed_from_a_watch_list_stays_so_under_its_new_name(task: LocalTask) -> None:
    """Found in another customer's record it is not taken up again, until an operator says so."""
    leaving, new = Leaving(TOPICS), WatchList("new")
    await rename(task, leaving, new)
    with task.store.reading() as state:
        assert list(new.all(state)) == [STAYS]
        assert list(state.scan(Keys("old").listed)) == []
    assert (new.watched, new.not_looked_up) == (1, 1)
    assert await task.transact(lambda tx: new.add(tx, [REMOVED], found=True)) == 0
    assert await task.transact(lambda tx: new.add(tx, [REMOVED])) == 1


async def test_who_is_watched_under_the_new_name_already_stays_so(task: LocalTask) -> None:
    """What an operator said of the new one counts."""
    leaving, new = Leaving(TOPICS), WatchList("new")
    await task.transact(lambda tx: new.add(tx, [BACK]))
    await rename(task, leaving, new)
    with task.store.reading() as state:
        assert list(new.all(state)) == [BACK, STAYS]


async def test_the_letters_of_whom_it_had_set_aside_are_settled(task: LocalTask) -> None:
    """Nothing will become of them any more."""
    known = orjson.dumps({"source": "old", "id": STAYS, "reason": "ValueError", "size": 7})
    await task.transact(lambda tx: tx.put(b"b/old/" + STAYS.encode(), known))
    await rename(task, Leaving(TOPICS), WatchList("new"))
    assert task.sent[TOPICS.deadletters] == [(b"old/" + STAYS.encode(), None, redelivery.mended_headers())]
