// Tests attention of rows with different weights: on any number of ranks the bits of the same ops called one by one.
// Built twice, as sequence_parallel_test.cc.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "device/arena.h"
#include "nn/attention.h"
#include "nn/ranks.h"
#include "nn/sequence_parallel.h"
#include "ops/support.h"

namespace nostos::nn {
namespace {

using parallel::PlanKind;

constexpr int64_t kHidden = 40;
constexpr AttentionShape kShape{.heads = 6, .kv_heads = 6, .head_dim = 16};
constexpr int64_t kWidth = kShape.heads * kShape.head_dim;

/// Two sequences of one image, and a layer's result for each, made of one op after the other.
struct TwoStreams {
  TwoStreams(std::vector<std::vector<Segment>> layouts, const parallel::Grid& grid, size_t streams, DType dtype)
      : layouts(std::move(layouts)), grid(grid), dtype(dtype) {
    Context ctx({}, 1);
    for (uint32_t stream = 0; stream < streams; ++stream) {
      norms.push_back(random_tensor(DType::f32, {2, kShape.head_dim}, 10 + stream));
      weights.push_back({ops::pack_linear(ctx, random_tensor(dtype, {kShape.qkv_width(), kHidden}, 20 + stream)),
                         norms.back().view().rows(0, 1).reshape({kShape.head_dim}),
                         norms.back().view().rows(1, 1).reshape({kShape.head_dim}),
                         ops::pack_linear(ctx, random_tensor(dtype, {kHidden, kWidth}, 30 + stream))});
    }
    uint32_t seed = 40;
    for (const std::vector<Segment>& segments : this->layouts) {
      int64_t rows = 0;
      for (const Segment& each : segments) rows += rows_in(each);
      x.push_back(random_tensor(dtype, {rows, kHidden}, ++seed));
      cos.push_back(random_tensor(DType::f32, {rows, kShape.head_dim / 2}, ++seed));
      sin.push_back(random_tensor(DType::f32, {rows, kShape.head_dim / 2}, ++seed));
      wanted.push_back(one_by_one(ctx, segments, x.size() - 1));
    }
  }

  int64_t rows_in(const Segment& segment) const { return segment.is_image ? grid.tokens() : segment.rows; }

  Tensor one_by_one(Context& ctx, const std::vector<Segment>& segments, size_t sequence) const {
    const int64_t rows = x[sequence].shape()[0], head_dim = kShape.head_dim;
    const Shape heads{kShape.heads, rows, head_dim};
    Tensor q({}, dtype, heads), k({}, dtype, heads), v({}, dtype, heads), mixed({}, dtype, {rows, kWidth}),
        projected({}, DType::f32, {rows, kHidden});
    const auto visit = [&](const auto& work) {
      int64_t begin = 0;
      for (const Segment& segment : segments) {
        const int64_t count = rows_in(segment);
        if (count > 0) work(weights[weights.size() == 1 ? 0 : segment.stream], begin, count);
        begin += count;
      }
    };
    visit([&](const AttentionWeights& w, int64_t begin, int64_t count) {
      Tensor qkv({}, DType::f32, {count, kShape.qkv_width()});
      ops::linear(ctx, x[sequence].view().rows(begin, count), w.qkv, qkv);
      const Shape part{kShape.heads, count, head_dim};
      Tensor parts[3]{{{}, dtype, part}, {{}, dtype, part}, {{}, dtype, part}};
      ops::split_heads_rope(ctx, qkv,
                            {w.q_norm, w.k_norm, kShape.norm_eps, cos[sequence].view().rows(begin, count),
                             sin[sequence].view().rows(begin, count), kShape.pairs},
                            std::array{ops::HeadGroup{parts[0], parts[1], parts[2]}});
      const ops::RowRun run{0, begin, count};
      ops::copy_rows(ctx, parts[0], q, {&run, 1});
      ops::copy_rows(ctx, parts[1], k, {&run, 1});
      ops::copy_rows(ctx, parts[2], v, {&run, 1});
    });
    ops::attention(ctx, {q, k, v}, 0.25f, false, mixed);
    visit([&](const AttentionWeights& w, int64_t begin, int64_t count) {
      ops::linear(ctx, mixed.view().rows(begin, count), w.out, projected.view().rows(begin, count));
    });
    return projected;
  }

  std::vector<std::vector<Segment>> layouts;
  parallel::Grid grid;
  DType dtype;
  std::vector<Tensor> norms;
  std::vector<AttentionWeights> weights;
  std::vector<Tensor> x, cos, sin, wanted;
};

/// Runs the layer on this rank's rows of both sequences at once.
void expect_bits_of_one_by_one(const TwoStreams& layer, const SequenceParallel& picture, int rank) {
  Context ctx({}, 1);
  std::vector<ShardedSequence> sequences;
  for (const std::vector<Segment>& segments : layer.layouts) sequences.push_back(picture.sequence(segments));
  const std::vector<const ShardedSequence*> pointers = pointers_to(sequences);
  Tensor x({}, layer.dtype, {rows_of(pointers), kHidden}), projected({}, DType::f32, x.shape());
  std::vector<Tensor> tables;
  std::vector<RopeTable> ropes;
  int64_t begin = 0;
  for (size_t i = 0; i < sequences.size(); ++i) {
    const auto own = [&](const Tensor& whole) { return rows_of(whole, sequences[i].runs(), sequences[i].rows()); };
    copy_bytes(own(layer.x[i]), x.view().rows(begin, sequences[i].rows()));
    tables.push_back(own(layer.cos[i]));
    tables.push_back(own(layer.sin[i]));
    ropes.push_back({tables[2 * i].view(), tables[2 * i + 1].view()});
    begin += sequences[i].rows();
  }
  std::vector<AttendedSequence> attended;
  for (size_t i = 0; i < sequences.size(); ++i) attended.push_back({&sequences[i], ropes[i]});
  Arena measure(Device{});
  AttentionScratch::take(measure, kShape, pointers, layer.dtype);
  Arena arena(Device{}, measure.peak_bytes());
  std::fill_n(arena.take(measure.peak_bytes()), measure.peak_bytes(), std::byte{0xA5});  // what nobody fills shows
  arena.rewind(0);
  const AttentionScratch scratch = AttentionScratch::take(arena, kShape, pointers, layer.dtype);
  attention(ctx, attended, kShape, layer.weights, {x, projected}, scratch);
  begin = 0;
  for (size_t i = 0; i < sequences.size(); ++i) {
    const Tensor wanted = rows_of(layer.wanted[i], sequences[i].runs(), sequences[i].rows());
    const View got = projected.view().rows(begin, sequences[i].rows());
    EXPECT_TRUE(std::equal(got.bytes(), got.bytes() + got.size_in_bytes(), wanted.view().bytes()))
        << "sequence " << i << " on rank " << rank;
    begin += sequences[i].rows();
  }
}

/// Layouts whose text has weights of its own; ranks without a row of one stream or the other are among them.
std::vector<std::vector<std::vector<Segment>>> layouts() {
  const Segment image{.is_image = true};
  const auto text = [](int64_t rows) { return Segment{.rows = rows, .stream = 1}; };
  return {{{text(16), image, {.rows = 21}}, {text(3), image}},
          {{image, text(7)}, {image, text(33)}},
          {{text(0), image, {.rows = 5}}, {text(5), {.rows = 4}, image}}};
}

class AttentionOfStreams : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(World, AttentionOfStreams, testing::Range(1, 9));

TEST_P(AttentionOfStreams, AttendsTogetherBitForBit) {
  const int world = GetParam();
  for (const DType dtype : product_dtypes()) {
    for (const size_t streams : {1, 2}) {
      // The packed backend takes heads that are rotated already. One rank's lie in the products, which are f32 on CPUs.
      if (world == 1 && (streams == 1 || dtype != DType::f32) &&
          ops::packs_attention(Device{}, dtype, kShape.head_dim, false))
        continue;
      for (const auto& each : layouts()) {
        for (const parallel::Grid& grid : {parallel::Grid{5, 7}, parallel::Grid{1, 3}}) {
          SCOPED_TRACE(fmt::format("{} streams, {}x{} tokens, {}", streams, grid.height, grid.width, name(dtype)));
          const TwoStreams layer(each, grid, streams, dtype);
          for (const PlanKind kind : {PlanKind::token, PlanKind::axis}) {
            const parallel::ShardPlan plan =
                parallel::make_plan({.grid = grid, .ranks = world, .kind = kind, .heads = kShape.heads});
            if (world == 1) {
              expect_bits_of_one_by_one(layer, SequenceParallel(plan, kShape.head_dim), 0);
              continue;
            }
            run_ranks(world, [&](Communicator& comm) {
              const SequenceRanks ranks(comm, 1);
              expect_bits_of_one_by_one(layer, SequenceParallel(ranks, plan, kShape.head_dim), comm.rank());
            });
          }
        }
      }
    }
  }
}

TEST(AttentionStreams, NeedWeightsEach) {
  const TwoStreams layer({{{.rows = 2, .stream = 2}, {.is_image = true}}}, {1, 3}, 1, DType::f32);
  const SequenceParallel picture(parallel::make_plan({.grid = {1, 3}, .heads = kShape.heads}), kShape.head_dim);
  const ShardedSequence sequence = picture.sequence(layer.layouts[0]);
  const ShardedSequence* const one = &sequence;
  EXPECT_EQ(stream_rows({&one, 1}, 3), (std::vector<StreamRows>{{2, {0, 2}}, {0, {2, 3}}}));
  EXPECT_THROW(stream_rows({&one, 1}, 2), Error);
}

}  // namespace
}  // namespace nostos::nn
