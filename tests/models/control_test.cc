// Tests control networks for Z-Image against VideoX-Fun: every variant, alone, beside others, and dealt to ranks.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "models/golden.h"
#include "models/zimage_control.h"
#include "ops/linear.h"
#include "parallel/thread_communicator.h"

namespace nostos::test {
namespace {

// Measured on a Zen 5 CPU (AVX-512) and with oneDNN limited to AVX2: at most 2.2e-6.
constexpr double kTolerance = 1e-5;

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && std::memcmp(a.view().bytes(), b.view().bytes(), a.size_in_bytes()) == 0;
}

class Control : public testing::TestWithParam<std::string> {
 protected:
  ControlledModel load(DType dtype) { return ControlledModel::load(ctx_, golden_, GetParam(), dtype); }
  ControlledModel load() { return load(DType::f32); }

  ConstView tensor(const std::string& of, const std::string& name) const {
    return golden_.tensors.tensor(of + "." + name);
  }
  /// \return a pass of a case with its own caption.
  ControlledPass pass(const ControlledModel& model, const std::string& of, float scale) const {
    const ConstView context = tensor(of, "context").rows(0, model.control.config().dims.in_channels);
    return {tensor(of, "latents"), tensor(of, "caption"), context, scale};
  }
  float time(const std::string& of) const { return golden_.the_case(of)["time"]; }

  parallel::ShardPlan plan(const ControlledModel& model, ConstView latents, int64_t ranks,
                           parallel::PlanKind kind) const {
    const zimage::Config& config = model.transformer.config();
    return parallel::make_plan({.grid = {latents.shape()[1] / config.patch, latents.shape()[2] / config.patch},
                                .ranks = ranks,
                                .kind = kind,
                                .heads = config.heads,
                                .patch = config.patch,
                                .pad_multiple = zimage::kTokenMultiple});
  }

  std::vector<Tensor> predict(const ControlledModel& model, const std::string& of,
                              const std::vector<ControlledPass>& passes) {
    const nn::SequenceParallel picture(plan(model, passes[0].latents, 1, parallel::PlanKind::token),
                                       model.transformer.config().head_dim());
    return test::predict(ctx_, model, picture, time(of), passes);
  }

  Context ctx_{{}, 2};
  ControlGolden golden_;
};

TEST_P(Control, Float32EqualsVideoXFun) {
  const ControlledModel model = load();
  double most = 0;
  for (const auto& c : golden_.json["cases"]) {
    const std::string of = c["name"];
    ControlledPass plain = pass(model, of, 1);
    plain.context = {};
    const double error = relative_error(predict(model, of, {plain})[0], tensor(of, "none"));
    EXPECT_LE(error, kTolerance) << of;
    for (const float scale : {0.75f, 1.f}) {
      const std::string name = GetParam() + (scale == 1 ? ".1.0" : ".0.75");
      const ConstView wanted = tensor(of, name);
      const double controlled = relative_error(predict(model, of, {pass(model, of, scale)})[0], wanted);
      EXPECT_LE(controlled, kTolerance) << of << " " << name;
      EXPECT_GE(relative_error(tensor(of, "none"), wanted), 0.5) << "the case shows little of the control image";
      most = std::max({most, error, controlled});
    }
  }
  RecordProperty("most_error", fmt::format("{:.1e}", most));
}

TEST_P(Control, Bfloat16IsNear) {
  if (!ops::has_bf16_products(ctx_)) GTEST_SKIP() << "this CPU has no AVX-512 BF16";
  const ControlledModel model = load(DType::bf16);
  double most = 0;
  for (const auto& c : golden_.json["cases"]) {
    const std::string of = c["name"];
    most = std::max(most, relative_error(predict(model, of, {pass(model, of, 1)})[0], tensor(of, GetParam() + ".1.0")));
  }
  EXPECT_LE(most, 0.02);  // measured: at most 6.3e-3
  RecordProperty("most_error", fmt::format("{:.1e}", most));
}

// Both sides of guidance, pictures with other control images and scales, and pictures without any may go together.
TEST_P(Control, APassDependsOnItselfAlone) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    if (dtype == DType::bf16 && !ops::has_bf16_products(ctx_)) continue;
    const ControlledModel model = load(dtype);
    const ControlledPass controlled = pass(model, "portrait", 0.75);
    ControlledPass plain = controlled, other_caption = controlled, other = controlled;
    plain.context = {};
    other_caption.caption = tensor("odd", "caption");
    Tensor context({}, DType::f32, controlled.context.shape());
    const float* from = controlled.context.data<float>();
    std::transform(from, from + controlled.context.elements(), context.data<float>(), [](float x) { return 1 - x; });
    other.context = context;
    other.scale = 0.4f;
    const std::vector<ControlledPass> passes{plain, controlled, other, plain, other_caption};
    const std::vector<Tensor> together = predict(model, "portrait", passes);
    for (size_t i = 0; i < passes.size(); ++i)
      EXPECT_TRUE(same_bits(predict(model, "portrait", {passes[i]})[0], together[i])) << i << " " << name(dtype);
    EXPECT_GT(relative_error(together[2], together[1]), 0.1);
  }
}

TEST_P(Control, NoSayIsNoControl) {
  const ControlledModel model = load();
  ControlledPass plain = pass(model, "odd", 0);
  const Tensor silent = std::move(predict(model, "odd", {plain})[0]);
  plain.context = {};
  EXPECT_TRUE(same_bits(silent, predict(model, "odd", {plain})[0]));
}

TEST_P(Control, GivesTheBytesOfOneRank) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    if (dtype == DType::bf16 && !ops::has_bf16_products(ctx_)) continue;
    const ControlledModel model = load(dtype);
    for (const char* of : {"portrait", "odd"}) {
      ControlledPass plain = pass(model, of, 1);
      plain.context = {};
      const std::vector<ControlledPass> passes{plain, pass(model, of, 0.75)};
      const std::vector<Tensor> wanted = predict(model, of, passes);
      for (const parallel::PlanKind kind : {parallel::PlanKind::token, parallel::PlanKind::axis}) {
        for (int world = 2; world <= 4; ++world) {
          run_thread_ranks(world, [&](Communicator& ranks) {
            Context ctx({}, 1);
            const nn::SequenceRanks sharing(ranks, 1);
            const nn::SequenceParallel picture(sharing, plan(model, plain.latents, world, kind),
                                               model.transformer.config().head_dim());
            const std::vector<Tensor> made = test::predict(ctx, model, picture, time(of), passes);
            for (size_t i = 0; i < passes.size(); ++i)
              EXPECT_TRUE(same_bits(made[i], wanted[i]))
                  << of << " " << name(dtype) << " pass " << i << ", " << name(kind) << " plan, rank " << ranks.rank()
                  << " of " << world;
          });
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Variants, Control, testing::Values("union_1.0", "union_2.0", "union_2.1", "lite"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::ranges::replace(name, '.', '_');
                           return name;
                         });

}  // namespace
}  // namespace nostos::test
