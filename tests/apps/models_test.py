"""Runs the program with models in folders and in a Hugging Face cache as users and downloads leave them.

Usage: NOSTOS_BINARY=build/cpu/bin/nostos models_test.py [TestCase ...]. Needs Python 3.11 alone.
"""

import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from run_tests import run_tests  # noqa: E402

BINARY = os.environ["NOSTOS_BINARY"]
TINY = Path(__file__).resolve().parents[2] / "tests" / "data" / "tiny" / "diffusers_test"
DRAW = ["generate", "--prompt", "a cat", "--height", "16", "--width", "16", "--num-inference-steps", "1", "--device", "cpu"]


class Models(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.dir = Path(folder.name)

    def run_nostos(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE_", "XDG_"))}
        return subprocess.run([BINARY, *arguments], cwd=self.dir, capture_output=True, text=True, timeout=60,
                              env={**kept, **environment})

    def cached(self, revision: str, commit: str) -> None:
        """Puts a snapshot of the model a/b into the cache hf/hub, with a ref of this name if there is one."""
        repository = self.dir / "hf" / "hub" / "models--a--b"
        shutil.copytree(TINY, repository / "snapshots" / commit)
        if revision:
            (repository / "refs").mkdir(exist_ok=True)
            (repository / "refs" / revision).write_text(commit)

    def inspected(self, *arguments: str, **environment: str) -> str:
        """Returns the folder that `inspect` names."""
        run = self.run_nostos("inspect", "--json", *arguments, HOME=str(self.dir), **environment)
        self.assertEqual(run.returncode, 0, run.stderr)
        return Path(json.loads(run.stdout)["path"]).name

    def test_revisions_of_a_cache_whose_place_holds_variables(self):
        self.cached("", "one")
        for place in ("$HOME/hf", "${HOME}/hf", "~/hf"):
            self.assertEqual(self.inspected("--model-path", "a/b", HF_HOME=place), "one")
        self.cached("v1.0", "two")
        self.assertEqual(self.inspected("--model-path", "a/b@v1.0", HF_HOME="~/hf"), "two")
        self.assertEqual(self.inspected("--model-path", "a/b", "--revision", "one", HF_HOME="~/hf"), "one")
        run = self.run_nostos("plan", "--model-path", "a/b", HOME=str(self.dir), HF_HOME="~/hf")
        self.assertEqual(run.returncode, 2)
        self.assertIn("choose one with --revision (there is v1.0, one, two)", run.stderr)
        run = self.run_nostos("plan", "--model-path", str(TINY), "--revision", "v1.0")
        self.assertEqual(run.returncode, 2)
        self.assertIn("folders and files have no revisions", run.stderr)

    def test_a_picture_says_its_revision_and_variant_and_is_drawn_again_with_them(self):
        self.cached("main", "one")
        vae = self.dir / "hf/hub/models--a--b/snapshots/one/vae"
        shutil.copy(vae / "diffusion_pytorch_model.safetensors", vae / "diffusion_pytorch_model.fp16.safetensors")
        cache = {"HF_HOME": str(self.dir / "hf")}
        first = self.run_nostos(*DRAW, "--model-path", "a/b", "--revision", "main", "--variant", "fp16", "--output", "a.png", **cache)
        self.assertEqual(first.returncode, 0, first.stderr)
        self.assertIn("no 'fp16' weights, those without a variant are taken", first.stderr)
        self.assertIn(b'"model_path":"a/b@main"', (self.dir / "a.png").read_bytes())
        self.assertIn(b'"variant":"fp16"', (self.dir / "a.png").read_bytes())
        again = self.run_nostos("generate", "--from", "a.png", "--output", "b.png", **cache)
        self.assertEqual(again.returncode, 0, again.stderr)
        self.assertEqual((self.dir / "a.png").read_bytes(), (self.dir / "b.png").read_bytes())
        other = self.run_nostos("generate", "--from", "a.png", "--revision", "v2", "--output", "c.png", **cache)
        self.assertEqual(other.returncode, 2)
        self.assertIn("refs/v2", other.stderr)
        synthetic = self.run_nostos("bench", "--synthetic", "z-image-turbo", "--variant", "fp16")
        self.assertEqual(synthetic.returncode, 2)
        self.assertIn("--variant", synthetic.stderr)

    def test_inspect_shows_tensors_that_cannot_be_used_and_skips_parts_that_are_not_needed(self):
        shutil.copytree(TINY, self.dir / "model")
        header = json.dumps({"x": {"dtype": "F8_E4M3", "shape": [1, 1, 1, 1, 1, 4], "data_offsets": [0, 4]}}).encode()
        (self.dir / "model/vae/diffusion_pytorch_model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"dada")
        index = self.dir / "model" / "model_index.json"
        index.write_text(json.dumps({**json.loads(index.read_text()), "feature_extractor": [None, None]}))
        (self.dir / "model/feature_extractor").mkdir()
        run = self.run_nostos("inspect", "--model-path", "model", "--json")
        self.assertEqual(run.returncode, 0, run.stderr)
        parts = {part["name"]: part for part in json.loads(run.stdout)["parts"]}
        self.assertEqual((parts["vae"]["dtypes"], parts["vae"]["parameters"]), ({"F8_E4M3": 1}, 4))
        self.assertNotIn("feature_extractor", parts)
        self.assertIn("feature_extractor, which no drawing needs", run.stderr)
        shutil.rmtree(self.dir / "model/vae")
        (self.dir / "model/vae").symlink_to("gone")
        run = self.run_nostos("inspect", "--model-path", "model")
        self.assertEqual(run.returncode, 2)
        self.assertIn("is a link to 'gone', which does not exist", run.stderr)


if __name__ == "__main__":
    run_tests()
