// Implements products of an adapter's factors.
#include "adapters/factors.h"

#include "base/error.h"

namespace nostos {
namespace {

Matrix zeros(int64_t rows, int64_t columns) {
  return {rows, columns, std::vector<float>(static_cast<size_t>(rows) * static_cast<size_t>(columns))};
}

/// out[i b + j] = x[i] y[j].
void outer(const float* x, int64_t a, const float* y, int64_t b, float* out) {
  for (int64_t i = 0; i < a; ++i)
    for (int64_t j = 0; j < b; ++j) out[i * b + j] = x[i] * y[j];
}

}  // namespace

Matrix product(const Matrix& a, const Matrix& b) {
  check(a.columns == b.rows, "shapes of a product");
  Matrix out = zeros(a.rows, b.columns);
  std::vector<double> sums(static_cast<size_t>(b.columns));
  for (int64_t i = 0; i < a.rows; ++i) {
    std::fill(sums.begin(), sums.end(), 0.0);
    for (int64_t k = 0; k < a.columns; ++k) {
      const double factor = static_cast<double>(a.row(i)[k]);
      const float* row = b.row(k);
      for (size_t j = 0; j < sums.size(); ++j) sums[j] += factor * static_cast<double>(row[j]);
    }
    for (size_t j = 0; j < sums.size(); ++j) out.row(i)[j] = static_cast<float>(sums[j]);
  }
  return out;
}

Matrix kronecker_product(const Matrix& a, const Matrix& b) {
  Matrix out = zeros(a.rows * b.rows, a.columns * b.columns);
  for (int64_t i = 0; i < out.rows; ++i) outer(a.row(i / b.rows), a.columns, b.row(i % b.rows), b.columns, out.row(i));
  return out;
}

Matrix elementwise_product(const Matrix& a, const Matrix& b) {
  check(a.rows == b.rows && a.columns == b.columns, "shapes of an element-wise product");
  Matrix out = a;
  for (size_t i = 0; i < out.values.size(); ++i) out.values[i] *= b.values[i];
  return out;
}

Matrix row_products(const Matrix& a, const Matrix& c) {
  check(a.rows == c.rows, "rows of a product by rows");
  Matrix out = zeros(a.rows, a.columns * c.columns);
  for (int64_t i = 0; i < out.rows; ++i) outer(a.row(i), a.columns, c.row(i), c.columns, out.row(i));
  return out;
}

Matrix column_products(const Matrix& b, const Matrix& d) {
  check(b.columns == d.columns, "columns of a product by columns");
  Matrix out = zeros(b.rows * d.rows, b.columns);
  for (int64_t i = 0; i < out.rows; ++i)
    for (int64_t j = 0; j < out.columns; ++j) out.row(i)[j] = b.row(i / d.rows)[j] * d.row(i % d.rows)[j];
  return out;
}

Matrix identity(int64_t n) {
  Matrix out = zeros(n, n);
  for (int64_t i = 0; i < n; ++i) out.row(i)[i] = 1;
  return out;
}

Matrix rows_of(const Matrix& matrix, int64_t begin, int64_t count) {
  return {count, matrix.columns, {matrix.row(begin), matrix.row(begin + count)}};
}

}  // namespace nostos
