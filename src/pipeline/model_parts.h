// Owns which parts of a model are loaded, and where their weights are: each is loaded when first needed, as the device has
// room.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "families/family.h"
#include "pipeline/memory_plan.h"

namespace nostos {

/// A model on a device.
class ModelParts {
 public:
  /// Opens the model and loads nothing yet. \throws Error model naming file and field
  ModelParts(Context& ctx, const FamilyOptions& options, const MemoryOptions& memory = {});

  const Family& family() const { return *family_; }
  const ModelShape& shape() const { return family_->shape(); }

  /// \return whether a part is loaded when its stage comes and released after: it saves memory and costs time.
  bool one_at_a_time() const { return one_at_a_time_; }
  /// \return whether the options ask for parts that take turns, and the device needs it: a GPU that has room for all parts
  /// does not.
  bool wants_one_at_a_time(Context& ctx) const;
  /// \return whether nothing is drawn after the first drawing.
  bool draws_once() const { return memory_.one_drawing; }
  /// Sets whether parts take turns, the same on all ranks. To be called before anything is loaded.
  void set_one_at_a_time(bool is) { one_at_a_time_ = is; }

  /// Loads what drawings of any usual size leave room for, unless parts take turns: all parts, or the decoder's alone,
  /// which say what memory drawings need.
  /// \param with_text whether prompts are encoded with these parts. \throws Error model, out_of_memory
  void load_ahead(Context& ctx, bool with_text);
  /// Loads all parts, those of the text stage alone only if asked for. \throws Error model, out_of_memory
  void load(Context& ctx, bool with_text);
  /// \return whether there is nothing for load() to do.
  bool is_loaded(bool with_text) const;
  /// Where parts take turns: releases all parts but `parts`, and loads these. \throws Error model, out_of_memory
  void turn_to(Context& ctx, std::span<const size_t> parts);

  /// On a GPU, decides which weights stay there beside `scratch_bytes` of drawings, and says so in the log. What is
  /// loaded in another way is released. To be called, while nobody uses the parts, before that scratch memory is taken.
  /// \param alone whether one rank draws with these parts: several read the plan at any time, so that it never changes
  /// (resolve_memory() gives them resident weights).
  /// \throws Error out_of_memory
  void make_room(Context& ctx, size_t scratch_bytes, bool alone);
  /// \return whether any weights are streamed from host memory.
  bool streams() const { return plan_.streams(); }
  /// \return whether weights that each denoising step uses are.
  bool streams_in_steps() const;

  /// \return bytes of the weights that are loaded now, on the device and in host memory for streaming.
  size_t weight_bytes() const;
  size_t streamed_bytes() const;

 private:
  bool is_used_by(const std::vector<size_t>& stage, size_t part) const;
  /// \return whether a part is used by the text stage alone.
  bool is_for_text_alone(size_t part) const;
  void load_part(Context& ctx, size_t part);
  /// \return bytes that weights and drawings may take of the GPU, beside what is there for good.
  size_t available_bytes(Context& ctx) const;
  /// \return whether a GPU has room for all weights and any usual drawing, and the mode lets them have it.
  bool fits_any_drawing(Context& ctx) const;

  MemoryOptions memory_;
  std::unique_ptr<Family> family_;
  bool one_at_a_time_ = false;
  std::vector<size_t> streamable_;  // parts whose weights plan_ places, in its order
  std::vector<PartNeeds> needs_;    // of these
  MemoryPlan plan_;
};

}  // namespace nostos
