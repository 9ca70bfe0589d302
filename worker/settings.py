"""The building blocks of the configuration: durations, secrets by reference, and what every source and target has.

The settings of one kind of source stand in its adapter's file and extend `SourceSettings`; the whole configuration is
put together and checked in `worker.config`.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    AnyHttpUrl,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


_WRITTEN: Final = r"^\s*([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|d)\s*$"


def _seconds(value: object) -> object:
    if isinstance(value, str | bool):
        match = re.match(_WRITTEN, str(value))
        if match is None:
            raise ValueError(f"{value!r} is not a duration; write a number with a unit: 500ms, 30s, 5m, 1h, 7d")
        return float(match[1]) * _UNITS[match[2]]
    return value


Duration = Annotated[
    float,
    BeforeValidator(_seconds),
    Field(ge=0, allow_inf_nan=False),
    WithJsonSchema({
        "anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": _WRITTEN}],
        "description": "A duration: a number of seconds, or a number with a unit: 500ms, 30s, 5m, 1h, 7d",
    }),
]

NAME_PATTERN: Final = r"^[a-z][a-z0-9_-]{0,62}$"
SourceName = Annotated[str, Field(pattern=NAME_PATTERN)]

# What the privacy policy may do with an upstream's field.
Treatment = Literal["keep", "hash", "drop"]


class Model(BaseModel):
    """A part of the configuration: unknown keys are refused, and nothing changes once it has been read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]").search


class Secret(Model):
    """A reference to a secret: the name of an environment variable or of a file, never the value itself."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    env: str | None = Field(default=None, min_length=1, description="Name of an environment variable")
    file: Path | None = Field(default=None, description="File whose content, less a final line break, is the secret")

    @model_validator(mode="after")
    def _one(self) -> "Secret":
        if (self.env is None) == (self.file is None):
            raise ValueError("name either env or file")
        return self

    def read(self) -> str:
        """Return the value as it is now, so that a rotated file is taken up; raises ValueError where there is none."""
        if self.file is not None:
            try:
                value = self.file.read_text(encoding="utf-8").rstrip("\r\n")
            except OSError as error:
                raise ValueError(f"the file {self.file} cannot be read: {error.strerror}") from error
            except UnicodeDecodeError:
                message = f"the file {self.file} cannot be read: it is not UTF-8"
                raise ValueError(message) from None  # the cause quotes a byte of the secret
            what = f"the file {self.file}"
        else:
            value = os.environ.get(self.env or "", "")
            what = f"the environment variable {self.env}"
        if not value:
            raise ValueError(f"{what} is empty or not set")
        return value

    def read_line(self) -> str:
        """Return the value, of which a header is made; raises ValueError also where no header can carry it."""
        value = self.read()
        if _CONTROL(value):
            what = f"the environment variable {self.env}" if self.file is None else f"the file {self.file}"
            message = f"{what} has a line break or another control character within: it must be one line of text"
            raise ValueError(message)
        return value


_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})


class OAuthSettings(Model):
    """Where an access token for Kafka comes from: the grant "client credentials" (RFC 6749, section 4.4)."""

    token_url: AnyHttpUrl = Field(description="The token endpoint; https, unless it is on this machine")
    client_id: str = Field(min_length=1)
    client_secret: Secret
    scope: str | None = Field(default=None, min_length=1, description="Several with spaces between them")
    audience: str | None = Field(default=None, min_length=1, description="Sent where the endpoint wants one")
    ca_file: Path | None = Field(default=None, description="CA certificates to trust instead of the system's")
    timeout: Duration = Field(default=10.0, gt=0)

    @model_validator(mode="after")
    def _encrypted(self) -> "OAuthSettings":
        if self.token_url.scheme != "https" and self.token_url.host not in _LOOPBACK:
            raise ValueError("token_url must be https: the client's secret is sent there")
        return self


_BROKER: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]+))?")
_PORTS: Final = range(1, 65_536)


def _brokers(value: str) -> str:
    parts = [part.strip() for part in value.split(",")]
    for part in parts:
        match = _BROKER.fullmatch(part)
        if match is None or int(match[1] or 9092) not in _PORTS:
            message = f"{part!r} is no host:port; write kafka-1:9092,kafka-2:9092, and an IPv6 address in brackets"
            raise ValueError(message)
    return ",".join(parts)


class KafkaSettings(Model):
    """The cluster, how to reach it, and the times that fencing and recovery rest on."""

    bootstrap: Annotated[str, AfterValidator(_brokers)] = Field(
        default="localhost:9092", min_length=1, description="host:port, several separated by commas"
    )
    partitions: int = Field(default=8, ge=1, le=1000, description="Of every topic; fixed once they are made")
    replication: int | None = Field(
        default=None, ge=1, le=10, description="Replicas of a topic; default: three, or as many as there are brokers"
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = "SCRAM-SHA-512"
    username: str | None = None
    password: Secret | None = Field(default=None, description="Read anew for each connection")
    oauth: OAuthSettings | None = Field(default=None, description="With sasl_mechanism OAUTHBEARER")
    ca_file: Path | None = Field(default=None, description="CA certificates to trust instead of the system's")
    cert_file: Path | None = Field(default=None, description="Client certificate")
    key_file: Path | None = Field(default=None, description="Client key")
    key_password: Secret | None = Field(default=None, description="Of an encrypted client key")
    compression: Literal["none", "gzip", "lz4", "snappy", "zstd"] = "none"
    max_record_bytes: int = Field(default=1_000_000, ge=1024, description="A larger record is set aside")
    session_timeout: Duration = Field(default=6.0, gt=0)
    heartbeat_interval: Duration = Field(default=1.5, gt=0)
    rebalance_timeout: Duration = Field(default=20.0, gt=0)
    transaction_timeout: Duration = Field(default=10.0, gt=0, description="After it the broker ends a transaction")
    commit_timeout: Duration = Field(default=8.0, gt=0, description="After it a transaction is given up here")
    request_timeout: Duration = Field(default=15.0, gt=0)
    start_timeout: Duration = Field(default=30.0, gt=0)

    @model_validator(mode="after")
    def _consistent(self) -> "KafkaSettings":
        sasl = self._sasl() if self.security_protocol.startswith("SASL") else None
        problems = [problem for problem in (sasl, self._idle()) if problem is not None]
        if (self.cert_file is None) != (self.key_file is None):
            problems.append("cert_file and key_file go together")
        if not self.heartbeat_interval < self.session_timeout:
            problems.append("heartbeat_interval must be below session_timeout, better a third of it")
        if not self.commit_timeout < self.transaction_timeout < self.request_timeout:
            problems.append(
                "commit_timeout must be below transaction_timeout, and that below request_timeout: otherwise the "
                "client would end a transaction a second time under the same epoch"
            )
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _idle(self) -> str | None:
        """Return what is set and would not be used: nobody is to take a connection in the clear for a safe one."""
        has_sasl, has_tls = self.security_protocol.startswith("SASL"), self.security_protocol.endswith("SSL")
        sasl = () if has_sasl else ("username", "password", "oauth")
        tls = () if has_tls else ("ca_file", "cert_file", "key_file", "key_password")
        idle = [name for name in (*sasl, *tls) if getattr(self, name) is not None]
        if not idle:
            return None
        wanted = "SASL_SSL" if has_sasl or not set(idle) <= set(tls) else "SSL"
        unused = f"security_protocol {self.security_protocol} makes no use of {', '.join(idle)}"
        return f"{unused}: set security_protocol {wanted}, or leave {'it' if len(idle) == 1 else 'them'} out"

    def _sasl(self) -> str | None:
        """Return what is wrong with the settings of SASL, None where they fit together."""
        if self.sasl_mechanism in {"PLAIN", "OAUTHBEARER"} and self.security_protocol == "SASL_PLAINTEXT":
            return f"sasl_mechanism {self.sasl_mechanism} would send the credential in the clear: use SASL_SSL"
        if self.sasl_mechanism == "OAUTHBEARER":
            return None if self.oauth is not None else "sasl_mechanism OAUTHBEARER needs oauth"
        if self.username is None or self.password is None:
            return f"security_protocol {self.security_protocol} needs username and password"
        return None

    def secrets(self) -> dict[str, Secret]:
        """Return the secrets that the connection needs, by the name of the setting."""
        token = None if self.oauth is None else self.oauth.client_secret
        named = {"password": self.password, "key_password": self.key_password, "oauth.client_secret": token}
        return {name: secret for name, secret in named.items() if secret is not None}


def _base(url: AnyHttpUrl) -> AnyHttpUrl:
    if set(str(url)) & set("?#"):
        message = (
            "a base URL has no query and no fragment: the path of a request, and the id in it, would become part of it"
        )
        raise ValueError(message)
    if url.username is not None or url.password is not None:
        raise ValueError("a base URL has no user and no password: a secret itself never stands in the file")
    return url


class HttpSettings(Model):
    """How an API is spoken to, whether it is a source or a target of deletions."""

    url: Annotated[AnyHttpUrl, AfterValidator(_base)] = Field(
        description="Base URL, without a query; paths of the API are appended",
        json_schema_extra={"pattern": "^[^?#]*$"},
    )
    rate: float = Field(default=10.0, gt=0, description="Requests a second, retries included")
    burst: int = Field(default=10, ge=1, description="Requests that may be sent at once after a pause")
    timeout: Duration = Field(default=30.0, gt=0, description="For one request, from connecting to the last byte")
    max_response_bytes: int = Field(default=16 * 1024 * 1024, ge=1024, description="A larger answer is refused")
    ca_file: Path | None = Field(default=None, description="CA certificates to trust instead of the system's")
    allow_private_addresses: bool = Field(
        default=False, description="Allow loopback, link-local and private address ranges"
    )

    def secrets(self) -> dict[str, Secret]:
        """Return the secrets that this API needs, by the name of the setting."""
        values: dict[str, Any] = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in values.items() if isinstance(value, Secret)}


class SourceSettings(HttpSettings):
    """What every source has, whatever its kind."""

    kind: str
    interval: Duration = Field(default=5.0, gt=0, description="From the end of one poll to the next")
    scan_interval: Duration = Field(default=3600.0, gt=0, description="From the end of one enumeration to the next")
    page_size: int = Field(default=100, ge=1, le=1000)
    region: str = Field(default="US", pattern="^[A-Z]{2}$", description="Of phone numbers without a country code")
    privacy: dict[str, Treatment] = Field(
        default_factory=dict, description="By upstream field: keep, hash (identifiers only) or drop; over the defaults"
    )
    own_fields: list[str] = Field(
        default_factory=list, description="Upstream fields that its document does not name, for `privacy`"
    )
    republish_rate: float = Field(
        default=500.0, gt=0, description="Customers a second, while an upgrade has everything published anew"
    )
    absence_guard_count: int = Field(default=10, ge=0, description="Absences held above max(this, the fraction)")
    absence_guard_fraction: float = Field(default=0.02, ge=0, le=1, description="Of the source's live customers")

    def scope(self) -> str | None:
        """Return what decides, beside the credential, who is seen; None: all settings that only this kind has."""
        return None

    def filtered(self) -> bool:
        """Return whether it shows only some of the upstream's customers, so that one may leave it and live on."""
        return False
