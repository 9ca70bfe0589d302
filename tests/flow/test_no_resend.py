"""A request is sent once: what became of an unanswered one is for its caller to find out."""

import pytest

from worker.errors import UpstreamUnavailableError
from worker.http import Lane
from worker.settings import HttpSettings
from worker.simulator import Drivly


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_a_lost_connection_is_not_hidden_by_a_second_request(method: str) -> None:
    """The server cuts a connection that was kept alive: the caller hears of it, and the server of one request."""
    async with Drivly(customers=3) as upstream:
        settings = HttpSettings(url=f"{upstream.url}/api", allow_private_addresses=True)
        headers = {"Authorization": upstream.authorization or ""}
        async with Lane("crm", settings) as lane:
            await lane.send("GET", "/customers/1", headers=headers)
            upstream.fault("cut", bytes=0, method=method, times=1)
            with pytest.raises(UpstreamUnavailableError):
                await lane.send(method, "/customers/2", headers=headers)
        asked = [request for request in upstream.requests if request.path.endswith("/customers/2")]
        assert len(asked) == 1
