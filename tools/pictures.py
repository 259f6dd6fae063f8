"""Synthetic pictures that another program can repeat: whole numbers alone, with ramps, hard edges and fine detail.

Not a program. A test that repeats picture() needs no stored input.
"""

import numpy as np
from PIL import Image

MODES = {1: "L", 3: "RGB", 4: "RGBA"}

FORMULA = (
    "value(x, y, c) = (x / 16 + y / 16) % 2 == 0 ? (x * (3 + 2 * c) + y * (7 - 2 * c)) % 256 : "
    "(((x / 5) ^ (y / 3)) * (37 + 2 * c)) % 256, whole numbers, division rounding down, c the channel from 0"
)


def picture(width, height, channels=3):
    """uint8 [height, width, channels], by FORMULA."""
    y, x, c = np.mgrid[0:height, 0:width, 0:channels]
    ramps = x * (3 + 2 * c) + y * (7 - 2 * c)
    blocks = ((x // 5) ^ (y // 3)) * (37 + 2 * c)
    return (np.where((x // 16 + y // 16) % 2 == 0, ramps, blocks) % 256).astype(np.uint8)


def image(width, height, channels=3):
    """The same as a Pillow image of mode L, RGB or RGBA."""
    values = picture(width, height, channels)
    return Image.fromarray(values[..., 0] if channels == 1 else values, MODES[channels])
