// Implements Z-Image's blocks. Source: Z-Image (arXiv 2511.22699); diffusers transformer_z_image.py @58eb52c0.
#include "models/zimage/blocks.h"

#include "ops/elementwise.h"

namespace nostos::zimage {

BlockModulation step_modulation(ConstView step_blocks, int64_t block) {
  const int64_t hidden = step_blocks.shape()[2] / 4;
  const ConstView parts = step_blocks.rows(block, 1).reshape({4, hidden});
  return {parts.rows(0, 1), parts.rows(1, 1), parts.rows(2, 1), parts.rows(3, 1)};
}

void modulate_block(Context& ctx, ConstView input, const BlockWeights& block, View factors) {
  ops::linear(ctx, input, block.modulation, factors);
  ops::finish_modulation(ctx, factors);
}

BlockScratch BlockScratch::take(Arena& arena, const Config& config,
                                std::span<const nn::ShardedSequence* const> sequences, DType dtype) {
  const int64_t rows = nn::rows_of(sequences);
  return {nostos::take(arena, dtype, {rows, config.hidden}),
          nostos::take(arena, ops::product_dtype(arena.device(), dtype), {rows, config.hidden}),
          nn::AttentionScratch::take(arena, config.attention_shape(), sequences, dtype),
          nn::FeedForwardScratch::take(arena, config.feed_forward_shape(), rows, dtype),
          ops::rounds_next_norm(arena.device(), config.hidden) ? nostos::take(arena, DType::f32, {rows}) : View()};
}

void report(const nn::Probe& probe, const std::string& name, ConstView rows) {
  if (probe) probe(name, rows);
}

ops::ProductRows BlockRun::norm(const BlockWeights& w, const BlockModulation& mod, ConstView x) const {
  ops::rms_norm(ctx, x, w.attention_norm1, mod.attention_scale, config.norm_eps, s.normed);
  return s.normed;
}

// A probe reads norms as they were before they are rounded.
ops::NextNorm BlockRun::norm_for(const Linear& w, ConstView weight, ConstView scale) const {
  if (probe || !s.normed_scales || !ops::takes_rounded_rows(w)) return {weight, scale, s.normed};
  return {weight, scale, View(s.normed.bytes(), DType::i8, s.normed.shape()), s.normed_scales};
}

ops::NextNorm BlockRun::next_norm(const BlockWeights& w, const BlockModulation& mod) const {
  return norm_for(w.attention.qkv, w.attention_norm1, mod.attention_scale);
}

void BlockRun::products(const BlockWeights& w, const BlockModulation& mod, View x, const ops::ProductRows& normed,
                        const std::string& name) const {
  report(probe, name + ".attention_norm1_scaled", s.normed);
  nn::attention(ctx, sequences, config.attention_shape(), {&w.attention, 1}, {normed, s.projected}, s.attention);
  report(probe, name + ".attention", s.attention.mixed);
  report(probe, name + ".to_out", s.projected);
  const ops::NextNorm second = norm_for(w.feed_forward.gate_up.gate_up, w.ffn_norm1, mod.ffn_scale);
  ops::add_gated_rms_norm(ctx, s.projected, {w.attention_norm2, mod.attention_gate, config.norm_eps}, x, second);
  report(probe, name + ".residual1", x);
  report(probe, name + ".ffn_norm1_scaled", s.normed);
  nn::feed_forward(ctx, w.feed_forward, {second.out, second.scales}, s.feed_forward, s.projected);
  report(probe, name + ".ffn", s.projected);
}

void BlockRun::end(const BlockWeights& w, const BlockModulation& mod, View x, const ops::NextNorm& next) const {
  ops::add_gated_rms_norm(ctx, s.projected, {w.ffn_norm2, mod.ffn_gate, config.norm_eps}, x, next);
}

// The norm of each half is made where the half before ends, while x is at hand: s.normed holds a block's first one
// when the block begins. Where others come between two blocks, that norm has to wait for them.
void BlockRun::all(std::span<const BlockWeights> blocks, const Modulations& modulation, View x, const std::string& name,
                   BetweenBlocks* between) const {
  if (between != nullptr) between->begin(ctx, sequences, x);
  if (blocks.empty()) return;
  ops::ProductRows normed = norm(blocks[0], modulation(0), x);
  for (size_t i = 0; i < blocks.size(); ++i) {
    const BlockWeights& w = blocks[i];
    const std::string block = name + "." + std::to_string(i);
    const bool last = i + 1 == blocks.size(), interrupted = between != nullptr && between->follows(i);
    ctx.throw_if_cancelled();
    w.visit.begin(ctx);
    products(w, modulation(i), x, normed, block);
    w.visit.end(ctx);
    const ops::NextNorm next = last ? ops::NextNorm{} : next_norm(blocks[i + 1], modulation(i + 1));
    end(w, modulation(i), x, interrupted ? ops::NextNorm{} : next);
    const bool is_made = !interrupted || between->after(ctx, i, x, next);
    if (!last) normed = is_made ? ops::ProductRows(next.out, next.scales) : norm(blocks[i + 1], modulation(i + 1), x);
    report(probe, block, x);
  }
}

double blocks_flop(const Config& config, int64_t count, int64_t rows) {
  const double h = static_cast<double>(config.hidden), f = static_cast<double>(config.ffn()),
               n = static_cast<double>(rows);
  return static_cast<double>(count) * (2 * n * h * (4 * h + 3 * f) + 4 * n * n * h);
}

}  // namespace nostos::zimage
