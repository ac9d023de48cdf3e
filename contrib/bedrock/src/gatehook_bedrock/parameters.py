"""What becomes of each OpenAI parameter at Bedrock."""

from collections.abc import Mapping
from typing import Final

from gatehook import Operation, Parameter, dropped, mapped, refused
from gatehook.legacy import completions_table

__all__ = ["PARAMETERS"]

_CHAT: Final[Mapping[str, Parameter]] = {
    "model": mapped("part of the path"),
    "messages": mapped("messages and system; the last 4 cache_control marks as cachePoint, for Claude and Nova"),
    "stream": mapped("ConverseStream"),
    "stream_options": mapped("usage is always reported"),
    "temperature": mapped(
        "inferenceConfig.temperature, 0 to 1; dropped for Claude since 4.7, GPT-5 and later, and Grok"
    ),
    "top_p": mapped(
        "inferenceConfig.topP, at Cohere 0.01 to 0.99; since Claude 4.1 only without a temperature; dropped as that"
    ),
    "top_k": mapped("additionalModelRequestFields, for Claude before 4.7 and Nova; dropped for others"),
    "stop": mapped("inferenceConfig.stopSequences"),
    "max_tokens": mapped("inferenceConfig.maxTokens, at most the model's; raised by a budget it does not hold"),
    "max_completion_tokens": mapped("inferenceConfig.maxTokens, as max_tokens; wins over it"),
    "response_format": mapped("outputConfig.textFormat, a JSON schema"),
    "reasoning_effort": mapped("a budget, an effort or the model's own field, by its name or the option `reasoning`"),
    "tools": mapped("toolConfig.tools; strict only where the model can be held to a schema"),
    "tool_choice": mapped("toolConfig.toolChoice; refused if it forces Claude while it thinks within a budget"),
    "metadata": mapped("requestMetadata, without entries that Bedrock does not take"),
    "service_tier": mapped("serviceTier"),
    "n": refused("Bedrock gives one answer", unless=(1,)),
    "parallel_tool_calls": dropped("if false, only the first of several calls is told", unless=(True,)),
    "logprobs": refused("Bedrock tells no log probabilities", unless=(False,)),
    "top_logprobs": refused("Bedrock tells no log probabilities", unless=(0,)),
    "functions": refused("deprecated by OpenAI; use tools"),
    "function_call": refused("deprecated by OpenAI; use tool_choice"),
    "logit_bias": refused("token ids mean nothing to a model with another tokenizer", unless=({},)),
    "modalities": refused("only text answers are translated", unless=(["text"],)),
    "audio": refused("only text answers are translated"),
    "web_search_options": refused("OpenAI's web search cannot be translated"),
    "presence_penalty": dropped("no counterpart", unless=(0, 0.0)),
    "frequency_penalty": dropped("no counterpart", unless=(0, 0.0)),
    "seed": dropped("no counterpart"),
    "user": dropped("no counterpart"),
    "safety_identifier": dropped("no counterpart"),
    "store": dropped("nothing is stored", unless=(False,)),
    "prediction": dropped("no counterpart"),
    "prompt_cache_key": dropped("Bedrock caches up to marks: cache_control"),
    "verbosity": dropped("no counterpart", unless=("medium",)),
}

_EMBEDDINGS: Final[Mapping[str, Parameter]] = {
    "model": mapped("part of the path"),
    "input": mapped("inputText at Titan, text at Nova, texts at Cohere"),
    "dimensions": mapped("dimensions at Titan, embeddingDimension at Nova, output_dimension at Cohere"),
    "encoding_format": mapped("made by the gateway"),
    "input_type": mapped(
        "embeddingPurpose at Nova, input_type at Cohere: search_document, search_query, classification, clustering"
    ),
    "user": dropped("no counterpart"),
}

PARAMETERS: Final[Mapping[Operation, Mapping[str, Parameter]]] = {
    "chat": _CHAT,
    "completions": completions_table(_CHAT),
    "embeddings": _EMBEDDINGS,
}
