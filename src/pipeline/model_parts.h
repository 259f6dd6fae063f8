// Owns which parts of a model are loaded, and where their weights are. A part is loaded when it is first needed, as the
// device has room. The leader of a process calls what loads and releases; its ranks read the rest.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "families/family.h"
#include "pipeline/adapters.h"
#include "pipeline/memory_plan.h"

namespace nostos {

/// What drawings use beside the parts that every drawing uses.
struct PartUses {
  bool text = true;      ///< what the text stage alone needs: rank 0 alone encodes prompts
  bool control = false;  ///< the control network
};

/// A model on a device. All ranks of a process that share the device share one ModelParts.
class ModelParts {
 public:
  /// Opens the model and loads nothing yet.
  /// \throws Error model naming file and field
  ModelParts(Context& ctx, const FamilyOptions& options, const MemoryOptions& memory = {});

  const Family& family() const { return *family_; }
  const ModelShape& shape() const { return family_->shape(); }

  /// \return whether each part is loaded when its stage comes, and released after the stage. That saves memory and
  /// costs time.
  bool one_at_a_time() const { return one_at_a_time_; }
  /// \return whether the options ask for parts that take turns, and the device has no room for all parts at once.
  bool wants_one_at_a_time(Context& ctx) const;
  /// \return whether nothing is drawn after the first drawing.
  bool draws_once() const { return memory_.one_drawing; }
  /// Sets whether parts take turns. All ranks must set the same, before anything is loaded.
  void set_one_at_a_time(bool is) { one_at_a_time_ = is; }

  /// Loads what drawings of any usual size leave room for, unless parts take turns: all parts but a control network,
  /// which the first drawing by it loads; or the decoder's parts alone, which say what memory drawings need.
  /// \param with_text whether prompts are encoded with these parts
  /// \throws Error model, out_of_memory
  void load_ahead(Context& ctx, bool with_text);
  /// Loads the parts that drawings with these uses need.
  /// \throws Error model, out_of_memory
  void load(Context& ctx, const PartUses& uses);
  /// \return whether there is nothing for load() to do.
  bool is_loaded(const PartUses& uses) const;
  /// Where parts take turns: releases all parts but `parts`, and loads `parts`.
  /// \throws Error model, out_of_memory
  void turn_to(Context& ctx, std::span<const size_t> parts);

  /// Has the weights changed by these adapters in place of those before. On a GPU that has no room for them beside the
  /// weights as they are placed, parts are released, and make_room() places them anew.
  /// \throws Error invalid_input as AdapterFiles::read(); out_of_memory, saying what the adapters take
  void adapt(Context& ctx, std::span<const AdapterUse> uses);
  /// \return a number that grows with every change of the adapters.
  uint64_t version() const { return version_; }
  /// \return the adapters whose changes the weights have.
  const std::vector<AdapterUse>& adapters() const { return adapters_; }
  /// \return what tells these adapters, as far as prompt embeddings depend on them, from all others; "" if none does.
  const std::string& embedding_adapters() const { return embedding_adapters_; }
  /// Has `files` read adapters, which may read for all ModelParts of a model. Without it this has files of its own.
  void read_adapters_by(std::shared_ptr<AdapterFiles> files) { adapter_files_ = std::move(files); }

  /// On a GPU, decides which weights stay on the GPU beside `scratch_bytes` of drawings, and logs the choice. Parts
  /// that are loaded otherwise than was chosen are released. Call it before the scratch memory is taken, while nobody
  /// uses the parts.
  /// \param has_control whether the drawing uses the control network, which has its room from the first one that does
  /// on: otherwise all weights would be loaded anew whenever a drawing with control follows one without
  /// \param alone whether one rank draws with these parts. Several ranks read the memory plan at any time, so their
  /// plan never changes: resolve_memory() gives several ranks resident weights.
  /// \throws Error out_of_memory
  void make_room(Context& ctx, size_t scratch_bytes, bool has_control, bool alone);
  /// \return whether any weights are streamed from host memory.
  bool streams() const { return plan_.streams(); }
  /// \return whether blocks that encode prompts are streamed, and whether those that denoise or decode are: such work
  /// is not recorded. A table in host memory stays in its place.
  bool streams_text() const;
  bool streams_recorded_stages() const;

  /// \return bytes of the weights that are loaded now: on the device, and in host memory for streaming.
  size_t weight_bytes() const;
  size_t streamed_bytes() const;
  /// \return bytes that adapters' changes take now, beside the weights.
  size_t adapter_bytes() const;

 private:
  bool is_used_by(const std::vector<size_t>& stage, size_t part) const;
  /// \return whether drawings with these uses need a part.
  bool is_needed(size_t part, const PartUses& uses) const;
  void load_part(Context& ctx, size_t part);
  /// Takes all changes of adapters back, and releases a part that cannot take them back.
  void take_adapters_off(Context& ctx) noexcept;
  /// \return what a drawing with `scratch_bytes` needs, with that room for each part's adapters.
  MemoryNeeds needs(Context& ctx, size_t scratch_bytes, std::span<const size_t> adapter_bytes) const;
  /// Where no drawing has room beside the adapters and the weights as they are placed: releases all parts whose weights
  /// can be placed otherwise. \throws Error out_of_memory if no other place helps
  void leave_room_for_adapters(Context& ctx);
  void release_streamable();
  /// \return bytes of the GPU that weights, adapters and drawings may take, beside what stays there for good.
  size_t available_bytes(Context& ctx) const;
  /// \return whether a GPU has room for all weights and any usual drawing.
  bool fits_any_drawing(Context& ctx) const;

  MemoryOptions memory_;
  mutable std::mutex loading_;  // of lanes that draw at once and share this, one may load what another does not use
  std::unique_ptr<Family> family_;
  std::shared_ptr<AdapterFiles> adapter_files_;
  std::vector<AdapterUse> adapters_;
  std::string embedding_adapters_;
  uint64_t version_ = 0;
  bool one_at_a_time_ = false;
  bool has_had_control_ = false;    // whether any drawing used the control network
  std::vector<size_t> streamable_;  // parts whose weights plan_ places, in its order
  std::vector<PartNeeds> needs_;    // of these, without adapters
  MemoryPlan plan_;
  std::vector<size_t> adapter_bytes_;  // that the adapters of now take on a GPU, of each streamable part
  // The most that adapters have taken since memory was last short. The room stays theirs: otherwise all weights would
  // be loaded anew whenever a request has other adapters than the one before.
  std::vector<size_t> adapter_room_;
};

}  // namespace nostos
