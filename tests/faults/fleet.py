"""Real worker processes, each with a configuration, a state folder and a clock of its own; started, stopped, killed."""

import asyncio
import random
import shutil
import signal
import struct
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import lmdb
import orjson
import yaml

COMMANDS: Final[Mapping[str, tuple[str, ...]]] = {"poller": ("poll",), "handler": ("handle", "all")}
STOP_SECONDS: Final = 60.0
_PAGE: Final = 4096
_CLOCK: Final = struct.Struct("<d")


@dataclass
class Worker:
    """One worker, whether it runs at the moment or not."""

    name: str
    folder: Path
    process: asyncio.subprocess.Process | None = None
    starts: int = 0
    since: int = 0
    """Where in the log its newest start begins."""
    busy: bool = False
    """A fault is at work on it: others leave it alone."""
    clock: float = 0.0
    memory: list[tuple[float, int, int]] = field(default_factory=list)
    """(seconds of the run, number of the start, RssAnon in kB)."""
    codes: list[int] = field(default_factory=list)
    """How it has ended when it was not killed."""

    @property
    def role(self) -> str:
        """Return what it does: poller or handler."""
        return self.name.partition("-")[0]

    @property
    def state(self) -> Path:
        """Return the folder of its local state."""
        return self.folder / "state"

    @property
    def log(self) -> Path:
        """Return the file with everything that it has logged."""
        return self.folder / "log"

    def began(self) -> bool:
        """Return whether the newest start came as far as taking up work: before that, SIGTERM just ends it."""
        with self.log.open("rb") as log:
            log.seek(self.since)
            return b'"event":"starting"' in log.read()

    @property
    def runs(self) -> bool:
        """Return whether its process is there."""
        return self.process is not None and self.process.returncode is None


class Fleet:
    """All workers of a deployment."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], root: Path) -> None:
        """`settings` is the configuration but for the state folder; `root` the project's folder."""
        self.workers: dict[str, Worker] = {}
        self.kills = 0
        self._folder = folder
        self._settings = settings
        self._root = root
        self._started = time.monotonic()

    def running(self, role: str | None = None) -> list[Worker]:
        """Return the workers that run and that no fault is at work on."""
        return [
            worker
            for worker in self.workers.values()
            if worker.runs and not worker.busy and role in {None, worker.role}
        ]

    async def start(self, name: str) -> Worker:
        """Start a worker, by the name of its role and a number: `poller-1`, `handler-2`."""
        worker = self.workers.get(name)
        if worker is None:
            worker = self.workers[name] = Worker(name, self._folder / name)
            worker.folder.mkdir(parents=True)
            settings = {**self._settings, "state_dir": str(worker.state)}
            (worker.folder / "rollcall.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
            self.set_clock(worker, 0.0)
        command = ("-m", "tests.faults.clocked", str(worker.folder / "clock"))
        config = ("--config", str(worker.folder / "rollcall.yaml"))
        with worker.log.open("ab") as log:
            worker.since = log.tell()
            worker.process = await asyncio.create_subprocess_exec(
                *(sys.executable, *command, *config, *COMMANDS[worker.role]), stdout=log, stderr=log, cwd=self._root
            )
        worker.starts += 1
        return worker

    def set_clock(self, worker: Worker, offset: float) -> None:
        """Set a worker's clock `offset` seconds off, from this moment on."""
        worker.clock = offset
        file = worker.folder / "clock"
        with file.open("r+b" if file.exists() else "wb") as opened:
            opened.write(_CLOCK.pack(offset))

    async def kill(self, worker: Worker) -> None:
        """Kill a worker where it stands (SIGKILL)."""
        if worker.process is None:
            return
        if worker.runs:
            self.kills += 1
            worker.process.kill()
        await worker.process.wait()
        worker.process = None

    async def stop(self, worker: Worker) -> None:
        """Stop a worker as a kubelet does, and note its exit code; a negative one says that it had to be killed."""
        process, worker.process = worker.process, None
        if process is None:
            return
        if process.returncode is None:
            process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                code = await process.wait()
        except TimeoutError:
            process.kill()
            code = await process.wait()
        if code != -signal.SIGTERM or worker.began():
            worker.codes.append(code)

    async def stop_all(self) -> None:
        """Stop every worker at once, also those that are halted."""
        for worker in self.workers.values():
            if worker.runs and worker.process is not None:
                worker.process.send_signal(signal.SIGCONT)
        await asyncio.gather(*map(self.stop, self.workers.values()))

    def dead(self) -> list[str]:
        """Return what became of workers that ended by themselves, with the last lines of their logs."""
        return [
            f"{worker.name} ended with {worker.process.returncode}: {tail(worker.log)}"
            for worker in self.workers.values()
            if worker.process is not None and worker.process.returncode is not None
        ]

    def owner(self, port: int) -> Worker | None:
        """Return the worker that holds the local end of a connection with that port."""
        wanted = f"socket:[{_inode(port)}]"
        for worker in self.workers.values():
            if worker.process is not None and worker.runs and wanted in _descriptors(worker.process.pid):
                return worker
        return None

    def sample(self) -> None:
        """Note how much memory of its own each worker has (RssAnon: LMDB's map is cache, and not in it)."""
        for worker in self.workers.values():
            if worker.process is not None and worker.runs:
                kilobytes = _rss_anon(worker.process.pid)
                if kilobytes:
                    worker.memory.append((time.monotonic() - self._started, worker.starts, kilobytes))

    def events(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (worker, event) for every line that was logged; a line that is no JSON has the event `raw`."""
        for worker in self.workers.values():
            for line in worker.log.read_text(encoding="utf-8", errors="replace").splitlines():
                yield worker.name, orjson.loads(line) if line.startswith("{") else {"event": "raw", "text": line}


def damage(worker: Worker, chance: random.Random) -> None:
    """Damage each of a stopped worker's stores: its head, its end, or pages in the middle."""
    for file in worker.state.rglob("data.mdb"):
        pages = file.stat().st_size // _PAGE
        with file.open("r+b") as opened:
            match chance.choice(("head", "end", "middle")):
                case "head":
                    opened.write(chance.randbytes(2 * _PAGE))
                case "end":
                    opened.truncate(pages // 2 * _PAGE)
                case _:
                    opened.seek(pages // 2 * _PAGE)
                    opened.write(bytes(min(4, pages - pages // 2) * _PAGE))


def make_old(worker: Worker, days: float) -> None:
    """Have a stopped worker's stores say of themselves that they are so much older."""
    for file in worker.state.rglob("data.mdb"):
        env = lmdb.open(str(file.parent), max_dbs=3)
        info = env.open_db(b"info")
        with env.begin(write=True, db=info) as txn:
            meta = orjson.loads(txn.get(b"meta") or b"{}")
            if meta:
                txn.put(b"meta", orjson.dumps({**meta, "newest": meta["newest"] - int(days * 86_400_000)}))
        env.close()


def set_aside(worker: Worker) -> None:
    """Keep a copy of a stopped worker's state."""
    shutil.rmtree(worker.folder / "old", ignore_errors=True)
    if worker.state.exists():
        shutil.copytree(worker.state, worker.folder / "old")


def put_back(worker: Worker) -> bool:
    """Put the copy in the place of a stopped worker's state; return whether there was one."""
    old = worker.folder / "old"
    if old.exists():
        shutil.rmtree(worker.state, ignore_errors=True)
        shutil.copytree(old, worker.state)
    return old.exists()


def tail(log: Path, lines: int = 6) -> str:
    """Return the last lines of a log."""
    return "\n    ".join(["", *log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]])


def _inode(port: int) -> str:
    for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
        fields = line.split()
        if int(fields[1].partition(":")[2], 16) == port:
            return fields[9]
    return ""


def _descriptors(pid: int) -> set[str]:
    found = set()
    for link in Path(f"/proc/{pid}/fd").glob("*"):
        with suppress(OSError):  # it has been closed meanwhile
            found.add(str(link.readlink()))
    return found


def _rss_anon(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")), 0)
