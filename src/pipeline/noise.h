// Owns the choice of the initial noise, and the noise of PyTorch's CPU generator. The noise of PyTorch's GPU generator
// is in ops/noise.h.
#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <string_view>

namespace nostos {

enum class RngKind {
  torch_cpu,   ///< torch.Generator("cpu"): mt19937, bit for bit
  torch_cuda,  ///< torch.Generator("cuda"): ops::philox_normal()
};

/// \return the kind named "torch-cpu" or "torch-cuda".
/// \throws Error invalid_input for any other name
RngKind parse_rng(std::string_view name);
/// \return the name that parse_rng() takes.
std::string_view name(RngKind kind);

/// torch.Generator("cpu").manual_seed(seed).
class TorchCpuGenerator {
 public:
  /// PyTorch seeds its mt19937 with the lower half alone.
  explicit TorchCpuGenerator(uint64_t seed) : words_(static_cast<uint32_t>(seed)) {}
  /// Fills `out` with what torch.randn(out.size(), generator=this, dtype=float32) returns. A draw of fewer than 16
  /// values is to be the last.
  void fill_normal(std::span<float> out);

 private:
  std::mt19937 words_;
};

/// Fills `out` with what a generator's first draw is.
inline void fill_torch_cpu_normal(uint64_t seed, std::span<float> out) { TorchCpuGenerator(seed).fill_normal(out); }

}  // namespace nostos
