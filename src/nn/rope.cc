// Implements rotary tables on the host.
#include "nn/rope.h"

#include <cmath>

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

  void set(int64_t token, int64_t pair, float angle) {
    const int64_t at = token * cos_.shape()[1] + pair;
    cos_.data<float>()[at] = std::cos(angle);
    sin_.data<float>()[at] = std::sin(angle);
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

void fill_axial_rope(Context& ctx, std::span<const int64_t> dims, double theta,
                     std::span<const AxialPosition> positions, RopeTable table) {
  const int64_t pairs = table.cos.shape()[1];
  check(dims.size() == 3 && dims[0] + dims[1] + dims[2] == 2 * pairs, "rotary axes add up to the head width");
  check(static_cast<int64_t>(positions.size()) == table.cos.shape()[0], "one position a token");
  HostTable host(table);
  int64_t first = 0;
  for (size_t axis = 0; axis < 3; ++axis) {
    for (int64_t i = 0; i < dims[axis] / 2; ++i) {
      const double frequency = 1.0 / std::pow(theta, static_cast<double>(2 * i) / static_cast<double>(dims[axis]));
      for (size_t t = 0; t < positions.size(); ++t) {
        const float angle = static_cast<float>(static_cast<double>(positions[t][axis]) * frequency);
        host.set(static_cast<int64_t>(t), first + i, angle);
      }
    }
    first += dims[axis] / 2;
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
