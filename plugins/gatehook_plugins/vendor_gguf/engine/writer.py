"""From requests to jobs: prompts in tokens, grammars, seeds."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from msgspec import Struct

from gatehook_plugins.vendor_gguf.engine.conversation import messages_for, simpler, tools_for
from gatehook_plugins.vendor_gguf.engine.errors import Invalid, TooLong
from gatehook_plugins.vendor_gguf.engine.families import Family, family_of
from gatehook_plugins.vendor_gguf.engine.grammars import Rules
from gatehook_plugins.vendor_gguf.engine.jobs import Job
from gatehook_plugins.vendor_gguf.engine.llama import Model
from gatehook_plugins.vendor_gguf.engine.requests import ChatRequest, Choice, CompletionRequest, Sampling
from gatehook_plugins.vendor_gguf.engine.sampling import Grammar, Sampler, new_seed
from gatehook_plugins.vendor_gguf.engine.templates import ChatTemplate, Refused

__all__ = ["ChatPlan", "Writer", "prompts_of"]

_MOST_JOBS: Final = 128
"""The most jobs of one request: prompts times choices."""


class ChatPlan(Struct):
    """The jobs of a chat request, and how to read what they write."""

    jobs: list[Job]
    family: Family | None
    """The notation of calls; None if the model is offered no tools."""
    reasons: bool
    """Whether the prompt ends with the tag that begins reasoning."""


class Writer:
    """Turns requests into jobs for one model."""

    def __init__(
        self,
        model: Model,
        template: ChatTemplate,
        *,
        context: int,
        reasoning: tuple[str, str] | None = None,
        seed: int | None = None,
    ) -> None:
        """Keep what is the same for all requests.

        Args:
            model: the model.
            template: its chat template.
            context: the most tokens of a prompt and its answer.
            reasoning: the tags before and after reasoning; None if it has none.
            seed: the seed of requests that give none; None for a random one each.
        """
        self._model = model
        self._template = template
        self._family = family_of(template.source)
        self._context = context
        self._reasoning = reasoning
        self._seed = seed

    async def completions(self, request: CompletionRequest) -> list[Job]:
        """The jobs of POST /v1/completions: `n` for each prompt.

        Raises:
            Invalid: something is asked for that is not done, or does not fit.
        """
        return await asyncio.to_thread(self._completions, request)

    def echoes(self, request: CompletionRequest) -> list[str]:
        """What each job's text begins with: its prompt, if that is to be repeated."""
        if not request.echo:
            return []
        given = request.prompt
        prompts = [given] if isinstance(given, str) or isinstance(given[0], int) else given
        return [text for text in map(self._text, prompts) for _ in range(request.n or 1)]

    def _text(self, prompt: Any) -> str:
        if isinstance(prompt, str):
            return prompt
        return b"".join(self._model.piece(token, special=False) for token in prompt).decode("utf-8", "replace")

    async def chat(self, request: ChatRequest) -> ChatPlan:
        """The jobs of POST /v1/chat/completions.

        Raises:
            Invalid: something is asked for that is not done, or does not fit.
        """
        return await asyncio.to_thread(self._chat, request)

    def _completions(self, request: CompletionRequest) -> list[Job]:
        if request.echo and request.logprobs is not None:
            raise Invalid(
                "echo: a prompt's tokens have no log probabilities; leave out logprobs, or echo", param="echo"
            )
        if request.suffix:
            raise Invalid("suffix: this model writes at the end of a text only", param="suffix")
        if request.best_of not in (None, request.n or 1):
            raise Invalid("best_of: as many texts are written as n says, and none is chosen", param="best_of")
        prompts = prompts_of(self._model, request.prompt, "prompt", self._context)
        if len(prompts) * (request.n or 1) > _MOST_JOBS:
            raise Invalid(f"prompt: {len(prompts)} prompts are too many; {_MOST_JOBS} may be, times n", param="prompt")
        jobs: list[Job] = []
        for prompt in prompts:
            self._check_length(prompt, "prompt")
        for prompt in prompts:
            jobs += self._jobs(request, prompt, request.max_tokens or 16, top=request.logprobs)
        return jobs

    def _chat(self, request: ChatRequest) -> ChatPlan:
        if request.top_logprobs and not request.logprobs:
            raise Invalid("top_logprobs: logprobs must be true with it", param="top_logprobs")
        functions = tools_for([] if request.tool_choice == "none" else request.tools or [])
        family = self._family if functions else None
        text = self._prompt(request, functions)
        grammar = self._grammar(request, functions)
        before, after = self._reasoning or ("", "")
        reasons = bool(before) and text.rstrip().endswith(before)
        if reasons and grammar:  # an answer of a certain form has no room for reasoning
            text, reasons = f"{text.rstrip()}\n{after}\n\n", False
        bos = self._template_bos(text)
        prompt = _tokens(self._model, text, "messages", self._context, begin=not bos)
        self._check_length(prompt, "messages")
        top = (request.top_logprobs or 0) if request.logprobs else None
        special = family is not None or bool(before)
        jobs = self._jobs(request, prompt, request.most, top=top, grammar=grammar, special=special)
        return ChatPlan(jobs, family, reasons)

    def _prompt(self, request: ChatRequest, functions: Sequence[dict[str, Any]]) -> str:
        template = self._template
        messages = messages_for(request.messages, functions, knows_tools=template.knows_tools)
        names = request.chat_template_kwargs or {}
        try:
            return template.render(messages, functions, names)
        except Refused as refused:
            try:
                return template.render(simpler(messages), functions, names)
            except Invalid:
                raise refused from None  # it says what is wrong with the client's messages, not with the simpler ones

    def _template_bos(self, text: str) -> bool:
        """Whether the text begins as the model wants it to, so that no token has to be added."""
        bos = self._model.text_of("bos")
        return not self._model.begins_with_bos or (bool(bos) and text.startswith(bos))

    def _grammar(self, request: ChatRequest, functions: Sequence[dict[str, Any]]) -> str:
        """The grammar of the answer; "" if it may be anything."""
        rules, choice = Rules(), request.tool_choice
        offered = [each["function"] for each in functions]
        if choice == "required" or isinstance(choice, Choice):
            if not functions:
                raise Invalid("tool_choice: there are no tools to choose from", param="tool_choice")
            if isinstance(choice, Choice):
                name = choice.function.name
                offered = [function for function in offered if function["name"] == name]
                if not offered:
                    raise Invalid(f"tool_choice: {name!r} is none of the tools", param="tool_choice")
            several = choice == "required" and request.parallel_tool_calls is True
            rules.add_calls(self._family, offered, several=several)
        elif request.response_format is not None and request.response_format.type != "text":
            rules.add_format(request.response_format)
            if functions:
                rules.add_calls(self._family, offered, several=request.parallel_tool_calls is not False)
        return rules.text()

    def _jobs(
        self,
        request: Sampling,
        prompt: list[int],
        most: int | None,
        *,
        top: int | None,
        grammar: str = "",
        special: bool = False,
    ) -> list[Job]:
        """The `n` jobs of a prompt, each with a seed of its own."""
        room = self._context - len(prompt)
        seed = next((seed for seed in (request.seed, self._seed) if seed is not None), None)
        jobs = []
        for at in range(request.n or 1):
            rules = Grammar(self._model, grammar) if grammar else None
            sampler = Sampler(self._model, request, new_seed() if seed is None else seed + at, rules)
            most_here = min(most or room, room)
            whole = not request.stream
            jobs.append(Job(prompt, most_here, sampler, stops=request.stops, special=special, top=top, whole=whole))
        return jobs

    def _check_length(self, prompt: Sequence[int], param: str) -> None:
        if not prompt:
            raise Invalid(f"{param}: the prompt is empty, and this model begins no text by itself", param=param)
        if len(prompt) >= self._context:
            raise TooLong(len(prompt), self._context, param)


def prompts_of(model: Model, given: str | Sequence[str | int | list[int]], param: str, context: int) -> list[list[int]]:
    """The prompts, in tokens, of a field that may be a text, tokens, or several of either.

    Raises:
        Invalid: it is something else, or has a token that the model does not know.
        TooLong: a text is so long that it must have more tokens than `context`; prompts that are returned may, too.
    """
    if isinstance(given, str):
        return [_tokens(model, given, param, context, begin=True)]
    if not given:
        raise Invalid(f"{param}: it is an empty list", param=param)
    if all(isinstance(each, int) for each in given):
        return [_known(model, list(given), param)]
    prompts = []
    for at, each in enumerate(given):
        if isinstance(each, int):
            raise Invalid(f"{param}[{at}]: tokens and texts are mixed; use lists of tokens", param=param)
        where = f"{param}[{at}]"
        if isinstance(each, str):
            prompts.append(_tokens(model, each, where, context, begin=True))
        else:
            prompts.append(_known(model, each, where))
    return prompts


def _tokens(model: Model, text: str, param: str, context: int, *, begin: bool) -> list[int]:
    # What cannot fit is not tokenized: for tens of megabytes that takes seconds, and many times their memory.
    if len(text) > context and model.longest and (least := len(text) // model.longest) > context:
        raise TooLong(least, context, param, counted=False)
    try:
        return model.tokenize(text, special=True, begin=begin)
    except UnicodeEncodeError as error:
        raise Invalid(f"{param}: it is no valid Unicode text: {error.reason}", param=param) from None


def _known(model: Model, tokens: list[Any], param: str) -> list[int]:
    unknown = next((token for token in tokens if not 0 <= token < model.tokens), None)
    if unknown is not None:
        message = f"{param}: {unknown} is no token of this model; they are 0 to {model.tokens - 1}"
        raise Invalid(message, param=param)
    return tokens
