"""Makes the golden files the C++ tests read: diffusers' own ZImagePipeline on a CPU in float32.

    python tools/make_golden.py --model models/mini --out tests/data/golden

Writes one <case>.safetensors per case, probes_{text_encoder,transformer,vae}.safetensors with the intermediate tensors
of one small forward in the order of computation, and golden.json, which describes them all.
"""

import argparse
from pathlib import Path


def parse_options():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/mini"), help="a Z-Image folder in diffusers' layout")
    parser.add_argument("--out", type=Path, default=Path("tests/data/golden"))
    return parser.parse_args()


if __name__ == "__main__":
    OPTIONS = parse_options()  # before the imports that follow: --help needs none of them

import diffusers
import torch
import transformers

import reference
import zimage_probes
import zimage_reference

CASES = [
    {"name": "g0_cat_256x256_g0_s2", "prompt": "A cat", "height": 256, "width": 256, "guidance_scale": 0.0, "steps": 2,
     "seed": 42},
    {"name": "g1_beach_256x384_g4_s3", "prompt": "A crowded beach", "height": 256, "width": 384, "guidance_scale": 4.0,
     "steps": 3, "seed": 42},
    {"name": "g2_two_apples_384x256_g4_s4", "prompt": "two red apples on a white background", "height": 384,
     "width": 256, "guidance_scale": 4.0, "steps": 4, "seed": 1},
    {"name": "g3_odd_208x208_g4_s3", "prompt": "a lion to the left of a blue car", "height": 208, "width": 208,
     "guidance_scale": 4.0, "steps": 3, "seed": 7},
    {"name": "g4_long_320x192_g4_s2",
     "prompt": "A crowded beach at sunset with a big dog, a small cat and three red balloons in the sky. "
               "The picture is bright and colorful. Everything is clearly visible.",
     "height": 320, "width": 192, "guidance_scale": 4.0, "steps": 2, "seed": 3},
    {"name": "g5_city_192x320_g0_s4", "prompt": "a city at night", "height": 192, "width": 320, "guidance_scale": 0.0,
     "steps": 4, "seed": 5},
]

NOTE = (
    "diffusers' ZImagePipeline on a CPU, float32 compute on the shipped weights. initial_latents: torch.randn of a "
    "CPU generator seeded with `seed`. sigmas: the shifted schedule with its final 0. first_transformer_t and "
    "first_transformer_output: t and the raw (not negated) output of the first transformer call; index 0 is the "
    "prompt, index 1 the negative prompt when guidance is on. pred = pos + g * (pos - neg); guidance 0 means no "
    "second pass. decoded_image: vae.decode's raw output, about [-1, 1], [3, H, W]. bf16_psnr_db: the same case and "
    "noise with every part of diffusers' pipeline in bfloat16, against float32; peak 1, after clamp(x / 2 + 0.5, 0, "
    "1), not rounded to 8 bits."
)


def main(options):
    options.out.mkdir(parents=True, exist_ok=True)

    pipe = zimage_reference.load_pipeline(options.model)
    pipe_bf16 = zimage_reference.load_pipeline(options.model, torch.bfloat16)
    meta = {
        "note": NOTE,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "cases": [],
    }
    for case in CASES:
        tensors = zimage_reference.run_case(pipe, case)
        final_bf16, _, _ = zimage_reference.sample(pipe_bf16, case, tensors["initial_latents"])
        psnr = reference.image_psnr_db(zimage_reference.decode(pipe_bf16, final_bf16), tensors["decoded_image"])
        meta["cases"].append({
            **case,
            "chat_text": zimage_reference.chat_text(pipe, case["prompt"]),
            "bf16_psnr_db": round(psnr, 2),
            "tensors": reference.save(tensors, options.out / f"{case['name']}.safetensors"),
        })
        print(f"{case['name']}: {len(tensors['input_ids'])} tokens, bf16 {psnr:.2f} dB", flush=True)

    meta["probes"] = zimage_probes.record_all(pipe, options.out)
    reference.write_json(meta, options.out / "golden.json")


if __name__ == "__main__":
    main(OPTIONS)
