"""Checks and times nostos on every number of GPUs that this machine has, up to eight.

    python bench/multi_gpu.py --nostos build/cuda/bin/nostos [--parts equality mpirun sockets scaling failures] [--json out.json]

equality  the same PNG bytes on 1, 2, 3 ... GPUs, five sizes, both plans, ranks that are threads, heads exchanged both ways
mpirun    the same with ranks that are processes
sockets   the same, one small size, with 2 and 3 processes on one GPU that NCCL takes for hosts of their own and connects by
          sockets: slow, but it needs one GPU alone; and one of two such processes killed
scaling   the full-size model with random weights on 1, 2, 4 and 8 GPUs, heads exchanged by NCCL and by kernels that write
          to the peers' memory (--exchange auto): times of denoising and of the whole, efficiency against one GPU of the
          same run, the share of a step in exchanges that nothing hides, and what the cost model predicts; and the same
          picture on all
failures  a rank that is killed, and a drawing that is interrupted, end all within 10 seconds and leave the GPUs free

The exposed share is what a step takes beyond the computation of the busiest rank: the step of one GPU, times the part of it
that the cost model gives that rank. Ends with 1 if a check failed; what could not be run here is named at the end.
"""

import argparse
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "tools"), str(ROOT / "tests")]
import cost_model  # noqa: E402
from gpu_table import print_table  # noqa: E402
from mpirun import ENVIRONMENT, LIMIT_S, MPIRUN  # noqa: E402

SIZES = ["720x720", "720x1280", "1280x720", "1024x1024", "2048x2048"]  # height x width
SCALING_SIZES = {"1024x1024": 3, "720x1280": 3, "2048x2048": 2}  # repeats
PLANS = ["token", "axis"]
EXCHANGES = {"NCCL": ["--exchange", "nccl"], "peer memory": ["--exchange", "auto"]}
MOST_GPUS = 8
COMMAND_LIMIT_S = 300
CAPTION_ROWS = 64  # of the prompt, which a synthetic model takes byte for byte
PROMPT = "A sunny beach!"
RANK_SHELL = 'echo "process $OMPI_COMM_WORLD_RANK $$" >&2; exec "$@"'
OWN_HOST = ("export CUDA_VISIBLE_DEVICES=0 NCCL_HOSTID=host$OMPI_COMM_WORLD_RANK NCCL_SOCKET_IFNAME=lo "
            "NCCL_IB_DISABLE=1; ")  # NCCL refuses two ranks of one host on one GPU


class Report:
    """What passed, what failed, what was not run, and figures."""

    def __init__(self):
        self.failed, self.not_run, self.figures = [], [], {}

    def expect(self, holds, what):
        print(f"{'ok' if holds else 'FAILED'}: {what}", flush=True)
        if not holds:
            self.failed.append(what)

    def skip(self, what, reason):
        self.not_run.append(f"{what}: {reason}")


def gpu_count():
    """The GPUs that nvidia-smi lists."""
    if shutil.which("nvidia-smi") is None:
        return 0
    done = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True)
    return len(done.stdout.splitlines()) if done.returncode == 0 else 0


def processes_on_gpus():
    """The ids of the processes that hold a GPU."""
    done = subprocess.run(["nvidia-smi", "--query-compute-apps=pid", "--format=csv,noheader"], capture_output=True, text=True)
    return {int(line) for line in done.stdout.split() if line.isdigit()}


def last_line(text):
    return text.strip().splitlines()[-1] if text.strip() else "nothing on standard error"


class Machine:
    """The nostos under test, and how many GPUs it may use."""

    def __init__(self, nostos, gpus, folder):
        self.nostos, self.gpus, self.folder = str(nostos), gpus, Path(folder)

    def generate(self, size, name, *flags):
        """The command that draws the embedded model's picture, and its file."""
        height, width = size.split("x")
        file = self.folder / name
        return [self.nostos, "generate", "--device", "cuda", "--prompt", "A crowded beach", "--height", height, "--width",
                width, "--guidance-scale", "4", "--output", str(file), *map(str, flags)], file

    def draw(self, size, *flags, launcher=()):
        """The bytes of a picture and an empty text, or nothing and why."""
        command, file = self.generate(size, "picture.png", "--num-inference-steps", 2, *flags)
        file.unlink(missing_ok=True)
        try:
            done = subprocess.run([*launcher, *command], env=ENVIRONMENT, capture_output=True, text=True,
                                  timeout=COMMAND_LIMIT_S)
        except subprocess.TimeoutExpired:
            return None, f"no end within {COMMAND_LIMIT_S} s"
        if done.returncode != 0:
            return None, f"exit status {done.returncode}: {last_line(done.stderr)}"
        return file.read_bytes(), ""

    def why_no_mpirun(self):
        """Why ranks cannot be processes here, or nothing."""
        if shutil.which(MPIRUN[0]) is None:
            return "mpirun is not installed"
        _, why = self.draw("64x64", launcher=[*MPIRUN, "-n", "1"])
        return why


def check_equality(machine, report, name, launcher_of, sizes, most_ranks):
    """Draws each size on every number of ranks by both plans; `launcher_of` gives the flags and launcher of P ranks."""
    for size in sizes:
        wanted, why = machine.draw(size)
        report.expect(wanted is not None, f"{name} {size} on 1 rank" + (f": {why}" if why else ""))
        if wanted is None:
            continue
        for ranks in range(2, most_ranks + 1):
            for plan in PLANS:
                flags, launcher = launcher_of(ranks)
                drawn, why = machine.draw(size, *flags, "--sp-plan", plan, launcher=launcher)
                found = why or ("same bytes" if drawn == wanted else "other bytes")
                report.expect(drawn == wanted, f"{name} {size} on {ranks} ranks by {plan}: {found}")


def equality(machine, report):
    if machine.gpus < 2:
        report.skip("equality on 2 and more GPUs", f"this machine has {machine.gpus}")
    for name, exchange in EXCHANGES.items():
        check_equality(machine, report, f"threads by {name}", lambda ranks: (["--num-gpus", ranks, *exchange], []), SIZES,
                       machine.gpus)


def mpirun(machine, report):
    if why := machine.why_no_mpirun():
        report.skip("equality under mpirun", why)
        return
    if machine.gpus < 2:
        report.skip("equality under mpirun on 2 and more GPUs", f"this machine has {machine.gpus}")
    check_equality(machine, report, "mpirun", lambda ranks: ([], [*MPIRUN, "-n", str(ranks)]), SIZES, machine.gpus)


def sockets(machine, report):
    if why := machine.why_no_mpirun():
        report.skip("processes that share a GPU", why)
        return

    def launcher_of(ranks):
        return [], [*MPIRUN, "-n", str(ranks), "sh", "-c", OWN_HOST + 'exec "$@"', "sh"]

    check_equality(machine, report, "sockets", launcher_of, ["208x336"], 3)
    fail_in_midst(machine, report, "rank 1 of 2 processes on one GPU killed", signal.SIGKILL, processes=2,
                  shell=OWN_HOST + RANK_SHELL, message="rank 1 failed: its process has ended")


def bench(machine, size, ranks, repeats, exchange=()):
    """The JSON object of one nostos bench, or nothing and why; `exchange` gives flags of EXCHANGES."""
    height, width = size.split("x")
    command = [machine.nostos, "bench", "--json", "--log-level", "warning", "--device", "cuda", "--synthetic",
               "z-image-turbo", "--precision", "bf16", "--prompt", PROMPT, "--height", height, "--width", width,
               "--num-inference-steps", "8", "--guidance-scale", "0", "--warmup", "2", "--repeat", str(repeats),
               "--num-gpus", str(ranks), *exchange]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_LIMIT_S)
    except subprocess.TimeoutExpired:
        return None, f"no end within {COMMAND_LIMIT_S} s"
    if done.returncode != 0:
        return None, f"exit status {done.returncode}: {last_line(done.stderr)}"
    begin = max(done.stdout.find("{"), 0)  # NCCL's own messages may stand before and after
    return json.JSONDecoder().raw_decode(done.stdout, begin)[0], ""


def predicted(size, ranks):
    """The cost model's milliseconds of a step, and those of them that are computation."""
    height, width = map(int, size.split("x"))
    tokens = -(-(height // 16) * (width // 16) // 32) * 32
    links = [(cost_model.NVLINK, 1)] if ranks > 1 else []
    step, exposed = cost_model.step_ms(tokens, CAPTION_ROWS, ranks, links)
    return step, step - exposed


def scaling_row(size, ranks, exchanges, measured, one):
    """A row of the scaling table; `one` is what one GPU took in the same run."""
    denoise = {stage["name"]: stage["median_ms"] for stage in measured["stages"]}["denoise"]
    denoise_one = {stage["name"]: stage["median_ms"] for stage in one["stages"]}["denoise"]
    step_one, compute_one = predicted(size, 1)
    step, compute = predicted(size, ranks)
    computing = one["step_median_ms"] * compute / compute_one
    return {
        "size": size,
        "GPUs": ranks,
        "exchanges": exchanges,
        "step_ms": measured["step_median_ms"],
        "denoise_ms": denoise,
        "total_ms": measured["total_median_ms"],
        "denoise_efficiency": denoise_one / denoise / ranks,
        "total_efficiency": one["total_median_ms"] / measured["total_median_ms"] / ranks,
        "exposed_share": max(0.0, 1 - computing / measured["step_median_ms"]) if ranks > 1 else 0.0,
        "predicted_efficiency": step_one / step / ranks,
    }


def scaling(machine, report):
    counts = [ranks for ranks in (1, 2, 4, 8) if ranks <= machine.gpus]
    if counts == [1]:
        report.skip("scaling on 2 and more GPUs", f"this machine has {machine.gpus}")
    rows = []
    for size, repeats in SCALING_SIZES.items():
        one = None
        for ranks, exchanges in [(1, "-"), *itertools.product(counts[1:], EXCHANGES)]:
            what = f"{size} on {ranks} GPUs" + (f" by {exchanges}" if ranks > 1 else "")
            measured, why = bench(machine, size, ranks, repeats, EXCHANGES.get(exchanges, []))
            report.expect(measured is not None, f"bench {what}" + (f": {why}" if why else ""))
            if measured is None:
                continue
            one = one or (measured if ranks == 1 else None)
            if one is None:
                continue
            report.expect(measured["picture_digest"] == one["picture_digest"], f"full size {what}: same picture")
            rows.append(scaling_row(size, ranks, exchanges, measured, one))
    if rows:
        print_table(rows)
    report.figures["scaling"] = rows


def wait_until_drawing(process, processes):
    """The process ids of the ranks, which those under a launcher say, once a step is done; nothing if all ended before."""
    pids = {0: process.pid} if processes == 1 else {}
    for line in process.stderr:
        if found := re.match(r"process (\d+) (\d+)", line):
            pids[int(found[1])] = int(found[2])
        if line.startswith("step ") and len(pids) == processes:
            return pids
    return {}


def end_of(process, since):
    """What a run says at its end, and seconds to it; kills one that does not end."""
    try:
        _, errors = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        _, errors = process.communicate()
    return errors, time.monotonic() - since


def fail_in_midst(machine, report, what, signal_number, processes=1, shell=RANK_SHELL, flags=(), message=None):
    """Starts a long drawing and in the middle of it sends a signal to its last process."""
    command, file = machine.generate("1024x1024", "never.png", "--num-inference-steps", 1000, *flags)
    if processes > 1:
        command = [*MPIRUN, "-n", str(processes), "sh", "-c", shell, "sh", *command]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    pids = wait_until_drawing(process, processes)
    if not pids:
        process.wait()
        report.expect(False, f"{what}: it ended early, with status {process.returncode}")
        return
    since = time.monotonic()
    os.kill(pids[max(pids)], signal_number)
    errors, seconds = end_of(process, since)
    ended = process.returncode != 0 and seconds < LIMIT_S
    report.expect(ended, f"{what}: {seconds:.2f} s to the end of all, status {process.returncode}")
    if message:
        report.expect(message in errors, f"{what}: a rank says '{message}'")
    report.expect(not file.exists(), f"{what}: no file is left")
    held = processes_on_gpus() & set(pids.values())
    report.expect(not held, f"{what}: the GPUs are free" + (f", but for {sorted(held)}" if held else ""))
    report.figures[what] = seconds


def failures(machine, report):
    ranks = machine.gpus
    threads = ["--num-gpus", ranks]
    fail_in_midst(machine, report, f"{ranks} thread ranks interrupted", signal.SIGINT, flags=threads, message="cancelled")
    fail_in_midst(machine, report, f"{ranks} thread ranks killed", signal.SIGKILL, flags=threads)
    why = f"this machine has {ranks}" if ranks < 2 else machine.why_no_mpirun()
    if why:
        report.skip("a rank killed that is one process of several, on 2 and more GPUs", why)
        return
    last = ranks - 1
    fail_in_midst(machine, report, f"rank {last} of {ranks} processes killed", signal.SIGKILL, processes=ranks,
                  message=f"rank {last} failed: its process has ended")


PARTS = {"equality": equality, "mpirun": mpirun, "sockets": sockets, "scaling": scaling, "failures": failures}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nostos", type=Path, required=True)
    parser.add_argument("--parts", nargs="*", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--gpus", type=int, help="use so many, not all that there are")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    there = min(gpu_count(), MOST_GPUS)
    if there == 0:
        print("skipped: nvidia-smi lists no GPU")
        return 77
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        machine = Machine(options.nostos, min(options.gpus or there, there), folder)
        print(f"{machine.gpus} of {there} GPUs")
        for part in options.parts or PARTS:
            PARTS[part](machine, report)
    if options.json:
        options.json.write_text(json.dumps({"gpus": machine.gpus, "failed": report.failed, "not_run": report.not_run,
                                            **report.figures}, indent=2) + "\n")
    for what in report.not_run:
        print(f"NOT RUN: {what}")
    for what in report.failed:
        print(f"FAILED: {what}")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
