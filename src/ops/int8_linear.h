// Owns products of 8-bit whole numbers: a row of inputs is rotated and rounded to 8 bits, sums are whole numbers, and
// the scales of the row and of the output make numbers of them.
#pragma once

#include "device/context.h"
#include "ops/linear.h"
#include "tensor/tensor.h"

namespace nostos::ops {

/// Rounds rows to 8 bits, each by itself: y = x H in blocks of `rotation` inputs, in float32, from the lowest of an
/// index's digits to the base 4 to the highest; scale = max |y| / 127; number = y * (127 / max |y|) to the nearest,
/// halves to even. A row of zeros has the scale 0. The bits are the same on every device.
/// \param x f32 or bf16 [rows, in], in a multiple of the rotation. \param rotation 0 (none), 16 or 256
/// \param numbers i8 [rows, in]. \param scales f32 [rows]
/// Source of rotation and scales: arXiv:2512.03673.
void quantise_rows(Context& ctx, ConstView x, int64_t rotation, View numbers, View scales);

/// y = (numbers W^T) * scale of the row * scale of the output, multiplied in float32 in this order. The sum is exact: a
/// row of y depends on that row alone, whatever the kernel. A GPU takes a multiple of 8 outputs.
/// \param numbers, scales of quantise_rows() with the weight's rotation. \param y f32 or product_dtype() [rows, out]
void int8_linear(Context& ctx, ConstView numbers, ConstView scales, const Int8Weight& w, View y);

/// out = silu(gate) * up of int8_linear()'s products. \param w interleaved_rows(). \param out bf16 [rows, out / 2]
void int8_gated_linear(Context& ctx, ConstView numbers, ConstView scales, const Int8Weight& w, View out);

/// y = x W^T with x rounded by quantise_rows() in scratch memory of the context. \param x f32 or bf16 [rows, in].
/// \param w with int8 numbers, without a bias. \param y product_dtype() [rows, out]
void rounded_linear(Context& ctx, ConstView x, const Linear& w, View y);
/// The same of gated_linear() where it is fused.
void rounded_gated_linear(Context& ctx, ConstView x, const Linear& w, View out);

}  // namespace nostos::ops
