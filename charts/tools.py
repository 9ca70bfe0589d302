"""Fetch the tools that check the chart, at the versions of tools.txt, into a cache outside the repository.

They are Go programs, built from the module proxy, and one of PyPI's. `python charts/tools.py test` makes those that the
tests use, `... check` all of them, `... run NAME ARGUMENTS` runs one. What is there already stays. Where Go is missing
nothing is made, and the tests that want a tool are skipped with that reason.
"""

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

# The custom resources that the chart makes, as their definitions' files end.
KINDS: Final = ("_scaledobjects.yaml", "_triggerauthentications.yaml", "_podmonitors.yaml", "_prometheusrules.yaml")
LIST: Final = Path(__file__).parent / "tools.txt"
ETCD: Final = """package main

import (
\t"os"

\t"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
"""


class _Loader(yaml.CSafeLoader):
    """YAML in which `=` is a string, as Kubernetes reads it, and not YAML 1.1's "value"."""


_Loader.add_constructor("tag:yaml.org,2002:value", lambda _, node: node.value)


@dataclass(frozen=True)
class Tool:
    """A line of tools.txt."""

    name: str
    module: str
    version: str
    package: str
    when: str

    @property
    def path(self) -> Path:
        """Return where it is, or would be: a program, or a folder of schemas."""
        return cache() / f"{self.name}@{self.version}"


def cache() -> Path:
    """Return the folder of the tools: below `$ROLLCALL_CACHE`, `$XDG_CACHE_HOME/rollcall` or `~/.cache/rollcall`."""
    own, common = os.environ.get("ROLLCALL_CACHE"), os.environ.get("XDG_CACHE_HOME")
    base = Path(own) if own else Path(common or Path.home() / ".cache") / "rollcall"
    return base / "tools"


def tools() -> dict[str, Tool]:
    """Read tools.txt."""
    lines = LIST.read_text(encoding="utf-8").splitlines()
    rows = [Tool(*line.split()) for line in lines if line and not line.startswith("#")]
    return {tool.name: tool for tool in rows}


def _go(*arguments: str, folder: Path | None = None) -> str:
    flags = f"{os.environ.get('GOFLAGS', '')} -mod=mod -buildvcs=false"
    # Without cgo no C compiler is needed, and less is built.
    environment = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": flags}
    done = subprocess.run(["go", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"go {' '.join(arguments)} failed:\n{done.stderr[-4000:]}")
    return done.stdout


def _source(tool: Tool) -> Path:
    """Fetch a module; return the folder of its source."""
    with tempfile.TemporaryDirectory() as folder:
        said = _go("mod", "download", "-json", f"{tool.module}@{tool.version}", folder=Path(folder))
    return Path(json.loads(said)["Dir"])


def _install(tool: Tool, target: Path) -> None:
    """Install a Python program into an environment of its own."""
    subprocess.run([sys.executable, "-m", "venv", target], check=True)
    python, package = str(target / "bin" / "python"), f"{tool.module}=={tool.version}"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", package], check=True)


def _staged(tool: Tool) -> Iterator[str]:
    """Yield the replacements for the parts of Kubernetes that its module names without a version."""
    version = tool.version.replace("v1.", "v0.", 1)
    text = (_source(tool) / "go.mod").read_text(encoding="utf-8")
    for name in re.findall(r"^\s+(k8s\.io/[a-z-]+) v0\.0\.0$", text, re.MULTILINE):
        yield f"replace {name} => {name} {version}"


def _build(tool: Tool, target: Path) -> None:
    """Build a program in a module of its own, which is what makes modules with replacements of their own buildable."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        package = f"{tool.module}/{tool.package}"
        lines = ["module tools", "go 1.26.0", f"require {tool.module} {tool.version}"]
        if tool.module == "k8s.io/kubernetes":
            lines += _staged(tool)
        (folder / "go.mod").write_text("\n".join(lines) + "\n", encoding="utf-8")
        if sums := _sums(tool):
            shutil.copy(sums, folder / "go.sum")
        if tool.name == "etcd":
            (folder / "main.go").write_text(ETCD, encoding="utf-8")
            package = "."
        else:
            _go("get", f"{package}@{tool.version}", folder=folder)
        (folder / "go.sum").chmod(0o644)
        _go("build", "-ldflags", _flags(tool), "-o", str(target), package, folder=folder)


def _flags(tool: Tool) -> str:
    """Return the linker's flags: an API server says its version, which charts ask for, only where it was told it."""
    if tool.module != "k8s.io/kubernetes":
        return ""
    major, minor, _ = tool.version.removeprefix("v").split(".")
    values = {"gitVersion": tool.version, "gitMajor": major, "gitMinor": minor}
    return " ".join(f"-X k8s.io/component-base/version.{name}={value}" for name, value in values.items())


def _sums(tool: Tool) -> Path | None:
    """Return the module's own checksums, which spare a look-up of each of its requirements."""
    path = _source(tool) / "go.sum"
    return path if path.exists() else None


def strict(node: Any) -> Any:
    """Return a schema of Kubernetes' as JSON Schema that knows no other properties than those that are named."""
    if isinstance(node, list):
        return [strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    found = {name: strict(value) for name, value in node.items() if not name.startswith("x-")}
    if isinstance(node.get("properties"), dict):
        found["properties"] = {name: strict(value) for name, value in node["properties"].items()}
    if node.get("format") == "int-or-string" or node.get("x-kubernetes-int-or-string"):
        return {"type": ["string", "integer"]}
    if isinstance(node.get("$ref"), str):
        return {"$ref": "definitions.json" + node["$ref"]} if node["$ref"].startswith("#") else found
    if "properties" in node and "additionalProperties" not in node and not _open(node):
        found["additionalProperties"] = False
    return found


def _open(node: dict[str, Any]) -> bool:
    return bool(node.get("x-kubernetes-preserve-unknown-fields"))


def _own_schemas(folder: Path) -> dict[str, Any]:
    """Return the schemas of Kubernetes' own kinds, by the name under which kubeconform asks for them."""
    known = json.loads((folder / "swagger.json").read_text(encoding="utf-8"))["definitions"]
    found: dict[str, Any] = {"definitions": {"definitions": strict(known)}}
    found["definitions"]["definitions"]["io.k8s.apimachinery.pkg.api.resource.Quantity"] = {
        "type": ["string", "number"]
    }
    for name, definition in known.items():
        for kind in definition.get("x-kubernetes-group-version-kind", []):
            group = kind["group"].split(".")[0]
            parts = [kind["kind"].lower(), *([group] if group else []), kind["version"]]
            found["-".join(parts)] = {"$ref": f"definitions.json#/definitions/{name}"}
    return found


def _definitions(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.yaml") if path.name.endswith(KINDS))


def _custom_schemas(folder: Path) -> dict[str, Any]:
    """Return the schemas of custom resources, by the name under which kubeconform asks for them."""
    found = {}
    for path in _definitions(folder):
        definition = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)["spec"]  # ruff: ignore[unsafe-yaml-load] a SafeLoader
        for version in definition["versions"]:
            name = f"{definition['names']['kind'].lower()}-{definition['group'].split('.')[0]}-{version['name']}"
            found[name] = strict(version["schema"]["openAPIV3Schema"])
    return found


def _schemas(tool: Tool, target: Path) -> None:
    source = _source(tool) / tool.package
    target.mkdir()
    own = (source / "swagger.json").exists()
    for name, schema in (_own_schemas(source) if own else _custom_schemas(source)).items():
        (target / f"{name}.json").write_text(json.dumps(schema), encoding="utf-8")
    if not own:  # the definitions themselves are what an API server is given
        for path in _definitions(source):
            shutil.copyfile(path, target / path.name)


@contextmanager
def _alone(folder: Path) -> Generator[None]:
    """Let one process at a time fill the cache."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make(tool: Tool) -> None:
    """Make a tool if it is not there: whole, or not at all."""
    if tool.path.exists():
        return
    print(f"making {tool.name} {tool.version}", flush=True)
    with tempfile.TemporaryDirectory(dir=cache()) as folder:
        unfinished = Path(folder) / "made"
        {"schemas": _schemas, "python": _install}.get(tool.when, _build)(tool, unfinished)
        unfinished.rename(tool.path)


def main(when: str, *arguments: str) -> int:
    """Make the tools for `test` or `check`, or `run` one of them with arguments."""
    if when == "run":
        path = tools()[arguments[0]].path
        return subprocess.run([path, *arguments[1:]], check=False).returncode
    if shutil.which("go") is None:
        print("Go is not installed: the chart's tests that need a tool are skipped")
        return 0
    with _alone(cache()):
        for tool in tools().values():
            if tool.when in {"test", "schemas"} or when == "check":
                make(tool)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:] or ["test"]))
