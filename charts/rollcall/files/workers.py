"""Ask every worker of the release for its metrics, until each partition of each stage has exactly one owner.

What `helm test` runs, in the image of the workers; needs Python's standard library only. The environment says where to
ask (WORKERS, a name that resolves to every pod; PORT), for what (STAGES, PARTITIONS) and for how long (SECONDS).
"""

import os
import re
import socket
import sys
import time
import urllib.request
from collections import Counter

SAMPLE = re.compile(r'^rollcall_tasks\{stage="([^"]+)"\} ([0-9.e+]+)$', re.MULTILINE)


def addresses(name: str, port: int) -> list[str]:
    """Return the addresses of all workers; none while the name does not resolve."""
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except socket.gaierror:
        return []
    return sorted({str(entry[4][0]) for entry in found})


def tasks(host: str, port: int) -> Counter[str]:
    """Return how many partitions one worker owns, by stage; raises OSError where it does not answer."""
    where = f"[{host}]" if ":" in host else host
    with urllib.request.urlopen(f"http://{where}:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    return Counter({stage: int(float(count)) for stage, count in SAMPLE.findall(text)})


def owned(name: str, port: int) -> Counter[str]:
    """Return how many partitions are owned by all workers together, by stage."""
    total: Counter[str] = Counter()
    for host in addresses(name, port):
        try:
            total += tasks(host, port)
        except OSError as error:
            print(f"{host}: no metrics ({error})", flush=True)
    return total


def main() -> int:
    """Return 0 as soon as every stage owns all partitions, 1 when the time is over."""
    name, port = os.environ["WORKERS"], int(os.environ["PORT"])
    stages, partitions = os.environ["STAGES"].split(), int(os.environ["PARTITIONS"])
    deadline = time.monotonic() + float(os.environ["SECONDS"])
    while True:
        found = owned(name, port)
        print(", ".join(f"{stage}: {found[stage]} of {partitions}" for stage in stages), flush=True)
        if all(found[stage] == partitions for stage in stages):
            return 0
        if time.monotonic() > deadline:
            print("not every partition has an owner: see the logs of the workers, and `rollcall check`", flush=True)
            return 1
        time.sleep(2)


if __name__ == "__main__":
    sys.exit(main())
