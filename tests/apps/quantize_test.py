"""Runs `nostos quantize`: its tables, the file that it writes, and what it refuses.

Usage: NOSTOS_BINARY=build/cpu/bin/nostos quantize_test.py [TestCase ...]. Needs Python 3.11 alone.
"""

import json
import os
import struct
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from run_tests import run_tests  # noqa: E402

BINARY = os.environ["NOSTOS_BINARY"]
HAS_INT8 = "avx512_vnni" in Path("/proc/cpuinfo").read_text()
SMALL = ("--height", 64, "--width", 64, "--num-inference-steps", 2)


def read_header(path: Path) -> dict:
    data = path.read_bytes()
    return json.loads(data[8:8 + struct.unpack_from("<Q", data)[0]])


class QuantizeCase(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.dir = Path(folder.name)
        self.file = self.dir / "made.safetensors"
        self.prompts = self.dir / "prompts.txt"
        self.prompts.write_bytes(b"a lion on a beach\r\n\n  \nthree apples\n")

    def run_nostos(self, *arguments) -> subprocess.CompletedProcess:
        return subprocess.run([BINARY, *map(str, arguments)], cwd=self.dir, capture_output=True, text=True, timeout=120)

    def done(self, *arguments) -> str:
        run = self.run_nostos(*arguments)
        self.assertEqual(run.returncode, 0, run.stderr)
        return run.stdout

    def refused(self, *arguments) -> str:
        run = self.run_nostos("quantize", *arguments)
        self.assertEqual(run.returncode, 2, run.stderr)
        return run.stderr

    @staticmethod
    def model() -> Path:
        return Path(__file__).resolve().parents[2] / "models" / "mini"


@unittest.skipUnless(HAS_INT8, "this CPU has no products of 8-bit numbers")
class Measured(QuantizeCase):
    def test_tables_and_a_file_that_draws(self):
        text = self.done("quantize", "--output", self.file, "--prompts", self.prompts, *SMALL)
        self.assertRegex(text, r"(?m)^layers\.5\.feed_forward\.w1, w3 +288 +1536 +0\.\d{4} +0\.\d{4}  int8$")
        self.assertRegex(text, r"(?m)^layers\.0\.attention\.to_q, to_k, to_v +288 +864 ")
        self.assertRegex(text, r"(?m)^ +2 +0\.\d{6} +0\.\d{6} +0\.\d{4} +0\.\d{4}$")
        self.assertRegex(text, r"(?m)^ *\d+\.\d\d +0\.\d{4}  three apples$")
        self.assertIn("19 of 28 layers are rounded, 9 are kept", text)
        header = read_header(self.file)
        self.assertEqual(header["layers.5.attention.qkv.weight"]["dtype"], "I8")
        self.assertEqual(header["layers.5.attention.qkv.weight_scale"]["shape"], [864, 1])
        self.assertIn("layers.5.attention.qkv.comfy_quant", header)
        self.assertEqual(header["context_refiner.0.attention.qkv.weight"]["dtype"], "BF16")
        self.assertEqual(len(json.loads(header["__metadata__"]["nostos.quantisation"])["layers"]), 28)
        drawn = []
        for name, flags in (("one", ("--precision", "int8")), ("two", ("--precision", "int8", "--num-gpus", 2)), ("as bf16", ())):
            self.done("generate", "--prompt", "a lion", *SMALL, "--transformer", self.file, "--model-path", self.model(),
                      "--save-latents", f"{name}.safetensors", "--output", f"{name}.png", *flags)
            drawn.append((self.dir / f"{name}.safetensors").read_bytes())
        self.assertEqual(drawn[0], drawn[1])
        self.assertNotEqual(drawn[0], drawn[2])

    def test_json_of_what_is_kept(self):
        report = json.loads(self.done("quantize", "--json", "--max-layer-error", 0, "--prompts", self.prompts, *SMALL))
        self.assertEqual({layer["kept"] for layer in report["layers"]}, {True})
        self.assertEqual([step["least_cosine"] for step in report["steps"]], [1, 1])
        self.assertEqual([image["ssim"] for image in report["images"]], [1, 1])
        self.assertEqual([image["psnr"] for image in report["images"]], [None, None])  # infinite
        self.assertEqual(list(self.dir.iterdir()), [self.prompts])


class Refusals(QuantizeCase):
    def test_refusals_come_before_any_work(self):
        self.file.write_text("mine")
        self.assertIn("is there: name another file, or replace it with --overwrite", self.refused("--output", self.file))
        self.assertEqual(self.file.read_text(), "mine")
        self.assertIn("must end in .safetensors", self.refused("--output", "made.gguf"))
        self.assertIn("nothing to write: give --output", self.refused())
        other = self.dir / "other.safetensors"
        self.prompts.write_text("\n \n")
        self.assertIn("has 0 prompts, one a line", self.refused("--output", other, "--prompts", self.prompts))
        self.prompts.write_bytes(b"a lion\n\ncaf\xe9\n")
        self.assertIn("line 3 is no prompt", self.refused("--output", other, "--prompts", self.prompts))
        self.assertIn("cannot read ''", self.refused("--output", other, "--prompts", ""))
        self.assertIn("missing.txt", self.refused("--output", other, "--prompts", "missing.txt"))
        self.assertIn("on one rank, not on 2", self.refused("--output", other, "--num-gpus", 2))
        self.assertIn("--precision int8 is what is measured", self.refused("--output", other, "--precision", "int8"))
        self.assertIn("needs --synthetic", self.refused("--output", other, "--synthetic-hostile"))
        self.assertIn("measured, not written", self.refused("--output", other, "--synthetic", self.model()))
        self.assertFalse(other.exists())


if __name__ == "__main__":
    run_tests()
