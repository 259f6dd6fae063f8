"""The tiny random FLUX.2-klein models of make_tiny_models.py, and their cases. Not a program."""

import diffusers
import torch
import transformers
from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2Transformer2DModel
from transformers import Qwen3ForCausalLM, Qwen3Model

import klein_probes
import klein_reference
import pictures
import reference
import tiny_models

# <think> and </think> are added tokens of Qwen3 that are not special; "\n\n" is one of its plain tokens.
ADDED_TOKENS = {"<|endoftext|>": True, "<|im_start|>": True, "<|im_end|>": True, "<think>": False, "</think>": False}
TOKENIZER_TEXT = [
    "user\ndance monkey", "assistant\n", "\n\n", "\n\n", "\n\n", "a cat and a dog dance on the beach", "two red apples",
    "the monkey, the cat and the quality of the dance", "replace the cat of image 1 by the dog of image 2",
]
# What the published checkpoints have.
SCHEDULER = {"use_dynamic_shifting": True, "shift": 3.0, "base_shift": 0.5, "max_shift": 1.15}

MODELS = {
    # The published models in small: one file a part, bfloat16 with names as Qwen3ForCausalLM has them, head untied.
    "distilled": {
        "is_distilled": True,
        "transformer": {
            "in_channels": 16, "num_layers": 2, "num_single_layers": 2, "num_attention_heads": 3,
            "attention_head_dim": 16, "joint_attention_dim": 24, "axes_dims_rope": [4, 4, 4, 4],
        },
        "transformer_shard_size": "10MB",
        "stored": ("", torch.bfloat16),
        "text_encoder": {
            "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 28, "num_attention_heads": 2,
            "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 1024,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "tie_word_embeddings": False,
        },
        "text_encoder_class": Qwen3ForCausalLM,
        "text_encoder_shard_size": "10MB",
        "vae": {"block_out_channels": [4, 8], "layers_per_block": 1, "norm_num_groups": 2, "latent_channels": 4},
        "tokenizer_json": True,
    },
    # Three VAE levels with a decoder of other widths, a token width that is no power of two, unequal axes, grouped
    # heads, another ratio of the feed-forward, other eps and thetas; shards, float16, names as Qwen3Model has them.
    "base": {
        "is_distilled": None,
        "transformer": {
            "in_channels": 12, "out_channels": 12, "num_layers": 2, "num_single_layers": 3, "num_attention_heads": 4,
            "attention_head_dim": 12, "joint_attention_dim": 36, "axes_dims_rope": [2, 4, 2, 4], "mlp_ratio": 1.7,
            "rope_theta": 100, "eps": 1e-3,
        },
        "transformer_shard_size": "250KB",
        "stored": ("", torch.float16),
        "text_encoder": {
            "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 30, "num_attention_heads": 3,
            "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 2048, "rms_norm_eps": 1e-4,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}, "tie_word_embeddings": True,
        },
        "text_encoder_class": Qwen3Model,
        "text_encoder_shard_size": "60KB",
        "vae": {
            "block_out_channels": [4, 8, 8], "decoder_block_out_channels": [4, 4, 8], "layers_per_block": 2,
            "norm_num_groups": 4, "latent_channels": 3, "batch_norm_eps": 1e-2,
        },
        "tokenizer_json": False,
    },
}

# Files in `references` beside the models, made by pictures.py: width x height.
REFERENCES = {"a": (67, 75), "b": (102, 66), "c": (64, 90)}

CASES = {
    # Sizes are multiples of 4.
    "distilled": [
        {"name": "plain_48x64_s4", "prompt": "dance monkey", "height": 48, "width": 64, "guidance_scale": 1.0,
         "steps": 4, "seed": 0},
        # The guidance of a distilled model is ignored. 19 x 11 tokens: no two, three or four ranks have equal shares.
        {"name": "empty_76x44_g4_s3", "prompt": "", "height": 76, "width": 44, "guidance_scale": 4.0, "steps": 3,
         "seed": 1},
        {"name": "edit_72x64_s2", "prompt": "the cat of image 1", "references": ["a"], "size_of_reference": True,
         "height": 72, "width": 64, "guidance_scale": 1.0, "steps": 2, "seed": 2},
        {"name": "sigmas_60x52_s3", "prompt": "two red apples", "height": 60, "width": 52, "guidance_scale": 1.0,
         "steps": 3, "sigmas": [1.0, 0.7, 0.2], "seed": 3},
        {"name": "three_44x56_s3", "prompt": "replace the cat of image 1 by the dog of image 2; 两只猫在海滩上跳舞, 🐈🐕",
         "references": ["a", "b", "c"], "height": 44, "width": 56, "guidance_scale": 1.0, "steps": 3, "seed": 4},
    ],
    # Sizes are multiples of 8.
    "base": [
        {"name": "guided_40x88_g4_s3", "prompt": "the cat on the beach", "height": 40, "width": 88,
         "guidance_scale": 4.0, "steps": 3, "seed": 5},
        {"name": "long_56x72_g1_s2",
         "prompt": " ".join(f"{i}: a monkey, two red apples and the dog of image {i};" for i in range(40)),
         "height": 56, "width": 72, "guidance_scale": 1.0, "steps": 2, "seed": 6},
        {"name": "edit_72x40_g2.5_s2", "prompt": "the dog of image 1", "references": ["b"], "height": 72, "width": 40,
         "guidance_scale": 2.5, "steps": 2, "seed": 7},
        {"name": "three_64x40_g3_s2", "prompt": "the cat of image 2 and the dog of image 3",
         "references": ["c", "a", "b"], "height": 64, "width": 40, "guidance_scale": 3.0, "steps": 2, "seed": 8},
        {"name": "batch_48x40_g2_s3", "prompt": "a cat and a dog", "height": 48, "width": 40, "guidance_scale": 2.0,
         "steps": 3, "seed": 9, "images": 2},
        {"name": "sigmas_72x24_g1.5_s4", "prompt": "dance", "height": 72, "width": 24, "guidance_scale": 1.5,
         "steps": 4, "sigmas": [0.95, 0.8, 0.35, 0.05], "seed": 2**32 + 10},
    ],
}

NOTE = (
    "diffusers' Flux2KleinPipeline on a CPU, float32 compute. B pictures, N = h * w tokens of C values, h and w the "
    "picture's sides in tokens. input_ids: the prompt's tokens, at most 512, without the pads behind. prompt_embeds "
    "[rows, 3 * hidden]: the text features at the padded rows that text_rows names (of 512); negative_...: the same "
    "of the empty prompt, where guidance is on. initial_latents [B, C, h, w]: torch.randn of one CPU generator a "
    "picture, seeded with seed, seed + 1, ... sigmas: the shifted schedule with its final 0. times: the transformer's "
    "time of each step, 1000 * sigma. first_transformer_output [passes, B, N, C]: the velocity of the first step's "
    "transformer calls without the references' rows; pass 0 is the prompt, pass 1 the empty prompt. pred = neg + "
    "guidance_scale * (pos - neg). final_latents [B, C, h, w]: the state after the last step, before batch norm. "
    "decoded_image [B, 3, H, W]: vae.decode's raw output, about [-1, 1]. `references` of a case: files of "
    "../../references, in order; references.safetensors has of each NAME.png NAME_image, uint8 [H, W, 3], as it is "
    "prepared, and NAME_latents [C, h, w], after batch norm. `size_of_reference`: the request had neither height nor "
    "width. `sigmas` of a case are the request's; the scheduler still shifts them. The guidance_scale of a distilled "
    "model is ignored."
)


def write_references(folder):
    """The pictures of REFERENCES as PNGs."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (width, height) in REFERENCES.items():
        pictures.image(width, height).save(folder / f"{name}.png", optimize=True)


def randomize_statistics(norm, generator):
    """Fills a batch norm's statistics; exact in 16-bit types, as published checkpoints store them."""
    mean = torch.randn(norm.running_mean.shape, generator=generator) * 0.3
    norm.running_mean.copy_((mean * 128).round().clamp(-255, 255) / 128)
    norm.running_var.copy_((torch.rand(norm.running_var.shape, generator=generator) * 223 + 32).round() / 64)


def write_model(folder, spec, seed):
    """One model folder in diffusers' layout."""
    generator = torch.Generator().manual_seed(100 + seed)
    vocabulary = tiny_models.write_tokenizer(
        folder / "tokenizer", spec["tokenizer_json"], TOKENIZER_TEXT, ADDED_TOKENS
    )
    transformer = Flux2Transformer2DModel(**{"guidance_embeds": False, **spec["transformer"]})
    tiny_models.randomize(transformer, generator)
    transformer.save_pretrained(folder / "transformer", max_shard_size=spec["transformer_shard_size"])
    tiny_models.write_text_encoder(folder, spec, vocabulary, generator)
    levels = len(spec["vae"]["block_out_channels"])
    vae = AutoencoderKLFlux2(**{
        "down_block_types": ["DownEncoderBlock2D"] * levels, "up_block_types": ["UpDecoderBlock2D"] * levels,
        **spec["vae"],
    })
    tiny_models.randomize(vae, generator)
    randomize_statistics(vae.bn, generator)
    vae.save_pretrained(folder / "vae")
    for part in ("transformer", "text_encoder", "vae"):
        tiny_models.store_as(folder / part, *spec["stored"])
    FlowMatchEulerDiscreteScheduler(**SCHEDULER).save_pretrained(folder / "scheduler")
    distilled = {} if spec["is_distilled"] is None else {"is_distilled": spec["is_distilled"]}
    reference.write_json(
        {
            "_class_name": "Flux2KleinPipeline",
            **distilled,
            "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
            "text_encoder": ["transformers", spec["text_encoder_class"].__name__],
            "tokenizer": ["transformers", "Qwen2TokenizerFast"],
            "transformer": ["diffusers", "Flux2Transformer2DModel"],
            "vae": ["diffusers", "AutoencoderKLFlux2"],
        },
        folder / "model_index.json",
    )


def write_expected(folder, name, expected):
    """What diffusers makes of the model's cases and probes, as files in `expected`; returns their description."""
    pictures_folder = folder.parent / "references"
    write_references(pictures_folder)
    pipe = klein_reference.load_pipeline(folder)
    cases, references = [], {}
    for case in CASES[name]:
        files = [pictures_folder / f"{picture}.png" for picture in case.get("references", [])]
        tensors, prepared = klein_reference.run_case(pipe, case, files)
        assert all(torch.equal(references.setdefault(key, tensor), tensor) for key, tensor in prepared.items())
        shapes = reference.save(tensors, expected / f"{case['name']}.safetensors")
        written = {**case, "chat_text": klein_reference.chat_text(pipe, case["prompt"]), "tensors": shapes}
        if files:
            written["references"] = [file.name for file in files]
        cases.append(written)
        print(f"{name}/{case['name']}: {len(tensors['input_ids'])} tokens, "
              f"latents std {tensors['final_latents'].std():.3f}, image std {tensors['decoded_image'].std():.3f}")
    return {
        "note": NOTE,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "cases": cases,
        "references": reference.save(references, expected / "references.safetensors"),
        "probes": klein_probes.record_all(pipe, expected, pictures_folder),
    }
