// Tests drawings that follow a control image against VideoX-Fun's ZImageControlPipeline in float32. See
// tests/data/README.md.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "io/safetensors.h"
#include "pipeline/drawing_device.h"
#include "pipeline/engine.h"

namespace nostos {
namespace {

std::filesystem::path data() { return repository() / "tests/data"; }

nlohmann::json golden_json() {
  std::ifstream file(data() / "control_drawings/control_drawings.json");
  return nlohmann::json::parse(file);
}

/// \return a u8 tensor [height, width] or [height, width, 3] as a picture.
ReferenceImage picture_of(ConstView view) {
  const Shape& shape = view.shape();
  Image image{shape[0], shape[1], {}};
  const auto* values = reinterpret_cast<const uint8_t*>(view.bytes());
  for (int64_t i = 0; i < shape[0] * shape[1] * 3; ++i) image.rgb.push_back(values[shape.rank() == 3 ? i : i / 3]);
  return {.size = {shape[0], shape[1]}, .image = std::make_shared<const Image>(std::move(image))};
}

class ControlGoldens : public testing::TestWithParam<std::string> {};

INSTANTIATE_TEST_SUITE_P(VideoXFun, ControlGoldens,
                         testing::Values("plain", "guided", "lite", "masked", "inpainted", "inpainted_lite"),
                         [](const auto& info) { return info.param; });

TEST_P(ControlGoldens, LatentsAreTheReferences) {
  const nlohmann::json golden = golden_json();
  const nlohmann::json& of =
      *std::ranges::find_if(golden["cases"], [](const nlohmann::json& c) { return c["name"] == GetParam(); });
  const SafetensorsFile tensors(data() / "control_drawings/expected.safetensors");
  const auto tensor = [&](const std::string& name) { return tensors.tensor(GetParam() + "." + name); };
  EngineOptions options;
  options.model = data() / golden["model"].get<std::string>();
  options.model.controlnet = data() / "control_drawings" / (of["variant"].get<std::string>() + ".safetensors");
  options.device = drawing_device();
  options.precision = Precision::f32;
  GenerationRequest request{.prompt = golden["prompt"],
                            .control = Control{.scale = of["scale"]},
                            .num_inference_steps = of["steps"].get<int64_t>(),
                            .guidance_scale = of["guidance_scale"].get<double>(),
                            .seed = of["seed"]};
  if (of.value("control", true)) request.control->image = picture_of(tensor("control"));
  if (of.contains("mask")) {
    request.images = {picture_of(tensor("picture"))};
    request.mask = Mask{.image = picture_of(tensor("mask"))};
  }
  Engine engine(options);
  const Generation generation = engine.generate(request);
  const Tensor& latents = generation.pictures.at(0).latents;
  const ConstView wanted = tensor("latents");
  ASSERT_EQ(latents.shape().elements(), wanted.elements());
  float apart = 0, largest = 0;
  for (int64_t i = 0; i < wanted.elements(); ++i) {
    apart = std::max(apart, std::abs(latents.data<float>()[i] - wanted.data<float>()[i]));
    largest = std::max(largest, std::abs(wanted.data<float>()[i]));
  }
  EXPECT_LE(apart, 2e-5f * largest);  // measured on a Zen 5 CPU: at most 3e-6
}

}  // namespace
}  // namespace nostos
