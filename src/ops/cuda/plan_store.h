// Owns the plans of matrix products as texts that are kept: to try all algorithms of all products takes seconds, which
// only the first process on a machine should spend.
#pragma once

#include <cublasLt.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/text_cache.h"
#include "ops/cuda/blas_lt.h"

namespace nostos::cuda {

/// What trials have found out about a product.
struct ProductPlan {
  std::vector<cublasLtMatmulAlgo_t> algorithms{};   ///< all give the same bits
  std::map<int64_t, std::vector<size_t>> ranked{};  ///< by row_bucket(): each of `algorithms` once, the fastest first
};

/// \return the text of a product's plan. \param key names what plans depend on
std::string to_text(const std::string& key, const Product& product, const ProductPlan& plan);
/// \return the plan that a text of to_text() holds; nothing if it is of another key or product, or damaged.
std::optional<ProductPlan> parse_product_plan(const std::string& text, const std::string& key, const Product& product);

/// One text a product, of a kind for each kind of GPU and version of the library: an algorithm is theirs.
class PlanStore {
 public:
  /// \param cache null: nothing is kept. \param key names what plans depend on; other plans are not read.
  PlanStore(std::shared_ptr<const TextCache> cache, std::string key);

  /// \return the product's plan; nothing if there is none, or what is there is of another key or damaged.
  std::optional<ProductPlan> load(const Product& product) const;
  /// Keeps the plan, and of one that is there already with the same algorithms what this one lacks.
  void save(const Product& product, const ProductPlan& plan) const;

 private:
  std::string place_of(const Product& product) const;

  std::shared_ptr<const TextCache> cache_;
  std::string key_;
};

}  // namespace nostos::cuda
