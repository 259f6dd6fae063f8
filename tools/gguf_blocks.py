"""Encoders of GGUF block types that the gguf package only decodes: plain rounding, without a search for better scales.

Layouts: ggml-common.h of ggml. Every encoder takes float32 [blocks, numbers of a block] and returns their bytes, uint8
[blocks, bytes]. Used by stored_weights.py; not a program.
"""

import numpy as np

NL_VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)


def _half(values):
    """float32 [blocks, 1] as float16, and its bytes."""
    half = values.astype(np.float16)
    return half.astype(np.float32), half.view(np.uint8)


def _divide(a, b):
    """a / b, 0 where b is 0."""
    return np.divide(a, b, out=np.zeros(np.broadcast_shapes(a.shape, b.shape), np.float32), where=b != 0)


def _round(values, low, high):
    return np.rint(values).clip(low, high).astype(np.int32)


def _with_minimum(blocks, groups, most, most_scale):
    """Numbers as d * scale * q - m * minimum, with q in 0..most and scale and minimum in 0..most_scale, one of each for
    every group of a block: d and m as float16 bytes, scales, minima [blocks, groups], q [blocks, groups, size]."""
    grouped = blocks.reshape(len(blocks), groups, -1)
    minimum = np.minimum(grouped.min(-1), 0)
    step = (np.maximum(grouped.max(-1), 0) - minimum) / most
    d, d_bytes = _half(step.max(-1, keepdims=True) / most_scale)
    m, m_bytes = _half(-minimum.min(-1, keepdims=True) / most_scale)
    scales = _round(_divide(step, d), 0, most_scale)
    minima = _round(_divide(-minimum, m), 0, most_scale)
    q = _round(_divide(grouped + (m * minima)[..., None], (d * scales)[..., None]), 0, most)
    return d_bytes, m_bytes, scales, minima, q


def _signed(blocks, groups, low, high, most_scale):
    """Numbers as d * scale * q with q in low..high and scale in -most_scale..most_scale: d as float16 bytes, scales, q.
    The number of largest magnitude in a group becomes `low`, which has one value more than `high`."""
    grouped = blocks.reshape(len(blocks), groups, -1)
    largest = np.take_along_axis(grouped, np.abs(grouped).argmax(-1)[..., None], -1)[..., 0]
    step = largest / low
    d, d_bytes = _half(np.abs(step).max(-1, keepdims=True) / most_scale)
    scales = _round(_divide(step, d), -most_scale, most_scale)
    return d_bytes, scales, _round(_divide(grouped, (d * scales)[..., None]), low, high)


def _bits(codes, width, run):
    """Codes [blocks, 256] of `width` bits as bytes: a run of bytes takes 8 / width runs of codes, the first lowest."""
    per_byte = 8 // width
    runs = codes.reshape(len(codes), -1, per_byte, run).astype(np.uint8)
    shifts = (np.arange(per_byte, dtype=np.uint8) * width)[None, None, :, None]
    return np.bitwise_or.reduce(runs << shifts, axis=2).reshape(len(codes), -1)


def _pack_scales_and_minima(scales, minima):
    """Eight 6-bit scales and minima in 12 bytes, as Q4_K and Q5_K have them."""
    low = (scales[:, :4] | (scales[:, 4:] >> 4) << 6, minima[:, :4] | (minima[:, 4:] >> 4) << 6)
    return np.concatenate([*low, (scales[:, 4:] & 15) | (minima[:, 4:] & 15) << 4], 1).astype(np.uint8)


def q2_k(blocks):
    d, m, scales, minima, q = _with_minimum(blocks, 16, 3, 15)
    return np.concatenate([(scales | minima << 4).astype(np.uint8), _bits(q.reshape(len(q), 256), 2, 32), d, m], 1)


def q3_k(blocks):
    d, scales, q = _signed(blocks, 16, -4, 3, 31)
    codes, scales = (q + 4).reshape(len(q), 256), scales + 32
    low = scales[:, :8] & 15 | (scales[:, 8:] & 15) << 4
    high = np.bitwise_or.reduce((scales >> 4).reshape(-1, 4, 4) << (2 * np.arange(4))[None, :, None], axis=1)
    packed = np.concatenate([low, high], 1).astype(np.uint8)
    return np.concatenate([_bits(codes >> 2, 1, 32), _bits(codes & 3, 2, 32), packed, d], 1)


def q4_k(blocks):
    d, m, scales, minima, q = _with_minimum(blocks, 8, 15, 63)
    return np.concatenate([d, m, _pack_scales_and_minima(scales, minima), _bits(q.reshape(len(q), 256), 4, 32)], 1)


def q5_k(blocks):
    d, m, scales, minima, q = _with_minimum(blocks, 8, 31, 63)
    codes = q.reshape(len(q), 256)
    return np.concatenate([d, m, _pack_scales_and_minima(scales, minima), _bits(codes >> 4, 1, 32),
                           _bits(codes & 15, 4, 32)], 1)


def q6_k(blocks):
    d, scales, q = _signed(blocks, 16, -32, 31, 127)
    codes = (q + 32).reshape(len(q), 256)
    return np.concatenate([_bits(codes & 15, 4, 64), _bits(codes >> 4, 2, 32), scales.astype(np.int8).view(np.uint8),
                           d], 1)


def _nearest_code(values):
    return np.searchsorted((NL_VALUES[1:] + NL_VALUES[:-1]) / 2, values)


def iq4_nl(blocks):
    d, d_bytes = _half(np.abs(blocks).max(-1, keepdims=True) / 127)
    codes = _nearest_code(_divide(blocks, d))
    return np.concatenate([d_bytes, _bits(codes, 4, 16)], 1)


def iq4_xs(blocks):
    grouped = blocks.reshape(len(blocks), 8, 32)
    step = np.abs(grouped).max(-1) / 127
    d, d_bytes = _half(step.max(-1, keepdims=True) / 31)
    scales = _round(_divide(step, d), 0, 31)
    codes = _nearest_code(_divide(grouped, (d * scales)[..., None])).reshape(len(blocks), 256)
    scales += 32
    high = np.bitwise_or.reduce((scales >> 4).astype(np.uint16) << (2 * np.arange(8, dtype=np.uint16)), axis=1)
    low = (scales & 15).reshape(-1, 4, 2)
    return np.concatenate([d_bytes, high.astype("<u2")[:, None].view(np.uint8),
                           (low[..., 0] | low[..., 1] << 4).astype(np.uint8), _bits(codes, 4, 16)], 1)


ENCODERS = {"Q2_K": q2_k, "Q3_K": q3_k, "Q4_K": q4_k, "Q5_K": q5_k, "Q6_K": q6_k, "IQ4_NL": iq4_nl, "IQ4_XS": iq4_xs}
