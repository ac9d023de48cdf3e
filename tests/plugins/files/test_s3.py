"""Files in a bucket: what only S3 does."""

from typing import Any

import pytest
from aiohttp import ClientSession

from gatehook import FILES, StartupError, Unavailable
from gatehook.testing import serving

SETTINGS = """
[plugins.files]
backend = "s3"
bucket = "{bucket}"
endpoint = "{endpoint}"
region = "us-east-1"
access_key = "a"
secret_key = "b"
"""


async def test_the_storage_itself_serves_the_url(make_s3_files: Any) -> None:
    files = make_s3_files()
    await files.open()
    file = await files.put(b"picture", media_type="image/png", owner="u")
    url = files.url(file.id)
    assert "X-Amz-Signature=" in url
    async with ClientSession() as session, session.get(url) as answer:
        assert answer.status == 200
        assert await answer.read() == b"picture"
        assert answer.headers["Content-Type"] == "image/png"
        assert answer.headers["Content-Disposition"] == f'inline; filename="{file.id}.png"'


async def test_a_bucket_that_is_not_there_stops_the_start(s3_server: str, s3_bucket: str) -> None:
    settings = SETTINGS.format(bucket=f"nosuch-{s3_bucket}", endpoint=s3_server)
    with pytest.raises(StartupError, match="NoSuchBucket"):
        async with serving(settings):
            pass


async def test_a_storage_that_is_away_is_told_without_its_words(make_s3_files: Any) -> None:
    files = make_s3_files(endpoint="http://127.0.0.1:9")
    with pytest.raises(Unavailable, match=r"^the file store is away$"):
        await files.open()


async def test_the_plugin_keeps_files_in_the_bucket(s3_server: str, s3_bucket: str) -> None:
    settings = SETTINGS.format(bucket=s3_bucket, endpoint=s3_server)
    async with serving(settings) as served, ClientSession() as session:
        files = served.gateway.services[FILES]
        file = await files.put(b"x", media_type="text/plain", owner="u")
        assert await files.about(file.id) == file
        async with session.get(f"{served.url}/files/{file.id}") as answer:
            assert answer.status == 404, "the storage serves them, not the gateway"
