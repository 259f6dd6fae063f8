// Tests lanes on a GPU that ranks share: however they change between steps, the same picture.
#include <gtest/gtest.h>

#include "cuda/drawing.h"
#include "pipeline/lane_walks.h"

namespace nostos::test {
namespace {

TEST(CudaLanes, RanksThatShareTheGpuAndItsModelDrawTheSame) {
  EngineOptions options = lanes::options(model_dir("mini"), Precision::bf16, parallel::PlanKind::token, 3);
  int64_t changes = 0;
  GenerationRequest request = beach(208, 336, 8, 4);
  request.num_outputs = 2;
  request.cfg_normalization = 1;
  lanes::expect_walks_as_alone(options, {request}, 1, "walk", changes);
  EXPECT_GE(changes, 7);
}

TEST(CudaLanes, DrawAtOnceWhatEachWouldAlone) {
  lanes::expect_drawings_at_once_as_alone(lanes::options(tiny::kZImage.folder, Precision::bf16),
                                          lanes::unlike_requests(5), 3);
}

}  // namespace
}  // namespace nostos::test
