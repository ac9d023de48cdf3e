"""What becomes of each OpenAI parameter at Gemini."""

from collections.abc import Mapping
from typing import Final

from gatehook import Operation, Parameter, dropped, mapped, refused
from gatehook.legacy import completions_table

__all__ = ["PARAMETERS"]

_CHAT: Final[Mapping[str, Parameter]] = {
    "model": mapped("part of the path"),
    "messages": mapped("contents and systemInstruction"),
    "stream": mapped("streamGenerateContent"),
    "stream_options": mapped("usage is always reported"),
    "temperature": mapped("generationConfig.temperature"),
    "top_p": mapped("generationConfig.topP"),
    "top_k": mapped("generationConfig.topK"),
    "presence_penalty": mapped("generationConfig.presencePenalty"),
    "frequency_penalty": mapped("generationConfig.frequencyPenalty"),
    "max_tokens": mapped("generationConfig.maxOutputTokens"),
    "max_completion_tokens": mapped("generationConfig.maxOutputTokens; wins over max_tokens"),
    "stop": mapped("generationConfig.stopSequences, at most 5"),
    "seed": mapped("generationConfig.seed, a 32-bit number"),
    "n": mapped("generationConfig.candidateCount, at most 8"),
    "logprobs": mapped("generationConfig.responseLogprobs"),
    "top_logprobs": mapped("generationConfig.logprobs"),
    "response_format": mapped("generationConfig.responseMimeType and responseJsonSchema"),
    "reasoning_effort": mapped("generationConfig.thinkingConfig, by a table per model family"),
    "output_config": mapped("nothing, where reasoning_effort says the same; dropped otherwise"),
    "tools": mapped("tools.functionDeclarations"),
    "tool_choice": mapped("toolConfig.functionCallingConfig"),
    "parallel_tool_calls": dropped("if false, only the first of several calls is told", unless=(True,)),
    "functions": refused("deprecated by OpenAI; use tools"),
    "function_call": refused("deprecated by OpenAI; use tool_choice"),
    "modalities": mapped("generationConfig.responseModalities; text and image"),
    "audio": refused("only texts and pictures are translated"),
    "logit_bias": refused("token ids mean nothing to a model with another tokenizer", unless=({},)),
    "web_search_options": refused("OpenAI's web search is not Gemini's; it cannot be translated"),
    "user": dropped("no counterpart"),
    "safety_identifier": dropped("no counterpart"),
    "metadata": dropped("no counterpart", unless=({},)),
    "store": dropped("the gateway never asks Google to keep a conversation", unless=(False,)),
    "service_tier": dropped("OpenAI's tiers are not Google's", unless=("auto", "default")),
    "prediction": dropped("no counterpart"),
    "prompt_cache_key": dropped("Gemini finds common prefixes by itself"),
    "prompt_cache_retention": dropped("Gemini's caches are objects of their own"),
    "verbosity": dropped("no counterpart", unless=("medium",)),
}

_EMBEDDINGS: Final[Mapping[str, Parameter]] = {
    "model": mapped("part of the path"),
    "input": mapped("requests[].content, in batches of 100"),
    "dimensions": mapped("outputDimensionality"),
    "encoding_format": mapped("made by the gateway"),
    "user": dropped("no counterpart"),
}

PARAMETERS: Final[Mapping[Operation, Mapping[str, Parameter]]] = {
    "chat": _CHAT,
    "completions": completions_table(_CHAT),
    "embeddings": _EMBEDDINGS,
}
