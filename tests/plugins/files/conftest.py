"""A store of each kind: one in a directory, one in a bucket of a real server on this machine."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gatehook_plugins.files.local import LocalFiles


def local_files(folder: Path, **changed: Any) -> LocalFiles:
    options = {
        "secret": "",
        "base_url": "https://gate.example",
        "keep": 3600,
        "url_lifetime": 600,
        "max_bytes": 1 << 20,
    }
    return LocalFiles(folder, **{**options, **changed})


@pytest.fixture
def make_files() -> Any:
    """Makes a store in a directory, not open yet."""
    return local_files


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of a server that speaks S3."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@pytest.fixture
def s3_client(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of the server; no credentials are in the environment."""
    import boto3

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    client = boto3.session.Session().client(
        "s3", endpoint_url=s3_server, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    yield client
    client.close()


@pytest.fixture
def s3_bucket(s3_client: Any) -> str:
    """The name of a new bucket."""
    name = f"b{secrets.token_hex(6)}"
    s3_client.create_bucket(Bucket=name)
    return name


@pytest.fixture
def make_s3_files(s3_server: str, s3_bucket: str) -> Any:
    """Makes a store in the bucket, not open yet."""
    from gatehook_plugins.files.s3 import S3Files

    def make(**changed: Any) -> S3Files:
        options = {
            "prefix": "made/",
            "endpoint": s3_server,
            "region": "us-east-1",
            "access_key": "a",
            "secret_key": "b",
            "keep": 3600,
            "url_lifetime": 600,
        }
        return S3Files(s3_bucket, **{**options, **changed})

    return make


@pytest.fixture(params=["local", "s3"])
async def files(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """An open store of each kind."""
    store = local_files(tmp_path) if request.param == "local" else request.getfixturevalue("make_s3_files")()
    await store.open()
    return store
