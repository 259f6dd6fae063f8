// Implements reading a part as plain numbers.
#include "checkpoints/part_source.h"

#include <algorithm>

#include "adapters/merge.h"
#include "base/error.h"
#include "ops/elementwise.h"

namespace nostos {
namespace {

bool is_float(DType dtype) { return dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16; }

}  // namespace

PartSource::PartSource(const FamilyOptions& options, const PartType& type)
    : type_(&type), files_(options, *type.kind), config_(files_.find_config()) {
  Context ctx({}, 1);
  WeightBuilder check = files_.weights(ctx, WeightWalk::check);
  type.walk(config_.json, check);
  find_tensors(list_tensors(type, config_.json));
}

void PartSource::find_tensors(const PartTensors& listed) {
  for (const auto& [name, shape] : listed.shapes) {
    const std::vector<TensorRows> rows = files_.names().find(name);
    if (std::ranges::all_of(rows, [&](const TensorRows& part) { return files_.store()->info(part.name) != nullptr; }))
      shapes_.emplace(name, shape);
    else
      missing_.push_back(name);
  }
  for (const std::string& name : listed.optional) find_extra(name);
}

void PartSource::find_extra(const std::string& name) {
  const CheckpointNames& names = files_.names();
  for (const std::string& prefix : {names.prefix, std::string()}) {
    const std::vector<TensorRows> rows = CheckpointNames{names.layout, prefix}.find(name);
    const TensorInfo* const info =
        rows.size() == 1 && rows[0].parts == 1 ? files_.store()->info(rows[0].name) : nullptr;
    if (info == nullptr || !info->shape()) continue;
    const std::optional<DType> plain = info->dtype();
    shapes_.emplace(name, *info->shape());
    extras_.emplace(name, Extra{prefix, plain.value_or(DType::f32), plain && !is_float(*plain) && *plain != DType::i8});
    return;
  }
}

DType PartSource::dtype(const std::string& name, DType otherwise) const {
  const auto extra = extras_.find(name);
  return extra != extras_.end() && extra->second.is_count ? extra->second.dtype : otherwise;
}

AdapterPart PartSource::adapter_part() const {
  return {std::string(type_->kind->folder), shapes_, type_->kind->layouts()};
}

void PartSource::adapt(std::span<const ScaledAdapter> adapters) {
  for (const ScaledAdapter& scaled : adapters)
    for (const WeightUpdate& update : scaled.adapter->updates)
      if (update.part == type_->kind->folder) updates_.emplace(update.target, std::pair(&update, scaled.strength));
}

ConstView PartSource::read(const std::string& name) {
  if (name == current_) return current_view_;
  if (!current_.empty())
    for (const auto& [prefix, source] : sources_) source->release(current_);
  current_.clear();
  ConstView view = stored(name);
  if (updates_.contains(name)) view = merged(name, view);
  current_ = name;
  return current_view_ = view;
}

ConstView PartSource::stored(const std::string& name) {
  const auto extra = extras_.find(name);
  const CheckpointNames names{files_.names().layout,
                              extra == extras_.end() ? files_.names().prefix : extra->second.prefix};
  if (extra != extras_.end() && extra->second.is_count) return *files_.store()->find(names.find(name).front().name);
  std::unique_ptr<StoreSource>& source = sources_[names.prefix];
  if (!source) source = std::make_unique<StoreSource>(files_.store(), names, StoreSource::Mode::load);
  const ConstView view = source->tensor(name, shapes_.at(name));
  source->finish();  // throws what is amiss
  return view;
}

ConstView PartSource::merged(const std::string& name, ConstView stored) {
  Context ctx;
  merged_.resize(static_cast<size_t>(stored.shape().elements()));
  const View view(reinterpret_cast<std::byte*>(merged_.data()), DType::f32, stored.shape());
  ops::convert(ctx, stored, view);
  const auto [first, last] = updates_.equal_range(name);
  for (auto update = first; update != last; ++update)
    merge_update(*update->second.first, update->second.second, merged_);
  return view;
}

}  // namespace nostos
