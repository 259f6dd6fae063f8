// Owns the choice of the initial noise, and the noise of PyTorch's CPU generator. The noise of PyTorch's GPU generator
// is in ops/noise.h.
#pragma once

#include <cstdint>
#include <optional>
#include <random>
#include <span>
#include <string_view>

#include "tensor/bfloat16.h"

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

/// torch.Generator("cpu").manual_seed(seed): every draw goes on where the one before ended, whatever their types. Draws
/// of 16 and more values take a word of mt19937 a value, and 16 more where their number is no multiple of 16. Shorter
/// draws make pairs of values of four words and keep the second one for the next short draw; longer draws between leave
/// it.
class TorchCpuGenerator {
 public:
  /// \param seed PyTorch takes the lower half alone
  explicit TorchCpuGenerator(uint64_t seed) : words_(static_cast<uint32_t>(seed)) {}

  /// Fills `out` with what torch.randn(out.size(), dtype=float32) returns.
  void normal(std::span<float> out);
  /// Fills `out` with what torch.randn(out.size(), dtype=bfloat16) returns. From 16 values on these have nothing in
  /// common with the rounded values of float32: the uniforms have 8 bits and every operation rounds to bfloat16, so no
  /// value is beyond 3.328.
  void normal(std::span<bfloat16> out);

 private:
  double next_of_pair();

  std::mt19937 words_;
  std::optional<double> kept_;  ///< the second value of the last pair
};

/// Fills `out` with what torch.randn(out.size(), generator=torch.Generator("cpu").manual_seed(seed), dtype=float32)
/// returns.
void fill_torch_cpu_normal(uint64_t seed, std::span<float> out);

}  // namespace nostos
