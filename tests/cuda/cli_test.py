"""Tests nostos on a machine with a GPU: devices by name, ranks that share it, and errors with their exit codes.

    NOSTOS_BINARY=build/cuda/bin/nostos python tests/cuda/cli_test.py
"""

import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

BINARY = os.environ.get("NOSTOS_BINARY", "build/cuda/bin/nostos")


def run(*arguments, **environment):
    """Runs nostos to its end."""
    return subprocess.run([BINARY, *map(str, arguments)], capture_output=True, text=True, timeout=120,
                          env={**os.environ, **environment})


def gpu_count():
    """The GPUs that nvidia-smi lists."""
    try:
        done = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True)
    except FileNotFoundError:
        return 0
    return len(done.stdout.splitlines()) if done.returncode == 0 else 0


class CommandLine(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def draw(self, *flags, name="a.png", **environment):
        """Draws a small picture. Returns the finished run and the file's bytes."""
        file = Path(self.folder.name) / name
        done = run("generate", "--prompt", "A cat", "--height", 128, "--width", 128, "--num-inference-steps", 2,
                   "--guidance-scale", 4, "--output", file, *flags, **environment)
        return done, file.read_bytes() if file.exists() else None

    def assert_refused(self, done, code, *messages):
        self.assertEqual(done.returncode, code, done.stderr)
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        self.assertEqual(len(errors), 1, done.stderr)
        for message in messages:
            self.assertIn(message, errors[0])

    def test_auto_takes_the_gpu(self):
        by_name, wanted = self.draw("--device", "cuda:0", name="cuda.png")
        self.assertEqual(by_name.returncode, 0, by_name.stderr)
        by_itself, drawn = self.draw(name="auto.png")
        self.assertEqual(by_itself.returncode, 0, by_itself.stderr)
        self.assertEqual(drawn, wanted)

    def test_auto_takes_the_cpu_where_no_gpu_is_visible(self):
        done, drawn = self.draw(CUDA_VISIBLE_DEVICES="")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIsNotNone(drawn)

    def test_a_missing_gpu_is_named(self):
        self.assert_refused(self.draw("--device", f"cuda:{gpu_count()}")[0], 2, f"there is no GPU {gpu_count()}",
                            f"this machine has {gpu_count()}")

    def test_no_visible_gpu(self):
        self.assert_refused(self.draw("--device", "cuda", CUDA_VISIBLE_DEVICES="")[0], 2, "no GPU is visible",
                            "CUDA_VISIBLE_DEVICES")

    def test_ranks_share_a_gpu_when_allowed(self):
        one, wanted = self.draw("--device", "cuda", name="1.png")
        self.assertEqual(one.returncode, 0, one.stderr)
        more = gpu_count() + 1
        refused, drawn = self.draw("--device", "cuda", "--num-gpus", more, name="refused.png")
        self.assert_refused(refused, 2, f"{more} ranks", f"{gpu_count()} GPU", "--allow-shared-gpu")
        self.assertIsNone(drawn)
        three, drawn = self.draw("--device", "cuda:0", "--num-gpus", 3, "--allow-shared-gpu", name="3.png")
        self.assertEqual(three.returncode, 0, three.stderr)
        self.assertEqual(drawn, wanted)

    def test_bench_reports(self):
        done = run("bench", "--json", "--device", "cuda", "--height", 128, "--width", 128, "--num-inference-steps", 2)
        self.assertEqual(done.returncode, 0, done.stderr)
        measured = json.loads(done.stdout)
        self.assertEqual(measured["precision"], "bf16")
        self.assertGreater(measured["step_median_ms"], 0)


if __name__ == "__main__":
    if gpu_count() == 0:
        print("skipped: nvidia-smi lists no GPU")
        sys.exit(77)
    unittest.main()
