// Implements control networks. Source: VideoX-Fun z_image_transformer2d_control.py @804a425, whose hints reach the
// transformer's own refiners, too; those of diffusers do not.
#include "models/zimage/control.h"

#include <algorithm>
#include <string>

#include "base/error.h"
#include "ops/elementwise.h"
#include "ops/norm.h"

namespace nostos::zimage {

ControlImage ControlImage::take(Arena& arena, const ControlConfig& config, const nn::SequenceParallel& picture,
                                int64_t steps) {
  const int64_t hidden = config.dims.hidden;
  return {nostos::take(arena, DType::f32, {picture.image().rows(), hidden}),
          nostos::take(arena, DType::f32, {1, steps, hidden}), nostos::take(arena, DType::f32, {1, 1, hidden})};
}

ControlModulation ControlModulation::take(Arena& arena, const ControlConfig& config, int64_t steps, DType dtype) {
  const int64_t blocks = config.refiner_blocks() + config.dims.layers, factors = 4 * config.dims.hidden;
  return {nostos::take(arena, DType::f32, {blocks, steps, factors}),
          nostos::take(arena, DType::f32, {blocks, 1, factors}),
          nostos::take(arena, dtype, {steps, config.dims.modulation_width()})};
}

void ControlNetwork::take_image(Context& ctx, const Transformer& transformer, ConstView tokens,
                                std::span<const float> scales, const ControlImage& out) const {
  const int64_t real = tokens.shape()[0], rows = out.embedded.shape()[0];
  ops::linear(ctx, tokens, weights_.embedder, out.embedded.rows(0, real));
  ops::fill_rows(ctx, transformer.weights().x_pad_token, out.embedded.rows(real, rows - real));
  const View steps = out.scales.reshape({out.scales.shape()[1], config_.dims.hidden});
  ops::clear(ctx, steps);
  for (size_t step = 0; step < scales.size(); ++step)
    ops::add_scalar(ctx, scales[step], steps.rows(static_cast<int64_t>(step), 1));
}

void ControlNetwork::modulate(Context& ctx, const Modulation& modulation, const ControlModulation& out) const {
  const int64_t steps = modulation.embedded.shape()[0];
  ops::convert(ctx, modulation.embedded, out.input);
  int64_t index = 0;
  for (const std::vector<ControlBlockWeights>* blocks : {&weights_.refiner, &weights_.layers}) {
    for (const ControlBlockWeights& each : *blocks)
      modulate_block(ctx, out.input, each.block, out.blocks.rows(index++, 1).reshape({steps, 4 * config_.dims.hidden}));
  }
}

void ControlNetwork::select_step(Context& ctx, const ControlModulation& modulation,
                                 std::span<const ControlImage* const> images, int64_t step) {
  const ops::RowRun row{step, 0, 1};
  ops::copy_rows(ctx, modulation.blocks, modulation.step_blocks, {&row, 1});
  for (const ControlImage* image : images) ops::copy_rows(ctx, image->scales, image->step_scale, {&row, 1});
}

namespace {

/// Of control blocks, what the first of them takes in, and hints.
double control_flop(const Config& dims, int64_t blocks, int64_t hints, int64_t rows) {
  const double h = static_cast<double>(dims.hidden);
  return blocks_flop(dims, blocks, rows) + 2.0 * static_cast<double>((1 + hints) * rows) * h * h;
}

}  // namespace

double ControlNetwork::refine_flop(int64_t padded_image) const {
  const Config& dims = config_.dims;
  if (!config_.adds_to_refiner()) return blocks_flop(dims, config_.refiner_blocks(), padded_image);
  const bool is_borrowed = config_.refiner == ControlRefiner::control_layers;
  return control_flop(dims, is_borrowed ? dims.layers : dims.refiner_layers, dims.refiner_layers, padded_image);
}

double ControlNetwork::forward_flop(int64_t padded_image, int64_t padded_caption) const {
  return control_flop(config_.dims, config_.dims.layers, config_.dims.layers, padded_image + padded_caption);
}

void ControlStream::find_rows(std::span<const nn::AttendedSequence> sequences) {
  sequences_.clear();
  rows_.clear();
  for (const Controlled& each : work_.controlled) {
    int64_t begin = 0;
    for (const nn::AttendedSequence& before : sequences.first(each.place)) begin += before.sequence->rows();
    rows_.push_back(begin);
    sequences_.push_back(sequences[each.place]);
  }
}

void ControlStream::copy_rows(Context& ctx, ConstView x, View c) const {
  int64_t at = 0;
  for (size_t i = 0; i < sequences_.size(); ++i) {
    const int64_t count = sequences_[i].sequence->rows();
    ops::convert(ctx, x.rows(rows_[i], count), c.rows(at, count));
    at += count;
  }
}

// The rows of c are those that the transformer's run began with. Beside the image's rows stand the caption's, with
// which the control image's stream begins, too.
void ControlStream::take_in(Context& ctx, const Linear& before, View c) const {
  int64_t at = 0;
  for (size_t i = 0; i < sequences_.size(); ++i) {
    const int64_t rows = sequences_[i].sequence->rows(), image = sources_[i].shape()[0];
    ops::convert(ctx, sources_[i], work_.scratch.normed.rows(at, image));
    ops::convert(ctx, c.rows(at + image, rows - image), work_.scratch.normed.rows(at + image, rows - image));
    at += rows;
  }
  ops::linear(ctx, work_.scratch.normed, before, c, true);
}

bool ControlStream::advance(Context& ctx, const Place& place, View c, View x, const ops::NextNorm& next) const {
  const auto& [control, factors, name] = place;
  const BlockScratch& s = work_.scratch;
  const BlockRun run{ctx, work_.network.config().dims, sequences_, s, work_.probe};
  const BlockModulation mod = step_modulation(work_.modulation.step_blocks, factors);
  ctx.throw_if_cancelled();
  control.block.visit.begin(ctx);
  if (control.before.in > 0) take_in(ctx, control.before, c);
  run.products(control.block, mod, c, run.norm(control.block, mod, c), name);
  run.end(control.block, mod, c, {{}, {}, x ? s.normed : View()});
  report(work_.probe, name, c);
  if (x) ops::linear(ctx, s.normed, control.after, s.projected);
  control.block.visit.end(ctx);
  return x && add_hints(ctx, control.after_bias, x, next);
}

// The next norm's place may be where hints of other rows are, unless all rows are controlled: then the run's scratch is
// laid out as this one.
bool ControlStream::add_hints(Context& ctx, ConstView bias, View x, const ops::NextNorm& next) const {
  const View hints = work_.scratch.projected;
  const bool makes_next = next.out && next.out.shape() == hints.shape();
  int64_t at = 0;
  for (size_t i = 0; i < sequences_.size(); ++i) {
    const int64_t count = sequences_[i].sequence->rows();
    const Config& dims = work_.network.config().dims;
    const ops::GatedBias by{bias, work_.controlled[i].image->step_scale.reshape({dims.hidden}), dims.norm_eps};
    ops::add_gated(ctx, hints.rows(at, count), by, x.rows(rows_[i], count),
                   makes_next ? next.rows(rows_[i], count) : ops::NextNorm{});
    at += count;
  }
  return makes_next;
}

RefinerControl::RefinerControl(const ControlWork& work) : ControlStream(work) {
  int64_t rows = 0;
  for (const Controlled& each : work.controlled) {
    const View& refined = each.refined;
    if (rows == 0) c_ = refined;
    check(refined.bytes() == c_.bytes() + static_cast<size_t>(rows) * sizeof(float) * refined.shape()[1],
          "the rows of refined control images follow one another");
    sources_.push_back(each.image->embedded);
    rows += refined.shape()[0];
  }
  if (rows > 0) c_ = View(c_.bytes(), DType::f32, {rows, c_.shape()[1]});
}

RefinerControl::Place RefinerControl::place(size_t block) const {
  const ControlNetwork& network = work_.network;
  const bool is_borrowed = network.config().refiner == ControlRefiner::control_layers;
  return {(is_borrowed ? network.weights().layers : network.weights().refiner)[block], static_cast<int64_t>(block),
          (is_borrowed ? "control_layers_refining." : "control_noise_refiner.") + std::to_string(block)};
}

size_t RefinerControl::blocks() const {
  const ControlWeights& weights = work_.network.weights();
  return work_.network.config().refiner == ControlRefiner::control_layers ? weights.layers.size()
                                                                          : weights.refiner.size();
}

void RefinerControl::begin(Context& ctx, std::span<const nn::AttendedSequence> sequences, View x) {
  find_rows(sequences);
  if (work_.network.config().adds_to_refiner()) return copy_rows(ctx, x, c_);
  int64_t at = 0;
  for (const ConstView embedded : sources_) {
    ops::convert(ctx, embedded, c_.rows(at, embedded.shape()[0]));
    at += embedded.shape()[0];
  }
  for (size_t block = 0; block < blocks(); ++block) advance(ctx, place(block), c_, {});
}

bool RefinerControl::follows(size_t) const { return work_.network.config().adds_to_refiner(); }

bool RefinerControl::after(Context& ctx, size_t block, View x, const ops::NextNorm& next) {
  const bool made_next = advance(ctx, place(block), c_, x, next);
  if (static_cast<int64_t>(block) + 1 < work_.network.config().dims.refiner_layers) return made_next;
  for (size_t rest = block + 1; rest < blocks(); ++rest) advance(ctx, place(rest), c_, {});
  return false;
}

LayersControl::LayersControl(const ControlWork& work, View c) : ControlStream(work), c_(c) {
  for (const Controlled& each : work.controlled) sources_.push_back(each.refined);
}

void LayersControl::begin(Context& ctx, std::span<const nn::AttendedSequence> sequences, View x) {
  find_rows(sequences);
  copy_rows(ctx, x, c_);
}

bool LayersControl::follows(size_t block) const {
  return std::ranges::binary_search(work_.network.config().places, static_cast<int64_t>(block));
}

bool LayersControl::after(Context& ctx, size_t block, View x, const ops::NextNorm& next) {
  const ControlConfig& config = work_.network.config();
  const auto found = std::ranges::lower_bound(config.places, static_cast<int64_t>(block));
  const int64_t layer = found - config.places.begin();
  return advance(ctx,
                 {work_.network.weights().layers[static_cast<size_t>(layer)], config.refiner_blocks() + layer,
                  "control_layers." + std::to_string(layer)},
                 c_, x, next);
}

}  // namespace nostos::zimage
