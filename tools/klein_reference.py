"""What the reference makes of a FLUX.2-klein folder: diffusers' Flux2KleinPipeline run on a CPU, with every stage
recorded.

Not a program. Needs the packages of requirements.txt.
"""

import contextlib

import diffusers
import torch
from PIL import Image

import reference

MAX_TOKENS = 512


def load_pipeline(folder, dtype=torch.float32):
    """The pipeline of a FLUX.2-klein folder on the CPU, every part in `dtype`."""
    return reference.load_pipeline(diffusers.Flux2KleinPipeline, folder, dtype)


def chat_text(pipe, prompt):
    """The prompt as the text encoder sees it: one user message through the tokenizer's chat template."""
    return pipe.tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True, enable_thinking=False
    )


def token_ids(pipe, prompt):
    """int64 [tokens], truncated at 512 as the pipeline does, without the pads behind."""
    return torch.tensor(pipe.tokenizer(chat_text(pipe, prompt), truncation=True, max_length=MAX_TOKENS).input_ids)


def generators(case):
    """One CPU generator a picture of the case: seed, seed + 1, ..."""
    return [torch.Generator("cpu").manual_seed(case["seed"] + i) for i in range(case.get("images", 1))]


def unpack(rows, height, width):
    """float32 [B, C, height, width] of rows [B, height * width, C]."""
    return rows.transpose(1, 2).unflatten(2, (height, width))


@contextlib.contextmanager
def results_of(owner, method):
    """Lists what a method returns while the block runs."""
    results, original = [], getattr(owner, method)

    def call(*args, **kwargs):
        results.append(original(*args, **kwargs))
        return results[-1]

    setattr(owner, method, call)
    try:
        yield results
    finally:
        delattr(owner, method)


@torch.no_grad()
def sample(pipe, case, references):
    """Runs the pipeline on a case. Returns its raw records, batch axis first:

    calls: (time, rows in, rows out) of each transformer call; state: rows after the last step; latents: what the VAE
    is to decode; prepared: [1, 3, H, W] in [-1, 1] and encoded: [1, C, h, w] of each reference.
    """
    calls, states = [], []

    def on_forward(module, args, kwargs, output):
        calls.append((kwargs["timestep"] * 1000, kwargs["hidden_states"], output[0]))

    def on_step(pipe, step, time, tensors):
        states.append(tensors["latents"])
        return {}

    size = {} if case.get("size_of_reference") else {"height": case["height"], "width": case["width"]}
    with (
        reference.hooks(pipe.transformer.register_forward_hook(on_forward, with_kwargs=True)),
        results_of(pipe.image_processor, "preprocess") as prepared,
        results_of(pipe, "_encode_vae_image") as encoded,
    ):
        latents = pipe(
            image=[Image.open(file) for file in references] or None,
            prompt=case["prompt"],
            num_inference_steps=case["steps"],
            sigmas=case.get("sigmas"),
            guidance_scale=case["guidance_scale"],
            num_images_per_prompt=case.get("images", 1),
            generator=generators(case),
            output_type="latent",
            callback_on_step_end=on_step,
            **size,
        ).images
    return {"calls": calls, "state": states[-1], "latents": latents, "prepared": prepared, "encoded": encoded}


def some_text_rows(count):
    """A few rows of the padded text of `count` tokens: both ends and the middle of tokens and of pads."""
    rows = {0, 1, count // 2, count - 2, count - 1, count, count + 1, (count + MAX_TOKENS) // 2, MAX_TOKENS - 1}
    return torch.tensor(sorted(row for row in rows if row < MAX_TOKENS))


def some_features(pipe, prompt, prefix=""):
    """The prompt's tokens and some rows of its features, by name."""
    ids = token_ids(pipe, prompt)
    rows = some_text_rows(len(ids))
    features = pipe.encode_prompt(prompt)[0][0, rows]
    return {f"{prefix}input_ids": ids, f"{prefix}text_rows": rows, f"{prefix}prompt_embeds": features}


@torch.no_grad()
def run_case(pipe, case, references):
    """All tensors of one case, by name (see NOTE of klein_tiny.py), and of its references, by the names of their
    files. `references`: files of the case's pictures."""
    run = sample(pipe, case, references)
    scale = pipe.vae_scale_factor * 2
    height, width = case["height"] // scale, case["width"] // scale
    count = height * width
    passes = 2 if case["guidance_scale"] > 1 and not pipe.config.is_distilled else 1
    assert len(run["calls"]) == passes * case["steps"], "calls of the transformer"
    tensors = {
        **some_features(pipe, case["prompt"]),
        **(some_features(pipe, "", "negative_") if passes == 2 else {}),
        "initial_latents": unpack(run["calls"][0][1][:, :count], height, width),
        "sigmas": pipe.scheduler.sigmas,
        "times": torch.stack([time[0] for time, _, _ in run["calls"][::passes]]),
        "first_transformer_output": torch.stack([rows[:, :count] for _, _, rows in run["calls"][:passes]]),
        "final_latents": unpack(run["state"], height, width),
        "decoded_image": pipe.vae.decode(run["latents"], return_dict=False)[0],
    }
    pictures = {}
    for file, image, latents in zip(references, run["prepared"], run["encoded"]):
        pictures |= {f"{file.stem}_image": as_bytes(image), f"{file.stem}_latents": latents[0]}
    return tensors, pictures


def as_bytes(image):
    """uint8 [H, W, 3] of a prepared reference, float32 [1, 3, H, W] in [-1, 1]; exact."""
    values = ((image[0] / 2 + 0.5) * 255).round()
    assert torch.equal(values / 255 * 2 - 1, image[0]), "a prepared reference is no 8-bit picture"
    return values.to(torch.uint8).permute(1, 2, 0)
