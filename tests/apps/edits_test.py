"""Edits with a tiny FLUX.2-klein as users do: commands with reference pictures, and drawings of one family that another draws again.

Usage: NOSTOS_BINARY=build/cpu/bin/nostos edits_test.py [TestCase ...]. Needs Python 3.11 alone.
"""

import hashlib
import json
import os
import re
import shutil
import struct
import sys
import zlib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from cli_test import ROOT, CliTest, png_texts  # noqa: E402
from run_tests import run_tests  # noqa: E402

KLEIN = ROOT / "tests" / "data" / "klein_tiny"
BASE, DISTILLED = KLEIN / "base", KLEIN / "distilled"
ZIMAGE = ROOT / "tests" / "data" / "tiny" / "diffusers_test"
SMALL = ["--height", "64", "--width", "64", "--num-inference-steps", "1", "--device", "cpu"]


def add_text(picture, copy, record):
    """Puts a record before all others into a copy of a PNG."""
    text = b"nostos\0" + record.encode()
    chunk = struct.pack(">I", len(text)) + b"tEXt" + text + struct.pack(">I", zlib.crc32(b"tEXt" + text))
    data = picture.read_bytes()
    copy.write_bytes(data[:33] + chunk + data[33:])


class Bench(CliTest):
    def test_sizes_and_references_are_checked_before_any_picture_is_made(self):
        for flags, words in (
                (("--height", "-5", "--reference-images", "1"), ("height is -5", "at least 1 pixel")),
                (("--height", "1000000", "--reference-images", "1"), ("height is 1000000", "at most 8192 pixels a side")),
                (("--reference-images", "-1"), ("--reference-images", "-1 is out of range")),
                (("--reference-images", "100000"), ("--reference-images", "100000 is out of range")),
                (("--height", "8192", "--width", "8192", "--reference-images", "17"), ("--reference-images", "17", "at most 16")),
                (("--height", "32", "--reference-images", "1"), ("1024x32 pixels", "at least 64 a side"))):
            with self.subTest(flags=flags):
                self.assert_refused(["bench", "--model-path", DISTILLED, *flags], *words)
        self.assert_refused(["bench", "--model-path", ZIMAGE, "--reference-images", "1"],
                            "--reference-images gives 1 reference picture, ", "takes no reference pictures")
        self.assert_refused(["bench", "--model-path", "no/model", "--height", "0"], "height is 0")

    def bench(self, *flags):
        run = self.run_nostos("bench", "--model-path", DISTILLED, "--num-inference-steps", "1", "--device", "cpu", "--warmup", "0", *flags)
        self.assertEqual(run.returncode, 0, run.stderr)
        return run.stdout

    def test_the_result_says_which_references_were_timed(self):
        size = ("--height", "68", "--width", "100")
        result = json.loads(self.bench(*size, "--reference-images", "2", "--json"))
        self.assertEqual(result["references"], [{"height": 68, "width": 100}] * 2)
        self.assertIn("vae_encode", [stage["name"] for stage in result["stages"]])
        self.assertRegex(self.bench(*size, "--reference-images", "1"), r"^100x68 with 1 reference of 100x68, 1 steps, ")
        self.assertRegex(self.bench(*size, "--reference-images", "3"), r"^100x68 with 3 references of 100x68, 1 steps, ")
        self.assertEqual(json.loads(self.bench(*size, "--json"))["references"], [])
        self.assertRegex(self.bench(*size), r"^100x68, 1 steps, ")
        # The prepared size is a multiple of the model's, 4 here, and the picture's need not be.
        self.assertEqual(json.loads(self.bench("--height", "71", "--width", "66", "--reference-images", "1", "--json"))["references"],
                         [{"height": 68, "width": 64}])

    def test_the_flag_says_that_references_are_prepared(self):
        self.assertIn("smaller where they have more pixels", " ".join(self.run_nostos("bench", "--help").stdout.split()))


class References(CliTest):
    """`nostos generate --image`."""

    def generate(self, *flags, model=DISTILLED):
        return ["generate", "--model-path", model, *SMALL, "--prompt", "x", *flags]

    def drawn(self, *flags):
        run = self.run_nostos(*self.generate(*flags))
        self.assertEqual(run.returncode, 0, run.stderr)
        return run

    def test_files_are_read_and_refused_by_name(self):
        pictures = ROOT / "tests" / "data" / "io" / "pictures"
        shutil.copy(pictures / "alpha.png", self.dir / "small")
        shutil.copy(pictures / "baseline.jpg", self.dir / "cut")
        shutil.copy(KLEIN / "references" / "a.png", self.dir / "big")
        os.truncate(self.dir / "cut", 400)
        self.assert_refused(self.generate("--image", "missing"), "missing")
        self.assert_refused(self.generate("--image", "cut"), "cut: damaged JPEG")
        self.assert_refused(self.generate("--image", "small"), "image[0] (small) is 37x23 pixels", "at least 64")
        self.assert_refused(self.generate("--image", "big", "--image", "small"), "image[1] (small) is 37x23 pixels")
        (self.dir / "flags.toml").write_text('image = ["big", "missing"]\n')
        self.assert_refused(self.generate("--config", "flags.toml"), "missing")

    def test_their_number_is_checked_before_any_is_read(self):
        self.assert_refused(self.generate(*["--image", "missing"] * 17), "--image gives 17 reference pictures", "at most 16")
        self.assert_refused(self.generate("--image", "missing", "--image", "missing", model=ZIMAGE),
                            "--image gives 2 pictures", "no reference pictures")
        self.drawn("--image", KLEIN / "references" / "a.png", "--output", "edited.PNG")
        record = json.loads(png_texts(self.dir / "edited.PNG")["nostos"])
        record["images"] = [{**record["images"][0], "file": "missing"}] * 17
        add_text(self.dir / "edited.PNG", self.dir / "many.PNG", json.dumps(record))
        self.assert_refused(["generate", "--from", "many.PNG"], "the picture of --from gives 17 reference pictures", "at most 16")
        self.assert_refused(["generate", "--from", "many.PNG", "--model-path", ZIMAGE], "the picture of --from", "no reference pictures")

    def test_a_record_says_which_it_wants(self):
        files = [("a.png", "dog.png"), ("b.png", "cat.png")]
        for source, name in files:
            shutil.copy(KLEIN / "references" / source, self.dir / name)
        self.drawn("--image", "dog.png", "--image", "cat.png", "--output", "edited.PNG")
        digests = [hashlib.sha256((self.dir / name).read_bytes()).hexdigest() for _, name in files]
        images = json.loads(png_texts(self.dir / "edited.PNG")["nostos"])["images"]
        self.assertEqual([(image["file"], image["sha256"]) for image in images], list(zip(("dog.png", "cat.png"), digests)))
        again = ["generate", "--from", "edited.PNG", "--output", "again.PNG"]
        self.assertEqual(self.run_nostos(*again).returncode, 0)
        self.assertEqual((self.dir / "again.PNG").read_bytes(), (self.dir / "edited.PNG").read_bytes())
        (self.dir / "cat.png").rename(self.dir / "moved.png")
        (self.dir / "dog.png").rename(self.dir / "there.png")
        self.assertIn("dog.png", self.run_nostos(*again).stderr)
        shutil.copy(self.dir / "there.png", self.dir / "dog.png")
        run = self.run_nostos(*again)
        for words in ("cat.png", *digests, "--image"):
            self.assertIn(words, run.stderr)
        self.assertEqual(run.returncode, 2)
        shutil.copy(self.dir / "dog.png", self.dir / "cat.png")
        self.assertIn("cat.png is not the picture that it was", self.run_nostos(*again).stderr)
        run = self.run_nostos(*again, "--image", "dog.png", "--image", "there.png")
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertIn("there.png is not the picture that the picture of --from was drawn from", run.stderr)
        self.assertNotIn("dog.png is not", run.stderr)
        self.assertEqual(self.run_nostos(*again, "--image", "").returncode, 0)
        self.assertNotIn("images", json.loads(png_texts(self.dir / "again.PNG")["nostos"]))


class OtherFamilies(CliTest):
    """`nostos generate --from` with a model of another family than the picture's."""

    def again(self, *flags):
        """Returns the JSON of the picture drawn again, its CFG scale as WebUI tools show it, and the messages."""
        run = self.run_nostos("generate", "--from", "first.png", "--output", "again.png", "--json", *flags)
        self.assertEqual(run.returncode, 0, run.stderr)
        shown = re.search(r"CFG scale: ([\d.]+)", png_texts(self.dir / "again.png")["parameters"])
        return json.loads(run.stdout)["request"]["guidance_scale"], float(shown[1]), run.stderr

    def draw_first(self, model, scale):
        run = self.run_nostos("generate", "--model-path", model, *SMALL, "--prompt", "x", "--max-sequence-length", "64",
                              "--guidance-scale", scale, "--output", "first.png")
        self.assertEqual(run.returncode, 0, run.stderr)

    def test_guidance_means_the_same(self):
        for first, scale, then, wanted, cfg_scale in ((BASE, 4, ZIMAGE, 3, 4), (ZIMAGE, 4, BASE, 5, 5), (BASE, 1, ZIMAGE, 0, 1),
                                                      (ZIMAGE, 0, BASE, 1, 1), (DISTILLED, 1, ZIMAGE, 0, 1), (DISTILLED, 4, BASE, 1, 1),
                                                      (BASE, 4, BASE, 4, 4), (ZIMAGE, 4, ZIMAGE, 4, 5)):
            with self.subTest(first=first.name, scale=scale, then=then.name):
                self.draw_first(first, scale)
                *got, messages = self.again("--model-path", then)
                self.assertEqual(got, [wanted, cfg_scale])
                self.assertEqual(f"the guidance scale {scale} of the picture of --from is {wanted} with this model" in messages,
                                 scale != wanted, messages)
                self.assertEqual(self.again("--model-path", then, "--guidance-scale", "2")[0], 2)

    def test_guidance_that_changes_nothing_is_told_by_where_it_came_from(self):
        self.draw_first(BASE, 4)
        scale, cfg_scale, messages = self.again("--model-path", DISTILLED)
        self.assertEqual((scale, cfg_scale), (4, 1))
        self.assertIn("--from's guidance scale 4 changes nothing", messages)
        self.assertNotIn("--guidance-scale", messages)
        self.assertIn("--guidance-scale 3 changes nothing", self.again("--model-path", DISTILLED, "--guidance-scale", "3")[2])
        self.draw_first(BASE, 1)
        self.assertNotIn("changes nothing", self.again("--model-path", DISTILLED)[2])
        model = shutil.copytree(DISTILLED, self.dir / "model")
        (model / "generation_config.json").write_text('{"guidance_scale": 4}')
        run = self.run_nostos("generate", "--model-path", model, *SMALL, "--prompt", "x")
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertNotIn("changes nothing", run.stderr)


class Plan(CliTest):
    """`nostos plan` against what ranks really send."""

    def plan(self, *flags, height=64, width=80):
        run = self.run_nostos("plan", "--model-path", BASE, "--height", height, "--width", width, "--sp-degree", "2", *flags)
        self.assertEqual(run.returncode, 0, run.stderr)
        return run.stdout

    def sent_in_a_step(self, *flags):
        """Returns the bytes that each of two ranks sends in one step, without guidance."""
        ranks = []
        for steps in (1, 2):
            run = self.run_nostos("generate", "--model-path", BASE, "--prompt", "x", "--height", "64", "--width", "80", "--guidance-scale", "1",
                                  "--num-inference-steps", steps, "--num-gpus", "2", "--precision", "f32", "--device", "cpu", "--json", *flags)
            self.assertEqual(run.returncode, 0, run.stderr)
            ranks.append([rank["bytes_sent"] for rank in json.loads(run.stdout)["report"]["ranks"]])
        return [two - one for one, two in zip(*ranks)]

    def test_the_bytes_are_those_that_ranks_send(self):
        config = json.loads((BASE / "transformer" / "config.json").read_text())
        layers = config["num_layers"] + config["num_single_layers"]
        self.draw_reference()
        for count in (0, 1, 2):
            with self.subTest(references=count):
                plan = json.loads(self.plan("--reference-images", count, "--json"))
                self.assertEqual((plan["caption_rows"], plan["references"]), (512, [{"height": 64, "width": 80, "rows": 80}] * count))
                planned = []
                for share in plan["shares"]:
                    exchanged = share["bytes_per_layer"]["f32"]
                    planned.append(layers * (exchanged["qkv_sent"] + exchanged["output_sent"]))
                self.assertEqual(self.sent_in_a_step(*["--image", "reference.png"] * count), planned)

    def draw_reference(self):
        run = self.run_nostos("generate", "--model-path", DISTILLED, "--prompt", "x", "--height", "64", "--width", "80",
                              "--num-inference-steps", "1", "--output", "reference.png")
        self.assertEqual(run.returncode, 0, run.stderr)

    def test_the_table_says_what_stands_beside_the_image(self):
        self.assertRegex(self.plan(), r"in all, with a text of 512 rows\.\n$")
        self.assertRegex(self.plan("--reference-images", "1"), r"with a text of 512 rows and 1 reference of 80 rows\.\n$")
        self.assertRegex(self.plan("--reference-images", "16"), r"with a text of 512 rows and 16 references of 80 rows each\.\n$")

    def test_references_are_planned_as_they_are_prepared(self):
        plan = json.loads(self.plan("--reference-images", "1", "--json", height=2048, width=2048))
        self.assertEqual((plan["height"], plan["references"]), (2048, [{"height": 1024, "width": 1024, "rows": 128 * 128}]))

    def test_references_that_the_model_does_not_take_are_refused(self):
        self.assert_refused(["plan", "--model-path", BASE, "--reference-images", "17"], "--reference-images", "17", "at most 16")
        self.assert_refused(["plan", "--model-path", ROOT / "models" / "z-image-turbo", "--reference-images", "1"],
                            "takes no reference pictures")



class BeginsWithAPicture(CliTest):
    def setUp(self):
        super().setUp()
        self.picture("sea.PNG", "--seed", "7")
        self.picture("mask.PNG", "--seed", "8")

    def picture(self, name, *flags):
        run = self.run_nostos("generate", "--prompt", "the sea", "--height", "64", "--width", "96", "--num-inference-steps", "2",
                              "--device", "cpu", "--output", name, *flags)
        self.assertEqual(run.returncode, 0, run.stderr)
        return (self.dir / name).read_bytes()

    def test_the_bytes_are_the_same_on_any_number_of_ranks_and_drawn_again(self):
        for name, flags in (("part", ("--mask-image", "mask.PNG", "--mask-blur", "2")), ("whole", ("--strength", "0.5"))):
            flags = ("--image", "sea.PNG", *flags)
            one = self.picture(f"{name}.PNG", *flags)
            for ranks in "234":
                self.assertEqual(self.picture("several.PNG", *flags, "--num-gpus", ranks), one, f"{name} {ranks}")
            run = self.run_nostos("generate", "--from", f"{name}.PNG", "--device", "cpu", "--output", "again.PNG")
            self.assertEqual(run.returncode, 0, run.stderr)
            self.assertEqual((self.dir / "again.PNG").read_bytes(), one)

    def test_a_record_says_what_it_began_with(self):
        self.picture("part.PNG", "--image", "sea.PNG", "--mask-image", "mask.PNG", "--strength", "0.9", "--image-fit", "pad")
        record = json.loads(png_texts(self.dir / "part.PNG")["nostos"])
        digest = hashlib.sha256((self.dir / "mask.PNG").read_bytes()).hexdigest()
        self.assertEqual(record["mask"], {"file": "mask.PNG", "sha256": digest, "height": 64, "width": 96, "blur": 0})
        self.assertEqual((record["strength"], record["image_fit"], record["images"][0]["file"]), (0.9, "pad", "sea.PNG"))
        again = ["generate", "--from", "part.PNG", "--device", "cpu", "--output", "again.PNG"]
        (self.dir / "mask.PNG").rename(self.dir / "moved.PNG")
        run = self.run_nostos(*again)
        for words in ("mask.PNG", digest, "--mask-image"):
            self.assertIn(words, run.stderr)
        self.assertEqual(run.returncode, 2)
        self.assertEqual(self.run_nostos(*again, "--mask-image", "moved.PNG").returncode, 0)
        self.assertEqual(self.run_nostos(*again, "--mask-image", "").returncode, 0)
        self.assertEqual(self.run_nostos(*again, "--image", "").returncode, 0)
        self.assertNotIn("mask", json.loads(png_texts(self.dir / "again.PNG")["nostos"]))

    def test_a_picture_comes_to_any_size(self):
        for fit in ("crop", "pad", "stretch"):
            run = self.run_nostos("generate", "--prompt", "x", "--image", "sea.PNG", "--image-fit", fit, "--height", "83", "--width",
                                  "50", "--num-inference-steps", "2", "--device", "cpu", "--json")
            self.assertEqual(run.returncode, 0, run.stderr)
            drawn = json.loads(run.stdout)
            self.assertEqual([drawn["pictures"][0][side] for side in ("height", "width")], [83, 50])
            self.assertEqual([drawn["drawn_height"], drawn["drawn_width"]], [96, 64])

    def test_what_cannot_be_is_refused_by_name(self):
        asked = ["generate", "--prompt", "x", "--image", "sea.PNG"]
        for flags, words in ((("--strength", "0"), ("strength is 0", "above 0")), (("--strength", "1.5"), ("strength is 1.5",)),
                             (("--strength", "nan"), ("strength",)), (("--image-fit", "no"), ("image_fit is 'no'", "crop, pad, stretch")),
                             (("--mask-blur", "3"), ("--mask-blur", "--mask-image")), (("--mask-image", "none"), ("none",)),
                             (("--mask-image", "mask.PNG", "--mask-blur", "1e9"), ("mask_blur is", "256")),
                             (("--image", "sea.PNG"), ("--image gives 2 pictures",))):
            with self.subTest(flags=flags):
                self.assert_refused([*asked, *flags], *words)
        self.assert_refused(["generate", "--prompt", "x", "--strength", "0.5"], "strength is 0.5", "no image")


if __name__ == "__main__":
    run_tests()
