// Tests adapter files of every style against the weights that PEFT and LyCORIS make of them
// (tools/make_adapter_golden.py).
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "adapters/adapter.h"
#include "adapters/adapter_models.h"
#include "adapters/merge.h"
#include "adapters/tensor_values.h"
#include "io/safetensors.h"
#include "io/weight_store.h"

namespace nostos::test {
namespace {

const std::filesystem::path kData = std::filesystem::path(NOSTOS_SOURCE_DIR) / "tests/data/adapters";

struct AdapterCase {
  std::string model, name;
  int64_t modules = 0, targets = 0;
  std::vector<std::string> unmatched, duplicates, text_encoder;
};

std::vector<AdapterCase> cases() {
  std::ifstream file(kData / "adapters.json");
  const nlohmann::json about = nlohmann::json::parse(file);
  std::vector<AdapterCase> found;
  for (const nlohmann::json& c : about["cases"])
    found.push_back(
        {c["model"], c["name"], c["modules"], c["targets"], c["unmatched"], c["duplicates"], c["text_encoder"]});
  return found;
}

/// A tiny model's transformer, as numbers.
class Base {
 public:
  explicit Base(const std::filesystem::path& folder) : store_(WeightStore::open(folder / "transformer")) {}

  Matrix matrix(const std::string& name) const {
    const SafetensorsFile file(store_.where(name));
    return read_matrix(file, name);
  }

 private:
  WeightStore store_;
};

/// \return |a - b| / |b|.
double relative_error(const std::vector<double>& a, const std::vector<double>& b) {
  double difference = 0, length = 0;
  EXPECT_EQ(a.size(), b.size());
  for (size_t i = 0; i < b.size() && i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    length += b[i] * b[i];
  }
  return std::sqrt(difference / length);
}

std::vector<double> values(const Matrix& matrix) { return {matrix.values.begin(), matrix.values.end()}; }

/// \return rows first, middle and last of `matrix`, as the tool keeps them.
std::vector<double> some_rows(const Matrix& matrix) {
  std::vector<double> rows;
  for (const int64_t i : std::set<int64_t>{0, matrix.rows / 2, matrix.rows - 1})
    rows.insert(rows.end(), matrix.row(i), matrix.row(i + 1));
  return rows;
}

std::vector<double> products(const Matrix& matrix) {
  std::vector<double> sums;
  for (int64_t i = 0; i < matrix.rows; ++i) {
    double sum = 0;
    for (int64_t j = 0; j < matrix.columns; ++j)
      sum += static_cast<double>(matrix.row(i)[j]) * (1 + static_cast<double>(j) / static_cast<double>(matrix.columns));
    sums.push_back(sum);
  }
  return sums;
}

class AdapterGolden : public testing::TestWithParam<AdapterCase> {};

INSTANTIATE_TEST_SUITE_P(Styles, AdapterGolden, testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.model + "_" + info.param.name; });

TEST_P(AdapterGolden, MergedWeightsAreTheLibraries) {
  const AdapterCase& c = GetParam();
  const bool is_zimage = c.model == "zimage";
  const std::filesystem::path folder = is_zimage ? tiny_zimage() : tiny_flux2();
  const AdapterTargets targets = is_zimage ? zimage_targets(folder) : flux2_targets(folder);
  const SafetensorsFile file(kData / c.model / (c.name + ".safetensors"));
  const Adapter adapter = read_adapter(file, targets);
  const AdapterReport& report = adapter.report;
  EXPECT_EQ(report.modules, c.modules) << report.summary();
  EXPECT_EQ(report.targets, c.targets) << report.summary();
  EXPECT_EQ(report.unmatched, c.unmatched);
  EXPECT_EQ(report.duplicates, c.duplicates);
  EXPECT_EQ(report.text_encoder, c.text_encoder);

  const Base base(folder);
  std::map<std::string, Matrix> merged;
  for (const WeightUpdate& update : adapter.updates) {
    auto [found, is_new] = merged.try_emplace(update.target);
    if (is_new) found->second = base.matrix(update.target);
    ASSERT_EQ(found->second.columns, update.columns) << update.target;
    merge_update(update, 1, found->second.values);
  }
  const SafetensorsFile expected(kData / c.model / "expected.safetensors");
  // Measured: at most 2e-7, of DoRA, whose lengths the libraries take in float32.
  constexpr double kBound = 1e-6;
  for (const auto& [target, weight] : merged) {
    const std::string name = c.name + "/" + target;
    EXPECT_LE(relative_error(some_rows(weight), values(read_matrix(expected, name + "#rows"))), kBound) << name;
    EXPECT_LE(relative_error(products(weight), values(read_matrix(expected, name + "#products"))), kBound) << name;
  }
}

// A strength scales what is added, as PEFT's scale does.
TEST(Adapter, StrengthScalesTheChange) {
  const SafetensorsFile file(kData / "zimage/kohya.safetensors");
  const Adapter adapter = read_adapter(file, zimage_targets(tiny_zimage()));
  const Base base(tiny_zimage());
  for (const WeightUpdate& update : adapter.updates) {
    const Matrix before = base.matrix(update.target);
    Matrix half = before, whole = before, none = before;
    merge_update(update, 0, none.values);
    EXPECT_EQ(none.values, before.values);
    merge_update(update, 0.5, half.values);
    merge_update(update, 1, whole.values);
    for (size_t i = 0; i < before.values.size(); ++i)
      ASSERT_NEAR(half.values[i], (before.values[i] + whole.values[i]) / 2, 1e-5f);
  }
}

TEST(Adapter, SummaryCountsAndNamesWhatIsNotUsed) {
  const SafetensorsFile file(kData / "zimage/text_encoder.safetensors");
  const std::string text = read_adapter(file, zimage_targets(tiny_zimage())).report.summary();
  for (const std::string_view part : {"1 modules (1 LoRA) change 1 weights of Z-Image", "behind lora_unet_", "rank 4",
                                      "alpha 2", "iteration", "lora_te_layers_0_self_attn_q_proj.alpha"})
    EXPECT_NE(text.find(part), std::string::npos) << text << "\n lacks " << part;
}

}  // namespace
}  // namespace nostos::test
