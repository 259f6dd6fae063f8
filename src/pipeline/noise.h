// Owns the initial noise: the same floats as PyTorch's generators give for a seed.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace nostos {

enum class RngKind {
  torch_cpu,   ///< torch.Generator("cpu"): mt19937, bit for bit
  torch_cuda,  ///< torch.Generator("cuda"): Philox 4x32-10 as laid out on an H200 (132 multiprocessors), within 1e-6
};

/// \return the kind named "torch-cpu" or "torch-cuda". \throws Error invalid_input for any other name.
RngKind parse_rng(std::string_view name);
/// \return the name that parse_rng takes.
std::string_view name(RngKind kind);

/// Fills `out` with what torch.randn(out.size(), generator=Generator(kind).manual_seed(seed), dtype=float32) returns.
void fill_normal(RngKind kind, uint64_t seed, std::span<float> out);

}  // namespace nostos
