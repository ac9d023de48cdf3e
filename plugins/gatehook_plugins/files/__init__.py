"""Keeps what is too large for an answer: in a directory, or in S3; gives it out by URLs that are signed and expire."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Literal, Protocol, Self

from pydantic import Field, field_validator, model_validator

from gatehook import (
    FILES,
    ByteSize,
    FileStore,
    GatewayError,
    Route,
    SecretStr,
    Section,
    ServiceKey,
    StartupError,
    StoredFile,
    Unavailable,
    hookimpl,
    meanwhile,
)
from gatehook_plugins.files.local import LocalFiles
from gatehook_plugins.files.route import FilePage

if TYPE_CHECKING:
    from gatehook.app import Gateway

__all__ = ["FilesPlugin"]

log = logging.getLogger("gatehook.files")

_SHORTEST_SECRET = 32


class FilesPlugin:
    """Offers `FILES`."""

    class Settings(Section):
        """[plugins.files]."""

        backend: Literal["local", "s3"] = Field(default="local", description="a directory, or what speaks S3")
        directory: str = Field(
            default="gatehook-files", min_length=1, description="where the files are, seen from the settings file"
        )
        public_url: str = Field(default="", description="where clients reach the gateway; '' for its own address")
        secret: SecretStr = Field(default=SecretStr(""), description="signs URLs; '' for one that is made and kept")
        keep: float = Field(
            default=86_400, ge=0, allow_inf_nan=False, description="seconds a file is kept; 0: for ever"
        )
        url_lifetime: float = Field(default=86_400, gt=0, le=10**9, description="seconds a URL is good")
        max_file: ByteSize = Field(default=256 << 20, description="largest file")
        max_bytes: ByteSize = Field(default=10 << 30, description="the most that all files in the directory may take")
        sweep_interval: float = Field(default=300, ge=1, le=86_400, description="seconds between two sweeps")
        bucket: str = Field(default="", description="the bucket, with backend = 's3'")
        prefix: str = Field(default="", description="what the names of all objects in the bucket begin with")
        endpoint: str = Field(default="", description="address of an S3 server that is not Amazon's")
        region: str = Field(default="", description="where the bucket is; '' for what the environment says")
        access_key: str = Field(default="", description="'' for what the machine's environment or role gives")
        secret_key: SecretStr = Field(default=SecretStr(""), description="the secret of access_key")

        @field_validator("public_url", "endpoint")
        @classmethod
        def _address(cls, url: str) -> str:
            if url and not url.startswith(("http://", "https://")):
                raise ValueError("must be an address such as 'https://host'")
            return url.rstrip("/")

        @field_validator("secret")
        @classmethod
        def _long_enough(cls, secret: SecretStr) -> SecretStr:
            if 0 < len(secret.get_secret_value()) < _SHORTEST_SECRET:
                raise ValueError(f"must have {_SHORTEST_SECRET} characters or more")
            return secret

        @model_validator(mode="after")
        def _placed(self) -> Self:
            if self.backend == "s3" and not self.bucket:
                raise ValueError("bucket: required with backend = 's3'")
            return self

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._files: _Bounded | None = None

    @hookimpl
    def register_services(self, gateway: Gateway) -> Iterable[tuple[ServiceKey[FileStore], FileStore]]:
        """The store."""
        return [(FILES, self._of(gateway))]

    @hookimpl
    def register_routes(self, gateway: Gateway) -> Iterable[Route]:
        """The directory's files; S3 serves its own."""
        store = self._of(gateway).inner
        return [Route("GET", "/files/{id}", FilePage(store).serve, auth=False)] if isinstance(store, LocalFiles) else []

    @hookimpl
    def register_lifespans(self, gateway: Gateway) -> Iterable[Callable[[], AbstractAsyncContextManager[None]]]:
        """Open the store, and sweep it while serving."""
        return [lambda: _open(self._of(gateway).inner, self._settings.sweep_interval)]

    def _of(self, gateway: Gateway) -> _Bounded:
        if self._files is None:
            store = self._s3() if self._settings.backend == "s3" else self._local(gateway)
            self._files = _Bounded(store, self._settings.max_file)
        return self._files

    def _local(self, gateway: Gateway) -> LocalFiles:
        settings = self._settings
        return LocalFiles(
            gateway.settings.path.parent / settings.directory,
            secret=settings.secret.get_secret_value(),
            base_url=settings.public_url or _own_address(gateway),
            keep=settings.keep,
            url_lifetime=settings.url_lifetime,
            max_bytes=settings.max_bytes,
        )

    def _s3(self) -> _Store:
        settings = self._settings
        try:
            from gatehook_plugins.files.s3 import S3Files
        except ImportError as error:
            raise StartupError(f"backend = 's3' needs the extra: pip install 'gatehook[s3]' ({error})") from None
        return S3Files(
            settings.bucket,
            prefix=settings.prefix,
            endpoint=settings.endpoint,
            region=settings.region,
            access_key=settings.access_key,
            secret_key=settings.secret_key.get_secret_value(),
            keep=settings.keep,
            url_lifetime=settings.url_lifetime,
        )


class _Store(FileStore, Protocol):
    """A store as this plugin runs it."""

    async def open(self) -> None: ...

    async def sweep(self) -> None: ...


class _Bounded:
    """A store that takes no file larger than `most` bytes."""

    def __init__(self, inner: _Store, most: int) -> None:
        self.inner = inner
        self._most = most
        self.about, self.read, self.delete, self.url = inner.about, inner.read, inner.delete, inner.url

    async def put(self, data: bytes, *, media_type: str, owner: str, keep: float | None = None) -> StoredFile:
        """Store a file.

        Raises:
            Unavailable: it is too large, or as the store says.
        """
        if len(data) > self._most:
            message = f"a file of {len(data)} bytes is larger than the file store takes ([plugins.files] max_file)"
            raise Unavailable(message, code="file_too_large")
        return await self.inner.put(data, media_type=media_type, owner=owner, keep=keep)


def _own_address(gateway: Gateway) -> str:
    """Where the gateway listens, as far as one address tells it; "" leaves URLs relative to wherever it was asked."""
    server = gateway.settings.server
    if server.uds or not server.port or server.host in ("", "0.0.0.0", "::", "[::]"):  # noqa: S104  # compared, not bound
        return ""
    host = server.host.strip("[]")
    return f"http://[{host}]:{server.port}" if ":" in host else f"http://{host}:{server.port}"


@contextlib.asynccontextmanager
async def _open(store: _Store, interval: float) -> AsyncIterator[None]:
    try:
        await store.open()
    except OSError as error:
        place = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        raise StartupError(
            f"[plugins.files] directory: cannot be used: {place}; let it be written to, or name another"
        ) from error
    except GatewayError as error:
        raise StartupError(f"[plugins.files] bucket: cannot be used: {error.message}") from error
    async with meanwhile(_sweep(store, interval)):
        yield


async def _sweep(store: _Store, interval: float) -> None:
    """Sweep now and then; not all processes at once."""
    while True:
        await asyncio.sleep(interval * random.uniform(0.8, 1.2))  # noqa: S311  # spreads work, hides nothing
        try:
            await store.sweep()
        except (OSError, Unavailable) as error:
            log.warning("expired files could not be swept: %s", error)
