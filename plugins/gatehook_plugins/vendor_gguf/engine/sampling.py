"""The choice of the next token: a chain of llama.cpp's samplers for each answer."""

import ctypes
import math
import secrets
from typing import Any, Final

from msgspec import Struct

from gatehook_plugins.vendor_gguf.engine.errors import Invalid
from gatehook_plugins.vendor_gguf.engine.llama import Context, Model
from gatehook_plugins.vendor_gguf.engine.requests import Sampling

__all__ = ["Grammar", "GrammarEnded", "Sampler", "TokenChance", "chances", "new_seed"]

_WINDOW: Final = 1024
"""Penalties look at so many of the answer's last tokens."""
_TEMPERATURE, _TOP_K, _TOP_P, _MIN_P = 0.8, 40, 0.95, 0.05
_COLDEST: Final = 1e-5
"""At lower temperatures the likeliest token is chosen: logits divided by less overflow."""
_SEEDS: Final = 2**32 - 1
"""Seeds are below this; the number itself means a random seed to the library."""


class TokenChance(Struct, array_like=True):
    """A token that was, or could have been, chosen, and its log probability."""

    token: int
    logprob: float


class Grammar:
    """A compiled grammar, and how far an answer has come in it. Each answer needs its own."""

    def __init__(self, model: Model, text: str) -> None:
        """Compile `text`, a grammar in llama.cpp's notation.

        Raises:
            Invalid: the library does not understand it.
        """
        self._api, self._call = model.library.api, model.call
        self.handle = self._api.llama_sampler_init_grammar(model.vocab, text.encode(), b"root")
        if not self.handle:
            raise Invalid("response_format: the grammar made of the schema does not compile", param="response_format")

    def allows(self, token: int) -> bool:
        """Whether the token may come next."""
        one = self._api.llama_token_data(id=token, logit=1.0, p=0.0)
        self.apply(self._api.llama_token_data_array(data=ctypes.pointer(one), size=1, selected=-1, sorted=False))
        return bool(one.logit != -math.inf)

    # These take long with large grammars: they release the GIL meanwhile, so that requests are served.

    def apply(self, candidates: Any) -> None:
        """Take away the chance of all tokens that may not come next."""
        self._api.llama_sampler_apply(self.handle, ctypes.byref(candidates))

    def accept(self, token: int) -> None:
        """Go on by a token."""
        self._api.llama_sampler_accept(self.handle, token)

    def __del__(self) -> None:
        if self.handle:
            self._call["llama_sampler_free"](self.handle)


class Sampler:
    """Chooses tokens as one request wants it. For the thread that computes."""

    def __init__(self, model: Model, wishes: Sampling, seed: int, grammar: Grammar | None = None) -> None:
        """`grammar` belongs to this sampler from now on."""
        api, self._call = model.library.api, model.call
        self._model = model
        self._grammar = grammar
        self._chain = api.llama_sampler_chain_init(api.llama_sampler_chain_default_params())
        for sampler in _samplers(model, wishes, seed % _SEEDS):  # they are freed with the chain
            self._call["llama_sampler_chain_add"](self._chain, sampler)

    def choose(self, context: Context, index: int) -> int:
        """Choose the token that follows place `index` of the last step.

        Raises:
            GrammarEnded: the grammar allows none.
        """
        if self._grammar is None:
            return int(self._call["llama_sampler_sample"](self._chain, context.handle, index))
        # Asking the grammar about every token of the vocabulary is slow, and mostly it allows the first choice.
        token = self._apply(context, index, self._chain)
        if not self._grammar.allows(token):
            token = self._apply(context, index, self._chain, grammar=self._grammar)
            if not self._grammar.allows(token):
                raise GrammarEnded
        self._call["llama_sampler_accept"](self._chain, token)
        self._grammar.accept(token)
        return token

    def __del__(self) -> None:
        self._call["llama_sampler_free"](self._chain)

    def _apply(self, context: Context, index: int, chain: Any, grammar: Grammar | None = None) -> int:
        import numpy as np

        api, size = self._model.library.api, self._model.tokens
        data = np.empty(size, dtype=[("id", np.int32), ("logit", np.float32), ("p", np.float32)])
        data["id"] = np.arange(size)
        data["logit"] = context.logits(index, size)
        data["p"] = 0
        pointer = ctypes.cast(data.ctypes.data, ctypes.POINTER(api.llama_token_data))
        array = api.llama_token_data_array(data=pointer, size=size, selected=-1, sorted=False)
        if grammar is not None:
            grammar.apply(array)
        self._call["llama_sampler_apply"](chain, ctypes.byref(array))
        return int(array.data[array.selected].id)


class GrammarEnded(Exception):
    """No token may follow, not even one that ends the answer."""


def new_seed() -> int:
    """A random seed."""
    return secrets.randbelow(_SEEDS)


def chances(context: Context, index: int, token: int, size: int, top: int) -> tuple[TokenChance, list[TokenChance]]:
    """The log probability of the chosen token, before temperature and the like, and the `top` likeliest tokens."""
    import numpy as np

    logits = context.logits(index, size).astype(np.float64)
    peak = logits.max()
    total = peak + math.log(np.exp(logits - peak).sum())
    best: Any = np.argpartition(logits, -top)[-top:] if top else []
    likeliest = sorted((TokenChance(int(each), float(logits[each] - total)) for each in best), key=_by_chance)
    return TokenChance(token, float(logits[token] - total)), likeliest


def _by_chance(chance: TokenChance) -> float:
    return -chance.logprob


def _samplers(model: Model, wishes: Sampling, seed: int) -> list[Any]:
    call, api = model.call, model.library.api
    chain: list[Any] = []
    if bias := _biases(wishes, model.tokens):
        array = (api.llama_logit_bias * len(bias))(*(api.llama_logit_bias(*pair) for pair in bias.items()))
        chain.append(call["llama_sampler_init_logit_bias"](model.tokens, len(bias), array))
    penalties = (wishes.repeat_penalty or 1.0, wishes.frequency_penalty or 0.0, wishes.presence_penalty or 0.0)
    if penalties != (1.0, 0.0, 0.0):
        chain.append(call["llama_sampler_init_penalties"](model.tokens, _WINDOW, *penalties))
    temperature = _given(wishes.temperature, _TEMPERATURE)
    if temperature < _COLDEST:
        return [*chain, call["llama_sampler_init_greedy"]()]
    if (top_k := _given(wishes.top_k, _TOP_K)) > 0:
        chain.append(call["llama_sampler_init_top_k"](min(int(top_k), model.tokens)))
    if (top_p := _given(wishes.top_p, _TOP_P)) < 1:
        chain.append(call["llama_sampler_init_top_p"](top_p, 1))
    if (min_p := _given(wishes.min_p, _MIN_P)) > 0:
        chain.append(call["llama_sampler_init_min_p"](min_p, 1))
    return [*chain, call["llama_sampler_init_temp"](temperature), call["llama_sampler_init_dist"](seed)]


def _biases(wishes: Sampling, tokens: int) -> dict[int, float]:
    """The tokens to favour.

    Raises:
        Invalid: a key of `logit_bias` is no token of this model.
    """
    found = {}
    for name, bias in (wishes.logit_bias or {}).items():
        token = int(name) if name.isascii() and name.isdigit() and len(name) < 10 else tokens
        if token >= tokens:
            raise Invalid(f"logit_bias: {name!r} is no token; they are 0 to {tokens - 1}", param="logit_bias")
        found[token] = bias
    return found


def _given(value: float | None, default: float) -> float:
    return default if value is None else value
