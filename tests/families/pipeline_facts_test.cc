// Tests what families say of their pipelines where a model's files do not.
#include <gtest/gtest.h>

#include <filesystem>

#include "families/flux2_klein/model.h"
#include "families/registry.h"
#include "families/zimage/model.h"

namespace nostos {
namespace {

TEST(PipelineFacts, OfZImageAreThoseOfTurboOrOfTheBaseModel) {
  ModelFiles files;
  const PipelineFacts turbo = pipeline_facts(zimage::kTransformer, {.files = files});
  EXPECT_EQ(turbo.class_name, "ZImagePipeline");
  EXPECT_EQ(turbo.shifting, Shifting::fixed);
  EXPECT_EQ(turbo.scheduler.shift, 3);
  EXPECT_EQ(turbo.scheduler.num_train_timesteps, 1000);
  EXPECT_FALSE(turbo.is_distilled.has_value());
  EXPECT_FALSE(turbo.defaults.has_value());
  files.is_base = true;
  const PipelineFacts base = pipeline_facts(zimage::kTransformer, {.files = files});
  EXPECT_EQ(base.scheduler.shift, 6);
  ASSERT_TRUE(base.defaults.has_value());
  EXPECT_EQ(base.defaults->steps, 50);
  EXPECT_EQ(base.defaults->guidance_scale, 4);
}

TEST(PipelineFacts, OfKleinSayWhetherItIsDistilled) {
  ModelFiles files;
  const PipelineFacts klein = pipeline_facts(flux2_klein::kTransformer, {.files = files});
  EXPECT_EQ(klein.class_name, "Flux2KleinPipeline");
  EXPECT_EQ(klein.shifting, Shifting::dynamic);
  EXPECT_EQ(klein.is_distilled, true);
  EXPECT_FALSE(klein.defaults.has_value());
  files.is_base = true;
  EXPECT_EQ(pipeline_facts(flux2_klein::kTransformer, {.files = files}).is_distilled, false);
  const std::filesystem::path models = std::filesystem::path(NOSTOS_SOURCE_DIR) / "tests/data/klein_tiny";
  EXPECT_EQ(pipeline_facts(flux2_klein::kTransformer, {.files = models / "base"}).is_distilled, false);
  EXPECT_EQ(pipeline_facts(flux2_klein::kTransformer, {.files = models / "distilled"}).is_distilled, true);
}

}  // namespace
}  // namespace nostos
