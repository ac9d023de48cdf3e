"""Images, documents and sounds on their way to Gemini."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest

from gatehook import Attempt, Fetched, InvalidRequest, Retry
from gatehook.testing import Recorded, Replay, ReplayEgress, attempt
from gatehook_plugins.vendor_gemini.vendor import Gemini

ANSWER = json.dumps({"candidates": [{"content": {"parts": [{"text": "hi"}]}, "finishReason": "STOP"}]}).encode()
PNG = b"\x89PNG\r\n\x1a\n0000"
PDF = b"%PDF-1.7"


def b64(body: bytes) -> str:
    return base64.b64encode(body).decode()


def inline(mime: str, body: bytes) -> dict[str, Any]:
    return {"inlineData": {"mimeType": mime, "data": b64(body)}}


def image(url: str, **detail: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **detail}}


def png(**detail: str) -> dict[str, Any]:
    return image("data:image/png;base64," + b64(PNG), **detail)


def file(**fields: str) -> dict[str, Any]:
    return {"type": "file", "file": fields}


async def send(
    *parts: dict[str, Any], fetched: Mapping[str, bytes] | None = None, model: str = "gemini-2.5-flash"
) -> tuple[dict[str, Any], Attempt]:
    pages = {url: Fetched(body, "text/lies") for url, body in (fetched or {}).items()}
    egress = ReplayEgress(Replay(ANSWER), fetched=pages)
    one = attempt({"messages": [{"role": "user", "content": list(parts)}]}, model=model)
    await Gemini(egress).complete(one)
    (request,) = egress.requests
    return _json(request), one


def _json(request: Recorded) -> dict[str, Any]:
    written: dict[str, Any] = request.json
    return written


async def parts_of(*parts: dict[str, Any], **rest: Any) -> list[dict[str, Any]]:
    written, _ = await send(*parts, **rest)
    found: list[dict[str, Any]] = written["contents"][0]["parts"]
    return found


async def test_a_data_uri_is_sent_inline_under_its_true_type() -> None:
    assert await parts_of(image("data:image/jpeg;base64," + b64(PNG))) == [inline("image/png", PNG)]


async def test_an_image_url_is_fetched_and_its_type_sniffed() -> None:
    url = "https://pictures.example/a.jpg?size=9"
    assert await parts_of(image(url), image(url), fetched={url: PNG}) == [inline("image/png", PNG)] * 2


async def test_a_pdf_behind_an_image_url_is_a_document() -> None:
    assert await parts_of(image("https://a.example/x"), fetched={"https://a.example/x": PDF}) == [
        inline("application/pdf", PDF)
    ]


async def test_several_urls_keep_their_places() -> None:
    pages = {f"https://a.example/{n}": PNG + bytes([n]) for n in range(4)}
    parts = await parts_of(*(image(url) for url in pages), fetched=pages)
    assert parts == [inline("image/png", body) for body in pages.values()]


@pytest.mark.parametrize("body", [b"<html>", b"", b"OggS...."])
async def test_what_is_no_image_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await send(image("https://a.example/x.png"), fetched={"https://a.example/x.png": body})
    assert caught.value.param == "messages[0].content[0].image_url.url"


async def test_what_a_file_s_url_gives_is_refused_by_the_name_that_the_client_wrote() -> None:
    url = "https://x.example/a"
    with pytest.raises(InvalidRequest) as caught:
        await parts_of({"type": "file", "file": {"file_url": url}}, fetched={url: b"<html>"})
    assert caught.value.param == "messages[0].content[0].file.file_url"


async def test_a_url_that_cannot_be_fetched_fails_the_request() -> None:
    class Guarded(ReplayEgress):
        async def fetch(self, url: str, *, param: str) -> Fetched:
            raise InvalidRequest(f"{param}: the URL is not on a public address", param=param)

    one = attempt({"messages": [{"role": "user", "content": [image("http://127.0.0.1/x"), image("http://10.0.0.1/")]}]})
    egress = Guarded(Replay(ANSWER))
    with pytest.raises(InvalidRequest, match="not on a public address"):
        await Gemini(egress).complete(one)
    assert egress.requests == []


async def test_too_many_urls_are_refused_before_any_is_fetched() -> None:
    with pytest.raises(InvalidRequest, match="more than 32"):
        await send(*(image(f"https://a.example/{n}") for n in range(33)))


async def test_an_image_type_that_gemini_does_not_take_is_left_to_another() -> None:
    with pytest.raises(InvalidRequest, match="image/gif") as caught:
        await send(image("data:image/gif;base64," + b64(b"GIF89a....")))
    assert (caught.value.retry, caught.value.param) == (Retry.NEXT, "messages[0].content[0].image_url")


@pytest.mark.parametrize(
    ("model", "details", "config", "levels", "dropped"),
    [
        ("gemini-2.5-flash", ["low", "low"], "MEDIA_RESOLUTION_LOW", [None, None], []),
        ("gemini-3-flash-preview", ["high"], "MEDIA_RESOLUTION_HIGH", [None], []),
        ("gemini-2.5-flash", ["auto"], None, [None], []),
        ("gemini-3-flash-preview", ["low", "high"], None, ["MEDIA_RESOLUTION_LOW", "MEDIA_RESOLUTION_HIGH"], []),
        ("gemini-3-flash-preview", ["auto", "high"], None, [None, "MEDIA_RESOLUTION_HIGH"], []),
        ("gemini-2.5-flash", ["auto", "high"], None, [None, None], ["messages[0].content[1].image_url.detail"]),
        ("gemini-3-flash-preview", ["original"], None, [None], ["messages[0].content[0].image_url.detail"]),
    ],
)
async def test_detail_becomes_a_resolution_where_there_is_one(
    model: str, details: list[str], config: str | None, levels: list[str | None], dropped: list[str]
) -> None:
    written, one = await send(*(png(detail=detail) for detail in details), model=model)
    assert written.get("generationConfig", {}).get("mediaResolution") == config
    parts = written["contents"][0]["parts"]
    assert [part.get("mediaResolution", {}).get("level") for part in parts] == levels
    assert one.dropped == dropped


@pytest.mark.parametrize(
    ("part", "written"),
    [
        (file(file_data="data:application/pdf;base64," + b64(PDF)), inline("application/pdf", PDF)),
        (file(file_data=b64(PDF)), inline("application/pdf", PDF)),
        (file(file_data="data:text/csv;base64," + b64(b"a,b")), inline("text/csv", b"a,b")),
        ({"type": "input_audio", "input_audio": {"format": "mp3", "data": b64(b"????")}}, inline("audio/mp3", b"????")),
        ({"type": "input_audio", "input_audio": {"format": "wav", "data": b64(b"????")}}, inline("audio/wav", b"????")),
        (
            file(file_id="files/abc-1"),
            {"fileData": {"fileUri": "https://generativelanguage.googleapis.com/v1beta/files/abc-1"}},
        ),
        (
            file(file_id="https://generativelanguage.googleapis.com/v1beta/files/abc"),
            {"fileData": {"fileUri": "https://generativelanguage.googleapis.com/v1beta/files/abc"}},
        ),
        (
            image("https://generativelanguage.googleapis.com/v1beta/files/abc"),
            {"fileData": {"fileUri": "https://generativelanguage.googleapis.com/v1beta/files/abc"}},
        ),
        (
            file(file_id="https://www.youtube.com/watch?v=abc"),
            {"fileData": {"fileUri": "https://www.youtube.com/watch?v=abc"}},
        ),
        (file(file_id="https://youtu.be/abc"), {"fileData": {"fileUri": "https://youtu.be/abc"}}),
        (
            image("https://m.youtube.com/watch?v=abc"),
            {"fileData": {"fileUri": "https://m.youtube.com/watch?v=abc"}},
        ),
        (file(file_id="gs://b/x.pdf"), {"fileData": {"fileUri": "gs://b/x.pdf", "mimeType": "application/pdf"}}),
        (image("gs://b/x.PNG"), {"fileData": {"fileUri": "gs://b/x.PNG", "mimeType": "image/png"}}),
        (
            {"type": "image_url", "image_url": "gs://b/x.webp"},
            {"fileData": {"fileUri": "gs://b/x.webp", "mimeType": "image/webp"}},
        ),
    ],
)
async def test_files_and_sounds(part: dict[str, Any], written: dict[str, Any]) -> None:
    assert await parts_of({"type": "text", "text": "see"}, part) == [{"text": "see"}, written]


async def test_a_file_id_of_another_vendor_is_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        await send(file(file_id="file-123"))
    assert (caught.value.retry, caught.value.param) == (Retry.NEXT, "messages[0].content[0].file.file_id")


async def test_a_file_name_is_dropped_with_a_signal() -> None:
    _, one = await send(file(file_data=b64(PDF), filename="a.pdf"))
    assert one.dropped == ["messages[0].content[0].file.filename"]


@pytest.mark.parametrize("model", ["gemini-2.5-flash", "gemini-3-flash-preview"])
async def test_an_image_in_a_tool_result_is_kept(model: str) -> None:
    function = {"name": "look", "arguments": "{}"}
    messages = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "tool_calls": [{"id": name, "type": "function", "function": function} for name in "ab"]},
        {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "seen"}, png()]},
        {"role": "tool", "tool_call_id": "b", "content": "B"},
        {"role": "user", "content": "well?"},
    ]
    egress = ReplayEgress(Replay(ANSWER))
    await Gemini(egress).complete(attempt({"messages": messages}, model=model))
    first: dict[str, Any] = {"name": "look", "response": {"result": "seen"}}
    second = {"functionResponse": {"name": "look", "response": {"result": "B"}}}
    picture = inline("image/png", PNG)
    words = {"text": "well?"}
    third = "gemini-3" in model
    if third:
        first["parts"] = [picture]
    expected = [{"functionResponse": first}, second, *([] if third else [picture]), words]
    assert egress.requests[0].json["contents"][2]["parts"] == expected


def shown(url: str, signature: str = "", **more: Any) -> dict[str, Any]:
    extra = {"extra_content": {"google": {"thought_signature": signature}}} if signature else {}
    return {"type": "image_url", "image_url": {"url": url}, **extra, **more}


async def history(**said: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """What Gemini is told of an earlier answer, and what is lost of it."""
    user = {"role": "user", "content": "Draw it again"}
    egress = ReplayEgress(Replay(ANSWER))
    one = attempt({"messages": [user, {"role": "assistant", **said}, user]}, model="gemini-3-pro-image-preview")
    await Gemini(egress).complete(one)
    return egress.requests[0].json["contents"][1]["parts"], one.dropped


async def test_pictures_of_earlier_answers_go_back_each_with_its_own_signature() -> None:
    uri = "data:image/png;base64," + b64(PNG)
    images = [shown(uri, "one", index=0), shown(uri)]
    signed = {"google": {"thought_signature": "text"}}
    parts, dropped = await history(content="A cat:", images=images, extra_content=signed)
    one, other = {**inline("image/png", PNG), "thoughtSignature": "one"}, inline("image/png", PNG)
    assert (parts, dropped) == ([{"text": "A cat:", "thoughtSignature": "text"}, one, other], [])
    assert await history(content="", images=images) == ([one, other], [])


@pytest.mark.parametrize(
    "images", [[shown("https://a.example/x.png")], [{"type": "image_url"}], ["x"], 5, [{"type": "text", "text": "x"}]]
)
async def test_pictures_that_the_message_does_not_hold_are_told_as_dropped(images: Any) -> None:
    assert await history(content="A cat:", images=images) == ([{"text": "A cat:"}], ["messages[1].images"])
