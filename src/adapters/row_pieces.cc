// Implements cutting a change by rows.
#include "adapters/row_pieces.h"

#include <algorithm>
#include <map>
#include <utility>

#include "adapters/factors.h"

namespace nostos {
namespace {

/// \return the rows of all pieces, one piece after another; `matrix` itself where they are all of it, in order.
SharedMatrix gather(const SharedMatrix& matrix, std::span<const TargetRows> pieces) {
  if (pieces.size() == 1 && pieces[0].from == 0 && pieces[0].count == matrix->rows) return matrix;
  Matrix out{0, matrix->columns, {}};
  for (const TargetRows& piece : pieces) {
    out.values.insert(out.values.end(), matrix->row(piece.from), matrix->row(piece.from + piece.count));
    out.rows += piece.count;
  }
  return std::make_shared<const Matrix>(std::move(out));
}

Delta cut(const LowRank& delta, std::span<const TargetRows> pieces) {
  return LowRank{gather(delta.up, pieces), delta.down};
}
Delta cut(const Dense& delta, std::span<const TargetRows> pieces) { return Dense{gather(delta.difference, pieces)}; }
Delta cut(const Kronecker& delta, std::span<const TargetRows> pieces) {
  const int64_t inner = delta.right->rows, first = pieces[0].from / inner;
  const int64_t last = (pieces[0].from + pieces[0].count - 1) / inner;
  if (first == 0 && last + 1 == delta.left->rows) return Kronecker{delta.left, delta.right, pieces[0].from};
  return Kronecker{std::make_shared<const Matrix>(rows_of(*delta.left, first, last + 1 - first)), delta.right,
                   pieces[0].from - first * inner};
}

WeightUpdate update_of(const WholeUpdate& whole, std::span<const TargetRows> pieces) {
  WeightUpdate update;
  update.target = pieces[0].target;
  update.first_row = pieces[0].row;
  for (const TargetRows& piece : pieces) update.rows += piece.count;
  update.columns = whole.columns;
  update.scale = whole.scale;
  update.delta = std::visit([&](const auto& delta) { return cut(delta, pieces); }, whole.delta);
  if (!whole.magnitude) return update;
  update.magnitude = Magnitude{whole.magnitude->axis, {}};
  if (whole.magnitude->axis == Magnitude::Axis::each_column)
    update.magnitude->values = whole.magnitude->values;
  else
    for (const TargetRows& piece : pieces) {
      const auto begin = whole.magnitude->values.begin() + piece.from;
      update.magnitude->values.insert(update.magnitude->values.end(), begin, begin + piece.count);
    }
  return update;
}

}  // namespace

std::vector<WeightUpdate> cut_rows(const WholeUpdate& whole, std::span<const TargetRows> pieces) {
  std::map<std::string, std::vector<TargetRows>> by_target;
  for (const TargetRows& piece : pieces) by_target[piece.target].push_back(piece);
  std::vector<WeightUpdate> updates;
  for (auto& [target, own] : by_target) {
    std::sort(own.begin(), own.end(), [](const TargetRows& a, const TargetRows& b) { return a.row < b.row; });
    for (size_t begin = 0; begin < own.size();) {
      size_t end = begin + 1;
      const bool one_by_one = std::holds_alternative<Kronecker>(whole.delta);
      while (!one_by_one && end < own.size() && own[end].row == own[end - 1].row + own[end - 1].count) ++end;
      updates.push_back(update_of(whole, std::span(own).subspan(begin, end - begin)));
      begin = end;
    }
  }
  return updates;
}

}  // namespace nostos
