"""What the tests of the chart share: its value sets, rendered once."""

import functools

import pytest

from tests.charts.rendering import SETS, Rendered, render, value_set


@functools.cache
def _rendered(name: str) -> Rendered:
    return render(value_set(name))


@pytest.fixture(params=SETS)
def rendered(request: pytest.FixtureRequest) -> Rendered:
    """Return every kept value set, rendered."""
    return _rendered(request.param)


@pytest.fixture
def minimal() -> Rendered:
    """Return the least that works, rendered."""
    return _rendered("minimal")


@pytest.fixture
def production() -> Rendered:
    """Return production, rendered."""
    return _rendered("production")


@pytest.fixture
def keda() -> Rendered:
    """Return scaling by KEDA, rendered."""
    return _rendered("keda")


@pytest.fixture
def everything() -> Rendered:
    """Return everything on, rendered."""
    return _rendered("everything")
