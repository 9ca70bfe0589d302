"""Brokers as production secures them: TLS, passwords, tokens and ACLs; and a deployment of its own for each test."""

import itertools
import os
from collections.abc import AsyncIterator, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.secure.certificates import Authority
from tests.secure.collector import Collector
from tests.secure.governing import Governor
from tests.secure.issuer import AUDIENCE, Issuer
from tests.waiting import until
from worker import embedded
from worker.acls import Grant
from worker.embedded import layout
from worker.errors import KafkaUnavailableError
from worker.kafka import Connection
from worker.rights import Rights
from worker.settings import KafkaSettings
from worker.topics import Topics

PARTITIONS = 1
_PATIENCE = 20.0
_CLIENT = "listener.name.client"
_JAAS = "org.apache.kafka.common.security"
_numbers = itertools.count()
# What the authorizer allows is logged at this level only; the rest as the embedded broker has it.
_AUTHORIZER_LOG = "logger.authorizer.name=kafka.authorizer.logger\nlogger.authorizer.level=debug\n"


@dataclass(frozen=True)
class Secured:
    """A broker that asks everybody who they are, and knows who may do what."""

    bootstrap: str
    authority: Authority
    issuer: Issuer
    governor: Governor
    folder: Path
    log: Path

    def settings(self, **more: Any) -> KafkaSettings:
        """Return the connection's settings over TLS; who it is for has to be added."""
        known = {"bootstrap": self.bootstrap, "partitions": PARTITIONS, "security_protocol": "SASL_SSL"}
        return KafkaSettings.model_validate(known | {"ca_file": str(self.authority.ca), "start_timeout": 15} | more)

    def secret(self, name: str, value: str) -> dict[str, str]:
        """Write a secret to a file, and return the reference to it."""
        path = self.folder / name
        path.write_text(value + "\n", "utf-8")
        return {"file": str(path)}

    async def user(self, name: str, grants: Collection[Grant] = (), *, password: str = "") -> dict[str, Any]:
        """Make a user who may do exactly that, wait until the broker knows, and return the settings of who it is."""
        password = password or f"password of {name}"
        await self.governor.users([(name, password)])
        if grants:
            await self.governor.allow(f"User:{name}", grants)
        who = {"username": name, "password": self.secret(f"{name}.password", password)}
        await until(lambda: self._known(who, grants), f"the broker comes to know {name}", seconds=_PATIENCE)
        return who

    async def _known(self, who: dict[str, Any], grants: Collection[Grant]) -> bool:
        try:
            async with Connection(self.settings(**who)).admin() as admin:
                return not await Rights(admin).missing(grants)
        except KafkaUnavailableError:
            return False


def _sasl(issuer: Issuer, server: Path) -> dict[str, str]:
    """Return the listener's settings: TLS by a PEM file, passwords and tokens (Kafka's documentation, "Security")."""
    bearer = f"{_CLIENT}.oauthbearer"
    return {
        f"{_CLIENT}.ssl.keystore.type": "PEM",
        f"{_CLIENT}.ssl.keystore.location": str(server),
        f"{_CLIENT}.sasl.enabled.mechanisms": "SCRAM-SHA-512,OAUTHBEARER",
        f"{_CLIENT}.scram-sha-512.sasl.jaas.config": f"{_JAAS}.scram.ScramLoginModule required;",
        f"{bearer}.sasl.jaas.config": f"{_JAAS}.oauthbearer.OAuthBearerLoginModule required;",
        f"{bearer}.sasl.server.callback.handler.class": f"{_JAAS}.oauthbearer.OAuthBearerValidatorCallbackHandler",
        f"{bearer}.sasl.oauthbearer.jwks.endpoint.url": issuer.keys.as_uri(),
        f"{bearer}.sasl.oauthbearer.expected.audience": AUDIENCE,
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS;User:admin",
    }


@pytest.fixture(scope="session")
async def secured(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Secured]:
    """Run the broker, with the user `admin` who may do everything."""
    folder = tmp_path_factory.mktemp("secured")
    authority = Authority(folder)
    issuer = Issuer(authority.issue("issuer"), folder)
    await issuer.start()
    logging = folder / "log4j2.properties"
    logging.write_text(layout._LOGGING + _AUTHORIZER_LOG, "ascii")
    options = [
        f"-Dlog4j2.configurationFile={logging}",
        f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={issuer.keys.as_uri()}",
        f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.files={issuer.keys}",
    ]
    config = _sasl(issuer, authority.issue("server").both)
    try:
        async with embedded.cluster(security="sasl_ssl", config=config, jvm_args=options) as cluster:
            governor = Governor(f"127.0.0.1:{cluster.nodes[0].port}")
            log = cluster.nodes[0].folder / layout.BROKER_LOG
            yield Secured(cluster.bootstrap, authority, issuer, governor, folder, log)
    finally:
        await issuer.stop()


@pytest.fixture(scope="session")
async def admin(secured: Secured) -> KafkaSettings:
    """Return the settings of the user who may do everything."""
    return secured.settings(**await secured.user("admin"))


@pytest.fixture
def prefix() -> str:
    """Return the prefix of a deployment that nobody else uses."""
    return f"secure{next(_numbers)}"


@pytest.fixture
def topics(prefix: str) -> Topics:
    """Return its topics; they are not made."""
    return Topics(prefix, PARTITIONS)


@pytest.fixture(autouse=True)  # ruff: ignore[pytest-fixture-autouse] - every configuration needs it
def pepper() -> Iterator[None]:
    """Set the pepper for the time of a test."""
    before = os.environ.get("ROLLCALL_PEPPER")
    os.environ["ROLLCALL_PEPPER"] = "a pepper for the tests of security"
    yield
    os.environ.pop("ROLLCALL_PEPPER")
    if before is not None:
        os.environ["ROLLCALL_PEPPER"] = before


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    """Return a collector that the environment names."""
    made = Collector()
    await made.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", made.url)
    yield made
    await made.stop()
