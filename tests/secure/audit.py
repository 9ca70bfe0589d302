"""`make audit`: known vulnerabilities of the pinned packages; says plainly where the database could not be asked.

Exits 0 where none is known, 1 where some are, 3 where that could not be found out: no answer is never a good one.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

FOUND, UNKNOWN = 1, 3


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


def main(requirements: Path) -> int:
    """Ask, and print what came of it."""
    command = [sys.executable, "-m", "pip_audit", "--require-hashes", "--disable-pip", "--format", "json"]
    done = subprocess.run(
        [*command, "--progress-spinner", "off", "-r", requirements], capture_output=True, text=True, check=False
    )
    try:
        report: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        reason = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        _say(f"The database of vulnerabilities could not be asked, so nothing is known: {reason}")
        _say("Run it where the network reaches it.")
        return UNKNOWN
    packages = report["dependencies"]
    known = [(one, bad) for one in packages for bad in one.get("vulns", [])]
    skipped = {one["name"]: one["skip_reason"] for one in packages if "skip_reason" in one}
    for one, bad in known:
        mended = ", ".join(bad["fix_versions"]) or "no version yet"
        sys.stdout.write(f"{one['name']} {one['version']}: {bad['id']}, mended in {mended}" + "\n")
    if skipped:
        count, reason = len(skipped), next(iter(skipped.values()))
        _say(f"{count} packages could not be looked up, so nothing is known of them: {reason}")
        _say("Run it where the network reaches a database of vulnerabilities.")
    sys.stdout.write(f"{len(packages) - len(skipped)} packages looked up, {len(known)} vulnerabilities known" + "\n")
    return FOUND if known else UNKNOWN if skipped else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
