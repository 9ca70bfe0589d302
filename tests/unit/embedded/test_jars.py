"""The jars of the embedded broker: locked by checksum, fetched once, never run when they differ."""

import hashlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from worker.embedded import jars
from worker.embedded.jars import Jar
from worker.errors import EmbeddedKafkaError

DEADLINE_SECONDS = 30.0
WHOLE = b"a whole jar " * 100


class Mirror(ThreadingHTTPServer):
    """A Maven repository on this machine: what it serves, by file name, and what it was asked for."""

    def __init__(self) -> None:
        """Listen on a free port."""
        super().__init__(("127.0.0.1", 0), MirrorHandler)
        self.files: dict[str, bytes] = {}
        self.torn: set[str] = set()
        self.asked: list[str] = []


class MirrorHandler(BaseHTTPRequestHandler):
    """Serves jars; a torn one ends half way, once."""

    def do_GET(self) -> None:
        """Answer with the whole file, or half of it."""
        mirror = self.server
        assert isinstance(mirror, Mirror)
        name = self.path.rsplit("/", 1)[1]
        body = mirror.files.get(name)
        if body is None:
            self.send_error(404)
            return
        mirror.asked.append(name)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if name in mirror.torn else body)
        mirror.torn.discard(name)

    def log_message(self, format: str, *args: object) -> None:  # ruff: ignore[builtin-argument-shadowing] - the base class names it so
        """Log nothing."""


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """Run a repository and name it in jgo's own settings, as a company's mirror would be."""
    with Mirror() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        settings = tmp_path / "jgo.conf"
        settings.write_text(f"[repositories]\nmirror = http://127.0.0.1:{server.server_port}\n")
        monkeypatch.setenv("JGO_CONFIG_FILE", str(settings))
        yield server
        server.shutdown()


def jar_of(name: str, content: bytes) -> Jar:
    """Return a line of a lock for that content."""
    return Jar("com.example", name, "1.0", hashlib.sha256(content).hexdigest())


def test_the_committed_lock_pins_kafka_and_names_neither_host_nor_path() -> None:
    """The lock holds each file once, Kafka itself among them, and nothing but checksums and coordinates."""
    locked = jars.read_lock()
    names = [jar.file_name for jar in locked]
    assert len(set(names)) == len(names)
    assert {f"kafka_2.13-{jars.VERSION}.jar", f"kafka-clients-{jars.VERSION}.jar"} <= set(names)
    assert "/" not in jars.LOCK.read_text()


def test_a_lock_with_a_bad_line_is_refused_by_its_number(tmp_path: Path) -> None:
    """A line that is no checksum and coordinate is named."""
    bad = tmp_path / "jars.lock"
    bad.write_text(f"{'0' * 64}  a:b:1\n{'0' * 63}  a:b:1\n")
    with pytest.raises(EmbeddedKafkaError, match="line 2"):
        jars.read_lock(bad)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"ROLLCALL_CACHE": "/own", "XDG_CACHE_HOME": "/xdg"}, Path("/own")),
        ({"XDG_CACHE_HOME": "/xdg"}, Path("/xdg/rollcall")),
        ({}, Path.home() / ".cache" / "rollcall"),
    ],
)
def test_the_cache_is_where_the_user_says(environ: dict[str, str], expected: Path) -> None:
    """ROLLCALL_CACHE comes first, then XDG_CACHE_HOME, then the home folder."""
    assert jars.cache_dir(environ) == expected


def test_a_missing_jar_is_fetched_and_a_present_one_is_not(tmp_path: Path, mirror: Mirror) -> None:
    """What the cache has whole is used without asking anybody."""
    mirror.files["one-1.0.jar"] = WHOLE
    [path] = jars.class_path(tmp_path, [jar_of("one", WHOLE)])
    assert path.read_bytes() == WHOLE
    assert jars.class_path(tmp_path, [jar_of("one", WHOLE)]) == (path,)
    assert mirror.asked == ["one-1.0.jar"]


def test_a_torn_jar_in_the_cache_is_fetched_again(tmp_path: Path, mirror: Mirror) -> None:
    """A cached file that is not the locked one is replaced."""
    mirror.files["one-1.0.jar"] = WHOLE
    [path] = jars.class_path(tmp_path, [jar_of("one", WHOLE)])
    path.write_bytes(WHOLE[:50])
    assert jars.class_path(tmp_path, [jar_of("one", WHOLE)])[0].read_bytes() == WHOLE


def test_a_torn_download_is_tried_again(tmp_path: Path, mirror: Mirror) -> None:
    """A connection that ends half way through costs one more request, and leaves nothing of its half."""
    mirror.files["one-1.0.jar"] = WHOLE
    mirror.torn.add("one-1.0.jar")
    [path] = jars.class_path(tmp_path, [jar_of("one", WHOLE)])
    assert path.read_bytes() == WHOLE
    assert [entry.name for entry in path.parent.iterdir() if entry.name != ".lock"] == ["one-1.0.jar"]


def test_a_jar_that_is_not_the_locked_one_is_refused_by_name(tmp_path: Path, mirror: Mirror) -> None:
    """A mirror that serves something else is found out, and the file does not reach the cache."""
    mirror.files["one-1.0.jar"] = b"something else"
    with pytest.raises(EmbeddedKafkaError, match=r"com\.example:one:1\.0"):
        jars.class_path(tmp_path, [jar_of("one", WHOLE)])
    assert not list(tmp_path.rglob("*.jar"))


def test_a_repository_that_does_not_answer_is_an_error_with_a_way_out(tmp_path: Path, mirror: Mirror) -> None:
    """The error names the jar and how to do without the network."""
    mirror.server_close()
    with pytest.raises(EmbeddedKafkaError, match=r"fetching com\.example:one:1\.0(.|\n)*ROLLCALL_CACHE"):
        jars.class_path(tmp_path, [jar_of("one", WHOLE)])


def test_processes_that_ask_at_once_fetch_a_jar_once(tmp_path: Path, mirror: Mirror) -> None:
    """The others wait for the one that fetches, and then find the jar there."""
    mirror.files["one-1.0.jar"] = WHOLE
    script = f"from worker.embedded.jars import *; class_path(Path({str(tmp_path)!r}), [{jar_of('one', WHOLE)!r}])"
    askers = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(3)]
    assert [asker.wait(DEADLINE_SECONDS) for asker in askers] == [0, 0, 0]
    assert mirror.asked == ["one-1.0.jar"]


def test_a_cache_that_cannot_be_written_says_what_to_set(tmp_path: Path) -> None:
    """The error names the folder and the variable."""
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedKafkaError, match=r"file/cache(.|\n)*ROLLCALL_CACHE"):
        jars.class_path(tmp_path / "file" / "cache", [])


def test_without_jgo_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is optional until something has to be fetched."""
    monkeypatch.setitem(sys.modules, "jgo.config", None)
    with pytest.raises(EmbeddedKafkaError, match=r"rollcall-cdc\[embedded\]"):
        jars.class_path(tmp_path, [jar_of("one", WHOLE)])
