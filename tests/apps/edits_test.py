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


if __name__ == "__main__":
    run_tests()
