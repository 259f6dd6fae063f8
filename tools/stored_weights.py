"""Ways in which checkpoints store weights, and what those stand for.

A format takes a file's tensor and gives back a Stored: what the file has for it, and the float32 numbers that its reader
must find. Used by make_single_files.py; not a program.
"""

import json
import re
from dataclasses import dataclass, field

import numpy as np
import torch

import gguf_blocks

F8 = torch.float8_e4m3fn
F8_MOST = 448.0
MOST_GROUP = 256  # inputs in a block of ConvRot's rotation


@dataclass
class Stored:
    """A tensor as a file has it."""

    weight: object  # a torch tensor, or (bytes, GGUF type)
    meaning: torch.Tensor  # float32
    extras: dict = field(default_factory=dict)  # {name of the layer + suffix: tensor}


def is_block_matrix(name, tensor):
    """Whether a tensor is a matrix of one of a model's blocks: others are small, and files keep them as they are."""
    return tensor.dim() == 2 and re.match(r"(model\.)?(layers|\w+_refiner|\w+_blocks|blk)\.\d+\.", name) is not None


def plain(dtype):
    """Every tensor converted."""
    def store(_, tensor):
        weight = tensor.to(dtype)
        return Stored(weight, weight.float())
    return store


def _of_blocks(store_matrix, otherwise):
    """Matrices of blocks by one format, other tensors by another."""
    return lambda name, tensor: (store_matrix if is_block_matrix(name, tensor) else otherwise)(name, tensor)


def _f8(suffix, constants=None, note=None):
    """8-bit floats with a scale for the tensor. suffix: of the scale's name, behind the layer's; constants: of others."""
    def store(name, tensor):
        scale = (tensor.float().abs().max() / F8_MOST).clamp(min=1e-12)
        weight = (tensor.float() / scale).to(F8)
        layer = name.removesuffix(".weight")
        extras = {f"{layer}.{suffix}": scale}
        extras.update({f"{layer}.{end}": torch.tensor(value) for end, value in (constants or {}).items()})
        if note:
            extras[f"{layer}.comfy_quant"] = json_bytes(note)
        return Stored(weight, weight.float() * scale, extras)
    return store


def json_bytes(value):
    """A JSON object as ComfyUI keeps it in a file: its text in a uint8 tensor."""
    return torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)


def hadamard(size):
    """ConvRot's matrix: the regular Hadamard matrix of a power of 4, symmetric and its own inverse (arXiv:2512.03673)."""
    four = torch.tensor([[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]], dtype=torch.float64) / 2
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < size:
        matrix = torch.kron(matrix, four)
    return matrix


def rotated(matrix, group):
    """The matrix times blocks of hadamard(group), in float64."""
    blocks = matrix.double().reshape(len(matrix), -1, group)
    return (blocks @ hadamard(group)).reshape(matrix.shape)


def _i8(rotate):
    """8-bit integers with a scale for each row, rotated in the largest blocks that divide the inputs."""
    def store(name, tensor):
        group = next((size for size in (MOST_GROUP, 64, 16, 4) if tensor.shape[1] % size == 0), 0) if rotate else 0
        turned = rotated(tensor, group) if group else tensor.double()
        scale = (turned.abs().amax(1, keepdim=True) / 127).clamp(min=1e-12).float()
        weight = (turned / scale.double()).round().clamp(-127, 127).to(torch.int8)
        meaning = weight.double() * scale.double()
        note = {"format": "int8_tensorwise"}
        if group:
            meaning = rotated(meaning, group)
            note.update(convrot=True, convrot_groupsize=group)
        layer = name.removesuffix(".weight")
        return Stored(weight, meaning.float(), {f"{layer}.weight_scale": scale, f"{layer}.comfy_quant": json_bytes(note)})
    return store


# Of safetensors files. f8: only a conversion; f8_all: of biases and norms, too; f8_scaled: ComfyUI's older scales;
# f8_comfy: its newer ones, whose format stands beside each weight, of f8_header in the header; f8_bfl: Black Forest Labs'.
SAFETENSORS = {
    "f32": plain(torch.float32),
    "f16": plain(torch.float16),
    "bf16": plain(torch.bfloat16),
    "f8": _of_blocks(plain(F8), plain(torch.bfloat16)),
    "f8_e5m2": _of_blocks(plain(torch.float8_e5m2), plain(torch.bfloat16)),
    "f8_all": plain(F8),
    "f8_scaled": _of_blocks(_f8("scale_weight", {"scale_input": 1.0}), plain(torch.bfloat16)),
    "f8_comfy": _of_blocks(_f8("weight_scale", note={"format": "float8_e4m3fn"}), plain(torch.bfloat16)),
    "f8_header": _of_blocks(_f8("weight_scale"), plain(torch.bfloat16)),
    "f8_bfl": _of_blocks(_f8("weight_scale", {"input_scale": 0.25}), plain(torch.bfloat16)),
    "i8": _of_blocks(_i8(rotate=False), plain(torch.float32)),
    "i8_convrot": _of_blocks(_i8(rotate=True), plain(torch.float32)),
}

# What llama.cpp takes where a type's blocks do not divide a row.
FALLBACKS = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "IQ4_XS": "IQ4_NL", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
GGUF = ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl",
        "iq4_xs"]


def gguf_format(gguf, type_name, with_vectors=False):
    """Matrices of blocks and token tables in a GGUF type, other tensors in float32.

    gguf: the package. with_vectors: every tensor in the type, as stable-diffusion.cpp's converter has it. Rows that no
    block divides are stored in another type of the same kind, or in float16."""
    def type_of(columns):
        for name in (type_name, FALLBACKS.get(type_name, type_name)):
            if columns % gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]][0] == 0:
                return gguf.GGMLQuantizationType[name]
        return gguf.GGMLQuantizationType.F16

    def store(name, tensor):
        values = tensor.float().contiguous().numpy()
        is_matrix = is_block_matrix(name, tensor) or name.startswith("token_embd")
        kind = type_of(values.shape[-1]) if with_vectors or is_matrix else gguf.GGMLQuantizationType.F32
        if kind.name in gguf_blocks.ENCODERS:
            blocks = values.reshape(-1, gguf.GGML_QUANT_SIZES[kind][0])
            data = gguf_blocks.ENCODERS[kind.name](blocks).reshape(*values.shape[:-1], -1)
        else:
            data = gguf.quantize(values, kind)
        meaning = torch.from_numpy(np.ascontiguousarray(gguf.dequantize(data, kind), np.float32)).reshape(tensor.shape)
        return Stored((data, kind), meaning)
    return store
