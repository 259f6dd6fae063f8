// Implements time features on the host.
#include "nn/timestep_embedding.h"

#include <cmath>

#include "base/error.h"
#include "tensor/transfer.h"

namespace nostos::nn {

void timestep_features(Context& ctx, std::span<const float> times, View out) {
  check(out.shape().rank() == 2 && out.shape()[0] == static_cast<int64_t>(times.size()), "one row of features a time");
  const int64_t half = out.shape()[1] / 2;
  const float log_period = static_cast<float>(std::log(10000.0));
  Tensor host(Device{}, DType::f32, out.shape());
  float* row = host.data<float>();
  for (const float time : times) {
    for (int64_t k = 0; k < half; ++k) {
      const float angle = time * std::exp(-log_period * static_cast<float>(k) / static_cast<float>(half));
      row[k] = std::cos(angle);
      row[half + k] = std::sin(angle);
    }
    row += 2 * half;
  }
  upload(ctx, host, out);
}

}  // namespace nostos::nn
