"""The vendor "gguf", with a real engine and a trained model, keeps to what the suite can ask of it."""

import importlib.util
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gatehook.testing.conformance import Failure, Said, Script, VendorConformance

TRAINED = Path(__file__).parents[1] / "models" / "tiny-chat.gguf"


class EngineScript(Script):
    """Nobody tells a model what to say; it says one thing to one question."""

    def plain(self, said: Said) -> Mapping[str, Any] | None:
        return None if said.calls or said.finish != "stop" or said.operation != "chat" else {}

    def stream(self, said: Said) -> Mapping[str, Any] | None:
        return self.plain(said)

    def failure(self, failure: Failure) -> None:
        return None


@pytest.mark.skipif(importlib.util.find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed")
class TestGGUF(VendorConformance):
    plugin = "vendor_gguf"
    label = "gguf"
    script = EngineScript()
    is_real = True
    upstream_model = "tiny"
    deployment: Mapping[str, Any] = {"parameters": {"default_temperature": 0}}
    prompt = "What is the capital of France?"
    says = ("The capital of France is Paris.",)

    @pytest.fixture(autouse=True)
    def _with_a_model(self, tmp_path: Path) -> None:
        shutil.copy(TRAINED, tmp_path / "tiny.gguf")
        table = f'[plugins.vendor_gguf]\nmodels_dir = "{tmp_path}"\ncontext = 256\nslots = 2\nthreads = 1\n'
        self.settings = table
