"""A part of an answer that a vendor has made when it fails: who gets it, under which name, and what is told of it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any, ClassVar

import pytest
from aiohttp import ClientSession

from gatehook import Attempt, Chunk, Completion, Retry, Salvage, Unavailable, UpstreamError, Usage, completion
from gatehook.testing import serving


class Maker:
    """Makes as many pieces as the deployment's model is called, then fails; "all" makes an answer."""

    name = "specimen"
    operations = frozenset({"chat"})
    parameters: ClassVar[Any] = {}

    def __init__(self, gives: Exception | None = None) -> None:
        self._gives = gives

    async def complete(self, attempt: Attempt) -> Completion:
        call, model = attempt.call, attempt.target.model
        if model == "all":
            return self._answer(attempt, "all")
        for pieces in range(1, int(model[0]) + 1):
            call.salvage = Salvage(pieces, partial(self._made, attempt, pieces), ("n",))
        if model.endswith("hangs"):
            await asyncio.Event().wait()
        raise UpstreamError(f"no more than {model}", retry=Retry.NEVER if model.endswith("never") else Retry.NEXT)

    async def _made(self, attempt: Attempt, pieces: int) -> Completion:
        if self._gives is not None:
            raise self._gives
        return self._answer(attempt, str(pieces))

    def _answer(self, attempt: Attempt, text: str) -> Completion:
        message = {"role": "assistant", "content": text}
        return completion(attempt.call, [{"index": 0, "message": message, "finish_reason": "stop"}], Usage(1, 1))

    async def stream(self, attempt: Attempt) -> AsyncIterator[Sequence[Chunk]]:
        attempt.call.salvage = Salvage(1, lambda: self._made(attempt, 1))
        raise UpstreamError("not today", retry=Retry.NEXT)
        yield []


def deployments(*models: str, more: str = "") -> str:
    return "".join(
        f'[[models]]\nname = "m"\nvendor = "specimen"\nmodel = "{model}"\npriority = {place + 1}\n{more}'
        for place, model in enumerate(models)
    )


async def asked(kit: Any, models: str, vendor: Any = None, **fields: Any) -> Any:
    plugin = kit.specimen(register_vendors=[vendor or Maker()])
    tables = "[plugins.openai_api]\n[plugins.route_models]\nstrategy = 'priority'\n[plugins.maker]\n"
    settings = f"[failover]\nretries = 0\n{tables}{models}"
    async with serving(settings, plugins={"maker": plugin}) as served, ClientSession() as session, asyncio.timeout(20):
        return await kit.Client(served.url, session).chat(**fields)


@pytest.mark.parametrize(
    ("models", "gets"),
    [
        (("2",), "2"),
        (("2", "1"), "2"),
        (("1", "3"), "3"),
        (("2", "0"), "2"),
        (("0", "2 never", "all"), "2"),
        (("2", "all"), "all"),
    ],
)
async def test_the_largest_part_goes_out_where_nobody_makes_all(kit: Any, models: Sequence[str], gets: str) -> None:
    answer = await asked(kit, deployments(*models))
    assert (answer.status, answer.json["choices"][0]["message"]["content"]) == (200, gets)
    assert answer.headers.get("X-Gatehook-Dropped-Params") == (None if gets == "all" else "n")
    made_by = next(place for place, model in enumerate(models) if model.startswith(gets))
    assert answer.headers["X-Gatehook-Deployment"] == f"m#{made_by + 1}"


async def test_what_was_made_before_a_deployment_s_time_was_up_goes_out(kit: Any) -> None:
    answer = await asked(kit, deployments("2 hangs", more="timeout = 0.2\n"))
    assert (answer.status, answer.json["choices"][0]["message"]["content"]) == (200, "2")


async def test_a_fallback_s_part_bears_its_name(kit: Any) -> None:
    models = deployments("0", more='fallbacks = ["other"]\n')
    models += '[[models]]\nname = "other"\nvendor = "specimen"\nmodel = "1"\n'
    answer = await asked(kit, models)
    assert (answer.json["model"], answer.json["choices"][0]["message"]["content"]) == ("other", "1")


async def test_a_part_that_cannot_be_given_leaves_the_error_as_it_was(kit: Any) -> None:
    answer = await asked(kit, deployments("2"), Maker(Unavailable("the store is full")))
    assert (answer.status, answer.error["message"]) == (502, "no more than 2")


async def test_streams_have_no_parts(kit: Any) -> None:
    answer = await asked(kit, deployments("2"), stream=True)
    assert (answer.status, answer.error["message"]) == (502, "not today")


async def test_a_part_is_stored_for_nobody(kit: Any) -> None:
    tables = "[plugins.openai_api]\n[plugins.route_models]\n[plugins.cache]\n[plugins.maker]\n"
    settings = f"[failover]\nretries = 0\n{tables}{deployments('2')}"
    plugins = {"maker": kit.specimen(register_vendors=[Maker()])}
    async with serving(settings, plugins=plugins) as served, ClientSession() as session, asyncio.timeout(20):
        client = kit.Client(served.url, session)
        assert [(await client.chat()).headers["X-Cache"] for _ in range(2)] == ["miss", "miss"]
