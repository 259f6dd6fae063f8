"""Makes the golden files of pictures that a drawing begins with: diffusers' own image-to-image and inpainting
pipelines on the tiny models, on a CPU in float32.

    OMP_NUM_THREADS=2 python tools/make_image_input_golden.py --data tests/data

Reads <data>/tiny and <data>/klein_tiny. Writes <data>/image_input/<model>_<case>.safetensors, one file a case, and
image_input.json, whose note says what each tensor is. What the note says of the order of draws, of types and of
formulas is asserted of every case while it is made.
"""

import argparse
from pathlib import Path


def parse_options():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("tests/data"))
    return parser.parse_args()


if __name__ == "__main__":
    OPTIONS = parse_options()  # before the imports that follow: --help needs none of them

import diffusers
import numpy as np
import PIL
import torch
import transformers
from PIL import Image

import image_input_cases
import image_input_reference
import reference

NOTE = (
    "diffusers' ZImageImg2ImgPipeline, ZImageInpaintPipeline and Flux2KleinInpaintPipeline on a CPU. `compute`: the "
    "type of all parts, float32 where it is absent; noise has that type too. `picture` [H, W, 3] and `mask` [H, W] or"
    " [H, W, 3]: what the request gives, of any size, uint8. prepared_...: absent where it is the same. "
    "prepared_picture, uint8 [h, w, 3]: after resize(LANCZOS), where its size is no multiple of the model's. "
    "prepared_mask, uint8 [h, w] of 0 and 1: resize(LANCZOS) to the picture's size in the mask's own mode, then "
    "convert('L'), then value >= 128. latent_mask [h', w']: 1 is drawn anew. Z-Image: of each latent's square of "
    "pixels the top left one. klein: bilinear, which is the mean of a token's four central pixels. posterior [2 C, "
    "h', w']: mean and logvar as the encoder gives them. posterior_noise, noise, unused_noise: the generator's draws "
    "in this order; the last one, of the masked picture, is drawn behind all others and changes nothing. z: Z-Image: "
    "(mean + exp(0.5 * clamp(logvar, -30, 20)) * posterior_noise - shift) * scale. klein: mean, patchified, after "
    "batch norm; no noise is drawn for it. sigmas: the whole schedule with its final 0. first_step: int(max(steps - "
    "min(steps * strength, steps), 0)). initial_state: sigmas[first_step] * noise + (1 - sigmas[first_step]) * z, "
    "product by product. states [steps run, C, h', w']: after each step; with a mask after blending, (1 - "
    "latent_mask) * known + latent_mask * state, known being z with the same noise at the next sigma, z itself after "
    "the last step. The last of them is what is decoded. decoded_image [3, h, w]: vae.decode's raw output, about [-1,"
    " 1]. klein has z as its first reference; `reference`, where a case has it, is the second."
)


def picture_of(tensor):
    """A Pillow image of mode L or RGB."""
    return Image.fromarray(np.asarray(tensor))


def write_case(pipelines, folder, out, case):
    """Runs a case of the model in `folder`; returns its description."""
    dtype = getattr(torch, case.get("compute", "float32"))
    kind = (folder.parent.name, "mask" in case, dtype)
    if (folder, *kind) not in pipelines:
        pipelines[folder, *kind] = image_input_reference.load_pipeline(folder, kind[0] == "klein_tiny", *kind[1:])
    pipe = pipelines[folder, *kind]
    given = image_input_cases.inputs(case)
    tensors, first_step = image_input_reference.run_case(
        pipe, case, {name: picture_of(tensor) for name, tensor in given.items()}
    )
    for name in given:
        if torch.equal(given[name], tensors[f"prepared_{name}"] * (1 if name != "mask" else 255)):
            del tensors[f"prepared_{name}"]
    tensors = {**given, **tensors}
    file = f"{folder.name}_{case['name']}.safetensors"
    reference.save(tensors, out / file)
    print(f"{file}: first step {first_step}, latents std {tensors['states'][-1].std():.3f}", flush=True)
    return {**case, "prompt": image_input_cases.PROMPT, "model": f"{folder.parent.name}/{folder.name}", "file": file,
            "first_step": first_step}


def main(options):
    out = options.data / "image_input"
    out.mkdir(parents=True, exist_ok=True)
    pipelines = {}
    meta = {
        "note": NOTE,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "pillow": PIL.__version__,
        "cases": [
            write_case(pipelines, options.data / model, out, case)
            for model, cases in image_input_cases.CASES.items() for case in cases
        ],
        "first_steps": image_input_reference.first_steps(),
    }
    reference.write_json(meta, out / "image_input.json")


if __name__ == "__main__":
    main(OPTIONS)
