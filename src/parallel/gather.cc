// Implements cutting and joining with plain copies.
#include "parallel/gather.h"

#include <cstring>

#include "base/error.h"

namespace nostos::parallel {
namespace {

/// Planes of [..., rows, columns].
struct Planes {
  int64_t count, rows, columns;
  size_t element_bytes;

  explicit Planes(ConstView view) : element_bytes(size_bytes(view.dtype())) {
    const int rank = view.shape().rank();
    check(rank >= 2, "a latent has at least height and width");
    rows = view.shape()[rank - 2];
    columns = view.shape()[rank - 1];
    count = 1;
    for (int axis = 0; axis < rank - 2; ++axis) count *= view.shape()[axis];
  }
  /// Byte offset of an element.
  size_t offset(int64_t plane, int64_t row, int64_t column) const {
    return static_cast<size_t>((plane * rows + row) * columns + column) * element_bytes;
  }
};

/// Calls copy(byte offset in the whole, byte offset in the part, bytes) for every row of the rectangle.
template <class Copy>
void for_each_row(const Rectangle& rectangle, ConstView whole, ConstView part, const Copy& copy) {
  const Planes w(whole), p(part);
  const auto& [rows, columns] = rectangle;
  check(part.dtype() == whole.dtype() && p.count == w.count, "planes and dtypes of part and whole are alike");
  check(rows.end() <= w.rows && columns.end() <= w.columns, "the rectangle lies in the whole latent");
  check(rows.count <= p.rows && columns.count <= p.columns, "the part holds the rectangle");
  const size_t bytes = static_cast<size_t>(columns.count) * w.element_bytes;
  for (int64_t plane = 0; plane < w.count; ++plane) {
    for (int64_t row = 0; row < rows.count; ++row)
      copy(w.offset(plane, rows.begin + row, columns.begin), p.offset(plane, row, 0), bytes);
  }
}

void place_latent(const Rectangle& rectangle, ConstView part, View whole) {
  for_each_row(rectangle, whole, part, [&](size_t in_whole, size_t in_part, size_t bytes) {
    std::memcpy(whole.bytes() + in_whole, part.bytes() + in_part, bytes);
  });
}

/// \return parts[rank] of [ranks, ...].
ConstView part_of(ConstView parts, int64_t rank) {
  const ConstView one = parts.rows(rank, 1);
  Shape shape;
  for (int axis = 1; axis < one.shape().rank(); ++axis) shape.push_back(one.shape()[axis]);
  return one.reshape(shape);
}

}  // namespace

void cut_latent(const Rectangle& rectangle, ConstView whole, View part) {
  for_each_row(rectangle, whole, part, [&](size_t in_whole, size_t in_part, size_t bytes) {
    std::memcpy(part.bytes() + in_part, whole.bytes() + in_whole, bytes);
  });
}

void gather_latent(const ShardPlan& plan, ConstView parts, View whole) {
  check(plan.request.kind == PlanKind::axis, "only the axis plan deals a latent in rectangles");
  check(parts.shape()[0] == plan.request.ranks, "there is one part a rank");
  const Planes planes(whole);
  const auto& [grid, ranks, kind, heads, patch] = plan.request;
  check(planes.rows == patch * grid.height && planes.columns == patch * grid.width, "the latent is the plan's");
  for (int64_t rank = 0; rank < ranks; ++rank) place_latent(latent_bounds(plan, rank), part_of(parts, rank), whole);
}

void gather_latent(ConstView parts, View whole) {
  const Planes planes(whole);
  const int64_t ranks = parts.shape()[0];
  check(ranks >= 1 && planes.rows % ranks == 0, "without a plan the shards along height are equal");
  const int64_t rows = planes.rows / ranks;
  const ConstView first = part_of(parts, 0);
  const Planes part(first);
  check(part.rows == rows && part.columns == planes.columns, "a part has its share of the rows and every column");
  for (int64_t rank = 0; rank < ranks; ++rank)
    place_latent({{rank * rows, rows}, {0, planes.columns}}, part_of(parts, rank), whole);
}

}  // namespace nostos::parallel
