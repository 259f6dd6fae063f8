// Owns the memory and the order of a Z-Image step: which images are refined, and which passes share a refined image.
// Model::take_denoiser() makes one for each batch.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "families/zimage/model.h"

namespace nostos::zimage {

/// Refines each image once for all passes with captions of one length: such passes see the image at the same positions.
class TransformerDenoiser final : public Denoiser {
 public:
  /// The arguments are those of Family::take_denoiser().
  TransformerDenoiser(Arena& arena, const Model& model, const DenoiserPlan& plan);

  void take_scratch(Arena& arena, std::span<const DenoisePass> passes) override;
  void take_embeddings(Context& ctx, std::span<const ConstView> captions, bool with_positions) override;
  void take_references(Context&, ConstView) override {}
  void take_control(Context& ctx, ConstView condition, std::span<const float> scales) override;
  void take_times(Context& ctx, std::span<const float> times) override;
  void select_step(Context& ctx, int64_t step) override;
  void predict(Context& ctx, std::span<const DenoisePass> passes) override;
  int64_t rows(size_t caption) const override { return conditionings_[caption].sequence.rows(); }
  double flop(std::span<const DenoisePass> passes) const override;

 private:
  /// Images to be refined, each named by a pass that reads it; and for every pass the image that the pass reads.
  struct Images {
    std::vector<size_t> passes;
    std::vector<size_t> of_pass;
  };
  Images images_of(std::span<const DenoisePass> passes) const;
  /// What runs at once: images that are refined, or passes.
  struct Group {
    size_t first = 0, count = 0;
  };
  /// Memory of the control network beside a group.
  struct Beside {
    std::vector<Controlled> controlled;  ///< those of the group that are
    View stream;                         ///< of passes: f32 [rows of these, hidden]
    BlockScratch scratch;                ///< of these, in the memory of the transformer's
  };
  /// Lays out the memory of a step, phase by phase, all passes at once or pass by pass. Calls refine(group, scratch,
  /// refined, beside) for images, then forward(group, scratch, refined, beside) for passes, where refined is f32 [image
  /// rows of all images, hidden].
  template <class Refine, class Forward>
  void lay_out(Arena& arena, std::span<const DenoisePass> passes, const Images& images, const Refine& refine,
               const Forward& forward) const;
  /// \param control f32 [image rows of all images, hidden]: the refined control image beside each
  Beside beside_images(Arena& arena, std::span<const DenoisePass> passes, const Images& images, const Group& group,
                       View control) const;
  Beside beside_passes(Arena& arena, std::span<const DenoisePass> passes, const Images& images, const Group& group,
                       View control) const;
  std::vector<const Conditioning*> conditionings_of(std::span<const DenoisePass> passes, const Group& group) const;
  /// \return of refined rows those of some images.
  View rows_of(View refined, const Group& images) const;
  /// The control image's tokens while they are dealt: all, and this rank's.
  struct Condition {
    View whole, own;  ///< f32 [tokens, patch width of the control image]
  };
  Condition take_condition(Arena& arena) const;
  ControlWork work_of(const Beside& beside) const {
    return {model_.control(), share_, control_modulation_, beside.scratch, beside.controlled};
  }

  const Model& model_;
  const nn::SequenceParallel& share_;
  bool passes_apart_;
  std::vector<int64_t> caption_rows_;        // of each caption, all ranks together
  std::vector<Conditioning> conditionings_;  // of each caption; empty for those of no pass of this rank
  Modulation modulation_;
  ControlModulation control_modulation_;       // where there is a control image
  std::optional<ControlImage> control_image_;  // likewise
  View scratch_;                               // u8
};

}  // namespace nostos::zimage
