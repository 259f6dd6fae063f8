// Tests lanes that change two hundred times in a drawing, and many drawings at once.
#include <gtest/gtest.h>

#include "pipeline/lane_walks.h"

namespace nostos {
namespace {

using namespace lanes;

class LongWalks : public testing::TestWithParam<tiny::Drawings> {};

INSTANTIATE_TEST_SUITE_P(Families, LongWalks, testing::ValuesIn(tiny::kFamilies),
                         [](const testing::TestParamInfo<tiny::Drawings>& info) { return info.param.name; });

TEST_P(LongWalks, TwoHundredChangesDrawThePictureOfOneRank) {
  uint32_t seed = 1;
  for (const Precision precision : drawing_precisions()) {
    for (const parallel::PlanKind plan : {parallel::PlanKind::token, parallel::PlanKind::axis}) {
      int64_t changes = 0;
      GenerationRequest drawn = GetParam().fitted(request(44, 21, 4, 200));
      drawn.cfg_truncation = 0.7;
      expect_walks_as_alone(options(GetParam().folder, precision, plan, 5), {drawn}, seed++,
                            std::string(parallel::name(plan)), changes);
      EXPECT_GE(changes, 199);
    }
  }
}

TEST(LongLanesAtOnce, DrawWhatEachWouldAlone) {
  EngineOptions shared = options(tiny::kZImage.folder, Precision::f32, parallel::PlanKind::axis, 7);
  shared.kept_caption_bytes = size_t{1} << 20;
  expect_drawings_at_once_as_alone(shared, unlike_requests(9), 30);
  EngineOptions each = shared;
  each.device_per_rank = each.device.kind == DeviceKind::cpu;
  expect_drawings_at_once_as_alone(each, unlike_requests(9), 20);
}

}  // namespace
}  // namespace nostos
