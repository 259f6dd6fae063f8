// Implements element-wise ops.
#include "ops/elementwise.h"

#include <cmath>
#include <cstring>

#include "ops/cpu/parallel.h"
#include "ops/cpu/row_kernels.h"
#include "ops/device_op.h"
#include "ops/typed.h"
#include "tensor/half.h"

namespace nostos::ops {

using namespace cpu;
namespace {

constexpr int64_t kGrain = 16384;  // elements a thread should at least get

/// \return bytes of one entry of the second axis.
size_t bytes_of_row(ConstView view) {
  int64_t elements = 1;
  for (int axis = 2; axis < view.shape().rank(); ++axis) elements *= view.shape()[axis];
  return static_cast<size_t>(elements) * size_bytes(view.dtype());
}

}  // namespace

void run(OnCpu<silu_mul>, Context& ctx, ConstView gate_up, View out) {
  const int64_t rows = out.shape()[0], n = out.shape()[1];
  const float* in = gate_up.data<float>();
  with_elements(out, [&]<class Out>(Out* to) {
    parallel_ranges(ctx, rows, row_grain(n), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        row_kernels().of<Out>().silu_mul(in + 2 * r * n, in + (2 * r + 1) * n, n, to + r * n);
      }
    });
  });
}

void run(OnCpu<silu>, Context& ctx, ConstView x, View out) {
  const float* in = x.data<float>();
  with_elements(out, [&]<class Out>(Out* to) {
    parallel_ranges(ctx, x.elements(), kGrain, [&](int64_t begin, int64_t end) {
      row_kernels().of<Out>().silu(in + begin, end - begin, to + begin);
    });
  });
}

void run(OnCpu<finish_modulation>, Context& ctx, View x) {
  const int64_t channels = x.shape()[1] / 4;
  float* to = x.data<float>();
  parallel_ranges(ctx, x.shape()[0] * 4, row_grain(channels), [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      const bool is_gate = part % 2 == 1;
      for (float* at = to + part * channels; at < to + (part + 1) * channels; ++at)
        *at = is_gate ? std::tanh(*at) : 1.f + *at;
    }
  });
}

void run(OnCpu<add>, Context& ctx, ConstView x, View y) {
  const float* from = x.data<float>();
  float* to = y.data<float>();
  parallel_ranges(ctx, x.elements(), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) to[i] += from[i];
  });
}

void run(OnCpu<add_scalar>, Context&, float value, View x) {
  float* to = x.data<float>();
  for (int64_t i = 0; i < x.elements(); ++i) to[i] += value;
}

void run(OnCpu<convert>, Context& ctx, ConstView x, View out) {
  const int64_t elements = x.elements();
  parallel_ranges(ctx, elements, kGrain, [&](int64_t begin, int64_t end) {
    const int64_t n = end - begin;
    if (x.dtype() == out.dtype()) {
      const size_t size = size_bytes(x.dtype());
      std::memcpy(out.bytes() + static_cast<size_t>(begin) * size, x.bytes() + static_cast<size_t>(begin) * size,
                  static_cast<size_t>(n) * size);
    } else if (x.dtype() == DType::bf16) {
      row_kernels().bf16_to_f32(x.data<bfloat16>() + begin, n, out.data<float>() + begin);
    } else if (x.dtype() == DType::f32) {
      row_kernels().of<bfloat16>().scale(x.data<float>() + begin, 1.f, n, out.data<bfloat16>() + begin);
    } else {
      const auto* halves = reinterpret_cast<const uint16_t*>(x.bytes()) + begin;
      for (int64_t i = 0; i < n; ++i) {
        const float value = half_to_float(halves[i]);
        if (out.dtype() == DType::f32)
          out.data<float>()[begin + i] = value;
        else
          out.data<bfloat16>()[begin + i] = to_bfloat16(value);
      }
    }
  });
}

void run(OnCpu<fill_rows>, Context& ctx, ConstView row, View out) {
  const int64_t n = out.shape()[1];
  const float* from = row.data<float>();
  float* to = out.data<float>();
  parallel_ranges(ctx, out.shape()[0], row_grain(n), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) std::memcpy(to + r * n, from, static_cast<size_t>(n) * sizeof(float));
  });
}

void run(OnCpu<clear>, Context&, View out) { std::memset(out.bytes(), 0, out.size_in_bytes()); }

void run(OnCpu<embed>, Context& ctx, ConstView table, ConstView ids, View out) {
  const int64_t n = out.shape()[1];
  const int32_t* id = ids.data<int32_t>();
  for (int64_t r = 0; r < out.shape()[0]; ++r)
    run(OnCpu<convert>(), ctx, table.rows(id[r], 1), out.rows(r, 1).reshape({1, n}));
}

void run(OnCpu<copy_rows>, Context& ctx, ConstView from, View to, std::span<const RowRun> runs) {
  const int64_t outer = from.shape()[0];
  const size_t row_bytes = bytes_of_row(from);
  const size_t from_bytes = static_cast<size_t>(from.shape()[1]) * row_bytes,
               to_bytes = static_cast<size_t>(to.shape()[1]) * row_bytes;
  int64_t rows = 0;
  for (const RowRun& run : runs) rows += run.count;
  if (rows == 0 || row_bytes == 0) return;  // and maybe no memory to copy between
  parallel_ranges(ctx, outer, row_grain(rows * static_cast<int64_t>(row_bytes) / 4), [&](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) {
      for (const RowRun& run : runs) {
        std::memcpy(to.bytes() + static_cast<size_t>(o) * to_bytes + static_cast<size_t>(run.to) * row_bytes,
                    from.bytes() + static_cast<size_t>(o) * from_bytes + static_cast<size_t>(run.from) * row_bytes,
                    static_cast<size_t>(run.count) * row_bytes);
      }
    }
  });
}

void run(OnCpu<guide>, Context& ctx, ConstView positive, ConstView negative, float guidance, View out,
         View token_squares) {
  const int64_t tokens = out.shape()[0], n = out.shape()[1];
  const float* pos = positive.data<float>();
  const float* neg = negative.data<float>();
  float* to = out.data<float>();
  double* squares = token_squares ? token_squares.data<double>() : nullptr;
  parallel_ranges(ctx, tokens, row_grain(n), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      double of_positive = 0, of_guided = 0;
      for (int64_t i = t * n; i < (t + 1) * n; ++i) {
        const float p = pos[i];
        const float guided = p + guidance * (p - neg[i]);
        of_positive += static_cast<double>(p) * static_cast<double>(p);
        of_guided += static_cast<double>(guided) * static_cast<double>(guided);
        to[i] = guided;
      }
      if (squares == nullptr) continue;
      squares[2 * t] = of_positive;
      squares[2 * t + 1] = of_guided;
    }
  });
}

void run(OnCpu<cap_norm>, Context&, ConstView token_squares, float max_norm_ratio, View x) {
  const double* squares = token_squares.data<double>();
  double of_positive = 0, of_guided = 0;
  for (int64_t t = 0; t < token_squares.shape()[0]; ++t) {
    of_positive += squares[2 * t];
    of_guided += squares[2 * t + 1];
  }
  const double cap = std::sqrt(of_positive) * static_cast<double>(max_norm_ratio), norm = std::sqrt(of_guided);
  if (norm <= cap) return;
  const float factor = static_cast<float>(cap / norm);
  float* to = x.data<float>();
  for (int64_t i = 0; i < x.elements(); ++i) to[i] *= factor;
}

void run(OnCpu<euler_step>, Context&, ConstView model_output, ConstView delta, View x) {
  const float* v = model_output.data<float>();
  const float by = *delta.data<float>();
  float* to = x.data<float>();
  for (int64_t i = 0; i < x.elements(); ++i) to[i] += by * -v[i];
}

void run(OnCpu<mix_noise>, Context&, ConstView clean, ConstView noise, ConstView level, ConstView mask, View x) {
  const float* image = clean.data<float>();
  const float* random = noise.data<float>();
  const float of_noise = *level.data<float>(), of_image = 1.0f - of_noise;
  const float* part = mask ? mask.data<float>() : nullptr;
  float* to = x.data<float>();
  for (int64_t i = 0; i < x.elements(); ++i) {
    const float known = of_noise * random[i] + of_image * image[i];
    to[i] = part == nullptr ? known : (1.0f - part[i]) * known + part[i] * to[i];
  }
}

}  // namespace nostos::ops
