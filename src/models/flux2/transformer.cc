// Implements the FLUX.2 transformer. Source: diffusers 0.42.1, transformer_flux2.py.
#include "models/flux2/transformer.h"

#include <string>

#include "nn/timestep_embedding.h"
#include "ops/elementwise.h"
#include "ops/norm.h"

namespace nostos::flux2 {
namespace {

constexpr int64_t kDoubleChunks = 6, kSingleChunks = 3, kFinalChunks = 2;

void report(const nn::Probe& probe, const std::string& name, ConstView rows) {
  if (probe) probe(name, rows);
}

/// How a layer's rows are normalised before it, and what its result is multiplied by.
struct LayerModulation {
  ops::AdaptiveNorm norm;
  ConstView gate;
};

/// \return chunks [first, first + 3) of a table: shift, scale, gate.
LayerModulation layer_modulation(const Config& config, const Modulation::Table& table, int64_t first) {
  const int64_t hidden = config.hidden();
  const ConstView chunks = ConstView(table.step).reshape({table.step.elements() / hidden, hidden});
  return {{chunks.rows(first + 1, 1), chunks.rows(first, 1), config.norm_eps}, chunks.rows(first + 2, 1)};
}

/// A forward pass over the rows of some sequences.
struct Run {
  Context& ctx;
  const Config& config;
  std::span<const nn::AttendedSequence> sequences;
  std::span<const nn::StreamRows> stream_rows;  ///< of all rows, in double blocks
  const Modulation& modulation;
  const Scratch& s;
  const nn::Probe& probe;

  LayerModulation of_double(size_t stream, int64_t layer) const {
    return layer_modulation(config, modulation.doubles[stream], 3 * layer);
  }
  LayerModulation of_single() const { return layer_modulation(config, modulation.singles, 0); }

  View projected_as(DType dtype) const { return {s.projected.bytes(), dtype, s.projected.shape()}; }

  /// The two residual streams by themselves, as the reference has them.
  void report_streams(const std::string& name) const {
    for (const auto& [stream, rows] : stream_rows)
      report(probe, name + (stream == kText ? ".text" : ".image"), s.x.rows(rows.begin, rows.count));
  }

  /// x <- x + gate * attention, then x + gate * FFN, each of an adaptive norm of x. A norm is made where the layer
  /// before ends, while x is at hand: s.normed holds the first one already.
  void double_block(const DoubleBlockWeights& w, bool is_last, const std::string& name) const {
    ctx.throw_if_cancelled();
    const View projected = projected_as(ops::product_dtype(ctx.device(), s.normed.dtype()));
    w.visit.begin(ctx);
    nn::attention(ctx, sequences, config.attention_shape(), w.attention, {s.normed, projected}, s.attention);
    const auto of = [](View all, const parallel::Range& rows) { return all.rows(rows.begin, rows.count); };
    for (const auto& [stream, rows] : stream_rows) {
      const View x = of(s.x, rows), normed = of(s.normed, rows);
      ops::add_gated_adaptive_norm(ctx, of(projected, rows), of_double(stream, 0).gate, x, of_double(stream, 1).norm,
                                   normed);
      const nn::FeedForwardScratch scratch{s.feed_forward.gate_up ? of(s.feed_forward.gate_up, rows) : View{},
                                           of(s.feed_forward.product, rows)};
      nn::feed_forward(ctx, w.feed_forward[stream], normed, scratch, of(projected, rows));
      const ops::AdaptiveNorm next = is_last ? of_single().norm : of_double(stream, 0).norm;
      ops::add_gated_adaptive_norm(ctx, of(projected, rows), of_double(stream, 1).gate, x, next, normed);
    }
    w.visit.end(ctx);
    report_streams(name);
  }

  /// x <- x + gate * (attention + FFN), both of one adaptive norm of x.
  void single_block(const SingleBlockWeights& w, bool is_last, const std::string& name) const {
    ctx.throw_if_cancelled();
    w.visit.begin(ctx);
    nn::attend(ctx, sequences, config.attention_shape(), {&w.attention, 1}, s.normed, s.attention);
    ops::gated_linear(ctx, s.normed, w.feed_forward.gate_up, s.feed_forward.gate_up, s.feed_forward.product);
    const Linear &out = w.attention.out, &down = w.feed_forward.down;
    const View projected = projected_as(ops::linear_sum_dtype(ctx.device(), out, down));
    ops::linear_sum(ctx, s.attention.mixed, out, s.feed_forward.product, down, projected);
    w.visit.end(ctx);
    ops::add_gated_adaptive_norm(ctx, projected, of_single().gate, s.x, of_single().norm, is_last ? View{} : s.normed);
    report(probe, name, s.x);
  }
};

}  // namespace

Layout Layout::take(Arena& arena, const Config& config, const nn::SequenceParallel& picture, int64_t text,
                    int64_t references) {
  Layout layout;
  layout.sequence = picture.sequence(std::array{nn::Segment{.rows = text, .stream = kText},
                                                nn::Segment{.is_image = true, .stream = kImage},
                                                nn::Segment{.rows = references, .stream = kImage}});
  layout.text = text;
  layout.rope = nn::RopeTable::take(arena, layout.sequence.rows(), config.head_dim);
  return layout;
}

Modulation Modulation::take(Arena& arena, const Config& config, int64_t steps) {
  const int64_t hidden = config.hidden();
  const auto table = [&](int64_t chunks) {
    return Table{nostos::take(arena, DType::f32, {1, steps, chunks * hidden}),
                 nostos::take(arena, DType::f32, {1, 1, chunks * hidden})};
  };
  Modulation m;
  for (Table& each : m.doubles) each = table(kDoubleChunks);
  m.singles = table(kSingleChunks);
  m.final = table(kFinalChunks);
  m.features = nostos::take(arena, DType::f32, {steps, config.time_features});
  m.hidden = nostos::take(arena, DType::f32, {steps, hidden});
  m.embedded = nostos::take(arena, DType::f32, {steps, hidden});
  return m;
}

Scratch Scratch::take(Arena& arena, const Config& config, std::span<const Layout* const> layouts, DType dtype) {
  std::vector<const nn::ShardedSequence*> sequences;
  int64_t most_tokens = 0;
  for (const Layout* layout : layouts) {
    sequences.push_back(&layout->sequence);
    most_tokens = std::max(most_tokens, layout->image_rows().count);
  }
  const int64_t rows = nn::rows_of(sequences), hidden = config.hidden();
  Scratch s;
  s.x = nostos::take(arena, DType::f32, {rows, hidden});
  s.normed = nostos::take(arena, dtype, {rows, hidden});
  s.projected = nostos::take(arena, DType::f32, {rows, hidden});
  s.final_normed = s.projected.rows(0, most_tokens);
  s.attention = nn::AttentionScratch::take(arena, config.attention_shape(), sequences, dtype);
  s.feed_forward = nn::FeedForwardScratch::take(arena, config.feed_forward_shape(), rows, dtype);
  return s;
}

void Transformer::embed_text(Context& ctx, ConstView features, View text) const {
  ops::linear(ctx, features, weights_.context_embedder, text);
}

void Transformer::embed_tokens(Context& ctx, ConstView tokens, View rows) const {
  ops::linear(ctx, tokens, weights_.x_embedder, rows);
}

void Transformer::fill_positions(Context& ctx, const nn::SequenceParallel& picture,
                                 std::span<const parallel::Grid> references, const Layout& out) const {
  constexpr int64_t kReferenceTime = 10;  // from one reference image to the next
  const parallel::Grid& grid = picture.grid();
  std::vector<nn::AxialPosition> whole;
  for (int64_t row = 0; row < out.text; ++row) whole.push_back({0, 0, 0, row});
  const auto add_image = [&](const parallel::Grid& image, int64_t time) {
    for (int64_t token = 0; token < image.tokens(); ++token)
      whole.push_back({time, token / image.width, token % image.width, 0});
  };
  add_image(grid, 0);
  int64_t time = 0;
  for (const parallel::Grid& reference : references) add_image(reference, time += kReferenceTime);
  std::vector<nn::AxialPosition> own;
  for (const parallel::Range& run : out.sequence.runs())
    own.insert(own.end(), whole.begin() + run.begin, whole.begin() + run.end());
  nn::fill_axial_rope(ctx, {config_.axes_dims, config_.rope_theta, nn::RopeAngles::float64}, own, out.rope);
}

void Transformer::modulate(Context& ctx, std::span<const float> times, const Modulation& out,
                           const nn::Probe& probe) const {
  const int64_t steps = std::ssize(times);
  nn::timestep_features(ctx, times, out.features);
  ops::linear(ctx, out.features, weights_.time_in, out.hidden);
  ops::silu(ctx, out.hidden, out.hidden);
  ops::linear(ctx, out.hidden, weights_.time_out, out.embedded);
  report(probe, "time_guidance_embed", out.embedded);
  ops::silu(ctx, out.embedded, out.hidden);
  const auto fill = [&](const Linear& layer, const Modulation::Table& table) {
    ops::linear(ctx, out.hidden, layer, table.steps.reshape({steps, layer.out}));
  };
  for (const Stream stream : {kImage, kText}) fill(weights_.double_modulation[stream], out.doubles[stream]);
  fill(weights_.single_modulation, out.singles);
  fill(weights_.final_modulation, out.final);
}

void Transformer::select_step(Context& ctx, const Modulation& modulation, int64_t step) {
  const ops::RowRun row{step, 0, 1};
  for (const Modulation::Table* table :
       {&modulation.doubles[kImage], &modulation.doubles[kText], &modulation.singles, &modulation.final})
    ops::copy_rows(ctx, table->steps, table->step, {&row, 1});
}

void Transformer::forward(Context& ctx, std::span<const Pass> passes, const Modulation& modulation, const Scratch& s,
                          const nn::Probe& probe) const {
  std::vector<nn::AttendedSequence> sequences;
  std::vector<const nn::ShardedSequence*> pointers;
  std::vector<View> images;
  int64_t begin = 0;
  for (const Pass& pass : passes) {
    const auto& [sequence, text, rope] = *pass.layout;
    const View x = s.x.rows(begin, sequence.rows());
    const auto of = [&](const parallel::Range& rows) { return x.rows(rows.begin, rows.count); };
    ops::convert(ctx, pass.text, of(pass.layout->text_rows()));
    embed_tokens(ctx, pass.tokens, images.emplace_back(of(pass.layout->image_rows())));
    if (pass.references) ops::convert(ctx, pass.references, of(pass.layout->reference_rows()));
    sequences.push_back({&sequence, rope});
    pointers.push_back(&sequence);
    begin += sequence.rows();
  }
  const std::vector<nn::StreamRows> stream_rows = nn::stream_rows(pointers, kStreams);
  const Run run{ctx, config_, sequences, stream_rows, modulation, s, probe};
  run.report_streams("embedder");
  for (const auto& [stream, rows] : stream_rows)
    ops::adaptive_layer_norm(ctx, s.x.rows(rows.begin, rows.count), run.of_double(stream, 0).norm,
                             s.normed.rows(rows.begin, rows.count));
  const auto is_last = [](size_t i, const auto& blocks) { return i + 1 == blocks.size(); };
  for (size_t i = 0; i < weights_.double_blocks.size(); ++i)
    run.double_block(weights_.double_blocks[i], is_last(i, weights_.double_blocks),
                     "transformer_blocks." + std::to_string(i));
  for (size_t i = 0; i < weights_.single_blocks.size(); ++i)
    run.single_block(weights_.single_blocks[i], is_last(i, weights_.single_blocks),
                     "single_transformer_blocks." + std::to_string(i));
  const ConstView final = ConstView(modulation.final.step).reshape({kFinalChunks, config_.hidden()});
  for (size_t i = 0; i < passes.size(); ++i) {
    const View normed = s.final_normed.rows(0, images[i].shape()[0]);
    ops::adaptive_layer_norm(ctx, images[i], {final.rows(0, 1), final.rows(1, 1), config_.norm_eps}, normed);
    report(probe, "norm_out", normed);
    ops::linear(ctx, normed, weights_.final_linear, passes[i].velocity);
    report(probe, "proj_out", passes[i].velocity);
  }
}

double Transformer::flop(int64_t text, int64_t image, int64_t references) const {
  const double rows = static_cast<double>(text + image + references), tokens = static_cast<double>(image),
               hidden = static_cast<double>(config_.hidden()), ffn = static_cast<double>(config_.ffn()),
               blocks = static_cast<double>(config_.double_layers + config_.single_layers);
  const double edges = 2 * 2 * tokens * hidden * static_cast<double>(config_.in_channels);
  return blocks * (2 * rows * hidden * (4 * hidden + 3 * ffn) + 4 * rows * rows * hidden) + edges;
}

}  // namespace nostos::flux2
