// Owns the product of 8-bit numbers that every GPU from compute capability 8.0 on makes.
#pragma once

#include "device/context.h"
#include "tensor/tensor.h"

namespace nostos::cuda {

/// y = (x weight^T) * x_scales * weight_scales, as ops::int8_linear() has it. \param x i8 [rows, in] and \param weight
/// i8 [columns, in], in in sixteens and columns even. \param y bf16 [rows, columns]
void portable_int8_linear(Context& ctx, ConstView x, ConstView x_scales, ConstView weight, ConstView weight_scales,
                          View y);

}  // namespace nostos::cuda
