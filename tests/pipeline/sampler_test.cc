// Tests the parts of the denoising loop that no picture would show: the order of sums, and what fits a batch.
#include "pipeline/sampler.h"

#include <gtest/gtest.h>

#include <vector>

#include "parallel/shard_plan.h"
#include "parallel/thread_communicator.h"

namespace nostos {
namespace {

/// \return rows of `of`, [tokens, columns], that lie in host memory.
template <class T>
View view(std::vector<T>& of, DType dtype, int64_t columns) {
  return {reinterpret_cast<std::byte*>(of.data()), dtype, {std::ssize(of) / columns, columns}};
}

// Squares do not cancel, and in float64 hardly any order of theirs shows in a float32 factor. These do.
TEST(CapNorm, AddsTheTokensInThePicturesOrder) {
  const parallel::Grid grid{3, 8};
  // From left to right, row by row, the large ones go before the small one comes, which any other order loses.
  std::vector<double> squares(static_cast<size_t>(2 * grid.tokens()));
  const auto set = [&](size_t token, size_t which, double value) { squares[2 * token + which] = value; };
  set(3, 0, 1e20), set(4, 0, -1e20), set(8, 0, 4);
  set(11, 1, 1e20), set(12, 1, -1e20), set(16, 1, 16);
  for (const parallel::PlanKind kind : {parallel::PlanKind::token, parallel::PlanKind::axis}) {
    for (const int ranks : {1, 2, 3, 4}) {
      run_thread_ranks(ranks, [&](Communicator& world) {
        Context ctx({}, 1);
        const nn::SequenceRanks sequence(world, 1);
        const nn::SequenceParallel share(
            sequence,
            parallel::make_plan(
                {.grid = grid, .ranks = ranks, .kind = kind, .heads = 4, .patch = 2, .pad_multiple = 32}),
            16);
        std::vector<double> own(static_cast<size_t>(2 * share.image_tokens())), all(squares), gathered(squares.size());
        std::vector<float> own_floats(own.size()), all_floats(squares.begin(), squares.end());
        std::vector<float> velocity(static_cast<size_t>(share.image_tokens()), 3.f);
        share.cut_tokens(ctx, view(all_floats, DType::f32, 2), view(own_floats, DType::f32, 2));
        std::ranges::copy(own_floats, own.begin());
        std::ranges::fill(all, 0);
        SamplerMemory memory;
        memory.token_squares = view(own, DType::f64, 2);
        memory.all_squares = view(all, DType::f64, 2);
        memory.gathered_squares = view(gathered, DType::f64, 2);
        cap_norm(ctx, share, memory, 1, view(velocity, DType::f32, 1));
        EXPECT_EQ(velocity, std::vector<float>(velocity.size(), 1.5f))  // the norms are 2 and 4
            << ranks << " ranks by " << parallel::name(kind);
      });
    }
  }
}

// 24 tokens of the image, texts of 5 and 9 rows, references of 6 and 16 tokens.
TEST(SamplerPlan, RowsOfAPictureAreThoseOfItsPassesReferencesIncluded) {
  for (const int ranks : {1, 2, 3}) {
    run_thread_ranks(ranks, [&](Communicator& world) {
      const nn::SequenceRanks sequence(world, 1);
      SamplerPlan plan{
          .share = nn::SequenceParallel(
              sequence, parallel::make_plan({.grid = {3, 8}, .ranks = ranks, .heads = 4, .patch = 1}), 16),
          .schedule = {},
          .caption_tokens = {5, 9},
          .references = {{2, 3}, {4, 4}},
          .pictures = {{.guidance = {.scale = 4}, .captions = {0, 1}},
                       {.guidance = {.scale = 4, .form = GuidanceForm::none}, .captions = {0, 1}},
                       {.guidance = {.scale = 1, .form = GuidanceForm::from_negative}, .captions = {1, 0}}}};
      const auto share = [&](int64_t rows) { return (rows + ranks - 1) / ranks; };
      EXPECT_EQ(plan.rows_of(0), share(51) + share(55));
      EXPECT_EQ(plan.rows_of(1), share(51)) << "a distilled model has one pass";
      EXPECT_EQ(plan.rows_of(2), share(55)) << "guidance is off";
      plan.halves = &world;  // of whatever ranks: each has one of the passes
      EXPECT_EQ(plan.rows_of(0), share(55));
    });
  }
}

}  // namespace
}  // namespace nostos
