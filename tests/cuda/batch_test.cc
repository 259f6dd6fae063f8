// Tests on a GPU that pictures drawn together are those drawn alone, bit for bit.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "cuda/drawing.h"

namespace nostos::test {
namespace {

/// Captions of three lengths, with and without guidance, capped and cut short, several pictures.
std::vector<GenerationRequest> unlike_requests(int64_t side) {
  std::vector<GenerationRequest> made(4, beach(side, side, 3, 4));
  made[0].cfg_normalization = 1;
  made[0].num_outputs = 2;
  made[1].prompt =
      "A crowded beach with very many people, umbrellas, towels and dogs, seen from a hill in the evening light";
  made[1].guidance_scale = 0;
  made[1].seed = 7;
  made[2].prompt = "An empty beach";
  made[2].negative_prompt = made[1].prompt + ", " + made[1].prompt;
  made[2].cfg_truncation = 0.3;
  made[3].guidance_scale = 2.5;
  made[3].cfg_normalization = 0.7;
  made[3].rng = RngKind::torch_cuda;
  return made;
}

void expect_together_as_alone(SharedModel& model, const std::vector<GenerationRequest>& requests,
                              std::span<const Parallelism> ways) {
  std::vector<Generation> alone;
  for (const GenerationRequest& request : requests) alone.push_back(model.draw(request));
  for (const Parallelism& parallelism : ways) {
    const std::vector<Generation> together = model.draw(requests, parallelism);
    for (size_t i = 0; i < requests.size(); ++i) {
      expect_same(alone[i], together[i],
                  fmt::format("request {} of {} pixels on {} ranks by {}", i, *requests[i].height, parallelism.ranks(),
                              parallel::name(parallelism.plan)));
    }
  }
}

TEST(CudaBatches, EmbeddedModelDrawsThemAsAlone) {
  const std::vector<Parallelism> ways{{}, {}, {.ulysses = 2}, {.ulysses = 3, .plan = parallel::PlanKind::axis}};
  for (const DType dtype : {DType::bf16, DType::f32}) {
    SharedModel model(model_dir("mini"), false, dtype);
    expect_together_as_alone(model, unlike_requests(208), ways);
  }
}

TEST(CudaBatches, GuidanceHalvesDrawThemAsAlone) {
  SharedModel model(model_dir("mini"), false, DType::bf16);
  std::vector<GenerationRequest> requests = unlike_requests(256);
  requests[1].guidance_scale = 3;
  expect_together_as_alone(model, requests, std::vector<Parallelism>{{.cfg = 2}, {.ulysses = 2, .cfg = 2}});
}

// With the rows of one, of several and of all, and a picture whose passes are apart.
TEST(CudaBatches, FullSizeDrawsThemAsAlone) {
  SharedModel model(model_dir("z-image-turbo"), true, DType::bf16);
  std::vector<GenerationRequest> requests = unlike_requests(256);
  for (GenerationRequest& request : requests) request.num_inference_steps = 2;
  expect_together_as_alone(model, requests, std::vector<Parallelism>{{}, {.ulysses = 2}});
  const std::vector<GenerationRequest> large(1, beach(1024, 1024, 1, 4));
  expect_together_as_alone(model, large, std::vector<Parallelism>{{.ulysses = 3}});
}

}  // namespace
}  // namespace nostos::test
