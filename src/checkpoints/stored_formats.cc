// Implements the words and counts of formats.
#include "checkpoints/stored_formats.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "base/error.h"

namespace nostos {

std::string format_name(const WeightFormat& format) {
  std::string text(name(format.type));
  if (format.scales == WeightScales::one) text += ", one scale";
  if (format.scales == WeightScales::each_row) text += ", a scale for each row";
  if (format.rotation != 0) text += fmt::format(", rotated by {}", format.rotation);
  return text;
}

double FormatGroup::bits_per_number() const {
  return numbers == 0 ? 0 : 8 * static_cast<double>(bytes) / static_cast<double>(numbers);
}

void add_to_group(std::vector<FormatGroup>& groups, const FormatGroup& tensor) {
  auto group = std::ranges::find(groups, tensor.format, &FormatGroup::format);
  if (group == groups.end()) group = groups.insert(groups.end(), {tensor.format});
  group->tensors += tensor.tensors;
  group->numbers += tensor.numbers;
  group->bytes += tensor.bytes;
}

void sort_groups(std::vector<FormatGroup>& groups) {
  std::ranges::stable_sort(groups, std::ranges::greater(), &FormatGroup::bytes);
}

TensorFormat describe_format(const TensorFile& file, const LayerFormats& formats, const std::string& name) {
  TensorFormat found{file.tensors().find(name)->second.dtype_name, formats.belonging().contains(name)};
  if (found.is_scale) return found;
  try {
    const StoredWeight stored = formats.of(name);
    found.name = format_name(stored.format);
    if (!stored.scales.empty()) {
      const TensorInfo& scales = file.tensors().find(stored.scales)->second;
      found.scale_bytes = scales.end - scales.begin;
    }
  } catch (const Error&) {  // nostos cannot use it: its dtype says what it is
  }
  return found;
}

FolderWeights count_weights(const WeightStore& store) {
  std::map<std::string, std::vector<std::pair<std::string, TensorInfo>>> tensors;  // of each file
  for (auto& tensor : store.list()) tensors[store.where(tensor.first)].push_back(std::move(tensor));
  FolderWeights weights;
  for (const auto& [path, list] : tensors) {
    const std::unique_ptr<const TensorFile> file = open_tensor_file(path);
    const LayerFormats formats(*file);
    for (const auto& [name, info] : list) {
      const size_t bytes = info.end - info.begin;
      const TensorFormat format = describe_format(*file, formats, name);
      weights.bytes += bytes;
      if (format.is_scale) continue;
      ++weights.tensors;
      weights.parameters += info.elements();
      ++weights.dtypes[info.dtype_name];
      add_to_group(weights.formats, {format.name, 1, info.elements(), bytes + format.scale_bytes});
    }
  }
  sort_groups(weights.formats);
  return weights;
}

}  // namespace nostos
