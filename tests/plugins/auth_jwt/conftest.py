"""Keys, tokens signed by them, and an issuer on a real socket."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

SECRET = "a-shared-secret-of-32-bytes-at-least"


def b64(data: bytes | str | Mapping[str, Any]) -> str:
    """Base64url without padding, of JSON where it is a mapping."""
    if not isinstance(data, bytes):
        data = (data if isinstance(data, str) else json.dumps(data)).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Signer:
    """A private key and what an issuer does with it."""

    def __init__(self, key: Any, algorithm: str, kid: str | None = None) -> None:
        self.key, self.algorithm, self.kid = key, algorithm, kid

    def named(self, kid: str | None, algorithm: str = "") -> "Signer":
        """The same key under another name."""
        return Signer(self.key, algorithm or self.algorithm, kid)

    @property
    def pem(self) -> str:
        """The public key."""
        found: bytes = self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return found.decode()

    @property
    def private_pem(self) -> str:
        found: bytes = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return found.decode()

    def jwk(self, **more: Any) -> dict[str, Any]:
        """The public key as a member of a key set; None among `more` leaves a member out."""
        kinds: Any = {"R": RSAAlgorithm, "P": RSAAlgorithm, "E": ECAlgorithm}
        kind = OKPAlgorithm if self.algorithm == "EdDSA" else kinds[self.algorithm[0]]
        jwk = kind.to_jwk(self.key.public_key(), as_dict=True) | {"kid": self.kid, "use": "sig"} | more
        return {name: value for name, value in jwk.items() if value is not None}

    def token(self, claims: Mapping[str, Any] | None = None, /, **header: Any) -> str:
        """A token that is good for an hour; None among `claims` leaves one out."""
        payload = {"sub": "alice", "exp": int(time.time()) + 3600} | dict(claims or {})
        payload = {name: value for name, value in payload.items() if value is not None}
        return self.signed(json.dumps(payload).encode(), **header)

    def signed(self, payload: bytes, **header: Any) -> str:
        """A token of any payload, and with any header."""
        if self.kid is not None:
            header = {"kid": self.kid} | header
        head = {"alg": self.algorithm, "typ": "JWT"} | header
        signing_input = f"{b64(head)}.{b64(payload)}"
        algorithm = jwt.PyJWS().get_algorithm_by_name(self.algorithm)
        signature = algorithm.sign(signing_input.encode(), algorithm.prepare_key(self.key))
        return f"{signing_input}.{b64(signature)}"


SIGNERS = {
    "hmac": Signer(SECRET, "HS256"),
    "rsa": Signer(rsa.generate_private_key(65537, 2048), "RS256", "rsa-1"),
    "rsa2": Signer(rsa.generate_private_key(65537, 2048), "RS256", "rsa-2"),
    "ec": Signer(ec.generate_private_key(ec.SECP256R1()), "ES256", "ec-1"),
    "ed": Signer(ed25519.Ed25519PrivateKey.generate(), "EdDSA", "ed-1"),
}


@pytest.fixture(scope="session")
def signers() -> Mapping[str, Signer]:
    """One of each kind: hmac, rsa, rsa2, ec, ed."""
    return SIGNERS


class KeyServer:
    """An issuer's key set on a real socket. `respond` replaces the answer; `asked` counts the questions."""

    def __init__(self) -> None:
        self.keys: Sequence[Any] = ()
        self.respond: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None
        self.asked = 0
        self.url = ""
        self._news = asyncio.Condition()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        async with self._news:
            self._news.notify_all()
        if self.respond is not None:
            return await self.respond(request)
        return web.json_response({"keys": list(self.keys)})

    async def asked_more_than(self, count: int) -> None:
        async with self._news:
            await self._news.wait_for(lambda: self.asked > count)

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_get("/{path:.*}", self.serve)
        runner = web.AppRunner(app, shutdown_timeout=0, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/jwks.json"
        try:
            yield
        finally:
            await runner.cleanup()


@pytest.fixture
async def key_server() -> AsyncIterator[KeyServer]:
    server = KeyServer()
    async with server.lifespan():
        yield server


@pytest.fixture
def base64url() -> Callable[..., str]:
    return b64
