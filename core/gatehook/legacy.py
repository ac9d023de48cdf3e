"""The legacy text completion as a chat of one user message, for vendors that know chats only.

A vendor's `parameters` get ``"completions": completions_table(CHAT)``; a call of that operation is read with `as_chat`,
made like any chat, and its answer converted with `from_chat` or, streamed, `chunk_from_chat`.
"""

from collections.abc import Mapping
from typing import Any

from gatehook.errors import InvalidRequest, Retry
from gatehook.model import Call, Chunk, Completion
from gatehook.parameters import Parameter, mapped, refused

__all__ = ["as_chat", "chunk_from_chat", "completions_table", "from_chat"]

_SHARED = (
    "model", "max_tokens", "n", "temperature", "top_p", "top_k", "stop", "seed", "presence_penalty",
    "frequency_penalty", "logit_bias", "user", "stream", "stream_options",
)  # fmt: skip
"""Parameters that mean the same in both operations, so the vendor's chat table decides."""

_OWN = {
    "prompt": mapped("one user message"),
    "echo": refused("a chat model's answer never repeats the prompt", unless=(False,)),
    "suffix": refused("a chat model cannot fill in text before a suffix", unless=("",)),
    "best_of": refused("candidates cannot be ranked without their log probabilities", unless=(1,)),
    # Not even 0 is harmless here: it asks for the log probability of every token of the answer.
    "logprobs": refused("log probabilities cannot be given in the text completion shape"),
}


def completions_table(chat: Mapping[str, Parameter]) -> dict[str, Parameter]:
    """The parameters of text completions at a vendor whose chats have the table `chat`."""
    return _OWN | {name: chat[name] for name in _SHARED if name in chat}


def as_chat(payload: Mapping[str, Any]) -> dict[str, Any]:
    """The payload of the chat that stands for a text completion.

    Raises:
        InvalidRequest: no prompt, several, or tokens instead of text; another deployment may take them.
    """
    prompt = payload.get("prompt")
    if isinstance(prompt, list):
        prompt = _only(prompt)
    if not isinstance(prompt, str) or not prompt:
        raise _refused("expected text")
    chat = {name: value for name, value in payload.items() if name != "prompt"}
    chat["messages"] = [{"role": "user", "content": prompt}]
    return chat


def _only(prompt: list[Any]) -> Any:
    if any(isinstance(one, int | list) for one in prompt):
        raise _refused("tokens mean nothing to a model with another tokenizer; send text")
    if len(prompt) != 1:
        raise _refused(f"this model takes one prompt per request, not {len(prompt)}")
    return prompt[0]


def _refused(why: str) -> InvalidRequest:
    return InvalidRequest(f"prompt: {why}", param="prompt", retry=Retry.NEXT)


def from_chat(call: Call, completion: Completion) -> Completion:
    """A whole chat answer as a text completion. Reasoning has no place in that shape and is left out."""
    data = {
        **completion.data,
        "id": _id(call),
        "object": "text_completion",
        "choices": [
            _choice(choice, (choice.get("message") or {}).get("content")) for choice in completion.data["choices"]
        ],
    }
    return Completion(data, usage=completion.usage)


def chunk_from_chat(call: Call, chunk: Chunk) -> Chunk:
    """One chunk of a chat as one of a text completion.

    A delta without text (a role, reasoning) becomes an empty one, as OpenAI sends too: the client sees a sign of life.
    """
    choices = [_choice(choice, (choice.get("delta") or {}).get("content")) for choice in chunk.data["choices"]]
    return Chunk(
        {**chunk.data, "id": _id(call), "object": "text_completion", "choices": choices},
        content=any(choice["text"] for choice in choices),
        finished=chunk.finished,
        usage=chunk.usage,
        usage_only=chunk.usage_only,
    )


def _id(call: Call) -> str:
    return "cmpl-" + call.id.removeprefix("req_")


def _choice(choice: Mapping[str, Any], text: Any) -> dict[str, Any]:
    return {
        "index": choice["index"],
        "text": text or "",
        "logprobs": None,
        "finish_reason": choice.get("finish_reason"),
    }
