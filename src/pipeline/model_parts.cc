// Loads and releases the parts of a model.
#include "pipeline/model_parts.h"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <numeric>
#include <optional>

#include "base/error.h"
#include "base/log.h"
#include "device/cuda/runtime.h"
#include "families/registry.h"
#include "ops/linear_update.h"

namespace nostos {
namespace {

/// What a process takes of a GPU beside what it asks for: the driver's context, the kernels of CUDA's libraries, and
/// rounding. Measured on an H200 with the reserve used up: 0.95 to 1.07 GiB, more with more weights on the device.
constexpr size_t kContextBytes = size_t{1152} << 20;
/// More than the scratch memory and reserve of any picture of up to 2048x2048 without reference images. With many of
/// them a drawing takes more: then make_room() plans anew.
constexpr size_t kLargestScratchBytes = size_t{8} << 30;

constexpr double kGiB = size_t{1} << 30;

/// \return what must stay free beside a drawing's planned scratch memory: for the trials of products, which take a
/// weight and rows of their own in the first drawing of a size, and for the libraries' workspaces.
size_t reserve_bytes(size_t largest_block, size_t scratch_bytes) {
  constexpr size_t kWorkspaceBytes = size_t{256} << 20;
  return kWorkspaceBytes + largest_block + scratch_bytes / 4;
}

}  // namespace

ModelParts::ModelParts(Context& ctx, const FamilyOptions& options, const MemoryOptions& memory)
    : memory_(memory), family_(open_family(ctx, options)), adapter_files_(std::make_shared<AdapterFiles>(*family_)) {
  const std::span<ModelPart* const> parts = family_->parts();
  for (size_t i = 0; i < parts.size(); ++i) {
    if (!parts[i]->can_stream()) continue;
    streamable_.push_back(i);
    needs_.push_back({parts[i]->name(), parts[i]->sizes(), is_used_by(family_->stage_parts().denoise_of(true), i)});
  }
  plan_ = resident_plan(needs_);
  adapter_bytes_.resize(needs_.size());
  adapter_room_.resize(needs_.size());
  one_at_a_time_ = wants_one_at_a_time(ctx);
  if (ctx.device().kind == DeviceKind::cuda && !fits_any_drawing(ctx)) family_->spare_memory();
}

bool ModelParts::is_used_by(const std::vector<size_t>& stage, size_t part) const {
  return std::ranges::find(stage, part) != stage.end();
}

bool ModelParts::is_needed(size_t part, const PartUses& uses) const {
  const StageParts& stages = family_->stage_parts();
  return is_used_by(stages.denoise_of(uses.control), part) || is_used_by(stages.encode, part) ||
         is_used_by(stages.decode, part) || (uses.text && is_used_by(stages.text, part));
}

bool ModelParts::wants_one_at_a_time(Context& ctx) const {
  if (memory_.mode == MemoryMode::resident) return false;
  if (ctx.device().kind == DeviceKind::cpu) return memory_.one_drawing || memory_.mode == MemoryMode::offload;
  return memory_.one_drawing && (memory_.mode != MemoryMode::automatic || !fits_any_drawing(ctx));
}

bool ModelParts::fits_any_drawing(Context& ctx) const {
  size_t weights = 0;
  for (const PartMemory& part : plan_.parts) weights += part.device_bytes;
  return weights + kLargestScratchBytes <= available_bytes(ctx);
}

void ModelParts::load_part(Context& ctx, size_t part) {
  const auto place = std::ranges::find(streamable_, part);
  family_->parts()[part]->load(ctx, place == streamable_.end()
                                        ? WeightPlacement{}
                                        : plan_.parts[static_cast<size_t>(place - streamable_.begin())].placement);
}

void ModelParts::load_ahead(Context& ctx, bool with_text) {
  if (one_at_a_time_) return;
  for (const size_t part : family_->stage_parts().decode) load_part(ctx, part);
  const bool is_automatic = memory_.mode == MemoryMode::automatic;
  if (ctx.device().kind == DeviceKind::cpu || memory_.mode == MemoryMode::resident ||
      (is_automatic && fits_any_drawing(ctx)))
    load(ctx, {.text = with_text});
}

void ModelParts::load(Context& ctx, const PartUses& uses) {
  const std::lock_guard lock(loading_);
  for (size_t i = 0; i < family_->parts().size(); ++i)
    if (is_needed(i, uses)) load_part(ctx, i);
}

bool ModelParts::is_loaded(const PartUses& uses) const {
  const std::lock_guard lock(loading_);
  for (size_t i = 0; i < family_->parts().size(); ++i)
    if (!family_->parts()[i]->is_loaded() && is_needed(i, uses)) return false;
  return true;
}

void ModelParts::turn_to(Context& ctx, std::span<const size_t> parts) {
  for (size_t i = 0; i < family_->parts().size(); ++i)
    if (std::ranges::find(parts, i) == parts.end()) family_->parts()[i]->release();
  for (const size_t part : parts) load_part(ctx, part);
}

void ModelParts::take_adapters_off(Context& ctx) noexcept {
  adapters_.clear();
  embedding_adapters_.clear();
  std::ranges::fill(adapter_bytes_, size_t{0});
  for (const size_t place : streamable_) {
    ModelPart& part = *family_->parts()[place];
    try {
      part.adapt(ctx, {});
    } catch (const std::exception& error) {
      log_warning("{}: {}", part.name(), error.what());  // it is loaded anew
      part.release();
    }
  }
}

void ModelParts::adapt(Context& ctx, std::span<const AdapterUse> uses) {
  ++version_;
  std::vector<AdapterUse> wanted = effective(uses);
  std::vector<ScaledAdapter> adapters;
  std::string of_embeddings;
  for (AdapterUse& use : wanted) {
    const AdapterFile file = adapter_files_->read(use);
    use.sha256 = file.sha256;
    adapters.push_back({file.adapter, use.scale});
    const auto is_in_embeddings = [&](const WeightUpdate& update) {
      return family_->embeds_with(update.part, update.target);
    };
    if (std::ranges::any_of(file.adapter->updates, is_in_embeddings))
      of_embeddings += fmt::format("{}:{}\n", use.sha256, use.scale);
  }
  std::vector<size_t> bytes;
  for (const size_t part : streamable_) bytes.push_back(family_->parts()[part]->plan_adapters(ctx, adapters));
  // Those before give their room back first.
  take_adapters_off(ctx);
  if (adapters.empty()) return;
  try {
    adapter_bytes_ = std::move(bytes);
    leave_room_for_adapters(ctx);
    for (const size_t part : streamable_) family_->parts()[part]->adapt(ctx, adapters);
  } catch (...) {
    take_adapters_off(ctx);
    throw;
  }
  adapters_ = std::move(wanted);
  embedding_adapters_ = std::move(of_embeddings);
}

void ModelParts::leave_room_for_adapters(Context& ctx) {
  if (ctx.device().kind == DeviceKind::cpu) return;
  const MemoryNeeds least = needs(ctx, 0, adapter_bytes_);
  const size_t available = available_bytes(ctx);
  if (has_room(plan_, least, available)) return;
  plan_memory(memory_.mode, least, available);  // throws if there is no plan
  log_info("the adapters take {:.2f} GiB beside the weights, which are placed anew",
           static_cast<double>(std::accumulate(adapter_bytes_.begin(), adapter_bytes_.end(), size_t{0})) / kGiB);
  release_streamable();
}

void ModelParts::release_streamable() {
  for (const size_t part : streamable_) family_->parts()[part]->release();
}

MemoryNeeds ModelParts::needs(Context& ctx, size_t scratch_bytes, std::span<const size_t> adapter_bytes) const {
  std::vector<PartNeeds> parts = needs_;
  size_t largest_block = 0, product_scratch = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    PartNeeds& part = parts[i];
    part.adapter_bytes = adapter_bytes[i];
    part.is_used = is_needed(streamable_[i], {.control = has_had_control_});
    if (!part.is_used) continue;
    // Trials take a weight's numbers, however it is stored.
    if (part.each_step) largest_block = std::max({largest_block, part.sizes.largest_block(), part.sizes.scratch});
    product_scratch = std::max(product_scratch, part.sizes.scratch);
  }
  MemoryNeeds made{ctx.device(), std::move(parts), one_at_a_time_, scratch_bytes + product_scratch,
                   reserve_bytes(largest_block, scratch_bytes)};
  const auto takes_any = [](size_t bytes) { return bytes > 0; };
  if (std::ranges::any_of(adapter_bytes, takes_any))
    made.reserve_bytes += static_cast<size_t>(ops::kUpdateScratchBytes);  // of products with them
  return made;
}

size_t ModelParts::available_bytes(Context& ctx) const {
  size_t available = cuda::free_bytes(ctx.device().index) + weight_bytes() + adapter_bytes();
  std::optional<size_t> limit = memory_.limit_bytes;
  if (!limit && memory_.mode == MemoryMode::offload) limit = MemoryOptions::kOffloadLimitBytes;
  if (limit) available = std::min(available, *limit - std::min(*limit, kContextBytes));
  size_t kept = 0;
  for (const ModelPart* part : family_->parts())
    if (!part->can_stream() && part->is_loaded()) kept += part->storage()->bytes;
  return available - std::min(available, kept);
}

void ModelParts::make_room(Context& ctx, size_t scratch_bytes, bool has_control, bool alone) {
  if (ctx.device().kind == DeviceKind::cpu) return;
  has_had_control_ |= has_control;
  const size_t available = available_bytes(ctx);
  for (size_t i = 0; i < adapter_room_.size(); ++i) adapter_room_[i] = std::max(adapter_room_[i], adapter_bytes_[i]);
  if (!can_plan(memory_.mode, needs(ctx, scratch_bytes, adapter_room_), available)) adapter_room_ = adapter_bytes_;
  const MemoryNeeds wanted = needs(ctx, scratch_bytes, adapter_room_);
  MemoryPlan plan = plan_memory(memory_.mode, wanted, available);
  log_message(plan.streams() ? LogLevel::info : LogLevel::debug, describe(plan, wanted, available));
  if (plan == plan_) return;
  check(alone, "ranks that share a model have all of its weights resident");
  release_streamable();
  plan_ = std::move(plan);
}

bool ModelParts::streams_recorded_stages() const {
  const std::vector<size_t>& decode = family_->stage_parts().decode;
  for (size_t i = 0; i < streamable_.size(); ++i) {
    const bool is_recorded = needs_[i].each_step || is_used_by(decode, streamable_[i]);
    if (is_recorded && plan_.parts[i].blocks_streamed() > 0) return true;
  }
  return false;
}

bool ModelParts::streams_text() const {
  const std::vector<size_t>& text = family_->stage_parts().text;
  for (size_t i = 0; i < streamable_.size(); ++i)
    if (is_used_by(text, streamable_[i]) && plan_.parts[i].blocks_streamed() > 0) return true;
  return false;
}

size_t ModelParts::weight_bytes() const {
  const std::lock_guard lock(loading_);
  size_t bytes = 0;
  for (const ModelPart* part : family_->parts())
    if (part->is_loaded()) bytes += part->storage()->bytes;
  return bytes;
}

size_t ModelParts::adapter_bytes() const {
  size_t bytes = 0;
  for (const ModelPart* part : family_->parts()) bytes += part->adapter_bytes();
  return bytes;
}

size_t ModelParts::streamed_bytes() const {
  const std::lock_guard lock(loading_);
  size_t bytes = 0;
  for (const ModelPart* part : family_->parts())
    if (part->is_loaded()) bytes += part->storage()->host_bytes;
  return bytes;
}

}  // namespace nostos
