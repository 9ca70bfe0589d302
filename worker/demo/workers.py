"""The worker processes of the demo and of the fault tests: the command line as production runs it, and its signals."""

import asyncio
import http
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import aiohttp
import orjson

from worker.errors import RollcallError

_READY_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.2
_STOP_SECONDS: Final = 40.0
_LAST_LINES: Final = 8
ROLES: Final[Mapping[str, Sequence[str]]] = {"poller": ["poll"], "handlers": ["handle", "all"]}


class Workers:
    """Worker processes by name; `roles` gives each one's command."""

    def __init__(
        self, config: Path, folder: Path, roles: Mapping[str, Sequence[str]] = ROLES, program: Path | None = None
    ) -> None:
        """`folder` takes their logs, one file a name; `program` is the folder of another release than this one."""
        self._config = config
        self._folder = folder
        self._roles = dict(roles)
        self._program = program
        self._processes: dict[str, asyncio.subprocess.Process] = {}

    @property
    def names(self) -> list[str]:
        """Return the names of the workers that were started and not stopped."""
        return list(self._processes)

    def log(self, name: str) -> str:
        """Return what a worker has logged."""
        return (self._folder / f"{name}.log").read_text(encoding="utf-8")

    async def start(self, name: str) -> None:
        """Start one worker."""
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "worker.cli", "--config", str(self._config), *self._roles[name]),
                cwd=self._program,
                stdout=log,
                stderr=log,
            )

    async def start_all(self) -> None:
        """Start every worker."""
        for name in self._roles:
            await self.start(name)

    async def ready(self) -> None:
        """Wait until every worker says so on /readyz; raises RollcallError for one that does not, or has ended."""
        async with aiohttp.ClientSession() as session:
            deadline = time.monotonic() + _READY_SECONDS
            waiting = set(self._processes)
            while waiting:
                if died := self.died():
                    raise RollcallError("\n".join(died))
                if time.monotonic() > deadline:
                    raise RollcallError(f"not ready after {_READY_SECONDS:g} s: {', '.join(sorted(waiting))}")
                waiting = {name for name in waiting if not await self._is_ready(session, name)}
                await asyncio.sleep(_POLL_SECONDS)

    async def _is_ready(self, session: aiohttp.ClientSession, name: str) -> bool:
        for line in reversed(self.log(name).splitlines()):
            event = orjson.loads(line) if line.startswith("{") else {}
            if event.get("event") == "listening":
                try:
                    async with session.get(f"http://127.0.0.1:{event['port']}/readyz") as response:
                        return response.status == http.HTTPStatus.OK
                except aiohttp.ClientConnectionError:
                    return False
        return False

    async def kill(self, name: str) -> None:
        """Kill a worker where it stands (SIGKILL)."""
        process = self._processes.pop(name)
        process.kill()
        await process.wait()

    def pid(self, name: str) -> int:
        """Return the process id of a worker."""
        return self._processes[name].pid

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a worker."""
        self._processes[name].send_signal(number)

    def died(self) -> list[str]:
        """Return what became of workers that ended by themselves, with the last lines of their logs."""
        return [
            f"the worker {name!r} ended with {process.returncode}:\n    "
            + "\n    ".join(self.log(name).splitlines()[-_LAST_LINES:])
            for name, process in self._processes.items()
            if process.returncode is not None
        ]

    async def stop(self, name: str) -> int:
        """Stop a worker as a kubelet does: SIGTERM, and SIGKILL when its time is up; return its exit code."""
        process = self._processes.pop(name)
        if process.returncode is None:
            process.terminate()
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                return await process.wait()
        except TimeoutError:
            process.kill()
            return await process.wait()

    async def stop_all(self) -> None:
        """Stop every worker at once."""
        await asyncio.gather(*map(self.stop, self.names))
