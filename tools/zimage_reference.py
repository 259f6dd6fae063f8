"""What the reference makes of a Z-Image folder: diffusers' ZImagePipeline run on a CPU, with every stage recorded.

Not a program. Needs the packages of requirements.txt.
"""

import diffusers
import torch

import reference


def load_pipeline(folder, dtype=torch.float32):
    """The pipeline of a Z-Image folder on the CPU, every part in `dtype`."""
    return reference.load_pipeline(diffusers.ZImagePipeline, folder, dtype)


def chat_text(pipe, prompt):
    """The prompt as the text encoder sees it: one user message through the tokenizer's chat template."""
    return pipe.tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True, enable_thinking=True
    )


def token_ids(pipe, prompt):
    """int64 [tokens], truncated at 512 as the pipeline does."""
    return torch.tensor(pipe.tokenizer(chat_text(pipe, prompt), truncation=True, max_length=512).input_ids)


def initial_latents(pipe, case):
    """float32 [1, C, h, w]: what the pipeline draws for this case's seed from a CPU generator."""
    generator = torch.Generator("cpu").manual_seed(case["seed"])
    return pipe.prepare_latents(
        1, pipe.transformer.in_channels, case["height"], case["width"], torch.float32, "cpu", generator
    )


@torch.no_grad()
def decode(pipe, latents):
    """float32 [3, H, W], about [-1, 1]: the pipeline's own scaling, then vae.decode, not clamped."""
    latents = latents.to(pipe.vae.dtype) / pipe.vae.config.scaling_factor + pipe.vae.config.shift_factor
    return pipe.vae.decode(latents, return_dict=False)[0][0].float()


@torch.no_grad()
def sample(pipe, case, latents):
    """Runs the pipeline; returns (final latents [1, C, h, w], first transformer call's t, its output [n, C, h, w])."""
    calls = []
    record = pipe.transformer.register_forward_hook(lambda module, args, output: calls.append((args[1], output[0])))
    options = {k: case[k] for k in ("negative_prompt", "cfg_normalization", "cfg_truncation", "sigmas") if k in case}
    with reference.hooks(record):
        final = pipe(
            case["prompt"],
            height=case["height"],
            width=case["width"],
            num_inference_steps=case["steps"],
            guidance_scale=case["guidance_scale"],
            latents=latents.clone(),
            output_type="latent",
            **options,
        ).images
    t, output = calls[0]
    return final, t.clone(), torch.stack([item[:, 0] for item in output])


@torch.no_grad()
def run_case(pipe, case):
    """All tensors of one golden case, by name (see the note in golden.json)."""
    latents = initial_latents(pipe, case)
    final, t, output = sample(pipe, case, latents)
    positive, negative = pipe.encode_prompt(
        case["prompt"],
        device="cpu",
        do_classifier_free_guidance=case["guidance_scale"] > 0,
        negative_prompt=case.get("negative_prompt"),
    )
    tensors = {
        "input_ids": token_ids(pipe, case["prompt"]),
        "prompt_embeds": positive[0],
        "initial_latents": latents,
        "sigmas": pipe.scheduler.sigmas.float(),
        "timesteps": pipe.scheduler.timesteps.float(),
        "first_transformer_t": t,
        "first_transformer_output": output,
        "final_latents": final,
        "decoded_image": decode(pipe, final),
    }
    if negative:
        tensors["negative_input_ids"] = token_ids(pipe, case.get("negative_prompt", ""))
        tensors["negative_prompt_embeds"] = negative[0]
    return tensors
