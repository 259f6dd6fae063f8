"""Turns packed scenes into pixels: a Triton kernel on CUDA, and the plain torch version it is checked against.

Sprites are kept as premultiplied RGBA mip chains, each texel one int32, and drawn with bilinear filtering.
"""

import math

import torch
import torch.nn.functional as F

from sprites import SIDE

LEVELS = 5  # 128, 64, 32, 16, 8
OFFSETS = [sum((SIDE >> k) ** 2 for k in range(level)) for level in range(LEVELS)]
TEXELS = OFFSETS[-1] + (SIDE >> (LEVELS - 1)) ** 2
TWO_PI = 2 * math.pi


def pack_atlas(atlas, device):
    """uint8 [S, SIDE, SIDE, 4] with straight alpha -> int32 [S, TEXELS] premultiplied mip chains."""
    level = torch.from_numpy(atlas).to(device).float() / 255
    level[..., :3] *= level[..., 3:]
    level = level.permute(0, 3, 1, 2)
    chain = []
    for _ in range(LEVELS):
        chain.append(level.flatten(2))
        level = F.avg_pool2d(level, 2)
    texels = (torch.cat(chain, 2) * 255).round().to(torch.int64)
    packed = texels[:, 0] | texels[:, 1] << 8 | texels[:, 2] << 16 | texels[:, 3] << 24
    return torch.where(packed >= 2**31, packed - 2**32, packed).to(torch.int32).contiguous()


def mip_levels(sides):
    """The mip level for objects of these sides in px: about one texel a pixel, rather sharper than softer."""
    return torch.floor(torch.log2(SIDE / sides.clamp(min=1)) + 0.3).clamp(0, LEVELS - 1)


def render_plain(texels, objects, counts, bands, height, width, top=0, left=0, crop_height=None, crop_width=None):
    """render() in plain torch, any device, float32."""
    h, w = crop_height or height, crop_width or width
    batch, device, short = objects.shape[0], objects.device, min(height, width)
    y = (torch.arange(h, device=device).float() + 0.5 + top).view(1, h, 1)
    x = (torch.arange(w, device=device).float() + 0.5 + left).view(1, 1, w)
    image = torch.zeros(batch, 3, h, w, device=device)
    for j in range(bands.shape[1]):
        y0, y1, amp, freq, phase, amp2, freq2, phase2, zigzag, on, *rgb = [
            v.view(batch, 1, 1) for v in bands[:, j].unbind(1)
        ]
        wave = torch.sin(TWO_PI * freq * x / short + phase)
        triangle = torch.abs(torch.remainder(freq * x / short + phase, 2.0) - 1) * 2 - 1
        edge = y0 * height + short * (
            amp * torch.where(zigzag > 0.5, triangle, wave) + amp2 * torch.sin(TWO_PI * freq2 * x / short + phase2)
        )
        cover = (torch.clamp(y - edge + 0.5, 0, 1) if j else torch.ones(batch, h, w, device=device)) * on
        t = torch.clamp((y / height - y0) / torch.clamp(y1 - y0, min=1e-3), 0, 1)
        color = torch.stack([rgb[k] + (rgb[3 + k] - rgb[k]) * t for k in range(3)], 1)
        image = image + (color - image) * cover[:, None]
    offsets = torch.tensor(OFFSETS, device=device)
    levels = mip_levels(objects[..., 3])
    for k in range(objects.shape[1]):
        sprite, cx, cy, side = [v.view(batch, 1, 1) for v in objects[:, k].unbind(1)]
        level = levels[:, k].long().view(batch, 1, 1)
        extent, side = SIDE >> level, side.clamp(min=1)
        u, v = ((x - cx) / side + 0.5) * extent - 0.5, ((y - cy) / side + 0.5) * extent - 0.5
        x0, y0 = torch.floor(u), torch.floor(v)
        fx, fy, drawn = u - x0, v - y0, 0
        for dy in (0, 1):
            for dx in (0, 1):
                xi, yi = (x0 + dx).long().expand(batch, h, w), (y0 + dy).long().expand(batch, h, w)
                inside = (xi >= 0) & (xi < extent) & (yi >= 0) & (yi < extent) & (k < counts).view(batch, 1, 1)
                at = (
                    sprite.long() * TEXELS
                    + offsets[level]
                    + yi.clamp(min=0).minimum(extent - 1) * extent
                    + xi.clamp(min=0).minimum(extent - 1)
                )
                texel = texels.view(-1)[at]
                texel = torch.stack([texel >> shift & 255 for shift in (0, 8, 16, 24)], 1).float() / 255
                drawn = drawn + texel * ((fx if dx else 1 - fx) * (fy if dy else 1 - fy) * inside)[:, None]
        image = image * (1 - drawn[:, 3:]) + drawn[:, :3]
    return image * 2 - 1


try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

if triton:

    @triton.jit
    def _wave(x, short, freq, phase):
        return tl.sin(6.2831853 * freq * x / short + phase)

    @triton.jit
    def _render_kernel(
        texels,
        objects,
        levels,
        counts,
        bands,
        out,
        height,
        width,
        short,
        top,
        left,
        h,
        w,
        most,
        TEXELS: tl.constexpr,
        BANDS: tl.constexpr,
        BAND_FLOATS: tl.constexpr,
        BLOCK: tl.constexpr,
    ):
        scene = tl.program_id(1)
        pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        y = (pixel // w).to(tl.float32) + 0.5 + top
        x = (pixel % w).to(tl.float32) + 0.5 + left
        red = tl.zeros([BLOCK], tl.float32)
        green = tl.zeros([BLOCK], tl.float32)
        blue = tl.zeros([BLOCK], tl.float32)
        for j in range(BANDS):
            b = bands + (scene * BANDS + j) * BAND_FLOATS
            y0 = tl.load(b)
            span = tl.maximum(tl.load(b + 1) - y0, 1e-3)
            cycles = tl.load(b + 3) * x / short + tl.load(b + 4)
            triangle = tl.abs(cycles - 2.0 * tl.floor(cycles * 0.5) - 1.0) * 2.0 - 1.0
            shape = tl.where(tl.load(b + 8) > 0.5, triangle, _wave(x, short, tl.load(b + 3), tl.load(b + 4)))
            edge = y0 * height + short * (
                tl.load(b + 2) * shape + tl.load(b + 5) * _wave(x, short, tl.load(b + 6), tl.load(b + 7))
            )
            cover = tl.minimum(tl.maximum(y - edge + 0.5, 0.0), 1.0)
            cover = tl.where(j > 0, cover, 1.0) * tl.load(b + 9)
            t = tl.minimum(tl.maximum((y / height - y0) / span, 0.0), 1.0)
            red += (tl.load(b + 10) + (tl.load(b + 13) - tl.load(b + 10)) * t - red) * cover
            green += (tl.load(b + 11) + (tl.load(b + 14) - tl.load(b + 11)) * t - green) * cover
            blue += (tl.load(b + 12) + (tl.load(b + 15) - tl.load(b + 12)) * t - blue) * cover
        first_row = (tl.program_id(0) * BLOCK // w).to(tl.float32) + top
        last_row = ((tl.program_id(0) * BLOCK + BLOCK - 1) // w).to(tl.float32) + 1.0 + top
        shown = tl.load(counts + scene)
        for k in range(most):
            o = objects + (scene * most + k) * 4
            cx = tl.load(o + 1)
            cy = tl.load(o + 2)
            side = tl.maximum(tl.load(o + 3), 1.0)
            if (k < shown) & (cy + side * 0.54 >= first_row) & (cy - side * 0.54 <= last_row):
                level = tl.load(levels + scene * most + k)
                extent = 128 >> level
                offset = (16384 * 4 - (extent * extent) * 4) // 3
                u = ((x - cx) / side + 0.5) * extent - 0.5
                v = ((y - cy) / side + 0.5) * extent - 0.5
                x0 = tl.floor(u)
                y0 = tl.floor(v)
                fx = u - x0
                fy = v - y0
                base = texels + tl.load(o).to(tl.int32) * TEXELS + offset
                r = tl.zeros([BLOCK], tl.float32)
                g = tl.zeros([BLOCK], tl.float32)
                bl = tl.zeros([BLOCK], tl.float32)
                a = tl.zeros([BLOCK], tl.float32)
                for corner in tl.static_range(4):
                    xi = x0.to(tl.int32) + corner % 2
                    yi = y0.to(tl.int32) + corner // 2
                    inside = (xi >= 0) & (xi < extent) & (yi >= 0) & (yi < extent) & (pixel < h * w)
                    weight = (fx if corner % 2 == 1 else 1.0 - fx) * (fy if corner // 2 == 1 else 1.0 - fy) / 255.0
                    texel = tl.load(base + yi * extent + xi, mask=inside, other=0)
                    r += (texel & 255).to(tl.float32) * weight
                    g += (texel >> 8 & 255).to(tl.float32) * weight
                    bl += (texel >> 16 & 255).to(tl.float32) * weight
                    a += (texel >> 24 & 255).to(tl.float32) * weight
                red = red * (1.0 - a) + r
                green = green * (1.0 - a) + g
                blue = blue * (1.0 - a) + bl
        at = out + scene * 3 * h * w + pixel
        kept = pixel < h * w
        tl.store(at, (red * 2.0 - 1.0).to(out.dtype.element_ty), mask=kept)
        tl.store(at + h * w, (green * 2.0 - 1.0).to(out.dtype.element_ty), mask=kept)
        tl.store(at + 2 * h * w, (blue * 2.0 - 1.0).to(out.dtype.element_ty), mask=kept)


def render(texels, objects, counts, bands, height, width, top=0, left=0, crop_height=None, crop_width=None):
    """Draws a batch of scenes of height x width px, or one crop of each at (top, left).

    texels from pack_atlas, the rest as scenes.pack gives it, all on one device. Returns [B, 3, h, w] in [-1, 1], bf16
    on
    CUDA and float32 elsewhere.
    """
    if objects.device.type != "cuda" or triton is None:
        return render_plain(texels, objects, counts, bands, height, width, top, left, crop_height, crop_width)
    h, w = crop_height or height, crop_width or width
    batch, block = objects.shape[0], 512
    out = torch.empty(batch, 3, h, w, device=objects.device, dtype=torch.bfloat16)
    levels = mip_levels(objects[..., 3]).to(torch.int32).contiguous()
    _render_kernel[(triton.cdiv(h * w, block), batch)](
        texels,
        objects.contiguous(),
        levels,
        counts.contiguous(),
        bands.contiguous(),
        out,
        float(height),
        float(width),
        float(min(height, width)),
        float(top),
        float(left),
        h,
        w,
        objects.shape[1],
        TEXELS=TEXELS,
        BANDS=bands.shape[1],
        BAND_FLOATS=bands.shape[2],
        BLOCK=block,
        num_warps=4,
    )
    return out
