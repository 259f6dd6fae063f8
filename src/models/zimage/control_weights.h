// Owns the weights of a control network for Z-Image and the walk that names every tensor.
#pragma once

#include <optional>
#include <vector>

#include "models/weight_builder.h"
#include "models/weight_table.h"
#include "models/zimage/control_config.h"
#include "models/zimage/weights.h"

namespace nostos::zimage {

/// A block of the control image's stream. What it adds to the image's stream is `after` of what it makes.
struct ControlBlockWeights {
  BlockWeights block;    ///< whose visit holds the projections, too
  Linear before;         ///< [hidden, hidden] of the control image, where a list of blocks begins; else empty
  Linear after;          ///< [hidden, hidden]; empty in blocks that add nothing
  ConstView after_bias;  ///< f32 [hidden], likewise
};

struct ControlWeights {
  Linear embedder;  ///< [hidden, patch width of the control image]: small and sensitive, it stays float32
  std::vector<ControlBlockWeights> refiner, layers;
  WeightStorage storage;
};

/// Walks every tensor, by the names that the published files and diffusers have. \throws Error model, out_of_memory
ControlWeights build_control_weights(const ControlConfig& config, WeightBuilder& builder);

/// \return where the checkpoint's matrices are in `weights`, which stay where they are.
WeightTable weight_table(const ControlWeights& weights);

}  // namespace nostos::zimage
