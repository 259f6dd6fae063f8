"""Compares ways to serve one queue with several GPUs: --policy, a fixed degree of all GPUs, and a server for each GPU.

    python bench/serve_load.py --nostos build/cuda/bin/nostos --gpus 2 [--policy auto] [--synthetic z-image-turbo]
        [--size 1024x1024] [--steps 8] [--jobs 120] [--loads 0.3 0.6 0.9] [--device cuda] [--json out.json] [-- FLAGS OF SERVE]

Each way draws the same jobs: one alone (median of five), a full queue (jobs a second), and jobs that arrive at random (Poisson)
at the given parts of what the servers for each GPU draw with a full queue. Prints mean and 95th percentile of the time from a
job's arrival to its end. The replicas' jobs go to the server with the fewest, the best that a balancer could do. Arrivals have
the same times for all ways. Needs Python 3.11 alone.
"""

import argparse
import concurrent.futures
import http.client
import json
import random
import re
import statistics
import subprocess
import tempfile
import threading
import time
from pathlib import Path

START_LIMIT_S = 300
JOB_LIMIT_S = 600
CLIENTS = 64  # threads that wait for jobs
ALONE = 5


class Server:
    """A server with a folder of its own, ready when this returns."""

    def __init__(self, command, folder, environment=None):
        self.log_file = open(Path(folder) / "log", "w+")
        self.process = subprocess.Popen([*command, "--port", "0", "--data-dir", str(Path(folder) / "data"), "--queue", "10000"],
                                        stderr=self.log_file, env=environment)
        self.waiting, self.lock = 0, threading.Lock()
        self.port = None
        deadline = time.monotonic() + START_LIMIT_S
        while self.process.poll() is None and time.monotonic() < deadline:
            log = Path(self.log_file.name).read_text()
            if found := re.search(r'"message":"listening".*"port":(\d+)', log):
                self.port = int(found.group(1))
            if '"message":"ready"' in log:
                return
            time.sleep(0.05)
        raise RuntimeError("the server did not start:\n" + Path(self.log_file.name).read_text()[-2000:])

    def draw(self, body):
        """Has a job drawn, and waits for its end."""
        with self.lock:
            self.waiting += 1
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=JOB_LIMIT_S)
            connection.request("POST", "/v1/jobs", json.dumps(body), {"Content-Type": "application/json"})
            job = json.loads(connection.getresponse().read())["id"]
            connection.request("GET", f"/v1/jobs/{job}/events")
            done = [line for line in connection.getresponse().read().decode().splitlines() if line.startswith("data:")][-1]
            connection.close()
            status = json.loads(done[5:])["status"]
            if status != "completed":
                raise RuntimeError(f"{job} is {status}: {done}")
        finally:
            with self.lock:
                self.waiting -= 1

    def close(self):
        self.process.terminate()
        self.process.wait()
        self.log_file.close()


class Way:
    """Servers that share the jobs."""

    def __init__(self, name, commands):
        self.name = name
        self.folders = [tempfile.TemporaryDirectory() for _ in commands]
        with concurrent.futures.ThreadPoolExecutor() as pool:
            starts = [pool.submit(Server, command, folder.name) for command, folder in zip(commands, self.folders)]
            self.servers = [start.result() for start in starts]

    def draw(self, body):
        with_fewest = min(self.servers, key=lambda server: server.waiting)
        with_fewest.draw(body)

    def close(self):
        for server in self.servers:
            server.close()
        for folder in self.folders:
            folder.cleanup()


def draw_at(way, bodies, times):
    """Has each job arrive at its time. Returns the seconds that each took, and all."""
    took = [0.0] * len(bodies)
    start = time.monotonic()

    def one(number):
        time.sleep(max(0.0, start + times[number] - time.monotonic()))
        way.draw(bodies[number])
        took[number] = time.monotonic() - start - times[number]

    with concurrent.futures.ThreadPoolExecutor(max(CLIENTS, len(bodies))) as pool:
        for done in [pool.submit(one, number) for number in range(len(bodies))]:
            done.result()
    return took, time.monotonic() - start


def percentile(values, part):
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


def measure(way, arguments, body, rate):
    """Returns a way's figures. `rate`: jobs a second that all GPUs draw, each by itself; None: this way's own."""
    for _ in range(2 * len(way.servers)):  # each server has drawn the size
        way.draw(body)
    alone = statistics.median(draw_at(way, [body], [0])[0][0] for _ in range(ALONE))
    _, whole = draw_at(way, [body] * arguments.jobs, [0.0] * arguments.jobs)
    figures = {"alone_s": alone, "jobs_per_s": arguments.jobs / whole}
    rate = rate or figures["jobs_per_s"]
    for load in arguments.loads:
        chance = random.Random(arguments.seed)
        times = [0.0]
        while len(times) < arguments.jobs:
            times.append(times[-1] + chance.expovariate(rate * load))
        took, _ = draw_at(way, [body] * arguments.jobs, times)
        figures[f"load_{load:g}"] = {"mean_s": statistics.mean(took), "p95_s": percentile(took, 0.95)}
    print(f"{way.name:12} alone {figures['alone_s']:.3f} s, full queue {figures['jobs_per_s']:.3f} a second, " + ", ".join(
        f"at {load:.0%} {figures[f'load_{load:g}']['mean_s']:.3f} ({figures[f'load_{load:g}']['p95_s']:.3f}) s" for load in arguments.loads),
        flush=True)
    return figures, rate


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nostos", required=True)
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--device", default="cuda", help="cuda, or cpu for ranks that share the cores")
    parser.add_argument("--policy", default="auto")
    parser.add_argument("--synthetic", default="", help="configs of random weights; else the embedded model")
    parser.add_argument("--size", default="1024x1024", help="height x width")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--jobs", type=int, default=120)
    parser.add_argument("--loads", type=float, nargs="*", default=[0.3, 0.6, 0.9])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ways", nargs="*", default=["replicas", "fixed", "policy"])
    parser.add_argument("--json")
    parser.add_argument("flags", nargs="*", help="after --: further flags of serve")
    arguments = parser.parse_args()
    height, width = map(int, arguments.size.split("x"))
    body = {"prompt": "A crowded beach", "height": height, "width": width, "num_inference_steps": arguments.steps, "guidance_scale": 0}
    serve = [arguments.nostos, "serve", *(["--synthetic", arguments.synthetic] if arguments.synthetic else []), *arguments.flags]
    all_gpus = [*serve, "--device", arguments.device, "--num-gpus", str(arguments.gpus)]
    of_one = [[*serve, "--device", "cpu" if arguments.device == "cpu" else f"cuda:{gpu}", "--num-gpus", "1",
               *(["--threads", "1"] if arguments.device == "cpu" else [])] for gpu in range(arguments.gpus)]
    commands = {"replicas": of_one, "fixed": [all_gpus], "policy": [[*all_gpus, "--policy", arguments.policy]]}
    report, rate = {}, None
    for name in arguments.ways:
        way = Way(name, commands[name])
        try:
            report[name], rate = measure(way, arguments, body, rate)
        finally:
            way.close()
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
