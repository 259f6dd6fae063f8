// Owns the memory of a FLUX.2-klein step, and which rows of texts and references are this rank's.
// Model::take_denoiser() makes one for each batch.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "families/flux2_klein/model.h"

namespace nostos::flux2_klein {

class TransformerDenoiser final : public Denoiser {
 public:
  /// The arguments are those of Family::take_denoiser().
  TransformerDenoiser(Arena& arena, const Model& model, const DenoiserPlan& plan);

  void take_scratch(Arena& arena, std::span<const DenoisePass> passes) override;
  void take_embeddings(Context& ctx, std::span<const ConstView> embeddings, bool with_positions) override;
  void take_references(Context& ctx, ConstView tokens) override;
  void take_control(Context&, ConstView, std::span<const float>) override {}
  void take_times(Context& ctx, std::span<const float> times) override;
  void select_step(Context& ctx, int64_t step) override;
  void predict(Context& ctx, std::span<const DenoisePass> passes) override;
  int64_t rows(size_t embedding) const override { return layout_of(embedding).sequence.rows(); }
  double flop(std::span<const DenoisePass> passes) const override;

 private:
  /// A prompt that passes of this rank read.
  struct Text {
    size_t layout = 0;
    View rows;  // f32 [this rank's rows, hidden]
  };
  const flux2::Layout& layout_of(size_t embedding) const { return layouts_[texts_[embedding]->layout]; }
  /// Calls forward(first, count, scratch) for the passes that run at once.
  template <class Forward>
  void lay_out(Arena& arena, std::span<const DenoisePass> passes, const Forward& forward) const;

  const Model& model_;
  const nn::SequenceParallel& share_;
  bool passes_apart_;
  std::vector<parallel::Grid> references_;
  int64_t reference_tokens_ = 0;            // of all ranks
  std::vector<int64_t> text_rows_;          // of each embedding, on all ranks
  std::vector<flux2::Layout> layouts_;      // one for each length of prompts
  std::vector<std::optional<Text>> texts_;  // of each embedding, if a pass of this rank reads it
  View reference_rows_;                     // f32 [this rank's rows, hidden]; null without references
  flux2::Modulation modulation_;
  View scratch_;  // u8
};

}  // namespace nostos::flux2_klein
