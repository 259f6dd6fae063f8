// Tests what a device can do, and that what it cannot is refused before anything runs.
#include "ops/capabilities.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "ops/attention.h"
#include "ops/conv.h"
#include "ops/linear.h"
#include "ops/norm.h"
#include "ops/support.h"

namespace nostos {
namespace {

TEST(Capabilities, ArePrinted) {
  EXPECT_EQ(to_string(ops::Capabilities{}), "what every device can");
  EXPECT_EQ(to_string(ops::Capabilities{.bf16_products = true, .packed_head_dim = 128}),
            "bf16 products, packed attention of heads of 128");
  EXPECT_EQ(to_string(ops::Capabilities{true, true, true, true, true, 128, 8, 4, 4096, 16, 64}),
            "bf16 products, 8-bit products, 8-bit attention, borrowed weights, planned convolutions, packed attention "
            "of heads of 128, gated products of widths in 8s, sums of products in 4s, norms of up to 4096 channels in "
            "8 bits, upsampling by phases of channels in 16s, fused in 64s");
}

TEST(Capabilities, ACpuFusesNothing) {
  const ops::Capabilities can = ops::capabilities(Device{});
  EXPECT_FALSE(can.borrowed_weights || can.planned_convolutions);
  EXPECT_EQ(can.packed_head_dim + can.gated_multiple + can.summed_multiple + can.most_rounded_channels +
                can.phase_multiple + can.fused_phase_multiple,
            0);
  EXPECT_FALSE(ops::rounds_next_norm(Device{}, 256));
  EXPECT_FALSE(ops::packs_attention(Device{}, DType::bf16, 128, false));
  EXPECT_FALSE(ops::packs_attention(Device{}, DType::bf16, 0, false));
  EXPECT_FALSE(ops::fuses_gated_linear(Device{}, DType::bf16, {64, 64, false}));
}

TEST(Capabilities, WhatACpuCannotIsAnError) {
  Context ctx({}, 1);
  Tensor qkv = random_tensor(DType::f32, {4, 3 * 8}, 1), out(Device{}, DType::f32, {4, 8});
  const Tensor filter = random_tensor(DType::f32, {4, 4, 3, 3}, 1), bias = random_tensor(DType::f32, {4}, 2);
  EXPECT_THROW(ops::packed_attention(ctx, qkv, {}, {1, 1}, 1, out), Error);
  EXPECT_THROW(ops::borrow_linear(ctx, qkv), Error);
  EXPECT_THROW(ops::interleave_gates(ctx, qkv, qkv), Error);
  EXPECT_THROW(ops::pack_phases(ctx, filter, bias), Error);
  EXPECT_EQ(ops::pack_upsampling_conv2d(ctx, filter, bias).kernel, 3);
}

}  // namespace
}  // namespace nostos
