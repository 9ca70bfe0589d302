"""The building blocks of the configuration: durations, secrets by reference, limits."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from worker.settings import Duration, HttpSettings, KafkaSettings, Secret

DURATION = TypeAdapter[float](Duration)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("500ms", 0.5), ("30s", 30), ("5m", 300), (" 1.5 h ", 5400), ("7d", 604_800), (12, 12), (0.25, 0.25), ("0s", 0)],
)
def test_a_duration_is_a_number_with_a_unit_or_of_seconds(written: Any, seconds: float) -> None:
    """Both ways of writing it."""
    assert DURATION.validate_python(written) == pytest.approx(seconds)


@pytest.mark.parametrize("written", ["5", "5 min", "-1s", "", "s", "1h30m", -1, float("inf"), float("nan"), None, [5]])
def test_anything_else_is_no_duration(written: Any) -> None:
    """Above all no number in a text without its unit."""
    with pytest.raises(ValidationError):
        DURATION.validate_python(written)


@given(st.integers(0, 10**6), st.sampled_from(["ms", "s", "m", "h", "d"]))
def test_units_are_what_they_are(number: int, unit: str) -> None:
    """A text and the number of its seconds are one duration."""
    factor = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400}[unit]
    assert DURATION.validate_python(f"{number}{unit}") == pytest.approx(number * factor)


def test_a_secret_is_read_when_it_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rotated file or variable is taken up; a final line break is none of its own."""
    file = tmp_path / "key"
    by_file, by_env = Secret(file=file), Secret(env="TEST_KEY")
    for value in ("one", "two"):
        file.write_text(f"{value}\r\n")
        monkeypatch.setenv("TEST_KEY", value)
        assert by_file.read() == by_env.read() == value


@pytest.mark.parametrize("content", [b"", b"\n", None, b"\xff\xfe\x00secret"])
def test_a_secret_that_is_not_there_is_said_without_its_value(tmp_path: Path, content: bytes | None) -> None:
    """An empty or missing file, or one that is no text: the message names the file and nothing of what is in it."""
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    with pytest.raises(ValueError, match="key") as caught:
        Secret(file=tmp_path / "key").read()
    assert str(tmp_path / "key") in str(caught.value)
    assert "\x00" not in str(caught.value)
    assert "0xff" not in str(caught.value)


@pytest.mark.parametrize("content", ["one\ntwo\n", "one\r\ntwo", "one\x00two", "one\ttwo", "\none"])
def test_a_secret_that_no_header_can_carry_is_said_without_its_value(
    tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two lines in a file, most often; what no header is made of, such as the pepper, may be anything."""
    (tmp_path / "key").write_bytes(content.encode())
    by_file = Secret(file=tmp_path / "key")
    assert "one" in by_file.read()
    with pytest.raises(ValueError, match="one line of text") as caught:
        by_file.read_line()
    assert str(tmp_path / "key") in str(caught.value)
    assert "two" not in str(caught.value)
    monkeypatch.setenv("TEST_KEY", "one\ntwo")
    with pytest.raises(ValueError, match="environment variable TEST_KEY has a line break"):
        Secret(env="TEST_KEY").read_line()


def test_a_variable_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Likewise one that is empty."""
    monkeypatch.setenv("TEST_KEY", "")
    for name in ("TEST_KEY", "TEST_OTHER_KEY"):
        with pytest.raises(ValueError, match=f"environment variable {name} is empty or not set"):
            Secret(env=name).read()


@pytest.mark.parametrize("given_", [{}, {"env": "A", "file": "b"}, {"env": ""}, {"value": "x"}, "users API-Key canary"])
def test_a_secret_is_one_reference_and_never_a_value(given_: Any) -> None:
    """What was written in its place is not repeated."""
    with pytest.raises(ValidationError) as caught:
        Secret.model_validate(given_)
    assert "canary" not in str(caught.value.errors(include_input=False))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"security_protocol": "SASL_SSL"}, "needs username and password"),
        ({"security_protocol": "SASL_SSL", "username": "u"}, "needs username and password"),
        ({"cert_file": "c"}, "cert_file and key_file go together"),
        ({"key_file": "k"}, "cert_file and key_file go together"),
        ({"commit_timeout": "10s"}, "commit_timeout must be below transaction_timeout"),
        ({"transaction_timeout": "20s"}, "below request_timeout"),
        ({"heartbeat_interval": "6s"}, "heartbeat_interval must be below session_timeout"),
        ({"bootstrap": ""}, "at least 1 character"),
        ({"partitions": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_of_kafka_that_cannot_work_together_are_refused(settings: dict[str, Any], text: str) -> None:
    """When the file is read, not in the middle of a night."""
    with pytest.raises(ValidationError, match=text):
        KafkaSettings.model_validate(settings)


PASSWORD = {"username": "u", "password": {"env": "P"}}


@pytest.mark.parametrize(
    ("settings", "idle", "wanted"),
    [
        (PASSWORD, "PLAINTEXT makes no use of username, password", "SASL_SSL"),
        (
            PASSWORD | {"sasl_mechanism": "PLAIN", "ca_file": "c"},
            "PLAINTEXT makes no use of username, password, ca_file",
            "SASL_SSL",
        ),
        (PASSWORD | {"security_protocol": "SSL"}, "SSL makes no use of username, password", "SASL_SSL"),
        (
            PASSWORD | {"security_protocol": "SASL_PLAINTEXT", "ca_file": "c"},
            "SASL_PLAINTEXT makes no use of ca_file",
            "SASL_SSL",
        ),
        ({"ca_file": "c"}, "PLAINTEXT makes no use of ca_file", "SSL"),
        (
            {"cert_file": "c", "key_file": "k", "key_password": {"env": "P"}},
            "PLAINTEXT makes no use of cert_file, key_file, key_password",
            "SSL",
        ),
        (
            {"oauth": {"token_url": "https://id.example.com", "client_id": "c", "client_secret": {"env": "P"}}},
            "PLAINTEXT makes no use of oauth",
            "SASL_SSL",
        ),
    ],
)
def test_a_credential_that_the_protocol_has_no_use_for_is_refused(
    settings: dict[str, Any], idle: str, wanted: str
) -> None:
    """A forgotten `security_protocol` would leave the connection in the clear, and nobody would be told."""
    said = f"security_protocol {idle}: set security_protocol {wanted}, or leave "
    with pytest.raises(ValidationError, match=said):
        KafkaSettings.model_validate(settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"sasl_mechanism": "PLAIN"},
        {"security_protocol": "SSL", "ca_file": "c", "cert_file": "c", "key_file": "k"},
        PASSWORD | {"security_protocol": "SASL_PLAINTEXT"},
        PASSWORD | {"security_protocol": "SASL_SSL", "ca_file": "c"},
    ],
)
def test_a_credential_is_taken_with_its_protocol(settings: dict[str, Any]) -> None:
    """And a mechanism alone is no credential: the chart's values always name one."""
    KafkaSettings.model_validate(settings)


@pytest.mark.parametrize(
    "url",
    [
        "https://crm.example.com/api?tenant=7",
        "https://crm.example.com/api?",
        "https://crm.example.com?x",
        "https://crm.example.com/api#people",
        "https://crm.example.com/#",
    ],
)
def test_a_base_url_has_no_query_and_no_fragment(url: str) -> None:
    """Paths are put behind it: a DELETE would lose the id out of its path, and go to everybody."""
    with pytest.raises(ValidationError, match="no query and no fragment"):
        HttpSettings.model_validate({"url": url})


@pytest.mark.parametrize("url", ["https://user:pw@crm.example.com/api", "https://user@crm.example.com/api"])
def test_a_base_url_has_no_password(url: str) -> None:
    """A secret never stands in the file; and every request would fail, in words that speak of the network."""
    with pytest.raises(ValidationError, match="no user and no password"):
        HttpSettings(url=url)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change", [{"rate": 0}, {"rate": float("inf")}, {"burst": 0}, {"timeout": 0}, {"url": "ftp://x"}, {"colour": "red"}]
)
def test_an_api_has_a_positive_rate_and_a_time_out(change: dict[str, Any]) -> None:
    """And no settings that do not exist."""
    with pytest.raises(ValidationError):
        HttpSettings.model_validate({"url": "https://api.example.com"} | change)
