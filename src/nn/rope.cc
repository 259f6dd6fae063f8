// Implements rotary tables on the host.
#include "nn/rope.h"

#include <cmath>
#include <numeric>

#include "base/error.h"
#include "tensor/transfer.h"

namespace nostos::nn {

RopeTable RopeTable::take(Arena& arena, int64_t tokens, int64_t head_dim) {
  return {nostos::take(arena, DType::f32, {tokens, head_dim / 2}),
          nostos::take(arena, DType::f32, {tokens, head_dim / 2})};
}

namespace {

/// The angles of a table, filled on the host.
class HostTable {
 public:
  explicit HostTable(const RopeTable& table)
      : table_(table), cos_(Device{}, DType::f32, table.cos.shape()), sin_(Device{}, DType::f32, table.sin.shape()) {}

  /// \param angle float or double: the precision in which cos and sin are taken.
  template <class Angle>
  void set(int64_t token, int64_t pair, Angle angle) {
    const int64_t at = token * cos_.shape()[1] + pair;
    cos_.data<float>()[at] = static_cast<float>(std::cos(angle));
    sin_.data<float>()[at] = static_cast<float>(std::sin(angle));
  }
  void upload_to(Context& ctx) const {
    upload(ctx, cos_, table_.cos);
    upload(ctx, sin_, table_.sin);
  }

 private:
  const RopeTable& table_;
  Tensor cos_, sin_;
};

}  // namespace

void fill_axial_rope(Context& ctx, const AxialRope& rope, std::span<const AxialPosition> positions, RopeTable table) {
  check(rope.dims.size() <= AxialPosition().size() &&
            std::accumulate(rope.dims.begin(), rope.dims.end(), int64_t{0}) == 2 * table.cos.shape()[1],
        "rotary axes add up to the head width");
  check(static_cast<int64_t>(positions.size()) == table.cos.shape()[0], "one position a token");
  HostTable host(table);
  int64_t pair = 0;
  for (size_t axis = 0; axis < rope.dims.size(); ++axis) {
    const int64_t dim = rope.dims[axis];
    for (int64_t i = 0; i < dim / 2; ++i, ++pair) {
      const double frequency = 1.0 / std::pow(rope.theta, static_cast<double>(2 * i) / static_cast<double>(dim));
      for (size_t t = 0; t < positions.size(); ++t) {
        const double angle = static_cast<double>(positions[t][axis]) * frequency;
        if (rope.angles == RopeAngles::float64)
          host.set(static_cast<int64_t>(t), pair, angle);
        else
          host.set(static_cast<int64_t>(t), pair, static_cast<float>(angle));
      }
    }
  }
  host.upload_to(ctx);
}

void fill_sequence_rope(Context& ctx, double theta, RopeTable table) {
  const int64_t tokens = table.cos.shape()[0], pairs = table.cos.shape()[1];
  HostTable host(table);
  for (int64_t i = 0; i < pairs; ++i) {
    const float frequency =
        1.f / std::pow(static_cast<float>(theta), static_cast<float>(2 * i) / static_cast<float>(2 * pairs));
    for (int64_t t = 0; t < tokens; ++t) host.set(t, i, static_cast<float>(t) * frequency);
  }
  host.upload_to(ctx);
}

}  // namespace nostos::nn
