// Owns access to the tiny control networks of tests/data/zimage_control and to what VideoX-Fun draws with them.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "io/safetensors.h"
#include "models/zimage/control.h"
#include "models/zimage/transformer.h"
#include "nn/sequence_parallel.h"

namespace nostos::test {

/// What VideoX-Fun was given and what it made: expected.json says what each tensor is.
struct ControlGolden {
  nlohmann::json json;
  SafetensorsFile tensors;

  ControlGolden();
  std::vector<std::string> variants() const;
  const nlohmann::json& the_case(const std::string& name) const;
};

/// Writes the weights of a variant as a published file has them.
/// \return the file, which the caller removes
std::filesystem::path write_control_file(const ControlGolden& golden, const std::string& variant);

/// A transformer and a control network for it.
struct ControlledModel {
  zimage::Transformer transformer;
  zimage::ControlNetwork control;

  static ControlledModel load(Context& ctx, const ControlGolden& golden, const std::string& variant, DType dtype);
};

/// One pass of a step.
struct ControlledPass {
  ConstView latents;    ///< f32 [channels, height, width]
  ConstView caption;    ///< f32 [tokens, width]
  ConstView context{};  ///< f32 [channels of the control image, height, width]; null: without control
  float scale = 1;
};

/// \return the velocities of passes of one size that run together, f32 [channels, height, width] each, whole on every
/// rank.
std::vector<Tensor> predict(Context& ctx, const ControlledModel& model, const nn::SequenceParallel& picture, float time,
                            std::span<const ControlledPass> passes);

}  // namespace nostos::test
