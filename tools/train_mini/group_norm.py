"""GroupNorm followed by SiLU for channels-last bf16 pictures on CUDA, as two Triton kernels; plain torch everywhere
else.

The autoencoder spends most of its eager time in this pair; compiling the whole network instead takes half a minute per
shape.
"""

import torch
import torch.nn.functional as F

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

if triton:

    @triton.jit
    def _sums_kernel(x, sums, pixels, CHANNELS: tl.constexpr, GROUPS: tl.constexpr, ROWS: tl.constexpr):
        image = tl.program_id(1)
        row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        channel = tl.arange(0, CHANNELS)
        at = (image * pixels + row).to(tl.int64)[:, None] * CHANNELS + channel[None]
        value = tl.load(x + at, mask=(row < pixels)[:, None], other=0).to(tl.float32)
        per_group = tl.reshape(tl.sum(value, 0), [GROUPS, CHANNELS // GROUPS])
        per_group_squared = tl.reshape(tl.sum(value * value, 0), [GROUPS, CHANNELS // GROUPS])
        out = sums + image * GROUPS * 2 + tl.arange(0, GROUPS)
        tl.atomic_add(out, tl.sum(per_group, 1))
        tl.atomic_add(out + GROUPS, tl.sum(per_group_squared, 1))

    @triton.jit
    def _apply_kernel(
        x, sums, weight, bias, out, pixels, eps, CHANNELS: tl.constexpr, GROUPS: tl.constexpr, ROWS: tl.constexpr
    ):
        image = tl.program_id(1)
        row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        channel = tl.arange(0, CHANNELS)
        group = sums + image * GROUPS * 2 + channel // (CHANNELS // GROUPS)
        count = pixels * (CHANNELS // GROUPS) * 1.0
        mean = tl.load(group) / count
        variance = tl.load(group + GROUPS) / count - mean * mean
        scale = tl.rsqrt(variance + eps) * tl.load(weight + channel).to(tl.float32)
        shift = tl.load(bias + channel).to(tl.float32) - mean * scale
        at = (image * pixels + row).to(tl.int64)[:, None] * CHANNELS + channel[None]
        kept = (row < pixels)[:, None]
        value = tl.load(x + at, mask=kept, other=0).to(tl.float32) * scale[None] + shift[None]
        tl.store(out + at, (value * tl.sigmoid(value)).to(out.dtype.element_ty), mask=kept)


def fused(x, norm):
    """silu(norm(x)) for x [B, C, H, W] in channels-last memory by the kernels above; sums in float32; no gradient."""
    batch, channels, height, width = x.shape
    pixels, rows = height * width, 8192 // channels
    sums = torch.zeros(batch, 2, norm.num_groups, dtype=torch.float32, device=x.device)
    out = torch.empty_like(x)
    grid, shape = (triton.cdiv(pixels, rows), batch), {"CHANNELS": channels, "GROUPS": norm.num_groups, "ROWS": rows}
    _sums_kernel[grid](x, sums, pixels, **shape)
    _apply_kernel[grid](x, sums, norm.weight, norm.bias, out, pixels, norm.eps, **shape)
    return out


def group_norm_silu(x, norm):
    """silu(norm(x))."""
    if (
        triton
        and x.is_cuda
        and x.dtype == torch.bfloat16
        and not torch.is_grad_enabled()
        and x.is_contiguous(memory_format=torch.channels_last)
    ):
        return fused(x, norm)
    return F.silu(norm(x))
