"""How Kafka knows us and we know it: TLS and SASL, with credentials as they are now.

A worker's clients live for weeks, and aiokafka opens connections of its own accord: after a broker's restart, or where
a session's time is up. Guarantees:

- every new connection is made with the password, the certificates and the token that are there at that moment, so that
  a rotated one is taken up without a restart;
- a certificate or password that cannot be read just then (its file is being replaced) leaves the last one in use;
- closing a client does not wait for a broker's goodbye (RFC 8446, section 6.1: it may close without);
- neither a password nor a token is in an error, or is sent where a token endpoint redirects to.
"""

import asyncio
import base64
import ssl
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote_plus

import aiohttp
import orjson
import structlog
from aiokafka.abc import AbstractTokenProvider
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import AIOKafkaConnection, collect_hosts, create_conn
from aiokafka.errors import (
    AuthenticationFailedError,
    IllegalSaslStateError,
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)

from worker.errors import ConfigError
from worker.settings import KafkaSettings, OAuthSettings
from worker.wire import AskingConnection

log = structlog.get_logger()

_TOKEN_SHARE: Final = 0.8  # of a token's life, after which it is renewed
_DEFAULT_LIFE: Final = 300.0
_REFUSAL_SECONDS: Final = 3.0
_GOODBYE_SECONDS: Final = 0.2
_OK: Final = 200
_LONGEST_ANSWER: Final = 64 * 1024


def tls(settings: KafkaSettings) -> ssl.SSLContext | None:
    """Return what TLS is spoken with, None where it is not; raises ConfigError for a file that cannot be used."""
    if settings.security_protocol not in {"SSL", "SASL_SSL"}:
        return None
    context = trusting(settings.ca_file, "kafka.ca_file")
    if settings.cert_file and settings.key_file:
        try:
            # Without a password OpenSSL would ask for one on the terminal, and wait.
            password = settings.key_password.read() if settings.key_password is not None else ""
            context.load_cert_chain(settings.cert_file, settings.key_file, password)
        except OSError as error:
            raise ConfigError([f"kafka.cert_file, kafka.key_file: {_said(error)}"]) from error
        except ValueError as error:
            raise ConfigError([f"kafka.key_password: {error}"]) from error
    return context


def trusting(ca_file: Path | None, path: str) -> ssl.SSLContext:
    """Return what a TLS client needs; raises ConfigError, naming the setting `path`, for a file that is of no use."""
    try:
        return ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    except OSError as error:
        raise ConfigError([f"{path}: {ca_file}: {_said(error)}"]) from error


def _said(error: OSError) -> str:
    return "it holds no usable certificate or key" if isinstance(error, ssl.SSLError) else str(error.strerror)


def credentials(settings: KafkaSettings, tokens: AbstractTokenProvider | None) -> dict[str, Any]:
    """Return aiokafka's arguments for SASL; raises ConfigError where the password cannot be read."""
    if not settings.security_protocol.startswith("SASL"):
        return {}
    mechanism = {"sasl_mechanism": settings.sasl_mechanism}
    if settings.sasl_mechanism == "OAUTHBEARER":
        return {**mechanism, "sasl_oauth_token_provider": tokens}
    return {**mechanism, "sasl_plain_username": settings.username, "sasl_plain_password": _password(settings)}


def _password(settings: KafkaSettings) -> str | None:
    try:
        return settings.password.read() if settings.password is not None else None
    except ValueError as error:
        raise ConfigError([f"kafka.password: {error}"]) from error


async def refusal(arguments: Mapping[str, Any]) -> Exception | None:
    """Return why no connection comes about, by trying one; None where it does, or takes longer than a few seconds.

    aiokafka's clients log that and do not tell. `arguments` are those of a client.
    """
    known = {name: value for name, value in arguments.items() if name != "bootstrap_servers"}
    for host, port, _ in collect_hosts(arguments["bootstrap_servers"]):
        try:
            async with asyncio.timeout(_REFUSAL_SECONDS):
                (await create_conn(host, port, **known)).close()
        except TimeoutError:
            continue
        except (KafkaError, OSError) as error:
            return error
    return None


def hint(error: Exception) -> str:
    """Return the likely cause of an error of a connection, and what to do."""
    match error:
        case AuthenticationFailedError() | SaslAuthenticationFailed() | UnsupportedSaslMechanismError():
            return "Check kafka.sasl_mechanism, and kafka.username and kafka.password, or kafka.oauth."
        case ssl.SSLCertVerificationError():
            return "The broker's certificate is not trusted: check kafka.ca_file, and the names in kafka.bootstrap."
        case ssl.SSLError():
            return "Check kafka.security_protocol, and kafka.cert_file and key_file where the broker wants them."
        case IllegalSaslStateError() | ConnectionResetError():
            return (
                "A listener without TLS or SASL answers them like this: check kafka.security_protocol, and the port in "
                "kafka.bootstrap."
            )
        case KafkaConnectionError() | OSError():
            return (
                "Is it running, and are kafka.bootstrap and kafka.security_protocol right? `rollcall kafka start` "
                "starts an embedded broker."
            )
        case _:
            return "See the broker's log; a principal without the ACL it needs looks like this too."


class RenewingClient(AIOKafkaClient):  # type: ignore[misc]  # aiokafka has no types
    """A client whose connections are made with what is valid when they are made."""

    settings: KafkaSettings
    tls_files: tuple[int, ...]
    closed = False

    @classmethod
    def take(cls, client: AIOKafkaClient, settings: KafkaSettings) -> None:
        """Have an existing client renew its credentials: aiokafka's own classes make their clients themselves."""
        client.__class__ = cls
        client.settings = settings
        client.tls_files = _stamps(settings)

    async def bootstrap(self) -> None:
        """Learn of the brokers; where that ends with any error but Kafka's own, aiokafka leaves its connection open."""
        try:
            await super().bootstrap()
        except BaseException as error:
            for frame, _ in traceback.walk_tb(error.__traceback__):  # nobody else knows of it
                if (connection := frame.f_locals.get("bootstrap_conn")) is not None:
                    connection.close()
            raise

    async def _get_conn(self, node_id: Any, **more: Any) -> AIOKafkaConnection | None:
        """Return a connection over which no topic is made by asking for it: all that is sent goes by here."""
        try:
            connection: AIOKafkaConnection | None = await super()._get_conn(node_id, **more)
        except RuntimeError:  # reset while it was made: see AskingConnection
            self.force_metadata_update()
            return None
        if connection is None:
            return None
        connection.__class__ = AskingConnection
        if self.closed:  # while it was made: nobody else would close it
            connection.close()
            return None
        return connection

    async def close(self) -> None:
        """Close; where a broker does not answer the goodbye of TLS, which uvloop waits for, without that."""
        self.closed = True
        transports = [one._writer.transport for one in self._conns.values() if one._writer is not None]  # ruff: ignore[private-member-access] - there is no public way to them
        routine: asyncio.Task[None] | None = self.__dict__["_sync_task"]
        if routine is not None and routine.done():  # over an error, which would keep all this open
            self._sync_task = None
        closing = asyncio.ensure_future(super().close())
        done, _ = await asyncio.wait([closing], timeout=_GOODBYE_SECONDS)
        if not done:
            for transport in transports:
                transport.abort()
        await closing

    @property
    def _sasl_plain_password(self) -> str | None:
        """Read anew for each connection by aiokafka's client, where it was a plain attribute."""
        try:
            self.__dict__["_sasl_plain_password"] = _password(self.settings)
        except ConfigError as error:
            log.warning("kafka_credential_kept", reason=error.problems[0])
        known: str | None = self.__dict__["_sasl_plain_password"]
        return known

    @property
    def _ssl_context(self) -> ssl.SSLContext | None:
        """Likewise; made anew only where a file has changed."""
        stamps = _stamps(self.settings)
        if stamps != self.tls_files:
            try:
                self.__dict__["_ssl_context"] = tls(self.settings)
                self.tls_files = stamps
            except ConfigError as error:
                log.warning("kafka_credential_kept", reason=error.problems[0])
        known: ssl.SSLContext | None = self.__dict__["_ssl_context"]
        return known


def _stamps(settings: KafkaSettings) -> tuple[int, ...]:
    """Return when each file of TLS was last changed, 0 where it is not there."""
    files = (settings.ca_file, settings.cert_file, settings.key_file)
    return tuple(file.stat().st_mtime_ns if file is not None and file.exists() else 0 for file in files)


class Tokens(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka has no types
    """Access tokens by client credentials (RFC 6749, section 4.4), each used for most of its life."""

    def __init__(self, settings: OAuthSettings) -> None:
        """Ask for nothing yet."""
        self._settings = settings
        self._lock = asyncio.Lock()
        self._token = ""
        self._until = 0.0

    async def token(self) -> str:
        """Return a token that is valid; raises KafkaConnectionError where none is to be had.

        aiokafka asks for one at each connection, and takes any other error for its own bug.
        """
        async with self._lock:
            if time.monotonic() >= self._until:
                try:
                    async with asyncio.timeout(self._settings.timeout):
                        self._token, life = await self._fetch()
                except (aiohttp.ClientError, TimeoutError, OSError, ValueError, ConfigError) as error:
                    raise KafkaConnectionError(self._failed(error)) from None  # its text may hold the answer
                self._until = time.monotonic() + _TOKEN_SHARE * life
            return self._token

    def _failed(self, error: Exception) -> str:
        if isinstance(error, ConfigError):
            return f"no token for Kafka: {error.problems[0]}"
        reason = str(error) if type(error) is ValueError else type(error).__name__
        return f"no token for Kafka: {self._settings.token_url} failed ({reason})"

    async def _fetch(self) -> tuple[str, float]:
        """Return a token and its life in seconds."""
        settings = self._settings
        form = {"grant_type": "client_credentials", "scope": settings.scope, "audience": settings.audience}
        try:
            secret = settings.client_secret.read()
        except ValueError as error:
            raise ConfigError([f"kafka.oauth.client_secret: {error}"]) from error
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=trusting(settings.ca_file, "kafka.oauth.ca_file")),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Authorization": _basic(settings.client_id, secret)},
            ) as session,
            session.post(
                str(settings.token_url),
                data={name: value for name, value in form.items() if value is not None},
                allow_redirects=False,
            ) as response,
        ):
            body = b""
            async for chunk in response.content.iter_chunked(_LONGEST_ANSWER):
                body += chunk
                if len(body) > _LONGEST_ANSWER:
                    raise ValueError("its answer is too large")
            return _read_token(response.status, body)


def _basic(client: str, secret: str) -> str:
    """Return a client's credential as RFC 6749, section 2.3.1, has it: both parts are form-encoded first."""
    return "Basic " + base64.b64encode(f"{quote_plus(client)}:{quote_plus(secret)}".encode()).decode()


def _read_token(status: int, body: bytes) -> tuple[str, float]:
    """Return token and life from an answer (RFC 6749, section 5.1); raises ValueError with what is wrong."""
    if status != _OK:
        raise ValueError(f"it answered {status}")
    try:
        given = orjson.loads(body)
        return str(given["access_token"]), float(given.get("expires_in", _DEFAULT_LIFE))
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
        raise ValueError("its answer holds no access token") from None
