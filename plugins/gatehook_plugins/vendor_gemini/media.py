"""Images, documents and sounds as Gemini's parts: inlineData for bytes, fileData for what Google already has."""

import asyncio
import base64
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from gatehook import Blob, Conversation, Egress, InvalidRequest, Media, Retry, Target, ToolResult, sniff
from gatehook_plugins.vendor_gemini.endpoint import files_uri

__all__ = ["MediaWriter", "all_media", "fetch_images"]

_MOST_URLS: Final = 32
"""Images fetched for one request: enough for any real one, too few to make the gateway a nuisance to others."""

_IMAGES: Final = frozenset({"image/png", "image/jpeg", "image/webp", "image/heic", "image/heif"})
_RENAMED: Final = {"audio/mpeg": "audio/mp3"}
"""Google's own name for it."""

_SUFFIXES: Final = {
    "pdf": "application/pdf", "json": "application/json", "txt": "text/plain", "md": "text/markdown", "csv": "text/csv",
    "html": "text/html", "png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg", "webp": "image/webp",
    "heic": "image/heic", "heif": "image/heif", "mp3": "audio/mp3", "wav": "audio/wav", "flac": "audio/flac",
    "ogg": "audio/ogg", "mp4": "video/mp4", "mov": "video/quicktime", "webm": "video/webm",
}  # fmt: skip

_GOOGLE_FILE = re.compile(
    r"gs://|https://(?:generativelanguage\.googleapis\.com/v\d\w*/files/|(?:www\.|m\.)?youtube\.com/|youtu\.be/)"
)
"""What Google fetches itself: Cloud Storage, its Files API, and films on YouTube."""
_RESOLUTIONS: Final = {"low": "MEDIA_RESOLUTION_LOW", "high": "MEDIA_RESOLUTION_HIGH"}


def all_media(conversation: Conversation) -> Iterator[Media]:
    """Every medium of a conversation, also inside tool results."""
    for turn in conversation.turns:
        for part in turn.parts:
            if isinstance(part, Media):
                yield part
            elif isinstance(part, ToolResult):
                yield from (one for one in part.parts if isinstance(one, Media))


async def fetch_images(conversation: Conversation, egress: Egress) -> Mapping[str, Blob]:
    """Get the images that clients gave by URL, all at once: Gemini fetches nothing from the web itself.

    Raises:
        InvalidRequest: one cannot be fetched, or is no image; or there are too many.
    """
    wanted = {one.url: one.url_path for one in all_media(conversation) if one.url and not _GOOGLE_FILE.match(one.url)}
    if not wanted:
        return {}
    if len(wanted) > _MOST_URLS:
        raise InvalidRequest(f"messages: more than {_MOST_URLS} images by URL", param="messages", retry=Retry.NEXT)
    found = await asyncio.gather(*(_fetch(egress, url, param) for url, param in wanted.items()), return_exceptions=True)
    images: dict[str, Blob] = {}
    for url, result in zip(wanted, found, strict=True):
        if isinstance(result, BaseException):
            raise result
        images[url] = result
    return images


async def _fetch(egress: Egress, url: str, param: str) -> Blob:
    fetched = await egress.fetch(url, param=param)
    mime = sniff(fetched.body[:16])
    if not mime.startswith("image/") and mime != "application/pdf":
        raise InvalidRequest(f"{param}: what the URL gives is no image", param=param)
    return Blob(mime, base64.b64encode(fetched.body).decode("ascii"))


class MediaWriter:
    """Writes the media of one request.

    Google has a resolution for the whole request, and since Gemini 3 one for each part: when all images ask for the
    same, the first says it and every model understands.
    """

    def __init__(
        self,
        target: Target,
        conversation: Conversation,
        images: Mapping[str, Blob],
        drop: Callable[[str], None],
        *,
        per_part: bool,
    ) -> None:
        self._target = target
        self._images = images
        self._drop = drop
        self._per_part = per_part
        seen = {one.detail for one in all_media(conversation) if one.kind != "audio"}
        self.resolution = _RESOLUTIONS.get(seen.pop(), "") if len(seen) == 1 else ""
        """generationConfig.mediaResolution, "" if there is none to set."""

    def part(self, media: Media) -> dict[str, Any]:
        """One medium as a part.

        Raises:
            InvalidRequest: of a type Gemini does not take, or a file of another vendor.
        """
        if media.filename:
            self._drop(f"{media.path}.filename")
        part = self._file(media) if media.file_id or _GOOGLE_FILE.match(media.url) else self._inline(media)
        if media.detail:
            self._detail(media, part)
        return part

    def _detail(self, media: Media, part: dict[str, Any]) -> None:
        level = _RESOLUTIONS.get(media.detail)
        if level is not None and level == self.resolution:
            return
        if level is not None and self._per_part:
            part["mediaResolution"] = {"level": level}
        else:
            self._drop(f"{media.path}.detail")

    def _inline(self, media: Media) -> dict[str, Any]:
        blob = media.blob or self._images[media.url]
        if media.kind == "image" and blob.mime not in _IMAGES and blob.mime != "application/pdf":
            raise InvalidRequest(
                f"{media.path}: Gemini does not take {blob.mime} images", param=media.path, retry=Retry.NEXT
            )
        return {"inlineData": {"mimeType": _RENAMED.get(blob.mime, blob.mime), "data": blob.base64}}

    def _file(self, media: Media) -> dict[str, Any]:
        uri = media.file_id or media.url
        if uri.startswith("files/"):
            uri = files_uri(self._target, uri)
        elif not _GOOGLE_FILE.match(uri):
            raise InvalidRequest(
                f"{media.path}.file_id: expected a file of Gemini's Files API ('files/…'), or a gs:// or YouTube URL",
                param=f"{media.path}.file_id",
                retry=Retry.NEXT,
            )
        data = {"fileUri": uri}
        # Google knows the type of its own files; for Cloud Storage the name is all there is to go by.
        mime = _SUFFIXES.get((media.filename or uri).rpartition(".")[2].lower())
        if mime:
            data["mimeType"] = mime
        return {"fileData": data}
