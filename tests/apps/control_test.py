"""Draws what follows a control image as users do: commands with a control network, records, and what is refused.

Usage: NOSTOS_BINARY=build/cpu/bin/nostos control_test.py [TestCase ...]. Needs Python 3.11 alone.
"""

import hashlib
import json
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from cli_test import ROOT, CliTest, png_texts  # noqa: E402
from page_stand_in import png  # noqa: E402
from run_tests import run_tests  # noqa: E402

DATA = ROOT / "tests" / "data"
MODEL = DATA / "tiny" / "diffusers_test"
KLEIN = DATA / "klein_tiny" / "distilled"
NETWORKS = DATA / "control_drawings"
LITE, UNION_1, UNION_2_1 = [NETWORKS / f"{name}.safetensors" for name in ("lite", "union_1.0", "union_2.1")]
PICTURE = DATA / "klein_tiny" / "references" / "a.png"
STEPS = ["--prompt", "x", "--num-inference-steps", "4", "--device", "cpu"]
SMALL = ["--model-path", MODEL, *STEPS]
SIZE = ["--height", "32", "--width", "48"]


class ControlTest(CliTest):
    model = MODEL

    def generate(self, *flags):
        return ["generate", "--model-path", self.model, *STEPS, *SIZE, *flags]

    def drawn(self, *flags, output="drawn.PNG"):
        """Returns the picture's bytes and what was said."""
        run = self.run_nostos(*self.generate("--output", output, *flags))
        self.assertEqual(run.returncode, 0, run.stderr)
        return (self.dir / output).read_bytes(), run.stderr

    def pixels(self, *flags):
        """Returns the bytes of a WebP, which holds no record."""
        return self.drawn(*flags, output="drawn.webp")[0]


class Control(ControlTest):
    """`nostos generate --controlnet --control-image`."""

    def test_a_control_image_changes_the_picture(self):
        plain = self.pixels()
        control = ["--controlnet", LITE, "--control-image", PICTURE]
        seen = {plain}
        for flags in ([], ["--control-scale", "1"], ["--control-end", "0.5"], ["--control-start", "0.5"],
                      *(["--control-preprocessor", name] for name in ("canny", "gray", "tile"))):
            picture = self.pixels(*control, *flags)
            self.assertNotIn(picture, seen, flags)
            seen.add(picture)
        self.assertEqual(self.pixels(*control, "--control-scale", "0"), plain)
        self.assertEqual(self.pixels(*control, "--control-scale", "0.75", "--control-preprocessor", "none"), self.pixels(*control))

    def test_ranks_draw_the_same_bytes(self):
        for network in (LITE, UNION_1):
            control = ["--controlnet", network, "--control-image", PICTURE, "--guidance-scale", "3"]
            one, _ = self.drawn(*control)
            for flags in (["--num-gpus", "2"], ["--num-gpus", "3", "--sp-plan", "axis"], ["--num-gpus", "2", "--cfg-parallel-degree", "2"],
                          ["--memory", "offload"]):
                self.assertEqual(self.drawn(*control, *flags)[0], one, flags)

    def test_a_record_says_which_it_wants(self):
        shutil.copy(PICTURE, self.dir / "edges.png")
        control = ["--controlnet", LITE, "--control-image", "edges.png", "--control-scale", "0.6", "--control-start", "0.25",
                   "--control-end", "0.75", "--control-preprocessor", "gray", "--image-fit", "stretch"]
        first, _ = self.drawn(*control)
        record = json.loads(png_texts(self.dir / "drawn.PNG")["nostos"])
        self.assertEqual(record["controlnet"], str(LITE))
        self.assertEqual(record["image_fit"], "stretch")
        digest = hashlib.sha256(PICTURE.read_bytes()).hexdigest()
        self.assertEqual({name: record["control"][name] for name in ("file", "sha256", "scale", "start", "end", "preprocessor")},
                         {"file": "edges.png", "sha256": digest, "scale": 0.6, "start": 0.25, "end": 0.75, "preprocessor": "gray"})
        again = ["generate", "--from", "drawn.PNG", "--output", "again.PNG"]
        self.assertEqual(self.run_nostos(*again).returncode, 0)
        self.assertEqual((self.dir / "again.PNG").read_bytes(), first)
        run = self.run_nostos(*again, "--control-scale", "0.7", "--json")
        self.assertEqual(json.loads(run.stdout)["request"]["control"]["start"], 0.25)
        self.assertEqual(json.loads(run.stdout)["request"]["control"]["scale"], 0.7)
        shutil.copy(DATA / "klein_tiny" / "references" / "b.png", self.dir / "edges.png")
        run = self.run_nostos(*again)
        self.assertEqual(run.returncode, 2)
        for words in ("edges.png is not the picture that it was", digest, "--control-image"):
            self.assertIn(words, run.stderr)
        run = self.run_nostos(*again, "--control-image", "edges.png")
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertIn("edges.png is not the control image of the picture of --from", run.stderr)
        self.assertEqual(self.run_nostos(*again, "--control-image", "").returncode, 0)
        self.assertNotIn("control", json.loads(png_texts(self.dir / "again.PNG")["nostos"]))

    def test_the_size_is_the_control_images(self):
        run = self.run_nostos("generate", *SMALL, "--controlnet", LITE, "--control-image", NETWORKS / "none.png")
        self.assertEqual(run.returncode, 2)
        shutil.copy(ROOT / "tests" / "data" / "io" / "pictures" / "alpha.png", self.dir / "small")
        run = self.run_nostos("generate", *SMALL, "--controlnet", LITE, "--control-image", "small", "--json")
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertEqual([json.loads(run.stdout)["request"][side] for side in ("width", "height")], [36, 20])  # of 37x23

    def test_masks_are_told_to_networks(self):
        (self.dir / "white").write_bytes(png(48, 32, (255, 255, 255)))
        for network, sees_mask in ((UNION_2_1, True), (UNION_1, False)):
            flags = ["--controlnet", network, "--control-image", PICTURE, "--image", PICTURE, "--strength", "1"]
            # A mask that keeps nothing is no mask, but to a network that is told that nothing is known.
            self.assertEqual(self.pixels(*flags, "--mask-image", "white") != self.pixels(*flags), sees_mask, network)

    def test_masks_alone_are_told_to_networks(self):
        (self.dir / "white").write_bytes(png(48, 32, (255, 255, 255)))
        masked = ["--image", PICTURE, "--mask-image", "white"]
        alone = ["--controlnet", LITE, *masked, "--control-scale", "1"]
        plain, said = self.drawn("--controlnet", LITE, *masked)
        self.assertIn("changes nothing without --control-image, or --control-scale with --mask-image", said)
        first, said = self.drawn(*alone)
        self.assertNotIn("changes nothing", said)
        self.assertNotEqual(first, plain)
        self.assertEqual(self.drawn(*alone, "--num-gpus", "2")[0], first)
        record = json.loads(png_texts(self.dir / "drawn.PNG")["nostos"])
        self.assertEqual(record["control"], {"scale": 1.0, "start": 0.0, "end": 1.0, "preprocessor": "none"})
        run = self.run_nostos("generate", "--from", "drawn.PNG", "--output", "again.PNG")
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertEqual((self.dir / "again.PNG").read_bytes(), first)
        run = self.run_nostos("generate", "--from", "drawn.PNG", "--control-image", PICTURE, "--output", "followed.PNG")
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertNotEqual((self.dir / "followed.PNG").read_bytes(), first)
        self.assert_refused(self.generate("--controlnet", UNION_1, *masked, "--control-scale", "1"), "16 channels", "33 channels")
        self.assert_refused(self.generate(*alone, "--control-preprocessor", "canny"), "control.preprocessor is canny")

    def test_what_changes_nothing_is_said(self):
        self.assertIn("--controlnet changes nothing without --control-image", self.drawn("--controlnet", LITE)[1])
        _, said = self.drawn("--controlnet", LITE, "--control-image", PICTURE, "--control-start", "0.3", "--control-end", "0.6")
        self.assertIn("the control image changes nothing: of 4 steps none lies between", said)

    def test_wrong_flags_are_refused_by_name(self):
        control = ["--controlnet", LITE, "--control-image", PICTURE]
        self.assert_refused(self.generate("--control-image", PICTURE), "control is given", "--controlnet")
        self.assert_refused(self.generate("--control-scale", "1"), "--control-scale is given without --control-image, and without --mask-image")
        self.assert_refused(self.generate(*control, "--control-scale", "11"), "control.scale is 11", "from 0 to 10")
        self.assert_refused(self.generate(*control, "--control-start", "0.5", "--control-end", "0.5"), "control.start is 0.5")
        self.assert_refused(self.generate(*control, "--control-preprocessor", "depth"), "'depth'", "canny")
        self.assert_refused(self.generate(*control[:-1], "missing.jpg"), "missing.jpg")
        self.assert_refused(["generate", "--model-path", KLEIN, "--prompt", "x", *control], "FLUX.2-klein", "--controlnet")
        self.assert_refused(self.generate(*control[2:], "--controlnet", "missing"), "--controlnet 'missing'")
        vae = MODEL / "vae" / "diffusion_pytorch_model.safetensors"
        self.assert_refused(self.generate(*control[2:], "--controlnet", vae), "holds no Z-Image control network")
        self.assert_refused(["generate", "--prompt", "x", "--device", "cpu", *control], "controls a transformer with the width 32")


def read_safetensors(path):
    """Returns the tensors of a file, each with its type and shape, and its metadata."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    metadata = header.pop("__metadata__", {})
    cut = lambda begin, end: data[8 + size + begin : 8 + size + end]
    return {name: (entry["dtype"], entry["shape"], cut(*entry["data_offsets"])) for name, entry in header.items()}, metadata


def write_safetensors(path, tensors):
    header, data = {}, b""
    for name, (dtype, shape, values) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


class Folders(ControlTest):
    """A model's folder with a control network, as diffusers writes ZImageControlNetPipeline."""

    def folder(self, pipeline="ZImageControlNetPipeline", network_class="ZImageControlNetModel"):
        folder = self.dir / pipeline / MODEL.name  # which pictures name
        shutil.copytree(MODEL, folder)
        index = json.loads((folder / "model_index.json").read_text())
        index |= {"_class_name": pipeline, "controlnet": ["diffusers", network_class]}
        (folder / "model_index.json").write_text(json.dumps(index))
        tensors, metadata = read_safetensors(UNION_2_1)
        # diffusers lends the network parts of the transformer, and writes them with it.
        for file in (MODEL / "transformer").glob("*.safetensors"):
            lent = ("t_embedder.", "all_x_embedder.", "cap_embedder.", "noise_refiner.", "context_refiner.", "x_pad_token", "cap_pad_token")
            tensors |= {name: tensor for name, tensor in read_safetensors(file)[0].items() if name.startswith(lent)}
        (folder / "controlnet").mkdir()
        write_safetensors(folder / "controlnet" / "diffusion_pytorch_model.safetensors", tensors)
        (folder / "controlnet" / "config.json").write_text(metadata["config.controlnet"])
        return folder

    def test_it_draws_by_its_own_network(self):
        control = ["--control-image", PICTURE]
        wanted = self.pixels("--controlnet", UNION_2_1, *control)
        plain, other = self.pixels(), self.pixels("--controlnet", UNION_1, *control)
        for pipeline in ("ZImageControlNetPipeline", "ZImageControlNetInpaintPipeline"):
            self.model = self.folder(pipeline)
            picture, said = self.drawn(*control, output="drawn.webp")
            self.assertEqual(picture, wanted)
            self.assertNotIn("not part of this model", said)
            self.assertEqual(self.pixels(), plain)
            self.assertEqual(self.pixels("--controlnet", UNION_1, *control), other, "the flag wins")

    def test_other_commands_know_it(self):
        own = ["--model-path", self.folder()]
        self.assertIn("its network has 3 blocks more", self.run_nostos("plan", *own, *SIZE).stdout)
        self.assertIn("controlnet", self.run_nostos("inspect", *own).stdout)
        self.model = self.folder("ZImageControlNetInpaintPipeline", "FluxControlNetModel")
        self.assert_refused(self.generate(), "controlnet", "ZImageControlNetModel")


class Files(CliTest):
    """A control network's file by other commands."""

    def test_inspect_names_it(self):
        run = self.run_nostos("inspect", LITE)
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertIn("control network, safetensors", run.stdout)
        self.assertIn("controlnet: a control network of 1 layers, 32 wide, for images of 33 channels", run.stdout)
        part = json.loads(self.run_nostos("inspect", LITE, "--json").stdout)["files"][0]["parts"][0]
        self.assertEqual(part["config"]["control_in_dim"], 33)
        beside = json.loads(self.run_nostos("inspect", "--model-path", MODEL, "--controlnet", LITE, "--json").stdout)
        self.assertEqual(beside["files"][0]["kind"], "control network")

    def test_plan_counts_its_blocks(self):
        run = self.run_nostos("plan", "--model-path", MODEL, *SIZE, "--controlnet", LITE)
        self.assertIn("its network has 2 blocks more", run.stdout)
        self.assertEqual(json.loads(self.run_nostos("plan", "--model-path", MODEL, *SIZE, "--json").stdout)["control_blocks"], 0)

    def test_convert_writes_it_again(self):
        run = self.run_nostos("convert", "--model-path", LITE, "--dtype", "f32", "--output", "again.safetensors")
        self.assertEqual(run.returncode, 0, run.stderr)
        pictures = []
        for network in (LITE, "again.safetensors"):
            run = self.run_nostos("generate", *SMALL, *SIZE, "--precision", "f32", "--controlnet", network, "--control-image", PICTURE,
                                  "--output", "drawn.webp")
            self.assertEqual(run.returncode, 0, run.stderr)
            pictures.append((self.dir / "drawn.webp").read_bytes())
        self.assertEqual(*pictures)

    def test_bench_times_it(self):
        bench = ["bench", "--model-path", MODEL, *SIZE, "--num-inference-steps", "1", "--device", "cpu", "--warmup", "0"]
        plain = json.loads(self.run_nostos(*bench, "--json").stdout)
        run = self.run_nostos(*bench, "--controlnet", LITE, "--json")
        self.assertEqual(run.returncode, 0, run.stderr)
        timed = json.loads(run.stdout)
        self.assertEqual((plain["controlnet"], timed["controlnet"]), (None, str(LITE)))
        self.assertGreater(timed["transformer_flop_per_step"], plain["transformer_flop_per_step"])
        self.assertGreater(timed["weight_bytes"], plain["weight_bytes"])
        self.assert_refused([*bench, "--synthetic-control", "lite"], "--synthetic-control", "needs --synthetic")
        self.assert_refused([*bench[:1], *bench[3:], "--synthetic", MODEL, "--synthetic-control", "nothing"], "no config", "nothing")
        self.assert_refused([*bench[:1], *bench[3:], "--synthetic", "z-image-turbo", "--synthetic-control", "lit"], "'lit'", "lite, union-1.0, union-2.0")


if __name__ == "__main__":
    run_tests()
