"""Parts of messages, and of what tools gave, as the parts of chats."""

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from gatehook import InvalidRequest

__all__ = ["InputPart", "OutputPart", "as_content"]


class InputText(Struct, tag="input_text"):
    """Words."""

    text: str


class InputImage(Struct, tag="input_image"):
    """An image, by http(s) or data URL."""

    image_url: str | None = None
    file_id: str | None = None
    detail: str | None = None


class InputFile(Struct, tag="input_file"):
    """A document, in base64 or by the id that a vendor gave it."""

    file_data: str | None = None
    file_id: str | None = None
    file_url: str | None = None
    filename: str | None = None


class Sound(Struct):
    """A sound in base64."""

    data: str
    format: str


class InputAudio(Struct, tag="input_audio"):
    """What somebody says."""

    input_audio: Sound


class OutputText(Struct, tag="output_text"):
    """Words of an earlier answer."""

    text: str


class Refusal(Struct, tag="refusal"):
    """What an earlier answer said in place of what was asked for."""

    refusal: str


InputPart = InputText | InputImage | InputFile | InputAudio | OutputText
"""What may be shown to a model. Some clients label what it said itself, when they quote it, as they got it."""
OutputPart = OutputText | Refusal | InputText


def as_content(parts: str | Sequence[InputPart], path: str) -> str | list[dict[str, Any]]:
    """The content of a chat's message: plain text where there is nothing else, as every server takes that.

    Args:
        parts: the content.
        path: where it stands in the request.

    Raises:
        InvalidRequest: a part that chats have no form for.
    """
    if isinstance(parts, str):
        return parts
    if len(parts) == 1 and isinstance(one := parts[0], InputText | OutputText):
        return one.text
    return [_as_part(part, f"{path}[{number}]") for number, part in enumerate(parts)]


def _as_part(part: InputPart, path: str) -> dict[str, Any]:
    match part:
        case InputText() | OutputText():
            return {"type": "text", "text": part.text}
        case InputImage():
            return _image(part, path)
        case InputFile():
            return _file(part, path)
        case InputAudio():
            sound = part.input_audio
            return {"type": "input_audio", "input_audio": {"data": sound.data, "format": sound.format}}


def _image(image: InputImage, path: str) -> dict[str, Any]:
    if not image.image_url:
        if image.file_id:
            why = "images cannot be sent by the id of a file; send image_url, an http, https or data URL"
            raise InvalidRequest(f"{path}.file_id: {why}", param=f"{path}.file_id")
        raise InvalidRequest(f"{path}.image_url: required, but missing", param=f"{path}.image_url")
    detail = {"detail": image.detail} if image.detail else {}
    return {"type": "image_url", "image_url": {"url": image.image_url, **detail}}


def _file(file: InputFile, path: str) -> dict[str, Any]:
    if file.file_url:
        why = "files cannot be sent by their URL; send file_data, a data URL of their content"
        raise InvalidRequest(f"{path}.file_url: {why}", param=f"{path}.file_url")
    if not (file.file_data or file.file_id):
        raise InvalidRequest(f"{path}: needs file_data or file_id", param=path)
    given = {"file_data": file.file_data, "file_id": file.file_id, "filename": file.filename}
    return {"type": "file", "file": {name: value for name, value in given.items() if value}}
