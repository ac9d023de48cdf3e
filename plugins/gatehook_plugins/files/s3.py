"""Files in a bucket of S3, or of a server that speaks its protocol (MinIO, Ceph, R2). Needs the extra `gatehook[s3]`.

The client library blocks, so it is called in threads. Names sort by expiry, so those to be swept are listed first.
"""

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final, TypeVar
from urllib.parse import quote, unquote

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from gatehook import FileStore, NotFound, StoredFile, Unavailable, counted
from gatehook_plugins.files.headers import disposition
from gatehook_plugins.files.names import file_expires, is_expired, is_name, new_name

__all__ = ["S3Files"]

log = logging.getLogger("gatehook.files")

T = TypeVar("T")

_PIECE: Final = 1 << 18
_LONGEST_URL: Final = 7 * 86_400
"""Seconds for which a signed URL can be good, by the protocol."""
_MISSING: Final = frozenset({"404", "NoSuchKey", "NotFound"})


class S3Files:
    """Implements `gatehook.FileStore`. Await `open()` before use."""

    def __init__(
        self,
        bucket: str,
        *,
        prefix: str,
        endpoint: str,
        region: str,
        access_key: str,
        secret_key: str,
        keep: float,
        url_lifetime: float,
    ) -> None:
        """Times in seconds; for what is "" the library looks into the environment of the process, as it always does."""
        self._bucket = bucket
        self._prefix = prefix
        self._options = {
            "endpoint_url": endpoint or None,
            "region_name": region or None,
            "aws_access_key_id": access_key or None,
            "aws_secret_access_key": secret_key or None,
        }
        self._keep = keep
        self._url_lifetime = url_lifetime
        self._client: Any = None

    async def open(self) -> None:
        """Connect, and see that the bucket is there.

        Raises:
            Unavailable: it is not, or the credentials do not open it.
        """
        self._client = await asyncio.to_thread(self._connected)
        await self._ask(lambda: self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1))

    def _connected(self) -> Any:
        config = Config(
            signature_version="s3v4",
            connect_timeout=5,
            read_timeout=30,
            retries={"mode": "standard", "total_max_attempts": 3},
            request_checksum_calculation="when_required",  # servers other than Amazon's know no newer checksums
            response_checksum_validation="when_required",
            s3={"addressing_style": "path" if self._options["endpoint_url"] else "auto"},
        )
        return boto3.session.Session().client("s3", config=config, **self._options)

    async def put(self, data: bytes, *, media_type: str, owner: str, keep: float | None = None) -> StoredFile:
        """Store a file; see `FileStore.put`."""
        seconds = self._keep if keep is None else keep
        expires = int(time.time() + seconds) + 1 if seconds else None
        name = new_name(expires)
        await self._ask(
            lambda: self._client.put_object(
                Bucket=self._bucket,
                Key=self._prefix + name,
                Body=data,
                ContentType=media_type,
                ContentDisposition=disposition(name, media_type),
                Metadata={"owner": quote(owner, safe="")},
            )
        )
        return StoredFile(name, owner, media_type, len(data), None if expires is None else expires * 1000)

    async def about(self, file_id: str) -> StoredFile | None:
        """What is known of a file; see `FileStore.about`."""
        if not is_name(file_id) or is_expired(file_id, time.time()):
            return None
        try:
            told = await self._ask(lambda: self._client.head_object(Bucket=self._bucket, Key=self._prefix + file_id))
        except NotFound:
            return None
        expires, owner = file_expires(file_id), unquote(told["Metadata"].get("owner", ""))
        size = int(told["ContentLength"])
        return StoredFile(file_id, owner, told["ContentType"], size, None if expires is None else expires * 1000)

    async def read(self, file_id: str) -> AsyncIterator[bytes]:
        """A file's bytes, in pieces; see `FileStore.read`."""
        if not is_name(file_id) or is_expired(file_id, time.time()):
            raise NotFound(f"there is no file {file_id[:64]!r}, or it has expired")
        key = self._prefix + file_id
        body = (await self._ask(lambda: self._client.get_object(Bucket=self._bucket, Key=key)))["Body"]
        with contextlib.closing(body):
            while piece := await self._ask(lambda: body.read(_PIECE)):
                yield piece

    async def delete(self, file_id: str) -> None:
        """Delete a file, if it is there; see `FileStore.delete`."""
        if is_name(file_id):
            await self._ask(lambda: self._client.delete_object(Bucket=self._bucket, Key=self._prefix + file_id))

    def url(self, file_id: str, *, lifetime: float | None = None) -> str:
        """A URL that the storage itself serves; see `FileStore.url`."""
        now, expires = time.time(), file_expires(file_id)
        seconds = min(self._url_lifetime if lifetime is None else lifetime, _LONGEST_URL)
        if expires is not None:
            seconds = min(seconds, expires - now)
        place = {"Bucket": self._bucket, "Key": self._prefix + file_id}
        return str(self._client.generate_presigned_url("get_object", Params=place, ExpiresIn=max(1, int(seconds))))

    async def sweep(self) -> None:
        """Delete what has expired, page by page; what the storage does not let go is passed over.

        Raises:
            Unavailable: the storage is away.
        """
        refused, after = 0, self._prefix + "0"
        reason: Any = None
        while after:
            expired, after = await self._ask(functools.partial(self._expired, after))
            if expired and (told := await self._ask(functools.partial(self._delete_all, expired))):
                refused, reason = refused + len(told), told[0]
        if refused:
            log.warning("%s cannot be deleted from the bucket: %s", counted(refused, "expired file"), reason)

    def _delete_all(self, keys: list[str]) -> list[Any]:
        """Delete these; gives the errors of those that could not be deleted."""
        objects = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
        told = self._client.delete_objects(Bucket=self._bucket, Delete=objects)
        return list(told.get("Errors", ()))

    def _expired(self, after: str) -> tuple[list[str], str]:
        """What has expired of the keys on the page behind `after`, and the page's last; "" where none can follow."""
        told = self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, StartAfter=after)
        now, keys = time.time(), [one["Key"] for one in told.get("Contents", ())]
        names = [(key, key.removeprefix(self._prefix)) for key in keys]
        may_follow = told["IsTruncated"] and keys[-1] < f"{self._prefix}{int(now) + 1:010x}"
        expired = [key for key, name in names if is_name(name) and is_expired(name, now)]
        return expired, keys[-1] if may_follow else ""

    async def _ask(self, call: Callable[[], T]) -> T:
        """Call the library in a thread; its errors become the gateway's."""
        with _errors():
            return await asyncio.to_thread(call)


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in _MISSING:
            raise NotFound("there is no such file, or it has expired") from None
        log.warning("the file store fails: %s", error)
        raise Unavailable(f"the file store refuses: {code}", code="file_store_unavailable") from None
    except (BotoCoreError, OSError) as error:
        log.warning("the file store fails: %s", error)
        raise Unavailable("the file store is away", code="file_store_unavailable") from None


_implements: type[FileStore] = S3Files
