"""Lists every tensor name and shape of a config folder's classes, made by diffusers and transformers without weights.

    python tools/make_tensor_names.py --model models/z-image-turbo --out tests/data/tensor_names
    python tools/make_tensor_names.py --model models/flux2-klein-4b --out tests/data/tensor_names/flux2-klein-4b

Writes {transformer,text_encoder,vae}.json, each {name: shape} in the order of the class's state dict. The classes are
those of model_index.json, but the text encoder is the bare Qwen3Model: checkpoints of Qwen3ForCausalLM put `model.` in
front of the same names.
"""

import argparse
import json
from pathlib import Path


def parse_options():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/z-image-turbo"), help="folder of configs")
    parser.add_argument("--out", type=Path, default=Path("tests/data/tensor_names"))
    return parser.parse_args()


if __name__ == "__main__":
    OPTIONS = parse_options()  # before the imports that follow: --help needs none of them

import diffusers
import torch
from transformers import Qwen3Config, Qwen3Model

import reference


def diffusers_part(folder, class_name):
    """The part of a config folder, on the present default device."""
    part = getattr(diffusers, class_name)
    return part.from_config(part.load_config(folder))


def main(options):
    options.out.mkdir(parents=True, exist_ok=True)
    index = json.loads((options.model / "model_index.json").read_text())
    with torch.device("meta"):
        parts = {
            "transformer": diffusers_part(options.model / "transformer", index["transformer"][1]),
            "text_encoder": Qwen3Model(Qwen3Config.from_pretrained(options.model / "text_encoder")),
            "vae": diffusers_part(options.model / "vae", index["vae"][1]),
        }
    for part, module in parts.items():
        shapes = {name: list(tensor.shape) for name, tensor in module.state_dict().items()}
        reference.write_json(shapes, options.out / f"{part}.json")
        print(f"{part}: {len(shapes)} tensors, {sum(tensor.numel() for tensor in module.state_dict().values())} values")


if __name__ == "__main__":
    main(OPTIONS)
