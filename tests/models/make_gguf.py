"""Write a GGUF file with random weights: valid, the same for the same seed, and saying nothing that makes sense.

python make_gguf.py tiny.gguf                                  # 2 layers, 64 dimensions, 0.3 MB
python make_gguf.py big.gguf --layers 12 --width 512 --heads 8 --kv-heads 8 --feed 1536 --words 32000  # 150 MB
"""

import argparse
import struct
from collections.abc import Sequence
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
    for name, default in (
        ("seed", 0), ("layers", 2), ("width", 64), ("heads", 4), ("kv-heads", 2), ("feed", 128), ("words", 0),
        ("context", 2048),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    pieces, kinds = vocabulary(args.words)
    kind = {"F32": F32, "F16": F16, "Q8_0": Q8_0}[args.type]
    with args.path.open("wb") as file:
        write(file, header(args, pieces, kinds, kind), tensors(args, len(pieces)), kind)


def vocabulary(words: int) -> tuple[list[str], list[int]]:
    """The pieces of a SentencePiece vocabulary, and their kinds: specials, bytes, characters, made-up words."""
    characters = ["\u2581"] + [chr(code) for code in range(33, 127)]  # U+2581 stands for a space
    pieces = [*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256)), *characters]
    kinds = [2] + [3] * (len(SPECIALS) - 1) + [6] * 256 + [1] * len(characters)
    filler = max(0, words - len(pieces))
    return pieces + [f"\u2581w{number}" for number in range(filler)], kinds + [1] * filler


def header(args: argparse.Namespace, pieces: Sequence[str], kinds: Sequence[int], kind: int) -> dict[str, Any]:
    """The keys: each a type and a value, for arrays the type of the items too."""
    return {
        "general.architecture": (TEXT, "llama"),
        "general.name": (TEXT, "random"),
        "general.file_type": (UINT32, {F32: 0, F16: 1, Q8_0: 7}[kind]),
        "general.quantization_version": (UINT32, 2),
        "llama.vocab_size": (UINT32, len(pieces)),
        "llama.context_length": (UINT32, args.context),
        "llama.embedding_length": (UINT32, args.width),
        "llama.block_count": (UINT32, args.layers),
        "llama.feed_forward_length": (UINT32, args.feed),
        "llama.attention.head_count": (UINT32, args.heads),
        "llama.attention.head_count_kv": (UINT32, args.kv_heads),
        "llama.attention.layer_norm_rms_epsilon": (FLOAT, 1e-5),
        "llama.rope.dimension_count": (UINT32, args.width // args.heads),
        "tokenizer.ggml.model": (TEXT, "llama"),
        "tokenizer.ggml.tokens": (ARRAY, TEXT, pieces),
        "tokenizer.ggml.scores": (ARRAY, FLOAT, [-float(nth) for nth in range(len(pieces))]),
        "tokenizer.ggml.token_type": (ARRAY, INT32, kinds),
        "tokenizer.ggml.bos_token_id": (UINT32, 1),
        "tokenizer.ggml.eos_token_id": (UINT32, 2),
        "tokenizer.ggml.unknown_token_id": (UINT32, 0),
        "tokenizer.ggml.add_bos_token": (BOOL, True),
        "tokenizer.ggml.add_space_prefix": (BOOL, False),
        "tokenizer.chat_template": (TEXT, TEMPLATE),
    }


def tensors(args: argparse.Namespace, words: int) -> dict[str, Any]:
    random = np.random.default_rng(args.seed)
    keys = args.width // args.heads * args.kv_heads

    def matrix(rows: int, columns: int) -> Any:
        return random.standard_normal((rows, columns), dtype=np.float32) / np.float32(columns**0.5)

    found = {"token_embd": matrix(words, args.width) * np.float32(args.width**0.5)}
    shapes = {
        "attn_q": (args.width, args.width), "attn_k": (keys, args.width), "attn_v": (keys, args.width),
        "attn_output": (args.width, args.width), "ffn_gate": (args.feed, args.width), "ffn_up": (args.feed, args.width),
        "ffn_down": (args.width, args.feed),
    }  # fmt: skip
    for layer in range(args.layers):
        found |= {f"blk.{layer}.{name}": matrix(*shape) for name, shape in shapes.items()}
        found |= {f"blk.{layer}.{name}": np.ones(args.width, np.float32) for name in ("attn_norm", "ffn_norm")}
    found["output_norm"] = np.ones(args.width, np.float32)
    found["output"] = matrix(words, args.width) * 4  # sharper: fewer ties between the likeliest tokens
    return found


def write(file: BinaryIO, keys: dict[str, Any], weights: dict[str, Any], kind: int) -> None:
    file.write(struct.pack("<4sIQQ", b"GGUF", 3, len(weights), len(keys)))
    file.writelines(text(key) + valued(*value) for key, value in keys.items())
    data, offset = [], 0
    for name, weight in weights.items():
        stored = F32 if weight.ndim == 1 else kind
        raw = encoded(weight, stored)
        raw += bytes(-len(raw) % ALIGNMENT)
        dimensions = weight.shape[::-1]
        file.write(text(f"{name}.weight") + struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions))
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
