"""Edits with a tiny FLUX.2-klein as users do: commands with reference pictures, and drawings of one family that another draws again.

Usage: NOSTOS_BINARY=build/cpu/bin/nostos edits_test.py [TestCase ...]. Needs Python 3.11 alone.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from apps.cli_test import ROOT, CliTest  # noqa: E402
from run_tests import run_tests  # noqa: E402

KLEIN = ROOT / "tests" / "data" / "klein_tiny"
BASE, DISTILLED = KLEIN / "base", KLEIN / "distilled"
SMALL = ["--height", "64", "--width", "64", "--num-inference-steps", "1", "--device", "cpu"]


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
        self.assert_refused(["bench", "--model-path", ROOT / "tests/data/tiny/diffusers_test", "--reference-images", "1"],
                            "--reference-images is given", "takes no reference pictures")
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


if __name__ == "__main__":
    run_tests()
