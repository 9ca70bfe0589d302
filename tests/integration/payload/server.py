"""Installs and runs a real Payload server; the packages of the lock file are kept in the user's cache."""

import asyncio
import fcntl
import hashlib
import os
import random
import shutil
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

HERE = Path(__file__).parent
OLDEST_NODE = 20
START_SECONDS = 60.0


def installed() -> Path:
    """Return the folder with the server and its packages; skips the test where they cannot be had."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("Node and npm are not installed: Payload cannot be run")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.removeprefix("v").split(".")[0]) < OLDEST_NODE:
        pytest.skip(f"Payload needs Node {OLDEST_NODE}, this is {version}")
    files = {name: (HERE / name).read_bytes() for name in ("package.json", "package-lock.json")}
    name = hashlib.sha256(b"".join(files.values()) + version.encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rollcall-tests"
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / f"payload-{name}"
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            _install(npm, files, folder)
    shutil.copy(HERE / "server.mjs", folder)
    return folder


def _install(npm: str, files: dict[str, bytes], folder: Path) -> None:
    making = folder.with_suffix(".making")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir()
    for name, content in files.items():
        (making / name).write_bytes(content)
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=making, capture_output=True, text=True, check=False)
    if done.returncode:
        offline = any(word in done.stderr for word in ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ETIMEDOUT"))
        reason = f"Payload's packages cannot be installed: {done.stderr[-500:]}"
        pytest.skip(reason) if offline else pytest.fail(reason)
    making.rename(folder)


class Payload:
    """A running Payload server, written to over its REST API."""

    def __init__(self, url: str, authorization: str, session: aiohttp.ClientSession) -> None:
        """Write to the server at `url`; `authorization` is the whole header."""
        self.url = f"{url}/api"
        self.authorization = authorization
        self._session = session
        self._random = random.Random(1)
        self._number = 0

    async def _send(self, method: str, path: str, body: object = None) -> Any:
        headers = {"Authorization": self.authorization}
        async with self._session.request(method, self.url + path, json=body, headers=headers) as response:
            answer = await response.json()
            assert response.ok, answer
            return answer

    async def create(self, **fields: Any) -> int:
        """Create a customer; return its id."""
        self._number += 1
        person = {
            "customerId": f"C{self._number}",
            "email": f"Person{self._number}@Example.com",
            "phone": f"+1202555{100 + self._number % 100:04d}",
            "consumerFirstName": self._random.choice(("Ann", "Bea", "Cid")),
            "consumerLastName": f"Example{self._number}",
            "consumerStatus": "NEW",
            "consumerDateOfBirth": "1980-02-03T00:00:00.000Z",
            "consumerSocialSecurity": f"000-00-{self._number:04d}",
            "consumerIncome": 1000 + self._number,
        }
        return int((await self._send("POST", "/customers", person | fields))["doc"]["id"])

    async def update(self, customer_id: int, **fields: Any) -> None:
        """Change a customer."""
        await self._send("PATCH", f"/customers/{customer_id}", fields)

    async def update_many(self, ids: list[int], **fields: Any) -> None:
        """Change many in one request, with (nearly) one stamp."""
        where = "&".join(f"where[id][in][{index}]={one}" for index, one in enumerate(ids))
        await self._send("PATCH", f"/customers?{where}", fields)

    async def delete(self, customer_id: int) -> None:
        """Delete a customer."""
        await self._send("DELETE", f"/customers/{customer_id}")

    async def rows(self) -> dict[str, dict[str, Any]]:
        """Return every customer by id, as the server has it."""
        answer = await self._send("GET", "/customers?limit=0&depth=0")
        return {str(row["id"]): row for row in answer["docs"]}

    async def churn(self, steps: int) -> None:
        """Let so many things happen at random."""
        for _ in range(steps):
            ids = [int(one) for one in await self.rows()]
            what = self._random.random()
            if what < 0.3 or len(ids) < 10:
                await self.create()
            elif what < 0.7:
                await self.update(self._random.choice(ids), consumerStatus=self._random.choice(("NEW", "SOLD", "LOST")))
            elif what < 0.85:
                await self.update_many(self._random.sample(ids, 8), consumerResidenceType=self._random.choice("ABC"))
            else:
                await self.delete(self._random.choice(ids))


@asynccontextmanager
async def payload(folder: Path) -> AsyncGenerator[Payload]:
    """Run a server with an empty database in `folder`."""
    where = installed()
    with (folder / "payload.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *("node", str(where / "server.mjs"), str(folder / "payload.db")),
            cwd=where,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
        )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        async with asyncio.timeout(START_SECONDS):
            while not (line := await process.stdout.readline()).startswith(b'{"url"'):
                assert line, (folder / "payload.log").read_text(errors="replace")[-2000:]
        at = orjson.loads(line)
        connector = aiohttp.TCPConnector(force_close=True)  # the server closes idle connections, also under a request
        async with aiohttp.ClientSession(connector=connector) as session:
            yield Payload(at["url"], at["authorization"], session)
    finally:
        process.stdin.close()
        if process.returncode is None:
            try:
                async with asyncio.timeout(10):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
