"""Write a GGUF file with random weights: valid, the same for the same seed, and saying nothing that makes sense.

python make_gguf.py tiny.gguf                                  # 2 layers, 64 dimensions, 0.3 MB
python make_gguf.py bert.gguf --architecture bert              # makes embeddings, pooled by their mean
python make_gguf.py mamba.gguf --architecture mamba            # recurrent: it cannot forget a part of what it has read
python make_gguf.py big.gguf --layers 12 --width 512 --heads 8 --kv-heads 8 --feed 1536 --words 32000  # 150 MB
"""

import argparse
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

SPECIALS = ["<unk>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
UINT32, FLOAT, BOOL, TEXT, ARRAY, INT32 = 4, 6, 7, 8, 9, 5
F32, F16, Q8_0 = 0, 1, 8
ALIGNMENT = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--type", choices=["F32", "F16", "Q8_0"], default="F16")
    parser.add_argument("--architecture", choices=["llama", "bert", "mamba"], default="llama")
    for name, default in (
        ("seed", 0), ("layers", 2), ("width", 64), ("heads", 4), ("kv-heads", 2), ("feed", 128), ("words", 0),
        ("context", 2048),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    kind = {"F32": F32, "F16": F16, "Q8_0": Q8_0}[args.type]
    words = word_pieces() if args.architecture == "bert" else vocabulary(args.words)
    keys = {**general(args, kind), **OWN_KEYS[args.architecture](args), **words}
    weights = TENSORS[args.architecture](args, Random(args.seed), len(words["tokenizer.ggml.tokens"][2]))
    with args.path.open("wb") as file:
        write(file, keys, weights, kind)


Keys = dict[str, Any]
"""Each a type and a value, for arrays the type of the items too."""


def general(args: argparse.Namespace, kind: int) -> Keys:
    """What files of all architectures say."""
    own = args.architecture
    return {
        "general.architecture": (TEXT, own),
        "general.name": (TEXT, "random"),
        "general.file_type": (UINT32, {F32: 0, F16: 1, Q8_0: 7}[kind]),
        "general.quantization_version": (UINT32, 2),
        f"{own}.context_length": (UINT32, args.context),
        f"{own}.embedding_length": (UINT32, args.width),
        f"{own}.block_count": (UINT32, args.layers),
    }


# --- words


def vocabulary(words: int) -> Keys:
    """A SentencePiece vocabulary: specials, bytes, characters, made-up words; and a chat template."""
    characters = ["\u2581"] + [chr(code) for code in range(33, 127)]  # U+2581 stands for a space
    pieces = [*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256)), *characters]
    kinds = [2] + [3] * (len(SPECIALS) - 1) + [6] * 256 + [1] * len(characters)
    filler = max(0, words - len(pieces))
    return {
        "tokenizer.ggml.model": (TEXT, "llama"),
        "tokenizer.ggml.tokens": (ARRAY, TEXT, pieces + [f"\u2581w{number}" for number in range(filler)]),
        "tokenizer.ggml.scores": (ARRAY, FLOAT, [-float(nth) for nth in range(len(pieces) + filler)]),
        "tokenizer.ggml.token_type": (ARRAY, INT32, kinds + [1] * filler),
        "tokenizer.ggml.bos_token_id": (UINT32, 1),
        "tokenizer.ggml.eos_token_id": (UINT32, 2),
        "tokenizer.ggml.unknown_token_id": (UINT32, 0),
        "tokenizer.ggml.add_bos_token": (BOOL, True),
        "tokenizer.ggml.add_space_prefix": (BOOL, False),
        "tokenizer.chat_template": (TEXT, TEMPLATE),
    }


def word_pieces() -> Keys:
    """A WordPiece vocabulary: specials, and letters, at the beginning of a word and within."""
    letters = [chr(code) for code in range(97, 123)]
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*specials, *(f"\u2581{letter}" for letter in letters), *letters]
    places = {"padding": 0, "unknown": 1, "cls": 2, "bos": 2, "seperator": 3, "eos": 3, "mask": 4}  # sic
    return {
        "tokenizer.ggml.model": (TEXT, "bert"),
        "tokenizer.ggml.tokens": (ARRAY, TEXT, pieces),
        "tokenizer.ggml.token_type": (ARRAY, INT32, [3] * len(specials) + [1] * 2 * len(letters)),
        "tokenizer.ggml.token_type_count": (UINT32, 2),
        **{f"tokenizer.ggml.{name}_token_id": (UINT32, place) for name, place in places.items()},
    }


# --- architectures


def llama_keys(args: argparse.Namespace) -> Keys:
    return {
        "llama.feed_forward_length": (UINT32, args.feed),
        "llama.attention.head_count": (UINT32, args.heads),
        "llama.attention.head_count_kv": (UINT32, args.kv_heads),
        "llama.attention.layer_norm_rms_epsilon": (FLOAT, 1e-5),
        "llama.rope.dimension_count": (UINT32, args.width // args.heads),
    }


def bert_keys(args: argparse.Namespace) -> Keys:
    return {
        "bert.feed_forward_length": (UINT32, args.feed),
        "bert.attention.head_count": (UINT32, args.heads),
        "bert.attention.layer_norm_epsilon": (FLOAT, 1e-5),
        "bert.attention.causal": (BOOL, False),
        "bert.pooling_type": (UINT32, 1),
    }


def mamba_keys(args: argparse.Namespace) -> Keys:
    return {
        "mamba.feed_forward_length": (UINT32, 0),
        "mamba.attention.head_count": (UINT32, 0),
        "mamba.attention.layer_norm_rms_epsilon": (FLOAT, 1e-5),
        "mamba.ssm.conv_kernel": (UINT32, 4),
        "mamba.ssm.inner_size": (UINT32, 2 * args.width),
        "mamba.ssm.state_size": (UINT32, 16),
        "mamba.ssm.time_step_rank": (UINT32, args.width // 16),
    }


class Random:
    """Weights, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._numbers = np.random.default_rng(seed)

    def matrix(self, rows: int, columns: int) -> Any:
        return self._numbers.standard_normal((rows, columns), dtype=np.float32) / np.float32(columns**0.5)


def llama_tensors(args: argparse.Namespace, random: Random, words: int) -> dict[str, Any]:
    keys = args.width // args.heads * args.kv_heads
    found = {"token_embd.weight": random.matrix(words, args.width) * np.float32(args.width**0.5)}
    shapes = {
        "attn_q": (args.width, args.width), "attn_k": (keys, args.width), "attn_v": (keys, args.width),
        "attn_output": (args.width, args.width), "ffn_gate": (args.feed, args.width), "ffn_up": (args.feed, args.width),
        "ffn_down": (args.width, args.feed),
    }  # fmt: skip
    for layer in range(args.layers):
        found |= {f"blk.{layer}.{name}.weight": random.matrix(*shape) for name, shape in shapes.items()}
        found |= {f"blk.{layer}.{name}.weight": np.ones(args.width, np.float32) for name in ("attn_norm", "ffn_norm")}
    found["output_norm.weight"] = np.ones(args.width, np.float32)
    found["output.weight"] = random.matrix(words, args.width) * 4  # sharper: fewer ties between the likeliest tokens
    return found


def bert_tensors(args: argparse.Namespace, random: Random, words: int) -> dict[str, Any]:
    width, feed = args.width, args.feed
    found = {
        "token_embd.weight": random.matrix(words, width) * np.float32(width**0.5),
        "token_types.weight": random.matrix(2, width),
        "position_embd.weight": random.matrix(args.context, width),
        **norm("token_embd_norm", width),
    }
    shapes = {
        "attn_q": (width, width), "attn_k": (width, width), "attn_v": (width, width), "attn_output": (width, width),
        "ffn_up": (feed, width), "ffn_down": (width, feed),
    }  # fmt: skip
    for layer in range(args.layers):
        for name, shape in shapes.items():
            found[f"blk.{layer}.{name}.weight"] = random.matrix(*shape)
            found[f"blk.{layer}.{name}.bias"] = np.zeros(shape[0], np.float32)
        found |= norm(f"blk.{layer}.attn_output_norm", width) | norm(f"blk.{layer}.layer_output_norm", width)
    return found


def norm(name: str, width: int) -> dict[str, Any]:
    return {f"{name}.weight": np.ones(width, np.float32), f"{name}.bias": np.zeros(width, np.float32)}


def mamba_tensors(args: argparse.Namespace, random: Random, words: int) -> dict[str, Any]:
    width, inner, state, rank = args.width, 2 * args.width, 16, args.width // 16
    found = {"token_embd.weight": random.matrix(words, width) * np.float32(width**0.5)}
    for layer in range(args.layers):
        found |= {
            f"blk.{layer}.{name}": weight
            for name, weight in {
                "attn_norm.weight": np.ones(width, np.float32),
                "ssm_in.weight": random.matrix(2 * inner, width),
                "ssm_conv1d.weight": random.matrix(inner, 4),
                "ssm_conv1d.bias": np.zeros(inner, np.float32),
                "ssm_x.weight": random.matrix(rank + 2 * state, inner),
                "ssm_dt.weight": random.matrix(inner, rank),
                "ssm_dt.bias": np.full(inner, -2, np.float32),
                "ssm_a": -np.tile(np.arange(1, state + 1, dtype=np.float32), (inner, 1)),
                "ssm_d": np.ones(inner, np.float32),
                "ssm_out.weight": random.matrix(width, inner),
            }.items()
        }
    found["output_norm.weight"] = np.ones(width, np.float32)
    found["output.weight"] = random.matrix(words, width) * 4
    return found


OWN_KEYS = {"llama": llama_keys, "bert": bert_keys, "mamba": mamba_keys}
TENSORS = {"llama": llama_tensors, "bert": bert_tensors, "mamba": mamba_tensors}
EXACT = ("ssm_a", "ssm_conv1d.weight")
"""Matrices that the library takes in F32 only."""


# --- the file


def write(file: BinaryIO, keys: dict[str, Any], weights: dict[str, Any], kind: int) -> None:
    file.write(struct.pack("<4sIQQ", b"GGUF", 3, len(weights), len(keys)))
    file.writelines(text(key) + valued(*value) for key, value in keys.items())
    data, offset = [], 0
    for name, weight in weights.items():
        stored = F32 if weight.ndim == 1 or name.endswith(EXACT) else kind
        raw = encoded(weight, stored)
        raw += bytes(-len(raw) % ALIGNMENT)
        dimensions = weight.shape[::-1]
        file.write(text(name) + struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions))
        file.write(struct.pack("<IQ", stored, offset))
        offset += len(raw)
        data.append(raw)
    file.write(bytes(-file.tell() % ALIGNMENT))
    for raw in data:
        file.write(raw)


def encoded(weight: Any, kind: int) -> bytes:
    if kind != Q8_0:
        return bytes(weight.astype({F32: "<f4", F16: "<f2"}[kind]).tobytes())
    blocks = weight.reshape(-1, 32)
    scale = (np.abs(blocks).max(axis=1, keepdims=True) / 127).astype("<f4")
    whole = np.round(blocks / np.where(scale, scale, 1)).astype("i1")
    rows = np.empty(len(blocks), dtype=[("scale", "<f2"), ("whole", "i1", 32)])
    rows["scale"], rows["whole"] = scale[:, 0], whole
    return rows.tobytes()


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def valued(kind: int, *value: Any) -> bytes:
    if kind == ARRAY:
        items, values = value
        return struct.pack("<IIQ", kind, items, len(values)) + b"".join(plain(items, each) for each in values)
    return struct.pack("<I", kind) + plain(kind, *value)


def plain(kind: int, value: Any) -> bytes:
    if kind == TEXT:
        return text(value)
    return struct.pack({UINT32: "<I", INT32: "<i", FLOAT: "<f", BOOL: "<?"}[kind], value)


if __name__ == "__main__":
    main()
