"""All benchmarks, one after the other: `make bench`, `make bench-quick`.

    python -m benchmarks.run [--quick]

Those that compare keep their measurements (docs/benchmarks/results.jsonl), of which the page's tables and plots are
made at the end; the others print theirs. `--quick` measures less, into a folder of its own, and leaves the page alone.
"""

import argparse
import subprocess
import sys
import tempfile

from benchmarks import results
from benchmarks.measure import ROOT, surroundings

# What to run, in full and in small; a module with a name in `results` keeps its measurements.
FULL = {
    "poll": ["--customers", "30000", "--rounds", "5"],
    "repoll": ["100000", "5"],
    "drop": ["--records", "200000", "--rounds", "5"],
    "identity_speed": [],
    "latency": ["--rounds", "3"],
    "restore": ["--rounds", "3"],
    "restart": ["--rounds", "3"],
    "scaling": ["--rounds", "5"],
    "deletes": [],
    "recovery": [],
    "ledger": [],
}
QUICK = {
    "poll": ["--customers", "5000", "--rounds", "1"],
    "repoll": ["20000", "2"],
    "drop": ["--records", "40000", "--rounds", "1"],
    "identity_speed": ["--sizes", "10000,30000"],
    "latency": ["--customers", "2000", "--half", "1000", "--seconds", "8"],
    "restore": ["--fingerprints", "100000"],
    "restart": [],
    "scaling": ["--customers", "5000", "--rounds", "1"],
    "deletes": ["--customers", "1000"],
}


def main() -> int:
    """Run all; return how many failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    failed = []
    with tempfile.TemporaryDirectory(prefix="rollcall-bench-") as folder:
        environment = {**surroundings(), **({"BENCH_RESULTS": folder} if quick else {})}
        for name, arguments in (QUICK if quick else FULL).items():
            print(f"\n== {name} {' '.join(arguments)}", flush=True)
            if not quick:
                results.forget(name)
            command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
            if subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode:
                failed.append(name)
        if not quick:
            subprocess.run([sys.executable, "-m", "benchmarks.report"], cwd=ROOT, env=environment, check=True)
    if failed:
        print(f"failed, or missed its goal: {', '.join(failed)}")
    return len(failed)


if __name__ == "__main__":
    raise SystemExit(main())
