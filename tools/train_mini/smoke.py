"""The whole recipe at toy size on a CPU, in about a minute: every stage runs and hands its files to the next.

    python tools/train_mini/smoke.py [--font NotoColorEmoji.ttf]

Atlas, tokenizer, autoencoder, two training legs (the second continues the first), export, comparison with diffusers
where it
is installed, detector, evaluation. The toy model draws nothing, so the evaluation has to fail: that is checked as well.
"""

import argparse
import importlib.util
import os
import tempfile
import time


def parse_options():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--font", help="the one that sprites.py names")
    return parser.parse_args()


if __name__ == "__main__":
    OPTIONS = parse_options()  # before the imports that follow: --help needs none of them

import numpy as np
import torch

import captions
import checkpoint
import detector
import evaluate
import export
import feed
import render
import scenes
import sprites
import train
import vae

BUCKETS, SCHEDULE = {64: (((8, 8),), 0.6)}, ((1.01, {64: 1}),)
TRANSFORMER = {"dim": 48, "n_heads": 2, "n_layers": 2, "axes_dims": [8, 8, 8], "cap_feat_dim": 32}
TEXT = {"hidden_size": 32, "intermediate_size": 48, "head_dim": 16, "num_attention_heads": 2}


def expect(condition, what):
    """Ends the test when something does not hold."""
    if not condition:
        raise SystemExit(f"smoke test: {what}")


def check_scenes(texels):
    """Objects sit on the token grid, captions are reproducible, pictures are in range."""
    first, second = ([scenes.Generator(5).sample(256, 256)[0] for _ in range(3)] for _ in range(2))
    expect(first == second, "the same seed gave other captions")
    generator = scenes.Generator(6)
    drawn = [generator.sample(96, 64)[1] for _ in range(20)]
    edges = [value for s in drawn for _, x, y, side in s.objects for value in (x - side / 2, y - side / 2, side)]
    expect(all(v % scenes.GRID == 0 for v in edges), "an object is off the token grid")
    packed = scenes.pack(drawn[:4])
    image = render.render(texels, *(torch.from_numpy(a) for a in packed), 64, 96)
    expect(
        image.shape == (4, 3, 64, 96) and image.abs().max() <= 1.01,
        f"a render has shape {tuple(image.shape)} or leaves [-1, 1]",
    )
    crop = render.render(texels, *(torch.from_numpy(a) for a in packed), 64, 96, 16, 32, 24, 40)
    expect(torch.allclose(crop, image[:, :, 16:40, 32:72], atol=1e-5), "a crop differs from the whole picture")


def check_judge_rules():
    """The rules of evaluate.py accept what fits and refuse what does not, whatever the detector is."""
    image = np.full((64, 64, 3), 250, np.uint8)
    left = evaluate.Case("relation", "", 0, other=1, relation="left")
    expect(evaluate.holds(left, image, [(0, 0.9, 0.2, 0.5), (1, 0.9, 0.8, 0.5)]), "a true relation was refused")
    expect(not evaluate.holds(left, image, [(1, 0.9, 0.2, 0.5), (0, 0.9, 0.8, 0.5)]), "a false relation was accepted")
    two = evaluate.Case("count", "", 3, count=2)
    expect(not evaluate.holds(two, image, [(3, 0.9, 0.5, 0.5)]), "one object passed for two")
    expect(evaluate.background_color(image) == "white", "white was not seen as white")


def main(args):
    began, device = time.time(), torch.device("cpu")
    torch.set_num_threads(2)
    feed.LONG_CAPTIONS.clear()
    stage = lambda name: print(f"[{time.time() - began:.0f} s] {name}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        place = lambda name: os.path.join(temporary, name)
        stage("atlas and scenes")
        np.savez_compressed(place("atlas.npz"), atlas=sprites.build_atlas(args.font or sprites.FONT))
        atlas = sprites.load_atlas(place("atlas.npz"))
        texels = render.pack_atlas(atlas, device)
        check_scenes(texels)
        check_judge_rules()
        stage("tokenizer")
        tokenizer = captions.build(place("tokenizer"), count=3000)
        ids, lengths = captions.encode(tokenizer, ["A crowded beach"])
        expect(
            tokenizer.decode(ids[0, : lengths[0]].tolist(), skip_special_tokens=False)
            == captions.chat("A crowded beach"),
            "the tokenizer does not give back its text",
        )
        stage("autoencoder")
        vae.train(
            argparse.Namespace(
                atlas=place("atlas.npz"),
                init=None,
                out=place("vae"),
                seconds=6,
                batch=2,
                crop=32,
                workers=1,
                images=2,
                seed=1,
                compile=False,
            ),
            device,
        )
        for until in (4, 8):
            stage(f"training to {until} s")
            options = train.Options(
                atlas=place("atlas.npz"),
                vae=place("vae"),
                tokenizer=place("tokenizer"),
                state=place("state"),
                total=8,
                until=until,
                carry=place("carried"),
                workers=1,
                tokens=400,
                compile=False,
                rehearse_from=0.5,
                buckets=BUCKETS,
                schedule=SCHEDULE,
                transformer=TRANSFORMER,
                text=TEXT,
            )
            train.Trainer(options, device).run()
        state = checkpoint.info(place("state"))
        expect(
            len(state["legs"]) == 2 and state["legs"][1]["from_step"] == state["legs"][0]["to_step"] > 0,
            f"the second leg did not continue the first: {state['legs']}",
        )
        expect(
            set(checkpoint.load(place("carried"), "weights")) == set(checkpoint.load(place("state"), "weights")),
            "the carried checkpoint lacks weights",
        )
        stage("export")
        export.export(*export.averaged_modules(place("state")), place("vae"), place("tokenizer"), place("model"))
        if importlib.util.find_spec("diffusers"):
            export.check(place("model"))
        else:
            print("diffusers is not installed: the modules were not compared with it")
        stage("detector")
        detector.save(
            detector.train(atlas, device, seconds=8, batch=5, workers=1, max_steps=2), place("detector.safetensors")
        )
        stage("evaluation")
        judge = detector.load(place("detector.safetensors"), device)
        wanted = evaluate.cases(1)
        expect(
            len(evaluate.cases()) == 300 and evaluate.cases() == evaluate.cases(), "the prompts are not 300 fixed ones"
        )
        evaluate.DARK = evaluate.DARK[:1]
        figures = evaluate.score(evaluate.TorchDrawer(place("model"), device), judge, wanted, [(64, 64)], device)
        figures["512x512"] = figures.pop("64x64")
        expect(evaluate.failures(figures), "the evaluation accepted a model that draws nothing")
    print(f"smoke test passed in {time.time() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main(OPTIONS)
    # The prefetch thread may still wait for its feed; every file is written.
    os._exit(0)
