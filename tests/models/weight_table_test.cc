// Tests that every matrix of a checkpoint is found once among a model's loaded weights, and where its numbers are.
#include "models/weight_table.h"
#include "models/synthetic_source.h"

#include <gtest/gtest.h>

#include <set>
#include <vector>

#include "base/error.h"
#include "models/autoencoder_kl/weights.h"
#include "models/flux2/weights.h"
#include "models/golden.h"
#include "models/qwen3/weights.h"
#include "models/zimage/weights.h"
#include "ops/elementwise.h"

namespace nostos::test {
namespace {

/// \return the packed weight's matrix [out, in], by multiplying it with the unit matrix: sums of one number are exact.
Tensor unpacked(Context& ctx, const Linear& weight) {
  Tensor unit({}, weight.input, {weight.in, weight.in}), columns({}, DType::f32, {weight.in, weight.out});
  ops::clear(ctx, unit);
  for (int64_t i = 0; i < weight.in; ++i) {
    if (weight.input == DType::bf16)
      unit.data<bfloat16>()[i * weight.in + i] = to_bfloat16(1);
    else
      unit.data<float>()[i * weight.in + i] = 1;
  }
  Linear alone = weight;
  alone.bias = {};
  ops::linear(ctx, unit, alone, columns);
  Tensor made({}, DType::f32, {weight.out, weight.in});
  for (int64_t o = 0; o < weight.out; ++o)
    for (int64_t i = 0; i < weight.in; ++i)
      made.data<float>()[o * weight.in + i] = columns.data<float>()[i * weight.out + o];
  return made;
}

/// The checkpoint of one part, and the names of its matrices that products take.
struct Part {
  explicit Part(const std::filesystem::path& folder) : store(WeightStores().open(folder)) {
    const std::string head = store->info("model.embed_tokens.weight") != nullptr ? "model." : "";
    prefix = head;
    for (const auto& [name, info] : store->list()) {
      if (info.extents.size() == 2 && name.starts_with(prefix)) matrices.insert(name.substr(prefix.size()));
    }
  }
  WeightBuilder builder(Context& ctx) const {
    return {ctx, std::make_shared<StoreSource>(store, CheckpointNames{.prefix = prefix}, StoreSource::Mode::load),
            DType::f32};
  }

  std::shared_ptr<const WeightStore> store;
  std::string prefix;
  std::set<std::string> matrices;
};

/// How often the table names each number of a matrix [rows, columns].
class Cover {
 public:
  explicit Cover(const Shape& shape) : columns_(shape[1]), times_(static_cast<size_t>(shape.elements())) {}

  void add(int64_t row, int64_t column, int64_t count) {
    for (int64_t i = 0; i < count; ++i) ++times_[static_cast<size_t>(row * columns_ + column + i)];
  }
  bool has_all_once() const { return std::ranges::count(times_, 1) == std::ssize(times_); }

 private:
  int64_t columns_;
  std::vector<int> times_;
};

/// Expects the part of `whole`, f32, that a place names to have the same numbers in the packed weight, whose rows of it
/// are counted in `times`.
void expect_numbers(Context& ctx, const WeightPlace& place, ConstView whole, std::vector<int>& times) {
  const NamedRows& rows = *place.rows;
  const Linear& weight = *place.weight;
  ASSERT_LE(rows.from_row + rows.count, whole.shape()[0]) << rows.name;
  ASSERT_LE(rows.from_column + weight.in, whole.shape()[1]) << rows.name;
  const Tensor matrix = unpacked(ctx, weight);
  for (int64_t i = 0; i < rows.count; ++i) {
    const int64_t row = rows.row(i);
    ASSERT_TRUE(row >= 0 && row < weight.out) << rows.name;
    ++times[static_cast<size_t>(row)];
    const float* a = matrix.data<float>() + row * weight.in;
    const float* b = whole.data<float>() + (rows.from_row + i) * whole.shape()[1] + rows.from_column;
    ASSERT_TRUE(std::equal(a, a + weight.in, b))
        << rows.name << " row " << rows.from_row + i << " from column " << rows.from_column;
  }
}

/// Expects the table to have exactly the part's matrices, each whole and once, in parts or not, with the checkpoint's
/// numbers, and every row of a packed weight to be named once.
void expect_finds(Context& ctx, const WeightTable& table, Part& part) {
  std::map<std::string, Cover> found;
  std::map<const Linear*, std::vector<int>> named;
  for (const auto& [name, place] : table) {
    EXPECT_EQ(name, place.rows->name);
    const ConstView stored = part.store->find(part.prefix + name).value();
    Tensor whole({}, DType::f32, stored.shape());
    ops::convert(ctx, stored, whole);
    std::vector<int>& times = named[place.weight];
    times.resize(static_cast<size_t>(place.weight->out));
    ASSERT_NO_FATAL_FAILURE(expect_numbers(ctx, place, whole, times));
    Cover& cover = found.try_emplace(name, stored.shape()).first->second;
    for (int64_t i = 0; i < place.rows->count; ++i)
      cover.add(place.rows->from_row + i, place.rows->from_column, place.weight->in);
  }
  std::set<std::string> names;
  for (const auto& [name, cover] : found) {
    names.insert(name);
    EXPECT_TRUE(cover.has_all_once()) << name;
  }
  EXPECT_EQ(names, part.matrices);
  for (const auto& [weight, times] : named)
    EXPECT_EQ(std::ranges::count(times, 1), weight->out) << weight->rows.front().name;
}

class WeightTableTest : public testing::TestWithParam<GoldenModel> {
 protected:
  Context ctx_{{}, 2};
};

TEST_P(WeightTableTest, FindsTheTransformersMatrices) {
  const std::filesystem::path folder = GetParam().model / "transformer";
  Part part(folder);
  part.matrices.erase("x_pad_token");
  part.matrices.erase("cap_pad_token");
  WeightBuilder builder = part.builder(ctx_);
  const zimage::Weights weights =
      zimage::build_weights(zimage::load_config(JsonConfig::load(folder / "config.json")), builder);
  expect_finds(ctx_, zimage::weight_table(weights), part);
}

TEST_P(WeightTableTest, FindsTheTextEncodersMatrices) {
  const std::filesystem::path folder = GetParam().model / "text_encoder";
  const qwen3::Config config = qwen3::load_config(JsonConfig::load(folder / "config.json"));
  Part part(folder);
  // The table of the embedding is looked up, and the last layer never runs.
  const std::string last = "layers." + std::to_string(config.layers - 1) + ".";
  std::erase_if(part.matrices, [&](const std::string& name) {
    return name == "embed_tokens.weight" || name == "lm_head.weight" || name.starts_with(last);
  });
  WeightBuilder builder = part.builder(ctx_);
  const qwen3::Weights weights = qwen3::build_weights(config, builder);
  expect_finds(ctx_, qwen3::weight_table(weights), part);
}

TEST_P(WeightTableTest, FindsTheAutoencodersMatrices) {
  const std::filesystem::path folder = GetParam().model / "vae";
  Part part(folder);
  WeightBuilder builder = part.builder(ctx_);
  const autoencoder_kl::Weights weights = autoencoder_kl::build_weights(
      autoencoder_kl::load_config(JsonConfig::load(folder / "config.json")), builder);
  expect_finds(ctx_, autoencoder_kl::weight_table(weights), part);
}

INSTANTIATE_TEST_SUITE_P(Models, WeightTableTest, testing::ValuesIn(golden_models()),
                         [](const auto& info) { return info.param.name; });

class KleinWeightTable : public testing::TestWithParam<const char*> {
 protected:
  std::filesystem::path folder(const char* part) const {
    return std::filesystem::path(NOSTOS_SOURCE_DIR) / "tests/data/klein_tiny" / GetParam() / part;
  }
  Context ctx_{{}, 2};
};

INSTANTIATE_TEST_SUITE_P(Models, KleinWeightTable, testing::Values("distilled", "base"),
                         [](const auto& info) { return std::string(info.param); });

// A single block's first and last products are two matrices, loaded in three and two parts.
TEST_P(KleinWeightTable, FindsTheTransformersMatrices) {
  Part part(folder("transformer"));
  WeightBuilder builder = part.builder(ctx_);
  const flux2::Config config = flux2::load_config(JsonConfig::load(folder("transformer") / "config.json"));
  const flux2::Weights weights = flux2::build_weights(config, builder);
  const WeightTable table = flux2::weight_table(weights);
  expect_finds(ctx_, table, part);
  EXPECT_EQ(table.count("single_transformer_blocks.0.attn.to_qkv_mlp_proj.weight"), 3u);
  const auto [first, last] = table.equal_range("single_transformer_blocks.1.attn.to_out.weight");
  std::set<int64_t> columns;
  for (auto place = first; place != last; ++place) columns.insert(place->second.rows->from_column);
  EXPECT_EQ(columns, (std::set<int64_t>{0, config.hidden()}));
}

TEST_P(KleinWeightTable, FindsTheTextEncodersMatrices) {
  qwen3::Config config = qwen3::load_config(JsonConfig::load(folder("text_encoder") / "config.json"));
  config.feature_layers = {9, 18, 27};
  Part part(folder("text_encoder"));
  // The table of the embedding is looked up, and no layer runs after the last feature.
  std::erase_if(part.matrices, [&](const std::string& name) {
    int layer = 0;
    return name == "embed_tokens.weight" || name == "lm_head.weight" ||
           (std::sscanf(name.c_str(), "layers.%d.", &layer) == 1 && layer >= 27);
  });
  WeightBuilder builder = part.builder(ctx_);
  const qwen3::Weights weights = qwen3::build_weights(config, builder);
  expect_finds(ctx_, qwen3::weight_table(weights), part);
}

TEST_P(KleinWeightTable, FindsTheAutoencodersMatrices) {
  Part part(folder("vae"));
  WeightBuilder builder = part.builder(ctx_);
  const autoencoder_kl::Weights weights = autoencoder_kl::build_weights(
      autoencoder_kl::load_flux2_config(JsonConfig::load(folder("vae") / "config.json")), builder);
  expect_finds(ctx_, autoencoder_kl::weight_table(weights), part);
}

// What adapters take of a device is planned by such a table.
TEST(WeightTable, WithoutDataItIsTheSame) {
  Context ctx({}, 1);
  const std::filesystem::path folder = embedded_model().model / "transformer";
  const zimage::Config config = zimage::load_config(JsonConfig::load(folder / "config.json"));
  WeightBuilder lists(ctx, std::make_shared<ListingSource>(), DType::f32), loads = Part(folder).builder(ctx);
  const zimage::Weights listed = zimage::build_weights(config, lists), loaded = zimage::build_weights(config, loads);
  const auto places_of = [](const WeightTable& table) {
    std::vector<std::pair<std::string, NamedRows>> places;
    for (const auto& [name, place] : table) places.emplace_back(name, *place.rows);
    return places;
  };
  const auto places = places_of(zimage::weight_table(listed));
  EXPECT_FALSE(places.empty());
  EXPECT_EQ(places, places_of(zimage::weight_table(loaded)));
}

TEST(WeightTable, ANameTwiceIsAnError) {
  Linear a, b;
  a.rows = {{"w", 0, 4, 4, 4}};
  b.rows = {{"w", 0, 4, 4, 4}};
  WeightTable table;
  EXPECT_NO_THROW(add_places(table, {&a}));
  EXPECT_THROW(add_places(table, {&b}), Error);
  Linear c;
  c.rows = {{"w", 0, 4, 4, 4, 4, 0}, {"w", 4, 4, 4, 4, 0, 8}};
  EXPECT_NO_THROW(add_places(table, {&c})) << "other parts of the same matrix";
  EXPECT_THROW(add_places(table, {&c}), Error);
}

// Where gates are interleaved: eight rows of one matrix, eight of the other.
TEST(NamedRows, InRunsAreFound) {
  const NamedRows gate{"gate", 0, 24, 8, 16}, up{"up", 8, 24, 8, 16};
  std::vector<int> times(48);
  for (int64_t i = 0; i < 24; ++i) {
    EXPECT_EQ(gate.row(i), i / 8 * 16 + i % 8);
    EXPECT_EQ(up.row(i), gate.row(i) + 8);
    ++times[static_cast<size_t>(gate.row(i))];
    ++times[static_cast<size_t>(up.row(i))];
  }
  EXPECT_EQ(std::ranges::count(times, 1), 48);
}

}  // namespace
}  // namespace nostos::test
