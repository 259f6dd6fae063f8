"""Compares the noise of --rng torch-cuda with what PyTorch makes on this machine's GPU.

    python tests/cuda/noise_against_torch.py build/cuda/tests/cuda_noise

Prints the share of equal bits and the largest difference of each size and seed; exits with 1 unless all bits are equal,
with 77 where there is no PyTorch with a GPU of the 132 multiprocessors that PyTorch's layout of the noise depends on.
"""

import array
import subprocess
import sys
import tempfile

SIDES = [(16, 16), (720, 720), (1024, 1024), (2048, 2048)]  # pixels
SEEDS = [0, 42, 2**40 + 7]


def main():
    try:
        import torch
    except ImportError:
        print("skipped: no PyTorch here")
        return 77
    if not torch.cuda.is_available():
        print("skipped: PyTorch sees no GPU")
        return 77
    properties = torch.cuda.get_device_properties(0)
    if properties.multi_processor_count != 132:
        print(f"skipped: {properties.name} has {properties.multi_processor_count} multiprocessors, not 132")
        return 77
    all_equal = True
    for height, width in SIDES:
        shape = (1, 16, height // 8, width // 8)
        count = shape[1] * shape[2] * shape[3]
        for seed in SEEDS:
            with tempfile.NamedTemporaryFile() as file:
                subprocess.run([sys.argv[1], str(seed), str(count), file.name], check=True)
                values = array.array("f", file.read())
            ours = torch.tensor(values, dtype=torch.float32).reshape(shape)
            generator = torch.Generator("cuda").manual_seed(seed)
            theirs = torch.randn(shape, generator=generator, device="cuda", dtype=torch.float32).cpu()
            difference = (ours - theirs).abs().max().item()
            # As integers: -0 is not +0.
            equal = (ours.view(torch.int32) == theirs.view(torch.int32)).float().mean().item()
            print(f"noise {height}x{width} seed {seed}: at most {difference:.1e} apart, {equal:.2%} equal bits")
            all_equal = all_equal and equal == 1
    return 0 if all_equal else 1


if __name__ == "__main__":
    sys.exit(main())
