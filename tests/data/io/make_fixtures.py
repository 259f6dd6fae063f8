"""Makes the small files that other programs wrote, for the tests of src/io.

Use: python tests/data/io/make_fixtures.py   (torch, safetensors and Pillow installed; writes beside itself)
The PNGs show the same 5x4 gradient, as near as each colour type can; image_test.cc computes the expected pixels.
"""
from pathlib import Path

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import save_file

here = Path(__file__).parent
save_file(
    {
        "matrix": torch.arange(6, dtype=torch.float32).reshape(2, 3),
        "half": torch.tensor([1.0, -2.5], dtype=torch.bfloat16),
        "bytes": torch.tensor([1, 2, 255], dtype=torch.uint8),
        "scalar": torch.tensor(-7, dtype=torch.int64),
        "empty": torch.zeros(0, 4),
    },
    here / "reference.safetensors",
    metadata={"format": "pt"},
)

y, x = np.mgrid[0:4, 0:5]
grey = (x * 50 + y * 10).astype(np.uint8)
rgb = np.stack([grey, 255 - grey, y.astype(np.uint8) * 60], axis=-1)
Image.fromarray(rgb).save(here / "rgb.png")
Image.fromarray(np.dstack([rgb, grey])).save(here / "rgba.png")
Image.fromarray(grey).save(here / "grey.png")
Image.fromarray(grey.astype(np.uint16) * 257).save(here / "grey16.png")
Image.fromarray(grey > 100).save(here / "bilevel.png")
palette = Image.fromarray((x + 5 * y).astype(np.uint8), mode="P")
palette.putpalette(rgb.reshape(-1).tolist())
palette.save(here / "palette.png")

text = PngImagePlugin.PngInfo()
text.add_text("parameters", "plain caf\u00e9")
text.add_text("squeezed", "z" * 3000, zip=True)
text.add_itxt("nostos", "\u732b \U0001f3d6 {}")
Image.fromarray(rgb).save(here / "text.png", pnginfo=text)

bomb = PngImagePlugin.PngInfo()
bomb.add_text("bomb", "z" * (2 << 20), zip=True)
bomb.add_text("parameters", "still here")
Image.fromarray(rgb).save(here / "bomb.png", pnginfo=bomb)
