"""Writes a checkpoint's averaged weights as a diffusers folder, and checks the torch modules against diffusers.

    python tools/train_mini/export.py --state STATE_DIR --vae VAE_DIR --tokenizer TOKENIZER_DIR --out MODEL_DIR \\
        [--blend EARLIER_STATE_DIR --share 0.6]
    python tools/train_mini/export.py --check --out MODEL_DIR
"""

import argparse
import json
import os
import shutil


def parse_options():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state")
    parser.add_argument("--blend", help="earlier checkpoint of the same training, mixed in")
    parser.add_argument("--share", type=float, default=0.6, help="its share of the weights")
    parser.add_argument("--vae")
    parser.add_argument("--tokenizer")
    parser.add_argument("--out", required=True)
    parser.add_argument("--check", action="store_true", help="compare the folder's modules with diffusers")
    return parser.parse_args()


if __name__ == "__main__":
    OPTIONS = parse_options()  # before the imports that follow: --help needs none of them

import torch

import captions
import checkpoint
import models
import vae

SCHEDULER = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "_diffusers_version": "0.40.0.dev0",
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "invert_sigmas": False,
    "max_image_seq_len": 4096,
    "max_shift": 1.15,
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "shift_terminal": None,
    "stochastic_sampling": False,
    "time_shift_type": "exponential",
    "use_beta_sigmas": False,
    "use_dynamic_shifting": False,
    "use_exponential_sigmas": False,
    "use_karras_sigmas": False,
}
PIPELINE = {
    "_class_name": "ZImagePipeline",
    "_diffusers_version": "0.40.0.dev0",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "Qwen3Model"],
    "tokenizer": ["transformers", "Qwen2Tokenizer"],
    "transformer": ["diffusers", "ZImageTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
GENERATION = {"num_inference_steps": 9, "guidance_scale": 4.0}
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json")


def _write_json(value, *path):
    os.makedirs(os.path.dirname(os.path.join(*path)), exist_ok=True)
    with open(os.path.join(*path), "w") as f:
        json.dump(value, f, indent=2)
        f.write("\n")


def averaged_modules(state, blend=None, share=0.0):
    """Transformer and text encoder with a checkpoint's averaged weights, rounded to bf16 as they ship.

    blend is an earlier checkpoint of the same training, whose weights get the given share.
    """
    stored = {name: tensor.float() for name, tensor in checkpoint.load(state, "average").items()}
    if not stored:
        raise FileNotFoundError(f"{state}: no average-*.safetensors")
    if blend:
        earlier = checkpoint.load(blend, "average")
        stored = {name: torch.lerp(tensor, earlier[name].float(), share) for name, tensor in stored.items()}
    stored = {name: tensor.to(torch.bfloat16).float() for name, tensor in stored.items()}
    configs = checkpoint.info(state)
    transformer, text = models.Transformer(configs.get("transformer")), models.TextEncoder(configs.get("text"))
    transformer.load_state_dict(
        {n[len("transformer.") :]: t for n, t in stored.items() if n.startswith("transformer.")}
    )
    missing, unexpected = text.load_state_dict(
        {n[len("text.") :]: t for n, t in stored.items() if n.startswith("text.")}, strict=False
    )
    untrained = {n for n, _ in text.named_parameters()} - {n for n, _ in text.trained()}
    if unexpected or set(missing) != untrained:
        raise ValueError(
            f"{state}: text encoder lacks {sorted(set(missing) - untrained)[:4]}, has besides {unexpected[:4]}"
        )
    return transformer, text


def _save_weights(state, folder, stem):
    from safetensors.torch import save_file

    state = {k: v.detach().to(torch.bfloat16) for k, v in state.items()}
    parts = checkpoint.shards(state)
    if len(parts) == 1:
        save_file(parts[0], os.path.join(folder, stem + ".safetensors"), metadata={"format": "pt"})
        return
    index = {"metadata": {"total_size": sum(v.numel() * 2 for v in state.values())}, "weight_map": {}}
    for k, part in enumerate(parts, 1):
        name = f"{stem}-{k:05d}-of-{len(parts):05d}.safetensors"
        save_file(part, os.path.join(folder, name), metadata={"format": "pt"})
        index["weight_map"].update(dict.fromkeys(part, name))
    _write_json(index, folder, stem + ".safetensors.index.json")


def export(transformer, text, vae_folder, tokenizer_folder, out):
    """Writes the model folder that ZImagePipeline.from_pretrained and the engine load."""
    _write_json(PIPELINE, out, "model_index.json")
    _write_json(SCHEDULER, out, "scheduler", "scheduler_config.json")
    _write_json(GENERATION, out, "generation_config.json")
    _write_json(transformer.config, out, "transformer", "config.json")
    _write_json(text.config, out, "text_encoder", "config.json")
    _save_weights(transformer.state_dict(), os.path.join(out, "transformer"), "diffusion_pytorch_model")
    _save_weights(text.state_dict(), os.path.join(out, "text_encoder"), "model")
    for part, source, names in (
        ("vae", vae_folder, ("config.json", vae.WEIGHTS)),
        ("tokenizer", tokenizer_folder, TOKENIZER_FILES),
    ):
        os.makedirs(os.path.join(out, part), exist_ok=True)
        for name in names:
            shutil.copyfile(os.path.join(source, name), os.path.join(out, part, name))


def load_modules(folder):
    """Transformer and text encoder of an exported folder, float32."""
    from safetensors.torch import load_file

    result = []
    for part, make in (("transformer", models.Transformer), ("text_encoder", models.TextEncoder)):
        path, state = os.path.join(folder, part), {}
        for name in sorted(os.listdir(path)):
            if name.endswith(".safetensors"):
                state.update(load_file(os.path.join(path, name)))
        with open(os.path.join(path, "config.json")) as f:
            module = make(json.load(f))
        module.load_state_dict(state)
        result.append(module.float())
    return result


def weight_bytes(folder):
    """Sizes of all safetensors files of a model folder: {relative path: bytes}."""
    found = {}
    for base, _, names in os.walk(folder):
        found.update(
            {
                os.path.relpath(os.path.join(base, n), folder): os.path.getsize(os.path.join(base, n))
                for n in names
                if n.endswith(".safetensors")
            }
        )
    return found


def check(folder, tolerance=2e-5):
    """Relative errors of these modules against diffusers and transformers in float32; raises when one is above
    tolerance."""
    from diffusers import ZImagePipeline

    import sampler

    pipeline = ZImagePipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    transformer, text = load_modules(folder)
    artist = sampler.Artist(
        transformer,
        text,
        vae.load(os.path.join(folder, "vae"), torch.device("cpu"), torch.float32),
        captions.load(os.path.join(folder, "tokenizer")),
        torch.device("cpu"),
        torch.float32,
    )
    errors = {}
    for prompt, height, width in (("A crowded beach", 208, 208), ("a lion to the left of a car", 128, 192)):
        ids, lengths = captions.encode(artist.tokenizer, [prompt])
        template = pipeline.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True, enable_thinking=True
        )
        if pipeline.tokenizer(template).input_ids != ids[0, : lengths[0]].tolist():
            raise AssertionError(f"token ids of {prompt!r} differ from the pipeline's")
        expected = pipeline.encode_prompt(prompt, device="cpu", do_classifier_free_guidance=False)[0][0]
        errors[f"text {prompt}"] = _relative(artist.features([prompt])[0][0, : lengths[0]], expected)
        noise = torch.randn(1, 16, height // 8, width // 8, generator=torch.Generator().manual_seed(42))
        latents = pipeline(
            prompt,
            height=height,
            width=width,
            num_inference_steps=2,
            guidance_scale=4.0,
            latents=noise,
            output_type="latent",
        ).images
        errors[f"latents {prompt} {height}x{width}"] = _relative(
            artist.latents([prompt], height, width, steps=2), latents
        )
        image = pipeline.vae.decode(
            latents / pipeline.vae.config.scaling_factor + pipeline.vae.config.shift_factor, return_dict=False
        )[0]
        errors[f"image {prompt} {height}x{width}"] = _relative(artist.autoencoder.decode(latents), image)
    for name, error in errors.items():
        print(f"{name}: relative error {error:.1e}")
    if max(errors.values()) > tolerance:
        raise AssertionError(f"an error is above {tolerance}")


def _relative(value, expected):
    return ((value - expected).norm() / expected.norm()).item()


def main(args):
    if args.state:
        export(*averaged_modules(args.state, args.blend, args.share), args.vae, args.tokenizer, args.out)
        sizes = weight_bytes(args.out)
        for name, size in sizes.items():
            print(f"{size:>12,} {name}")
        print(f"{sum(sizes.values()):>12,} bytes of weights")
    if args.check:
        check(args.out)


if __name__ == "__main__":
    main(OPTIONS)
