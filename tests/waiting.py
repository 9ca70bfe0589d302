"""How a test waits: for a condition, with a deadline, and never for a time."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from worker import telemetry


async def until(condition: Callable[[], Any], what: str = "what was waited for", *, seconds: float = 90.0) -> Any:
    """Wait until a condition, asynchronous or not, gives something, and return it; fail saying `what` did not come."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                found = condition()
                if inspect.isawaitable(found):
                    found = await found
                if found:
                    return found
                await asyncio.sleep(0.05)
    except TimeoutError as error:
        message = f"not within {seconds:g} s: {what}"
        raise AssertionError(message) from error


async def taken_up(*stages: str, partitions: int) -> None:
    """Wait until workers of this process have taken up every task of these stages.

    What happens before a handler's very first start is the past for it, of which it carries out nothing.
    """

    def all_of_them() -> bool:
        running = [telemetry.REGISTRY.get_sample_value("rollcall_tasks", {"stage": stage}) for stage in stages]
        return running == [partitions] * len(stages)

    await until(all_of_them, "not every task was taken up")
