"""Checks what the compiler needs to know of every CUDA kernel so that all GPU generations can launch it.

Usage: kernels_test.py [unittest arguments], from anywhere. Needs Python 3.11 alone.
"""

import re
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KERNEL = re.compile(r"\b__global__\s+void\s+(__launch_bounds__\s*\()?[^(]*?(\w+)\s*\(")
LAUNCH = re.compile(r"<<<(.*?)>>>", re.DOTALL)
# Hopper's kernels run on that generation alone, and check their memory against it.
HOPPER = re.compile(r"hopper_\w+\.cu$")


def kernels_without_bounds(text: str) -> list[str]:
    """Returns the kernels whose registers the compiler does not limit to what a block's threads can have."""
    return [name for bounds, name in KERNEL.findall(text) if not bounds]


def has_dynamic_shared_memory(text: str) -> bool:
    """Returns whether a launch in `text` asks for shared memory beside the kernel's own."""
    return any(re.split(r",\s*(?![^()]*\))", launch)[2].strip() != "0" for launch in LAUNCH.findall(text) if launch.count(",") >= 2)


class Kernels(unittest.TestCase):
    def test_each_has_launch_bounds(self):
        files = sorted((ROOT / "src").rglob("*.cu"))
        self.assertGreater(len(files), 10)
        for path in files:
            with self.subTest(file=path.name):
                self.assertEqual(kernels_without_bounds(path.read_text()), [])

    def test_shared_memory_is_checked_against_every_gpu(self):
        for path in sorted((ROOT / "src").rglob("*.cu")):
            text = path.read_text()
            if has_dynamic_shared_memory(text) and not HOPPER.search(path.name):
                with self.subTest(file=path.name):
                    self.assertIn("static_assert(fits_every_gpu(", text)

    def test_what_is_missing_is_found(self):
        self.assertEqual(kernels_without_bounds("__global__ void lost_kernel(int* x) {"), ["lost_kernel"])
        self.assertEqual(kernels_without_bounds("__global__ void __launch_bounds__(kT, 2)\n    found_kernel(int* x) {"), [])
        self.assertFalse(has_dynamic_shared_memory("k<<<grid, kThreads, 0, stream>>>(x)"))
        self.assertTrue(has_dynamic_shared_memory("k<<<f(a, b), kThreads, bytes, stream>>>(x)"))


if __name__ == "__main__":
    unittest.main()
