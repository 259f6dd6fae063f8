"""Makes tests/data/control_drawings: tiny control networks for tests/data/tiny/diffusers_test, and what VideoX-Fun's
pipeline draws with them, on a CPU in float32.

    OMP_NUM_THREADS=2 python tools/make_control_drawing_golden.py --videox-fun CHECKOUT --data tests/data

CHECKOUT is a copy of github.com/aigc-apps/VideoX-Fun (made with commit 804a425 of 2026-05-12, of which three files are
read: videox_fun/models/z_image_transformer2d{,_control}.py and videox_fun/pipeline/pipeline_z_image_control.py).
control_drawings.json says what each tensor is.
"""

import argparse
from pathlib import Path


def parse_options():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videox-fun", type=Path, required=True, help="a checkout of VideoX-Fun")
    parser.add_argument("--data", type=Path, default=Path("tests/data"))
    return parser.parse_args()


if __name__ == "__main__":
    OPTIONS = parse_options()  # before the imports that follow: --help needs none of them

import importlib
import json
import sys
import types

import diffusers
import numpy as np
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file

import image_input_cases
import make_control_golden
import pictures
import reference

MODEL = "tiny/diffusers_test"
PROMPT = "a cat on the beach"
NOTE = (
    "VideoX-Fun's ZImageControlPipeline on tiny/diffusers_test and the control networks that stand beside this file, "
    "whose metadata have their configs. Tensors of a case: `control`, unless the case has none, and, where the case has a "
    "mask, `picture` [H, W, 3] and `mask` [H, W]: what the request gives, uint8, of the drawn size; `latents` [C, h, w]: the final ones. Where "
    "nothing else is said the drawing begins with noise and nothing is put back into it. With a mask the pipeline is "
    "given the second draw of the generator as its noise, the first being that of the picture's posterior, and after "
    "each step what the mask keeps is the picture's latents, drawn from the posterior, with that noise at the next "
    "level: as diffusers' ZImageInpaintPipeline does, and as VideoX-Fun alone does not."
)
VARIANTS = {
    "union_1.0": {"control_layers_places": [0, 1], "control_in_dim": 16},
    "union_2.1": {"control_layers_places": [0, 1], "control_in_dim": 33, "control_refiner_layers_places": [0],
                  "add_control_noise_refiner": True, "add_control_noise_refiner_correctly": True},
    "lite": {"control_layers_places": [0], "control_in_dim": 33, "control_refiner_layers_places": [0],
             "add_control_noise_refiner": True, "add_control_noise_refiner_correctly": True},
}
CASES = [
    {"name": "plain", "variant": "union_1.0", "size": (28, 20), "scale": 0.75, "guidance_scale": 0.0, "steps": 5,
     "seed": 21},
    {"name": "guided", "variant": "union_2.1", "size": (20, 32), "scale": 1.0, "guidance_scale": 4.0, "steps": 6,
     "seed": 22},
    {"name": "lite", "variant": "lite", "size": (24, 24), "scale": 0.65, "guidance_scale": 4.0, "steps": 5, "seed": 23},
    {"name": "masked", "variant": "union_2.1", "size": (32, 24), "scale": 0.8, "guidance_scale": 0.0, "steps": 5,
     "seed": 24, "mask": "rectangle"},
    {"name": "inpainted", "variant": "union_2.1", "size": (24, 32), "scale": 1.0, "guidance_scale": 4.0, "steps": 5,
     "seed": 25, "mask": "rectangle", "control": False},
    {"name": "inpainted_lite", "variant": "lite", "size": (28, 20), "scale": 0.7, "guidance_scale": 0.0, "steps": 6,
     "seed": 26, "mask": "rectangle", "control": False},
]


def load_videox_fun(checkout):
    """The classes of the control transformer and of its pipeline."""
    transformer = make_control_golden.load_videox_fun(checkout)
    sys.modules["videox_fun.models"].AutoencoderKL = diffusers.AutoencoderKL
    sys.modules["videox_fun.models"].ZImageTransformer2DModel = transformer
    package = types.ModuleType("videox_fun.pipeline")
    package.__path__ = [str(checkout / "videox_fun/pipeline")]
    sys.modules["videox_fun.pipeline"] = package
    module = importlib.import_module("videox_fun.pipeline.pipeline_z_image_control")
    return transformer, module.ZImageControlPipeline


def config_of(options, base):
    """A network's config in diffusers' words."""
    refiner = "control_noise_refiner" if options.get("add_control_noise_refiner") else None
    return {"_class_name": "ZImageControlNetModel", "add_control_noise_refiner": refiner, "all_f_patch_size": [1],
            "all_patch_size": [2], "control_in_dim": options["control_in_dim"],
            "control_layers_places": options["control_layers_places"],
            "control_refiner_layers_places": options.get("control_refiner_layers_places", []), "dim": base["dim"],
            "n_heads": base["n_heads"], "n_refiner_layers": base["n_refiner_layers"], "norm_eps": base["norm_eps"],
            "qk_norm": base["qk_norm"]}


def make_transformer(model_class, folder, options, generator):
    """The transformer of a folder with a random control network; returns both, and the network's config."""
    config = json.loads((folder / "config.json").read_text())
    base = {name: value for name, value in config.items()
            if name not in ("_class_name", "_diffusers_version", "siglip_feat_dim")}
    model = model_class(**base, **options)
    weights = {}
    for file in sorted(folder.glob("*.safetensors")):
        weights.update({name: tensor.float() for name, tensor in load_file(file).items()})
    own = model.state_dict()
    assert set(weights) <= set(own)
    model.load_state_dict(weights, strict=False)
    control = make_control_golden.random_control(model, generator)
    return model.eval(), control, config_of(options, base)


def inputs_of(case):
    """What the request gives, by name; uint8."""
    made = {"control": 255 - np.asarray(pictures.image(*case["size"]))} if case.get("control", True) else {}
    if "mask" in case:
        width, height = case["size"]
        y, x = np.mgrid[0:height, 0:width]
        made["picture"] = np.asarray(pictures.image(*case["size"]))
        made["mask"] = image_input_cases.MASKS[case["mask"]](y, x, height, width).astype(np.uint8)
    return {name: torch.from_numpy(pixels.copy()) for name, pixels in made.items()}


class KnownPart:
    """What a mask keeps of a picture, as diffusers' ZImageInpaintPipeline puts it back after each step."""

    def __init__(self, pipe, picture, mask, seed):
        width, height = picture.size
        generator = torch.Generator("cpu").manual_seed(seed)
        config = pipe.vae.config
        posterior = pipe.vae.encode(pipe.image_processor.preprocess(picture, height=height, width=width))[0]
        self.clean = (posterior.sample(generator) - config.shift_factor) * config.scaling_factor
        self.noise = torch.randn(self.clean.shape, generator=generator)
        self.mask = torch.nn.functional.interpolate(
            pipe.mask_processor.preprocess(mask, height=height, width=width), size=self.clean.shape[-2:])

    def put_back(self, pipe, step, time, tensors):
        sigma = pipe.scheduler.sigmas[step + 1]
        known = sigma * self.noise + (1 - sigma) * self.clean
        return {"latents": (1 - self.mask) * known + self.mask * tensors["latents"]}


@torch.no_grad()
def draw(pipe, case, given):
    """The final latents of a case."""
    images = {name: Image.fromarray(tensor.numpy()) for name, tensor in given.items()}
    options = {}
    if "mask" in given:
        known = KnownPart(pipe, images["picture"], images["mask"], case["seed"])
        options = {"image": images["picture"], "mask_image": images["mask"], "latents": known.noise,
                   "callback_on_step_end": known.put_back}
    width, height = case["size"]
    return pipe(
        prompt=PROMPT, height=height, width=width, control_image=images.get("control"),
        control_context_scale=case["scale"], guidance_scale=case["guidance_scale"],
        num_inference_steps=case["steps"], sigmas=np.linspace(1, 1 / case["steps"], case["steps"]).tolist(),
        generator=torch.Generator("cpu").manual_seed(case["seed"]), output_type="latent", **options,
    ).images[0]


def main(options):
    """Writes the files."""
    transformer_class, pipeline_class = load_videox_fun(options.videox_fun)
    out = options.data / "control_drawings"
    out.mkdir(parents=True, exist_ok=True)
    folder = options.data / MODEL
    base = reference.load_pipeline(diffusers.ZImagePipeline, folder, torch.float32)
    generator = torch.Generator().manual_seed(30)
    pipes = {}
    for variant, arguments in VARIANTS.items():
        model, control, config = make_transformer(transformer_class, folder / "transformer", arguments, generator)
        reference.save({name: tensor.half() for name, tensor in control.items()}, out / f"{variant}.safetensors",
                       {"config.controlnet": json.dumps(config)})
        pipes[variant] = pipeline_class(scheduler=base.scheduler, vae=base.vae, text_encoder=base.text_encoder,
                                        tokenizer=base.tokenizer, transformer=model)
        pipes[variant].set_progress_bar_config(disable=True)
    tensors = {}
    for case in CASES:
        given = inputs_of(case)
        latents = draw(pipes[case["variant"]], case, given)
        plain = draw(pipes[case["variant"]], {**case, "scale": 0.0}, given)
        print(f"{case['name']}: {(latents - plain).norm() / plain.norm():.3f} away from no control", flush=True)
        tensors.update({f"{case['name']}.{name}": tensor for name, tensor in {**given, "latents": latents}.items()})
    reference.save(tensors, out / "expected.safetensors")
    versions = {"torch": torch.__version__, "diffusers": diffusers.__version__,
                "transformers": transformers.__version__}
    reference.write_json({"note": NOTE, **versions, "model": MODEL, "prompt": PROMPT, "cases": CASES},
                         out / "control_drawings.json")


if __name__ == "__main__":
    main(OPTIONS)
