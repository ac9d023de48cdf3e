"""The vendor `bedrock`: Converse, ConverseStream and InvokeModel of Amazon Bedrock's runtime."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final
from urllib.parse import quote

from yarl import URL

from gatehook import (
    Attempt,
    Chunk,
    Completion,
    Egress,
    GatewayError,
    MalformedJSON,
    Misconfigured,
    Operation,
    Parameter,
    Target,
    Upstream,
    Vendor,
    decode,
    encode,
    option_faults,
    read_options,
)
from gatehook.legacy import as_chat, chunk_from_chat, from_chat
from gatehook_bedrock.answer import Translation, read
from gatehook_bedrock.embeddings import Batches
from gatehook_bedrock.events import Events
from gatehook_bedrock.failure import failure, garbled, is_stale
from gatehook_bedrock.options import Options
from gatehook_bedrock.parameters import PARAMETERS
from gatehook_bedrock.request import converse_body
from gatehook_bedrock.signing import Signer

__all__ = ["Bedrock"]

_JSON = {"Content-Type": "application/json"}
_FORMALITIES_SECONDS = 5.0
_DOMAINS: Final = {
    "eusc-": "amazonaws.eu", "us-iso-": "c2s.ic.gov", "us-isob-": "sc2s.sgov.gov", "us-isof-": "csp.hci.ic.gov",
}  # fmt: skip
"""Where regions are that AWS keeps apart from the others, by how their names begin."""


class Bedrock:
    """Translates OpenAI's chats, text completions and embeddings to Bedrock's and back."""

    name: ClassVar[str] = "bedrock"
    operations: ClassVar[frozenset[Operation]] = frozenset({"chat", "completions", "embeddings"})
    parameters: ClassVar[Mapping[Operation, Mapping[str, Parameter]]] = PARAMETERS

    def __init__(self, egress: Egress, signer: Signer, region: str = "", profile: str = "") -> None:
        """`region` and `profile` are those of deployments that name none."""
        self._egress = egress
        self._signer = signer
        self._region = region
        self._profile = profile

    async def complete(self, attempt: Attempt) -> Completion:
        """See `Vendor.complete`."""
        options = read_options(attempt.target, Options)
        if attempt.call.operation == "embeddings":
            batches = Batches(attempt)
            for count, body in batches.bodies():
                batches.add(count, *await self._ask(attempt, "invoke", body, options))
            return batches.joined()
        data, _ = await self._ask(attempt, "converse", await self._chat(attempt, options), options)
        answer = read(attempt, data)
        return from_chat(attempt.call, answer) if attempt.call.operation == "completions" else answer

    async def stream(self, attempt: Attempt) -> AsyncIterator[Sequence[Chunk]]:
        """See `Vendor.stream`. A read that completes no event gives an empty batch, as a sign of life."""
        options = read_options(attempt.target, Options)
        legacy = attempt.call.operation == "completions"
        events, translation = Events(attempt.target), Translation(attempt)
        body = await self._chat(attempt, options)
        async with await self._send(attempt, "converse-stream", body, options) as upstream:
            until = 0.0
            while data := await (upstream.receive_last(until) if translation.ended else upstream.receive()):
                batch, fault = _taken(events, translation, data)
                yield [chunk_from_chat(attempt.call, chunk) for chunk in batch] if legacy else batch
                if fault is not None:
                    raise fault
                if translation.ended:
                    until = until or asyncio.get_running_loop().time() + _FORMALITIES_SECONDS
                if translation.done:
                    await upstream.drain()
                    return

    def check(self, target: Target) -> Iterable[str]:
        """Faults of one deployment's `options`."""
        return option_faults(target, Options)

    async def _chat(self, attempt: Attempt, options: Options) -> dict[str, Any]:
        payload = as_chat(attempt.payload) if attempt.call.operation == "completions" else attempt.payload
        return await converse_body(attempt, payload, options, self._egress)

    async def _ask(
        self, attempt: Attempt, word: str, body: dict[str, Any], options: Options
    ) -> tuple[dict[str, Any], Mapping[str, str]]:
        """A whole answer and its headers."""
        async with await self._send(attempt, word, body, options) as upstream:
            raw = await upstream.read()
        try:
            data = decode(raw)
        except MalformedJSON:
            data = None
        if not isinstance(data, dict):
            raise garbled("the answer is no JSON object")
        return data, upstream.headers

    async def _send(self, attempt: Attempt, word: str, body: dict[str, Any], options: Options) -> Upstream:
        """Sign and send, and give an answer with the status 200.

        Raises:
            GatewayError: the status is another, or neither settings nor AWS's chain give the region or the credentials.
        """
        target, raw = attempt.target, encode(body)
        profile = options.profile or self._profile
        region = options.region or self._region or await self._signer.region(profile)
        if not region:
            why = "no AWS region: set options.region, [plugins.bedrock] region, or AWS_REGION"
            raise Misconfigured(why, model=target.name)
        root = target.base_url.rstrip("/") or f"https://bedrock-runtime.{region}.{_domain(region)}"
        url = f"{root}/model/{quote(target.model, safe='')}/{word}"
        if secret := target.secret():  # a Bedrock API key, which needs no signature
            headers = _JSON | {"Authorization": f"Bearer {secret}"}
        else:
            headers = await self._signer.headers("POST", url, raw, _JSON, (region, profile))
        # encoded: yarl would otherwise turn a quoted character of the model's name back, and the signature be wrong.
        upstream = await self._egress.request(target, "POST", URL(url, encoded=True), headers=headers, body=raw)
        if upstream.status == 200:
            return upstream
        if is_stale(upstream):
            self._signer.forget(profile)
        async with upstream:
            raise await failure(upstream, target)


def _domain(region: str) -> str:
    return next((domain for sign, domain in _DOMAINS.items() if region.startswith(sign)), "amazonaws.com")


def _taken(events: Events, translation: Translation, data: bytes) -> tuple[list[Chunk], GatewayError | None]:
    """The chunks that `data` completes, and the error that follows them, if there is one.

    What came before an error, in the same read, still goes to the client.
    """
    batch: list[Chunk] = []
    try:
        for kind, event in events.feed(data):
            translation.take(kind, event, batch)
    except GatewayError as error:
        return batch, error
    return batch, None


_implements: type[Vendor] = Bedrock
