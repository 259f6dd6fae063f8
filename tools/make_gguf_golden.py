#!/usr/bin/env python3
"""Makes the small GGUF files of the tests with PyPI's gguf, the package of llama.cpp's converters.

    tools/make_gguf_golden.py       writes tests/data/io/reference.gguf and tests/data/text/small_tokenizer.gguf

The first holds a key of every type and tensors of several; tests/io/gguf_test.cc says what is expected. The second is
tests/data/text/small_tokenizer as llama.cpp's convert_hf_to_gguf.py writes a Qwen2 tokenizer: the tokens in the order of
their ids, merges as "a b", added tokens that are special of type CONTROL, other added tokens of type USER_DEFINED.
Needs PyPI's gguf and numpy (tools/requirements.txt).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

DATA = Path(__file__).resolve().parents[1] / "tests/data"


def finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make_reference(path: Path) -> None:
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(path, "lumina2")
    writer.add_custom_alignment(64)
    writer.add_uint8("test.u8", 255)
    writer.add_int8("test.i8", -128)
    writer.add_uint16("test.u16", 65535)
    writer.add_int16("test.i16", -32768)
    writer.add_uint32("test.u32", 4294967295)
    writer.add_int32("test.i32", -2147483648)
    writer.add_uint64("test.u64", 18446744073709551615)
    writer.add_int64("test.i64", -9223372036854775808)
    writer.add_float32("test.f32", 0.5)
    writer.add_float64("test.f64", 0.1)
    writer.add_bool("test.yes", True)
    writer.add_bool("test.no", False)
    writer.add_string("test.text", "a \u732b\n")
    writer.add_array("test.strings", ["", "\u0120the", "cat"])
    writer.add_array("test.integers", [3, -4, 5])
    writer.add_array("test.floats", [0.5, 1.5])
    writer.add_array("comfy.gguf.orig_shape.reshaped", [4, 16, 4])

    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    writer.add_tensor("matrix", matrix)
    writer.add_tensor("half", np.array([1.0, -2.5], dtype=np.float16))
    # 1 and -2.5 as bfloat16: the upper halves of the float32 numbers.
    brain = (np.array([1.0, -2.5], dtype=np.float32).view(np.uint32) >> 16).astype(np.uint16)
    writer.add_tensor("brain", brain.view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.add_tensor("codes", np.array([[-127, 0], [1, 127]], dtype=np.int8))
    writer.add_tensor("ids", np.array([-7], dtype=np.int64))
    rows = np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 64)
    for name, kind in (("q8", gguf.GGMLQuantizationType.Q8_0), ("q4", gguf.GGMLQuantizationType.Q4_0)):
        writer.add_tensor(name, gguf.quants.quantize(rows, kind), raw_dtype=kind)
    vector = gguf.quants.quantize(rows[0], gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("vector", vector, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("reshaped", np.arange(256, dtype=np.float32).reshape(1, 256))
    finish(writer)


def make_tokenizer(folder: Path, path: Path) -> None:
    import gguf

    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    types = {id: (token, gguf.TokenType.NORMAL) for token, id in tokenizer["model"]["vocab"].items()}
    for token in tokenizer["added_tokens"]:
        kind = gguf.TokenType.CONTROL if token["special"] else gguf.TokenType.USER_DEFINED
        types[token["id"]] = (token["content"], kind)
    # A converter fills up to the rows of the embedding with tokens that nothing can mean.
    rows = max(types) + 1 + 64
    for id in range(rows):
        types.setdefault(id, (f"[PAD{id}]", gguf.TokenType.UNUSED))
    merges = tokenizer["model"]["merges"]
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([types[id][0] for id in range(rows)])
    writer.add_token_types([types[id][1] for id in range(rows)])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_bool("tokenizer.ggml.add_bos_token", False)
    finish(writer)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    make_reference(DATA / "io/reference.gguf")
    make_tokenizer(DATA / "text/small_tokenizer", DATA / "text/small_tokenizer.gguf")


if __name__ == "__main__":
    main()
