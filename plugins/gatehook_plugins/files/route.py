"""GET /files/{id}: a file, for whoever has a signed URL of it."""

import time
from typing import IO, Any

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from gatehook import NotFound, PermissionDenied
from gatehook_plugins.files.headers import disposition
from gatehook_plugins.files.local import LocalFiles

__all__ = ["FilePage"]


class _InPieces(web.FileResponse):
    """Sends a file piece by piece: what the system sends by itself is out of the reach of `server.write_timeout`."""

    async def _sendfile(self, request: web.BaseRequest, fobj: IO[Any], offset: int, count: int) -> AbstractStreamWriter:
        writer = await web.StreamResponse.prepare(self, request)
        assert writer is not None  # noqa: S101  # it is None only for a second time
        return await self._sendfile_fallback(writer, fobj, offset, count)


class FilePage:
    """Serves the files of a directory."""

    def __init__(self, files: LocalFiles) -> None:
        self._files = files

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """The file; aiohttp answers conditions (ETag) and ranges.

        Raises:
            PermissionDenied: the signature is not valid, or has expired; whether there is such a file is not told.
            NotFound: the file is gone.
        """
        name, asked = request.match_info["id"], request.query
        if not self._files.signer.is_valid(name, asked.get("expires", ""), asked.get("signature", "")):
            raise PermissionDenied("this URL is not valid, or not any more; ask for a new one", code="invalid_url")
        file = await self._files.about(name)
        if file is None:
            raise NotFound("this file has expired, or was deleted", code="file_gone")
        headers = {
            "Content-Type": file.media_type,
            "Content-Disposition": disposition(name, file.media_type),
            "Cache-Control": f"private, max-age={max(0, int(asked['expires']) - int(time.time()))}",
            "Content-Security-Policy": "default-src 'none'; sandbox",
            "X-Content-Type-Options": "nosniff",
        }
        return _InPieces(self._files.content_of(name), headers=headers)
