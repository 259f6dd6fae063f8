// Dispatches what a device can do, and puts it into words.
#include "ops/capabilities.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <vector>

#include "ops/dispatch.h"

namespace nostos::ops {

Capabilities capabilities(Device device) { return run_on<capabilities>(device, device); }

std::string to_string(const Capabilities& can) {
  std::vector<std::string> words;
  if (can.bf16_products) words.emplace_back("bf16 products");
  if (can.int8_products) words.emplace_back("8-bit products");
  if (can.int8_attention) words.emplace_back("8-bit attention");
  if (can.borrowed_weights) words.emplace_back("borrowed weights");
  if (can.planned_convolutions) words.emplace_back("planned convolutions");
  if (can.packed_head_dim > 0) words.push_back(fmt::format("packed attention of heads of {}", can.packed_head_dim));
  if (can.gated_multiple > 0) words.push_back(fmt::format("gated products of widths in {}s", can.gated_multiple));
  if (can.summed_multiple > 0) words.push_back(fmt::format("sums of products in {}s", can.summed_multiple));
  if (can.most_rounded_channels > 0)
    words.push_back(fmt::format("norms of up to {} channels in 8 bits", can.most_rounded_channels));
  if (can.phase_multiple > 0)
    words.push_back(fmt::format("upsampling by phases of channels in {}s", can.phase_multiple));
  if (can.fused_phase_multiple > 0) words.push_back(fmt::format("fused in {}s", can.fused_phase_multiple));
  return words.empty() ? "what every device can" : fmt::format("{}", fmt::join(words, ", "));
}

bool packs_attention(Device device, DType dtype, int64_t head_dim, bool causal) {
  return dtype == DType::bf16 && !causal && head_dim > 0 && head_dim == capabilities(device).packed_head_dim;
}

bool rounds_attention(Device device, DType dtype, int64_t head_dim) {
  return capabilities(device).int8_attention &&
         (device.kind == DeviceKind::cpu || packs_attention(device, dtype, head_dim, false));
}

}  // namespace nostos::ops
