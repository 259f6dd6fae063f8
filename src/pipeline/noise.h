// Owns the choice of the initial noise, and the noise of PyTorch's CPU generator. The noise of PyTorch's GPU generator
// is in ops/noise.h.
#pragma once

#include <cstdint>
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

/// Fills `out` with what torch.randn(out.size(), generator=torch.Generator("cpu").manual_seed(seed), dtype=float32)
/// returns.
void fill_torch_cpu_normal(uint64_t seed, std::span<float> out);

}  // namespace nostos
