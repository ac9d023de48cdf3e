"""What /metrics tells of local models, and that it does without those that do not answer."""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest

from gatehook import LocalModel, LocalModels, Unavailable
from gatehook_plugins.metrics import exposition
from gatehook_plugins.metrics.local_models import local_model_metrics


class Gone:
    async def models(self) -> Sequence[LocalModel]:
        raise Unavailable("the process that keeps them has ended")


class Silent:
    async def models(self) -> Sequence[LocalModel]:
        await asyncio.Event().wait()
        raise AssertionError


@pytest.mark.parametrize("keeper", [Gone(), Silent()])
async def test_models_that_nobody_tells_of_hold_up_no_other_number(
    keeper: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exposition, "_SECONDS", 0.01)
    assert await exposition._models(cast("LocalModels", keeper)) == ()


def test_each_model_has_its_numbers_and_memory_only_while_it_is_loaded() -> None:
    known = ("gguf", "gguf", 1000, "Q8_0", ("Q8_0",), "llama", 1024)
    here = LocalModel("here", *known, status="loaded", memory=500, failures=2)
    found = local_model_metrics([here, LocalModel("away", *known)])
    samples = {(one.name, one.labels["model"]): one.value for family in found for one in family.samples}
    assert samples == {
        ("gateway_local_model_loaded", "here"): 1,
        ("gateway_local_model_loaded", "away"): 0,
        ("gateway_local_model_memory_bytes", "here"): 500,
        ("gateway_local_model_failures_total", "here"): 2,
        ("gateway_local_model_failures_total", "away"): 0,
    }
