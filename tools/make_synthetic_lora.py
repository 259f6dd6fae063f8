#!/usr/bin/env python3
"""Writes a LoRA of random numbers for all projections of a transformer, to measure with. Needs numpy alone.

    tools/make_synthetic_lora.py --model models/z-image-turbo --rank 16 --out lora.safetensors

Keys are ai-toolkit's (Z-Image) or diffusers' (FLUX.2), numbers float16, small enough to leave a picture a picture.
"""

import argparse
import json
import struct
from pathlib import Path


def zimage(config):
    dim = config["dim"]
    ffn = int(dim / 3 * 8)
    shapes = {"attention.to_q": (dim, dim), "attention.to_k": (dim, dim), "attention.to_v": (dim, dim),
              "attention.to_out.0": (dim, dim), "feed_forward.w1": (ffn, dim), "feed_forward.w3": (ffn, dim),
              "feed_forward.w2": (dim, ffn)}
    counts = {"layers": config["n_layers"], "noise_refiner": config["n_refiner_layers"],
              "context_refiner": config["n_refiner_layers"]}
    for blocks, count in counts.items():
        for i in range(count):
            for name, shape in shapes.items():
                yield f"diffusion_model.{blocks}.{i}.{name}", shape


def flux2(config):
    dim = config["num_attention_heads"] * config["attention_head_dim"]
    ffn = int(dim * config["mlp_ratio"])
    double = {f"attn.{name}": (dim, dim) for name in ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj",
                                                      "add_v_proj", "to_add_out")}
    for side in ("ff", "ff_context"):
        double |= {f"{side}.linear_in": (2 * ffn, dim), f"{side}.linear_out": (dim, ffn)}
    single = {"attn.to_qkv_mlp_proj": (3 * dim + 2 * ffn, dim), "attn.to_out": (dim, dim + ffn)}
    for i in range(config["num_layers"]):
        for name, shape in double.items():
            yield f"transformer.transformer_blocks.{i}.{name}", shape
    for i in range(config["num_single_layers"]):
        for name, shape in single.items():
            yield f"transformer.single_transformer_blocks.{i}.{name}", shape


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="diffusers folder; its configs are enough")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    import numpy as np

    config = json.loads((options.model / "transformer/config.json").read_text())
    modules = zimage(config) if "dim" in config else flux2(config)
    random = np.random.default_rng(1)
    header, data, end = {}, [], 0
    for module, (outs, ins) in modules:
        for key, shape in (("lora_A", (options.rank, ins)), ("lora_B", (outs, options.rank))):
            numbers = (random.standard_normal(shape, dtype=np.float32) * 0.02).astype(np.float16)
            header[f"{module}.{key}.weight"] = {"dtype": "F16", "shape": shape, "data_offsets": [end, end + numbers.nbytes]}
            data.append(numbers.tobytes())
            end += numbers.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(options.out, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for numbers in data:
            file.write(numbers)


if __name__ == "__main__":
    main()
