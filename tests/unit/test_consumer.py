"""The handler loop without a broker: which calls are sent, and which are not any more; where it begins to read."""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition

from worker.consumer import HandlerLoop
from worker.errors import StateError, TransactionError
from worker.handling import CALLED_OFF, Call, Input, Reply
from worker.http import Answer, CalledOffError
from worker.times import now_ms


class Way:
    """A lane that asks whether a call is still wanted, and sends it then."""

    def __init__(self) -> None:
        """Start with nothing sent."""
        self.sent: list[str] = []

    async def send(self, method: str, path: str, *, wanted: Any, **_: Any) -> Answer:
        """Note what is sent."""
        if not wanted():
            raise CalledOffError(path)
        self.sent.append(f"{method} {path}")
        return Answer(200, {}, b"", path)


def loop_of(way: Any, *, ours: bool = True, dead: Exception | None = None) -> HandlerLoop:
    """Return the loop of an executor whose task is as it is said to be."""
    topics = SimpleNamespace(replays="replays")
    task: Any = SimpleNamespace(topics=topics, partition=0, dead=dead, ours=lambda: ours, store=None)
    handler: Any = SimpleNamespace(inputs=(), stage="executor")
    return HandlerLoop(handler, task, {"crm": way})


@pytest.mark.parametrize(
    ("latest", "ours", "sent"),
    [(None, True, True), (60_000, True, True), (-1, True, False), (None, False, False), (60_000, False, False)],
)
async def test_a_call_is_sent_only_in_time_and_while_the_partition_is_ours(
    latest: int | None, *, ours: bool, sent: bool
) -> None:
    """Else the handler is told that it never left; `latest` is what is left of its time, in milliseconds."""
    way: Any = Way()
    loop = loop_of(way, ours=ours)
    call = Call("1", "crm", "DELETE", "/1", latest=None if latest is None else now_ms() + latest)
    await loop._make(call)
    answered, reply = loop._replies.get_nowait()
    assert answered is call
    assert way.sent == (["DELETE /1"] if sent else [])
    assert reply == (Reply(200) if sent else Reply(None, error=CALLED_OFF, sent=False))


async def test_a_task_that_has_failed_sends_no_call_any_more() -> None:
    """Another owner may have taken its place, and have made the call already."""
    way: Any = Way()
    loop = loop_of(way, dead=TransactionError("fenced"))
    call = Call("1", "crm", "DELETE", "/1")
    await loop._make(call)
    assert loop._replies.get_nowait() == (call, Reply(None, error=CALLED_OFF, sent=False))
    assert way.sent == []


def test_a_kept_position_of_0_is_one_as_any_other() -> None:
    """The partition was empty when it was taken up, and what came since was deleted unread."""
    loop = loop_of(None)
    state = SimpleNamespace(get=lambda _: b"0")
    loop._task.store = SimpleNamespace(reading=lambda: nullcontext(state))  # type: ignore[assignment]
    given, where = Input("events"), TopicPartition("events", 0)
    assert loop._position(given, where, 0, 5) == 0
    for end in (5, 6):
        with pytest.raises(StateError, match="5 offsets were deleted unread"):
            loop._position(given, where, 5, end)
