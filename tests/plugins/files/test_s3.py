"""Files in a bucket: what only S3 does."""

import asyncio
import time
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


async def test_a_sweep_goes_past_what_is_not_the_stores_own_and_what_the_storage_keeps(
    make_s3_files: Any, s3_client: Any, s3_bucket: str, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "3")
    files = make_s3_files(prefix="")
    await files.open()
    for number in range(4):
        s3_client.put_object(Bucket=s3_bucket, Key=f"00-of-somebody-else-{number}", Body=b"x")
    expired = [(await files.put(b"x", media_type="text/plain", owner="u", keep=10)).id for _ in range(8)]
    ever = await files.put(b"x", media_type="text/plain", owner="u", keep=0)
    held, delete = sorted(expired)[:3], files._client.delete_objects

    def deleting(Bucket: str, Delete: Any) -> Any:  # noqa: N803  # as the library has it
        """As a storage with a hold on some of the objects."""
        let_go = [one for one in Delete["Objects"] if one["Key"] not in held]
        told = delete(Bucket=Bucket, Delete={**Delete, "Objects": let_go}) if let_go else {}
        kept = [{"Key": one["Key"], "Code": "AccessDenied"} for one in Delete["Objects"] if one["Key"] in held]
        return {**told, "Errors": kept}

    monkeypatch.setattr(files._client, "delete_objects", deleting)
    later = time.time() + 60
    monkeypatch.setattr("gatehook_plugins.files.s3.time.time", lambda: later)
    async with asyncio.timeout(20):
        await files.sweep()
    monkeypatch.delenv("MOTO_S3_DEFAULT_MAX_KEYS")
    left = {one["Key"] for one in s3_client.list_objects_v2(Bucket=s3_bucket)["Contents"]}
    assert left == {*(f"00-of-somebody-else-{number}" for number in range(4)), *held, ever.id}
    assert "3 expired files cannot be deleted from the bucket" in caplog.text


async def test_the_plugin_keeps_files_in_the_bucket(s3_server: str, s3_bucket: str) -> None:
    settings = SETTINGS.format(bucket=s3_bucket, endpoint=s3_server)
    async with serving(settings) as served, ClientSession() as session:
        files = served.gateway.services[FILES]
        file = await files.put(b"x", media_type="text/plain", owner="u")
        assert await files.about(file.id) == file
        async with session.get(f"{served.url}/files/{file.id}") as answer:
            assert answer.status == 404, "the storage serves them, not the gateway"
