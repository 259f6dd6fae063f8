// Owns what a device's ops can do beyond what those of every device do. Ask it before you choose a layout of weights or
// of scratch: which steps one kernel makes, and for which shapes.
#pragma once

#include <cstdint>
#include <string>

#include "device/device.h"
#include "tensor/dtype.h"

namespace nostos::ops {

/// What the ops of one device can do.
struct Capabilities {
  bool bf16_products = false;         ///< native products of bf16 matrices (on a CPU AVX-512 BF16 through oneDNN)
  bool int8_products = false;         ///< int8_linear() by instructions for it: GPUs, CPUs with AVX-512 VNNI
  bool int8_attention = false;        ///< attention() of heads rounded to 8 bits: see rounds_attention()
  bool borrowed_weights = false;      ///< borrow_linear(): products with weights where they lie
  bool planned_convolutions = false;  ///< conv2d() compiles for its shapes: plan_conv2d() begins it ahead
  int64_t packed_head_dim = 0;        ///< width of the bf16 heads that packed_attention() serves; 0: it serves none
  int64_t gated_multiple = 0;         ///< gated_linear() is one kernel for bf16 widths that it divides; 0: it never is
  int64_t summed_multiple = 0;        ///< linear_sum() likewise
  int64_t most_rounded_channels = 0;  ///< of rows that NextNorm rounds to 8 bits
  int64_t phase_multiple = 0;         ///< upsampling by phases, for bf16 channels that it divides; 0: there is none
  int64_t fused_phase_multiple = 0;   ///< in one kernel, for phases of channels that it divides; 0: there is none
};

/// \return what `device` can do. \throws Error device if this build has no kernels for it
Capabilities capabilities(Device device);

/// \return e.g. "bf16 products, borrowed weights, packed attention of heads of 128".
std::string to_string(const Capabilities& can);

/// \return whether packed_attention() serves such heads on `device`.
bool packs_attention(Device device, DType dtype, int64_t head_dim, bool causal);

/// \return whether attention() serves such heads rounded to 8 bits on `device`: on a CPU all, on a GPU those that
/// packed_attention() serves.
bool rounds_attention(Device device, DType dtype, int64_t head_dim);

}  // namespace nostos::ops
