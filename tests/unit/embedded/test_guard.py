"""The guard over plain processes: whatever ends the program, or the guard, ends the broker."""

import fcntl
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from worker.embedded import guard, layout

DEADLINE_SECONDS = 30.0
SLEEPER = ("sleep", "60")
DEAF = ("sh", "-c", 'trap "" TERM; touch deaf; while :; do sleep 0.1; done')
PROGRAM = """
import os, subprocess, sys, time
guard = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
pid = guard.stdout.readline().decode().strip()
fork = os.fork()
if fork:
    print(pid, fork, flush=True)
time.sleep(60)
"""


def until(condition: Callable[[], bool]) -> bool:
    """Poll the condition until it holds, and return whether it did within the deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def is_alive(pid: int) -> bool:
    """Return whether a process runs: a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def guard_command(*arguments: str) -> list[str]:
    """Return the command line of a guard."""
    return [sys.executable, "-IS", guard.__file__, *arguments]


Start = Callable[..., tuple[subprocess.Popen[bytes], int]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start guards as a program does, each in a folder of its own, and leave none."""
    guards: list[subprocess.Popen[bytes]] = []

    def begin(*command: str, temporary: str = "-") -> tuple[subprocess.Popen[bytes], int]:
        with (tmp_path / "lock").open("wb") as lock:
            arguments = guard_command("attached", str(lock.fileno()), "0.3", temporary, *command)
            pipe = subprocess.PIPE
            guards.append(
                subprocess.Popen(arguments, stdin=pipe, stdout=pipe, cwd=tmp_path, pass_fds=[lock.fileno()], bufsize=0)
            )
        assert guards[-1].stdout is not None
        return guards[-1], int(guards[-1].stdout.readline())

    yield begin
    for one in guards:
        one.kill()
        one.communicate()


def tell(one: subprocess.Popen[bytes], order: bytes) -> None:
    """Give a guard an order."""
    assert one.stdin is not None
    one.stdin.write(order)


@pytest.mark.parametrize(("order", "number"), [(b"t", signal.SIGTERM), (b"k", signal.SIGKILL)])
def test_the_guard_ends_its_process_when_told(start: Start, order: bytes, number: signal.Signals) -> None:
    """It passes the signal on and ends with it."""
    one, pid = start(*SLEEPER)
    tell(one, order)
    assert one.wait(DEADLINE_SECONDS) == 128 + number
    assert not is_alive(pid)


def test_a_process_deaf_to_sigterm_is_killed_after_the_grace(tmp_path: Path, start: Start) -> None:
    """No end is waited for without a bound."""
    one, pid = start(*DEAF)
    assert until((tmp_path / "deaf").exists)
    tell(one, b"t")
    assert one.wait(DEADLINE_SECONDS) == 128 + signal.SIGKILL
    assert not is_alive(pid)


def test_the_guard_ends_with_its_process(start: Start) -> None:
    """A broker that ends by itself is seen at once, with its exit code."""
    one, _ = start("sh", "-c", "exit 3")
    assert one.wait(DEADLINE_SECONDS) == 3


def test_end_of_file_ends_the_process_and_keeps_its_data(tmp_path: Path, start: Start) -> None:
    """The program's end of the pipe closes when it dies."""
    (tmp_path / "data").mkdir()
    one, pid = start(*SLEEPER)
    one.communicate()
    assert one.returncode == 128 + signal.SIGTERM
    assert not is_alive(pid)
    assert (tmp_path / "data").exists()


def test_end_of_file_removes_temporary_data(tmp_path: Path, start: Start) -> None:
    """A program that was killed cannot tidy up itself."""
    (tmp_path / "data").mkdir()
    one, _ = start(*DEAF, temporary=str(tmp_path / "data"))
    one.communicate()
    assert not (tmp_path / "data").exists()


def test_an_order_leaves_temporary_data_to_the_program(tmp_path: Path, start: Start) -> None:
    """A node that is killed in a test comes back to its data."""
    (tmp_path / "data").mkdir()
    one, _ = start(*SLEEPER, temporary=str(tmp_path / "data"))
    tell(one, b"k")
    one.wait(DEADLINE_SECONDS)
    assert (tmp_path / "data").exists()


def test_a_killed_guard_takes_its_process_along(start: Start) -> None:
    """The kernel sees to it."""
    one, pid = start(*SLEEPER)
    one.kill()
    one.wait(DEADLINE_SECONDS)
    assert until(lambda: not is_alive(pid))


def test_a_sigterm_to_the_guard_alone_is_passed_over(start: Start) -> None:
    """What ends a whole service reaches the broker as well, and the guard ends with that."""
    one, pid = start(*SLEEPER)
    one.send_signal(signal.SIGTERM)
    tell(one, b"k")
    assert one.wait(DEADLINE_SECONDS) == 128 + signal.SIGKILL
    assert not is_alive(pid)


def test_a_fork_of_the_program_does_not_keep_the_process(tmp_path: Path) -> None:
    """The pipe stays open in the fork; the guard watches the program itself too."""
    arguments = guard_command("attached", "2", "5", "-", *SLEEPER)  # any inherited descriptor does as the lock
    with subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments], stdout=subprocess.PIPE, cwd=tmp_path) as program:
        assert program.stdout is not None
        pid, fork = map(int, program.stdout.readline().split())
        program.kill()
        program.wait()
        assert is_alive(fork)
        assert until(lambda: not is_alive(pid))
        os.kill(fork, signal.SIGKILL)


def test_a_process_in_the_background_holds_the_lock_and_names_itself(tmp_path: Path) -> None:
    """It runs on when its starter has ended, and the lock is free when it has."""
    with (tmp_path / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = guard_command("detached", str(lock.fileno()), "/bin/sleep", "60")
        subprocess.run(command, cwd=tmp_path, pass_fds=[lock.fileno()], check=True, timeout=DEADLINE_SECONDS)
    assert until(lambda: (tmp_path / "lock").stat().st_size == guard.RECORD_BYTES)
    user = layout.holder(tmp_path)
    assert user is not None
    assert user.role == "background"
    assert until(lambda: Path(f"/proc/{user.pid}/cmdline").read_bytes().startswith(b"/bin/sleep"))
    os.kill(user.pid, signal.SIGKILL)
    assert until(lambda: layout.holder(tmp_path) is None)


def test_a_process_in_the_background_keeps_nothing_of_its_starter_open(tmp_path: Path) -> None:
    """Whoever reads what the starter printed reads its end, though the broker runs on."""
    reader, writer = os.pipe()
    with (tmp_path / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = guard_command("detached", str(lock.fileno()), "/bin/sleep", "60")
        inherited = [lock.fileno(), writer]
        subprocess.run(command, cwd=tmp_path, pass_fds=inherited, check=True, timeout=DEADLINE_SECONDS)
    os.close(writer)
    assert until(lambda: (tmp_path / "lock").stat().st_size == guard.RECORD_BYTES)
    user = layout.holder(tmp_path)
    assert user is not None
    try:
        ended, _, _ = select.select([reader], [], [], DEADLINE_SECONDS)
        assert ended
        assert os.read(reader, 1) == b""
    finally:
        os.kill(user.pid, signal.SIGKILL)
        os.close(reader)
