// Owns the forward pass of a control network: what it adds to the residual stream of a Z-Image transformer, so that the
// image follows a control image. Whoever runs the transformer hangs RefinerControl into refine_images(), and
// LayersControl into forward(), in each step.
#pragma once

#include <span>
#include <string>
#include <utility>
#include <vector>

#include "models/zimage/blocks.h"
#include "models/zimage/control_config.h"
#include "models/zimage/control_weights.h"
#include "models/zimage/transformer.h"

namespace nostos::zimage {

/// A control image as every step sees it, made once a run. Rows are this rank's, dealt as the image's.
struct ControlImage {
  View embedded;    ///< f32 [image rows, hidden]
  View scales;      ///< f32 [1, steps, hidden]: what hints are multiplied by in each step, in every channel
  View step_scale;  ///< f32 [1, 1, hidden]: of the step under way

  static ControlImage take(Arena& arena, const ControlConfig& config, const nn::SequenceParallel& picture,
                           int64_t steps);
};

/// Factors of the network's blocks: as Modulation.
struct ControlModulation {
  View blocks;       ///< f32 [refiner blocks + layers, steps, 4 * hidden]
  View step_blocks;  ///< f32 [refiner blocks + layers, 1, 4 * hidden]
  View input;        ///< room to make them in

  /// \param dtype of the weights.
  static ControlModulation take(Arena& arena, const ControlConfig& config, int64_t steps, DType dtype);
};

/// A loaded control network. Functions enqueue on ctx and neither allocate on its device nor wait.
class ControlNetwork {
 public:
  /// \param config fits the transformer: check_control()
  ControlNetwork(const ControlConfig& config, ControlWeights weights, DType dtype)
      : config_(config), weights_(std::move(weights)), dtype_(dtype) {}

  const ControlConfig& config() const { return config_; }
  const ControlWeights& weights() const { return weights_; }
  WeightStorage& storage() { return weights_.storage; }
  DType dtype() const { return dtype_; }

  /// Embeds and pads a control image. \param transformer whose pad token it takes
  /// \param tokens f32 [this rank's image tokens, patch width of the control image], as ops::patchify() lays them out
  /// \param scales of each step; 0 where the control image is to have no say
  void take_image(Context& ctx, const Transformer& transformer, ConstView tokens, std::span<const float> scales,
                  const ControlImage& out) const;

  /// Makes the factors of all steps. \param modulation of Transformer::modulate() for the same steps
  void modulate(Context& ctx, const Modulation& modulation, const ControlModulation& out) const;

  /// Makes the factors of `step`, and the scales of `images`, those of the step under way.
  static void select_step(Context& ctx, const ControlModulation& modulation,
                          std::span<const ControlImage* const> images, int64_t step);

  /// \return floating-point operations of the matrix products beside refine_images() for one image, all ranks together.
  double refine_flop(int64_t padded_image) const;
  /// The same beside forward() for one pass.
  double forward_flop(int64_t padded_image, int64_t padded_caption) const;

 private:
  ControlConfig config_;
  ControlWeights weights_;
  DType dtype_;
};

/// One of the images that are refined together, or of the passes that go forward together, with its control image.
struct Controlled {
  size_t place = 0;  ///< among the images of the ImageBatch, or the passes of the PassBatch
  const ControlImage* image = nullptr;
  /// f32 [image rows, hidden]: the refined control image. RefinerControl makes it, LayersControl reads it. Those of one
  /// RefinerControl stand one after the other.
  View refined{};
};

/// What a control network works with in one phase of a step.
struct ControlWork {
  const ControlNetwork& network;
  const nn::SequenceParallel& picture;
  const ControlModulation& modulation;  ///< of which the step under way is used
  const BlockScratch& scratch;          ///< for `controlled` alone; may share the memory of the transformer's scratch
  std::span<const Controlled> controlled;
  nn::Probe probe{};
};

/// The stream of control images beside a run of the transformer's blocks.
class ControlStream : public BetweenBlocks {
 public:
  explicit ControlStream(const ControlWork& work) : work_(work) {}

 protected:
  /// One of the network's blocks.
  struct Place {
    const ControlBlockWeights& block;
    int64_t factors;  ///< its place in ControlModulation
    std::string name;
  };

  /// Finds the rows of the run that are controlled.
  void find_rows(std::span<const nn::AttendedSequence> sequences);
  /// c <- those rows of x.
  void copy_rows(Context& ctx, ConstView x, View c) const;
  /// c <- block(c), where the first block of a list takes in `sources_`; then those rows of x += hint * scale, unless x
  /// is null. \param c f32 [controlled rows, hidden]
  /// \return whether `next` was made of x.
  bool advance(Context& ctx, const Place& place, View c, View x, const ops::NextNorm& next = {}) const;

  const ControlWork work_;
  std::vector<ConstView> sources_;  // f32 [image rows, hidden] of each that is controlled

 private:
  void take_in(Context& ctx, const Linear& before, View c) const;
  /// \return whether `next` was made of x.
  bool add_hints(Context& ctx, ConstView bias, View x, const ops::NextNorm& next) const;

  std::vector<nn::AttendedSequence> sequences_;  // of the controlled rows
  std::vector<int64_t> rows_;                    // of the run: where those of each begin
};

/// Refines control images, and adds to what refine_images() refines. Make one for each call.
class RefinerControl final : public ControlStream {
 public:
  /// \param work with scratch of take_image_scratch() for as many images as are controlled; their `refined` rows follow
  /// one another
  explicit RefinerControl(const ControlWork& work);
  void begin(Context& ctx, std::span<const nn::AttendedSequence> sequences, View x) override;
  bool follows(size_t block) const override;
  bool after(Context& ctx, size_t block, View x, const ops::NextNorm& next) override;

 private:
  size_t blocks() const;
  Place place(size_t block) const;

  View c_;  // f32 [image rows of each, hidden]
};

/// Adds to what forward() makes. Make one for each call.
class LayersControl final : public ControlStream {
 public:
  /// \param work with scratch for the sequences of the passes that are controlled
  /// \param c f32 [rows of these passes, hidden]: room for the control stream
  LayersControl(const ControlWork& work, View c);
  void begin(Context& ctx, std::span<const nn::AttendedSequence> sequences, View x) override;
  bool follows(size_t block) const override;
  bool after(Context& ctx, size_t block, View x, const ops::NextNorm& next) override;

 private:
  View c_;
};

}  // namespace nostos::zimage
