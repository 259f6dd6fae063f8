"""How single files name and stack the tensors of diffusers folders, written apart from the engine's own tables.

A naming is a list of FileTensor; `pack` makes a file's tensors by one, `unpack` turns them back. Used by
make_single_files.py; not a program.
"""

import re
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class FileTensor:
    """A tensor of a file: those of a diffusers folder under one another."""

    name: str
    parts: tuple  # names in the folder
    swapped: bool = False  # whether its two halves lie in the other order
    convolution: bool = False  # whether a matrix is kept as a 1x1 convolution


def pack(naming, tensors):
    """{name in the file: tensor} of a folder's tensors, each of which the naming has once."""
    used = [part for entry in naming for part in entry.parts]
    assert sorted(used) == sorted(tensors), set(used) ^ set(tensors)
    files = {}
    for entry in naming:
        tensor = torch.cat([tensors[part] for part in entry.parts]) if len(entry.parts) > 1 else tensors[entry.parts[0]]
        if entry.swapped:
            tensor = torch.cat(tensor.chunk(2)[::-1])
        files[entry.name] = tensor[:, :, None, None] if entry.convolution else tensor
    return files


def unpack(naming, files):
    """The folder's tensors of a file that pack() made, in whatever dtype they are."""
    tensors = {}
    for entry in naming:
        tensor = files[entry.name]
        if entry.convolution:
            tensor = tensor[:, :, 0, 0]
        if entry.swapped:
            tensor = torch.cat(tensor.chunk(2)[::-1])
        parts = tensor.chunk(len(entry.parts)) if len(entry.parts) > 1 else [tensor]
        tensors.update(zip(entry.parts, parts))
    return tensors


def as_named(names):
    """The folder's own names."""
    return [FileTensor(name, (name,)) for name in names]


def _renamed(name, replacements):
    """The name after the first replacement that fits."""
    for pattern, replacement in replacements:
        changed, count = re.subn(pattern, replacement, name)
        if count:
            return changed
    return name


def _stacked(names, groups, replacements):
    """Renames each name; where `groups` has its end as the first of several, one tensor takes all of them."""
    naming = []
    for name in names:
        module, _, kind = name.rpartition(".")
        group = next((group for group in groups if any(module.endswith(end) for end in group)), None)
        if group is None:
            naming.append(FileTensor(_renamed(name, replacements), (name,)))
        elif module.endswith(group[0]):
            stem = module.removesuffix(group[0])
            first = _renamed(name, replacements)
            naming.append(FileTensor(first, tuple(f"{stem}{end}.{kind}" for end in group)))
    return naming


ZIMAGE_NAMES = [
    (r"^all_x_embedder\.\d+-1\.", "x_embedder."),
    (r"^all_final_layer\.\d+-1\.", "final_layer."),
    (r"\.attention\.to_q\.", ".attention.qkv."),
    (r"\.attention\.to_out\.0\.", ".attention.out."),
    (r"\.attention\.norm_([qk])\.", r".attention.\1_norm."),
]


def zimage_native(names):
    """As ComfyUI's files and most GGUF files of Z-Image."""
    return _stacked(names, [(".attention.to_q", ".attention.to_k", ".attention.to_v")], ZIMAGE_NAMES)


def zimage_counted(names):
    """As stable-diffusion.cpp converts a diffusers folder."""
    counted = [(r"\.attention\.to_k\.weight$", ".attention.qkv.weight.1"),
               (r"\.attention\.to_v\.weight$", ".attention.qkv.weight.2")]
    return [FileTensor(_renamed(name, counted + ZIMAGE_NAMES), (name,)) for name in names]


FLUX2_BLOCKS = {
    "attn.to_q": "img_attn.qkv", "attn.add_q_proj": "txt_attn.qkv", "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj", "attn.norm_q": "img_attn.norm.query_norm",
    "attn.norm_k": "img_attn.norm.key_norm", "attn.norm_added_q": "txt_attn.norm.query_norm",
    "attn.norm_added_k": "txt_attn.norm.key_norm", "ff.linear_in": "img_mlp.0", "ff.linear_out": "img_mlp.2",
    "ff_context.linear_in": "txt_mlp.0", "ff_context.linear_out": "txt_mlp.2",
}
FLUX2_SINGLE_BLOCKS = {
    "attn.to_qkv_mlp_proj": "linear1", "attn.to_out": "linear2", "attn.norm_q": "norm.query_norm",
    "attn.norm_k": "norm.key_norm",
}
FLUX2_EDGES = {
    "x_embedder": "img_in", "context_embedder": "txt_in", "proj_out": "final_layer.linear",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "time_guidance_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_guidance_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "double_stream_modulation_img.linear": "double_stream_modulation_img.lin",
    "double_stream_modulation_txt.linear": "double_stream_modulation_txt.lin",
    "single_stream_modulation.linear": "single_stream_modulation.lin",
}


def _flux2(names, norm_kind):
    naming = []
    for name in names:
        module, _, kind = name.rpartition(".")
        block = re.match(r"(single_)?transformer_blocks\.(\d+)\.(.*)", module)
        if not block:
            naming.append(FileTensor(f"{FLUX2_EDGES[module]}.{kind}", (name,), swapped=module == "norm_out.linear"))
            continue
        single, number, inner = block.groups()
        if inner in ("attn.to_k", "attn.to_v", "attn.add_k_proj", "attn.add_v_proj"):
            continue
        table = FLUX2_SINGLE_BLOCKS if single else FLUX2_BLOCKS
        parts = (name,)
        if inner in ("attn.to_q", "attn.add_q_proj"):
            parts = tuple(name.replace("_q", f"_{letter}") for letter in "qkv")
        file_kind = norm_kind if ".norm." in f".{table[inner]}" else kind
        naming.append(FileTensor(f"{single or 'double_'}blocks.{number}.{table[inner]}.{file_kind}", parts))
    return naming


def flux2_native(names):
    """As Black Forest Labs' files of FLUX.2."""
    return _flux2(names, "scale")


def flux2_comfy(names):
    """As ComfyUI writes them."""
    return _flux2(names, "weight")


LLAMA_CPP = {
    "embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output", "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def qwen3_llama_cpp(names):
    """As llama.cpp's GGUF files of Qwen3."""
    naming = []
    for name in names:
        module, _, kind = name.removeprefix("model.").rpartition(".")
        layer = re.match(r"layers\.(\d+)\.(.*)", module)
        file_name = f"blk.{layer[1]}.{LLAMA_CPP[layer[2]]}" if layer else LLAMA_CPP[module]
        naming.append(FileTensor(f"{file_name}.{kind}", (name,)))
    return naming


def _latent_diffusion(names, nested):
    levels = 1 + max(int(found[1]) for name in names if (found := re.match(r"decoder\.up_blocks\.(\d+)", name)))
    naming = []
    for name in names:
        file_name = re.sub(r"^decoder\.up_blocks\.(\d+)", lambda up: f"decoder.up.{levels - 1 - int(up[1])}", name)
        file_name = re.sub(r"^encoder\.down_blocks\.", "encoder.down.", file_name)
        file_name = re.sub(r"\.mid_block\.resnets\.(\d)", lambda mid: f".mid.block_{int(mid[1]) + 1}", file_name)
        for old, new in [(".mid_block.attentions.0.group_norm", ".mid.attn_1.norm"),
                         (".mid_block.attentions.0.to_out.0", ".mid.attn_1.proj_out"),
                         (".mid_block.attentions.0.to_", ".mid.attn_1."), (".resnets.", ".block."),
                         (".conv_shortcut.", ".nin_shortcut."), (".downsamplers.0.", ".downsample."),
                         (".upsamplers.0.", ".upsample."), (".conv_norm_out.", ".norm_out.")]:
            file_name = file_name.replace(old, new)
        if nested:
            file_name = re.sub(r"^quant_conv", "encoder.quant_conv", file_name)
            file_name = re.sub(r"^post_quant_conv", "decoder.post_quant_conv", file_name)
        is_projection = ".mid.attn_1." in file_name and ".norm." not in file_name and file_name.endswith(".weight")
        naming.append(FileTensor(file_name, (name,), convolution=is_projection))
    return naming


def vae_native(names):
    """As FLUX.1's `ae.safetensors`."""
    return _latent_diffusion(names, nested=False)


def vae_nested(names):
    """As Black Forest Labs' file of FLUX.2."""
    return _latent_diffusion(names, nested=True)


def vae_old(names):
    """As diffusers before version 0.18 named the attention of its folders."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    return [FileTensor(re.sub(r"(\.attentions\.0\.)(to_[qkv]|to_out\.0)\.", lambda at: f"{at[1]}{old[at[2]]}.", name),
                       (name,)) for name in names]
