"""The tiny random Z-Image models of make_tiny_models.py, and their cases. Not a program."""

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImageTransformer2DModel
from transformers import Qwen3ForCausalLM, Qwen3Model

import reference
import tiny_models
import zimage_reference

ADDED_TOKENS = {"<|endoftext|>": True, "<|im_start|>": True, "<|im_end|>": True}
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


def write_model(folder, spec, seed):
    """One model folder in diffusers' layout."""
    generator = torch.Generator().manual_seed(seed)
    vocabulary = tiny_models.write_tokenizer(
        folder / "tokenizer", spec["tokenizer_json"], TOKENIZER_TEXT, ADDED_TOKENS
    )
    transformer = tiny_models.randomize(ZImageTransformer2DModel(**spec["transformer"]), generator)
    transformer.save_pretrained(folder / "transformer", max_shard_size=spec["transformer_shard_size"])
    tiny_models.store_as(folder / "transformer", *spec["stored"])
    tiny_models.write_text_encoder(folder, spec, vocabulary, generator)
    levels = len(spec["vae"]["block_out_channels"])
    vae = AutoencoderKL(**{
        "latent_channels": 16, "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels, **spec["vae"],
    })
    tiny_models.randomize(vae, generator).save_pretrained(folder / "vae")
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


def write_expected(folder, name, expected):
    """What diffusers makes of the model's cases, as files in `expected`; returns their description."""
    pipe = zimage_reference.load_pipeline(folder)
    cases = []
    for case in CASES[name]:
        tensors = zimage_reference.run_case(pipe, case)
        shapes = reference.save(tensors, expected / f"{case['name']}.safetensors")
        cases.append({**case, "chat_text": zimage_reference.chat_text(pipe, case["prompt"]), "tensors": shapes})
        print(f"{name}/{case['name']}: {len(tensors['input_ids'])} tokens, "
              f"latents std {tensors['final_latents'].std():.3f}, image std {tensors['decoded_image'].std():.3f}")
    return {"note": NOTE, "torch": torch.__version__, "cases": cases}
