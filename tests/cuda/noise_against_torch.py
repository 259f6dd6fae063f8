"""Compares the noise of --rng torch-cuda with what PyTorch makes on this machine's GPU.

    python tests/cuda/noise_against_torch.py build/cuda/tests/cuda_noise

Prints the largest difference of each size and seed; exits with 1 beyond 1e-6, with 77 where there is no PyTorch with a
GPU of the 132 multiprocessors that PyTorch's layout of the noise depends on.
"""

import array
import subprocess
import sys
import tempfile

TOLERANCE = 1e-6
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
    worst = 0.0
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
            equal = (ours == theirs).float().mean().item()
            print(f"noise {height}x{width} seed {seed}: at most {difference:.1e} apart, {equal:.2%} equal bits")
            worst = max(worst, difference)
    return 0 if worst <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
