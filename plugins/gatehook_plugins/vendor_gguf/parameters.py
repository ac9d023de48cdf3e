"""What becomes of each OpenAI parameter at a local model: what its engine reads, and nothing else in silence."""

from collections.abc import Mapping
from typing import Final

from gatehook import Operation, Parameter, dropped, mapped, refused

__all__ = ["PARAMETERS"]

_SAMPLING: Final[Mapping[str, Parameter]] = {
    "model": mapped("model"),
    "stream": mapped("stream"),
    "stream_options": mapped("stream_options"),
    "temperature": mapped("temperature, 0 to 2"),
    "top_p": mapped("top_p"),
    "top_k": mapped("top_k; 0 and -1: no limit"),
    "min_p": mapped("min_p"),
    "frequency_penalty": mapped("frequency_penalty"),
    "presence_penalty": mapped("presence_penalty"),
    "repeat_penalty": mapped("repeat_penalty, llama.cpp's"),
    "seed": mapped("seed"),
    "logit_bias": mapped("logit_bias, of the model's own tokens"),
    "logprobs": mapped("logprobs"),
    "stop": mapped("stop, at most 16"),
    "max_tokens": mapped("max_tokens"),
    "n": mapped("n, at most 16"),
    "user": dropped("nobody beyond this machine is told of it"),
}

_CHAT: Final[Mapping[str, Parameter]] = {
    **_SAMPLING,
    "messages": mapped("the model's own template, for texts only"),
    "max_completion_tokens": mapped("max_completion_tokens; wins over max_tokens"),
    "top_logprobs": mapped("top_logprobs"),
    "tools": mapped("the template, or words in front of it; a grammar where a call is forced"),
    "tool_choice": mapped("tool_choice"),
    "parallel_tool_calls": mapped("parallel_tool_calls, where a call is forced"),
    "response_format": mapped("a grammar"),
    "chat_template_kwargs": mapped("names that the template knows"),
    "functions": refused("deprecated by OpenAI; use tools", unless=([],)),
    "function_call": refused("deprecated by OpenAI; use tool_choice"),
    "modalities": refused("local models answer in text only", unless=(["text"],)),
    "audio": refused("local models answer in text only"),
    "web_search_options": refused("the answer would not be based on a search"),
    "reasoning_effort": dropped("a model's own; its template may take it in chat_template_kwargs"),
    "safety_identifier": dropped("nobody beyond this machine is told of it"),
    "metadata": dropped("it labels stored answers, and none is stored", unless=({},)),
    "store": dropped("no answer is stored", unless=(False,)),
    "service_tier": dropped("this machine has one", unless=("auto", "default")),
    "prediction": dropped("it only makes OpenAI's answers faster"),
    "prompt_cache_key": dropped("common beginnings are found without it"),
    "prompt_cache_retention": dropped("beginnings are kept while there is room"),
    "verbosity": dropped("say it in the prompt", unless=("medium",)),
}

_COMPLETIONS: Final[Mapping[str, Parameter]] = {
    **_SAMPLING,
    "prompt": mapped("prompt: texts, or tokens of the model's own"),
    "best_of": mapped("n; another number is refused"),
    "echo": mapped("echo; not together with logprobs"),
    "suffix": refused("local models write at the end of a text only", unless=("",)),
}

_EMBEDDINGS: Final[Mapping[str, Parameter]] = {
    "model": mapped("model"),
    "input": mapped("input: texts, or tokens of the model's own"),
    "encoding_format": mapped("encoding_format"),
    "dimensions": mapped("what the model has; another number is refused"),
    "user": dropped("nobody beyond this machine is told of it"),
}

PARAMETERS: Final[Mapping[Operation, Mapping[str, Parameter]]] = {
    "chat": _CHAT,
    "completions": _COMPLETIONS,
    "embeddings": _EMBEDDINGS,
}
