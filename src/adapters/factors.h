// Owns the few products of small matrices that turn one form of an adapter's factors into another. Sums are float64,
// rounded once.
#pragma once

#include "adapters/adapter.h"

namespace nostos {

/// \return a b. \throws Error internal unless a has as many columns as b rows
Matrix product(const Matrix& a, const Matrix& b);
/// \return the Kronecker product [a.rows b.rows, a.columns b.columns].
Matrix kronecker_product(const Matrix& a, const Matrix& b);
/// \return the element-wise product of equal shapes.
Matrix elementwise_product(const Matrix& a, const Matrix& b);
/// \return row by row the Kronecker product, [rows, a.columns b.columns]: with it (A B) o (C D), o element by element,
/// is row_products(A, C) column_products(B, D).
Matrix row_products(const Matrix& a, const Matrix& c);
/// \return column by column, [b.rows d.rows, columns].
Matrix column_products(const Matrix& b, const Matrix& d);
/// \return n rows and columns.
Matrix identity(int64_t n);
/// \return rows [begin, begin + count).
Matrix rows_of(const Matrix& matrix, int64_t begin, int64_t count);

}  // namespace nostos
