// Implements the merged weight.
#include "adapters/merge.h"

#include <cmath>

#include "base/error.h"

namespace nostos {
namespace {

void add_row(const LowRank& delta, int64_t row, std::vector<double>& out) {
  const float* up = delta.up->row(row);
  for (int64_t r = 0; r < delta.down->rows; ++r) {
    const double factor = static_cast<double>(up[r]);
    const float* down = delta.down->row(r);
    for (size_t j = 0; j < out.size(); ++j) out[j] += factor * static_cast<double>(down[j]);
  }
}

void add_row(const Kronecker& delta, int64_t row, std::vector<double>& out) {
  const int64_t of_product = delta.first_row + row;
  const float* left = delta.left->row(of_product / delta.right->rows);
  const float* right = delta.right->row(of_product % delta.right->rows);
  size_t place = 0;
  for (int64_t j = 0; j < delta.left->columns; ++j)
    for (int64_t l = 0; l < delta.right->columns; ++l)
      out[place++] += static_cast<double>(left[j]) * static_cast<double>(right[l]);
}

void add_row(const Dense& delta, int64_t row, std::vector<double>& out) {
  const float* difference = delta.difference->row(row);
  for (size_t j = 0; j < out.size(); ++j) out[j] += static_cast<double>(difference[j]);
}

/// \return what brings a length of sqrt(`squares`) to `wanted`.
double stretch(double wanted, double squares) { return squares == 0 ? 1 : wanted / std::sqrt(squares); }

}  // namespace

std::vector<double> delta_row(const WeightUpdate& update, int64_t row) {
  std::vector<double> out(static_cast<size_t>(update.columns));
  std::visit([&](const auto& delta) { add_row(delta, row, out); }, update.delta);
  return out;
}

void merge_update(const WeightUpdate& update, double strength, std::span<float> weight) {
  const size_t columns = static_cast<size_t>(update.columns);
  check(static_cast<size_t>(update.first_row + update.rows) * columns <= weight.size(), "rows of the target");
  const Magnitude* magnitude = update.magnitude ? &*update.magnitude : nullptr;
  const bool by_column = magnitude != nullptr && magnitude->axis == Magnitude::Axis::each_column;
  check(!by_column || static_cast<size_t>(update.rows) * columns == weight.size(), "columns of the whole target");
  std::vector<double> squares(by_column ? columns : 0);
  const double scale = strength * update.scale;
  for (int64_t i = 0; i < update.rows; ++i) {
    const std::span<float> row = weight.subspan(static_cast<size_t>(update.first_row + i) * columns, columns);
    std::vector<double> sum = delta_row(update, i);
    double row_squares = 0;
    for (size_t j = 0; j < columns; ++j) {
      sum[j] = static_cast<double>(row[j]) + scale * sum[j];
      row_squares += sum[j] * sum[j];
      if (by_column) squares[j] += sum[j] * sum[j];
    }
    const double factor = magnitude == nullptr || by_column
                              ? 1
                              : stretch(static_cast<double>(magnitude->values[static_cast<size_t>(i)]), row_squares);
    for (size_t j = 0; j < columns; ++j) row[j] = static_cast<float>(factor * sum[j]);
  }
  if (!by_column) return;
  for (size_t j = 0; j < columns; ++j) squares[j] = stretch(static_cast<double>(magnitude->values[j]), squares[j]);
  for (size_t i = 0; i < weight.size(); ++i)
    weight[i] = static_cast<float>(squares[i % columns] * static_cast<double>(weight[i]));
}

}  // namespace nostos
