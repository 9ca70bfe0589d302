"""What a worker says of the configuration of the others."""

import pytest
from structlog.testing import capture_logs

from worker import comparing, inspect
from worker import config as configuration
from worker.config import Config
from worker.errors import UnavailableError


@pytest.mark.parametrize("error", [UnavailableError("nobody answers"), TypeError("a record of another kind")])
async def test_what_keeps_configurations_from_being_compared_is_said(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """By its class only, and the worker goes on: it is about another worker's settings."""

    async def refuse(config: Config) -> list[dict[str, object]]:  # ruff: ignore[unused-async] - stands for `statuses`
        raise error

    monkeypatch.setattr(inspect, "statuses", refuse)
    with capture_logs() as logs:
        assert await comparing.compare(configuration.parse({}), ["poll"]) == []
    assert [(entry["event"], entry["error"]) for entry in logs] == [
        ("configuration_not_compared", type(error).__name__)
    ]
