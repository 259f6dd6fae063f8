"""Runs a server whose ranks are dealt to jobs, and compares its pictures with those of one rank.

Usage: NOSTOS_BINARY=build/cpu/bin/nostos server_lanes_test.py [TestCase ...]. Needs Python 3.11 alone.
"""

import os
import random
import re
import signal
import subprocess
import tempfile
import threading
import time
import unittest

from server_case import ServerTest, check_png, run_tests
from server_process import BINARY, Server

SIZES = ((64, 64), (96, 160), (160, 96), (80, 208), (65, 127), (128, 128), (208, 80))  # width, height
# On a GPU that several ranks share: "--device cuda --allow-shared-gpu".
DEVICE = tuple(os.environ.get("NOSTOS_DEVICE_FLAGS", "--device cpu").split())
DEALT = (*DEVICE, "--num-gpus", "4", "--policy")


def orders(count: int, seed: int) -> list[dict]:
    """Returns bodies of jobs: portrait and odd sizes, some guided, some of several pictures, short and long."""
    chance = random.Random(seed)
    made = []
    for number in range(count):
        width, height = chance.choice(SIZES)
        body = {"prompt": f"a boat {number}", "width": width, "height": height, "seed": number,
                "num_inference_steps": chance.choice((1, 2, 3, 12)), "n": chance.choice((1, 1, 1, 2))}
        if chance.random() < 0.3:
            body |= {"guidance_scale": 4, "negative_prompt": "fog"}
        made.append(body)
    return made


def pictures(server: Server, job: str) -> list[bytes]:
    ended = server.wait_for(job)
    assert ended["status"] == "completed", ended
    return [server.get(image["url"]).body for image in ended["images"]]


def metric(server: Server, name: str) -> float:
    """Returns the sum over all labels."""
    lines = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", server.get("/metrics").body.decode(), re.MULTILINE)
    return sum(map(float, lines))


class Bytes(unittest.TestCase):
    def draw_all(self, bodies: list[dict], *flags: str) -> tuple[list[list[bytes]], dict[str, float]]:
        """Returns the pictures of each, which several clients ask for at once, and the sum of each metric of lanes."""
        drawn: list[list[bytes]] = [[] for _ in bodies]
        with Server(*flags) as server:

            def ask(client: int):
                for number in range(client, len(bodies), 4):
                    drawn[number] = pictures(server, server.post("/v1/jobs", bodies[number]).json()["id"])

            clients = [threading.Thread(target=ask, args=(client,)) for client in range(4)]
            for client in clients:
                client.start()
            for client in clients:
                client.join()
            seen = {name: metric(server, name) for name in ("nostos_lanes_total", "nostos_lane_changes_total", "nostos_places")}
            server.wait_until(lambda: metric(server, "nostos_places_busy") == metric(server, "nostos_lanes") == 0)
        return drawn, seen

    def test_every_policy_draws_the_bytes_of_one_rank(self):
        seed = int(os.environ.get("NOSTOS_SEED", random.randrange(10**6)))
        bodies = orders(int(os.environ.get("NOSTOS_ORDERS", "24")), seed)
        alone, _ = self.draw_all(bodies, *DEVICE, "--num-gpus", "1")
        for policy in ("latency", "throughput", "auto"):
            with self.subTest(policy=policy, NOSTOS_SEED=seed):
                drawn, seen = self.draw_all(bodies, *DEALT, policy)
                self.assertEqual(drawn, alone)
                self.assertEqual(seen["nostos_places"], 4)
                self.assertGreater(seen["nostos_lanes_total"], 1)
                self.assertGreater(seen["nostos_lane_changes_total"], 0)


class Dealt(ServerTest):
    flags = (*DEALT, "throughput")

    def test_a_long_job_makes_room_for_others(self):
        long = self.server.post("/v1/jobs", {"prompt": "long", "width": 256, "height": 256, "num_inference_steps": 40}).json()["id"]
        self.server.wait_until(lambda: (self.server.job(long)["progress"] or {}).get("step"))
        self.assertLessEqual(set(self.server.job(long)["progress"]["places"]), {0, 1, 2, 3})
        short = self.server.post("/v1/jobs", {"prompt": "short", "width": 64, "height": 64, "num_inference_steps": 1}).json()["id"]
        self.assertEqual(self.server.wait_for(short)["status"], "completed")
        self.assertEqual(self.server.job(long)["status"], "running")
        self.assertEqual(self.server.request("DELETE", f"/v1/jobs/{long}").status, 202)
        self.assertEqual(self.server.wait_for(long)["status"], "cancelled")

    def test_previews_and_events_go_on(self):
        made = self.server.post("/v1/images/generations", {"prompt": "seen", "size": "128x128", "stream": True, "partial_images": 2})
        self.assertEqual(made.body.decode().count("event: image_generation.partial_image"), 2)
        self.assertIn("event: image_generation.completed", made.body.decode())


class Shutdown(unittest.TestCase):
    def test_sigterm_while_lanes_change(self):
        bodies = orders(12, 5)
        for body in bodies:
            body["num_inference_steps"] = 6
        with tempfile.TemporaryDirectory() as folder:
            ids: list[str] = []
            for _ in range(4):
                server = Server(*DEALT, "throughput", "--shutdown-grace", "0", data_dir=folder)
                ids += [server.post("/v1/jobs", body).json()["id"] for body in bodies[len(ids) : len(ids) + 3]]
                time.sleep(random.uniform(0, 0.3))
                server.process.send_signal(signal.SIGTERM)
                self.assertEqual(server.process.wait(60), 0, "".join(server.log[-20:]))
                server.__exit__()
            with Server(*DEVICE, "--num-gpus", "1", data_dir=folder) as server:
                drawn = [pictures(server, job) for job in ids]
                again = [pictures(server, server.post("/v1/jobs", body).json()["id"]) for body in bodies]
        self.assertEqual(drawn, again)
        for one in drawn:
            check_png(one[0])


class Flags(unittest.TestCase):
    def refused(self, *flags: str) -> str:
        with tempfile.TemporaryDirectory() as folder:
            run = subprocess.run([BINARY, "serve", "--port", "0", "--data-dir", folder, *flags], capture_output=True, text=True, timeout=60)
        self.assertEqual(run.returncode, 2, run.stderr)
        return run.stderr

    def test_what_cannot_be(self):
        self.assertIn("policy 'fastest' is unknown; use latency, throughput or auto", self.refused("--policy", "fastest"))
        for degree in ("--ulysses-degree", "--ring-degree", "--cfg-parallel-degree"):
            self.assertIn("--policy chooses the degree: leave out", self.refused("--policy", "auto", "--num-gpus", "2", degree, "2"))


if __name__ == "__main__":
    run_tests()
