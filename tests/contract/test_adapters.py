"""Every adapter keeps the contract, each against its simulated upstream, asked without a socket."""

from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import urlencode

import orjson
import pytest

from worker.simulator import Connect, Dintero, Drivly, MyKaarma, Simulator
from worker.simulator.answers import Answer, Ask
from worker.sources import Moment, Request, Response, available
from worker.sources.connect import Connect as ConnectAdapter
from worker.sources.contract import CHECKS, Specimen
from worker.sources.dintero import Dintero as DinteroAdapter
from worker.sources.drivly import Drivly as DrivlyAdapter
from worker.sources.mykaarma import Mykaarma as MykaarmaAdapter

NOW = 1_750_000_000.0
MOMENT = Moment(round(NOW * 1000), round(NOW * 1000))
UUID = "9f1c7c9e-0d44-4b50-8888-8dd25736052a"
COMMON: dict[str, Any] = {"url": "https://api.example.com", "page_size": 3}
OPTIONS: dict[str, Any] = {"customers": 20, "seed": 7, "clock": lambda: NOW - 3600}


def answering(simulator: Simulator, root: str = "") -> Callable[[Request], Response]:
    """Return the simulator as a function from request to answer, its API below `root`."""

    def answer(request: Request) -> Response:
        body = b"" if request.json is None else orjson.dumps(request.json)
        path = root + request.path
        found = done(simulator.answer(Ask(request.method, path, urlencode(request.query), dict(request.headers), body)))
        headers = {"content-type": found.content_type} | {name.lower(): value for name, value in found.headers.items()}
        return Response(found.status, headers, found.body, f"{request.method} {path}")

    return answer


def done(answering: Coroutine[Any, Any, Answer]) -> Answer:
    """Return what a coroutine returns that waits for nothing."""
    try:
        answering.send(None)
    except StopIteration as end:
        answer: Answer = end.value
        return answer
    raise AssertionError("the simulator waits for something")


def connect(edition: Any) -> Specimen:
    """Return connect, in one of its editions."""
    simulator = Connect(**OPTIONS, edition=edition)
    settings = {**COMMON, "key": {"env": "KEY"}}
    secrets = {"key": simulator.api_key or ""}
    ids = frozenset(simulator.customers())
    return Specimen(ConnectAdapter, settings, secrets, answering(simulator), ids, UUID, MOMENT)


def dintero() -> Specimen:
    """Return dintero; it has no look-up."""
    simulator = Dintero(**OPTIONS)
    settings = {**COMMON, "aid": simulator.account, "client_id": {"env": "ID"}, "client_secret": {"env": "SECRET"}}
    secrets = {"client_id": "dintero-test-client", "client_secret": "dintero-test-secret"}
    ids = frozenset(simulator.customers())
    return Specimen(DinteroAdapter, settings, secrets, answering(simulator), ids, None, MOMENT)


def drivly(database: Any, absent: str) -> Specimen:
    """Return drivly over one of its databases."""
    simulator = Drivly(**OPTIONS, database=database)
    settings = {**COMMON, "key": {"env": "KEY"}}
    secrets = {"key": simulator.authorization or ""}
    ids = frozenset(simulator.customers())
    return Specimen(DrivlyAdapter, settings, secrets, answering(simulator, "/api"), ids, absent, MOMENT)


def mykaarma() -> Specimen:
    """Return mykaarma; it has no feeds."""
    simulator = MyKaarma(**OPTIONS)
    credential = {"username": {"env": "USER"}, "password": {"env": "PASSWORD"}}
    settings = {**COMMON, **credential, "requester_user_uuid": UUID, "dealer_uuids": simulator.dealers}
    secrets = {"username": "rollcall", "password": "mykaarma-test-password"}
    ids = frozenset(simulator.customers())
    return Specimen(MykaarmaAdapter, settings, secrets, answering(simulator), ids, UUID, MOMENT)


SPECIMENS = {
    "connect": connect("cursor"),
    "connect, older edition": connect("offset"),
    "dintero": dintero(),
    "drivly on postgres": drivly("postgres", "987654321"),
    "drivly on mongodb": drivly("mongodb", "6500000000000000ffffffff"),
    "mykaarma": mykaarma(),
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("specimen", SPECIMENS)
def test_an_adapter_keeps_the_contract(specimen: str, check: Callable[[Specimen], None]) -> None:
    """Every check holds for every adapter."""
    check(SPECIMENS[specimen])


def test_every_installed_adapter_is_checked() -> None:
    """No adapter is installed that is not held to the contract."""
    checked = {specimen.adapter.kind: specimen.adapter for specimen in SPECIMENS.values()}
    assert available().items() <= checked.items()
