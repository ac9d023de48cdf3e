"""Inline images, documents and sounds: what is believed, and what is refused with the field's name."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehook.dialect import media
from gatehook.dialect.media import Blob, data_uri, from_base64, sniff
from gatehook.errors import InvalidRequest, Retry

HEADS = {
    "image/jpeg": b"\xff\xd8\xff\xe0\0\x10JFIF",
    "image/png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "image/gif": b"GIF89a\1\0",
    "image/webp": b"RIFF\x24\0\0\0WEBPVP8 ",
    "image/heic": b"\0\0\0\x18ftypheic\0\0",
    "application/pdf": b"%PDF-1.7\n",
    "audio/mpeg": b"ID3\4\0",
    "audio/ogg": b"OggS\0\2",
    "audio/flac": b"fLaC\0",
    "audio/wav": b"RIFF\x24\0\0\0WAVEfmt ",
}
PNG = base64.b64encode(HEADS["image/png"]).decode()
WORDS = base64.b64encode(b"just some words").decode()


@pytest.mark.parametrize(("mime", "head"), HEADS.items(), ids=lambda value: value if isinstance(value, str) else "")
def test_bytes_tell_their_type(mime: str, head: bytes) -> None:
    assert sniff(head) == mime
    assert sniff(head + bytes(1000)) == mime


@pytest.mark.parametrize(
    "head",
    [b"", b"\xff\xd8", b"\x89PNG", b"GIF88a", b"RIFF", b"RIFF\0\0\0\0AVI ", b" %PDF-", b"<svg", b"\0\0\0\x18ftypmp42"],
)
def test_bytes_that_show_no_type_show_none(head: bytes) -> None:
    assert sniff(head) == ""


@given(st.binary(max_size=20))
def test_sniffing_never_fails(head: bytes) -> None:
    assert sniff(head) in {"", *HEADS}


@given(st.binary(min_size=1, max_size=60))
def test_a_data_uri_carries_its_base64_through_unchanged(body: bytes) -> None:
    text = base64.b64encode(body).decode()
    blob = data_uri(f"data:image/png;base64,{text}", param="p")
    assert blob == Blob(sniff(body) or "image/png", text)


@pytest.mark.parametrize("declared", ["image/jpeg", "text/html", "", "application/octet-stream", "image/jpg"])
def test_what_the_bytes_show_wins_over_what_is_declared(declared: str) -> None:
    assert data_uri(f"data:{declared};base64,{PNG}", param="p").mime == "image/png"
    assert from_base64(PNG, declared, param="p").mime == "image/png"


@pytest.mark.parametrize(
    ("head", "mime"),
    [
        ("data:text/plain;base64,", "text/plain"),
        ("data:TEXT/Plain;BASE64,", "text/plain"),
        ("DATA:text/plain;base64,", "text/plain"),
        ("data:text/plain;charset=utf-8;base64,", "text/plain"),
        ('data:text/plain;charset="utf-8";name=a.txt;base64,', "text/plain"),
        ("data:application/vnd.ms-excel;base64,", "application/vnd.ms-excel"),
        ("data:image/svg+xml;base64,", "image/svg+xml"),
        ("data:image/jpg;base64,", "image/jpeg"),
    ],
)
def test_the_declared_type_counts_where_the_bytes_show_none(head: str, mime: str) -> None:
    assert data_uri(head + WORDS, param="p") == Blob(mime, WORDS)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "data:",
        "data:,",
        "data:image/png",
        f"data:image/png,{PNG}",  # not said to be base64
        f"data:image/png;base64{PNG}",
        f"data:image/png;base64;{PNG}",
        f"data:image;base64,{PNG}",
        f"image/png;base64,{PNG}",
        f" data:image/png;base64,{PNG}",
        f"data:image/png;base64;charset=utf-8,{PNG}",
        "https://example.com/a.png",
    ],
)
def test_what_is_no_base64_data_uri_is_refused_with_the_fields_name(uri: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^messages\[0\]\.url: expected a data URI") as refusal:
        data_uri(uri, param="messages[0].url")
    assert (refusal.value.param, refusal.value.status) == ("messages[0].url", 400)


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "ab",
        "abc",
        "ab=c",
        "====",
        PNG[:-3],
        PNG + "=",
        PNG + "\n",
        f" {PNG}",
        f"{PNG[:8]}\n{PNG[8:]}",
        "-_-_",
        "ä" * 4,
        "\ud83d" * 4,
        "%2B%2B",
        "QUJD!",
        "QQ==QQ==",
    ],
)
def test_bad_base64_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^f: the data is not valid base64$") as refusal:
        from_base64(text, "image/png", param="f")
    assert refusal.value.param == "f"


@pytest.mark.parametrize("uri", ["data:image/png;base64,", "data:;base64,"])
def test_no_data_at_all_is_refused(uri: str) -> None:
    with pytest.raises(InvalidRequest, match="the data is empty"):
        data_uri(uri, param="p")


@pytest.mark.parametrize("uri", [f"data:;base64,{WORDS}", f"data:;charset=utf-8;base64,{WORDS}"])
def test_data_of_no_known_type_is_refused(uri: str) -> None:
    with pytest.raises(InvalidRequest, match="neither declared nor recognisable"):
        data_uri(uri, param="p")
    with pytest.raises(InvalidRequest, match="neither declared nor recognisable"):
        from_base64(WORDS, param="p")


def test_data_over_the_cap_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "MAX_BYTES", 3 << 20)
    just = base64.b64encode(bytes(3 << 20)).decode()
    assert from_base64(just, "image/png", param="p").base64 is just
    with pytest.raises(InvalidRequest, match=r"^p: larger than 3 MB$") as refusal:
        from_base64(just + "!!!!", "image/png", param="p")  # the size is told, not what else is wrong
    assert refusal.value.retry is Retry.NEXT  # an OpenAI-compatible deployment gets it untranslated and may take it


def test_a_hostile_header_is_read_in_linear_time() -> None:
    for uri in ("data:" + "a" * 3_000_000, "data:a/b" + ";a=b" * 1_000_000, "data:a/b;a=" + "b" * 3_000_000):
        with pytest.raises(InvalidRequest, match="expected a data URI"):
            data_uri(uri, param="p")
