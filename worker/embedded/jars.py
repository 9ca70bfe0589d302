"""The jars of the embedded broker: what Apache Kafka is made of, by name and by checksum.

It guarantees that nothing runs but the files listed in `jars.lock`: each one's SHA-256 is computed before every start.
A jar that is missing or torn is fetched again; one that still differs after that is refused by name. Several processes
may ask at the same time. `jgo` (extra `embedded`) is needed only while something has to be fetched.

After a change of `ENDPOINT`, write what `make_lock()` returns into the lock.
"""

import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from worker.errors import EmbeddedKafkaError

if TYPE_CHECKING:
    from jgo.maven import MavenContext

VERSION: Final = "4.1.0"
"""The version of Apache Kafka that is embedded."""

ENDPOINT: Final = f"org.apache.kafka:kafka_2.13:{VERSION}+org.apache.logging.log4j:log4j-slf4j-impl:2.24.3!"
"""Kafka, and the logging binding that Kafka's own distribution adds: without it a broker that fails says nothing."""

LOCK: Final = Path(__file__).with_name("jars.lock")
_LINE: Final = re.compile(r"(?P<sha256>[0-9a-f]{64})  (?P<group>[\w.-]+):(?P<name>[\w.-]+):(?P<version>[\w.-]+)")
_DOWNLOADS: Final = 4
_ATTEMPTS: Final = 2
_TIMEOUT_SECONDS: Final = 30
_WAIT_SECONDS: Final = 300.0
_LOCK_POLL_SECONDS: Final = 0.05
INSTALL_HINT: Final = "Install it with: pip install 'rollcall-cdc[embedded]', or set kafka.bootstrap to use a cluster."

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Jar:
    """One line of the lock: a Maven coordinate and the SHA-256 of its jar."""

    group: str
    name: str
    version: str
    sha256: str

    @property
    def file_name(self) -> str:
        """The jar's name in the cache."""
        return f"{self.name}-{self.version}.jar"

    def __str__(self) -> str:
        """Return the coordinate, as Maven writes it."""
        return f"{self.group}:{self.name}:{self.version}"


def read_lock(path: Path = LOCK) -> tuple[Jar, ...]:
    """Return the jars of the lock at `path`; raise `EmbeddedKafkaError` where a line is not a checksum and a name."""
    jars = []
    for number, line in enumerate(path.read_text("ascii").splitlines(), start=1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise EmbeddedKafkaError(
                f"reading the lock of Kafka's jars, {path.name}: line {number} is no '<sha256>  group:name:version'.",
                hint="The installation is damaged: install rollcall-cdc again.",
            )
        jars.append(Jar(**match.groupdict()))
    return tuple(jars)


def cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder for what is fetched: `$ROLLCALL_CACHE`, `$XDG_CACHE_HOME/rollcall` or `~/.cache/rollcall`."""
    if own := environ.get("ROLLCALL_CACHE"):
        return Path(own).absolute()
    shared = environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache").absolute() / "rollcall"


def class_path(cache: Path | None = None, jars: Sequence[Jar] | None = None) -> tuple[Path, ...]:
    """Return the verified jars, fetched first where the cache lacks them; blocks while it hashes and fetches.

    `cache` and `jars` default to `cache_dir()` and the committed lock. Raises `EmbeddedKafkaError` where the cache
    cannot be written, jgo is not installed, a jar cannot be fetched, or a fetched jar is not the one in the lock.
    """
    wanted = read_lock() if jars is None else tuple(jars)
    folder = (cache or cache_dir()) / f"kafka-{VERSION}"
    with _exclusive(folder):
        missing = [jar for jar in wanted if _sha256(folder / jar.file_name) != jar.sha256]
        if missing:
            log.info("embedded_kafka.fetch", version=VERSION, jars=len(missing), folder=str(folder))
            _fetch(missing, folder)
    return tuple(folder / jar.file_name for jar in wanted)


@contextmanager
def _exclusive(folder: Path) -> Generator[None]:
    """Hold the folder for this process; the kernel gives it back however the process ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise EmbeddedKafkaError(
            f"opening the cache of Kafka's jars, {folder}: {error.strerror}.",
            hint="Set ROLLCALL_CACHE to a folder that can be written.",
        ) from error
    try:
        _await_lock(lock, folder)
        yield
    finally:
        os.close(lock)


def _await_lock(lock: int, folder: Path) -> None:
    deadline = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise EmbeddedKafkaError(
                    f"waiting {_WAIT_SECONDS:.0f} s for another process that fetches Kafka's jars into {folder}.",
                    hint="End that process, or set ROLLCALL_CACHE to another folder.",
                ) from error
            time.sleep(_LOCK_POLL_SECONDS)
        else:
            return


def _sha256(path: Path) -> str | None:
    """Return the checksum of a file, None where there is none."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def _fetch(jars: Sequence[Jar], folder: Path) -> None:
    """Fetch into a scratch folder beside the jars, and move in only what is whole: a torn download leaves no jar."""
    for left_over in folder.glob("fetch-*"):
        shutil.rmtree(left_over)
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=folder) as scratch:
        pool = ThreadPoolExecutor(_DOWNLOADS)
        try:
            for done in [pool.submit(_fetch_one, jar, Path(scratch), folder / jar.file_name) for jar in jars]:
                done.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _fetch_one(jar: Jar, scratch: Path, target: Path) -> None:
    found = _download(jar, scratch)
    if (got := _sha256(found)) != jar.sha256:
        raise EmbeddedKafkaError(
            f"verifying {jar}: its SHA-256 is {got}, the lock has {jar.sha256}.",
            hint="A proxy or a mirror altered the file; nothing of it was run. Fetch it over another network.",
        )
    found.replace(target)


def _download(jar: Jar, scratch: Path) -> Path:
    """Return the downloaded file; one failure is tried again, in a folder where the torn half does not lie."""
    causes: list[Exception] = []
    for attempt in range(_ATTEMPTS):
        maven = _maven(scratch / str(attempt))
        try:
            return Path(maven.project(jar.group, jar.name).at_version(jar.version).artifact().resolve())
        except (OSError, RuntimeError) as error:  # requests' errors are OSErrors; jgo's 'not found' is a RuntimeError
            causes.append(error)
    raise EmbeddedKafkaError(
        f"fetching {jar} for the embedded Kafka: {type(causes[-1]).__name__}.",
        hint="Check the network and the proxy, or copy the cache (ROLLCALL_CACHE) from a machine that has it.",
    ) from causes[-1]


def _maven(repo_cache: Path) -> "MavenContext":
    """Return jgo's access to the user's own repositories, then to Maven Central: the checksum makes them equal."""
    try:
        from jgo.config import GlobalSettings  # ruff: ignore[import-outside-top-level] - an optional extra
        from jgo.constants import MAVEN_CENTRAL_URL  # ruff: ignore[import-outside-top-level]
        from jgo.maven import MavenContext  # ruff: ignore[import-outside-top-level]
    except ImportError as error:
        raise EmbeddedKafkaError("fetching Kafka's jars: jgo is not installed.", hint=INSTALL_HINT) from error
    repositories = {**GlobalSettings.load().repositories, "central": MAVEN_CENTRAL_URL}
    return MavenContext(repo_cache=repo_cache, remote_repos=repositories, timeout=_TIMEOUT_SECONDS)


def make_lock() -> str:
    """Resolve `ENDPOINT` with jgo and return the text of a new lock; needs the network."""
    with tempfile.TemporaryDirectory() as scratch:
        context = _maven(Path(scratch))
        inputs, others = context.resolver.resolve([context.create_dependency(one) for one in ENDPOINT.split("+")])
        artifacts = [dependency.artifact for dependency in [*inputs, *others] if dependency.scope != "test"]
        sums = {f"{a.groupId}:{a.artifactId}:{a.version}": _sha256(a.resolve()) for a in artifacts}
    return "".join(f"{sums[name]}  {name}\n" for name in sorted(sums))
