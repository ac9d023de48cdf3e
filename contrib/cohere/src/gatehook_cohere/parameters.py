"""What becomes of each parameter at Cohere."""

from collections.abc import Mapping
from typing import Final

from gatehook import Operation, Parameter, dropped, mapped, refused
from gatehook.legacy import completions_table

__all__ = ["PARAMETERS"]

_CHAT: Final[Mapping[str, Parameter]] = {
    "model": mapped("model"),
    "messages": mapped("messages"),
    "stream": mapped("stream"),
    "stream_options": mapped("usage is always reported"),
    "temperature": mapped("temperature"),
    "top_p": mapped("p"),
    "top_k": mapped("k"),
    "seed": mapped("seed"),
    "stop": mapped("stop_sequences, at most 5"),
    "max_tokens": mapped("max_tokens"),
    "max_completion_tokens": mapped("max_tokens; wins over max_tokens"),
    "presence_penalty": mapped("presence_penalty, from 0 to 1"),
    "frequency_penalty": mapped("frequency_penalty, from 0 to 1"),
    "response_format": mapped("response_format"),
    "reasoning_effort": mapped("thinking: none disables it, low and medium have a budget, high has none"),
    "tools": mapped("tools; strict ones as strict_tools"),
    "tool_choice": mapped("tool_choice; of a named function: that one alone, and REQUIRED"),
    "documents": mapped("documents, Cohere's own: what the model may ground its answer in"),
    "n": refused("Cohere gives one answer", unless=(1,)),
    "parallel_tool_calls": dropped("if false, only the first of several calls is told", unless=(True,)),
    "logprobs": refused("Cohere's log probabilities name no tokens", unless=(False,)),
    "top_logprobs": refused("Cohere tells no alternatives", unless=(0,)),
    "functions": refused("deprecated by OpenAI; use tools"),
    "function_call": refused("deprecated by OpenAI; use tool_choice"),
    "logit_bias": refused("token ids mean nothing to a model with another tokenizer", unless=({},)),
    "modalities": refused("only text answers are translated", unless=(["text"],)),
    "audio": refused("only text answers are translated"),
    "web_search_options": refused("OpenAI's web search cannot be translated"),
    "user": dropped("no counterpart"),
    "safety_identifier": dropped("no counterpart"),
    "metadata": dropped("no counterpart", unless=({},)),
    "store": dropped("the gateway never asks a vendor to keep a conversation", unless=(False,)),
    "service_tier": dropped("no counterpart", unless=("auto", "default")),
    "prediction": dropped("no counterpart"),
    "prompt_cache_key": dropped("Cohere finds common prefixes by itself"),
    "verbosity": dropped("no counterpart", unless=("medium",)),
}

_EMBEDDINGS: Final[Mapping[str, Parameter]] = {
    "model": mapped("model"),
    "input": mapped("texts, in batches of 96"),
    "dimensions": mapped("output_dimension"),
    "encoding_format": mapped("made by the gateway"),
    "input_type": mapped("input_type, Cohere's own: search_document, search_query, classification, clustering"),
    "user": dropped("no counterpart"),
}

_RERANK: Final[Mapping[str, Parameter]] = {
    "model": mapped("model"),
    "query": mapped("query"),
    "documents": mapped("documents"),
    "top_n": mapped("top_n"),
    "max_tokens_per_doc": mapped("max_tokens_per_doc"),
    "return_documents": mapped("made by the gateway"),
}

PARAMETERS: Final[Mapping[Operation, Mapping[str, Parameter]]] = {
    "chat": _CHAT,
    "completions": completions_table(_CHAT),
    "embeddings": _EMBEDDINGS,
    "rerank": _RERANK,
}
