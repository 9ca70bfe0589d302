"""What tests of whole flows share."""

import pytest


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have pauses that a test can wait for."""
    monkeypatch.setattr("worker.breaker._BACKOFF", (0.01, 0.05))
    monkeypatch.setattr("worker.breaker._PAUSE", (0.05, 0.1))
    monkeypatch.setattr("worker.poller._CREDENTIAL_PAUSE", 0.05)
    monkeypatch.setattr("worker.upstream._SECRETS_SECONDS", 0.02)
