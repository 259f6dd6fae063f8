// Tests the promise on a GPU that ranks share: whatever their number and plan, the same picture; and bf16 against
// float32 at the full size.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <ostream>

#include "cuda/drawing.h"
#include "pipeline/noise.h"

namespace nostos::test {
namespace {

using parallel::PlanKind;

struct Size {
  int64_t height, width;
};
void PrintTo(const Size& size, std::ostream* out) { *out << size.height << "x" << size.width; }

/// Draws `request` on 2, 3, 4 and 8 ranks by both plans, and with the halves of guidance apart where it is guided.
void expect_same_on_all_ranks(SharedModel& model, const GenerationRequest& request) {
  const Generation one = model.draw(request);
  const auto expect = [&](const Parallelism& parallelism) {
    expect_same(
        one, model.draw(request, parallelism),
        fmt::format("{}x{}, guidance {}, ulysses {}, cfg {}, by {}", *request.height, *request.width,
                    *request.guidance_scale, parallelism.ulysses, parallelism.cfg, parallel::name(parallelism.plan)));
  };
  for (const PlanKind plan : {PlanKind::token, PlanKind::axis}) {
    for (const int64_t ranks : {2, 3, 4, 8}) expect({.ulysses = ranks, .plan = plan});
    if (*request.guidance_scale <= 0) continue;
    for (const int64_t ranks : {1, 2, 4}) expect({.ulysses = ranks, .cfg = 2, .plan = plan});
  }
}

class CudaRanks : public testing::TestWithParam<Size> {};

TEST_P(CudaRanks, EmbeddedModelDrawsTheSameOnAnyNumber) {
  static SharedModel& model = *new SharedModel(model_dir("mini"), false, DType::bf16);  // never destroyed: see Engine
  GenerationRequest request = beach(GetParam().height, GetParam().width, 2, 4);
  request.cfg_normalization = 1;
  expect_same_on_all_ranks(model, request);
}

TEST_P(CudaRanks, EmbeddedModelInFloat32) {
  static SharedModel& model = *new SharedModel(model_dir("mini"), false, DType::f32);  // never destroyed: see Engine
  expect_same_on_all_ranks(model, beach(GetParam().height, GetParam().width, 2, 0));
}

const Size kSizes[] = {{720, 720}, {720, 1280}, {1280, 720}, {1024, 1024}};

INSTANTIATE_TEST_SUITE_P(Sizes, CudaRanks, testing::ValuesIn(kSizes), [](const testing::TestParamInfo<Size>& info) {
  return fmt::format("{}x{}", info.param.height, info.param.width);
});

SharedModel& full_size() {
  static SharedModel& model =
      *new SharedModel(model_dir("z-image-turbo"), true, DType::bf16);  // never destroyed: see Engine
  return model;
}

TEST(CudaFullSize, RanksDrawTheSame) {
  for (const Size& size : kSizes) expect_same_on_all_ranks(full_size(), beach(size.height, size.width, 2, 0));
}

// What ranks with a GPU each do on the one GPU that there may be. Left out are plans whose rows
// travel as messages beside other work: on one GPU the branches of all ranks' recorded steps share its queues, and a
// meeting may stand in front of the one that it waits for.
TEST(CudaFullSize, RanksThatMeetOnTheGpuDrawTheSame) {
  for (const Size& size : {Size{256, 256}, {720, 1280}, {1024, 1024}}) {
    const GenerationRequest request = beach(size.height, size.width, 4, size.height < 1024 ? 4 : 0);
    const Generation one = full_size().draw(request);
    const auto expect = [&](const Parallelism& parallelism) {
      expect_same(one, full_size().draw_meeting_on_the_gpu(request, parallelism),
                  fmt::format("{}x{}, ulysses {}, cfg {}, by {}", size.height, size.width, parallelism.ulysses,
                              parallelism.cfg, parallel::name(parallelism.plan)));
    };
    for (const int64_t ranks : {2, 3, 4}) expect({.ulysses = ranks});
    if (size.height == size.width) expect({.ulysses = 2, .plan = PlanKind::axis});
    if (*request.guidance_scale > 0) expect({.ulysses = 2, .cfg = 2});
  }
}

// One step from noise to the end takes the whole velocity: latents = noise - velocity.
TEST(CudaFullSize, VelocityInBf16PointsWhereFloat32Does) {
  const GenerationRequest request = beach(256, 256, 1, 0);
  const auto velocity = [&request](SharedModel& model) {
    const Picture drawn = std::move(model.draw(request).pictures.at(0));
    Tensor made({}, DType::f32, drawn.latents.shape());
    const auto elements = static_cast<size_t>(made.shape().elements());
    fill_torch_cpu_normal(request.seed, {made.data<float>(), elements});
    for (size_t i = 0; i < elements; ++i) made.data<float>()[i] -= drawn.latents.data<float>()[i];
    return made;
  };
  SharedModel exact(model_dir("z-image-turbo"), true, DType::f32);
  const double found = cosine(velocity(full_size()), velocity(exact));
  fmt::print("cosine of bf16's velocity with float32's: {:.6f}\n", found);
  EXPECT_GE(found, 0.9999);
}

}  // namespace
}  // namespace nostos::test
