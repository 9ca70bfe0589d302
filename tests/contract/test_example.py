"""A third party's adapter, installed from a repository of its own, is found, checked and configured like ours."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "adapter"
CONFIGURED = """
from worker.config import parse

settings = {"kind": "ledger", "url": "https://ledger.example.com", "key": {"env": "LEDGER_KEY"}}
source = parse({"sources": {"books": settings}}).sources["books"]
print(source.adapter.kind, [feed.name for feed in source.adapter.feeds()])
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Install the example into a folder of its own; return the environment in which it is found."""
    folder = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--target", str(folder), str(EXAMPLE)], check=True)
    return {**os.environ, "PYTHONPATH": str(folder)}


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python."""
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)


def test_its_own_tests_pass(installed: dict[str, str]) -> None:
    """Rollcall's exported checks among them, run as its author runs them."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(EXAMPLE)]
    done = subprocess.run(
        [*command, "-c", "/dev/null", str(EXAMPLE / "tests")],
        env=installed,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout


def test_it_is_configured_like_any_other(installed: dict[str, str]) -> None:
    """Its name is a kind of source, and its settings are checked as ours are."""
    done = subprocess.run(
        [sys.executable, "-c", CONFIGURED], env=installed, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("ledger ['scan']\n", "")
