// Implements the models of adapter tests.
#include "adapters/adapter_models.h"

#include <gtest/gtest.h>

#include <memory>
#include <utility>
#include <vector>

#include "models/flux2/file_layouts.h"
#include "models/flux2/weights.h"
#include "models/qwen3/file_layouts.h"
#include "models/qwen3/weights.h"
#include "models/synthetic_source.h"
#include "models/weight_source.h"
#include "models/zimage/file_layouts.h"
#include "models/zimage/weights.h"

namespace nostos::test {
namespace {

const std::filesystem::path kRoot(NOSTOS_SOURCE_DIR);

template <class Walk>
std::map<std::string, Shape> shapes_of(const Walk& walk) {
  Context ctx({}, 1);
  const auto source = std::make_shared<ListingSource>();
  WeightBuilder builder(ctx, source, DType::bf16);
  walk(builder);
  return source->shapes();
}

}  // namespace

std::filesystem::path tiny_zimage() { return kRoot / "tests/data/tiny/varied"; }
std::filesystem::path tiny_flux2() { return kRoot / "tests/data/klein_tiny/base"; }
std::filesystem::path published(const std::string& name) { return kRoot / "models" / name; }

AdapterTargets zimage_targets(const std::filesystem::path& folder, bool with_text_encoder) {
  std::vector<AdapterPart> parts;
  const zimage::Config config = zimage::load_config(JsonConfig::load(folder / "transformer/config.json"));
  parts.push_back(
      {"transformer", shapes_of([&](WeightBuilder& b) { zimage::build_weights(config, b); }), zimage::file_layouts()});
  if (with_text_encoder) {
    const qwen3::Config encoder = qwen3::load_config(JsonConfig::load(folder / "text_encoder/config.json"));
    parts.push_back({std::string(kTextEncoderPart),
                     shapes_of([&](WeightBuilder& b) { qwen3::build_weights(encoder, b); }), qwen3::file_layouts()});
  }
  return AdapterTargets("Z-Image", std::move(parts));
}

AdapterTargets flux2_targets(const std::filesystem::path& folder) {
  const flux2::Config config = flux2::load_config(JsonConfig::load(folder / "transformer/config.json"));
  std::vector<AdapterPart> parts;
  parts.push_back(
      {"transformer", shapes_of([&](WeightBuilder& b) { flux2::build_weights(config, b); }), flux2::file_layouts()});
  return AdapterTargets("FLUX.2", std::move(parts));
}

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::model) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

}  // namespace nostos::test
