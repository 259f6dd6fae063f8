"""Makes what OpenCV and Pillow make of pictures that become control images.

Use: python tests/data/io/make_control_images.py   (beside make_pictures.py; needs its packages and
opencv-python-headless; made with 4.11.0 and Pillow 13)
Each line of control_images.txt is an operation, its numbers, and the first 16 digits of the SHA-256 of the pixels that
it makes of a picture of make_pictures.noise(), `hard` or not:
    canny hard H W RADIUS LOW HIGH  of convert("L") and filter(GaussianBlur(RADIUS)), cv2.Canny(grey, LOW, HIGH); then
                                    how many pixels are edges, before the digits
    tile hard H W                   mean of each square of 8 x 8 pixels, halves up, then resize(LANCZOS) to H x W
"""
import hashlib
import itertools
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageFilter

from make_pictures import noise

here = Path(__file__).parent
SIZES = [(1, 1), (1, 9), (9, 1), (2, 3), (16, 16), (37, 53), (64, 100), (200, 131)]
RADII = [0, 1, 2.75, 7.3]
THRESHOLDS = [(100, 200), (0, 0), (20, 60), (700, 900)]


def digest(values: np.ndarray) -> str:
    return hashlib.sha256(values.astype(np.uint8).tobytes()).hexdigest()[:16]


def tile(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    small = np.empty(((height + 7) // 8, (width + 7) // 8, 3), np.uint8)
    for row, column in np.ndindex(small.shape[:2]):
        square = pixels[8 * row:8 * row + 8, 8 * column:8 * column + 8].astype(np.int64)
        count = square.shape[0] * square.shape[1]
        small[row, column] = (square.sum((0, 1)) + count // 2) // count
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.LANCZOS))


def lines() -> list[str]:
    made = []
    for size, hard in itertools.product(SIZES, (False, True)):
        picture = noise(*size, hard)
        name = f"{int(hard)} {size[0]} {size[1]}"
        made.append(f"tile {name} {digest(tile(picture))}")
        for radius, (low, high) in itertools.product(RADII, THRESHOLDS):
            grey = Image.fromarray(picture).convert("L").filter(ImageFilter.GaussianBlur(radius))
            edges = cv2.Canny(np.asarray(grey), low, high)
            made.append(f"canny {name} {radius} {low} {high} {np.count_nonzero(edges)} {digest(edges)}")
    return made


if __name__ == "__main__":
    (here / "control_images.txt").write_text("\n".join(lines()) + "\n", encoding="utf-8")
