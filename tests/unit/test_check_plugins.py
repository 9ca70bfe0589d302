"""`rollcall check` loads the plug-ins, and names each that a worker could not run."""

import sys
from pathlib import Path
from typing import Any

import pytest

from worker.checking import own
from worker.config import parse

GOOD = "async def handle(event, context):\n    return None\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a present folder whose modules are found, and forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    return tmp_path


async def problems(roles: tuple[str, ...], **plugins: dict[str, Any]) -> list[str]:
    """Return what is wrong with plug-ins."""
    return await own.problems(parse({"handlers": {"plugins": plugins}}), roles)


async def test_a_plugin_that_can_run_is_no_problem(here: Path) -> None:
    """It is found in the present folder, as a worker finds it."""
    (here / "checked_good.py").write_text(GOOD)
    assert await problems(("good",), good={"target": "checked_good:handle"}) == []


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def handle(:\n", "handlers.plugins.bad.target: SyntaxError"),
        ("1 / 0\n", "handlers.plugins.bad.target: ZeroDivisionError"),
        ("import no_such_module\n", "handlers.plugins.bad.target: ModuleNotFoundError"),
        ("def handle(event, context):\n    return None\n", "handlers.plugins.bad.target: it is not async def"),
        ("class handle:\n    def __init__(self, url):\n        pass\n", "handlers.plugins.bad.settings: TypeError"),
    ],
    ids=["syntax", "raises", "import", "not async", "settings"],
)
async def test_one_that_cannot_is_named_beside_those_that_can(here: Path, source: str, says: str) -> None:
    """With its path in the file and what Python said; the others are looked at all the same."""
    (here / "checked_bad.py").write_text(source)
    (here / "checked_fine.py").write_text(GOOD)
    bad, fine = {"target": "checked_bad:handle"}, {"target": "checked_fine:handle"}
    (line,) = await problems(("bad", "fine"), bad=bad, fine=fine)
    assert line.startswith(says)


async def test_only_the_roles_that_are_asked_for_are_loaded(here: Path) -> None:
    """A poller's machine need not have the plug-ins."""
    (here / "checked_away.py").write_text("1 / 0\n")
    assert await problems(("poll",), away={"target": "checked_away:handle"}) == []
