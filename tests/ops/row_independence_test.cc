// Tests the ground of the sharding promise: a row's (head's, slice's) result is the same bits whatever else is computed
// with it, and whatever the number of threads. Registered twice with ctest: natively and limited to AVX2.
#include <gtest/gtest.h>

#include <array>
#include <functional>
#include <set>

#include "ops/attention.h"
#include "ops/conv.h"
#include "ops/elementwise.h"
#include "ops/linear.h"
#include "ops/norm.h"
#include "ops/patches.h"
#include "ops/support.h"
#include "ops/updates.h"

namespace nostos {
namespace {

/// Numbers of rows computed together: one, around vector and block sizes, all.
const std::vector<int64_t> kShares = {1, 7, 32, 33, 64, 65, 1000};
const std::vector<int> kThreads = {1, 2};

/// \return one context a number of threads, shared by all tests: making oneDNN's handles takes a tenth of a second.
Context& context(int threads) {
  static Context one({}, 1), two({}, 2);
  return threads == 1 ? one : two;
}

/// Runs `op` on all `rows` at once with one thread, then on shares of them at several places with each number of
/// threads, and expects the same bits. \param op (ctx, first row, number of rows, output of these rows)
void expect_independent_rows(int64_t rows, DType dtype, const Shape& row_shape,
                             const std::function<void(Context&, int64_t, int64_t, View)>& op, const std::string& what) {
  const auto shape_of = [&](int64_t count) {
    Shape shape{count};
    for (int axis = 0; axis < row_shape.rank(); ++axis) shape.push_back(row_shape[axis]);
    return shape;
  };
  Tensor whole(Device{}, dtype, shape_of(rows));
  op(context(1), 0, rows, whole);
  for (const int threads : kThreads) {
    for (const int64_t share : kShares) {
      const int64_t count = std::min(share, rows);
      for (const int64_t first :
           std::set<int64_t>{0, std::min<int64_t>(1, rows - count), (rows - count) / 2, rows - count}) {
        Tensor part(Device{}, dtype, shape_of(count));
        op(context(threads), first, count, part);
        ASSERT_TRUE(same_bits(whole.view().rows(first, count), part))
            << what << ": rows " << first << " to " << first + count << " of " << rows << " differ with " << threads
            << " threads";
      }
    }
  }
}

struct LinearCase {
  int64_t in, out;
};

TEST(RowIndependence, Linear) {
  for (const DType dtype : product_dtypes()) {
    for (const LinearCase& c : {LinearCase{17, 31}, {64, 64}, {384, 1152}, {1024, 384}, {256, 1536}, {100, 257}}) {
      for (const bool accumulate : {false, true}) {
        const Tensor x = random_tensor(dtype, {130, c.in}, 1), weight = random_tensor(dtype, {c.out, c.in}, 2);
        const Tensor bias = random_tensor(DType::f32, {c.out}, 3), before = random_tensor(DType::f32, {130, c.out}, 4);
        Linear packed = ops::pack_linear(context(1), weight);
        if (accumulate) packed.bias = bias;
        expect_independent_rows(
            130, DType::f32, {c.out},
            [&](Context& ctx, int64_t first, int64_t count, View y) {
              copy_bytes(before.view().rows(first, count), y);
              ops::linear(ctx, x.view().rows(first, count), packed, y, accumulate);
            },
            fmt::format("linear {} {}x{}", name(dtype), c.in, c.out));
      }
    }
  }
}

TEST(RowIndependence, LinearSum) {
  constexpr int64_t kRows = 130, kIn = 200, kOut = 96;
  for (const DType dtype : product_dtypes()) {
    const Tensor x = random_tensor(dtype, {kRows, kIn}, 1), weight = random_tensor(dtype, {kOut, kIn}, 2);
    const Linear packed = ops::pack_linear(context(1), weight);
    expect_independent_rows(
        kRows, DType::f32, {kOut},
        [&](Context& ctx, int64_t first, int64_t count, View y) {
          const ConstView rows = x.view().rows(first, count);
          ops::linear_sum(ctx, rows, packed, rows, packed, y);
        },
        fmt::format("linear_sum {}", name(dtype)));
  }
}

TEST(RowIndependence, GatedLinear) {
  constexpr int64_t kRows = 400, kIn = 200, kFfn = 392;
  for (const DType dtype : product_dtypes()) {
    const Tensor x = random_tensor(dtype, {kRows, kIn}, 1), weight = random_tensor(dtype, {2 * kFfn, kIn}, 2);
    const GatedLinear packed = pack_gated(context(1), weight);
    expect_independent_rows(
        kRows, dtype, {kFfn},
        [&](Context& ctx, int64_t first, int64_t count, View out) {
          Tensor scratch(Device{}, DType::f32, {count, 2 * kFfn});
          ops::gated_linear(ctx, x.view().rows(first, count), packed, scratch, out);
        },
        fmt::format("gated_linear {}", name(dtype)));
  }
}

TEST(RowIndependence, UpdatedLinear) {
  constexpr int64_t kRows = 130, kIn = 200, kOut = 96;
  for (const DType dtype : product_dtypes()) {
    const Tensor x = random_tensor(dtype, {kRows, kIn}, 1), weight = random_tensor(dtype, {kOut, kIn}, 2);
    const Tensor bias = random_tensor(DType::f32, {kOut}, 3), before = random_tensor(DType::f32, {kRows, kOut}, 4);
    for (const UpdateKinds& kinds : kUpdateKinds) {
      for (const bool accumulate : {false, true}) {
        Linear packed = ops::pack_linear(context(1), weight);
        packed.update = RandomUpdate(dtype, kOut, kIn, kinds).make(context(1));
        if (accumulate) packed.bias = bias;
        expect_independent_rows(
            kRows, DType::f32, {kOut},
            [&](Context& ctx, int64_t first, int64_t count, View y) {
              copy_bytes(before.view().rows(first, count), y);
              ops::linear(ctx, x.view().rows(first, count), packed, y, accumulate);
            },
            fmt::format("updated linear {}{}", name(dtype), to_string(kinds)));
      }
    }
  }
}

TEST(RowIndependence, UpdatedGatedLinear) {
  constexpr int64_t kRows = 400, kIn = 200, kFfn = 104;
  for (const DType dtype : product_dtypes()) {
    const Tensor x = random_tensor(dtype, {kRows, kIn}, 1), weight = random_tensor(dtype, {2 * kFfn, kIn}, 2);
    for (const UpdateKinds& kinds : {UpdateKinds{.low_rank = true}, UpdateKinds{true, true, true, true}}) {
      GatedLinear packed = pack_gated(context(1), weight);
      packed.gate_up.update = RandomUpdate(dtype, 2 * kFfn, kIn, kinds).make(context(1));
      expect_independent_rows(
          kRows, dtype, {kFfn},
          [&](Context& ctx, int64_t first, int64_t count, View out) {
            Tensor scratch(Device{}, DType::f32, {count, 2 * kFfn});
            ops::gated_linear(ctx, x.view().rows(first, count), packed, scratch, out);
          },
          fmt::format("updated gated_linear {}{}", name(dtype), to_string(kinds)));
    }
  }
}

TEST(RowIndependence, Norms) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const int64_t n : {33, 384, 3840}) {
      const Tensor x = random_tensor(DType::f32, {67, n}, 1), weight = random_tensor(DType::f32, {n}, 2),
                   scale = random_tensor(DType::f32, {n}, 3);
      expect_independent_rows(
          67, dtype, {n},
          [&](Context& ctx, int64_t first, int64_t count, View out) {
            ops::rms_norm(ctx, x.view().rows(first, count), weight, scale, 1e-5f, out);
          },
          "rms_norm");
      expect_independent_rows(
          67, dtype, {n},
          [&](Context& ctx, int64_t first, int64_t count, View out) {
            ops::layer_norm_scaled(ctx, x.view().rows(first, count), scale, 1e-6f, out);
          },
          "layer_norm_scaled");
      expect_independent_rows(
          67, dtype, {n},
          [&](Context& ctx, int64_t first, int64_t count, View out) {
            ops::adaptive_layer_norm(ctx, x.view().rows(first, count), {scale, weight, 1e-6f}, out);
          },
          "adaptive_layer_norm");
      if (dtype == DType::bf16) continue;
      const Tensor before = random_tensor(DType::f32, {67, n}, 4);
      expect_independent_rows(
          67, dtype, {n},
          [&](Context& ctx, int64_t first, int64_t count, View out) {
            copy_bytes(before.view().rows(first, count), out);
            ops::add_gated_rms_norm(ctx, x.view().rows(first, count), {weight, scale, 1e-5f}, out);
          },
          "add_gated_rms_norm");
      expect_independent_rows(
          67, dtype, {n},
          [&](Context& ctx, int64_t first, int64_t count, View out) {
            copy_bytes(before.view().rows(first, count), out);
            ops::add_gated(ctx, x.view().rows(first, count), {weight, scale}, out);
          },
          "add_gated");
      expect_independent_rows(
          67, dtype, {n},
          [&](Context& ctx, int64_t first, int64_t count, View out) {
            copy_bytes(before.view().rows(first, count), out);
            ops::add_gated_adaptive_norm(ctx, x.view().rows(first, count), scale, out, {}, {});
          },
          "add_gated_adaptive_norm");
    }
  }
}

TEST(RowIndependence, GroupNorm) {
  constexpr int64_t kHeight = 37, kWidth = 29, kChannels = 64, kGroups = 32;
  const Tensor x = random_tensor(DType::f32, {kHeight, kWidth, kChannels}, 1),
               weight = random_tensor(DType::f32, {kChannels}, 2);
  const Tensor bias = random_tensor(DType::f32, {kChannels}, 3);
  expect_independent_rows(
      kHeight, DType::f64, {kGroups, 2},
      [&](Context& ctx, int64_t first, int64_t count, View sums) {
        ops::group_norm_row_sums(ctx, x.view().rows(first, count), sums);
      },
      "group_norm_row_sums");
  Tensor sums(Device{}, DType::f64, {kHeight, kGroups, 2});
  ops::group_norm_row_sums(context(1), x, sums);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const bool silu : {false, true}) {
      expect_independent_rows(
          kHeight, dtype, {kWidth, kChannels},
          [&](Context& ctx, int64_t first, int64_t count, View out) {
            ops::group_norm_apply(ctx, x.view().rows(first, count), sums, x.shape()[1], {weight, bias, 1e-6f, silu},
                                  out);
          },
          "group_norm_apply");
    }
  }
}

TEST(RowIndependence, Elementwise) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const int64_t n : {33, 1024}) {
      const Tensor x = random_tensor(DType::f32, {67, 2 * n}, 1, -8, 8);
      expect_independent_rows(
          67, dtype, {n},
          [&](Context& ctx, int64_t first, int64_t count, View out) {
            ops::silu_mul(ctx, x.view().rows(first, count), out);
          },
          "silu_mul");
      expect_independent_rows(
          67, dtype, {2 * n},
          [&](Context& ctx, int64_t first, int64_t count, View out) {
            ops::silu(ctx, x.view().rows(first, count), out);
          },
          "silu");
      expect_independent_rows(
          67, dtype, {2 * n},
          [&](Context& ctx, int64_t first, int64_t count, View out) {
            ops::convert(ctx, x.view().rows(first, count), out);
          },
          "convert");
    }
  }
}

/// \return tokens [first, first + count) of every head of x [heads, tokens, head_dim].
Tensor tokens_of(ConstView x, int64_t first, int64_t count) {
  const int64_t heads = x.shape()[0], tokens = x.shape()[1], head_dim = x.shape()[2];
  Tensor part(Device{}, x.dtype(), {heads, count, head_dim});
  for (int64_t h = 0; h < heads; ++h) {
    const ConstView head = x.rows(h, 1).reshape({tokens, head_dim}).rows(first, count);
    std::memcpy(part.view().rows(h, 1).bytes(), head.bytes(), head.size_in_bytes());
  }
  return part;
}

TEST(RowIndependence, AttentionQueries) {
  for (const DType dtype : product_dtypes()) {
    for (const int64_t head_dim : {16, 64, 128}) {
      for (const int64_t keys : {33, 160}) {
        const Tensor q = random_tensor(dtype, {2, 130, head_dim}, 1), k = random_tensor(dtype, {2, keys, head_dim}, 2);
        const Tensor v = random_tensor(dtype, {2, keys, head_dim}, 3);
        for (const bool rounded : {false, true}) {
          if (rounded && !ops::rounds_attention(Device{}, dtype, head_dim)) continue;
          expect_independent_rows(
              130, dtype, {2 * head_dim},
              [&](Context& ctx, int64_t first, int64_t count, View out) {
                ops::attention(ctx, {tokens_of(q, first, count), k, v}, {0.125f, rounded}, false, out);
              },
              fmt::format("attention {} width {} keys {} rounded {}", name(dtype), head_dim, keys, rounded));
        }
      }
    }
  }
}

// Heads dealt unevenly to ranks, grouped keys, and causal: each head alone gives what all give together.
TEST(RowIndependence, AttentionHeads) {
  constexpr int64_t kHeads = 6, kTokens = 70, kWidth = 64;
  for (const DType dtype : product_dtypes()) {
    for (const bool causal : {false, true}) {
      const Tensor q = random_tensor(dtype, {kHeads, kTokens, kWidth}, 1),
                   k = random_tensor(dtype, {kHeads, kTokens, kWidth}, 2);
      const Tensor v = random_tensor(dtype, {kHeads, kTokens, kWidth}, 3);
      Tensor whole(Device{}, dtype, {kTokens, kHeads * kWidth});
      ops::attention(context(1), {q, k, v}, 0.125f, causal, whole);
      const size_t head_bytes = static_cast<size_t>(kWidth) * size_bytes(dtype);
      for (const int threads : kThreads) {
        for (const int64_t share : {1, 2, 4, 5, 6}) {
          for (int64_t first = 0; first < kHeads; first += share) {
            const int64_t count = std::min(share, kHeads - first);
            Tensor part(Device{}, dtype, {kTokens, count * kWidth});
            ops::attention(context(threads),
                           {q.view().rows(first, count), k.view().rows(first, count), v.view().rows(first, count)},
                           0.125f, causal, part);
            for (int64_t t = 0; t < kTokens; ++t) {
              ASSERT_EQ(std::memcmp(part.view().rows(t, 1).bytes(),
                                    whole.view().rows(t, 1).bytes() + static_cast<size_t>(first) * head_bytes,
                                    static_cast<size_t>(count) * head_bytes),
                        0)
                  << name(dtype) << " heads " << first << " to " << first + count << " token " << t << " causal "
                  << causal;
            }
          }
        }
      }
    }
  }
}

TEST(RowIndependence, CausalPrefix) {
  // A longer sequence does not change the results of its beginning.
  constexpr int64_t kWidth = 64;
  for (const DType dtype : product_dtypes()) {
    const Tensor q = random_tensor(dtype, {2, 130, kWidth}, 1), k = random_tensor(dtype, {2, 130, kWidth}, 2),
                 v = random_tensor(dtype, {2, 130, kWidth}, 3);
    Tensor whole(Device{}, dtype, {130, 2 * kWidth});
    ops::attention(context(2), {q, k, v}, 0.125f, true, whole);
    for (const int64_t tokens : {64, 128}) {
      Tensor part(Device{}, dtype, {tokens, 2 * kWidth});
      ops::attention(context(2), {tokens_of(q, 0, tokens), tokens_of(k, 0, tokens), tokens_of(v, 0, tokens)}, 0.125f,
                     true, part);
      EXPECT_TRUE(same_bits(whole.view().rows(0, tokens), part)) << name(dtype) << " " << tokens;
    }
  }
}

TEST(RowIndependence, SplitHeadsRope) {
  constexpr int64_t kTokens = 67, kHeads = 3, kWidth = 32;
  const Tensor qkv = random_tensor(DType::f32, {kTokens, 3 * kHeads * kWidth}, 1),
               weight = random_tensor(DType::f32, {kWidth}, 2);
  const Tensor cos = random_tensor(DType::f32, {kTokens, kWidth / 2}, 3),
               sin = random_tensor(DType::f32, {kTokens, kWidth / 2}, 4);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    // Rows of the output here are tokens with q, k and v of all heads side by side.
    expect_independent_rows(
        kTokens, dtype, {3, kHeads, kWidth},
        [&](Context& ctx, int64_t first, int64_t count, View out) {
          Tensor parts(Device{}, dtype, {3, kHeads, count, kWidth});
          const auto part = [&](int64_t i) { return parts.view().rows(i, 1).reshape({kHeads, count, kWidth}); };
          ops::split_heads_rope(ctx, qkv.view().rows(first, count),
                                {weight, weight, 1e-5f, cos.view().rows(first, count), sin.view().rows(first, count),
                                 ops::RotaryPairs::interleaved},
                                std::array{ops::HeadGroup{part(0), part(1), part(2)}});
          const size_t head_bytes = static_cast<size_t>(kWidth) * size_bytes(dtype);
          for (int64_t t = 0; t < count; ++t) {
            for (int64_t h = 0; h < 3 * kHeads; ++h) {
              std::memcpy(out.bytes() + static_cast<size_t>(t * 3 * kHeads + h) * head_bytes,
                          parts.view().bytes() + static_cast<size_t>(h * count + t) * head_bytes, head_bytes);
            }
          }
        },
        "split_heads_rope");
  }
}

// Slices of an image with one halo row on either side where there is a neighbour, padding where there is none.
TEST(RowIndependence, ConvSlices) {
  struct Case {
    int64_t width, in, out;
  };
  constexpr int64_t kHeight = 37;
  for (const DType dtype : product_dtypes()) {
    for (const Case& c :
         {Case{45, 16, 32}, {64, 32, 32}, {90, 64, 3}, {23, 3, 64}, {33, 96, 48}, {33, 256, 128}, {33, 128, 64}}) {
      for (const bool accumulate : {false, true}) {
        const Tensor x = random_tensor(dtype, {kHeight, c.width, c.in}, 1),
                     filter = random_tensor(dtype, {c.out, c.in, 3, 3}, 2);
        const Tensor bias = random_tensor(DType::f32, {c.out}, 3),
                     before = random_tensor(DType::f32, {kHeight, c.width, c.out}, 4);
        const Conv2d packed = ops::pack_conv2d(context(1), filter, bias);
        expect_independent_rows(
            kHeight, DType::f32, {c.width, c.out},
            [&](Context& ctx, int64_t first, int64_t count, View y) {
              const int64_t above = first > 0 ? 1 : 0, below = first + count < kHeight ? 1 : 0;
              copy_bytes(before.view().rows(first, count), y);
              ops::conv2d(ctx, x.view().rows(first - above, count + above + below), packed,
                          {1, {1 - above, 1, 1 - below, 1}, accumulate}, y);
            },
            fmt::format("conv2d {} width {} {}->{}", name(dtype), c.width, c.in, c.out));
      }
    }
  }
}

TEST(RowIndependence, ImageMoves) {
  constexpr int64_t kWidth = 29, kChannels = 33;
  const Tensor x = random_tensor(DType::f32, {37, kWidth, kChannels}, 1, -1.2f, 1.2f);
  expect_independent_rows(
      37, DType::f32, {2, 2 * kWidth, kChannels},
      [&](Context& ctx, int64_t first, int64_t count, View out) {
        ops::upsample_nearest_2x(ctx, x.view().rows(first, count), out.reshape({2 * count, 2 * kWidth, kChannels}));
      },
      "upsample_nearest_2x");
  expect_independent_rows(
      37, DType::u8, {kWidth, kChannels},
      [&](Context& ctx, int64_t first, int64_t count, View out) {
        Tensor invalid = cleared_flag();
        ops::to_pixels(ctx, x.view().rows(first, count), out, invalid);
      },
      "to_pixels");
}

TEST(RowIndependence, Guide) {
  const Tensor positive = random_tensor(DType::f32, {1000, 64}, 1), negative = random_tensor(DType::f32, {1000, 64}, 2);
  expect_independent_rows(
      1000, DType::f32, {64},
      [&](Context& ctx, int64_t first, int64_t count, View out) {
        Tensor squares(Device{}, DType::f64, {count, 2});
        ops::guide(ctx, positive.view().rows(first, count), negative.view().rows(first, count), 4, out, squares);
      },
      "guide");
  expect_independent_rows(
      1000, DType::f64, {2},
      [&](Context& ctx, int64_t first, int64_t count, View squares) {
        Tensor out(Device{}, DType::f32, {count, 64});
        ops::guide(ctx, positive.view().rows(first, count), negative.view().rows(first, count), 4, out, squares);
      },
      "guide's sums of squares");
}

}  // namespace
}  // namespace nostos
