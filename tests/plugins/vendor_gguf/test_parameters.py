"""The table of parameters tells what the engine reads."""

from typing import Any

import msgspec
import pytest

from gatehook import Operation
from gatehook_plugins.vendor_gguf.engine.requests import ChatRequest, CompletionRequest, EmbeddingRequest
from gatehook_plugins.vendor_gguf.parameters import PARAMETERS

REFUSED_TOO = {"suffix"}
"""The engine reads it to refuse it, whoever asks."""


@pytest.mark.parametrize(
    ("operation", "request_type"),
    [("chat", ChatRequest), ("completions", CompletionRequest), ("embeddings", EmbeddingRequest)],
)
def test_what_the_engine_reads_is_mapped_and_nothing_else_is(operation: Operation, request_type: Any) -> None:
    read = {field.encode_name for field in msgspec.structs.fields(request_type)}
    mapped = {name for name, rule in PARAMETERS[operation].items() if rule.disposition == "mapped"}
    assert mapped == read - REFUSED_TOO
