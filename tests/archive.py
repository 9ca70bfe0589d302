"""Leave an archive of the classes that a broker loads: a JVM that is given it starts in half the time.

    python tests/archive.py FILE

That is a dynamic archive (JEP 350), which a JVM writes as it ends. A Java that it does not fit, or that is given other
jars, does without.
"""

import asyncio
import sys
import tempfile
from pathlib import Path

from worker import embedded


async def main(file: Path) -> None:
    """Run a broker once, and have it write what it has loaded."""
    with tempfile.TemporaryDirectory() as folder:
        async with embedded.cluster(Path(folder), jvm_args=[f"-XX:ArchiveClassesAtExit={file}"]):
            pass


if __name__ == "__main__":
    target = Path(sys.argv[1]).absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    asyncio.run(main(target))
