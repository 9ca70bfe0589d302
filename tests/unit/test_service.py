"""What a worker process does beside its stages."""

import asyncio
import gc
import re
import signal

import aiohttp
import pytest
from structlog.testing import capture_logs

from worker import config as configuration
from worker import service
from worker.service import Probes


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "[::1]:0", "localhost:0"])
async def test_probes_are_served_where_it_was_said(listen: str) -> None:
    """An IPv6 address stands in brackets; the port that was taken is logged."""
    probes = Probes(configuration.parse({"listen": listen}).address, [])
    with capture_logs() as logs:
        await probes.start()
    try:
        (line,) = logs
        host = f"[{line['host']}]" if ":" in line["host"] else line["host"]
        async with aiohttp.ClientSession() as session:
            for path, words in (("/livez", "ok"), ("/readyz", "ok"), ("/metrics", "rollcall_tasks")):
                async with session.get(f"http://{host}:{line['port']}{path}") as answer:
                    assert answer.status == 200
                    assert re.search(words, await answer.text())
    finally:
        await probes.stop()


@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_is_taken_while_it_serves_and_no_longer(
    name: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a command does after that can be stopped as any other."""
    before = signal.getsignal(name)

    async def work(_config: object, _stages: object, stopping: asyncio.Event) -> None:
        signal.raise_signal(name)
        await stopping.wait()

    monkeypatch.setattr(service, "_serve", work)
    stop = asyncio.Event()
    try:
        async with asyncio.timeout(5):
            await service.serve(configuration.parse({}), [], stop=stop)
        assert stop.is_set()
        assert signal.getsignal(name) in {signal.SIG_DFL, signal.default_int_handler}
    finally:
        signal.signal(name, before)
        asyncio.get_running_loop().set_exception_handler(None)
        gc.unfreeze()
