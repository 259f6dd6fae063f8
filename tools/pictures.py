"""Synthetic pictures with ramps, hard edges and fine detail, of whole numbers alone.

Not a program.
"""

import numpy as np
from PIL import Image


def image(width, height):
    """A Pillow image of mode RGB. Its values are, x / 16 and the like rounding down and c the channel from 0:
    (x / 16 + y / 16) % 2 == 0 ? (x * (3 + 2 * c) + y * (7 - 2 * c)) % 256 : (((x / 5) ^ (y / 3)) * (37 + 2 * c)) % 256.
    """
    y, x, c = np.mgrid[0:height, 0:width, 0:3]
    ramps = x * (3 + 2 * c) + y * (7 - 2 * c)
    blocks = ((x // 5) ^ (y // 3)) * (37 + 2 * c)
    return Image.fromarray((np.where((x // 16 + y // 16) % 2 == 0, ramps, blocks) % 256).astype(np.uint8))
