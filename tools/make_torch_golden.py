"""Makes the golden files that need no model: torch.randn of given seeds, and diffusers' flow-match Euler schedules.

    python tools/make_torch_golden.py --out tests/data [--cuda-from tests/data/torch_randn.safetensors]

torch_randn.safetensors: `cpu_seed<S>_<shape>` and `cuda_seed<S>_<shape>`, one fresh generator each;
`*_seed<S>_draws_<n>_<m>_...` several draws in a row from one generator, joined; `*_first_<shape>_then_same` two draws
stacked. The cuda ones need a GPU (made on an H200, 132 multiprocessors); without one they are taken from the
file given by --cuda-from, unchanged.
torch_randn_bf16.safetensors, of CPU generators: `seed<S>_<size>` in bfloat16, one fresh generator each;
`seed42_mixed_<place>_<size>` draws in a row from one generator, of float32 and of bfloat16 as their types say;
schedule.safetensors: `shift<F>_steps<N>_sigmas` [N + 1], shifted, final 0 included; `..._t` [N], the transformer's t.
schedule_klein.safetensors, of FLUX.2-klein, whose shift depends on the tokens of a picture of 16 x 16 pixels each:
`<height>x<width>_steps<N>_sigmas` and `..._times` [N], the transformer's time as it enters the time embedding, and
`..._mu`, float64 []; `<height>x<width>_custom<K>_given` float64 [N], the request's own sigmas, with their results.
rope_klein.safetensors: of the published FLUX.2-klein, `positions` [K, 4] and `cos`, `sin` [K, 64], an angle for each
pair of channels.
"""

import argparse
import sys
from pathlib import Path


def parse_options():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("tests/data"))
    parser.add_argument("--cuda-from", type=Path, help="a file whose cuda_* tensors are kept (no GPU here)")
    return parser.parse_args()


if __name__ == "__main__":
    OPTIONS = parse_options()  # before the imports that follow: --help needs none of them

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.models.transformers.transformer_flux2 import Flux2PosEmbed
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from diffusers.pipelines.z_image.pipeline_z_image import get_default_z_image_sigmas
from safetensors.torch import load_file

import klein_tiny
import reference

SEEDS = (0, 42, 2**31, 2**32 + 42, 2**63 - 1)
# From 16 values on torch's CPU generator takes another path (eight cosines, then eight sines); a remainder below 16 is
# drawn again as the last 16 values.
SIZES = (1, 2, 5, 15, 16, 17, 31, 32, 100, 4099)
DRAWS = (5, 5, 17, 3, 1)
# Of both types around 16 values: short draws leave a value for the next short one, of whatever type.
MIXED_DRAWS = ((torch.float32, 5), (torch.bfloat16, 4), (torch.bfloat16, 17), (torch.float32, 33), (torch.bfloat16, 3),
               (torch.float32, 1), (torch.bfloat16, 240), (torch.bfloat16, 240), (torch.float32, 15), (torch.bfloat16, 2))
CUDA_SHAPES = ((1, 16, 32, 32), (1, 16, 90, 90))
SHIFTS = (1.0, 1.7, 3.0, 6.0)
STEPS = (1, 2, 3, 4, 8, 9, 20, 50)
# 16, 252, 1536, 4096, 4288, 4300, 4301, 4352 and 16384 tokens: the shift jumps behind 4300.
KLEIN_SIZES = (
    (64, 64), (192, 336), (512, 768), (1024, 1024), (1072, 1024), (688, 1600), (272, 4048), (1088, 1024), (2048, 2048)
)
KLEIN_STEPS = (1, 2, 3, 4, 7, 8, 20, 28, 50)
# (t, y, x, l) of text, of a picture and of references.
KLEIN_POSITIONS = [
    *((0, 0, 0, l) for l in (0, 1, 2, 3, 7, 63, 64, 100, 255, 256, 399, 500, 510, 511)),
    *((0, y, x, 0) for y, x in ((0, 1), (1, 0), (5, 3), (63, 63), (37, 101), (127, 128), (252, 16), (255, 255))),
    *((t, y, x, 0) for t, y, x in ((10, 0, 0), (10, 63, 62), (20, 1, 44), (30, 65, 29), (40, 127, 7), (160, 12, 85))),
]
KLEIN_SIGMAS = ([1.0, 0.7, 0.2], [0.95, 0.8, 0.35, 0.05], [0.6], [1.0, 0.99, 0.5, 0.001])


def shape_name(shape):
    return "x".join(map(str, shape))


def randn_cpu():
    """{name: float32 tensor} of CPU generators."""
    tensors = {"cpu_seed42_1x16x32x32": torch.randn(1, 16, 32, 32, generator=torch.Generator().manual_seed(42))}
    for seed in SEEDS:
        for size in SIZES if seed != 2**32 + 42 else (5, 17):
            tensors[f"cpu_seed{seed}_{size}"] = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(42)
    tensors[f"cpu_seed42_draws_{'_'.join(map(str, DRAWS))}"] = torch.cat(
        [torch.randn(size, generator=generator) for size in DRAWS]
    )
    return tensors


def randn_cuda():
    """{name: float32 tensor} of CUDA generators on the present GPU."""
    tensors = {}
    for shape in CUDA_SHAPES:
        generator = torch.Generator("cuda").manual_seed(42)
        tensors[f"cuda_seed42_{shape_name(shape)}"] = torch.randn(shape, generator=generator, device="cuda").cpu()
    generator = torch.Generator("cuda").manual_seed(42)
    draws = [torch.randn(CUDA_SHAPES[0], generator=generator, device="cuda") for _ in range(2)]
    tensors[f"cuda_seed42_first_{shape_name(CUDA_SHAPES[0])}_then_same"] = torch.stack(draws).cpu()
    return tensors


def randn_bf16():
    """{name: tensor} of CPU generators that draw bfloat16."""
    tensors = {}
    for seed in SEEDS:
        for size in (*SIZES, 8192) if seed == 42 else (15, 16, 17, 100):
            generator = torch.Generator().manual_seed(seed)
            tensors[f"seed{seed}_{size}"] = torch.randn(size, generator=generator, dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(42)
    for i, (dtype, size) in enumerate(MIXED_DRAWS):
        tensors[f"seed42_mixed_{i}_{size}"] = torch.randn(size, generator=generator, dtype=dtype)
    return tensors


def schedules():
    """{name: float32 tensor} of FlowMatchEulerDiscreteScheduler as ZImagePipeline uses it."""
    tensors = {}
    for shift in SHIFTS:
        scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
        for steps in STEPS:
            scheduler.set_timesteps(sigmas=get_default_z_image_sigmas(steps))
            tensors[f"shift{shift:g}_steps{steps}_sigmas"] = scheduler.sigmas
            tensors[f"shift{shift:g}_steps{steps}_t"] = (1000 - scheduler.timesteps) / 1000
    return tensors


def klein_schedule(size, steps, sigmas):
    """{name: tensor} of the scheduler as Flux2KleinPipeline uses it."""
    scheduler = FlowMatchEulerDiscreteScheduler(**klein_tiny.SCHEDULER)
    mu = compute_empirical_mu(image_seq_len=size[0] // 16 * (size[1] // 16), num_steps=steps)
    scheduler.set_timesteps(sigmas=sigmas, mu=mu)
    return {
        "mu": torch.tensor(mu, dtype=torch.float64),
        "sigmas": scheduler.sigmas,
        "times": scheduler.timesteps / 1000 * 1000,  # divided by the pipeline, multiplied by the transformer
    }


def klein_schedules():
    """{name: tensor} of all sizes and steps, and of sigmas that a request gives."""
    tensors = {}
    for size in KLEIN_SIZES:
        for steps in KLEIN_STEPS:
            made = klein_schedule(size, steps, np.linspace(1.0, 1 / steps, steps))
            tensors |= {f"{shape_name(size)}_steps{steps}_{name}": tensor for name, tensor in made.items()}
    for size in ((512, 768), (2048, 2048)):
        for index, sigmas in enumerate(KLEIN_SIGMAS):
            made = {"given": torch.tensor(sigmas, dtype=torch.float64), **klein_schedule(size, len(sigmas), sigmas)}
            tensors |= {f"{shape_name(size)}_custom{index}_{name}": tensor for name, tensor in made.items()}
    return tensors


def klein_rope():
    """{name: tensor} of the rotation of the published models."""
    positions = torch.tensor(KLEIN_POSITIONS)
    cos, sin = Flux2PosEmbed(theta=2000, axes_dim=(32, 32, 32, 32))(positions)
    return {"positions": positions, "cos": cos[:, ::2], "sin": sin[:, ::2]}


def main(options):
    if options.cuda_from:
        cuda = {name: tensor for name, tensor in load_file(options.cuda_from).items() if name.startswith("cuda_")}
    elif torch.cuda.is_available():
        cuda = randn_cuda()
    else:
        sys.exit("error: no CUDA device: pass --cuda-from FILE to keep the cuda_* tensors of an existing file")
    options.out.mkdir(parents=True, exist_ok=True)
    files = {
        "torch_randn": {**randn_cpu(), **cuda}, "torch_randn_bf16": randn_bf16(), "schedule": schedules(),
        "schedule_klein": klein_schedules(), "rope_klein": klein_rope(),
    }
    for file, tensors in files.items():
        reference.save(tensors, options.out / f"{file}.safetensors")
        print(f"{file}.safetensors: {len(tensors)} tensors, {sum(t.numel() for t in tensors.values())} values")


if __name__ == "__main__":
    main(OPTIONS)
