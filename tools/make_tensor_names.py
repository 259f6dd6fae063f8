"""Lists every tensor name and shape of a config folder's classes, made by diffusers and transformers without weights.

    python tools/make_tensor_names.py --model models/z-image-turbo --out tests/data/tensor_names

Writes {transformer,text_encoder,vae}.json, each {name: shape} in the order of the class's state dict. The text encoder
is the bare Qwen3Model: checkpoints of Qwen3ForCausalLM put `model.` in front of the same names.
"""

import argparse
from pathlib import Path


def parse_options():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/z-image-turbo"), help="folder of configs")
    parser.add_argument("--out", type=Path, default=Path("tests/data/tensor_names"))
    return parser.parse_args()


if __name__ == "__main__":
    OPTIONS = parse_options()  # before the imports that follow: --help needs none of them

import torch
from diffusers import AutoencoderKL, ZImageTransformer2DModel
from transformers import Qwen3Config, Qwen3Model

import reference


def main(options):
    options.out.mkdir(parents=True, exist_ok=True)
    with torch.device("meta"):
        parts = {
            "transformer": ZImageTransformer2DModel.from_config(
                ZImageTransformer2DModel.load_config(options.model / "transformer")
            ),
            "text_encoder": Qwen3Model(Qwen3Config.from_pretrained(options.model / "text_encoder")),
            "vae": AutoencoderKL.from_config(AutoencoderKL.load_config(options.model / "vae")),
        }
    for part, module in parts.items():
        shapes = {name: list(tensor.shape) for name, tensor in module.state_dict().items()}
        reference.write_json(shapes, options.out / f"{part}.json")
        print(f"{part}: {len(shapes)} tensors, {sum(tensor.numel() for tensor in module.state_dict().values())} values")


if __name__ == "__main__":
    main(OPTIONS)
