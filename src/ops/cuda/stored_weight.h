// Owns the step from stored pieces of a weight to its numbers on a GPU, for products.
#pragma once

#include <span>

#include "device/context.h"
#include "ops/stored_weight.h"
#include "tensor/tensor.h"

namespace nostos::cuda {

/// As ops::dequantise(), checked.
void dequantise_pieces(Context& ctx, std::span<const StoredPiece> pieces, View out);

}  // namespace nostos::cuda
