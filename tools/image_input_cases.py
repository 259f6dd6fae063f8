"""The cases of make_image_input_golden.py, and the pictures and masks that they give. Not a program."""

import numpy as np
import torch

import pictures

CASES = {
    # Sizes are multiples of 8, a latent is 4 x 4 pixels of 4 channels.
    "tiny/varied": [
        {"name": "portrait_s0.6_g0", "picture": (24, 40), "strength": 0.6, "steps": 4, "guidance_scale": 0.0,
         "seed": 1},
        # Resized to 16 x 32.
        {"name": "odd_s0.2_g4", "picture": (21, 35), "strength": 0.2, "steps": 5, "guidance_scale": 4.0, "seed": 2},
        {"name": "landscape_s1_g4", "picture": (32, 16), "strength": 1.0, "steps": 2, "guidance_scale": 4.0, "seed": 3},
        {"name": "bfloat16_s0.6_g0", "picture": (16, 24), "strength": 0.6, "steps": 4, "guidance_scale": 0.0, "seed": 1,
         "compute": "bfloat16"},
        {"name": "rectangle_s1_g0", "picture": (16, 32), "mask": "rectangle", "strength": 1.0, "steps": 3,
         "guidance_scale": 0.0, "seed": 4},
        # Picture and mask are of odd sizes that differ.
        {"name": "soft_s0.6_g4", "picture": (21, 35), "mask": "soft", "mask_size": (33, 46), "strength": 0.6,
         "steps": 5, "guidance_scale": 4.0, "seed": 5},
        {"name": "white_s0.6_g0", "picture": (16, 24), "mask": "white", "strength": 0.6, "steps": 2,
         "guidance_scale": 0.0, "seed": 6},
        {"name": "black_s1_g4", "picture": (24, 16), "mask": "black", "strength": 1.0, "steps": 2,
         "guidance_scale": 4.0, "seed": 7},
        # The pixel is the top left one of a latent.
        {"name": "pixel_s0.2_g4", "picture": (16, 32), "mask": "pixel", "strength": 0.2, "steps": 8,
         "guidance_scale": 4.0, "seed": 8},
        # No latent is drawn anew: none has the pixel at its top left.
        {"name": "lost_pixel_s0.6_g0", "picture": (16, 24), "mask": "lost_pixel", "strength": 0.6, "steps": 2,
         "guidance_scale": 0.0, "seed": 2**32 + 9},
        # Resized in colour, then grey: the other order gives other pixels.
        {"name": "colour_s0.6_g0", "picture": (24, 16), "mask": "colour", "mask_size": (17, 31), "strength": 0.6,
         "steps": 3, "guidance_scale": 0.0, "seed": 10},
        {"name": "bfloat16_rectangle_s0.6_g0", "picture": (16, 24), "mask": "rectangle", "strength": 0.6, "steps": 4,
         "guidance_scale": 0.0, "seed": 4, "compute": "bfloat16"},
    ],
    # Sizes are multiples of 4, a latent is 2 x 2 pixels of 16 channels.
    "tiny/diffusers_test": [
        {"name": "odd_s0.6_g4", "picture": (14, 23), "strength": 0.6, "steps": 3, "guidance_scale": 4.0, "seed": 11},
        {"name": "rectangle_s0.6_g4", "picture": (20, 12), "mask": "rectangle", "strength": 0.6, "steps": 3,
         "guidance_scale": 4.0, "seed": 12},
    ],
    # Sizes are multiples of 4, a token is 4 x 4 pixels of 16 channels. Guidance is ignored.
    "klein_tiny/distilled": [
        {"name": "rectangle_s0.6_g4", "picture": (16, 28), "mask": "rectangle", "strength": 0.6, "steps": 4,
         "guidance_scale": 4.0, "seed": 13},
        {"name": "reference_s1", "picture": (22, 17), "mask": "white", "reference": (66, 90), "strength": 1.0,
         "steps": 2, "guidance_scale": 1.0, "seed": 14},
        {"name": "black_s0.6", "picture": (12, 20), "mask": "black", "strength": 0.6, "steps": 3, "guidance_scale": 1.0,
         "seed": 15},
    ],
    # Sizes are multiples of 8, a token is 8 x 8 pixels of 12 channels.
    "klein_tiny/base": [
        {"name": "soft_s0.2_g4", "picture": (21, 35), "mask": "soft", "mask_size": (33, 46), "strength": 0.2,
         "steps": 8, "guidance_scale": 4.0, "seed": 16},
        # One of a token's four central pixels: a quarter of the token is drawn anew.
        {"name": "pixel_s0.6_g0", "picture": (24, 32), "mask": "centre_pixel", "strength": 0.6, "steps": 3,
         "guidance_scale": 0.0, "seed": 17},
        {"name": "colour_s1_g4", "picture": (32, 24), "mask": "colour", "mask_size": (31, 17), "strength": 1.0,
         "steps": 2, "guidance_scale": 4.0, "seed": 18},
    ],
}

PROMPT = "a cat on the beach"


def rectangle(y, x, height, width):
    """A hard rectangle, off the latents' grid."""
    rows = (y >= height // 4 + 1) & (y < height * 3 // 4)
    return np.where(rows & (x >= width // 5) & (x < width * 4 // 5 - 1), 255, 0)


def soft(y, x, height, width):
    """A disc that fades, every grey among its pixels."""
    distance = np.hypot((y - height * 0.55) / height, (x - width * 0.4) / width)
    return np.clip(330 - 680 * distance, 0, 255)


def colour(y, x, height, width):
    """Stripes of colours whose greys lie on both sides of the half."""
    stripe = (x * 3 + y * 2) // 7 % 5
    table = np.array([[255, 60, 0], [0, 255, 40], [90, 0, 255], [255, 255, 255], [128, 128, 127]])
    return table[stripe]


def lone_pixel(row, column):
    return lambda y, x, height, width: np.where((y == row) & (x == column), 255, 0)


MASKS = {
    "rectangle": rectangle, "soft": soft, "colour": colour,
    "white": lambda y, x, height, width: np.full_like(y, 255), "black": lambda y, x, height, width: np.zeros_like(y),
    "pixel": lone_pixel(12, 8), "lost_pixel": lone_pixel(13, 8), "centre_pixel": lone_pixel(12, 19),
}


def inputs(case):
    """What the request gives, by name: `picture`, and `mask` and `reference` where the case has them; uint8."""
    made = {"picture": np.asarray(pictures.image(*case["picture"]))}
    if "reference" in case:
        made["reference"] = 255 - np.asarray(pictures.image(*case["reference"]))
    if "mask" in case:
        width, height = case.get("mask_size", case["picture"])
        y, x = np.mgrid[0:height, 0:width]
        made["mask"] = MASKS[case["mask"]](y, x, height, width).astype(np.uint8)
    return {name: torch.from_numpy(pixels.copy()) for name, pixels in made.items()}
