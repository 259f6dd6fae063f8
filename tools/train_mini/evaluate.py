"""Draws 300 fixed prompts at five sizes, scores them with the detector and fails when a figure is below its bound.

    python tools/train_mini/evaluate.py --model models/mini --detector tools/train_mini/detector.safetensors --atlas
    ATLAS.npz
        [--engine build/cpu/bin/nostos [--precision int8]] [--sizes 512x512 720x1280] [--per-kind 10] [--json FIGURES.json]

Pictures come from the torch modules (on CUDA where there is one) or, with --engine, from the program's command line.
Before
anything is scored the judge itself is tried: on true renders it has to agree with at least 97 % of the captions, and
with at
most 5 % of wrong ones. Exit status 1 when a figure or the judge is below its bound.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace

SIZES = ((256, 256), (512, 512), (720, 720), (720, 1280), (1280, 720))


def parse_options():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--detector", required=True)
    parser.add_argument("--atlas", required=True)
    parser.add_argument("--engine", help="program that draws instead of torch")
    parser.add_argument("--precision", default="auto", help="that the program draws in")
    parser.add_argument("--sizes", nargs="+", default=[f"{h}x{w}" for h, w in SIZES], help="HEIGHTxWIDTH")
    parser.add_argument("--per-kind", type=int, help="only so many prompts of each kind")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--compile", action="store_true", help="compile the transformer's blocks first")
    parser.add_argument("--sheets", help="also save contact sheets of the showcase prompts in this folder")
    parser.add_argument("--keep", help="also save every picture, made smaller, in this folder")
    parser.add_argument("--json", help="also write the figures here")
    return parser.parse_args()


if __name__ == "__main__":
    OPTIONS = parse_options()  # before the imports that follow: --help needs none of them

import numpy as np
import torch

import detector
import render
import scenes
import sprites

STEPS, GUIDANCE = 9, 4.0
BOUNDS = {"single": 0.95, "background": 0.95, "relation": 0.85, "count": 0.80}  # at 512x512
MAY_LOSE = 0.10  # at 720x1280 and 1280x720, against 512x512
VAE_BOUND = 32.0  # dB, mean
JUDGE_RIGHT, JUDGE_WRONG = 0.97, 0.05
BLACK = 12 / 255  # a picture whose brightest hundredth is below this has turned black
DARK = (
    "a night sky",
    "a starry night",
    "a space scene",
    "a city at night",
    "a forest at night",
    "a beach at night",
    "a cat on a black background",
    "a crowded city at night",
)

SHOWCASE = (
    "A crowded beach",
    "A cat",
    "two red apples on a white background",
    "a lion to the left of a blue car",
    "A crowded beach at sunset",
    "a city at night",
    "a space scene",
    "three penguins",
    "a forest",
    "a busy farm",
    "a snowy landscape",
    "many fish underwater",
    "a sunflower on a purple background",
    "a rocket above a castle",
    "a starry night",
    "an elephant on the beach",
)


@dataclass(frozen=True)
class Case:
    """A prompt and what its picture must show."""

    kind: str
    prompt: str
    sprite: int
    other: int = -1
    color: str = ""
    relation: str = ""
    count: int = 1


def cases(per_kind=None):
    """The fixed prompts: 80 single objects, 60 background colours, 80 relations, 80 counts up to three."""
    pick, chosen = random.Random(20261124), []
    name = lambda s, plural=False: sprites.SPRITES[s].names[0][plural]
    for sprite in pick.sample(scenes.ALL, 80):
        chosen.append(Case("single", scenes.article(name(sprite)), sprite))
    for k, sprite in enumerate(pick.sample(scenes.ALL, 60)):
        color = list(scenes.COLORS)[k % len(scenes.COLORS)]
        chosen.append(
            Case(
                "background",
                f"{scenes.article(name(sprite))} on {scenes.article(color)} background",
                sprite,
                color=color,
            )
        )
    words = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}
    for k in range(80):
        (a, b), relation = pick.sample(scenes.ALL, 2), scenes.RELATIONS[k % 4]
        chosen.append(
            Case(
                "relation",
                f"{scenes.article(name(a))} {words[relation]} {scenes.article(name(b))}",
                a,
                other=b,
                relation=relation,
            )
        )
    for k, sprite in enumerate(pick.sample(scenes.ALL, 80)):
        n = (1, 2, 2, 2, 3, 3, 3, 1)[k % 8]
        chosen.append(Case("count", f"{scenes.NUMBERS[n]} {name(sprite, n > 1)}", sprite, count=n))
    if per_kind:
        chosen = [c for kind in BOUNDS for c in [c for c in chosen if c.kind == kind][:per_kind]]
    return chosen


# ---- judging ----
def _lab(rgb):
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = (
        linear
        @ np.array([[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]])
        / [0.9505, 1.0, 1.089]
    )
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


PALETTE = _lab(np.array(list(scenes.COLORS.values())) / 255)


def background_color(image):
    """The palette colour nearest in CIELAB to the median of the outer tenth of image uint8 [H, W, 3]."""
    height, width, _ = image.shape
    rim = max(2, min(height, width) // 20)
    outer = np.concatenate(
        [
            image[:rim].reshape(-1, 3),
            image[-rim:].reshape(-1, 3),
            image[:, :rim].reshape(-1, 3),
            image[:, -rim:].reshape(-1, 3),
        ]
    )
    distance = np.linalg.norm(PALETTE - _lab(np.median(outer, 0) / 255), axis=-1)
    return list(scenes.COLORS)[int(distance.argmin())]


def holds(case, image, found):
    """Whether a picture uint8 [H, W, 3], with what the detector found in it, shows what the case says."""
    if case.kind == "background":
        return background_color(image) == case.color
    mine = [f for f in found if f[0] == case.sprite]
    if case.kind == "single":
        return bool(found) and found[0][0] == case.sprite
    if case.kind == "count":
        return len(mine) == case.count and len(found) == case.count
    others = [f for f in found if f[0] == case.other]
    if not mine or not others:
        return False
    dx, dy = others[0][2] - mine[0][2], (others[0][3] - mine[0][3])
    dx, dy = dx * image.shape[1], dy * image.shape[0]
    along = {"left": dx, "right": -dx, "above": dy, "below": -dy}[case.relation]
    across = dy if case.relation in ("left", "right") else dx
    return along > abs(across)


def judge(model, images, device):
    """What the detector finds in images uint8 [B, H, W, 3]."""
    pixels = torch.from_numpy(np.array(images)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    return [found for part in pixels.split(16) for found in detector.detect(model, part)]


# ---- trying the judge ----
def _true_scene(case, generator, height, width):
    """A render that shows the case, laid out as the training scenes are."""
    scene = scenes.Scene(width, height)
    if case.kind == "relation":
        generator.related(scene, case.relation)
        places = scene.objects
        scene.objects = [(s, *place[1:]) for s, place in zip((case.sprite, case.other), places)]
    else:
        generator.lay_out(scene, [case.sprite] * case.count)
    generator.plain(scene, scenes.COLORS[case.color] if case.color else generator.random.choice(scenes.PALE))
    return scene


def _falsify(case, pick):
    """The case with one thing wrong."""
    elsewhere = pick.choice([s for s in scenes.ALL if s not in (case.sprite, case.other)])
    if case.kind == "single":
        return replace(case, sprite=elsewhere)
    if case.kind == "background":
        return replace(case, color=pick.choice([c for c in scenes.COLORS if c != case.color]))
    if case.kind == "count":
        return replace(case, count=case.count % 3 + 1)
    return replace(case, sprite=case.other, other=case.sprite)


def try_judge(model, texels, wanted, device, height=512, width=512):
    """(share of true captions, share of false captions) that the judge accepts on renders, per kind."""
    generator, pick = scenes.Generator(31337), random.Random(31337)
    right, wrong = {k: [] for k in BOUNDS}, {k: [] for k in BOUNDS}
    for start in range(0, len(wanted), 20):
        part = wanted[start : start + 20]
        packed = scenes.pack([_true_scene(c, generator, height, width) for c in part])
        image = render.render(texels, *(torch.from_numpy(a).to(device) for a in packed), height, width)
        images = ((image.float() / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        for case, picture, found in zip(part, images, judge(model, images, device)):
            right[case.kind].append(holds(case, picture, found))
            wrong[case.kind].append(holds(_falsify(case, pick), picture, found))
    mean = lambda d: {k: float(np.mean(v)) for k, v in d.items() if v}
    return mean(right), mean(wrong)


# ---- drawing ----
class TorchDrawer:
    """Draws batches with the torch modules; the model is an exported folder or a checkpoint with its parts."""

    def __init__(self, folder, device, compile_blocks=False):
        import captions
        import export
        import models
        import sampler
        import train
        import vae

        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        if compile_blocks:
            models.Block.core = staticmethod(train.compiled_block())
        transformer, text = (m.to(device) for m in export.load_modules(folder))
        autoencoder = vae.load(os.path.join(folder, "vae"), device, dtype)
        self.artist = sampler.Artist(
            transformer, text, autoencoder, captions.load(os.path.join(folder, "tokenizer")), device, dtype
        )

    def draw(self, prompts, height, width, seed, steps=STEPS, guidance=GUIDANCE):
        """uint8 [B, height, width, 3]; picture i from seed + i."""
        images = []
        at_once = max(1, 160_000 // (height * width // 256 + 32)) if self.artist.device.type == "cuda" else 4
        for start in range(0, len(prompts), at_once):
            part = prompts[start : start + at_once]
            images.append(
                self.artist.draw(
                    part, height, width, steps, guidance, [seed + start + k for k in range(len(part))]
                ).numpy()
            )
        return np.concatenate(images)


class EngineDrawer:
    """Draws with the engine's command line, one process a picture."""

    def __init__(self, program, folder, precision="auto"):
        self.program, self.folder, self.precision = program, folder, precision

    def draw(self, prompts, height, width, seed, steps=STEPS, guidance=GUIDANCE):
        """uint8 [B, height, width, 3]; picture i from seed + i."""
        from PIL import Image

        images = []
        with tempfile.TemporaryDirectory() as temporary:
            path = os.path.join(temporary, "picture.png")
            for k, prompt in enumerate(prompts):
                command = [
                    self.program,
                    "generate",
                    "--model-path",
                    self.folder,
                    "--prompt",
                    prompt,
                    "--height",
                    str(height),
                    "--width",
                    str(width),
                    "--num-inference-steps",
                    str(steps),
                    "--guidance-scale",
                    str(guidance),
                    "--precision",
                    self.precision,
                    "--seed",
                    str(seed + k),
                    "--output",
                    path,
                ]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                images.append(np.asarray(Image.open(path).convert("RGB")))
        return np.stack(images)


# ---- the whole ----
def score(drawer, model, wanted, sizes, device, seed=42, log=print, keep=None):
    """Shares per size and kind: {"512x512": {"single": 0.98, ..., "object on background": ..., "black": 0}, ...}."""
    figures = {}
    for height, width in sizes:
        prompts = [c.prompt for c in wanted] + list(DARK)
        images = drawer.draw(prompts, height, width, seed)
        if keep:
            _keep(images, os.path.join(keep, f"{height}x{width}"))
        found = judge(model, images, device)
        results = {k: [] for k in BOUNDS}
        for case, image, seen in zip(wanted, images, found):
            results[case.kind].append(holds(case, image, seen))
        row = {k: round(float(np.mean(v)), 4) for k, v in results.items() if v}
        backed = [any(f[0] == c.sprite for f in seen) for c, seen in zip(wanted, found) if c.kind == "background"]
        row["object on background"] = round(float(np.mean(backed)), 4) if backed else None
        row["black"] = int(sum(np.quantile(i, 0.99) < 255 * BLACK for i in images))
        row["missed"] = [c.prompt for c, i, s in zip(wanted, images, found) if not holds(c, i, s)]
        figures[f"{height}x{width}"] = row
        log(f"{height}x{width} " + " ".join(f"{k} {v}" for k, v in row.items() if k != "missed"))
    return figures


def save_sheets(drawer, folder, sizes, guidance=GUIDANCE, seed=42):
    """Contact sheets of the showcase prompts, all from one seed, as JPEG files of at most about 2000 px."""
    import sampler

    os.makedirs(folder, exist_ok=True)
    for height, width in sizes:
        images = np.concatenate([drawer.draw([p], height, width, seed, guidance=guidance) for p in SHOWCASE])
        sheet = sampler.sheet(images, 4)
        sheet.thumbnail((2000, 2000))
        sheet.save(os.path.join(folder, f"{height}x{width}-g{guidance:g}.jpg"), quality=88)


def _keep(images, folder):
    """Saves the pictures with their short side at 320 px, enough to judge them again."""
    from PIL import Image

    os.makedirs(folder, exist_ok=True)
    for k, image in enumerate(images):
        scale = min(1.0, 320 / min(image.shape[:2]))
        small = Image.fromarray(image).resize([round(v * scale) for v in image.shape[1::-1]], Image.LANCZOS)
        small.save(os.path.join(folder, f"{k:03d}.jpg"), quality=92)


def failures(figures, decibels=None, judge_right=None, judge_wrong=None):
    """What is below its bound, as sentences; empty when all holds."""
    found = []
    base = figures.get("512x512")
    for kind, bound in BOUNDS.items() if base else ():
        if base.get(kind, 1) < bound:
            found.append(f"{kind} at 512x512 is {base[kind]:.1%}, the bound is {bound:.0%}")
        for size in ("720x1280", "1280x720"):
            if size in figures and kind in base and figures[size][kind] < base[kind] - MAY_LOSE:
                found.append(
                    f"{kind} at {size} is {figures[size][kind]:.1%}, more than {MAY_LOSE:.0%} below "
                    f"{base[kind]:.1%} at 512x512"
                )
    found += [f"{row['black']} pictures are black at {size}" for size, row in figures.items() if row["black"]]
    if decibels is not None:
        found += [
            f"the autoencoder's PSNR at {size} is {v['mean']} dB, the bound is {VAE_BOUND} dB"
            for size, v in decibels.items()
            if v["mean"] < VAE_BOUND
        ]
    for kind, share in (judge_right or {}).items():
        if share < JUDGE_RIGHT:
            found.append(f"the judge accepts only {share:.1%} of true {kind} captions on renders")
    for kind, share in (judge_wrong or {}).items():
        if share > JUDGE_WRONG:
            found.append(f"the judge accepts {share:.1%} of false {kind} captions on renders")
    return found


def main(args):
    import vae

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, texels = detector.load(args.detector, device), render.pack_atlas(sprites.load_atlas(args.atlas), device)
    right, wrong = try_judge(model, texels, cases(), device)
    print("judge on renders: true captions", right, "false captions", wrong)
    decibels = vae.psnr(
        vae.load(os.path.join(args.model, "vae"), device, torch.float32),
        texels,
        device,
        images=64 if device.type == "cuda" else 16,
    )
    print("autoencoder", decibels)
    drawer = EngineDrawer(args.engine, args.model, args.precision) if args.engine else TorchDrawer(args.model, device, args.compile)
    figures = score(
        drawer,
        model,
        cases(args.per_kind),
        [tuple(map(int, s.split("x"))) for s in args.sizes],
        device,
        args.seed,
        lambda line: print(line, flush=True),
        args.keep,
    )
    problems = failures(figures, decibels, right, wrong)
    if args.json:
        with open(args.json, "w") as f:
            json.dump(
                {
                    "figures": figures,
                    "autoencoder": decibels,
                    "judge": {"true": right, "false": wrong},
                    "failures": problems,
                },
                f,
                indent=1,
            )
    if args.sheets:
        save_sheets(drawer, args.sheets, [tuple(map(int, s.split("x"))) for s in args.sizes])
        save_sheets(drawer, args.sheets, [(512, 512)], guidance=1.5)
        save_sheets(drawer, args.sheets, [(512, 512)], guidance=0.0)
    for problem in problems:
        print("BELOW:", problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(OPTIONS))
