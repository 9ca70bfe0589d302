"""Undo copies: readable with the key, for the request and customer they were made for, and by nobody else."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.deletes.settings import DeletesSettings
from handlers.deletes.undo import Undo, from_settings
from worker.errors import ConfigError, UsageError

KEY = "00" * 31 + "01"


@given(content=st.binary(max_size=2000))
def test_what_is_copied_can_be_read_back(content: bytes) -> None:
    """Whatever it is; and the same copy made twice is the same."""
    undo = Undo(KEY)
    copy = undo.encrypt("request", "crm/1", content)
    assert undo.decrypt("request", "crm/1", copy) == content
    assert undo.encrypt("request", "crm/1", content) == copy


def test_a_copy_is_bound_to_key_request_and_customer() -> None:
    """Another's copy cannot be passed off as this one."""
    copy = Undo(KEY).encrypt("request", "crm/1", b"jane@example.com")
    assert b"jane" not in base64.b64decode(copy)
    for undo, request, customer in (
        (Undo("ff" * 32), "request", "crm/1"),
        (Undo(KEY), "another", "crm/1"),
        (Undo(KEY), "request", "crm/2"),
    ):
        with pytest.raises(UsageError):
            undo.decrypt(request, customer, copy)


@pytest.mark.parametrize("at", [0, 1, 14, -1])
def test_a_copy_that_was_tampered_with_cannot_be_opened(at: int) -> None:
    """Every byte is authenticated, the format's too."""
    raw = bytearray(base64.b64decode(Undo(KEY).encrypt("request", "crm/1", b"jane")))
    raw[at] ^= 1
    with pytest.raises(UsageError):
        Undo(KEY).decrypt("request", "crm/1", base64.b64encode(raw).decode())


def test_two_contents_never_share_a_nonce() -> None:
    """With one key, that would give both away."""
    nonces = {base64.b64decode(Undo(KEY).encrypt("request", "crm/1", b"%d" % n))[1:13] for n in range(200)}
    assert len(nonces) == 200


@pytest.mark.parametrize("key", ["", "00", "zz" * 32, "00" * 33])
def test_a_key_that_is_none_is_refused(key: str) -> None:
    """32 bytes, in hexadecimal."""
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        Undo(key)


def test_white_space_is_no_part_of_a_key() -> None:
    """It comes with many a Secret, as a line break at the end."""
    copy = Undo(KEY).encrypt("request", "crm/1", b"jane")
    assert Undo(f" {KEY}\n").decrypt("request", "crm/1", copy) == b"jane"


def test_the_key_comes_from_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where copies are wanted it has to be there; null does without."""
    target = {"kind": "http", "url": "http://127.0.0.1:1", "path": "/{id}"}
    wanted = DeletesSettings.model_validate({"targets": {"crm": target}})
    monkeypatch.delenv("ROLLCALL_UNDO_KEY", raising=False)
    with pytest.raises(ConfigError, match="ROLLCALL_UNDO_KEY"):
        from_settings(wanted)
    monkeypatch.setenv("ROLLCALL_UNDO_KEY", KEY)
    assert from_settings(wanted) is not None
    assert from_settings(DeletesSettings()) is None
    assert from_settings(wanted.model_copy(update={"undo_key": None})) is None
    opted_out = DeletesSettings.model_validate({"targets": {"crm": {**target, "undo": False}}})
    assert from_settings(opted_out) is None
