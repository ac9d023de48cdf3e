"""What becomes of each OpenAI parameter at Anthropic's Messages API."""

from collections.abc import Mapping

from gatehook import Operation, Parameter, dropped, mapped, refused
from gatehook.legacy import completions_table

__all__ = ["tables"]

_USER = ("user", "safety_identifier")

_CHAT: dict[str, Parameter] = {
    "model": mapped("the deployment's model"),
    "messages": mapped("system and messages"),
    "stream": mapped("stream"),
    "stream_options": mapped("usage is always reported"),
    "max_completion_tokens": mapped("max_tokens"),
    "max_tokens": mapped("max_tokens"),
    "temperature": mapped("temperature, 0 to 1"),
    "top_p": mapped("top_p; since Claude 4.1 only without a temperature"),
    "top_k": mapped("top_k"),
    "stop": mapped("stop_sequences"),
    "tools": mapped("tools"),
    "tool_choice": mapped("tool_choice"),
    "parallel_tool_calls": mapped("tool_choice.disable_parallel_tool_use"),
    "reasoning_effort": mapped("thinking and output_config.effort"),
    "thinking": mapped("thinking"),
    "output_config": mapped("output_config.effort; wins over reasoning_effort"),
    "response_format": mapped("output_config.format"),
    "user": dropped("forwarded as metadata.user_id if plugins.vendor_anthropic.forward_user is true"),
    "safety_identifier": dropped("forwarded as metadata.user_id if plugins.vendor_anthropic.forward_user is true"),
    "n": refused("Anthropic gives one choice per request", unless=(1,)),
    "logprobs": refused("Anthropic gives no log probabilities", unless=(False,)),
    "top_logprobs": refused("Anthropic gives no log probabilities", unless=(0,)),
    "logit_bias": refused("token ids belong to one vendor's tokenizer", unless=({},)),
    "functions": refused("deprecated by OpenAI; use tools", unless=([],)),
    "function_call": refused("deprecated by OpenAI; use tool_choice"),
    "modalities": refused("Anthropic answers in text only", unless=(["text"],)),
    "audio": refused("Anthropic answers in text only"),
    "web_search_options": refused("the answer would not be based on a search"),
    "seed": dropped("Anthropic's sampling cannot be seeded"),
    "presence_penalty": dropped("Anthropic has no penalties", unless=(0, 0.0)),
    "frequency_penalty": dropped("Anthropic has no penalties", unless=(0, 0.0)),
    "service_tier": mapped("service_tier, if it is standard_only; OpenAI's other tiers are dropped"),
    "store": dropped("Anthropic keeps no answers to be fetched later", unless=(False,)),
    "metadata": dropped("it labels stored answers, which Anthropic does not keep", unless=({},)),
    "prediction": dropped("it only makes OpenAI's answers faster"),
    "verbosity": dropped("say it in the prompt", unless=("medium",)),
    "prompt_cache_key": dropped("Anthropic caches where cache_control marks stand"),
    "prompt_cache_retention": dropped("Anthropic caches where cache_control marks stand"),
}


def tables(*, forward_user: bool) -> Mapping[Operation, Mapping[str, Parameter]]:
    """The tables of both operations."""
    chat = _CHAT | (dict.fromkeys(_USER, mapped("metadata.user_id")) if forward_user else {})
    return {"chat": chat, "completions": completions_table(chat)}
