"""What every benchmark reads of the machine and of a process, from Linux's /proc."""

import os
import platform
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int, *, children: bool = False) -> float:
    """Return the CPU seconds, user and system, of a process so far, and of its ended children (proc_pid_stat(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return sum(map(int, fields[11 : 15 if children else 13])) / _TICKS


def memory(pid: int) -> tuple[float, float]:
    """Return (RSS, anonymous RSS) of a process in MB (proc_pid_status(5))."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    found = {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}
    return int(found["VmRSS"][0]) / 1024, int(found["RssAnon"][0]) / 1024


def anonymous_mb(pid: int) -> float:
    """Return the anonymous memory of a process in MB."""
    return memory(pid)[1]


def machine() -> str:
    """Return what the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    return f"{os.cpu_count()} cores, {model}, Python {platform.python_version()}"
