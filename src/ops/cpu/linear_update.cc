// Implements what is added beside a weight: sums over the left factor of a Kronecker product, and factors of outputs.
#include "ops/linear_update.h"

#include <algorithm>

#include "ops/cpu/parallel.h"
#include "ops/cpu/row_kernels.h"
#include "ops/device_op.h"
#include "ops/typed.h"

namespace nostos::ops {

using namespace cpu;

void run(OnCpu<add_kronecker>, Context& ctx, ConstView products, ConstView left, const KroneckerRows& rows, View y) {
  const int64_t b = products.shape()[1], c = products.shape()[2], out = y.shape()[1];
  const float* from = products.data<float>();
  const float* factors = left.data<float>();
  float* to = y.data<float>();
  parallel_ranges(ctx, y.shape()[0], row_grain(rows.count * b), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      // Pieces of one row of `left` that stand side by side in y.
      for (int64_t i = 0; i < rows.count;) {
        const int64_t k = rows.first_row + i;
        const int64_t length = std::min({rows.count - i, c - k % c, rows.run - i % rows.run});
        row_kernels().add_weighted_rows(from + r * b * c + k % c, c, factors + k / c * b, b, length,
                                        to + r * out + rows.row(i));
        i += length;
      }
    }
  });
}

void run(OnCpu<scale_columns>, Context& ctx, ConstView sums, ConstView scale, ConstView bias, View y, bool accumulate) {
  const int64_t out = y.shape()[1];
  const float *from = sums.data<float>(), *by = scale.data<float>(), *plus = optional_data<float>(bias);
  float* to = y.data<float>();
  parallel_ranges(ctx, y.shape()[0], row_grain(out), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      for (int64_t i = 0; i < out; ++i) {
        const float scaled = by[i] * from[r * out + i] + (plus != nullptr ? plus[i] : 0.f);
        float& at = to[r * out + i];
        at = accumulate ? at + scaled : scaled;
      }
    }
  });
}

}  // namespace nostos::ops
