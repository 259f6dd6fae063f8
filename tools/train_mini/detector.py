"""The judge of evaluate.py: a small network that finds sprites in a picture, trained on renders of its own seeds.

    python tools/train_mini/detector.py --atlas ATLAS.npz --out detector.safetensors [--vae VAE_DIR] [--seconds 60]

It looks at a picture with its short side brought to 160 px and says, per 8 px cell, which sprite is centred there and
how
large it is. A fifth of its training pictures are smeared or scrambled beyond recognition and carry no sprite at all,
so a
blob of the right colours does not pass.
"""

import argparse
import math
import os
import time


def parse_options():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atlas", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--vae")
    parser.add_argument("--init", help="continue from this detector")
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--workers", type=int, default=6)
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
import vae

SHORT_SIDE = 160
STRIDE = 8
KINDS = ("single", "backed", "counted", "related", "listed")
SIZES = [(256, 256), (256, 256), (512, 512), (256, 384), (384, 256), (448, 256), (256, 448)]
TRAIN_SEED = 77001  # far from the seeds that the transformer's scenes come from


class Residual(nn.Module):
    def __init__(self, width, dilation):
        super().__init__()
        self.norm, self.conv = nn.GroupNorm(8, width), nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)
        self.mix = nn.Conv2d(width, width, 1)

    def forward(self, x):
        return x + self.mix(F.silu(self.conv(F.silu(self.norm(x)))))


class Detector(nn.Module):
    """[B, 3, h, w] in [-1, 1] -> logits [B, sprites, h/8, w/8] and log of side / 8 px [B, 1, h/8, w/8]."""

    def __init__(self, width=128):
        super().__init__()
        stem = []
        for before, after in ((3, 32), (32, 64), (64, width)):
            stem += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.GroupNorm(8, after), nn.SiLU()]
        self.stem = nn.Sequential(*stem)
        self.body = nn.Sequential(*[Residual(width, d) for d in (1, 2, 3, 1)])
        self.head = nn.Conv2d(width, len(sprites.SPRITES) + 1, 1)
        nn.init.constant_(self.head.bias, -5.0)

    def forward(self, image):
        out = self.head(F.silu(self.body(self.stem(image))))
        return out[:, :-1], out[:, -1:]


def shrink(image):
    """The picture as the detector sees it: short side SHORT_SIDE, sides multiples of STRIDE."""
    height, width = image.shape[-2:]
    scale = SHORT_SIDE / min(height, width)
    size = [max(STRIDE, round(v * scale / STRIDE) * STRIDE) for v in (height, width)]
    return F.interpolate(image.float(), size=size, mode="bilinear", antialias=True, align_corners=False)


def targets(objects, counts, height, width, rows, columns):
    """Heat [B, sprites, rows, columns], and side maps with their mask, for objects on a height x width canvas."""
    batch, device = objects.shape[0], objects.device
    heat = torch.zeros(batch, len(sprites.SPRITES), rows, columns, device=device)
    side = torch.zeros(batch, 1, rows, columns, device=device)
    mask = torch.zeros_like(side)
    y, x = torch.arange(rows, device=device)[:, None] + 0.5, torch.arange(columns, device=device)[None] + 0.5
    for k in range(objects.shape[1]):
        sprite, cx, cy, size = objects[:, k].unbind(1)
        cells = size * rows / height
        # The cell that holds the centre is the positive one; a bump around the exact centre would leave none at cell
        # corners.
        cx, cy = (cx * columns / width - 1e-3).floor() + 0.5, (cy * rows / height - 1e-3).floor() + 0.5
        spread = (0.12 * cells).clamp(min=0.6)[:, None, None]
        bump = (
            torch.exp(-((x - cx[:, None, None]) ** 2 + (y - cy[:, None, None]) ** 2) / (2 * spread**2))
            * (k < counts)[:, None, None]
        )
        item = torch.arange(batch, device=device)
        heat[item, sprite.long()] = torch.maximum(heat[item, sprite.long()], bump)
        near = bump > 0.5
        side[:, 0] = torch.where(near, cells.clamp(min=0.5).log()[:, None, None], side[:, 0])
        mask[:, 0] = torch.maximum(mask[:, 0], near.float())
    return heat, side, mask


def _spoil(image, generator):
    """Smears or scrambles pictures until no sprite is left to see."""
    if torch.rand((), generator=generator).item() < 0.5:
        height, width = image.shape[-2:]
        return F.interpolate(
            F.interpolate(image, size=(height // 16, width // 16), mode="area"), size=(height, width), mode="bicubic"
        )
    tile = 16
    tiles = F.unfold(image, tile, stride=tile)
    order = torch.randperm(tiles.shape[-1], generator=generator).to(image.device)
    return F.fold(tiles[..., order], image.shape[-2:], tile, stride=tile)


def _vary(image):
    """Blur, noise and shifts of contrast and colour, mild enough that a sprite stays what it is."""
    batch, device = image.shape[0], image.device
    pick = lambda: torch.rand(batch, 1, 1, 1, device=device)
    soft = F.avg_pool2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), 3, 1)
    image = torch.lerp(image, soft, (1.4 * pick() - 0.4).clamp(0, 1))
    image = (
        image * (0.8 + 0.5 * pick()) + 0.3 * (pick() - 0.5) + 0.16 * (torch.rand(batch, 3, 1, 1, device=device) - 0.5)
    )
    return (image + 0.12 * pick() ** 2 * torch.randn_like(image)).clamp(-1, 1)


def train(atlas, device, seconds=60.0, batch=96, workers=6, vae_folder=None, init=None, max_steps=10**9):
    """A detector trained from scratch, or from init. Half of its pictures go through the autoencoder, when one is
    given."""

    def make(seed):
        generator = scenes.Generator(TRAIN_SEED + seed)
        while True:
            height, width = generator.random.choice(SIZES)
            yield (
                height,
                width,
                scenes.pack([generator.sample(width, height, generator.random.choice(KINDS))[1] for _ in range(batch)]),
            )

    batches = feed.Feed(make, workers)
    torch.manual_seed(TRAIN_SEED)
    host = torch.Generator().manual_seed(TRAIN_SEED)
    texels = render.pack_atlas(atlas, device)
    autoencoder = (
        vae.load(vae_folder, device, torch.bfloat16 if device.type == "cuda" else torch.float32) if vae_folder else None
    )
    model = (load(init, device).train() if init else Detector().to(device)).to(memory_format=torch.channels_last)
    peak_rate = 5e-4 if init else 2e-3
    optimiser = torch.optim.AdamW(model.parameters(), lr=peak_rate, weight_decay=0.01)
    began, step = time.time(), 0
    while (progress := (time.time() - began) / seconds) < 1 and step < max_steps:
        height, width, packed = batches.get()
        objects, counts, bands = (torch.from_numpy(a).to(device) for a in packed)
        image = render.render(texels, objects, counts, bands, height, width)
        if autoencoder is not None and step % 2:
            image = autoencoder.decode(autoencoder.encode(image))
        spoiled = batch // 5
        image = shrink(torch.cat([_spoil(image[:spoiled].float(), host), image[spoiled:].float()]))
        counts[:spoiled] = 0
        heat, side, mask = targets(objects, counts, height, width, image.shape[2] // STRIDE, image.shape[3] // STRIDE)
        image = _vary(image).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits, log_side = model(image)
        logits, log_side = logits.float(), log_side.float()
        # CenterNet's focal loss: centres are positive, cells near them count less as negatives.
        chance = logits.sigmoid()
        positive = heat > 0.9
        loss = torch.where(
            positive, (1 - chance) ** 2 * F.logsigmoid(logits), (1 - heat) ** 4 * chance**2 * F.logsigmoid(-logits)
        )
        loss = -loss.sum() / positive.sum().clamp(min=1) + 0.5 * (
            (log_side - side).abs() * mask
        ).sum() / mask.sum().clamp(min=1)
        for group in optimiser.param_groups:
            group["lr"] = peak_rate * min(1, (step + 1) / 50) * max(0.01, 0.5 * (1 + math.cos(math.pi * progress)))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        step += 1
        if step % 50 == 0:
            print(f"detector step {step} loss {loss.item():.3f} {time.time() - began:.0f} s", flush=True)
    batches.stop()
    print(f"detector steps {step}", flush=True)
    return model.eval()


@torch.no_grad()
def detect(model, images, threshold=0.2):
    """Sprites found in images [B, 3, H, W] in [-1, 1]: per image a list of (sprite, score, x, y), x and y in [0, 1],
    best first."""
    logits, log_side = model(shrink(images))
    chance, sides = logits.float().sigmoid(), log_side.float().exp()
    best, sprite = chance.max(1)
    rows, columns = best.shape[1:]
    peaks = (best == F.max_pool2d(best[:, None], 3, 1, 1)[:, 0]) & (best > threshold)
    found = []
    for k in range(len(images)):
        kept = []
        places = peaks[k].nonzero().tolist()
        for y, x in sorted(places, key=lambda p: -best[k, p[0], p[1]].item()):
            reach = 0.55 * sides[k, 0, y, x].item()
            if all(math.hypot(x - kx, y - ky) > max(reach, kr) for _, _, kx, ky, kr in kept):
                kept.append((sprite[k, y, x].item(), best[k, y, x].item(), x, y, reach))
        found.append([(s, score, (x + 0.5) / columns, (y + 0.5) / rows) for s, score, x, y, _ in kept])
    return found


def save(model, path):
    from safetensors.torch import save_file

    save_file({k: v.detach().to(torch.bfloat16).cpu().contiguous() for k, v in model.state_dict().items()}, path)


def load(path, device):
    from safetensors.torch import load_file

    model = Detector()
    model.load_state_dict(load_file(path))
    return model.float().to(device).eval()


def main(args):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    save(
        train(sprites.load_atlas(args.atlas), device, args.seconds, args.batch, args.workers, args.vae, args.init),
        args.out,
    )


if __name__ == "__main__":
    main(OPTIONS)
    # A forked worker may still hold the interpreter; everything is on disk.
    os._exit(0)
