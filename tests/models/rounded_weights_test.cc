// Tests which of a model's weights become 8-bit numbers.
#include <gtest/gtest.h>

#include <memory>

#include "models/synthetic_source.h"
#include "models/weight_builder.h"
#include "ops/int8_linear.h"
#include "ops/support.h"

namespace nostos::test {
namespace {

constexpr int64_t kOut = 24, kIn = 272;

/// What is built in a block of a step, and where it ended up.
class RoundedWeights : public testing::Test {
 protected:
  template <class Build>
  Linear built(const Build& build, BlockUse use = BlockUse::each_step, BlockUse rounded = BlockUse::each_step) {
    products_.use = rounded;
    WeightBuilder builder(ctx_, std::make_shared<SyntheticSource>(ctx_, format_), DType::f32);
    builder.set_products(products_);
    builder.begin_block(use);
    Linear made = build(builder);
    builder.end_block();
    kept_ = builder.finish();
    return made;
  }
  static Linear plain(WeightBuilder& b, int64_t out = kOut, int64_t in = kIn) {
    return b.linear("w", out, in, false, DType::f32);
  }

  Context ctx_{{}, 1};
  BlockProducts products_{.round = true};
  std::optional<WeightFormat> format_;  ///< of the matrices that it fits
  WeightStorage kept_;
};

TEST_F(RoundedWeights, AreThoseOfTheUseThatWasAsked) {
  const auto build = [](WeightBuilder& b) { return plain(b); };
  EXPECT_TRUE(built(build).int8);
  EXPECT_FALSE(built(build, BlockUse::once_a_prompt).int8);
  EXPECT_TRUE(built(build, BlockUse::once_a_prompt, BlockUse::once_a_prompt).int8);
  EXPECT_EQ(kept_.unrounded, 0u);
}

TEST_F(RoundedWeights, ARotationIsAsWideAsTheInputsAllow) {
  EXPECT_EQ(built([](WeightBuilder& b) { return plain(b); }).int8.rotation, ops::kNarrowRotation);
  EXPECT_EQ(built([](WeightBuilder& b) { return plain(b, kOut, 512); }).int8.rotation, ops::kWideRotation);
}

TEST_F(RoundedWeights, OfOtherShapesAreCounted) {
  EXPECT_FALSE(built([](WeightBuilder& b) { return plain(b, 20); }).int8);
  EXPECT_EQ(kept_.unrounded, 1u);
  EXPECT_FALSE(built([](WeightBuilder& b) { return plain(b, kOut, 280); }).int8);
  EXPECT_EQ(kept_.unrounded, 1u);
}

TEST_F(RoundedWeights, OfOtherFormatsAreRoundedAnewAndCounted) {
  const auto build = [](WeightBuilder& b) { return plain(b, kOut, 512); };
  EXPECT_TRUE(built(build).int8);
  EXPECT_EQ(kept_.requantised, 0u);
  format_ = parse_synthetic_format("q8_0");
  EXPECT_TRUE(built(build).int8);
  EXPECT_EQ(kept_.requantised, 1u);
  format_ = parse_synthetic_format("int8_convrot");
  EXPECT_TRUE(built(build).int8);
  EXPECT_EQ(kept_.requantised, 0u) << "these are taken as they are";
}

TEST_F(RoundedWeights, WithABiasOrASumAreNot) {
  EXPECT_FALSE(built([](WeightBuilder& b) { return b.linear("w", kOut, kIn, true, DType::f32); }).int8);
  EXPECT_FALSE(built([](WeightBuilder& b) { return b.stacked_with_bias({"a", "b"}, kOut, kIn); }).int8);
  EXPECT_FALSE(built([](WeightBuilder& b) { return b.summand(MatrixPart::all("w", kOut, kIn)); }).int8);
  EXPECT_TRUE(built([](WeightBuilder& b) { return b.part(MatrixPart::all("w", kOut, kIn)); }).int8);
  EXPECT_EQ(kept_.unrounded, 0u) << "their shape is not what rules them out";
}

TEST_F(RoundedWeights, ThatAreKeptAreNot) {
  products_.kept = {"b"};
  const auto two = [](WeightBuilder& b) { return b.stacked({"a", "b"}, {kOut, kOut}, kIn); };
  EXPECT_FALSE(built(two).int8) << "a product with one that is kept";
  EXPECT_TRUE(built([](WeightBuilder& b) { return b.stacked({"a", "c"}, {kOut, kOut}, kIn); }).int8);
  EXPECT_EQ(kept_.unrounded, 0u);
}

TEST_F(RoundedWeights, WhereStoredOnesAloneAreTakenOthersAreNot) {
  products_.only_stored = true;
  format_ = WeightFormat{StoredType::i8, WeightScales::each_row, ops::kWideRotation};
  const auto stored = [](WeightBuilder& b) { return plain(b, kOut, 512); };
  EXPECT_TRUE(built(stored).int8);
  EXPECT_FALSE(built([](WeightBuilder& b) { return plain(b); }).int8) << "which the format does not fit";
  format_.reset();
  EXPECT_FALSE(built(stored).int8);
}

TEST_F(RoundedWeights, AndThoseThatCouldBeAreWatched) {
  products_.watch = std::make_shared<const InputWatch>();
  for (const bool round : {true, false}) {
    products_.round = round;
    EXPECT_EQ(built([](WeightBuilder& b) { return plain(b); }).watch, products_.watch);
    EXPECT_EQ(built([](WeightBuilder& b) { return plain(b, 20); }).watch, nullptr);
    EXPECT_EQ(built([](WeightBuilder& b) { return plain(b); }, BlockUse::once_a_prompt).watch, nullptr);
    EXPECT_EQ(built([](WeightBuilder& b) { return b.summand(MatrixPart::all("w", kOut, kIn)); }).watch, nullptr);
  }
}

// Of stacked matrices each row has its own scale: they are rounded as each of them alone.
TEST_F(RoundedWeights, AreThoseOfEachMatrixAlone) {
  const Linear both = built([](WeightBuilder& b) { return b.stacked({"a", "b"}, {kOut, kOut}, kIn); });
  const WeightStorage kept = std::move(kept_);
  for (const auto& [name, row] : {std::pair{"a", int64_t{0}}, {"b", kOut}}) {
    const Linear one = built([&](WeightBuilder& b) { return b.stacked({name}, {kOut}, kIn); });
    EXPECT_TRUE(same_bits(one.int8.numbers, both.int8.numbers.rows(row, kOut))) << name;
    EXPECT_TRUE(same_bits(one.int8.scales, both.int8.scales.rows(row, kOut))) << name;
  }
}

}  // namespace
}  // namespace nostos::test
