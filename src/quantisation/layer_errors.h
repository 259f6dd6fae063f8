// Owns how much rounding to 8 bits changes each product of a model, on inputs that the product has seen, and the choice
// of the products that are left as they are.
#pragma once

#include <cstdint>
#include <functional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "device/context.h"
#include "families/part_files.h"
#include "quantisation/layer_inputs.h"

namespace nostos {

/// A product, and what rounding does to it.
struct LayerError {
  std::vector<std::string> matrices;  ///< that it is with, in the diffusers layout
  int64_t in = 0, out = 0;
  double mean = 0;   ///< of all groups: |rounded - exact| / |exact| of the group's rows together
  double worst = 0;  ///< of the groups; infinite where a product is not finite
  bool is_kept = false;
};

/// \param read gives the weights \param on_layer called after each product \return the errors of the products, made on
/// ctx's device.
std::vector<LayerError> layer_errors(Context& ctx, const std::vector<SeenRows>& products, const ReadWeight& read,
                                     const std::function<void()>& on_layer = {});

/// Marks the products whose worst error is beyond `bound` as kept, and with them those that share a matrix.
/// \return the matrices of the products that are kept.
std::set<std::string> keep_layers(std::span<LayerError> layers, double bound);

}  // namespace nostos
