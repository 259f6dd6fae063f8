// Tests FLUX.2-klein on the GPU: against diffusers' float32 pictures, and the promise, with and without reference
// images.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "cuda/drawing.h"
#include "device/cuda/runtime.h"
#include "models/klein_cases.h"
#include "pipeline/noise.h"

namespace nostos::test {
namespace {

using parallel::PlanKind;

constexpr double kTolerance = 1e-4;  // of the final latents in float32: the project's promise on every device

class CudaKleinGolden : public testing::TestWithParam<KleinCase> {};

TEST_P(CudaKleinGolden, Float32EqualsDiffusers) {
  SharedModel model(GetParam().model, false, DType::f32);
  const SafetensorsFile file(GetParam().tensors());
  const Generation made = model.draw(GetParam().request());
  double worst = 0;
  for (int64_t i = 0; i < GetParam().images(); ++i) {
    const Tensor& latents = made.pictures.at(static_cast<size_t>(i)).latents;
    worst = std::max(worst, relative_error(latents, file.tensor("final_latents").rows(i, 1)));
  }
  fmt::print("f32 {}: latents differ by {:.1e}\n", GetParam().name(), worst);
  EXPECT_LE(worst, kTolerance);
}

INSTANTIATE_TEST_SUITE_P(Cases, CudaKleinGolden, testing::ValuesIn(klein_cases(source_dir())),
                         [](const testing::TestParamInfo<KleinCase>& info) { return info.param.name(); });

/// A picture of stripes.
ReferenceImage stripes(int64_t height, int64_t width) {
  Image image{height, width, std::vector<uint8_t>(static_cast<size_t>(height * width * 3))};
  for (size_t i = 0; i < image.rgb.size(); ++i) image.rgb[i] = static_cast<uint8_t>(i / 97 * 13 + i % 3 * 80);
  return {"stripes", std::string(64, '0'), {height, width}, std::make_shared<const Image>(std::move(image))};
}

SharedModel& full_size() {
  static SharedModel& model =
      *new SharedModel(model_dir("flux2-klein-4b"), true, DType::bf16);  // never destroyed: see Engine
  return model;
}

/// A drawing of the full size, with as many references.
GenerationRequest request(int64_t height, int64_t width, int64_t references) {
  GenerationRequest made = beach(height, width, 3, 1);
  made.negative_prompt.clear();
  for (int64_t i = 0; i < references; ++i) made.images.push_back(stripes(720 - 96 * i, 496 + 64 * i));
  return made;
}

TEST(CudaKlein, RanksDrawTheSame) {
  for (const auto& [height, width, references] :
       {std::array<int64_t, 3>{720, 1280, 0}, {1280, 720, 1}, {208, 336, 2}, {1024, 1024, 0}}) {
    const GenerationRequest drawn = request(height, width, references);
    const Generation one = full_size().draw(drawn);
    for (const PlanKind plan : {PlanKind::token, PlanKind::axis}) {
      for (const int64_t ranks : {2, 3, 4, 8}) {
        expect_same(one, full_size().draw(drawn, {.ulysses = ranks, .plan = plan}),
                    fmt::format("{}x{} with {} references on {} ranks by {}", height, width, references, ranks,
                                parallel::name(plan)));
      }
    }
  }
}

TEST(CudaKlein, RanksThatMeetOnTheGpuDrawTheSame) {
  for (const int64_t references : {0, 1}) {
    const GenerationRequest drawn = request(720, 1280, references);
    const Generation one = full_size().draw(drawn);
    for (const int64_t ranks : {2, 3, 4})
      expect_same(one, full_size().draw_meeting_on_the_gpu(drawn, {.ulysses = ranks}), fmt::format("{} ranks", ranks));
  }
}

// Recorded steps, other references of the same sizes and of others, and the memory that they share.
TEST(CudaKlein, WhatIsRecordedServesItsOwnKindOfDrawingAlone) {
  SharedModel fresh(model_dir("flux2-klein-4b"), true, DType::bf16);
  const auto expect_as_on_two = [&](const GenerationRequest& drawn, const char* what) {
    // Ranks that share a GPU never record their steps.
    const Generation unrecorded = full_size().draw(drawn, {.ulysses = 2});
    expect_same(unrecorded, fresh.draw(drawn), what);
    expect_same(unrecorded, fresh.draw(drawn), what);
  };
  expect_as_on_two(request(336, 208, 1), "one reference");
  GenerationRequest other = request(336, 208, 1);
  other.images[0] = stripes(720, 497);
  expect_as_on_two(other, "another of its size");
  expect_as_on_two(request(336, 208, 2), "two");
  expect_as_on_two(request(336, 208, 0), "none");
  expect_as_on_two(request(208, 336, 1), "turned");
}

// One step from noise to the end takes the whole velocity: latents = noise - velocity.
TEST(CudaKlein, VelocityInBf16PointsWhereFloat32Does) {
  GenerationRequest drawn = request(256, 256, 1);
  drawn.num_inference_steps = 1;
  const auto velocity = [&](SharedModel& model) {
    const Picture made = std::move(model.draw(drawn).pictures.at(0));
    Tensor difference({}, DType::f32, made.latents.shape());
    const auto elements = static_cast<size_t>(difference.shape().elements());
    fill_torch_cpu_normal(drawn.seed, {difference.data<float>(), elements});
    for (size_t i = 0; i < elements; ++i) difference.data<float>()[i] -= made.latents.data<float>()[i];
    return difference;
  };
  SharedModel exact(model_dir("flux2-klein-4b"), true, DType::f32);
  const double found = cosine(velocity(full_size()), velocity(exact));
  fmt::print("cosine of bf16's velocity with float32's: {:.6f}\n", found);
  EXPECT_GE(found, 0.9999);
}

}  // namespace
}  // namespace nostos::test
