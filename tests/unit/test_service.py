"""What a worker process does beside its stages."""

import asyncio
import gc

from aiokafka.errors import ProducerFenced
from structlog.testing import capture_logs

from worker.service import _unexpected


async def test_an_error_that_nobody_awaits_is_logged_by_its_class_only(  # ruff: ignore[unused-async] - needs a loop
) -> None:
    """Its text may hold anything; those that aiokafka leaves behind say nothing new."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_unexpected)
    try:
        with capture_logs() as logs:
            for error in (ProducerFenced(), ValueError("Ada Archer")):
                loop.create_future().set_exception(error)
            gc.collect()
    finally:
        loop.set_exception_handler(None)
    assert [(entry["event"], entry["error"]) for entry in logs] == [("unexpected_error", "ValueError")]
    assert "Ada" not in str(logs)
