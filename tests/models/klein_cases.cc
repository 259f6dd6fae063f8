// Reads the reference pictures of FLUX.2-klein.
#include "models/klein_cases.h"

#include <algorithm>
#include <cmath>
#include <fstream>

#include "base/error.h"
#include "io/file.h"

namespace nostos::test {

std::string KleinCase::name() const {
  std::string text = model.filename().string() + "_" + json.at("name").get<std::string>();
  std::ranges::replace(text, '.', '_');
  return text;
}

std::filesystem::path KleinCase::tensors() const {
  return model / "expected" / (json.at("name").get<std::string>() + ".safetensors");
}

std::vector<ReferenceImage> KleinCase::references() const {
  std::vector<ReferenceImage> made;
  for (const std::string& name : json.value("references", std::vector<std::string>{})) {
    const std::filesystem::path file = model.parent_path() / "references" / name;
    const std::string bytes = read_file(file, size_t{1} << 24);
    Image image = decode_image({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
    const ImageSize size{image.height, image.width};
    made.push_back({file.string(), std::string(64, '0'), size, std::make_shared<const Image>(std::move(image))});
  }
  return made;
}

GenerationRequest KleinCase::request() const {
  GenerationRequest made;
  made.prompt = json.at("prompt");
  if (!json.value("size_of_reference", false)) {
    made.height = json.at("height").get<int64_t>();
    made.width = json.at("width").get<int64_t>();
  }
  made.num_inference_steps = json.at("steps").get<int64_t>();
  made.guidance_scale = json.at("guidance_scale").get<double>();
  made.seed = json.at("seed");
  made.num_outputs = images();
  made.sigmas = sigmas();
  made.images = references();
  return made;
}

void PrintTo(const KleinCase& c, std::ostream* out) { *out << c.name(); }

std::vector<KleinCase> klein_cases(const std::filesystem::path& root) {
  const std::filesystem::path models = root / "tests/data/klein_tiny";
  std::vector<KleinCase> all;
  for (const char* model : {"distilled", "base"}) {
    std::ifstream file(models / model / "expected/expected.json");
    require(file.good(), ErrorKind::internal, "no golden cases of {}", model);
    const nlohmann::json whole = nlohmann::json::parse(file);
    for (const auto& json : whole.at("cases")) all.push_back({models / model, json});
  }
  return all;
}

Tensor values_of(const Image& image) {
  Tensor made({}, DType::f32, {image.height, image.width, 3});
  for (size_t i = 0; i < image.rgb.size(); ++i)
    made.data<float>()[i] = 2.f * (static_cast<float>(image.rgb[i]) / 255.f) - 1.f;
  return made;
}

Image rounded(ConstView decoded) {
  const int64_t height = decoded.shape()[1], width = decoded.shape()[2], pixels = height * width;
  Image made{height, width, std::vector<uint8_t>(static_cast<size_t>(3 * pixels))};
  for (int64_t i = 0; i < 3 * pixels; ++i) {
    const float unit = std::clamp(decoded.data<float>()[i] / 2 + 0.5f, 0.f, 1.f);
    made.rgb[static_cast<size_t>(i % pixels * 3 + i / pixels)] = static_cast<uint8_t>(std::nearbyint(unit * 255.f));
  }
  return made;
}

}  // namespace nostos::test
