"""A token endpoint over TLS that gives out signed access tokens, and the keys by which a broker checks them."""

import base64
import json
import ssl
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256

from tests.secure.certificates import Certificate

AUDIENCE = "kafka"
_UNAUTHORIZED = 401


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Issuer:
    """Gives tokens to clients by their secrets; `clients` may change, `life` is in seconds."""

    def __init__(self, certificate: Certificate, folder: Path) -> None:
        """Write the public key to `keys`, a JSON Web Key Set (RFC 7517)."""
        self.clients: dict[str, str] = {}
        self.life = 300.0
        self.asked: list[dict[str, str]] = []
        self.answer: web.Response | None = None
        self.url = ""
        self._certificate = certificate
        self._key = rsa.generate_private_key(65537, 2048)
        public = self._key.public_key().public_numbers()
        key = {"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "test"}
        key |= {"n": _encoded(public.n.to_bytes(256, "big")), "e": _encoded(public.e.to_bytes(3, "big"))}
        self.keys = folder / "keys.json"
        self.keys.write_text(json.dumps({"keys": [key]}), "ascii")
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen on a free port."""
        app = web.Application()
        app.router.add_post("/token", self._token)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self._certificate.cert, self._certificate.key)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=context).start()
        self.url = f"https://127.0.0.1:{self._runner.addresses[0][1]}/token"

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _token(self, request: web.Request) -> web.Response:
        form = {str(name): str(value) for name, value in (await request.post()).items()}
        self.asked.append(form)
        if self.answer is not None:
            given, self.answer = self.answer, None
            return given
        said = base64.b64decode(request.headers["Authorization"].removeprefix("Basic ")).decode()
        client, secret = map(unquote_plus, said.split(":"))
        if self.clients.get(client) != secret or form.get("grant_type") != "client_credentials":
            return web.json_response({"error": "invalid_client"}, status=_UNAUTHORIZED)
        return web.json_response({
            "access_token": self.sign(client, self.life),
            "token_type": "Bearer",
            "expires_in": self.life,
        })

    def sign(self, subject: str, life: float) -> str:
        """Return a signed token (RFC 7515) of `subject`."""
        now = time.time()
        claims: dict[str, Any] = {"sub": subject, "iss": "test", "aud": AUDIENCE, "iat": int(now), "exp": now + life}
        parts = [_encoded(json.dumps(part).encode()) for part in ({"alg": "RS256", "kid": "test"}, claims)]
        signed = self._key.sign(".".join(parts).encode(), PKCS1v15(), SHA256())
        return ".".join([*parts, _encoded(signed)])
