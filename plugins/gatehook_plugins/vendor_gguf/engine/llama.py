"""llama.cpp as the engine uses it: a model, its vocabulary, and a context that computes steps for several sequences.

Only what takes long (loading, computing a step) releases Python's global lock (GIL). ctypes otherwise releases it for
every call, and a thread may wait 5 ms to get it back while another one is busy: for each token that is sampled.
"""

import ctypes
import os
import sys
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Final

from gatehook_plugins.vendor_gguf.engine.cores import cores

__all__ = ["Context", "Library", "LoadFailed", "Model", "default_threads"]

_LOCKED: Final = (
    "llama_get_logits_ith",
    "llama_get_embeddings_seq",
    "llama_memory_clear",
    "llama_memory_seq_cp",
    "llama_memory_seq_rm",
    "llama_model_meta_val_str",
    "llama_model_n_ctx_train",
    "llama_model_n_embd",
    "llama_pooling_type",
    "llama_sampler_accept",
    "llama_sampler_apply",
    "llama_sampler_chain_add",
    "llama_sampler_free",
    "llama_sampler_init_dist",
    "llama_sampler_init_greedy",
    "llama_sampler_init_logit_bias",
    "llama_sampler_init_min_p",
    "llama_sampler_init_penalties",
    "llama_sampler_init_temp",
    "llama_sampler_init_top_k",
    "llama_sampler_init_top_p",
    "llama_sampler_sample",
    "llama_token_to_piece",
    "llama_vocab_bos",
    "llama_vocab_eos",
    "llama_vocab_get_add_bos",
    "llama_vocab_get_add_eos",
    "llama_vocab_get_text",
    "llama_vocab_is_eog",
    "llama_vocab_n_tokens",
    "llama_vocab_type",
)
"""Functions that are called with the GIL held."""
_WARNING: Final = 3
_CONTINUED: Final = 5
_WHOLE: Final = (1, 2)
"""Types of vocabularies (SentencePiece, BPE) whose tokens hold all of a text; others leave out spaces, and more."""
_POOLINGS: Final = {"": -1, "none": 0, "mean": 1, "cls": 2, "last": 3}
_PIECE: Final = 256
"""Bytes that most tokens fit in."""


class LoadFailed(Exception):
    """The model cannot be loaded; the text says why."""


class Library:
    """The library llama.cpp, loaded and started. One per process."""

    def __init__(self) -> None:
        """Load the library.

        Raises:
            ImportError: llama-cpp-python is not installed.
        """
        import llama_cpp

        self.api: Any = llama_cpp
        self.errors: list[str] = []
        """The library's last warnings and errors, since this was emptied."""
        quick = ctypes.PyDLL(llama_cpp.llama_cpp._lib._name)  # noqa: SLF001
        self.locked: dict[str, Any] = {name: _as_declared(llama_cpp, quick, name) for name in _LOCKED}
        self._callback = llama_cpp.llama_log_callback(self._log)  # kept: the library calls it as long as it lives
        self._continued = False
        llama_cpp.llama_log_set(self._callback, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()

    @property
    def uses_gpu(self) -> bool:
        """Whether it was built for a GPU, and has found one."""
        return bool(self.api.llama_supports_gpu_offload())

    def _log(self, level: int, text: bytes, _: object) -> None:
        """Pass on warnings and errors; the rest would be a flood."""
        self._continued = self._continued if level == _CONTINUED else level >= _WARNING
        if self._continued and (line := text.decode("utf-8", "replace").strip()):
            self.errors[:] = [*self.errors[-7:], line]
            print(line, file=sys.stderr, flush=True)  # noqa: T201  # the host listens


class Model:
    """The weights and the vocabulary."""

    def __init__(self, library: Library, path: str, gpu_layers: int, progress: Callable[[float], None]) -> None:
        """Load a GGUF file; `progress` is told the part that is loaded, 0 to 1.

        Raises:
            LoadFailed: it is no GGUF file, is cut off, or needs what this library or machine does not have.
        """
        api = library.api
        self._library = library
        self.call: dict[str, Any] = library.locked
        params = api.llama_model_default_params()
        params.n_gpu_layers = gpu_layers if gpu_layers >= 0 else -1
        callback = api.llama_progress_callback(_every_percent(progress))
        params.progress_callback = callback
        library.errors.clear()
        self._model = api.llama_model_load_from_file(os.fsencode(path), params)
        if not self._model:
            raise LoadFailed(f"{path}: {_reason(library.errors)}")
        self.vocab = api.llama_model_get_vocab(self._model)
        self.tokens: int = self.call["llama_vocab_n_tokens"](self.vocab)
        """The size of the vocabulary."""
        self.trained_context: int = self.call["llama_model_n_ctx_train"](self._model)
        self.width: int = self.call["llama_model_n_embd"](self._model)
        self.decodes = bool(api.llama_model_has_decoder(self._model))
        """False for models that only encode."""

    @property
    def library(self) -> Library:
        """The library that it is loaded with."""
        return self._library

    @property
    def handle(self) -> Any:
        """The library's pointer."""
        return self._model

    def metadata(self, key: str) -> str | None:
        """The value of a key of the file's header, as text; None if there is none."""
        size = _PIECE
        while True:
            buffer = ctypes.create_string_buffer(size)
            length = self.call["llama_model_meta_val_str"](self._model, key.encode(), buffer, size)
            if length < size:
                return None if length < 0 else buffer.raw[:length].decode("utf-8", "replace")
            size = length + 1

    def tokenize(self, text: str, *, special: bool, begin: bool) -> list[int]:
        """The tokens of `text`.

        Args:
            text: any.
            special: whether the names of control tokens stand for them.
            begin: whether to begin as the model wants a text to begin, mostly with a token of its own.

        Raises:
            UnicodeEncodeError: the text has lone surrogates.
        """
        raw = text.encode()
        room = len(raw) + 16
        tokens = (ctypes.c_int32 * room)()
        found: int = self._library.api.llama_tokenize(self.vocab, raw, len(raw), tokens, room, begin, special)
        if found < 0:  # never seen: tokens are no shorter than a byte
            tokens = (ctypes.c_int32 * -found)()
            found = self._library.api.llama_tokenize(self.vocab, raw, len(raw), tokens, -found, begin, special)
        return tokens[:found]

    @cached_property
    def longest(self) -> int | None:
        """The most bytes of text that a token stands for; None if that is not known of this vocabulary."""
        if self.call["llama_vocab_type"](self.vocab) not in _WHOLE:
            return None
        text_of = self.call["llama_vocab_get_text"]
        return max(len(text_of(self.vocab, token) or b"") for token in range(self.tokens)) or None

    def piece(self, token: int, *, special: bool) -> bytes:
        """The bytes of a token; a control token has some only with `special`."""
        to_piece = self.call["llama_token_to_piece"]
        size = _PIECE
        while True:
            buffer = ctypes.create_string_buffer(size)
            length = to_piece(self.vocab, token, buffer, size, 0, special)
            if length >= 0:
                return buffer.raw[:length]
            size = -length

    def ends(self, token: int) -> bool:
        """Whether a token ends an answer."""
        return bool(self.call["llama_vocab_is_eog"](self.vocab, token))

    def text_of(self, which: str) -> str:
        """The text of the token that begins ("bos") or ends ("eos") a text; "" if there is none."""
        token = self.call[f"llama_vocab_{which}"](self.vocab)
        return "" if token < 0 else (self.call["llama_vocab_get_text"](self.vocab, token) or b"").decode()

    @property
    def begins_with_bos(self) -> bool:
        """Whether the model wants each text to begin with the token "bos"."""
        return bool(self.call["llama_vocab_get_add_bos"](self.vocab))


class Context:
    """The key-value cache of several sequences, and the steps that are computed on it. For one thread."""

    def __init__(
        self,
        model: Model,
        *,
        context: int,
        sequences: int,
        batch: int,
        threads: int,
        embedding: bool = False,
        pooling: str = "",
    ) -> None:
        """Reserve its memory.

        Args:
            model: the model that computes.
            context: the most tokens of one sequence.
            sequences: the most sequences.
            batch: the most tokens of one step.
            threads: threads that compute; 0 for all cores but one.
            embedding: whether embeddings are made, and no text.
            pooling: of embeddings: mean, cls or last; "" for what the file says.

        Raises:
            LoadFailed: there is not enough memory, or there are more sequences than the library can have.
        """
        import numpy as np

        library = model.library
        api, self.call = library.api, library.locked
        if sequences > (most := api.llama_max_parallel_sequences()):
            raise LoadFailed(f"slots: {sequences} are too many; {most} may be")
        params = api.llama_context_default_params()
        params.n_ctx, params.n_seq_max = context * sequences, sequences
        params.n_batch = params.n_ubatch = batch
        self.threads = params.n_threads = params.n_threads_batch = threads or default_threads()
        params.embeddings = embedding
        params.kv_unified = embedding  # text: each sequence has cells of its own, and looks at no other's
        params.pooling_type = _POOLINGS[pooling]
        params.no_perf = True
        library.errors.clear()
        self._context = api.llama_init_from_model(model.handle, params)
        if not self._context:
            raise LoadFailed(f"not enough memory for {sequences} x {context} tokens: {_reason(library.errors)}")
        self.handle = self._context
        self.width = model.width
        self.pooling: int = self.call["llama_pooling_type"](self._context)
        self._memory = api.llama_get_memory(self._context)
        self._decode = api.llama_decode if model.decodes else api.llama_encode
        self.size = batch
        self.token: Any = np.zeros(batch, np.int32)
        self.position: Any = np.zeros(batch, np.int32)
        self.sequence: Any = np.zeros(batch, np.int32)
        self.output: Any = np.zeros(batch, np.int8)
        self._counts = np.ones(batch, np.int32)
        self._pointers = self.sequence.ctypes.data + np.arange(batch, dtype=np.uint64) * 4
        self._batch = api.llama_batch(0, *(None,) * 6)
        for name, array in (
            ("token", self.token),
            ("pos", self.position),
            ("n_seq_id", self._counts),
            ("seq_id", self._pointers),
            ("logits", self.output),
        ):
            kind = dict(api.llama_batch._fields_)[name]
            setattr(self._batch, name, ctypes.cast(array.ctypes.data, kind))

    def put(self, at: int, sequence: int, first: int, tokens: Sequence[int], *, output: bool) -> int:
        """Put tokens of a sequence into the next step; gives the place in the step that follows them.

        Args:
            at: their place in the step.
            sequence: the sequence's number.
            first: the position of the first one in the sequence.
            tokens: at least one.
            output: whether logits or an embedding will be read at the last of them.
        """
        end = at + len(tokens)
        self.token[at:end] = tokens
        self.position[at:end] = range(first, first + len(tokens))
        self.sequence[at:end] = sequence
        self.output[at:end] = 0
        self.output[end - 1] = output
        return end

    def compute(self, tokens: int) -> int:
        """Compute the step of the first `tokens` tokens; gives 0, or the library's error code (1: no room)."""
        self._batch.n_tokens = tokens
        return int(self._decode(self._context, self._batch))

    def keep(self, sequence: int, tokens: int) -> bool:
        """Forget all but the first tokens of a sequence; False if this model cannot forget a part."""
        if not self._memory:
            return False
        return bool(self.call["llama_memory_seq_rm"](self._memory, sequence, tokens, -1))

    def copy(self, source: int, target: int) -> None:
        """Make the sequence `target` a copy of `source`."""
        self.keep(target, 0)
        self.call["llama_memory_seq_cp"](self._memory, source, target, -1, -1)

    def clear(self) -> None:
        """Forget all sequences."""
        if self._memory:
            self.call["llama_memory_clear"](self._memory, False)

    def logits(self, index: int, size: int) -> Any:
        """The logits at a place of the last step, in an array that the next step overwrites."""
        import numpy as np

        return np.ctypeslib.as_array(self.call["llama_get_logits_ith"](self._context, index), (size,))

    def embedding(self, sequence: int) -> Any:
        """The pooled embedding of a sequence of the last step, as an array of its own."""
        import numpy as np

        return np.ctypeslib.as_array(
            self.call["llama_get_embeddings_seq"](self._context, sequence), (self.width,)
        ).copy()


def default_threads() -> int:
    """All cores but one: the gateway works beside the engine, and a step waits for its slowest thread."""
    return max(1, cores() - 1)


def _as_declared(api: Any, library: ctypes.PyDLL, name: str) -> Any:
    """A function of the library, with the types that its Python package gives it."""
    function, declared = getattr(library, name), getattr(api, name)
    function.restype, function.argtypes = declared.restype, declared.argtypes
    return function


def _every_percent(progress: Callable[[float], None]) -> Callable[[float, object], bool]:
    told = -1

    def tell(done: float, _: object) -> bool:
        nonlocal told
        if (percent := int(done * 100)) > told:
            told = percent
            progress(percent / 100)
        return True

    return tell


def _reason(errors: Sequence[str]) -> str:
    """The first error that the library logged; the later ones say what failed because of it."""
    return next(iter(errors), "the library gives no reason").removeprefix("llama_model_load: ")
