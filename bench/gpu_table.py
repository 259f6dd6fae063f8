"""Prints a table of the engine's times on a GPU beside the library ceilings of the same run.

    python bench/gpu_table.py --nostos build/cuda/bin/nostos --rates build/cuda/tests/cuda_library_rates --json out.json

The full-size model with random weights, bf16. A ceiling is the sum of the matrix products and attention of one
forward's 32 blocks, sustained in the model's order, at the same number of rows; `share` is the ceiling's part of a
step. It is measured right after the engine, on a card as warm. Milliseconds are medians, but `first`: the whole first
picture, with what is tuned and compiled for it. Pictures are drawn one after the other without a pause, but for `rested`.
`peak_MiB` is what nvidia-smi says is used on the card, at most; only where memory is limited, for it is in the way.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

# A synthetic model takes a byte for a token: with the 50 of the chat template these are 64.
PROMPT = "A sunny beach!"
SIZES = {"1024x1024": 3, "720x1280": 3, "720x720": 3, "2048x2048": 2}  # height x width: repeats
STAGES = {"text_encoder": "text", "denoise": "denoise", "vae_decode": "VAE"}


def run(*command):
    """The standard output of a command; ends the program if it fails."""
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"error: {' '.join(map(str, command))} ended with {done.returncode}")
    return done.stdout


class PeakMemory:
    """Has nvidia-smi say, ten times a second, how much of the first visible GPU's memory is used; `mib` is the most it said."""

    def __enter__(self):
        gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
        self._smi = subprocess.Popen(["nvidia-smi", f"--id={gpu}", "--query-gpu=memory.used", "--format=csv,noheader,nounits",
                                      "--loop-ms=100"], stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_):
        self._smi.terminate()
        said = self._smi.communicate()[0].split()
        if not said:
            sys.exit("error: nvidia-smi did not say how much memory is used")
        self.mib = max(map(int, said))


def bench(options, size, steps, guidance, repeats, model):
    """The JSON object of one nostos bench."""
    height, width = size.split("x")
    return json.loads(run(options.nostos, "bench", "--json", "--log-level", "warning", "--device", "cuda",
                          "--precision", "bf16", "--prompt", PROMPT, "--height", height, "--width", width,
                          "--num-inference-steps", steps, "--guidance-scale", guidance, "--warmup", 2,
                          "--repeat", repeats, *model))


def ceiling(options, rows):
    """Milliseconds that cuda_library_rates gives for one forward."""
    text = run(options.rates, rows)
    return float(re.search(r"([\d.]+) ms in all", text).group(1))


def row_of(name, measured, ceiling_ms):
    """One row of the table."""
    stages = {stage["name"]: stage["median_ms"] for stage in measured["stages"]}
    return {
        "case": name,
        "rows": measured["transformer_rows"],
        "step_ms": measured["step_median_ms"],
        "ceiling_ms": ceiling_ms,
        "share": ceiling_ms / measured["step_median_ms"] if ceiling_ms else None,
        "us_per_row": 1000 * measured["step_median_ms"] / measured["transformer_rows"],
        **{label: stages.get(stage) for stage, label in STAGES.items()},
        "total": measured["total_median_ms"],
        "first": measured["first_run_ms"],
        "weights_GiB": measured["weight_bytes"] / 2**30,
        "scratch_GiB": measured["arena_bytes"] / 2**30,
        "peak_MiB": measured.get("peak_mib"),
    }


def text_of(value):
    """A cell's text."""
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def print_table(rows):
    """Prints rows as a Markdown table with aligned columns."""
    names = list(rows[0])
    cells = [names] + [[text_of(row[name]) for name in names] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    for number, line in enumerate(cells):
        print("| " + " | ".join(cell.rjust(width) for cell, width in zip(line, widths)) + " |")
        if number == 0:
            print("|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nostos", type=Path, required=True)
    parser.add_argument("--rates", type=Path, required=True, help="the program cuda_library_rates")
    parser.add_argument("--json", type=Path, help="file for the table and all that nostos bench said")
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), metavar="HxW")
    parser.add_argument("--steps", type=int, default=8)
    options = parser.parse_args()

    rows, measurements = [], {}

    def add(name, measured, ceiling_ms=None):
        measurements[name] = measured
        rows.append(row_of(name, measured, ceiling_ms))

    full = ["--synthetic", "z-image-turbo"]
    for size in options.sizes:
        measured = bench(options, size, options.steps, 0, SIZES.get(size, 3), full)
        add(f"full {size}", measured, ceiling(options, measured["transformer_rows"]))
    # One picture for one user: at its power limit the card is faster after a rest than under load.
    add("full 1024x1024, rested", bench(options, "1024x1024", options.steps, 0, 5, [*full, "--pause", 2]))
    add("full 1024x1024, guidance 4", bench(options, "1024x1024", options.steps, 4, 2, full))
    with PeakMemory() as peak:
        offload = bench(options, "1024x1024", options.steps, 0, 2, [*full, "--memory", "offload"])
    add("full 1024x1024, offload", {**offload, "peak_mib": peak.mib})
    add("embedded 512x512, guidance 4", bench(options, "512x512", 9, 4, 5, []))
    print_table(rows)
    if options.json:
        options.json.write_text(json.dumps({"table": rows, "measurements": measurements}, indent=2) + "\n")


if __name__ == "__main__":
    main()
