"""Turns ComfyUI's images and masks into 8-bit arrays and back, and arrays into PNG files and back."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import torch


def arrays_of_images(images: torch.Tensor) -> list[np.ndarray]:
    """Returns each image of an IMAGE, float [batch, height, width, channels] from 0 to 1, as uint8 [height, width, 3].

    Channels beyond the third, such as an alpha channel, are left out.
    """
    values = images.cpu().numpy()
    if values.ndim != 4 or values.shape[3] < 3:
        raise ValueError(f"image: its shape is {list(values.shape)}; use [batch, height, width, 3]")
    return [_to_8_bits(image[..., :3]) for image in values]


def array_of_mask(mask: torch.Tensor) -> np.ndarray:
    """Returns a MASK, float [1, height, width] or [height, width] from 0 to 1, as uint8 [height, width, 3]."""
    values = mask.cpu().numpy()
    if values.ndim == 3 and values.shape[0] == 1:
        values = values[0]
    if values.ndim != 2:
        raise ValueError(f"mask_image: its shape is {list(values.shape)}; use one mask, [1, height, width]")
    return np.repeat(_to_8_bits(values)[..., np.newaxis], 3, axis=2)


def images_of_arrays(arrays: Sequence[np.ndarray]) -> torch.Tensor:
    """Returns uint8 arrays [height, width, 3] of one size as an IMAGE, float32 [batch, height, width, 3] from 0 to 1."""
    import torch  # ComfyUI has it; the rest of the pack does not need it

    return torch.from_numpy(np.stack(arrays).astype(np.float32) / 255)


def png_of_array(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def array_of_png(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def _to_8_bits(values: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
