// Tests what the FLUX.2 transformer says of its work.
#include <gtest/gtest.h>

#include "models/klein_model.h"

namespace nostos::test {
namespace {

/// \return whether a step computes with this matrix, and on which rows.
int64_t rows_of(const std::string& name, int64_t text, int64_t image, int64_t references) {
  if (name.starts_with("single_transformer_blocks.")) return text + image + references;
  if (name == "x_embedder.weight" || name == "proj_out.weight") return image;
  if (!name.starts_with("transformer_blocks.")) return 0;  // once a run
  const bool is_text = name.find(".add_") != std::string::npos || name.find(".to_add_out") != std::string::npos ||
                       name.find(".ff_context.") != std::string::npos;
  return is_text ? text : image + references;
}

TEST(Flux2, CountsTheOperationsOfItsMatrices) {
  Context ctx({}, 1);
  for (const char* name : {"distilled", "base"}) {
    KleinModel model(ctx, std::filesystem::path(NOSTOS_SOURCE_DIR) / "tests/data/klein_tiny" / name);
    const flux2::Transformer& transformer = model.transformer();
    const flux2::Config& config = transformer.config();
    constexpr int64_t kText = 48, kImage = 35, kReferences = 21;
    int64_t wanted = 0;
    for (const auto& [matrix, place] : flux2::weight_table(transformer.weights()))
      wanted += 2 * rows_of(matrix, kText, kImage, kReferences) * place.rows->count * place.weight->in;
    const int64_t rows = kText + kImage + kReferences;  // scores and sums of values, in every block
    wanted += (config.double_layers + config.single_layers) * 2 * 2 * rows * rows * config.hidden();
    EXPECT_EQ(transformer.flop(kText, kImage, kReferences), static_cast<double>(wanted)) << name;
  }
}

}  // namespace
}  // namespace nostos::test
