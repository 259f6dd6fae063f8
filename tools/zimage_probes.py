"""Layer probes of Z-Image. Used by make_golden.py; not a program."""

import diffusers.models.transformers.transformer_z_image as z_image
import torch

import probes
import zimage_reference

CASE = {"prompt": "A cat", "height": 64, "width": 96, "guidance_scale": 0.0, "steps": 1, "sigmas": [0.5], "seed": 11}

NOTE = (
    "One float32 forward of each part; `order` lists the tensors as they are computed. Transformer tensors with a "
    "row axis hold only the rows named by image_rows (0-based, in the padded image sequence) and caption_rows (in "
    "the padded caption): image rows for x_embedder, noise_refiner and final_layer, caption rows for cap_embedder "
    "and context_refiner, image rows then caption rows for layers and rope. query and key are after norm and rope, "
    "value plain, all [rows, heads, head_dim]; attention is before the output projection; to_out and o_proj after "
    "it; residual1 is the stream after attention, a block's bare name the stream after the block; modulation is the "
    "adaLN linear's raw output [scale1 | gate1 | scale2 | gate2]. VAE probes have their own small input: latents as "
    "the decoder gets them (already unscaled), and an image in [-1, 1] for the encoder, whose result is "
    "`vae.moments` [mean | logvar]."
)


@torch.no_grad()
def text_encoder(pipe):
    """The pipeline's padded and masked call, cut to the real tokens."""
    model, rec = pipe.text_encoder, probes.Recorder()
    first = "text_encoder.layers.0"
    rec.output(model.embed_tokens, "text_encoder.embed_tokens")
    probes.probe_text_layer(rec, model.layers[0], first)
    # The last layer and the final norm are no part of the features.
    for index, other in enumerate(model.layers[:-1]):
        rec.output(other, f"text_encoder.layers.{index}")
    with rec.active(), probes.watch_text_attention(rec, model, model.layers[0], first):
        features, _ = pipe.encode_prompt(CASE["prompt"], device="cpu", do_classifier_free_guidance=False)
    ids = zimage_reference.token_ids(pipe, CASE["prompt"])
    tensors = {name: tensor[: len(ids)] for name, tensor in rec.tensors.items()}
    assert torch.equal(features[0], tensors[f"text_encoder.layers.{len(model.layers) - 2}"])
    return {"input_ids": ids, **tensors}


def probe_block(rec, block, name):
    """Hooks for every sub-step of one modulated transformer block."""
    rec.output(block.adaLN_modulation, f"{name}.modulation")
    rec.input(block.attention, f"{name}.attention_norm1_scaled")
    rec.output(block.attention, f"{name}.to_out")
    rec.input(block.ffn_norm1, f"{name}.residual1")
    rec.input(block.feed_forward, f"{name}.ffn_norm1_scaled")
    rec.output(block.feed_forward, f"{name}.ffn")


@torch.no_grad()
def transformer(pipe):
    """One call of the transformer at a middle timestep, and the velocity and latents the pipeline makes of it."""
    model, rec = pipe.transformer, probes.Recorder()
    rec.output(model.t_embedder, "transformer.t_embedder")
    rec.input(model.noise_refiner[0], "transformer.x_embedder")
    probe_block(rec, model.noise_refiner[0], "transformer.noise_refiner.0")
    probe_block(rec, model.layers[0], "transformer.layers.0")
    for stage in ("noise_refiner", "context_refiner", "layers"):
        for index, block in enumerate(getattr(model, stage)):
            rec.output(block, f"transformer.{stage}.{index}")
    rec.input(model.context_refiner[0], "transformer.cap_embedder")
    rec.handles.append(model.layers[0].register_forward_pre_hook(lambda m, args: rope(rec, args[2])))
    rec.output(model.all_final_layer["2-1"], "transformer.final_layer")
    names = (["transformer.noise_refiner.0"] + [None] * (len(model.noise_refiner) + len(model.context_refiner) - 1)
             + ["transformer.layers.0"] + [None] * (len(model.layers) - 1))
    calls = iter(names)

    def record(args, kwargs, result):
        name = next(calls)
        if name:
            for part, tensor in zip(("query", "key", "value"), args):
                rec.put(f"{name}.{part}", tensor)
            rec.put(f"{name}.attention", result.flatten(2))

    latents = zimage_reference.initial_latents(pipe, CASE)
    features, _ = pipe.encode_prompt(CASE["prompt"], device="cpu", do_classifier_free_guidance=False)
    with rec.active(), probes.wrapped_attention(vars(z_image), "dispatch_attention_fn", record):
        final, t, output = zimage_reference.sample(pipe, CASE, latents)

    image_tokens = latents.shape[2] // 2 * (latents.shape[3] // 2)
    image_padded = rec.tensors["transformer.x_embedder"].shape[0]
    image_rows = probes.probe_rows(image_tokens, image_padded)
    caption_rows = probes.probe_rows(len(features[0]), rec.tensors["transformer.cap_embedder"].shape[0])
    tensors = {
        "latents": latents, "t": t, "prompt_embeds": features[0], "image_rows": image_rows, "caption_rows": caption_rows
    }
    for name, tensor in rec.tensors.items():
        if name.endswith("t_embedder") or name.endswith("modulation"):
            tensors[name] = tensor
        elif "noise_refiner" in name or "x_embedder" in name or "final_layer" in name:
            tensors[name] = tensor[image_rows]
        elif "context_refiner" in name or "cap_embedder" in name:
            tensors[name] = tensor[caption_rows]
        else:
            tensors[name] = tensor[torch.cat([image_rows, image_padded + caption_rows])]
    tensors["transformer.output"] = output
    tensors["velocity"] = -output
    tensors["sigmas"] = pipe.scheduler.sigmas.float()
    tensors["final_latents"] = final
    return tensors


def rope(rec, freqs):
    """Records cos and sin, [rows, head_dim / 2] each."""
    rec.put("transformer.rope_cos", freqs.real)
    rec.put("transformer.rope_sin", freqs.imag)


@torch.no_grad()
def vae(pipe):
    """Decoder and encoder on a 2 x 3 latent, small because every level's full output is kept."""
    model, rec = pipe.vae, probes.Recorder()
    generator = torch.Generator("cpu").manual_seed(CASE["seed"])
    latents = torch.randn(1, model.config.latent_channels, 2, 3, generator=generator)
    latents = latents / model.config.scaling_factor + model.config.shift_factor
    scale = pipe.vae_scale_factor
    image = torch.rand(1, 3, 2 * scale, 3 * scale, generator=generator) * 2 - 1

    probes.probe_vae_halves(rec, model)
    with rec.active():
        rec.put("vae.decoder.input", latents)
        model.decode(latents, return_dict=False)
        rec.put("vae.encoder.input", image)
        rec.put("vae.moments", model.encode(image).latent_dist.parameters)
    return rec.tensors


def record_all(pipe, folder):
    """Writes probes_<part>.safetensors for the three parts; returns their description for golden.json."""
    parts = probes.record_all(pipe, folder, {"text_encoder": text_encoder, "transformer": transformer, "vae": vae})
    return {"note": NOTE, "case": CASE, "parts": parts}
