"""The command line with a clock of its own: `python -m tests.faults.clocked <file> [arguments of rollcall]`.

The file holds an offset in seconds (a little-endian double) that is added to the time of day from then on, so that a
test can step one worker's clock. The machine's clock is never touched. The worker goes with the test that started it.
"""

import ctypes
import mmap
import signal
import struct
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1  # prctl(2)


def _step_by(file: Path) -> None:
    with file.open("rb") as opened:
        shared = mmap.mmap(opened.fileno(), 8, prot=mmap.PROT_READ)
    unpack, real, real_ns = struct.Struct("<d").unpack, time.time, time.time_ns
    time.time = lambda: real() + unpack(shared[:8])[0]
    time.time_ns = lambda: real_ns() + int(unpack(shared[:8])[0] * 1e9)


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    _step_by(Path(sys.argv.pop(1)))
    from worker.cli import main  # after the clock: modules may bind its functions

    main()
