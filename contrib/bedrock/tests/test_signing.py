"""Requests as AWS would check them, on a real socket, and where the credentials come from."""

import asyncio
import datetime as dt
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials, RefreshableCredentials
from pydantic import SecretStr

from gatehook import GatewayError
from gatehook.testing import Recorded, Replay, ReplayEgress, Reply, StubUpstream, attempt, serving
from gatehook_bedrock import BedrockPlugin
from gatehook_bedrock.signing import Signer
from gatehook_bedrock.vendor import Bedrock

ANSWER = {
    "output": {"message": {"role": "assistant", "content": [{"text": "Hello"}]}},
    "stopReason": "end_turn",
    "usage": {"inputTokens": 3, "outputTokens": 2, "totalTokens": 5},
}
HI = [{"role": "user", "content": "hi"}]
SETTINGS = """
[plugins.openai_api]
[plugins.route_models]
[plugins.bedrock]
[[models]]
name = "m"
vendor = "bedrock"
model = "eu.anthropic.claude-sonnet-4-5-20250929-v1:0"
base_url = "{url}"
"""


def signature(request: Recorded, url: str, region: str, key: Credentials) -> str:
    """What AWS would compute for a request that it has received."""
    known = re.search(r"SignedHeaders=([^,]+)", request.headers["authorization"])
    assert known is not None
    headers = {name: request.headers[name] for name in known[1].split(";") if name != "x-amz-security-token"}
    again = AWSRequest(request.method, url + request.path, headers, request.body)
    signer = SigV4Auth(key, "bedrock", region)
    at = dt.datetime.strptime(request.headers["x-amz-date"], "%Y%m%dT%H%M%S%z")
    again.context["timestamp"] = at.strftime("%Y%m%dT%H%M%SZ")
    if key.token:
        again.headers["X-Amz-Security-Token"] = key.token
    computed: str = signer.signature(signer.string_to_sign(again, signer.canonical_request(again)), again)
    return computed


@pytest.mark.parametrize("token", ["", "session-token"])
async def test_what_arrives_is_what_was_signed(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    if token:
        monkeypatch.setenv("AWS_SESSION_TOKEN", token)
    async with StubUpstream(Reply.of_json(ANSWER)) as stub:
        async with (
            serving(SETTINGS.format(url=stub.url), plugins={"bedrock": BedrockPlugin}) as served,
            ClientSession() as session,
            session.post(f"{served.url}/v1/chat/completions", json={"model": "m", "messages": HI}) as answer,
        ):
            data = await answer.json()
        assert data["choices"][0]["message"]["content"] == "Hello"
        (request,) = stub.requests
        assert request.path == "/model/eu.anthropic.claude-sonnet-4-5-20250929-v1%3A0/converse"
        assert "AKIDEXAMPLE/" in request.headers["authorization"]
        assert "/eu-central-1/bedrock/aws4_request" in request.headers["authorization"]
        assert request.headers.get("x-amz-security-token", "") == token
        key = Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", token or None)
        expected = signature(request, stub.url, "eu-central-1", key)
        assert request.headers["authorization"].endswith(f"Signature={expected}")


async def sent(signer: Signer, **fields: Any) -> Mapping[str, str]:
    egress = ReplayEgress(Replay(b'{"output":{"message":{"content":[{"text":"a"}]}},"stopReason":"end_turn"}'))
    await Bedrock(egress, signer).complete(attempt({"messages": HI}, **fields))
    return egress.requests[0].headers


@pytest.mark.parametrize(
    ("region", "host"),
    [
        ("us-gov-west-1", "bedrock-runtime.us-gov-west-1.amazonaws.com"),
        ("eusc-de-east-1", "bedrock-runtime.eusc-de-east-1.amazonaws.eu"),
        ("us-isob-east-1", "bedrock-runtime.us-isob-east-1.sc2s.sgov.gov"),
    ],
)
async def test_a_region_has_the_address_of_its_part_of_aws(region: str, host: str) -> None:
    egress = ReplayEgress(Replay(b'{"output":{"message":{"content":[{"text":"a"}]}},"stopReason":"end_turn"}'))
    await Bedrock(egress, Signer()).complete(attempt({"messages": HI}, options={"region": region}))
    (request,) = egress.requests
    assert host in str(request.path)
    assert f"/{region}/bedrock/" in request.headers["Authorization"]


async def test_a_bedrock_api_key_is_sent_as_it_is() -> None:
    headers = await sent(Signer(), api_key=SecretStr("k" * 20), options={"region": "us-east-1"})
    assert headers["Authorization"] == "Bearer " + "k" * 20


async def test_a_profile_has_credentials_and_a_region_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    (tmp_path / "config").write_text(
        "[profile p]\nregion = ap-south-1\naws_access_key_id = OTHER\naws_secret_access_key = s\n"
    )
    headers = await sent(Signer(), options={"profile": "p"})
    assert "Credential=OTHER/" in headers["Authorization"]
    assert "/ap-south-1/bedrock/" in headers["Authorization"]


async def test_without_credentials_or_region_the_message_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    signer = Signer()
    with pytest.raises(GatewayError, match="nobody") as caught:
        await sent(signer, options={"profile": "nobody", "region": "us-east-1"})
    assert caught.value.code == "upstream_credential_rejected"
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(GatewayError, match="region"):
        await sent(Signer())
    secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    signer = Signer()
    with pytest.raises(GatewayError, match="credentials") as caught:
        await sent(signer, options={"region": "us-east-1"})
    assert secret not in caught.value.message
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "LATER")  # somebody logged in
    assert "LATER/" in (await sent(signer, options={"region": "us-east-1"}))["Authorization"]


async def test_credentials_that_expire_are_renewed_off_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, threads = asyncio.get_running_loop(), []

    def renewed() -> dict[str, str]:
        try:
            threads.append(asyncio.get_running_loop() is loop)
        except RuntimeError:
            threads.append(False)
        later = dt.datetime.now(dt.UTC) + dt.timedelta(hours=len(threads) * 2)
        return {"access_key": f"KEY{len(threads)}", "secret_key": "s", "token": "t", "expiry_time": later.isoformat()}

    old = {"access_key": "OLD", "secret_key": "s", "token": "t", "expiry_time": "2020-01-01T00:00:00+00:00"}
    credentials = RefreshableCredentials.create_from_metadata(old, renewed, "test")
    monkeypatch.setattr("gatehook_bedrock.signing._chain", lambda profile: (credentials, "us-east-1"))
    signer = Signer()
    for _ in range(2):
        assert "Credential=KEY1/" in (await sent(signer))["Authorization"]
    assert threads == [False]


@pytest.mark.parametrize(
    ("kind", "later"),
    [
        ("ExpiredTokenException", "NEW"),
        ("UnrecognizedClientException:http://x/", "NEW"),
        ("ThrottlingException", "OLD"),
    ],
)
async def test_credentials_that_aws_refuses_are_looked_for_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, later: str
) -> None:
    """A program may write new ones to AWS's file before the old ones expire, which botocore does not notice."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)

    def write(key: str) -> None:
        text = f"[default]\naws_access_key_id = {key}\naws_secret_access_key = s\naws_session_token = t\n"
        (tmp_path / "credentials").write_text(text)

    signer = Signer()
    write("OLD")
    assert "Credential=OLD/" in (await sent(signer))["Authorization"]
    write("NEW")
    refusal = Replay(b'{"message":"no"}', status=403, headers={"x-amzn-ErrorType": kind})
    with pytest.raises(GatewayError):
        await Bedrock(ReplayEgress(refusal), signer).complete(attempt({"messages": HI}))
    assert f"Credential={later}/" in (await sent(signer))["Authorization"]


async def test_a_large_body_is_signed_as_well() -> None:
    text = "x" * (2 << 20)
    egress = ReplayEgress(Replay(b'{"output":{"message":{"content":[{"text":"a"}]}},"stopReason":"end_turn"}'))
    await Bedrock(egress, Signer()).complete(attempt({"messages": [{"role": "user", "content": text}]}))
    assert "Signature=" in egress.requests[0].headers["Authorization"]


async def test_the_chain_is_asked_once_however_many_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def chain(profile: str) -> tuple[Credentials, str]:
        asked.append(profile)
        return Credentials("A", "b"), "us-east-1"

    monkeypatch.setattr("gatehook_bedrock.signing._chain", chain)
    signer = Signer()
    await asyncio.gather(*(sent(signer) for _ in range(5)))
    assert asked == [""]


@pytest.mark.parametrize("kind", ["InvalidSignatureException", "IncompleteSignature", "SignatureDoesNotMatch"])
async def test_what_aws_says_of_a_signature_is_not_repeated_for_it_quotes_the_session_s_token(kind: str) -> None:
    words = "The Canonical String should have been 'POST ... x-amz-security-token:session-token-7f3a'"
    refusal = Reply.of_json({"message": words}, status=403, headers={"x-amzn-ErrorType": kind})
    async with (
        StubUpstream(refusal) as stub,
        serving(SETTINGS.format(url=stub.url), plugins={"bedrock": BedrockPlugin}) as served,
        ClientSession() as session,
        session.post(f"{served.url}/v1/chat/completions", json={"model": "m", "messages": HI}) as answer,
    ):
        told = (await answer.json())["error"]
    assert (answer.status, told["code"]) == (502, "upstream_credential_rejected")
    assert "signature is not accepted" in told["message"]
    assert "session-token" not in told["message"]
