"""Times the forward pass of diffusers' Z-Image transformer on a GPU, eager and compiled: the peer of a denoising step.

    python bench/diffusers_gpu.py --config models/z-image-turbo/transformer --sizes 1024x1024 512x512

Random bf16 weights of the config's shapes and a caption of 64 tokens. Prints one line a size and, with --json, writes
an object: milliseconds, medians of --repeat forwards by CUDA events after three that do not count. --nostos FILE takes
the JSON of bench/gpu_table.py from the same machine and prints how many times faster its step is. Needs PyTorch and
diffusers.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel

CAPTION_TOKENS = 64
WARMUP = 3
PIXELS_PER_LATENT = 8


def make_model(config, device):
    """The transformer of a config file with random weights, made in place where it will run."""
    with torch.device("meta"):
        model = ZImageTransformer2DModel.from_config(ZImageTransformer2DModel.load_config(config))
    model = model.to(torch.bfloat16).to_empty(device=device)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(std=parameter.shape[-1] ** -0.5)
        else:
            parameter.data.fill_(1)
    return model.eval().requires_grad_(False)


def milliseconds(forward, device, repeat):
    """Each of `repeat` forwards."""
    for _ in range(WARMUP):
        forward()
    times = []
    for _ in range(repeat):
        if device == "cuda":
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            forward()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end))
        else:
            start = time.perf_counter()
            forward()
            times.append(1000 * (time.perf_counter() - start))
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("models/z-image-turbo/transformer"))
    parser.add_argument("--sizes", nargs="+", default=["1024x1024"], metavar="HxW", help="pixels")
    parser.add_argument("--repeat", type=int, default=10)
    parser.add_argument("--skip-compiled", action="store_true")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--nostos", type=Path, help="JSON of bench/gpu_table.py")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    steps = {}
    if options.nostos:
        table = json.loads(options.nostos.read_text())["table"]
        steps = {row["case"].removeprefix("full "): row["step_ms"] for row in table if row["case"].startswith("full ")}
    model = make_model(options.config, options.device)
    results = []
    with torch.inference_mode():
        for compiled in [False] if options.skip_compiled else [False, True]:
            if compiled:
                model.compile_repeated_blocks(fullgraph=True)
            for size in options.sizes:
                height, width = (int(side) // PIXELS_PER_LATENT for side in size.split("x"))
                bf16 = {"device": options.device, "dtype": torch.bfloat16}
                latents = [torch.randn(model.config.in_channels, 1, height, width, **bf16)]
                caption = [torch.randn(CAPTION_TOKENS, model.config.cap_feat_dim, **bf16)]
                time_input = torch.tensor([0.5], **bf16)
                ms = milliseconds(lambda: model(latents, time_input, caption, return_dict=False), options.device,
                                  options.repeat)
                result = {"size": size, "compiled": compiled, "median_ms": statistics.median(ms), "ms": ms}
                line = f"diffusers {'compiled' if compiled else 'eager'} {size}: {result['median_ms']:.1f} ms"
                if size in steps:
                    result["nostos_times_faster"] = result["median_ms"] / steps[size]
                    line += f", nostos {steps[size]:.1f} ms: {result['nostos_times_faster']:.2f}x faster"
                print(line, flush=True)
                results.append(result)
    if options.json:
        device = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
        whole = {"device": device, "torch": torch.__version__, "results": results}
        options.json.write_text(json.dumps(whole, indent=2) + "\n")


if __name__ == "__main__":
    main()
