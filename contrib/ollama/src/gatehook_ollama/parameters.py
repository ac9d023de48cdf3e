"""What becomes of each OpenAI parameter at Ollama."""

from collections.abc import Mapping
from typing import Final

from gatehook import Operation, Parameter, dropped, mapped, refused
from gatehook.legacy import completions_table

__all__ = ["PARAMETERS"]

_CHAT: Final[Mapping[str, Parameter]] = {
    "model": mapped("model"),
    "messages": mapped("messages; pictures as base64"),
    "stream": mapped("stream"),
    "stream_options": mapped("usage is always reported"),
    "temperature": mapped("options.temperature"),
    "top_p": mapped("options.top_p"),
    "top_k": mapped("options.top_k"),
    "min_p": mapped("options.min_p"),
    "seed": mapped("options.seed"),
    "stop": mapped("options.stop"),
    "max_tokens": mapped("options.num_predict"),
    "max_completion_tokens": mapped("options.num_predict; wins over max_tokens"),
    "presence_penalty": mapped("options.presence_penalty"),
    "frequency_penalty": mapped("options.frequency_penalty"),
    "response_format": mapped("format: json, or the schema"),
    "reasoning_effort": mapped("think: a level for gpt-oss, on or off for others"),
    "tools": mapped("tools"),
    "tool_choice": mapped("auto and none; Ollama cannot be made to call a tool"),
    "logprobs": mapped("logprobs"),
    "top_logprobs": mapped("top_logprobs"),
    "n": refused("Ollama gives one answer", unless=(1,)),
    "parallel_tool_calls": dropped("if false, only the first of several calls is told", unless=(True,)),
    "functions": refused("deprecated by OpenAI; use tools"),
    "function_call": refused("deprecated by OpenAI; use tool_choice"),
    "logit_bias": refused("token ids mean nothing to a model with another tokenizer", unless=({},)),
    "modalities": refused("only text answers are translated", unless=(["text"],)),
    "audio": refused("only text answers are translated"),
    "web_search_options": refused("Ollama does not search"),
    "user": dropped("no counterpart"),
    "safety_identifier": dropped("no counterpart"),
    "metadata": dropped("no counterpart", unless=({},)),
    "store": dropped("nothing is ever stored", unless=(False,)),
    "service_tier": dropped("no counterpart", unless=("auto", "default")),
    "prediction": dropped("no counterpart"),
    "prompt_cache_key": dropped("Ollama finds common prefixes by itself"),
    "verbosity": dropped("no counterpart", unless=("medium",)),
}

_EMBEDDINGS: Final[Mapping[str, Parameter]] = {
    "model": mapped("model"),
    "input": mapped("input"),
    "dimensions": mapped("dimensions"),
    "encoding_format": mapped("made by the gateway"),
    "user": dropped("no counterpart"),
}

PARAMETERS: Final[Mapping[Operation, Mapping[str, Parameter]]] = {
    "chat": _CHAT,
    "completions": completions_table(_CHAT),
    "embeddings": _EMBEDDINGS,
}
