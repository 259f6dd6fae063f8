"""Walks a server through hundreds of sizes and prompt lengths, twice: nothing it keeps may grow with what clients choose.

Usage: NOSTOS_BINARY=build/cpu/bin/nostos server_walk_test.py. With NOSTOS_WALK_DEVICE=cuda it draws on a GPU that nobody else uses, larger
sizes, and measures the GPU's memory too. Draws with the embedded model, in some minutes. Needs Python 3.11 alone, and nvidia-smi for a GPU.
"""

import json
import os
import random
import subprocess
import sys
import unittest
from pathlib import Path

from server_case import run_tests
from server_process import Server

DEVICE = os.environ.get("NOSTOS_WALK_DEVICE", "cpu")
MIB = 2**20
REQUESTS = 600
SMALLEST, LARGEST = 64, 1024 if DEVICE == "cuda" else 448
MOST_TOKENS = 500
# What the second walk may add to the first, and a walk to the largest drawing alone.
MOST_GROWTH = 0.02
MOST_KEPT_BYTES = 150 * MIB


def walk() -> list[dict]:
    """The requests of a walk, the largest first."""
    chance = random.Random(16)
    sizes = [(LARGEST, LARGEST, MOST_TOKENS)]
    while len(sizes) < REQUESTS:
        sizes.append((chance.randint(SMALLEST, LARGEST), chance.randint(SMALLEST, LARGEST), chance.randint(1, MOST_TOKENS)))
    # A short word is a token.
    return [{"prompt": " ".join(chance.choices(("cat", "dog", "sun", "sea"), k=tokens)), "width": width, "height": height,
             "num_inference_steps": 1, "guidance_scale": 0, "seed": 7} for width, height, tokens in sizes]


def resident_bytes(server: Server) -> int:
    return int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def gpu_bytes(_: Server) -> int:
    """What is used on the GPU, by whomever."""
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    query = ["nvidia-smi", f"--id={gpu}", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return int(subprocess.run(query, stdout=subprocess.PIPE, check=True, text=True).stdout) * MIB


class Walk(unittest.TestCase):
    def test_what_is_kept_does_not_grow_with_what_clients_choose(self):
        meters = {"host": resident_bytes, **({"GPU": gpu_bytes} if DEVICE == "cuda" else {})}
        with Server("--device", DEVICE) as server:
            client = server.connect()

            def draw(request: dict):
                client.request("POST", "/v1/images/generations", json.dumps(request))
                answer = json.loads(client.getresponse().read())
                self.assertIn("data", answer, f"{answer} to {request}")

            measured = lambda: {name: meter(server) for name, meter in meters.items()}
            requests = walk()
            for _ in range(3):
                draw(requests[0])
            largest = measured()
            walks = []
            for _ in range(2):
                for request in requests:
                    draw(request)
                walks.append(measured())
            client.close()
        for name in meters:
            first, second = (walked[name] for walked in walks)
            print(f"{name} MiB: {largest[name] / MIB:.0f} after the largest drawing, {first / MIB:.0f} after a walk of {REQUESTS}, "
                  f"{second / MIB:.0f} after another", file=sys.stderr)
            with self.subTest(name):
                self.assertLessEqual(second, first * (1 + MOST_GROWTH))
                self.assertLessEqual(max(first, second), largest[name] + MOST_KEPT_BYTES)


if __name__ == "__main__":
    run_tests()
