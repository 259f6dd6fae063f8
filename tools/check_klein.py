"""Recomputes the expectations of the tiny FLUX.2-klein models from their weights, by the written rules alone.

    python tools/check_klein.py --models tests/data/klein_tiny [--dtype float64]

Neither diffusers nor transformers takes part: plain torch on the tensors of the safetensors files, so that a mistake
in either the rules or the expectations shows. Prints the relative error |a - b| / |b| of every tensor of every case
and fails beyond a bound. float64 tells how much of the expectations is float32 rounding. Token ids are taken as given.
"""

import argparse
import json
import math
import sys
from pathlib import Path


def parse_options():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("tests/data/klein_tiny"))
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    return parser.parse_args()


if __name__ == "__main__":
    OPTIONS = parse_options()  # before the imports that follow: --help needs none of them

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file

BOUND = 1e-5  # relative; two float32 runs of these models differ by up to 2e-6
EXACT = {"initial_latents", "sigmas", "times"}
TEXT_ROWS = 512
FEATURE_LAYERS = (9, 18, 27)


class Part:
    """The config and the tensors of one folder of a model, by names without `model.` in front."""

    def __init__(self, folder, dtype):
        self.config = json.loads((folder / "config.json").read_text())
        self.tensors = {}
        for file in sorted(folder.glob("*.safetensors")):
            for name, tensor in load_file(file).items():
                self.tensors[name.removeprefix("model.")] = tensor.to(dtype)

    def __getitem__(self, name):
        return self.tensors[name]

    def linear(self, name, x):
        """x W^T, no bias."""
        return x @ self[f"{name}.weight"].T

    def conv(self, name, x, **options):
        return F.conv2d(x, self[f"{name}.weight"], self[f"{name}.bias"], **options)


def rms_norm(x, weight, eps):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def attend(q, k, v, allowed=None):
    """q, k, v [rows, heads, head_dim] -> [rows, heads * head_dim]."""
    scores = torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(q.shape[-1])
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -math.inf)
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).flatten(1)


# --- text encoder ---


def text_features(part, ids, pad, dtype):
    """[512, 3 * hidden]. Pads follow the tokens; a pad row attends to the real keys alone, positions go on."""
    config, count = part.config, len(ids)
    heads, kv_heads, width = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
    rows = torch.arange(TEXT_ROWS)
    allowed = (rows[:, None] >= rows[None, :]) & (rows[None, :] < count)
    theta = config["rope_parameters"]["rope_theta"]
    frequencies = 1.0 / theta ** (torch.arange(0, width, 2, dtype=torch.float32) / width)
    angles = rows[:, None].float() * frequencies  # float32, as transformers rounds them
    cos, sin = angles.cos().to(dtype)[:, None], angles.sin().to(dtype)[:, None]

    def rotate(x):
        a, b = x.chunk(2, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    padded = torch.cat([ids, torch.full((TEXT_ROWS - count,), pad)])
    x, eps, features = part["embed_tokens.weight"][padded], config["rms_norm_eps"], []
    for index in range(max(FEATURE_LAYERS)):
        layer = f"layers.{index}"
        n = rms_norm(x, part[f"{layer}.input_layernorm.weight"], eps)
        q, k, v = (
            part.linear(f"{layer}.self_attn.{name}_proj", n).unflatten(-1, (-1, width)) for name in ("q", "k", "v")
        )
        q = rotate(rms_norm(q, part[f"{layer}.self_attn.q_norm.weight"], eps))
        k = rotate(rms_norm(k, part[f"{layer}.self_attn.k_norm.weight"], eps))
        k, v = (tensor.repeat_interleave(heads // kv_heads, 1) for tensor in (k, v))
        x = x + part.linear(f"{layer}.self_attn.o_proj", attend(q, k, v, allowed))
        n = rms_norm(x, part[f"{layer}.post_attention_layernorm.weight"], eps)
        gated = F.silu(part.linear(f"{layer}.mlp.gate_proj", n)) * part.linear(f"{layer}.mlp.up_proj", n)
        x = x + part.linear(f"{layer}.mlp.down_proj", gated)
        if index + 1 in FEATURE_LAYERS:
            features.append(x)
    return torch.cat(features, -1)


# --- schedule ---


def schedule(tokens, steps, sigmas=None):
    """(sigmas with a final 0, times), float32."""
    last = 0.00016927 * tokens + 0.45666666
    mu = last
    if tokens <= 4300:
        slope = (last - (8.73809524e-05 * tokens + 1.89833333)) / 190
        mu = slope * steps + (last - 200 * slope)
    s = np.linspace(1, 1 / steps, steps) if sigmas is None else np.array(sigmas)
    s, one, e = s.astype(np.float32), np.float32(1), np.float32(math.exp(mu))
    s = e / (e + (one / s - one))
    thousand = np.float32(1000)
    times = thousand * s / thousand * thousand
    return torch.from_numpy(np.append(s, np.float32(0))), torch.from_numpy(times)


# --- transformer ---


def positions(grid, t):
    """[h * w, 4] of a grid's tokens."""
    height, width = grid
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.full_like(y, t), y, x, torch.zeros_like(y)], -1).flatten(0, 1)


def rope_tables(where, config, dtype):
    """cos and sin [rows, 1, head_dim / 2] of positions [rows, 4]: of the float64 angle, then rounded to float32."""
    angles = []
    for axis, width in enumerate(config["axes_dims_rope"]):
        frequencies = float(config["rope_theta"]) ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
        angles.append(where[:, axis, None].double() * frequencies)
    angles = torch.cat(angles, -1)[:, None]
    return angles.cos().float().to(dtype), angles.sin().float().to(dtype)


class Transformer:
    """The velocity of a state, with text and references beside it."""

    def __init__(self, part, dtype):
        self.part, self.config, self.dtype = part, part.config, dtype
        self.width = self.config["attention_head_dim"]
        self.hidden = self.config["num_attention_heads"] * self.width
        self.ffn = int(self.hidden * self.config["mlp_ratio"])

    def norm(self, x, shift, scale):
        return (1 + scale) * F.layer_norm(x, x.shape[-1:], eps=self.config["eps"]) + shift

    def heads(self, x, norm=None):
        x = x.unflatten(-1, (-1, self.width))
        return x if norm is None else rms_norm(x, self.part[f"{norm}.weight"], self.config["eps"])

    def rotate(self, x):
        a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
        return torch.stack([a * self.cos - b * self.sin, b * self.cos + a * self.sin], -1).flatten(-2)

    def feed_forward(self, name, x):
        gate, up = self.part.linear(f"{name}.linear_in", x).chunk(2, -1)
        return self.part.linear(f"{name}.linear_out", F.silu(gate) * up)

    def time(self, time):
        frequencies = torch.exp(-math.log(10000) * torch.arange(128, dtype=torch.float32) / 128)
        angles = time.float() * frequencies
        features = torch.cat([angles.cos(), angles.sin()]).to(self.dtype)
        embedder = "time_guidance_embed.timestep_embedder"
        return self.part.linear(f"{embedder}.linear_2", F.silu(self.part.linear(f"{embedder}.linear_1", features)))

    def double_block(self, name, x, c, image, text):
        joint = {"q": [], "k": [], "v": []}
        for stream, (shift, scale, _), prefix, norms in (
            (c, text[:3], "add_{}_proj", "norm_added_"), (x, image[:3], "to_{}", "norm_")
        ):
            n = self.norm(stream, shift, scale)
            for key, rows in joint.items():
                norm = None if key == "v" else f"{name}.attn.{norms}{key}"
                rows.append(self.heads(self.part.linear(f"{name}.attn." + prefix.format(key), n), norm))
        q, k, v = (torch.cat(rows) for rows in joint.values())
        text_part, image_part = attend(self.rotate(q), self.rotate(k), v).split([len(c), len(x)])
        x = x + image[2] * self.part.linear(f"{name}.attn.to_out.0", image_part)
        c = c + text[2] * self.part.linear(f"{name}.attn.to_add_out", text_part)
        x = x + image[5] * self.feed_forward(f"{name}.ff", self.norm(x, image[3], image[4]))
        c = c + text[5] * self.feed_forward(f"{name}.ff_context", self.norm(c, text[3], text[4]))
        return x, c

    def single_block(self, name, h, modulation):
        shift, scale, gate = modulation
        rows = self.part.linear(f"{name}.attn.to_qkv_mlp_proj", self.norm(h, shift, scale))
        q, k, v, ffn_gate, up = rows.split([self.hidden] * 3 + [self.ffn] * 2, -1)
        q = self.rotate(self.heads(q, f"{name}.attn.norm_q"))
        k = self.rotate(self.heads(k, f"{name}.attn.norm_k"))
        both = torch.cat([attend(q, k, self.heads(v)), F.silu(ffn_gate) * up], -1)
        return h + gate * self.part.linear(f"{name}.attn.to_out", both)

    def __call__(self, rows, features, where, time):
        """Velocity of all rows [rows, C] of picture and references."""
        text = torch.zeros(TEXT_ROWS, 4, dtype=torch.int64)
        text[:, 3] = torch.arange(TEXT_ROWS)
        self.cos, self.sin = rope_tables(torch.cat([text, where]), self.config, self.dtype)
        m = F.silu(self.time(time))
        image = self.part.linear("double_stream_modulation_img.linear", m).chunk(6)
        context = self.part.linear("double_stream_modulation_txt.linear", m).chunk(6)
        single = self.part.linear("single_stream_modulation.linear", m).chunk(3)
        x, c = self.part.linear("x_embedder", rows), self.part.linear("context_embedder", features)
        for index in range(self.config["num_layers"]):
            x, c = self.double_block(f"transformer_blocks.{index}", x, c, image, context)
        h = torch.cat([c, x])
        for index in range(self.config["num_single_layers"]):
            h = self.single_block(f"single_transformer_blocks.{index}", h, single)
        scale, shift = self.part.linear("norm_out.linear", m).chunk(2)
        return self.part.linear("proj_out", self.norm(h[TEXT_ROWS:], shift, scale))


# --- autoencoder ---


class Autoencoder:
    """Pictures [3, H, W] from and to states [C, h, w]."""

    def __init__(self, part):
        self.part, self.config = part, part.config
        self.mean = part["bn.running_mean"][:, None, None]
        self.deviation = torch.sqrt(part["bn.running_var"][:, None, None] + self.config["batch_norm_eps"])

    def norm(self, name, x):
        groups = self.config["norm_num_groups"]
        return F.group_norm(x, groups, self.part[f"{name}.weight"], self.part[f"{name}.bias"], 1e-6)

    def resnet(self, name, x):
        h = self.part.conv(f"{name}.conv1", F.silu(self.norm(f"{name}.norm1", x)), padding=1)
        h = self.part.conv(f"{name}.conv2", F.silu(self.norm(f"{name}.norm2", h)), padding=1)
        if f"{name}.conv_shortcut.bias" in self.part.tensors:
            x = self.part.conv(f"{name}.conv_shortcut", x)
        return x + h

    def middle(self, name, x):
        x = self.resnet(f"{name}.resnets.0", x)
        attention = f"{name}.attentions.0"
        rows = self.norm(f"{attention}.group_norm", x)[0].flatten(1).T
        q, k, v, out = (
            (self.part[f"{attention}.{part}.weight"], self.part[f"{attention}.{part}.bias"])
            for part in ("to_q", "to_k", "to_v", "to_out.0")
        )
        attended = attend(*(F.linear(rows, *part)[:, None] for part in (q, k, v)))
        x = x + F.linear(attended, *out).T.reshape(x.shape)
        return self.resnet(f"{name}.resnets.1", x)

    def end(self, name, x):
        return self.part.conv(f"{name}.conv_out", F.silu(self.norm(f"{name}.conv_norm_out", x)), padding=1)

    def latents(self, state):
        """[C / 4, 2 h, 2 w]: batch norm undone, then channel c * 4 + dy * 2 + dx put at (dy, dx)."""
        channels, height, width = state.shape
        z = (state * self.deviation + self.mean).reshape(channels // 4, 2, 2, height, width)
        return z.permute(0, 3, 1, 4, 2).reshape(channels // 4, 2 * height, 2 * width)

    def decode(self, latents):
        x = self.part.conv("decoder.conv_in", self.part.conv("post_quant_conv", latents[None]), padding=1)
        x = self.middle("decoder.mid_block", x)
        levels = len(self.config["block_out_channels"])
        for level in range(levels):
            for index in range(self.config["layers_per_block"] + 1):
                x = self.resnet(f"decoder.up_blocks.{level}.resnets.{index}", x)
            if level + 1 < levels:
                x = F.interpolate(x, scale_factor=2, mode="nearest")
                x = self.part.conv(f"decoder.up_blocks.{level}.upsamplers.0.conv", x, padding=1)
        return self.end("decoder", x)[0]

    def encode(self, image):
        x = self.part.conv("encoder.conv_in", image[None], padding=1)
        levels = len(self.config["block_out_channels"])
        for level in range(levels):
            for index in range(self.config["layers_per_block"]):
                x = self.resnet(f"encoder.down_blocks.{level}.resnets.{index}", x)
            if level + 1 < levels:
                x = self.part.conv(f"encoder.down_blocks.{level}.downsamplers.0.conv", F.pad(x, (0, 1, 0, 1)), stride=2)
        x = self.part.conv("quant_conv", self.end("encoder", self.middle("encoder.mid_block", x)))
        mean = x[0].chunk(2)[0]
        channels, height, width = mean.shape
        z = mean.reshape(channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3)
        return (z.reshape(channels * 4, height // 2, width // 2) - self.mean) / self.deviation


# --- whole runs ---


class Model:
    """A folder's parts."""

    def __init__(self, folder, dtype):
        self.folder, self.dtype = folder, dtype
        self.is_distilled = json.loads((folder / "model_index.json").read_text()).get("is_distilled", False)
        self.text_encoder = Part(folder / "text_encoder", dtype)
        self.transformer = Transformer(Part(folder / "transformer", dtype), dtype)
        self.vae = Autoencoder(Part(folder / "vae", dtype))
        self.scale = 2 ** len(self.vae.config["block_out_channels"])
        tokens = json.loads((folder / "tokenizer/tokenizer_config.json").read_text())["added_tokens_decoder"]
        self.pad = next(int(number) for number, token in tokens.items() if token["content"] == "<|endoftext|>")

    def features(self, ids):
        return text_features(self.text_encoder, ids, self.pad, self.dtype)

    def prepare(self, file):
        """uint8 [H, W, 3]: the picture's middle, sides rounded down to multiples. It is no larger than the cap."""
        values = torch.from_numpy(np.array(Image.open(file).convert("RGB")))
        height, width = (side // self.scale * self.scale for side in values.shape[:2])
        top, left = (values.shape[0] - height) // 2, (values.shape[1] - width) // 2
        return values[top : top + height, left : left + width]

    def encode(self, name):
        """(uint8 [H, W, 3], state [C, h, w]) of a reference's file."""
        picture = self.prepare(self.folder.parent / "references" / name)
        return picture, self.vae.encode((picture.permute(2, 0, 1).float() / 255 * 2 - 1).to(self.dtype))

    def denoise(self, case, noise, features, references):
        """The state after the last step, and the velocities of the first; [C, h, w] and [passes, h * w, C]."""
        grid = noise.shape[1:]
        sigmas, times = schedule(grid[0] * grid[1], case["steps"], case.get("sigmas"))
        where = [positions(grid, 0)]
        where += [positions(state.shape[1:], 10 + 10 * index) for index, state in enumerate(references)]
        x, firsts = noise.flatten(1).T.to(self.dtype), None
        for step, time in enumerate(times):
            rows = torch.cat([x, *(state.flatten(1).T for state in references)])
            velocities = [self.transformer(rows, text, torch.cat(where), time)[: len(x)] for text in features]
            firsts = torch.stack(velocities) if firsts is None else firsts
            v = velocities[0]
            if len(velocities) == 2:
                v = velocities[1] + case["guidance_scale"] * (v - velocities[1])
            x = x + (sigmas[step + 1] - sigmas[step]) * v
        return x.T.reshape(noise.shape), firsts

    def run(self, case, expected):
        """All tensors of a case and of its references but the tokens, which a tokenizer makes."""
        names = case.get("references", [])
        encoded = [self.encode(name) for name in names]
        made = {}
        for name, (picture, state) in zip(names, encoded):
            stem = name.removesuffix(".png")
            made |= {f"{stem}_image": picture, f"{stem}_latents": state}
        references = [state for _, state in encoded]
        grid = case["height"] // self.scale, case["width"] // self.scale
        if case.get("size_of_reference"):
            grid = references[0].shape[1:]
        made["initial_latents"] = torch.cat([
            torch.randn(1, len(self.vae.mean), *grid, generator=torch.Generator().manual_seed(case["seed"] + i))
            for i in range(case.get("images", 1))
        ])
        is_guided = case["guidance_scale"] > 1 and not self.is_distilled
        prefixes = ["", "negative_"] if is_guided else [""]
        features = [self.features(expected[f"{prefix}input_ids"]) for prefix in prefixes]
        for prefix, text in zip(prefixes, features):
            made[f"{prefix}prompt_embeds"] = text[expected[f"{prefix}text_rows"]]
        made["sigmas"], made["times"] = schedule(grid[0] * grid[1], case["steps"], case.get("sigmas"))
        runs = [self.denoise(case, noise, features, references) for noise in made["initial_latents"]]
        made["first_transformer_output"] = torch.stack([firsts for _, firsts in runs], 1)
        made["final_latents"] = torch.stack([state for state, _ in runs])
        made["decoded_image"] = torch.stack([self.vae.decode(self.vae.latents(state)) for state, _ in runs])
        return made


def chat_text(prompt):
    """Qwen3's template for one user message, a generation prompt, and thinking disabled."""
    return f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


def relative_error(made, wanted):
    """|made - wanted| / |wanted|."""
    return ((made.double() - wanted.double()).norm() / wanted.double().norm()).item()


@torch.no_grad()
def main(options):
    worst = {}
    for folder in sorted(path for path in options.models.iterdir() if (path / "model_index.json").exists()):
        model = Model(folder, getattr(torch, options.dtype))
        references = load_file(folder / "expected/references.safetensors")
        for case in json.loads((folder / "expected/expected.json").read_text())["cases"]:
            expected = load_file(folder / "expected" / f"{case['name']}.safetensors") | references
            assert case["chat_text"] == chat_text(case["prompt"]), case["name"]
            errors = {}
            for name, made in model.run(case, expected).items():
                wanted = expected[name]
                assert made.shape == wanted.shape, f"{name}: {list(made.shape)} instead of {list(wanted.shape)}"
                errors[name] = relative_error(made, wanted)
                limit = 0 if made.dtype == torch.uint8 or name in EXACT else BOUND
                assert errors[name] <= limit, f"{folder.name}/{case['name']}: {name} is off by {errors[name]:.1e}"
                worst[name] = max(worst.get(name, 0), errors[name])
            print(f"{folder.name}/{case['name']}: " + ", ".join(f"{k} {v:.1e}" for k, v in errors.items() if v))
    print("worst: " + ", ".join(f"{name} {error:.1e}" for name, error in worst.items()))


if __name__ == "__main__":
    sys.exit(main(OPTIONS))
