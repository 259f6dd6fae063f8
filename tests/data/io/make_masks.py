"""Makes what Pillow 13, PyTorch and diffusers 0.42.1 make of masks, and of pictures that are fitted into a size.

Use: python tests/data/io/make_masks.py   (beside make_pictures.py, whose packages it needs, PyTorch and diffusers)
Each line of mask_operations.txt is an operation, its numbers, and the first 16 digits of the SHA-256 of the pixels that
it makes of a picture of make_pictures.noise(), `hard` or not:
    grey hard H W                   convert("L")
    grey_lanczos hard H W h w       of grey, resize(LANCZOS)
    grey_nearest hard H W h w       of grey, resize(NEAREST); rgb_nearest: of RGB
    blur hard H W RADIUS            of grey, filter(GaussianBlur(RADIUS))
    binary H W                      of grey, 255 where diffusers' mask processor makes 1
    latent_nearest H W h w          of the binary mask, interpolate(mode="nearest"), 0 or 255
    latent_bilinear H W h w         of the binary mask, interpolate(mode="bilinear"), times 4
    crop, pad hard H W h w          diffusers' resize, modes "crop" and "fill"; of RGB
    grey_crop, grey_pad             the same of grey: of its picture in RGB, one channel
    mask H W h w                    of RGB, diffusers' mask processor: resized, grey, binary; 0 or 255
"""
import hashlib
import itertools
from pathlib import Path

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image, ImageFilter

from make_pictures import noise

here = Path(__file__).parent
PICTURES = VaeImageProcessor(vae_scale_factor=1)
MASKS = VaeImageProcessor(vae_scale_factor=1, do_normalize=False, do_binarize=True, do_convert_grayscale=True)
SIZES = [(1, 1), (1, 7), (7, 1), (2, 2), (3, 5), (16, 16), (37, 53), (64, 100), (120, 31)]
TARGETS = [(1, 1), (1, 9), (5, 4), (16, 16), (17, 31), (63, 100), (64, 99), (128, 200)]
RADII = [0.1, 0.5, 1, 2, 2.75, 4, 7.3, 16, 64]


def pixels_digest(values: np.ndarray) -> str:
    return hashlib.sha256(values.astype(np.uint8).tobytes()).hexdigest()[:16]


def digest(image: Image.Image) -> str:
    return pixels_digest(np.asarray(image))


def picture(hard: bool, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(noise(*size, hard))


def binary(image: Image.Image, size: tuple[int, int]) -> torch.Tensor:
    return MASKS.preprocess(image, height=size[0], width=size[1])


def resized() -> list[str]:
    lines = []
    for size, hard in itertools.product(SIZES, (False, True)):
        rgb = picture(hard, size)
        grey = rgb.convert("L")
        name = f"{int(hard)} {size[0]} {size[1]}"
        lines.append(f"grey {name} {digest(grey)}")
        for to in TARGETS:
            back = to[::-1]
            lines.append(f"grey_lanczos {name} {to[0]} {to[1]} {digest(grey.resize(back, Image.Resampling.LANCZOS))}")
            lines.append(f"grey_nearest {name} {to[0]} {to[1]} {digest(grey.resize(back, Image.Resampling.NEAREST))}")
        for radius in RADII:
            lines.append(f"blur {name} {radius} {digest(grey.filter(ImageFilter.GaussianBlur(radius)))}")
    # Long lines, where places that are summed up and places that are multiplied part.
    for size, to in itertools.product([(37, 53), (1000, 3), (3, 1023)], [(53, 37), (999, 7), (1537, 1), (2, 1900)]):
        made = picture(False, size).resize(to[::-1], Image.Resampling.NEAREST)
        lines.append(f"rgb_nearest 0 {size[0]} {size[1]} {to[0]} {to[1]} {digest(made)}")
    return lines


def latent() -> list[str]:
    lines = []
    for size in SIZES:
        mask = binary(picture(False, size).convert("L"), size)
        lines.append(f"binary {size[0]} {size[1]} {pixels_digest(mask.numpy() * 255)}")
        for to in TARGETS:
            made = torch.nn.functional.interpolate(mask, size=to, mode="nearest")
            lines.append(f"latent_nearest {size[0]} {size[1]} {to[0]} {to[1]} {pixels_digest(made.numpy() * 255)}")
    for size, scale in [((16, 32), 16), ((64, 48), 16), ((40, 24), 8), ((20, 28), 4), ((6, 10), 2), ((36, 12), 6)]:
        to = (size[0] // scale, size[1] // scale)
        mask = binary(picture(False, size).convert("L"), size)
        made = torch.nn.functional.interpolate(mask, size=to, mode="bilinear").numpy() * 4
        assert (made == made.round()).all()
        lines.append(f"latent_bilinear {size[0]} {size[1]} {to[0]} {to[1]} {pixels_digest(made)}")
        made = torch.nn.functional.interpolate(mask, size=to, mode="nearest").numpy() * 255
        lines.append(f"latent_nearest {size[0]} {size[1]} {to[0]} {to[1]} {pixels_digest(made)}")
    for size, to in itertools.product([(16, 16), (37, 53), (64, 100)], [(16, 16), (40, 24), (64, 96)]):
        made = binary(picture(False, size), to).numpy() * 255
        lines.append(f"mask {size[0]} {size[1]} {to[0]} {to[1]} {pixels_digest(made)}")
    return lines


def fitted() -> list[str]:
    lines = []
    # Even sizes, as models have them: of odd ones diffusers may leave a black line.
    targets = [(16, 16), (48, 32), (32, 48), (64, 8), (8, 64), (100, 66)]
    for size, hard, to in itertools.product([*SIZES, (48, 32), (33, 47), (150, 99)], (False, True), targets):
        rgb = picture(hard, size)
        three = Image.merge("RGB", [rgb.convert("L")] * 3)
        for mode, name in (("crop", "crop"), ("fill", "pad")):
            ratio, own = to[1] / to[0], size[1] / size[0]
            inner = (size[1] * to[0] // size[0], size[0] * to[1] // size[1])
            if mode == "fill" and min(inner) == 0 and ratio != own:
                continue  # nothing of the picture is left: Pillow refuses
            numbers = f"{int(hard)} {size[0]} {size[1]} {to[0]} {to[1]}"
            made = PICTURES.resize(rgb, to[0], to[1], resize_mode=mode)
            lines.append(f"{name} {numbers} {digest(made)}")
            if not hard:
                made = PICTURES.resize(three, to[0], to[1], resize_mode=mode)
                lines.append(f"grey_{name} {numbers} {digest(made.getchannel(0))}")
    return lines


if __name__ == "__main__":
    header = "# an operation of make_masks.py, its numbers, the first 16 digits of the SHA-256 of the pixels"
    (here / "mask_operations.txt").write_text("\n".join([header, *resized(), *latent(), *fitted()]) + "\n")
