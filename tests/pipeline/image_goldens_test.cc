// Tests drawings that begin with images against diffusers' ZImageImg2ImgPipeline, ZImageInpaintPipeline and
// Flux2KleinInpaintPipeline in float32. See tests/data/README.md.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "io/safetensors.h"
#include "pipeline/drawing_device.h"
#include "pipeline/engine.h"
#include "pipeline/source_image.h"

namespace nostos {
namespace {

using Path = std::filesystem::path;

Path data() { return repository() / "tests/data"; }

struct Case {
  nlohmann::json json;
  std::string name() const { return Path(json.at("file").get<std::string>()).stem(); }
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name(); }

std::vector<Case> cases() {
  std::ifstream file(data() / "image_input/image_input.json");
  const nlohmann::json golden = nlohmann::json::parse(file);
  std::vector<Case> all;
  for (const nlohmann::json& json : golden.at("cases"))
    if (!json.contains("compute")) all.emplace_back().json = json;
  return all;
}

/// \return a u8 tensor [height, width] or [height, width, 3] as a picture.
Image picture_of(ConstView view) {
  const Shape& shape = view.shape();
  Image image{shape[0], shape[1], {}};
  const auto* values = reinterpret_cast<const uint8_t*>(view.bytes());
  const int64_t channels = shape.rank() == 3 ? 3 : 1;
  for (int64_t i = 0; i < shape[0] * shape[1] * 3; ++i) image.rgb.push_back(values[channels == 3 ? i : i / 3]);
  return image;
}

ReferenceImage given(Image image) {
  const ImageSize size{image.height, image.width};
  return {.size = size, .image = std::make_shared<const Image>(std::move(image))};
}

GenerationRequest request_of(const Case& c, const SafetensorsFile& golden) {
  GenerationRequest request;
  request.prompt = c.json.at("prompt");
  request.images.push_back(given(picture_of(golden.tensor("picture"))));
  if (golden.tensors().contains("reference")) request.images.push_back(given(picture_of(golden.tensor("reference"))));
  if (golden.tensors().contains("mask")) request.mask.emplace().image = given(picture_of(golden.tensor("mask")));
  request.strength = c.json.at("strength").get<double>();
  request.num_inference_steps = c.json.at("steps").get<int64_t>();
  request.guidance_scale = c.json.at("guidance_scale").get<double>();
  request.seed = c.json.at("seed").get<uint64_t>();
  return request;
}

class ImageGoldens : public testing::TestWithParam<Case> {};

INSTANTIATE_TEST_SUITE_P(Diffusers, ImageGoldens, testing::ValuesIn(cases()), [](const auto& info) {
  std::string name = info.param.name();
  std::ranges::replace(name, '.', '_');
  return name;
});

TEST_P(ImageGoldens, LatentsAndPicturesAreTheReferences) {
  const SafetensorsFile golden(data() / "image_input" / GetParam().json.at("file").get<std::string>());
  EngineOptions options;
  options.model = data() / GetParam().json.at("model").get<std::string>();
  options.device = drawing_device();
  options.precision = Precision::f32;
  Engine engine(options);
  const GenerationRequest request = request_of(GetParam(), golden);
  const ResolvedRequest resolved = resolve(request, engine.limits());
  EXPECT_EQ(resolved.first_step, GetParam().json.at("first_step").get<int64_t>());
  if (golden.tensors().contains("prepared_picture")) {
    EXPECT_EQ(prepare_source(*request.images[0].image, resolved, engine.limits()),
              picture_of(golden.tensor("prepared_picture")));
  }
  if (request.mask) {
    const ConstView wanted = golden.tensor("latent_mask");
    EXPECT_EQ(prepare_mask(*request.mask->image.image, resolved, read_model_shape(options.model)),
              std::vector<float>(wanted.data<float>(), wanted.data<float>() + wanted.elements()));
  }

  const Generation generation = engine.generate(request);
  const Picture& picture = generation.pictures.at(0);
  const ConstView states = golden.tensor("states");
  const int64_t elements = picture.latents.shape().elements();
  const float* const last = states.data<float>() + (states.shape()[0] - 1) * elements;
  ASSERT_EQ(states.elements(), states.shape()[0] * elements);
  float apart = 0, largest = 0;
  for (int64_t i = 0; i < elements; ++i) {
    apart = std::max(apart, std::abs(picture.latents.data<float>()[i] - last[i]));
    largest = std::max(largest, std::abs(last[i]));
  }
  EXPECT_LE(apart, 1e-4f * std::max(largest, 1.f));

  const ConstView decoded = golden.tensor("decoded_image");
  const int64_t pixels = picture.image.height * picture.image.width;
  ASSERT_EQ(decoded.elements(), 3 * pixels);
  double squares = 0;
  for (int64_t i = 0; i < 3 * pixels; ++i) {
    const double value =
        std::clamp(static_cast<double>(decoded.data<float>()[i % 3 * pixels + i / 3]) / 2 + 0.5, 0., 1.);
    const double difference = std::nearbyint(value * 255) - picture.image.rgb[static_cast<size_t>(i)];
    squares += difference * difference;
  }
  EXPECT_LE(squares / static_cast<double>(3 * pixels), 255. * 255. / 1e6) << "60 dB";
}

}  // namespace
}  // namespace nostos
