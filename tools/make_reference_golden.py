"""Makes the golden files of reference pictures: what Pillow's resampling and diffusers' preparation make of them.

    python tools/make_reference_golden.py --out tests/data/io

klein_references.json describes, klein_references.safetensors holds uint8 [height, width, channels] pixels. All begin
with the synthetic picture of pictures.py, which a test repeats by the formula in the JSON file.
`resized`: Image.resize(..., LANCZOS) in the picture's own mode (1 channel is L, 3 RGB, 4 RGBA).
`prepared`: the whole preparation of Flux2KleinPipeline with a cap of `most_pixels` and sides of `multiple`, before
pixels become floats; where the result is large, its FNV-1a (64 bits, byte by byte) and some rows stand for it.
`sizes`: width and height, those after the cap of 1024 * 1024, and those after the crop to multiples of 16.
`accepted`, `refused`: sizes by the pipeline's check of references.
"""

import argparse
from pathlib import Path


def parse_options():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("tests/data/io"))
    return parser.parse_args()


if __name__ == "__main__":
    OPTIONS = parse_options()  # before the imports that follow: --help needs none of them

import math

import numpy as np
import PIL
import torch
from diffusers.pipelines.flux2.image_processor import Flux2ImageProcessor
from PIL import Image

import klein_reference
import pictures
import reference

CAP = 1024 * 1024
# width, height, channels, and the size asked for: odd ratios, one side alone, nothing to do, large steps. Pillow 13
# goes over the columns first where the height shrinks by far the most.
RESIZED = [
    (97, 61, 3, 53, 37), (100, 75, 3, 34, 74), (75, 100, 3, 74, 34), (20, 24, 3, 20, 24), (65, 40, 3, 64, 40),
    (45, 65, 3, 45, 37), (301, 64, 3, 37, 8), (66, 310, 3, 60, 21), (83, 71, 1, 40, 33), (83, 71, 4, 40, 33),
]
# width, height, channels, most pixels, multiple
PREPARED = [
    (100, 65, 3, CAP, 16), (131, 97, 3, 6400, 16), (97, 131, 3, 6400, 4), (300, 70, 3, 9216, 8), (71, 90, 4, 4100, 16),
    (99, 67, 1, CAP, 8), (1024, 1025, 3, CAP, 16), (1536, 1152, 3, CAP, 16),
]
STORED = 64 * 1024  # bytes of a result that is kept whole
SIZES = [
    (64, 64), (64, 512), (1023, 1025), (1024, 1024), (1024, 1025), (1025, 1024), (1536, 1152), (1152, 1536),
    (1920, 1080), (1080, 1920), (4032, 3024), (2048, 2048), (2896, 362), (3840, 480), (1365, 768), (1366, 768),
    (1448, 724), (1449, 725), (6000, 4000), (8192, 1024), (5464, 8192), (1008, 1041), (1000, 1049), (4096, 4096),
]
ACCEPTED = [(64, 64), (64, 512), (512, 64), (8000, 1000)]
REFUSED = [(63, 64), (64, 63), (64, 513), (513, 64), (8001, 1000)]


def fnv1a(data):
    """64-bit FNV-1a of bytes."""
    state = 0xCBF29CE484222325
    for byte in data:
        state = (state ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return state


def pixels(image):
    """uint8 [height, width, channels] of a Pillow image."""
    values = np.asarray(image)
    return torch.from_numpy((values[..., None] if values.ndim == 2 else values).copy())


def capped(image, most_pixels):
    """The image after the pipeline's cap."""
    if image.width * image.height > most_pixels:
        return Flux2ImageProcessor._resize_to_target_area(image, most_pixels)
    return image


def cropped_size(size, multiple):
    return tuple(side // multiple * multiple for side in size)


def prepare(image, most_pixels, multiple):
    """uint8 [height, width, 3]: what the pipeline gives to the VAE, as bytes."""
    processor = Flux2ImageProcessor(vae_scale_factor=multiple)
    processor.check_image_input(image)
    image = capped(image, most_pixels)
    width, height = cropped_size(image.size, multiple)
    return klein_reference.as_bytes(processor.preprocess(image, height=height, width=width, resize_mode="crop"))


def resized_golden(tensors):
    """Adds the results of RESIZED; returns their description."""
    described = []
    for index, (width, height, channels, to_width, to_height) in enumerate(RESIZED):
        made = pictures.image(width, height, channels).resize((to_width, to_height), Image.Resampling.LANCZOS)
        tensors[f"resized{index}"] = pixels(made)
        described.append({
            "tensor": f"resized{index}", "width": width, "height": height, "channels": channels, "to_width": to_width,
            "to_height": to_height,
        })
    return described


def prepared_golden(tensors):
    """Adds the results of PREPARED; returns their description."""
    described = []
    for index, (width, height, channels, most_pixels, multiple) in enumerate(PREPARED):
        made = prepare(pictures.image(width, height, channels), most_pixels, multiple)
        rows = None if made.numel() <= STORED else [0, made.shape[0] // 2]
        tensors[f"prepared{index}"] = made if rows is None else made[rows]
        described.append({
            "tensor": f"prepared{index}", "width": width, "height": height, "channels": channels,
            "most_pixels": most_pixels, "multiple": multiple, "prepared_width": made.shape[1],
            "prepared_height": made.shape[0], "fnv1a": f"{fnv1a(made.numpy().tobytes()):016x}", "rows": rows or "all",
        })
    return described


def sizes_golden():
    """[[width, height], [capped], [cropped]] of SIZES, by pictures that have a size alone."""

    class Picture:
        def __init__(self, size):
            self.size = self.width, self.height = size

        def resize(self, size, resample):
            return Picture(size)

    rows = []
    for size in SIZES:
        after_cap = capped(Picture(size), CAP).size
        assert math.prod(after_cap) <= CAP
        rows.append([list(size), list(after_cap), list(cropped_size(after_cap, 16))])
    return rows


def check_limits():
    """That the pipeline accepts ACCEPTED and refuses REFUSED."""
    for size in ACCEPTED + REFUSED:
        try:
            Flux2ImageProcessor.check_image_input(Image.new("L", size))
            assert size in ACCEPTED, size
        except ValueError:
            assert size in REFUSED, size


def main(options):
    options.out.mkdir(parents=True, exist_ok=True)
    check_limits()
    tensors = {}
    described = {
        "note": " ".join(__doc__.split("\n\n")[2].split()),
        "formula": pictures.FORMULA,
        "pillow": PIL.__version__,
        "resized": resized_golden(tensors),
        "prepared": prepared_golden(tensors),
        "sizes": sizes_golden(),
        "accepted": ACCEPTED,
        "refused": REFUSED,
    }
    reference.save(tensors, options.out / "klein_references.safetensors")
    reference.write_json(described, options.out / "klein_references.json")
    print(f"{len(tensors)} tensors, {sum(tensor.numel() for tensor in tensors.values())} bytes")


if __name__ == "__main__":
    main(OPTIONS)
