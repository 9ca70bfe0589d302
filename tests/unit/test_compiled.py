"""What is compiled, in the compiled build (`make test-compiled`): else Python might be what is tested there."""

import importlib
import os
import tomllib
from pathlib import Path

import pytest

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
MODULES = [
    name.removesuffix(".py").replace("/", ".")
    for name in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["mypyc"]["include"]
]


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_what_this_build_has_of_it(name: str) -> None:
    """Of the compiled build a library, otherwise its source."""
    file = importlib.import_module(name).__file__ or ""
    assert file.endswith(".so" if "ROLLCALL_COMPILED" in os.environ else ".py")
