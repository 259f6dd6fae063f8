"""Makes the golden files that need no model: torch.randn of given seeds, and diffusers' flow-match Euler schedule.

    python tools/make_torch_golden.py --out tests/data [--cuda-from tests/data/torch_randn.safetensors]

torch_randn.safetensors: `cpu_seed<S>_<shape>` and `cuda_seed<S>_<shape>`, one fresh generator each;
`*_seed<S>_draws_<n>_<m>_...` several draws in a row from one generator, joined; `*_first_<shape>_then_same` two draws
stacked. The cuda ones need a GPU (made on an H200, 132 multiprocessors); without one they are taken from the
file given by --cuda-from, unchanged.
schedule.safetensors: `shift<F>_steps<N>_sigmas` [N + 1], shifted, final 0 included; `..._t` [N], the transformer's t.
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

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.z_image.pipeline_z_image import get_default_z_image_sigmas
from safetensors.torch import load_file

import reference

SEEDS = (0, 42, 2**31, 2**32 + 42, 2**63 - 1)
# From 16 values on torch's CPU generator takes another path (eight cosines, then eight sines); a remainder below 16 is
# drawn again as the last 16 values.
SIZES = (1, 2, 5, 15, 16, 17, 31, 32, 100, 4099)
DRAWS = (5, 5, 17, 3, 1)
CUDA_SHAPES = ((1, 16, 32, 32), (1, 16, 90, 90))
SHIFTS = (1.0, 1.7, 3.0, 6.0)
STEPS = (1, 2, 3, 4, 8, 9, 20, 50)


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


def main(options):
    if options.cuda_from:
        cuda = {name: tensor for name, tensor in load_file(options.cuda_from).items() if name.startswith("cuda_")}
    elif torch.cuda.is_available():
        cuda = randn_cuda()
    else:
        sys.exit("error: no CUDA device: pass --cuda-from FILE to keep the cuda_* tensors of an existing file")
    options.out.mkdir(parents=True, exist_ok=True)
    for file, tensors in (("torch_randn", {**randn_cpu(), **cuda}), ("schedule", schedules())):
        reference.save(tensors, options.out / f"{file}.safetensors")
        print(f"{file}.safetensors: {len(tensors)} tensors, {sum(t.numel() for t in tensors.values())} values")


if __name__ == "__main__":
    main(OPTIONS)
