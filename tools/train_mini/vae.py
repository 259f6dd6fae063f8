"""The autoencoder as plain torch modules with the parameter names of diffusers' AutoencoderKL, its training and its
PSNR.

python tools/train_mini/vae.py train --atlas ATLAS.npz --out VAE_DIR --seconds 240 [--init VAE_DIR]
python tools/train_mini/vae.py psnr  --atlas ATLAS.npz --vae VAE_DIR [--images 64]
"""

import argparse
import json
import math
import os
import time


def parse_options():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("train", "psnr"))
    parser.add_argument("--atlas", required=True)
    parser.add_argument("--vae", help="diffusers folder to measure")
    parser.add_argument("--init", help="diffusers folder to continue from")
    parser.add_argument("--out", help="diffusers folder to write")
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--workers", type=int, default=6)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    return parser.parse_args()


if __name__ == "__main__":
    OPTIONS = parse_options()  # before the imports that follow: --help needs none of them

import torch
import torch.nn.functional as F
from torch import nn

import feed
import render
import scenes
import sprites
from group_norm import group_norm_silu

CONFIG = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.40.0.dev0",
    "act_fn": "silu",
    "block_out_channels": [32, 64, 128, 128],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "force_upcast": False,
    "in_channels": 3,
    "latent_channels": 16,
    "latents_mean": None,
    "latents_std": None,
    "layers_per_block": 1,
    "mid_block_add_attention": True,
    "norm_num_groups": 8,
    "out_channels": 3,
    "sample_size": 512,
    "scaling_factor": 1.0,
    "shift_factor": 0.0,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "use_post_quant_conv": False,
    "use_quant_conv": False,
}
EPS = 1e-6
WEIGHTS = "diffusion_pytorch_model.safetensors"


class Resnet(nn.Module):
    def __init__(self, before, after, groups):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, before, EPS), nn.Conv2d(before, after, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(groups, after, EPS), nn.Conv2d(after, after, 3, padding=1)
        if before != after:
            self.conv_shortcut = nn.Conv2d(before, after, 1)

    def forward(self, x):
        h = self.conv2(group_norm_silu(self.conv1(group_norm_silu(x, self.norm1)), self.norm2))
        return h + (self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x)


class SpatialAttention(nn.Module):
    """One head as wide as the channels over all positions."""

    def __init__(self, width, groups):
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, width, EPS)
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x):
        h = self.group_norm(x).flatten(2).transpose(1, 2)
        h = F.scaled_dot_product_attention(*(p(h)[:, None] for p in (self.to_q, self.to_k, self.to_v)))[:, 0]
        return x + self.to_out[0](h).transpose(1, 2).view_as(x)


class Middle(nn.Module):
    def __init__(self, width, groups):
        super().__init__()
        self.resnets = nn.ModuleList([Resnet(width, width, groups) for _ in range(2)])
        self.attentions = nn.ModuleList([SpatialAttention(width, groups)])

    def forward(self, x):
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Resampler(nn.Module):
    def __init__(self, width, up):
        super().__init__()
        self.up, self.conv = up, nn.Conv2d(width, width, 3, **({"padding": 1} if up else {"stride": 2}))

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest") if self.up else F.pad(x, (0, 1, 0, 1)))


class Stage(nn.Module):
    """Resnets, then a resampler unless it is the last stage."""

    def __init__(self, before, after, resnets, groups, resample):
        super().__init__()
        self.resnets = nn.ModuleList([Resnet(before if k == 0 else after, after, groups) for k in range(resnets)])
        if resample:
            setattr(self, resample, nn.ModuleList([Resampler(after, resample == "upsamplers")]))
        self.resample = resample

    def forward(self, x):
        for resnet in self.resnets:
            x = resnet(x)
        return getattr(self, self.resample)[0](x) if self.resample else x


class Encoder(nn.Module):
    def __init__(self, c):
        super().__init__()
        widths, groups = c["block_out_channels"], c["norm_num_groups"]
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            [
                Stage(
                    widths[max(k - 1, 0)],
                    width,
                    c["layers_per_block"],
                    groups,
                    "downsamplers" if k < len(widths) - 1 else None,
                )
                for k, width in enumerate(widths)
            ]
        )
        self.mid_block = Middle(widths[-1], groups)
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], EPS)
        self.conv_out = nn.Conv2d(widths[-1], 2 * c["latent_channels"], 3, padding=1)

    def forward(self, x):
        x = self.conv_in(x)
        for stage in self.down_blocks:
            x = stage(x)
        return self.conv_out(group_norm_silu(self.mid_block(x), self.conv_norm_out))


class Decoder(nn.Module):
    def __init__(self, c):
        super().__init__()
        widths, groups = c["block_out_channels"][::-1], c["norm_num_groups"]
        self.conv_in = nn.Conv2d(c["latent_channels"], widths[0], 3, padding=1)
        self.mid_block = Middle(widths[0], groups)
        self.up_blocks = nn.ModuleList(
            [
                Stage(
                    widths[max(k - 1, 0)],
                    width,
                    c["layers_per_block"] + 1,
                    groups,
                    "upsamplers" if k < len(widths) - 1 else None,
                )
                for k, width in enumerate(widths)
            ]
        )
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], EPS)
        self.conv_out = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, x):
        x = self.mid_block(self.conv_in(x))
        for stage in self.up_blocks:
            x = stage(x)
        return self.conv_out(group_norm_silu(x, self.conv_norm_out))


class Autoencoder(nn.Module):
    """AutoencoderKL; latents here are normalised: (z - shift) * scaling."""

    def __init__(self, config=None):
        super().__init__()
        self.config = {**CONFIG, **(config or {})}
        self.encoder, self.decoder = Encoder(self.config), Decoder(self.config)

    @torch.no_grad()
    def encode(self, image):
        """The mean of the latents of image [B, 3, H, W] in [-1, 1], normalised, float32."""
        mean = self.encoder(image.to(self.decoder.conv_in.weight.dtype)).float()[:, : self.config["latent_channels"]]
        return (mean - self.config["shift_factor"]) * self.config["scaling_factor"]

    @torch.no_grad()
    def decode(self, latents):
        """The image of normalised latents, float32, about [-1, 1]."""
        z = latents / self.config["scaling_factor"] + self.config["shift_factor"]
        return self.decoder(z.to(self.decoder.conv_in.weight.dtype)).float()


def load(folder, device, dtype):
    """An Autoencoder from a diffusers folder, ready for use."""
    from safetensors.torch import load_file

    with open(os.path.join(folder, "config.json")) as f:
        model = Autoencoder(json.load(f))
    model.load_state_dict(load_file(os.path.join(folder, WEIGHTS)))
    return model.to(device, dtype).to(memory_format=torch.channels_last).eval().requires_grad_(False)


def save(model, folder):
    """The model as a diffusers folder, bf16."""
    from safetensors.torch import save_file

    os.makedirs(folder, exist_ok=True)
    state = {k: v.detach().to(torch.bfloat16).cpu().contiguous() for k, v in model.state_dict().items()}
    save_file(state, os.path.join(folder, WEIGHTS), metadata={"format": "pt"})
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(model.config, f, indent=2)


def draw(generator, texels, height, width, count, device):
    """count scenes of the caption grammar as images on the device."""
    packed = scenes.pack([generator.sample(width, height)[1] for _ in range(count)])
    return render.render(texels, *(torch.from_numpy(a).to(device) for a in packed), height, width)


def psnr(model, texels, device, images=64, sizes=((256, 256), (512, 512)), seed=999):
    """Mean and worst PSNR in dB over fresh scenes, per size: {"256x256": {"mean": ..., "worst": ...}, ...}."""
    generator, result = scenes.Generator(seed), {}
    for height, width in sizes:
        errors = []
        for start in range(0, images, 16):
            image = draw(generator, texels, height, width, min(16, images - start), device).float()
            back = model.decode(model.encode(image)).clamp(-1, 1)
            errors.append(((back - image) / 2).square().mean((1, 2, 3)))
        decibels = -10 * torch.cat(errors).log10()
        result[f"{height}x{width}"] = {
            "mean": round(decibels.mean().item(), 2),
            "worst": round(decibels.min().item(), 2),
        }
    return result


def train(args, device):
    """L1 + gradient + half-scale L1 + MSE + 1e-4 KL on 256 px crops; halfway the latents are whitened channel by
    channel."""
    from optimizers import Adam, Muon

    texels = render.pack_atlas(sprites.load_atlas(args.atlas), device)
    model = (
        load(args.init, device, torch.float32).requires_grad_(True).train() if args.init else Autoencoder().to(device)
    ).to(memory_format=torch.channels_last)
    torch.manual_seed(args.seed)
    parameters = list(model.parameters())
    matrices = [
        p for n, p in model.named_parameters() if p.ndim >= 2 and not n.endswith(("conv_in.weight", "conv_out.weight"))
    ]
    others = [p for p in parameters if all(p is not m for m in matrices)]
    for p in parameters:
        p.grad = torch.zeros_like(p)
    muon, adam = Muon(matrices, weight_decay=0.02), Adam(others)
    average = [p.detach().clone() for p in parameters]
    crops = feed.CropFeed(args.workers, args.batch, args.crop, args.seed)
    encoder, decoder = (torch.compile(m, dynamic=False) if args.compile else m for m in (model.encoder, model.decoder))
    channels = model.config["latent_channels"]
    whitened, moments, step, start = bool(args.init), None, 0, time.time()
    while (elapsed := time.time() - start) < args.seconds:
        progress = elapsed / args.seconds
        decay = 1.0 if progress < 0.35 else max(0.01, 0.5 * (1 + math.cos(math.pi * (progress - 0.35) / 0.65)))
        rate = (8e-4 if args.init else 1.5e-3) * min(1, (step + 1) / 100) * decay
        height, width, top, left, packed = crops.get()
        image = render.render(
            texels, *(torch.from_numpy(a).to(device) for a in packed), height, width, top, left, args.crop, args.crop
        )
        image = image.float().contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            mean, log_variance = encoder(image).float().chunk(2, 1)
            log_variance = log_variance.clamp(-20, 4)
            # Noise on top of the posterior's own makes the decoder forgive what the transformer leaves behind.
            extra = torch.rand(len(image), 1, 1, 1, device=device) * (0.12 if whitened else 0.02)
            back = decoder(mean + torch.randn_like(mean) * ((0.5 * log_variance).exp() + extra)).float()
        error = back - image
        gradient = (error[..., 1:] - error[..., :-1]).abs().mean() + (
            error[..., 1:, :] - error[..., :-1, :]
        ).abs().mean()
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        loss = (
            error.abs().mean()
            + 0.5 * gradient
            + 0.5 * F.avg_pool2d(error, 2).abs().mean()
            + 2 * error.square().mean()
            + 1e-4 * kl
        )
        torch._foreach_zero_([p.grad for p in parameters])
        loss.backward()
        muon.step(rate * 1.6)
        adam.step(rate * 0.6)
        step += 1
        torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - min(0.999, (step + 1) / (step + 10)))
        batch = torch.stack([mean.detach().mean((0, 2, 3)), mean.detach().square().mean((0, 2, 3))])
        moments = batch if moments is None else moments.lerp(batch, 0.01)
        if not whitened and progress > 0.45:
            whitened = True
            _whiten(model, parameters, average, moments, channels)
        if step % 100 == 0:
            decibels = -10 * math.log10(error.square().mean().item() / 4)
            print(f"step {step} {elapsed:.0f} s l1 {error.abs().mean().item():.4f} psnr {decibels:.2f}", flush=True)
    crops.stop()
    with torch.no_grad():
        for p, a in zip(parameters, average):
            p.copy_(a)
    if not args.init:
        z = torch.cat([model.encode(draw(scenes.Generator(7), texels, 256, 256, 16, device)) for _ in range(4)])
        model.config.update(scaling_factor=round(1 / z.std().item(), 6), shift_factor=round(z.mean().item(), 6))
    save(model, args.out)
    print("steps", step, json.dumps(psnr(model.eval(), texels, device, images=args.images)), flush=True)


@torch.no_grad()
def _whiten(model, parameters, average, moments, channels):
    """Folds each latent channel's scale and shift into the two convolutions at the latents."""
    mean, deviation = moments[0], (moments[1] - moments[0].square()).clamp(min=1e-8).sqrt()
    places = {id(p): k for k, p in enumerate(parameters)}
    out, into = model.encoder.conv_out, model.decoder.conv_in
    for of in (lambda p: p, lambda p: average[places[id(p)]]):
        weight, bias, next_weight, next_bias = (of(p) for p in (out.weight, out.bias, into.weight, into.bias))
        weight[:channels] /= deviation[:, None, None, None]
        bias[:channels] = (bias[:channels] - mean) / deviation
        bias[channels:] -= 2 * deviation.log()
        next_bias += next_weight.sum((2, 3)) @ mean
        next_weight *= deviation[None, :, None, None]


def main(args):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if args.command == "train":
        train(args, device)
    else:
        texels = render.pack_atlas(sprites.load_atlas(args.atlas), device)
        print(json.dumps(psnr(load(args.vae, device, torch.float32), texels, device, args.images)))


if __name__ == "__main__":
    main(OPTIONS)
