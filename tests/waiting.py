"""How a test waits: for a condition, with a deadline, and never for a time."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any


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
