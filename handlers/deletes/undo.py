"""Encrypted copies of what was deleted, so that a mistaken deletion can be taken back by hand.

AES-256-GCM (NIST SP 800-38D) with a key of its own for each copy, derived from the configured one (HKDF, RFC 5869) and
the request. The nonce follows from the content: the same copy made twice is the same bytes, and two different contents
never share a key and a nonce. The request and the customer are authenticated with it: a copy cannot be passed off as
another's. Nobody without the key can read it, Rollcall's operators included.
"""

import base64
import hashlib
import re
import zlib
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from handlers.deletes.settings import DeletesSettings
from worker.errors import ConfigError, UsageError

_KEY_BYTES: Final = 32
_KEY: Final = rf"[0-9A-Fa-f]{{{2 * _KEY_BYTES}}}"
_NONCE_BYTES: Final = 12
_FORMAT: Final = b"\x01"


class Undo:
    """Makes and opens undo copies."""

    def __init__(self, key: str) -> None:
        """`key`: 64 hexadecimal digits; raises ValueError for anything else."""
        digits = "".join(key.split())  # many a Secret ends with a line break
        if re.fullmatch(_KEY, digits) is None:
            raise ValueError(f"an undo key has {2 * _KEY_BYTES} hexadecimal digits")
        self._key = bytes.fromhex(digits)

    def encrypt(self, request: str, customer: str, content: bytes) -> str:
        """Return the copy of `content`, the record of `customer` that `request` deletes, as text."""
        packed, key = zlib.compress(content), self._derive(request)
        nonce = hashlib.blake2b(packed, key=key, digest_size=_NONCE_BYTES).digest()
        sealed = AESGCM(key).encrypt(nonce, packed, _bound(_FORMAT, request, customer))
        return base64.b64encode(_FORMAT + nonce + sealed).decode()

    def decrypt(self, request: str, customer: str, copy: str) -> bytes:
        """Return the content of a copy; raises UsageError for another key, request or customer."""
        raw = base64.b64decode(copy)
        nonce, sealed = raw[1 : 1 + _NONCE_BYTES], raw[1 + _NONCE_BYTES :]
        try:
            packed = AESGCM(self._derive(request)).decrypt(nonce, sealed, _bound(raw[:1], request, customer))
        except (InvalidTag, ValueError) as error:
            message = "the undo copy cannot be opened"
            raise UsageError(message, hint="It was made with another undo_key, or for another request.") from error
        return zlib.decompress(packed)

    def _derive(self, request: str) -> bytes:
        return HKDF(SHA256(), _KEY_BYTES, salt=None, info=b"rollcall undo " + request.encode()).derive(self._key)


def from_settings(settings: DeletesSettings) -> Undo | None:
    """Return what makes undo copies, None where none are wanted; raises ConfigError where the key cannot be had."""
    if settings.undo_key is None or not any(target.undo for target in settings.targets.values()):
        return None
    try:
        return Undo(settings.undo_key.read())
    except ValueError as error:
        problem = f"handlers.deletes.undo_key: {error}; undo_key: null does without undo copies"
        raise ConfigError([problem]) from error


def _bound(version: bytes, request: str, customer: str) -> bytes:
    return version + f"{request} {customer}".encode()
