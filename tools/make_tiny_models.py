"""Makes tiny random Z-Image folders, like those of diffusers' own pipeline tests, and what diffusers makes of them.

    python tools/make_tiny_models.py --out tests/data/tiny

For each model: <out>/<name>/ in diffusers' layout, <name>/expected/<case>.safetensors with the tensors that
make_golden.py records, and <name>/expected/expected.json. The two differ in every choice a config leaves open and in
the ways a folder may be written (one file or shards, with or without tokenizer.json, class names, dtypes on disk).
t_embedder, whose width is fixed at 256 x 1024, is stored in a 16-bit type to keep the folders small; every parameter is
exact in bfloat16 and float16, so the stored type does not change the result.
"""

import argparse
import json
import shutil
from pathlib import Path


def parse_options():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("tests/data/tiny"))
    return parser.parse_args()


if __name__ == "__main__":
    OPTIONS = parse_options()  # before the imports that follow: --help needs none of them

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImageTransformer2DModel
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM, Qwen3Model

import reference

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# Qwen3's template for the messages that ZImagePipeline sends.
CHAT_TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- if enable_thinking is defined "
    "and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}"
)
TOKENIZER_TEXT = [
    "user\ndance monkey", "assistant\n", "bad quality", "a cat and a dog dance on the beach", "two red apples",
    "the monkey, the cat and the quality of the dance", "bad weather, bad picture, low quality, blurry",
]

MODELS = {
    # diffusers' tests/pipelines/z_image/test_z_image.py, with a narrower VAE and a smaller vocabulary.
    "diffusers_test": {
        "transformer": {
            "dim": 32, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2, "norm_eps": 1e-5,
            "cap_feat_dim": 16, "rope_theta": 256.0, "t_scale": 1000.0, "axes_dims": [8, 4, 4],
            "axes_lens": [256, 32, 32],
        },
        "transformer_shard_size": "10MB",
        "stored": ("t_embedder.", torch.bfloat16),
        "text_encoder": {
            "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 2, "max_position_embeddings": 512, "tie_word_embeddings": False,
        },
        "text_encoder_class": Qwen3Model,
        "text_encoder_shard_size": "10MB",
        "vae": {
            "block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 8, "scaling_factor": 0.3611,
            "shift_factor": 0.1159,
        },
        "scheduler": {},
        "tokenizer_json": True,
    },
    # Three VAE levels (size multiple 8), grouped heads, and other head widths, eps, thetas, scales and shifts.
    "varied": {
        "transformer": {
            "dim": 40, "n_layers": 2, "n_refiner_layers": 2, "n_heads": 5, "n_kv_heads": 5, "norm_eps": 1e-3,
            "cap_feat_dim": 24, "rope_theta": 100.0, "t_scale": 500.0, "axes_dims": [4, 2, 2],
            "axes_lens": [300, 24, 40], "in_channels": 4,
        },
        "transformer_shard_size": "300KB",
        "stored": ("", torch.float16),
        "text_encoder": {
            "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 640, "rms_norm_eps": 1e-4,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}, "tie_word_embeddings": True,
        },
        "text_encoder_class": Qwen3ForCausalLM,
        "text_encoder_shard_size": "20KB",
        "vae": {
            "block_out_channels": [4, 8, 12], "layers_per_block": 2, "norm_num_groups": 2, "scaling_factor": 0.9,
            "shift_factor": -0.2, "latent_channels": 4, "use_quant_conv": False, "use_post_quant_conv": False,
        },
        "scheduler": {"shift": 1.7},
        "tokenizer_json": False,
    },
}

CASES = {
    "diffusers_test": [
        {"name": "plain_32x32_g3_s2", "prompt": "dance monkey", "negative_prompt": "bad quality", "height": 32,
         "width": 32, "guidance_scale": 3.0, "steps": 2, "seed": 0},
        {"name": "odd_20x28_g0_s3", "prompt": "", "height": 20, "width": 28, "guidance_scale": 0.0, "steps": 3,
         "seed": 1},
        # The padded captions differ in length, so diffusers masks the guided batch.
        {"name": "normalized_24x40_g5_s3",
         "prompt": "a cat and a dog dance on the beach; 两只猫在海滩上跳舞, 🐈🐕 and the quality of the picture is low",
         "negative_prompt": "bad weather, blurry picture", "height": 24, "width": 40, "guidance_scale": 5.0,
         "steps": 3, "cfg_normalization": 1.05, "seed": 2},
        {"name": "truncated_32x16_g4_s4", "prompt": "two red apples", "height": 32, "width": 16,
         "guidance_scale": 4.0, "steps": 4, "cfg_truncation": 0.3, "seed": 3},
    ],
    "varied": [
        {"name": "plain_40x72_g2_s3", "prompt": "the cat on the beach", "negative_prompt": "bad quality", "height": 40,
         "width": 72, "guidance_scale": 2.0, "steps": 3, "seed": 4},
        {"name": "both_64x48_g6_s5", "prompt": "a monkey and two red apples", "height": 64, "width": 48,
         "guidance_scale": 6.0, "steps": 5, "cfg_normalization": 1.0, "cfg_truncation": 0.5, "seed": 5},
        {"name": "sigmas_48x48_g0_s3", "prompt": "dance", "height": 48, "width": 48, "guidance_scale": 0.0, "steps": 3,
         "sigmas": [1.0, 0.7, 0.2], "seed": 6},
    ],
}

NOTE = (
    "tensors as described in the note of the golden files' golden.json. truncated: guidance is off once t exceeds "
    "cfg_truncation. normalized: the norm of pred is at most cfg_normalization times that of pos. `sigmas`, where "
    "given, are the request's; the scheduler still shifts them."
)


def randomize(module, generator):
    """Fills every parameter from one generator: norms near 1, biases and pad tokens small, matrices of unit gain."""
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            values = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1 and "pad_token" not in name and "embed_tokens" not in name:
                values /= parameter[0].numel() ** 0.5
            elif "norm" in name and name.endswith("weight"):
                values = 1 + 0.2 * values
            else:
                values *= 0.3
            # Eight bits and a sign: exact in every stored type, and compresses well.
            step = 1 / 64 if parameter.dim() == 1 else 1 / 512
            parameter.copy_((values / step).round().clamp(-255, 255) * step)
    return module


def write_tokenizer(folder, with_tokenizer_json):
    """A byte-level BPE of about 300 tokens in Qwen2's files; returns the vocabulary size."""
    folder.mkdir(parents=True)
    trainer = trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    bare = Qwen2Tokenizer()
    trained = Tokenizer(models.BPE())
    trained.normalizer, trained.pre_tokenizer = bare.backend_tokenizer.normalizer, bare.backend_tokenizer.pre_tokenizer
    trained.train_from_iterator(TOKENIZER_TEXT, trainer)
    model = json.loads(trained.to_str())["model"]
    size = len(model["vocab"])
    added = {
        str(size + i): {"content": token, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
                        "special": True}
        for i, token in enumerate(SPECIAL_TOKENS)
    }
    config = {
        "add_prefix_space": False, "added_tokens_decoder": added, "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
        "bos_token": None, "chat_template": CHAT_TEMPLATE, "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>", "errors": "replace", "model_max_length": 131072, "pad_token": "<|endoftext|>",
        "split_special_tokens": False, "tokenizer_class": "Qwen2Tokenizer", "unk_token": None,
    }
    reference.write_json(config, folder / "tokenizer_config.json")
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
    merges = [" ".join(pair) for pair in model["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    if with_tokenizer_json:
        tokenizer = Qwen2Tokenizer.from_pretrained(folder)
        tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
        for name in ("vocab.json", "merges.txt"):
            (folder / name).unlink()
    return size + len(SPECIAL_TOKENS)


def store_as(folder, prefix, dtype):
    """Rewrites the folder's tensors whose names start with `prefix` in `dtype`, and corrects the index's byte count."""
    saved = 0
    for file in folder.glob("*.safetensors"):
        tensors = load_file(file)
        for name, tensor in tensors.items():
            if name.startswith(prefix):
                saved += tensor.nbytes - tensor.numel() * dtype.itemsize
                assert torch.equal(tensor.to(dtype).float(), tensor), f"{name} is not exact in {dtype}"
                tensors[name] = tensor.to(dtype)
        reference.save(tensors, file, {"format": "pt"})
    for file in folder.glob("*.index.json"):
        index = json.loads(file.read_text())
        index["metadata"]["total_size"] -= saved
        file.write_text(json.dumps(index, indent=1, sort_keys=True) + "\n")


def write_model(folder, spec, seed):
    """One model folder in diffusers' layout."""
    generator = torch.Generator().manual_seed(seed)
    vocabulary = write_tokenizer(folder / "tokenizer", spec["tokenizer_json"])
    transformer = randomize(ZImageTransformer2DModel(**spec["transformer"]), generator)
    transformer.save_pretrained(folder / "transformer", max_shard_size=spec["transformer_shard_size"])
    store_as(folder / "transformer", *spec["stored"])
    config = Qwen3Config(vocab_size=vocabulary, **spec["text_encoder"])
    text_encoder = randomize(spec["text_encoder_class"](config), generator)
    text_encoder.save_pretrained(folder / "text_encoder", max_shard_size=spec["text_encoder_shard_size"])
    levels = len(spec["vae"]["block_out_channels"])
    vae = AutoencoderKL(**{
        "latent_channels": 16, "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels, **spec["vae"],
    })
    randomize(vae, generator).save_pretrained(folder / "vae")
    FlowMatchEulerDiscreteScheduler(**spec["scheduler"]).save_pretrained(folder / "scheduler")
    reference.write_json(
        {
            "_class_name": "ZImagePipeline",
            "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
            "text_encoder": ["transformers", spec["text_encoder_class"].__name__],
            "tokenizer": ["transformers", "Qwen2Tokenizer"],
            "transformer": ["diffusers", "ZImageTransformer2DModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
        folder / "model_index.json",
    )
    for file in folder.rglob("*.safetensors"):
        file.chmod(0o644)


def main(options):
    for seed, (name, spec) in enumerate(MODELS.items()):
        folder = options.out / name
        shutil.rmtree(folder, ignore_errors=True)
        write_model(folder, spec, seed)
        pipe = reference.load_pipeline(folder)
        expected = folder / "expected"
        expected.mkdir()
        cases = []
        for case in CASES[name]:
            tensors = reference.run_case(pipe, case)
            shapes = reference.save(tensors, expected / f"{case['name']}.safetensors")
            cases.append({**case, "chat_text": reference.chat_text(pipe, case["prompt"]), "tensors": shapes})
            print(f"{name}/{case['name']}: {len(tensors['input_ids'])} tokens, "
                  f"latents std {tensors['final_latents'].std():.3f}, image std {tensors['decoded_image'].std():.3f}")
        reference.write_json({"note": NOTE, "torch": torch.__version__, "cases": cases}, expected / "expected.json")


if __name__ == "__main__":
    main(OPTIONS)
