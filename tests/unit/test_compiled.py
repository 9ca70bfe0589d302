"""What is in this build: in the compiled one (`make test-compiled`), Python might be what is tested otherwise."""

import importlib
import importlib.resources
import os
import tomllib
from pathlib import Path

import pytest

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
WHEEL = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
MODULES = [name.removesuffix(".py").replace("/", ".") for name in WHEEL["hooks"]["mypyc"]["include"]]


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_what_this_build_has_of_it(name: str) -> None:
    """Of the compiled build a library, otherwise its source."""
    file = importlib.import_module(name).__file__ or ""
    assert file.endswith(".so" if "ROLLCALL_COMPILED" in os.environ else ".py")


@pytest.mark.parametrize("package", WHEEL["packages"])
def test_a_package_says_that_it_is_typed(package: str) -> None:
    """Else mypy knows nothing of it when it checks a plug-in (PEP 561)."""
    assert (importlib.resources.files(package) / "py.typed").is_file()
