"""Makes tests/data/zimage_control: a tiny ControlNet for Z-Image of every variant, and what VideoX-Fun draws with it.

    python tools/make_control_golden.py --videox-fun CHECKOUT --out tests/data/zimage_control

CHECKOUT is a copy of github.com/aigc-apps/VideoX-Fun (made with commit 804a425 of 2026-05-12, of which two files are
read: videox_fun/models/z_image_transformer2d{,_control}.py). The transformer that is controlled is tests/data/tiny/varied
with LAYERS layers in place of two: layer i has the weights of layer i % 2.

control.safetensors has the weights of a 2.1, float16. The other variants are made of it: see the notes in expected.json.
names.json has the tensors' names and shapes of the full-size variants, from VideoX-Fun's classes and configs.
"""

import argparse
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def parse_options():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videox-fun", type=Path, required=True, help="a checkout of VideoX-Fun")
    parser.add_argument("--out", type=Path, default=ROOT / "tests/data/zimage_control")
    return parser.parse_args()


if __name__ == "__main__":
    OPTIONS = parse_options()  # before the imports that follow: --help needs none of them

import importlib
import json
import sys
import types

import torch
from safetensors.torch import load_file

import reference
import tiny_models

BASE = ROOT / "tests/data/tiny/varied/transformer"
LAYERS = 5
CHANNELS = 4
EMBEDDER = "control_all_x_embedder.2-1."
NOTE = (
    "The names of the variants' weights are those of control.safetensors. union_1.0 has another embedder, which stands "
    "in expected.safetensors as union_1.0.NAME, its first layers alone, and no before_proj and after_proj in its "
    "refiner; in union_2.0's refiner these are zeros; lite has its first layers alone. expected.safetensors: for each "
    "case its latents [channels, height, width], caption [tokens, width], and context: control latents | mask | masked "
    "latents, of which union_1.0 gets the first; as CASE.none the transformer's output without control, as "
    "CASE.VARIANT.SCALE with control. All float32."
)
# As VideoX-Fun's config/z_image/*.yaml, in a transformer of fewer layers.
VARIANTS = {
    "union_1.0": {"control_layers_places": [0, 3], "control_in_dim": CHANNELS},
    "union_2.0": {"control_layers_places": [0, 2, 4], "control_in_dim": 2 * CHANNELS + 1,
                  "control_refiner_layers_places": [0, 1], "add_control_noise_refiner": True},
    "union_2.1": {"control_layers_places": [0, 2, 4], "control_in_dim": 2 * CHANNELS + 1,
                  "control_refiner_layers_places": [0, 1], "add_control_noise_refiner": True,
                  "add_control_noise_refiner_correctly": True},
    "lite": {"control_layers_places": [0], "control_in_dim": 2 * CHANNELS + 1,
             "control_refiner_layers_places": [0, 1], "add_control_noise_refiner": True,
             "add_control_noise_refiner_correctly": True},
}
SCALES = [0.75, 1.0]
# Tokens are 2 x 2 latents. The first two leave pads in the image, the first two in the caption, too.
CASES = [
    {"name": "portrait", "height": 18, "width": 8, "tokens": 5, "time": 0.3},
    {"name": "odd", "height": 10, "width": 14, "tokens": 40, "time": 0.9},
    {"name": "whole", "height": 8, "width": 16, "tokens": 32, "time": 0.6},
]


def attention(query, key, value, attn_mask=None):
    """Stands in for VideoX-Fun's choice of attention kernels: [batch, tokens, heads, width] each."""
    out = torch.nn.functional.scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), attn_mask=attn_mask
    )
    return out.transpose(1, 2)


def load_videox_fun(checkout):
    """VideoX-Fun's control transformer, without the package's other models and the kernels that those need."""
    stand_ins = {
        "videox_fun.models.attention_utils": {"attention": attention},
        "videox_fun.dist": dict.fromkeys(
            ("ZMultiGPUsSingleStreamAttnProcessor", "get_sequence_parallel_rank", "get_sequence_parallel_world_size",
             "get_sp_group")
        ),
    }
    for name in ("videox_fun", "videox_fun.models", *stand_ins):
        module = types.ModuleType(name)
        module.__path__ = [str(checkout / name.replace(".", "/"))]
        module.__dict__.update(stand_ins.get(name, {}))
        sys.modules[name] = module
    return importlib.import_module("videox_fun.models.z_image_transformer2d_control").ZImageControlTransformer2DModel


def base_config():
    """The arguments of the transformer's class."""
    config = json.loads((BASE / "config.json").read_text())
    unknown = ("_class_name", "_diffusers_version", "siglip_feat_dim")
    return {**{name: value for name, value in config.items() if name not in unknown}, "n_layers": LAYERS}


def base_weights():
    """The transformer's weights, float32, its layers repeated."""
    stored = {}
    for file in sorted(BASE.glob("*.safetensors")):
        stored.update({name: tensor.float() for name, tensor in load_file(file).items()})
    weights = {name: tensor for name, tensor in stored.items() if not name.startswith("layers.")}
    for layer in range(LAYERS):
        prefix = f"layers.{layer % 2}."
        weights.update({f"layers.{layer}." + name.removeprefix(prefix): tensor for name, tensor in stored.items()
                        if name.startswith(prefix)})
    return weights


def random_control(model, generator):
    """Fills the control network of `model`; returns its weights."""
    for name, module in sorted(model.named_children()):
        if name.startswith("control_"):
            tiny_models.randomize(module, generator)
    return {name: tensor for name, tensor in model.state_dict().items() if name.startswith("control_")}


def load_variant(model, control, embedder):
    """Gives `model` the base's weights and what its variant takes of `control`."""
    weights = {**base_weights(), **control}
    if model.control_in_dim == CHANNELS:
        weights.update(embedder)
    if not model.add_control_noise_refiner_correctly:
        for name in weights:
            if name.startswith("control_noise_refiner.") and "_proj." in name:
                weights[name] = torch.zeros_like(weights[name])
    own = model.state_dict()
    model.load_state_dict({name: tensor for name, tensor in weights.items() if name in own})
    return model.eval()


def full_size_names(model_class):
    """{variant: {name: shape}} of the control networks that are published; union_2.0 has the tensors of union_2.1."""
    published = {"union_1.0": range(0, 30, 5), "union_2.1": range(0, 30, 2), "lite": range(0, 30, 10)}
    names = {}
    for variant, places in published.items():
        options = {**VARIANTS[variant], "control_layers_places": list(places),
                   "control_in_dim": 16 if variant == "union_1.0" else 33}
        with torch.device("meta"):
            model = model_class(**options)
        names[variant] = {name: list(tensor.shape) for name, tensor in sorted(model.state_dict().items())
                          if name.startswith("control_")}
    return names


@torch.no_grad()
def velocity(model, case, inputs, scale):
    """The transformer's output [channels, height, width]; scale None: without control."""
    context = inputs["context"][: model.control_in_dim]
    if scale is None:
        scale, context = 0.0, torch.zeros_like(context)
    out, _ = model(
        [inputs["latents"].unsqueeze(1)], torch.tensor([case["time"]]), [inputs["caption"]],
        control_context=[context.unsqueeze(1)], control_context_scale=scale,
    )
    return out[0, :, 0]


def main():
    """Writes the files."""
    model_class = load_videox_fun(OPTIONS.videox_fun)
    generator = torch.Generator().manual_seed(20)
    models = {name: model_class(**base_config(), **variant) for name, variant in VARIANTS.items()}
    control = random_control(models["union_2.1"], generator)
    embedder = {name: tensor for name, tensor in random_control(models["union_1.0"], generator).items()
                if name.startswith(EMBEDDER)}
    for model in models.values():
        load_variant(model, control, embedder)

    OPTIONS.out.mkdir(parents=True, exist_ok=True)
    reference.save({name: tensor.half() for name, tensor in control.items()}, OPTIONS.out / "control.safetensors")
    tensors = {f"union_1.0.{name}": tensor for name, tensor in embedder.items()}
    for case in CASES:
        name, size = case["name"], (case["height"], case["width"])
        inputs = {
            "latents": torch.randn(CHANNELS, *size, generator=generator),
            "caption": torch.randn(case["tokens"], base_config()["cap_feat_dim"], generator=generator),
            "context": torch.randn(2 * CHANNELS + 1, *size, generator=generator),
        }
        inputs["context"][CHANNELS] = (inputs["context"][CHANNELS] > 0).float()
        tensors.update({f"{name}.{key}": tensor for key, tensor in inputs.items()})
        plain = tensors[f"{name}.none"] = velocity(models["union_1.0"], case, inputs, None)
        for variant, model in models.items():
            for scale in SCALES:
                made = tensors[f"{name}.{variant}.{scale}"] = velocity(model, case, inputs, scale)
                print(f"{name} {variant} {scale}: {(made - plain).norm() / plain.norm():.3f} away from no control")
    reference.save(tensors, OPTIONS.out / "expected.safetensors")
    expected = {"note": NOTE, "torch": torch.__version__, "layers": LAYERS, "scales": SCALES, "cases": CASES,
                "variants": VARIANTS}
    reference.write_json(expected, OPTIONS.out / "expected.json")
    reference.write_json(full_size_names(model_class), OPTIONS.out / "names.json")


if __name__ == "__main__":
    main()
