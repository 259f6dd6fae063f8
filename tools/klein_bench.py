"""Times forward passes of FLUX.2-klein's transformer with random weights, for bench_diffusers.py --forward.

Not a program.
"""

import json
import statistics
import time

import torch
from diffusers import Flux2KleinPipeline, Flux2Transformer2DModel

TEXT_ROWS = 512
SEED = 0


def synthetic_transformer(folder, device, dtype):
    """The transformer of a folder of configs, initialised at random on the device."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    torch.manual_seed(SEED)
    try:
        with torch.device(device):
            model = Flux2Transformer2DModel.from_config(Flux2Transformer2DModel.load_config(folder / "transformer"))
    finally:
        torch.set_default_dtype(before)
    return model.eval()


def inputs(model, grid, references, dtype):
    """Arguments of a forward pass: a picture of grid tokens, and as many references of the same size."""
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(SEED)

    def noise(*shape):
        return torch.randn(shape, generator=generator, device=device, dtype=dtype)

    channels = model.config.in_channels
    picture = torch.empty(1, channels, *grid)
    ids = [Flux2KleinPipeline._prepare_latent_ids(picture)]
    if references:
        ids.append(Flux2KleinPipeline._prepare_image_ids([picture] * references))
    features = noise(1, TEXT_ROWS, model.config.joint_attention_dim)
    return {
        "hidden_states": noise(1, grid[0] * grid[1] * (1 + references), channels),
        "encoder_hidden_states": features,
        "timestep": torch.tensor([0.9], device=device, dtype=dtype),
        "img_ids": torch.cat(ids, dim=1).to(device),
        "txt_ids": Flux2KleinPipeline._prepare_text_ids(features).to(device),
        "return_dict": False,
    }


def wait(device):
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.no_grad()
def time_forward(model, arguments, options):
    """Milliseconds of each repeat, after passes that are not counted; the first compiles, where the model is compiled.

    no_grad and not inference_mode, in which torch.compile does not take every graph.
    """
    device, milliseconds = arguments["hidden_states"].device, []
    for index in range(options.warm_up + options.repeats):
        wait(device)
        start = time.perf_counter()
        model(**arguments)
        wait(device)
        if index >= options.warm_up:
            milliseconds.append((time.perf_counter() - start) * 1000)
    return milliseconds


def device_name(device, cpu_name):
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name


def run(options, cpu_name):
    """The figures of bench_diffusers.py --forward: a pass eager and compiled, without and with one reference."""
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    levels = len(json.loads((options.forward / "vae/config.json").read_text())["block_out_channels"])
    grid = options.height // 2**levels, options.width // 2**levels
    results = []
    for name in options.dtypes:
        dtype = getattr(torch, name)
        model = synthetic_transformer(options.forward, device, dtype)
        if options.attention_backend:
            model.set_attention_backend(options.attention_backend)
        compiled = torch.compile(model, mode=options.compile_mode, dynamic=False)
        for mode, forward in (("eager", model), ("compile", compiled)):
            for references in (0, 1):
                times = time_forward(forward, inputs(model, grid, references, dtype), options)
                results.append({
                    "dtype": name, "mode": mode, "references": references,
                    "rows": TEXT_ROWS + grid[0] * grid[1] * (1 + references),
                    "ms_per_forward": statistics.median(times), "all_ms": times,
                })
    return {
        "model": str(options.forward),
        "height": options.height,
        "width": options.width,
        "device": device_name(device, cpu_name),
        "attention_backend": options.attention_backend or "default",
        "compile_mode": options.compile_mode,
        "threads": torch.get_num_threads(),
        "results": results,
    }
