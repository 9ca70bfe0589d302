"""The guard: a process between Rollcall and one broker, so that no broker outlives the program that started it.

It is run as a script by itself (standard library only, no import of Rollcall). The broker is its child, and the program
holds the other end of its standard input:

- a `t` there ends the broker with SIGTERM and, past the grace, SIGKILL; a `k` kills it;
- end of file, or the end of the program (pidfd_open(2)) where a fork of it keeps the pipe open, means that it is gone,
  however it went. A broker with temporary data is killed and the data removed; any other is ended as by `t`;
- should the guard itself be killed, the kernel kills the broker (PR_SET_PDEATHSIG, prctl(2); Linux).

Only the guard signals the broker, and it is the one that reaps it: a signal can't reach a process with a reused pid.
Every broker holds the data folder's lock (an inherited descriptor, flock(2)) for as long as it lives.

    guard.py attached LOCK_FD GRACE_SECONDS TEMPORARY_FOLDER_OR_- COMMAND...   prints the broker's pid
    guard.py detached LOCK_FD COMMAND...   becomes the broker, in the background, and writes its pid into the lock
"""

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess  # ruff: ignore[suspicious-subprocess-import] - it is what this is for
import sys
import threading
from collections.abc import Sequence
from typing import Literal

Role = Literal["program", "starting", "background"]

CONSOLE = "console.log"
RECORD_BYTES = 64
_PR_SET_PDEATHSIG = 1


def record(pid: int, role: Role) -> bytes:
    """Return what the lock file says of its holder, always of one length so that a reader never sees a part.

    A `program` runs a cluster for itself, one is `starting` a broker for the background, or it is that broker.
    """
    return json.dumps({"pid": pid, "role": role}).encode().ljust(RECORD_BYTES)


def _attached(lock: int, grace: float, temporary: str, command: Sequence[str]) -> int:
    watched = _watched()
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    with open(CONSOLE, "wb") as console:  # ruff: ignore[builtin-open] - starts faster without pathlib
        broker = subprocess.Popen(  # ruff: ignore[subprocess-without-shell-equals-true] - the command is our caller's
            command,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            pass_fds=(lock,),
            preexec_fn=prctl and (lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)),  # ruff: ignore[subprocess-popen-preexec-fn] - no thread yet
        )
    signal.signal(signal.SIGTERM, lambda *_: None)  # what ends a whole service ends the broker, and so the guard
    os.write(1, b"%d\n" % broker.pid)
    orphaned = threading.Event()
    threading.Thread(target=_obey, args=(broker, watched, grace, temporary, orphaned), daemon=True).start()
    code = broker.wait()
    if orphaned.is_set() and temporary != "-":
        shutil.rmtree(temporary, ignore_errors=True)  # other nodes' guards do the same: the last one finishes it
    return code if code >= 0 else 128 - code


def _obey(
    broker: subprocess.Popen[bytes], watched: list[int], grace: float, temporary: str, orphaned: threading.Event
) -> None:
    while select.select(watched, [], [])[0] == [0] and (orders := os.read(0, 16)):
        _end(broker, grace, at_once=b"k" in orders)
    orphaned.set()
    _end(broker, grace, at_once=temporary != "-")


def _watched() -> list[int]:
    try:
        return [0, os.pidfd_open(os.getppid())]
    except (AttributeError, OSError):  # not Linux, or older than 5.3: the pipe alone has to do
        return [0]


def _end(broker: subprocess.Popen[bytes], grace: float, *, at_once: bool) -> None:
    if at_once:
        broker.kill()
        return
    broker.terminate()
    late = threading.Timer(grace, broker.kill)
    late.daemon = True
    late.start()


def _detached(lock: int, command: list[str]) -> None:
    if os.fork():
        return
    os.pwrite(lock, record(os.getpid(), "background"), 0)
    for stream, path in ((0, os.devnull), (1, CONSOLE), (2, CONSOLE)):
        opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | (os.O_TRUNC if stream == 1 else 0), 0o644)
        os.dup2(opened, stream)
        os.close(opened)
    # uvloop leaves its child copies of pipes: whoever reads the other end would wait until the broker ends.
    inherited = set(map(int, os.listdir("/dev/fd")))  # ruff: ignore[os-listdir] - starts faster without pathlib
    for descriptor in inherited - {0, 1, 2, lock}:
        with contextlib.suppress(OSError):  # what listed them is closed by now
            os.close(descriptor)
    os.execv(command[0], command)  # ruff: ignore[start-process-with-no-shell] - the command is our caller's


def _main(arguments: Sequence[str]) -> int:
    mode, lock, *rest = arguments
    if mode == "detached":
        _detached(int(lock), list(rest))
        return 0
    grace, temporary, *command = rest
    return _attached(int(lock), float(grace), temporary, command)


if __name__ == "__main__":
    os._exit(_main(sys.argv[1:]))  # not sys.exit: the thread that reads may hold the input's buffer
