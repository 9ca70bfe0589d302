"""How a target does: what its answers, and its silence, come to."""

from handlers.deletes.health import Health
from handlers.deletes.life import Kit, Life
from handlers.deletes.settings import DeletesSettings
from handlers.deletes.targets.registry import target_of
from tests.flow.deletes_world import START, simple
from worker.handling import Reply
from worker.testkit import MemoryTx
from worker.topics import Topics

SETTINGS = DeletesSettings.model_validate(simple())
DOWN = Reply(None, error="timeout")


def health(tx: MemoryTx, now: int) -> Health:
    """Return the targets' health at a moment."""
    targets = {name: target_of(target) for name, target in SETTINGS.targets.items()}
    return Health(Life(Kit(Topics(partitions=1), SETTINGS, targets, None, None, {}), tx, now))


def test_a_target_that_is_down_for_days_is_tried_at_the_longest_pause() -> None:
    """The breaker's pause doubles up to the longest, however often it opens."""
    found, now = health(MemoryTx(), START), START
    for _ in range(2000):
        found._now = now
        found.count("crm", DOWN)
        now = max(now, found.runtime("crm").wait_until)
    runtime = found.runtime("crm")
    assert runtime.opened > 1024
    assert runtime.wait_until - found._now == 300_000


def test_answers_to_calls_under_way_at_once_are_one_reason_to_wait() -> None:
    """Four calls meet a moment's overload: their wait is that of one failure; the next burst doubles it."""
    found = health(MemoryTx(), START)
    runtime, once = found.runtime("crm"), found.backoff(1)
    waits = []
    for _ in range(2):
        found._now = begun = max(START, runtime.wait_until)
        for _ in range(4):
            found._now += 1
            found.leave_alone("crm", Reply(503))
        waits.append(runtime.wait_until - begun)
    assert [round(wait / once) for wait in waits] == [1, 2]
