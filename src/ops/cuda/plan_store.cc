// Implements plans as text: the key, the product, a line an algorithm, a line a number of rows.
#include "ops/cuda/plan_store.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <functional>
#include <numeric>
#include <sstream>
#include <utility>

#include "base/log.h"

namespace nostos::cuda {
namespace {

using Algorithm = cublasLtMatmulAlgo_t;

constexpr const char* kFormat = "nostos product plan 1";

std::string name_of(const Product& product) {
  return fmt::format("{}x{}-{}-{}{}{}{}", product.out, product.in, name(product.x), name(product.y),
                     product.bias ? "-bias" : "", product.accumulate ? "-adding" : "",
                     product.weight_is_in_out ? "-transposed" : "");
}

bool has_same_algorithms(const ProductPlan& a, const ProductPlan& b) {
  return std::ranges::equal(a.algorithms, b.algorithms,
                            [](const Algorithm& x, const Algorithm& y) { return std::ranges::equal(x.data, y.data); });
}

/// \return whether `order` has each of the numbers below `count` once.
bool is_order_of(std::vector<size_t> order, size_t count) {
  std::ranges::sort(order);
  std::vector<size_t> all(count);
  std::iota(all.begin(), all.end(), size_t{0});
  return order == all;
}

}  // namespace

std::string to_text(const std::string& key, const Product& product, const ProductPlan& plan) {
  std::string text = fmt::format("{}\n{}\n{}\n", kFormat, key, name_of(product));
  for (const Algorithm& algorithm : plan.algorithms)
    text += fmt::format("algorithm {:x}\n", fmt::join(algorithm.data, " "));
  for (const auto& [rows, order] : plan.ranked) text += fmt::format("rows {} {}\n", rows, fmt::join(order, " "));
  return text + "end\n";
}

std::optional<ProductPlan> parse_product_plan(const std::string& text, const std::string& key, const Product& product) {
  std::istringstream lines(text);
  std::string line;
  for (const std::string& wanted : {std::string(kFormat), key, name_of(product)})
    if (!std::getline(lines, line) || line != wanted) return {};
  ProductPlan plan;
  while (std::getline(lines, line)) {
    std::istringstream words(line);
    std::string kind;
    words >> kind;
    if (kind == "algorithm") {
      Algorithm algorithm{};
      words >> std::hex;
      for (auto& word : algorithm.data) words >> word;
      std::string rest;
      if (!words || words >> rest || !plan.ranked.empty()) return {};
      plan.algorithms.push_back(algorithm);
    } else if (kind == "rows") {
      int64_t rows = 0;
      words >> rows;
      std::vector<size_t> order;
      for (size_t i = 0; words >> i;) order.push_back(i);
      if (rows <= 0 || !words.eof() || !is_order_of(order, plan.algorithms.size())) return {};
      if (!plan.ranked.emplace(rows, std::move(order)).second) return {};
    } else {
      if (line != "end" || plan.algorithms.empty()) return {};
      return plan;
    }
  }
  return {};
}

PlanStore::PlanStore(std::shared_ptr<const TextCache> cache, std::string key)
    : cache_(std::move(cache)), key_(std::move(key)) {}

std::string PlanStore::place_of(const Product& product) const {
  std::string plain = key_;
  const auto is_plain = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '.' || c == '-'; };
  std::ranges::replace_if(plain, std::not_fn(is_plain), '_');
  return plain + "/" + name_of(product);
}

std::optional<ProductPlan> PlanStore::load(const Product& product) const {
  const std::optional<std::string> text = cache_ ? cache_->load(place_of(product)) : std::nullopt;
  if (!text) return {};
  std::optional<ProductPlan> plan = parse_product_plan(*text, key_, product);
  if (!plan) log_debug("{} is no plan of this GPU and library: products are tried again", place_of(product));
  return plan;
}

void PlanStore::save(const Product& product, const ProductPlan& plan) const {
  if (!cache_) return;
  // Processes that began together have ranked other numbers of rows.
  ProductPlan all = plan;
  if (std::optional<ProductPlan> known = load(product); known && has_same_algorithms(*known, plan))
    all.ranked.merge(known->ranked);
  cache_->save(place_of(product), to_text(key_, product, all));
}

}  // namespace nostos::cuda
