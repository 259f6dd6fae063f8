// Implements the change of a weight that a module of an adapter file says.
#include "adapters/module_delta.h"

#include <algorithm>
#include <array>
#include <utility>

#include "adapters/factors.h"
#include "base/error.h"

namespace nostos {
namespace {

using Role = AdapterRole;

/// A factor of a weight's change, in whole or as a product of two.
struct Factor {
  MatrixShape shape;
  int64_t rank = 0;  ///< 0: in whole
};

/// The roles of a factor: in whole, and of the two whose product it is. A factor of some kinds is always a product.
struct FactorRoles {
  std::optional<Role> whole;
  Role up, down;
};
constexpr FactorRoles kLowRank{std::nullopt, Role::up, Role::down};
constexpr FactorRoles kLeft{Role::left, Role::left_up, Role::left_down};
constexpr FactorRoles kRight{Role::right, Role::right_up, Role::right_down};
constexpr FactorRoles kFirst{std::nullopt, Role::first_up, Role::first_down};
constexpr FactorRoles kSecond{std::nullopt, Role::second_up, Role::second_down};

bool has_any(const AdapterModule& module, const FactorRoles& roles) {
  return (roles.whole && module.has(*roles.whole)) || module.has(roles.up) || module.has(roles.down);
}

/// \return the factor's shape, whose tensors are there and fit. \throws Error model
Factor factor_of(const TensorFile& file, const AdapterModule& module, const FactorRoles& roles, std::string_view what) {
  const std::string& any = module.keys.begin()->second;
  if (roles.whole && module.has(*roles.whole)) {
    if (module.has(roles.up) || module.has(roles.down))
      fail(ErrorKind::model, "{} is there in whole and in factors", describe(file, module.key(*roles.whole)));
    return {matrix_shape(file, module.key(*roles.whole)), 0};
  }
  if (!module.has(roles.up) || !module.has(roles.down)) {
    const std::string& there = module.has(roles.up)     ? module.key(roles.up)
                               : module.has(roles.down) ? module.key(roles.down)
                                                        : any;
    fail(ErrorKind::model, "{} has no counterpart: the {} matrix of the module's {} is missing", describe(file, there),
         module.has(roles.up) ? "second" : "first", what);
  }
  const std::string &up = module.key(roles.up), &down = module.key(roles.down);
  const MatrixShape a = matrix_shape(file, up), b = matrix_shape(file, down);
  if (a.columns != b.rows)
    fail(ErrorKind::model, "{} and '{}' {} differ in rank: {} and {}", describe(file, up), down, to_string(b),
         a.columns, b.rows);
  if (a.columns > std::max(a.rows, b.columns))
    fail(ErrorKind::model, "{} has rank {}, larger than both sides of the matrix {} that it makes", describe(file, up),
         a.columns, to_string(MatrixShape{a.rows, b.columns}));
  return {{a.rows, b.columns}, a.columns};
}

/// \return the only kind that the module is of, nothing without any. \throws Error model
std::optional<DeltaKind> kind_of(const TensorFile& file, const AdapterModule& module) {
  const std::array<std::pair<bool, DeltaKind>, 4> kinds{
      {{has_any(module, kLowRank), DeltaKind::low_rank},
       {has_any(module, kLeft) || has_any(module, kRight), DeltaKind::kronecker},
       {has_any(module, kFirst) || has_any(module, kSecond), DeltaKind::hadamard},
       {module.has(Role::difference), DeltaKind::difference}}};
  std::optional<DeltaKind> found;
  for (const auto& [is_there, kind] : kinds) {
    if (!is_there) continue;
    if (found)
      fail(ErrorKind::model, "{}: module '{}' has both {} and {}", file.path().string(), module.name, name(*found),
           name(kind));
    found = kind;
  }
  return found;
}

/// \return a b, refused where it is larger than any weight.
int64_t checked_product(const TensorFile& file, const std::string& key, int64_t a, int64_t b) {
  constexpr int64_t kMost = int64_t{1} << 31;
  if (a > kMost / b) fail(ErrorKind::model, "{} makes a matrix of more than 2^31 rows or columns", describe(file, key));
  return a * b;
}

SharedMatrix shared(Matrix matrix) { return std::make_shared<const Matrix>(std::move(matrix)); }

/// A factor's numbers: `whole`, or two whose product it is.
struct FactorValues {
  Matrix whole, up, down;
  bool is_product = false;

  Matrix multiplied() const { return is_product ? product(up, down) : whole; }
};

FactorValues read_factor(const TensorFile& file, const AdapterModule& module, const FactorRoles& roles) {
  FactorValues values;
  values.is_product = module.has(roles.up);
  if (values.is_product) {
    values.up = read_matrix(file, module.key(roles.up));
    values.down = read_matrix(file, module.key(roles.down));
  } else {
    values.whole = read_matrix(file, module.key(*roles.whole));
  }
  return values;
}

/// Left x right, x the Kronecker product, as a product of two matrices: (A B) x (C D) = (A x C) (B x D). A factor in
/// whole is itself times the identity, on the side that makes the smaller rank.
Delta read_kronecker(const TensorFile& file, const AdapterModule& module, const DeltaShape& shape) {
  const FactorValues left = read_factor(file, module, kLeft), right = read_factor(file, module, kRight);
  const Factor l = factor_of(file, module, kLeft, ""), r = factor_of(file, module, kRight, "");
  const auto inner = [](const Factor& f) { return f.rank > 0 ? f.rank : std::min(f.shape.rows, f.shape.columns); };
  const double numbers = static_cast<double>(l.shape.rows) * static_cast<double>(l.shape.columns) +
                         static_cast<double>(r.shape.rows) * static_cast<double>(r.shape.columns);
  const double numbers_low_rank = static_cast<double>(inner(l)) * static_cast<double>(inner(r)) *
                                  static_cast<double>(shape.weight.rows + shape.weight.columns);
  if ((!left.is_product && !right.is_product) || numbers <= numbers_low_rank)
    return Kronecker{shared(left.multiplied()), shared(right.multiplied()), 0};
  const auto up = [](const FactorValues& f) {
    return f.is_product ? f.up : f.whole.rows < f.whole.columns ? identity(f.whole.rows) : f.whole;
  };
  const auto down = [](const FactorValues& f) {
    return f.is_product ? f.down : f.whole.rows < f.whole.columns ? f.whole : identity(f.whole.columns);
  };
  return LowRank{shared(kronecker_product(up(left), up(right))), shared(kronecker_product(down(left), down(right)))};
}

Delta read_hadamard(const TensorFile& file, const AdapterModule& module, const DeltaShape& shape) {
  const FactorValues first = read_factor(file, module, kFirst), second = read_factor(file, module, kSecond);
  const double rank = static_cast<double>(first.up.columns) * static_cast<double>(second.up.columns);
  const double rows = static_cast<double>(shape.weight.rows), columns = static_cast<double>(shape.weight.columns);
  if (rank * (rows + columns) < rows * columns)
    return LowRank{shared(row_products(first.up, second.up)), shared(column_products(first.down, second.down))};
  return Dense{shared(elementwise_product(first.multiplied(), second.multiplied()))};
}

}  // namespace

std::string_view name(DeltaKind kind) {
  switch (kind) {
    case DeltaKind::low_rank:
      return "LoRA";
    case DeltaKind::kronecker:
      return "LoKr";
    case DeltaKind::hadamard:
      return "LoHa";
    case DeltaKind::difference:
      return "difference";
  }
  return "";
}

std::optional<DeltaShape> delta_shape(const TensorFile& file, const AdapterModule& module) {
  const std::optional<DeltaKind> kind = kind_of(file, module);
  if (!kind) return std::nullopt;
  DeltaShape shape{*kind, {}, 0, ""};
  if (*kind == DeltaKind::low_rank) {
    const Factor factor = factor_of(file, module, kLowRank, "LoRA");
    shape = {*kind, factor.shape, factor.rank, module.key(Role::up)};
  } else if (*kind == DeltaKind::kronecker) {
    const Factor left = factor_of(file, module, kLeft, "first LoKr factor"),
                 right = factor_of(file, module, kRight, "second LoKr factor");
    shape.key = module.key(module.has(Role::right) ? Role::right : Role::right_up);
    shape.weight = {checked_product(file, shape.key, left.shape.rows, right.shape.rows),
                    checked_product(file, shape.key, left.shape.columns, right.shape.columns)};
    shape.rank = right.rank > 0 ? right.rank : left.rank;
  } else if (*kind == DeltaKind::hadamard) {
    const Factor first = factor_of(file, module, kFirst, "first LoHa factor"),
                 second = factor_of(file, module, kSecond, "second LoHa factor");
    shape = {*kind, first.shape, first.rank, module.key(Role::first_up)};
    if (!(second.shape == first.shape))
      fail(ErrorKind::model, "{} makes a matrix {}, the module's second factor {}", describe(file, shape.key),
           to_string(first.shape), to_string(second.shape));
  } else {
    shape.key = module.key(Role::difference);
    shape.weight = matrix_shape(file, shape.key);
  }
  return shape;
}

Delta read_delta(const TensorFile& file, const AdapterModule& module, const DeltaShape& shape) {
  switch (shape.kind) {
    case DeltaKind::low_rank: {
      FactorValues values = read_factor(file, module, kLowRank);
      return LowRank{shared(std::move(values.up)), shared(std::move(values.down))};
    }
    case DeltaKind::kronecker:
      return read_kronecker(file, module, shape);
    case DeltaKind::hadamard:
      return read_hadamard(file, module, shape);
    case DeltaKind::difference:
      break;
  }
  return Dense{shared(read_matrix(file, module.key(Role::difference)))};
}

Magnitude read_magnitude(const TensorFile& file, const std::string& key, const MatrixShape& weight) {
  Matrix values = read_matrix(file, key);
  const int64_t count = values.rows * values.columns;
  const bool is_vector = values.rows == 1 || values.columns == 1;
  const bool is_row = values.rows == 1 && values.columns > 1;
  const bool fits_rows = count == weight.rows, fits_columns = count == weight.columns;
  if (!is_vector || (!fits_rows && !fits_columns))
    fail(ErrorKind::model, "{} must have one number for each row or column of its weight {}", describe(file, key),
         to_string(weight));
  const bool by_column = fits_columns && (is_row || !fits_rows);
  return {by_column ? Magnitude::Axis::each_column : Magnitude::Axis::each_row, std::move(values.values)};
}

}  // namespace nostos
