"""Times diffusers, the peer that nostos is measured against.

    python tools/bench_diffusers.py --model models/mini --height 512 --width 512 --steps 9 --guidance 4 --repeats 5
    python tools/bench_diffusers.py --forward models/flux2-klein-4b

The first times ZImagePipeline on the CPU, from prompt to pixels, warm; `seconds` per dtype is the median of the repeats
after one warm-up image. The second times forward passes of FLUX.2-klein's transformer, with random weights for a folder
of configs, on a GPU where there is one: eager and by torch.compile, without and with one reference of the picture's
size; `ms_per_forward` is the median of the repeats. Prints one JSON object. The machine has to be quiet. Threads
default to all cores this process may use.
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
    parser.add_argument("--forward", type=Path, metavar="CONFIGS",
                        help="time the transformer of a FLUX.2-klein folder of configs instead, with random weights")
    parser.add_argument("--height", type=int, help="default: 512, with --forward 1024")
    parser.add_argument("--width", type=int, help="default: 512, with --forward 1024")
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, help="default: both, with --forward bfloat16")
    forward = parser.add_argument_group("with --forward")
    forward.add_argument("--device", help="default: cuda where there is one, else cpu")
    forward.add_argument("--warm-up", type=int, default=3, help="passes that are not counted")
    forward.add_argument("--compile-mode", default="default", help="torch.compile's mode")
    forward.add_argument("--attention-backend", help="diffusers' name of one, such as _native_cudnn or flash")
    options = parser.parse_args()
    options.height = options.height or (1024 if options.forward else 512)
    options.width = options.width or (1024 if options.forward else 512)
    options.dtypes = options.dtypes or (["bfloat16"] if options.forward else DTYPES)
    return options


if __name__ == "__main__":
    OPTIONS = parse_options()  # before the imports that follow: --help needs none of them

import diffusers
import torch
import transformers

import klein_bench
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


def time_pipeline(options):
    """The figures of whole Z-Image pictures."""
    results = {}
    for name in options.dtypes:
        seconds = time_images(zimage_reference.load_pipeline(options.model, getattr(torch, name)), options)
        results[name] = {"seconds": statistics.median(seconds), "all_seconds": seconds}
    return {
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
    }


def main(options):
    torch.set_num_threads(options.threads)
    if options.forward:
        figures = {**klein_bench.run(options, cpu_name()), "torch": torch.__version__,
                   "diffusers": diffusers.__version__}
    else:
        figures = time_pipeline(options)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main(OPTIONS)
