// Implements the words and counts of formats.
#include "checkpoints/stored_formats.h"

#include <fmt/format.h>

#include <algorithm>

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

std::vector<FormatGroup> group_formats(const WeightStore& store) {
  std::vector<FormatGroup> groups;
  for (const auto& [tensor, info] : store.list()) {
    std::string format = info.dtype_name;
    try {
      format = format_name(store.format(tensor));
    } catch (const Error&) {  // nostos cannot use it: its dtype says what it is
    }
    add_to_group(groups, {std::move(format), 1, info.elements(), info.end - info.begin});
  }
  sort_groups(groups);
  return groups;
}

}  // namespace nostos
