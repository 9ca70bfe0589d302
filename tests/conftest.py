"""What all tests share."""

import os
from collections.abc import Generator

import pytest
import structlog
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadFileScheduling

# Examples are never timed: the machine may be busy. More of them with HYPOTHESIS_PROFILE=thorough.
settings.register_profile("quick", deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("thorough", parent=settings.get_profile("quick"), max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


class ByFile(LoadFileScheduling):
    """Give each process whole files, for the sake of their fixtures; all of subscribers to one, who share a demo."""

    def _split_scope(self, nodeid: str) -> str:
        shared = "tests/subscribers/"
        return shared if nodeid.startswith(shared) else nodeid.partition("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByFile:
    """Have xdist hand out tests that way."""
    return ByFile(config, log)


@pytest.fixture(autouse=True)  # ruff: ignore[pytest-fixture-autouse] - what a test must not leave behind, none asks for
def logging_as_before() -> Generator[None]:
    """Undo, after each test, the logging that it has set up, to an output that was its own."""
    yield
    structlog.reset_defaults()
