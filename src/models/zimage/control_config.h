// Owns the shape of a control network for a Z-Image transformer.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "io/json_config.h"
#include "io/weight_store.h"
#include "models/tensor_shapes.h"
#include "models/zimage/config.h"

namespace nostos::zimage {

/// What a control network does beside the transformer's refiners.
enum class ControlRefiner {
  plain_blocks,    ///< refines the control image with blocks of its own, and adds nothing to the image (Union 1.0)
  control_layers,  ///< its control layers run here, too, and the first of them add to the image (Union 2.0)
  control_blocks,  ///< control blocks of its own add to the image (Union 2.1, lite, tile)
};

/// config.json of a ZImageControlNetModel. Published networks come as files without one: guess_control_config().
struct ControlConfig {
  /// Of the blocks. `in_channels` are those of the control image: its latents or, where it can say what is to be
  /// painted, latents | mask | latents of what is known. `layers` and `refiner_layers` are the network's own.
  Config dims;
  std::vector<int64_t> places;  ///< the transformer's layers behind which the control layers add, in their order
  ControlRefiner refiner = ControlRefiner::control_blocks;

  /// \return whether the transformer's refiners get something added.
  bool adds_to_refiner() const { return refiner != ControlRefiner::plain_blocks; }
  /// \return blocks of `control_noise_refiner` that run.
  int64_t refiner_blocks() const { return refiner == ControlRefiner::control_layers ? 0 : dims.refiner_layers; }

  friend bool operator==(const ControlConfig&, const ControlConfig&) = default;
};

/// \throws Error model naming file and field
ControlConfig load_control_config(const JsonConfig& json);

/// \param is_zero says whether all numbers of a tensor that is there are zero: in a file of Union 2.0 the projections
/// of `control_noise_refiner` are, which were never trained
/// \return the config of a network whose file comes without one, for a transformer of the published 30 layers.
/// \throws Error model if none of the published ones can be meant
JsonConfig guess_control_config(const TensorShapes& shapes,
                                const std::function<bool(const std::string& name)>& is_zero);

/// The same of the file that `store` has open, under any of file_prefixes().
JsonConfig guess_control_config(const TensorShapes& shapes, const WeightStore& store);

/// Holds a network against the transformer that it is to control. \param file as messages write it
/// \throws Error model if they do not fit one another
void check_control(const ControlConfig& control, const Config& transformer, const std::string& file);

}  // namespace nostos::zimage
