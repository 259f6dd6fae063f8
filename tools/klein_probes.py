"""Layer probes of FLUX.2-klein. Used by klein_tiny.py; not a program."""

import diffusers.models.transformers.transformer_flux2 as flux2
import torch

import klein_reference
import probes

CASE = {
    "prompt": "the cat of image 1", "height": 40, "width": 56, "guidance_scale": 1.0, "steps": 1, "sigmas": [0.5],
    "seed": 11, "references": ["b.png"],
}

NOTE = (
    "One float32 forward of each part, with the case's reference as references.safetensors has it; `order` lists the "
    "tensors as they are computed. The text encoder's tensors with "
    "a row axis hold only the rows named by text_rows (0-based, of the 512 padded ones). The transformer's hold the "
    "rows of text_rows, image_rows (of the picture) and reference_rows (of the reference), in this order, for "
    "`sequence` and single blocks; a double block's `text` tensors hold text_rows, its `image` tensors image_rows, "
    "then reference_rows. query and key are after norm and rope, value plain, all [rows, heads, head_dim]; attention "
    "is before the output projection; residual1 is the stream after attention, a block's bare name the stream after "
    "the block; modulation is the linear's raw output [shift | scale | gate], twice for double blocks, and "
    "norm_out.modulation [scale | shift]; gated is the feed-forward's silu(gate) * up. VAE probes: "
    "`vae.decoder.packed` is a state [C, h, w] as the last step leaves it, vae.decoder.scaled the same after batch "
    "norm, vae.decoder.input after unpatchifying; vae.encoder.input is an image in [-1, 1], vae.moments [mean | "
    "logvar] after quant_conv, vae.encoder.patched its mean with patches of 2, vae.encoder.packed the same after batch "
    "norm."
)


@torch.no_grad()
def text_encoder(pipe):
    """The pipeline's padded and masked call, at a few rows."""
    ids = klein_reference.token_ids(pipe, CASE["prompt"])
    rows = klein_reference.some_text_rows(len(ids))
    whole, rec = pipe.text_encoder, probes.Recorder()
    model = getattr(whole, "model", whole)
    first = "text_encoder.layers.0"
    rec.output(model.embed_tokens, "text_encoder.embed_tokens")
    probes.probe_text_layer(rec, model.layers[0], first)
    for index, layer in enumerate(model.layers[:27]):  # no later layer is part of the features
        rec.output(layer, f"text_encoder.layers.{index}")
    with rec.active(), probes.watch_text_attention(rec, model, model.layers[0], first):
        features = pipe.encode_prompt(CASE["prompt"])[0][0]
    used = [rec.tensors[f"text_encoder.layers.{index}"] for index in (8, 17, 26)]
    assert torch.equal(features, torch.cat(used, dim=1))
    tensors = {name: tensor[rows] for name, tensor in rec.tensors.items()}
    return {"input_ids": ids, "text_rows": rows, **tensors, "prompt_embeds": features[rows]}


def probe_double_block(rec, block, name):
    """Hooks for every sub-step of one double block but its attention, which a wrapper records."""
    attention = block.attn
    for stream, out, norm2, ff in (
        ("image", attention.to_out[0], block.norm2, block.ff),
        ("text", attention.to_add_out, block.norm2_context, block.ff_context),
    ):
        rec.output(out, f"{name}.{stream}.to_out")
        rec.input(norm2, f"{name}.{stream}.residual1")
        rec.input(ff, f"{name}.{stream}.ff_in")
        rec.output(ff.act_fn, f"{name}.{stream}.gated")
        rec.output(ff, f"{name}.{stream}.ff")
    rec.input(attention.to_q, f"{name}.image.attention_in")
    rec.input(attention.add_q_proj, f"{name}.text.attention_in")


def probe_single_block(rec, block, name):
    """Hooks for every sub-step of one single block but its attention, which a wrapper records."""
    rec.input(block.attn.to_qkv_mlp_proj, f"{name}.attention_in")
    rec.output(block.attn.mlp_act_fn, f"{name}.gated")
    rec.output(block.attn.to_out, f"{name}.to_out")


def probe_transformer(rec, model):
    """Hooks for the stages of a transformer, and the sub-steps of its first block of each kind."""
    rec.output(model.time_guidance_embed.time_proj, "transformer.time_features")
    rec.output(model.time_guidance_embed, "transformer.time_embedding")
    for name in ("double_stream_modulation_img", "double_stream_modulation_txt", "single_stream_modulation"):
        rec.output(getattr(model, name), f"transformer.{name}.modulation")
    rec.output(model.x_embedder, "transformer.x_embedder")
    rec.output(model.context_embedder, "transformer.context_embedder")
    probe_double_block(rec, model.transformer_blocks[0], "transformer.double.0")
    for index, block in enumerate(model.transformer_blocks):
        rec.handles.append(block.register_forward_hook(lambda m, args, out, i=index: put_streams(rec, out, i)))
    probe_single_block(rec, model.single_transformer_blocks[0], "transformer.single.0")
    for index, block in enumerate(model.single_transformer_blocks):
        rec.output(block, f"transformer.single.{index}")
    rec.output(model.norm_out.linear, "transformer.norm_out.modulation")
    rec.output(model.norm_out, "transformer.norm_out")


def put_streams(rec, output, index):
    """Records the two streams that a double block returns."""
    rec.put(f"transformer.double.{index}.text", output[0])
    rec.put(f"transformer.double.{index}.image", output[1])


@torch.no_grad()
def transformer(pipe, picture):
    """One call of the transformer with a reference at a middle timestep."""
    model, rec = pipe.transformer, probes.Recorder()
    probe_transformer(rec, model)
    doubles, singles = len(model.transformer_blocks), len(model.single_transformer_blocks)
    calls = iter(["transformer.double.0"] + [None] * (doubles - 1) + ["transformer.single.0"] + [None] * (singles - 1))
    tables = []

    def record(args, kwargs, result):
        name = next(calls)
        if name:
            for part, tensor in zip(("query", "key", "value"), args):
                rec.put(f"{name}.{part}", tensor)
            rec.put(f"{name}.attention", result.flatten(2))

    rec.handles.append(model.pos_embed.register_forward_hook(lambda m, args, out: tables.append(out)))
    with rec.active(), probes.wrapped_attention(vars(flux2), "dispatch_attention_fn", record):
        run = klein_reference.sample(pipe, CASE, [picture])

    features = pipe.encode_prompt(CASE["prompt"])[0][0]
    scale = pipe.vae_scale_factor * 2
    height, width = CASE["height"] // scale, CASE["width"] // scale
    count = height * width
    text_rows = klein_reference.some_text_rows(len(klein_reference.token_ids(pipe, CASE["prompt"])))
    references = run["calls"][0][1].shape[1] - count
    image_rows, reference_rows = probes.probe_rows(count, count), probes.probe_rows(references, references)
    in_image = torch.cat([image_rows, count + reference_rows])
    in_sequence = torch.cat([text_rows, klein_reference.MAX_TOKENS + in_image])
    # A pair of channels turns by one angle, which the tables hold twice.
    cos, sin = (torch.cat([text, image])[in_sequence, ::2] for text, image in zip(*tables[::-1]))
    time, rows_in, _ = run["calls"][0]
    tensors = {
        "latents": klein_reference.unpack(rows_in[:, :count], height, width)[0],
        "time": time,
        "prompt_embeds": features,
        "text_rows": text_rows,
        "image_rows": image_rows,
        "reference_rows": reference_rows,
        "transformer.rope_cos": cos,
        "transformer.rope_sin": sin,
    }
    for name, tensor in rec.tensors.items():
        if name.endswith("modulation") or "time_" in name:
            tensors[name] = tensor
        elif ".text" in name or "context_embedder" in name:
            tensors[name] = tensor[text_rows]
        elif ".image" in name or "x_embedder" in name:
            tensors[name] = tensor[in_image]
        elif name.endswith("norm_out"):
            tensors[name] = tensor[image_rows]
        else:
            tensors[name] = tensor[in_sequence]
    tensors["velocity"] = klein_reference.unpack(run["calls"][0][2][:, :count], height, width)[0]
    tensors["sigmas"] = pipe.scheduler.sigmas
    tensors["final_latents"] = klein_reference.unpack(run["state"], height, width)[0]
    return tensors


@torch.no_grad()
def vae(pipe):
    """Decoder and encoder on a picture of 2 x 3 tokens, small because every level's full output is kept."""
    model, rec = pipe.vae, probes.Recorder()
    generator = torch.Generator("cpu").manual_seed(CASE["seed"])
    state = torch.randn(1, pipe.transformer.config.in_channels, 2, 3, generator=generator)
    scale = pipe.vae_scale_factor * 2
    image = torch.rand(1, 3, 2 * scale, 3 * scale, generator=generator) * 2 - 1
    mean = model.bn.running_mean.view(1, -1, 1, 1)
    deviation = torch.sqrt(model.bn.running_var.view(1, -1, 1, 1) + model.config.batch_norm_eps)
    rec.output(model.post_quant_conv, "vae.decoder.post_quant_conv")
    probes.probe_vae_halves(rec, model)

    with rec.active():
        rec.put("vae.decoder.packed", state)
        rec.put("vae.decoder.scaled", state * deviation + mean)
        latents = pipe._unpatchify_latents(state * deviation + mean)
        rec.put("vae.decoder.input", latents)
        model.decode(latents, return_dict=False)
        rec.put("vae.encoder.input", image)
        moments = model.encode(image).latent_dist
        rec.put("vae.moments", moments.parameters)
        rec.put("vae.encoder.patched", pipe._patchify_latents(moments.mode()))
    rec.put("vae.encoder.packed", pipe._encode_vae_image(image, None))
    return rec.tensors


def record_all(pipe, folder, pictures):
    """Writes probes_<part>.safetensors for the three parts; returns their description for expected.json."""
    parts = {
        "text_encoder": text_encoder,
        "transformer": lambda pipe: transformer(pipe, pictures / CASE["references"][0]),
        "vae": vae,
    }
    return {"note": NOTE, "case": CASE, "parts": probes.record_all(pipe, folder, parts)}
