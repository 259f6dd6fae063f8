"""Times diffusers' ZImagePipeline on the CPU, from prompt to pixels, warm: the peer that nostos is measured against.

    python tools/bench_diffusers.py --model models/mini --height 512 --width 512 --steps 9 --guidance 4 --repeats 5

Prints one JSON object; `seconds` per dtype is the median of the repeats after one warm-up image. The machine has to be
quiet. Threads default to all cores this process may use.
"""

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

DTYPES = ("float32", "bfloat16")


def parse_options():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/mini"), help="a Z-Image folder in diffusers' layout")
    parser.add_argument("--prompt", default="A crowded beach")
    parser.add_argument("--height", type=int, default=512)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)
    return parser.parse_args()


if __name__ == "__main__":
    OPTIONS = parse_options()  # before the imports that follow: --help needs none of them

import diffusers
import torch
import transformers

import zimage_reference

def cpu_name():
    """The CPU's model name, as Linux gives it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def time_images(pipe, options):
    """Seconds of each repeat, after one image that is not counted."""
    seconds = []
    for _ in range(options.repeats + 1):
        generator = torch.Generator("cpu").manual_seed(options.seed)
        start = time.perf_counter()
        pipe(
            options.prompt,
            height=options.height,
            width=options.width,
            num_inference_steps=options.steps,
            guidance_scale=options.guidance,
            generator=generator,
            output_type="np",
        )
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def main(options):
    torch.set_num_threads(options.threads)
    results = {}
    for name in options.dtypes:
        seconds = time_images(zimage_reference.load_pipeline(options.model, getattr(torch, name)), options)
        results[name] = {"seconds": statistics.median(seconds), "all_seconds": seconds}
    print(json.dumps({
        "model": str(options.model),
        "height": options.height,
        "width": options.width,
        "steps": options.steps,
        "guidance": options.guidance,
        "threads": torch.get_num_threads(),
        "cpu": cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "dtypes": results,
    }, indent=1))


if __name__ == "__main__":
    main(OPTIONS)
