"""Tests bench/multi_gpu.py without GPUs: on programs that stand for nostos, mpirun and nvidia-smi.

Usage: multi_gpu_test.py [unittest arguments], from anywhere. Needs Python 3.11 alone.
"""

import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

NVIDIA_SMI = """#!/bin/sh
case "$1" in
  --list-gpus) for gpu in $GPUS; do echo "GPU $gpu"; done ;;
  *) for each in $HELD; do echo $each; done ;;
esac
"""
# Ends all ranks when the last one is killed.
MPIRUN = """#!/bin/sh
while [ "$1" != -n ]; do shift; done
ranks=$2
shift 2
export OMPI_COMM_WORLD_SIZE=$ranks
rank=1
while [ $rank -lt $ranks ]; do
  OMPI_COMM_WORLD_RANK=$rank "$@" &
  last=$!
  others="$others $last"
  rank=$((rank + 1))
done
OMPI_COMM_WORLD_RANK=0 "$@" &
first=$!
wait $last
code=$?
[ $code -lt 128 ] || { kill $first $others; echo "error: rank $((ranks - 1)) failed: its process has ended" >&2; exit $code; }
wait $first
"""
NOSTOS = """#!{python}
import json, os, signal, sys, time
flags = dict(zip(sys.argv[2::2], sys.argv[3::2])) if sys.argv[1] == "generate" else None
if flags is None:
    ranks = int(sys.argv[sys.argv.index("--num-gpus") + 1])
    stages = [{{"name": "denoise", "median_ms": 800 / ranks + 10}}]
    print(json.dumps({{"stages": stages, "step_median_ms": 100 / ranks + 1, "total_median_ms": 900 / ranks + 20,
                      "picture_digest": os.environ.get("OTHER_DIGEST", "a") if ranks == 4 else "a"}}))
    sys.exit(0)
ranks = int(flags.get("--num-gpus", os.environ.get("OMPI_COMM_WORLD_SIZE", "1")))
if os.environ.get("OMPI_COMM_WORLD_SIZE") and os.environ.get("WITHOUT_MPI"):
    sys.exit("error: this nostos was built without MPI")
def cancel(*_):
    print("error: cancelled", file=sys.stderr)
    sys.exit(130)
signal.signal(signal.SIGINT, cancel)
if flags["--num-inference-steps"] == "1000":
    for step in range(1000):
        print("step", step, file=sys.stderr, flush=True)
        time.sleep(0.05)
picture = flags["--height"] + "x" + flags["--width"]
if [str(ranks), flags.get("--sp-plan")] == os.environ.get("OTHER_BYTES", "").split():
    picture += "!"
if os.environ.get("OMPI_COMM_WORLD_RANK", "0") == "0":
    open(flags["--output"], "w").write(picture)
"""


class MultiGpu(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.dir = Path(folder.name)
        self.nostos = self.write("nostos", NOSTOS.format(python=sys.executable))
        self.write("nvidia-smi", NVIDIA_SMI)
        self.write("mpirun", MPIRUN)

    def write(self, name, text):
        file = self.dir / name
        file.write_text(text)
        file.chmod(0o755)
        return file

    def run_on(self, gpus, *parts, path=None, **environment):
        """The finished run of the program on a machine with `gpus` GPUs, and its figures."""
        figures = self.dir / "figures.json"
        figures.unlink(missing_ok=True)
        done = subprocess.run(
            [sys.executable, str(ROOT / "bench/multi_gpu.py"), "--nostos", str(self.nostos), "--json", str(figures),
             "--parts", *parts],
            env={**os.environ, "PATH": path or f"{self.dir}:{os.environ['PATH']}", "HELD": "",
                 "GPUS": " ".join(map(str, range(gpus))), **environment}, capture_output=True, text=True, timeout=120)
        return done, json.loads(figures.read_text()) if figures.exists() else None

    def test_everything_passes_on_four(self):
        done, figures = self.run_on(4)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertEqual((figures["gpus"], figures["failed"], figures["not_run"]), (4, [], []))
        for name in ("threads by NCCL", "threads by peer memory", "mpirun"):
            for ranks in (2, 3, 4):
                for plan in ("token", "axis"):
                    self.assertIn(f"ok: {name} 720x1280 on {ranks} ranks by {plan}: same bytes", done.stdout)
        self.assertIn("ok: sockets 208x336 on 3 ranks by axis: same bytes", done.stdout)
        self.assertEqual([row["GPUs"] for row in figures["scaling"]], 3 * [1, 2, 2, 4, 4])
        one, two, _, four, _ = figures["scaling"][:5]
        self.assertEqual([row["exchanges"] for row in figures["scaling"][:3]], ["-", "NCCL", "peer memory"])
        self.assertEqual((one["total_efficiency"], one["exposed_share"], one["predicted_efficiency"]), (1, 0, 1))
        self.assertAlmostEqual(two["total_efficiency"], 920 / 470 / 2)
        self.assertAlmostEqual(four["denoise_efficiency"], 810 / 210 / 4)
        for row in (two, four):
            self.assertTrue(0 < row["exposed_share"] < 1 and 0 < row["predicted_efficiency"] < 1, row)
        self.assertLess(figures["rank 3 of 4 processes killed"], 10)

    def test_one_gpu_runs_what_it_can_and_says_what_it_cannot(self):
        done, figures = self.run_on(1)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertEqual(len(figures["not_run"]), 4)
        for what in ("equality on 2 and more GPUs", "equality under mpirun on 2", "scaling on 2", "a rank killed"):
            self.assertIn(f"NOT RUN: {what}", done.stdout)
        self.assertIn("ok: threads by peer memory 2048x2048 on 1 rank", done.stdout)
        self.assertIn("ok: sockets 208x336 on 2 ranks by token: same bytes", done.stdout)
        self.assertIn("rank 1 of 2 processes on one GPU killed", figures)
        self.assertIn("ok: 1 thread ranks killed", done.stdout)

    def test_more_than_eight_are_left_alone(self):
        done, figures = self.run_on(9, "scaling")
        self.assertEqual(figures["gpus"], 8, done.stdout)
        self.assertEqual([row["GPUs"] for row in figures["scaling"]], 3 * [1, 2, 2, 4, 4, 8, 8])

    def test_without_a_gpu_it_is_skipped(self):
        self.assertEqual(self.run_on(0)[0].returncode, 77)

    def test_other_bytes_are_found(self):
        done, figures = self.run_on(3, "equality", OTHER_BYTES="3 axis")
        self.assertEqual(done.returncode, 1)
        self.assertEqual(len(figures["failed"]), 10)
        self.assertIn("FAILED: threads by NCCL 720x720 on 3 ranks by axis: other bytes", done.stdout)

    def test_another_picture_at_full_size_is_found(self):
        done, figures = self.run_on(4, "scaling", OTHER_DIGEST="b")
        self.assertEqual(done.returncode, 1)
        self.assertEqual(figures["failed"], [f"full size {size} on 4 GPUs by {exchanges}: same picture"
                                             for size in ("1024x1024", "720x1280", "2048x2048")
                                             for exchanges in ("NCCL", "peer memory")])

    def test_a_build_without_mpi_says_so(self):
        done, figures = self.run_on(2, "mpirun", WITHOUT_MPI="1")
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn("built without MPI", figures["not_run"][0])


if __name__ == "__main__":
    unittest.main(verbosity=2)
