// Owns what products that could be rounded are multiplied with while a model draws: some rows of each, to measure
// their errors by.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "ops/linear.h"

namespace nostos {

/// Rows that a product has seen.
struct SeenRows {
  std::vector<NamedRows> weight;  ///< which matrices, or parts of them, the product is with
  int64_t in = 0, out = 0;
  DType dtype = DType::f32;
  std::vector<std::byte> rows{};  ///< [rows, in] of the dtype
  std::vector<size_t> groups{};   ///< of each row
};

/// Collects rows. One thread at a time.
class LayerInputs {
 public:
  /// \param rows_each that are kept of each product of a group: spread over the input, and the one with the largest
  /// number among them, at least 1
  explicit LayerInputs(int64_t rows_each) : rows_each_(rows_each) {}

  /// \return what collects the rows here. The LayerInputs must live as long as what calls it.
  std::shared_ptr<const InputWatch> watch();
  /// What follows belongs to another group, e.g. another step.
  void next_group() { ++group_; }
  /// \return what every product has seen, in the order in which they came first.
  const std::vector<SeenRows>& products() const { return products_; }

 private:
  void see(Context& ctx, const Linear& w, ConstView x);

  int64_t rows_each_;
  size_t group_ = 0;
  std::vector<SeenRows> products_;
  std::map<std::string, size_t> places_;  // in products_, by what the product is with
};

}  // namespace nostos
