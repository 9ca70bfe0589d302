"""A demo that runs as long as the tests do, as `rollcall demo --keep` leaves it, and what subscribers need of it."""

import asyncio
import re
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import programs
from worker import config as configuration
from worker import inspect
from worker.config import Config
from worker.handling import Record

PACKAGES = Path(__file__).parents[2] / "examples" / "javascript"
READY = b"goes on running"


@dataclass(frozen=True)
class Demo:
    """The running demo: its configuration file and what it has printed."""

    path: Path
    output: str

    @property
    def config(self) -> Config:
        """Return its configuration."""
        return configuration.load(self.path)

    async def records(self, topic: str) -> list[Record]:
        """Return every committed record of a public topic, by the last part of its name."""
        config = self.config
        return await inspect.records(config, getattr(config.topics, topic))

    async def rollcall(self, *arguments: str) -> tuple[int, str, str]:
        """Run the command line on it; return exit code, output and errors."""
        return await programs.rollcall(self.path, *arguments)


@pytest.fixture(scope="session")
async def demo() -> AsyncIterator[Demo]:
    """Run `rollcall demo --keep`, in which everything that is published has been published."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "worker.cli", "demo", "--keep", "--seconds", "8", "--customers", "400"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    lines: list[bytes] = []
    try:
        async with asyncio.timeout(240):
            while READY not in (line := await process.stdout.readline()):
                lines.append(line)
                assert line, b"".join(lines).decode()
        output = b"".join(lines).decode()
        match = re.search(r"--config (\S+) tail", output)
        assert match is not None, output
        yield Demo(Path(match[1]), output)
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        rest, _ = await process.communicate()
        lines.append(rest)


@pytest.fixture(scope="session")
async def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the npm packages of the JavaScript example, installed by its lock."""
    if shutil.which("npm") is None:
        pytest.skip("there is no npm here")
    folder = tmp_path_factory.mktemp("javascript")
    for file in PACKAGES.iterdir():
        if file.is_file():
            shutil.copy(file, folder)
    code, _, errors = await programs.run(["npm", "ci", "--no-fund", "--no-audit", "--silent"], cwd=folder)
    if code:
        pytest.skip(f"npm cannot install: {errors[-200:]}")
    return folder
