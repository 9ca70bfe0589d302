"""How a test runs a program to its end, and the command line as its user does."""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path


async def run(command: Sequence[str], seconds: float = 120.0, cwd: Path | None = None) -> tuple[int, str, str]:
    """Run a program to its end; return exit code, output and errors."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=cwd
    )
    try:
        async with asyncio.timeout(seconds):
            output, errors = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    return process.returncode or 0, output.decode(), errors.decode()


async def rollcall(path: Path, *arguments: str) -> tuple[int, str, str]:
    """Run the command line under a configuration; return exit code, output and errors."""
    return await run([sys.executable, "-m", "worker.cli", "--config", str(path), *arguments], seconds=240.0)
