"""Makes the golden file of stored weights: bytes as files hold them, and the float32 numbers of the formats' references.

    python tools/make_quantised_golden.py --out tests/data

stored_numbers.safetensors, of some cases: `<case>.bytes` uint8 [rows, bytes], `<case>.numbers` float32 [rows, columns]
and, where it has them, `<case>.scales` float32 [1] or [rows].
* `q4_0` and the others of GGUF: random bytes, with finite scales among which are zeros, subnormal numbers and the
  largest; numbers of the package gguf.
* `f32`, `f16`, `bf16`, `f8_e4m3`, `f8_e5m2`: numbers of PyTorch. All 8-bit numbers stand in theirs, NaN included.
* `f8_*.one`, `f8_*.each_row`, `i8.one`, `i8.each_row`: numbers of comfy-kitchen.
* `i8.rotated<block>`: rotated back in float64 and rounded once; `<case>.kitchen` are comfy-kitchen's numbers, which are
  sums of float32 products. `i8.rotated<block>_exact`: the scales are powers of two, so that no sum is rounded, and the
  numbers are comfy-kitchen's.
"""

import argparse
from pathlib import Path


def parse_options():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("tests/data"))
    return parser.parse_args()


if __name__ == "__main__":
    OPTIONS = parse_options()  # before the imports that follow: --help needs none of them

import gguf
import numpy as np
import torch
from comfy_kitchen.backends.eager import quantization as kitchen
from comfy_kitchen.tensor.int8_utils import _build_hadamard
from safetensors.torch import save_file

ROWS, COLUMNS = 3, 512
ROTATIONS = (16, 64, 256)
# Where a block has its half-precision numbers.
HALVES = {
    "q4_0": (0,), "q4_1": (0, 2), "q5_0": (0,), "q5_1": (0, 2), "q8_0": (0,), "q2_k": (80, 82), "q3_k": (108,),
    "q4_k": (0, 2), "q5_k": (0, 2), "q6_k": (208,), "iq4_nl": (0,), "iq4_xs": (0,),
}  # fmt: skip
# 0, -0, the smallest and the largest subnormal numbers, 2^-14, 1, the largest and its opposite.
SPECIAL_HALVES = (0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x0400, 0x3C00, 0x7BFF, 0xFBFF)
FLOATS_8 = {"f8_e4m3": torch.float8_e4m3fn, "f8_e5m2": torch.float8_e5m2}


def finite_halves(random, count):
    """uint16 [count]: every other one special, the rest any that are no NaN and not infinite."""
    halves = random.integers(0, 0x7C00, count) | random.integers(0, 2, count) << 15
    halves[::2] = np.resize(SPECIAL_HALVES, count)[::2]
    return halves.astype(np.uint16)


def gguf_case(random, name):
    """(bytes, numbers) of a type of GGUF."""
    kind = gguf.GGMLQuantizationType[name.upper()]
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = random.integers(0, 256, (ROWS * COLUMNS // elements, size), dtype=np.uint8)
    for offset in HALVES[name]:
        halves = finite_halves(random, len(blocks) + offset)[offset:]
        blocks[:, offset : offset + 2] = halves.view(np.uint8).reshape(-1, 2)
    data = blocks.reshape(ROWS, -1)
    return torch.from_numpy(data), torch.from_numpy(gguf.dequantize(data, kind))


def plain_cases(random):
    """{case: (bytes, numbers)} of types without blocks."""
    halves = torch.from_numpy(finite_halves(random, ROWS * 64).reshape(ROWS, 64))
    singles = torch.from_numpy(random.standard_normal((ROWS, 64)).astype(np.float32))
    singles[0, :5] = torch.tensor([0.0, -0.0, 1e-45, -1e-38, torch.inf])
    cases = {
        "f32": (singles.view(torch.uint8), singles),
        "f16": (halves.view(torch.uint8), halves.view(torch.float16).to(torch.float32)),
        "bf16": (singles.bfloat16().view(torch.uint8), singles.bfloat16().to(torch.float32)),
    }
    every_byte = torch.arange(256, dtype=torch.uint8).reshape(2, 128)
    for name, dtype in FLOATS_8.items():
        cases[name] = every_byte, every_byte.view(dtype).to(torch.float32)
    cases["i8"] = every_byte, every_byte.view(torch.int8).to(torch.float32)
    return cases


def scaled_cases(random):
    """{case: (bytes, numbers, scales)} of 8-bit numbers with scales."""
    every_byte = torch.arange(256, dtype=torch.uint8).reshape(2, 128)
    cases = {}
    for which, count in (("one", 1), ("each_row", 2)):
        scales = torch.from_numpy(random.uniform(1e-4, 3, count).astype(np.float32))
        column = scales if count == 1 else scales.reshape(-1, 1)
        numbers = kitchen.dequantize_int8_simple(every_byte.view(torch.int8), column)
        cases[f"i8.{which}"] = every_byte, numbers, scales
        for name, dtype in FLOATS_8.items():
            numbers = kitchen.dequantize_per_tensor_fp8(every_byte.view(dtype), column, torch.float32)
            cases[f"{name}.{which}"] = every_byte, numbers, scales
    return cases


def rotated_tensors(random):
    """{name: tensor} of int8 numbers that are stored rotated."""
    tensors = {}
    for rotation in ROTATIONS:
        stored = torch.from_numpy(random.integers(-128, 128, (ROWS, 512), dtype=np.int8))
        stored[0, :rotation] = torch.where(_build_hadamard(rotation)[1] > 0, 127, -128)  # the largest sum
        exact = torch.tensor([0.25, 2.0**-10, 1.0])
        free = torch.from_numpy(random.uniform(1e-4, 1e-2, ROWS).astype(np.float32))
        for case, scales in ((f"i8.rotated{rotation}", free), (f"i8.rotated{rotation}_exact", exact)):
            by_kitchen = kitchen.dequantize_int8_convrot_weight(stored, scales.reshape(-1, 1), rotation)
            signs = (_build_hadamard(rotation) * rotation**0.5).double()
            sums = (stored.reshape(ROWS, -1, rotation).double() @ signs).reshape(ROWS, -1)
            rounded = (sums * scales.reshape(-1, 1).double() / rotation**0.5).float()
            if scales is exact:
                assert torch.equal(rounded, by_kitchen)
                rounded = by_kitchen
            else:
                tensors[f"{case}.kitchen"] = by_kitchen
            tensors |= {f"{case}.bytes": stored.view(torch.uint8), f"{case}.scales": scales, f"{case}.numbers": rounded}
    return tensors


def main(options):
    """Writes the file."""
    random = np.random.default_rng(20261130)
    tensors = rotated_tensors(random)
    cases = {name: gguf_case(random, name) for name in HALVES} | plain_cases(random) | scaled_cases(random)
    for name, case in cases.items():
        for what, tensor in zip(("bytes", "numbers", "scales"), case):
            tensors[f"{name}.{what}"] = tensor
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, options.out / "stored_numbers.safetensors")


if __name__ == "__main__":
    main(OPTIONS)
