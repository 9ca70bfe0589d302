"""This machine: state can be written, and the address for the probes is free."""

import errno
import os
import socket
import tempfile

import aiohttp

from worker.config import Config


def state(config: Config) -> list[str]:
    """Try to write where the state will be; nothing stays there."""
    folder = config.file.state_dir
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    try:
        if there == folder:
            with tempfile.TemporaryFile(dir=folder):
                return []
        if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
            return []
        reason = "Permission denied" if there.is_dir() else "Not a directory"
    except OSError as error:
        reason = str(error.strerror)
    return [f"state_dir: {folder} cannot be written ({reason}): name a folder that this user may write to"]


async def listen(config: Config) -> list[str]:
    """See whether the address is free; where a worker of ours answers there, that is as it should be."""
    host, port = config.address
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE and await _is_ours(config.file.listen):
            return []
        return [f"listen: {config.file.listen} cannot be had ({error.strerror}): choose another address"]
    return []


async def _is_ours(listen: str) -> bool:
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session,
            session.get(f"http://{listen}/metrics") as response,
        ):
            return "rollcall_" in await response.text()
    except (aiohttp.ClientError, TimeoutError, UnicodeDecodeError):
        return False
