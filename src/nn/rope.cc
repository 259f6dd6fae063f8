// Implements rotary tables on the host.
#include "nn/rope.h"

#include <cmath>

#include "base/error.h"

namespace nostos::nn {

RopeTable RopeTable::take(Arena& arena, int64_t tokens, int64_t head_dim) {
  return {nostos::take(arena, DType::f32, {tokens, head_dim / 2}),
          nostos::take(arena, DType::f32, {tokens, head_dim / 2})};
}

void fill_axial_rope(Context&, std::span<const int64_t> dims, double theta, std::span<const AxialPosition> positions,
                     RopeTable table) {
  const int64_t pairs = table.cos.shape()[1];
  check(dims.size() == 3 && dims[0] + dims[1] + dims[2] == 2 * pairs, "rotary axes add up to the head width");
  check(static_cast<int64_t>(positions.size()) == table.cos.shape()[0], "one position a token");
  float* cos = table.cos.data<float>();
  float* sin = table.sin.data<float>();
  int64_t first = 0;
  for (size_t axis = 0; axis < 3; ++axis) {
    for (int64_t i = 0; i < dims[axis] / 2; ++i) {
      const double frequency = 1.0 / std::pow(theta, static_cast<double>(2 * i) / static_cast<double>(dims[axis]));
      for (size_t t = 0; t < positions.size(); ++t) {
        const float angle = static_cast<float>(static_cast<double>(positions[t][axis]) * frequency);
        const size_t at = t * static_cast<size_t>(pairs) + static_cast<size_t>(first + i);
        cos[at] = std::cos(angle);
        sin[at] = std::sin(angle);
      }
    }
    first += dims[axis] / 2;
  }
}

void fill_sequence_rope(Context&, double theta, RopeTable table) {
  const int64_t tokens = table.cos.shape()[0], pairs = table.cos.shape()[1];
  float* cos = table.cos.data<float>();
  float* sin = table.sin.data<float>();
  for (int64_t i = 0; i < pairs; ++i) {
    const float frequency =
        1.f / std::pow(static_cast<float>(theta), static_cast<float>(2 * i) / static_cast<float>(2 * pairs));
    for (int64_t t = 0; t < tokens; ++t) {
      const float angle = static_cast<float>(t) * frequency;
      cos[t * pairs + i] = std::cos(angle);
      sin[t * pairs + i] = std::sin(angle);
    }
  }
}

}  // namespace nostos::nn
