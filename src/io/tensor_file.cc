// Implements what all files of tensors share.
#include "io/tensor_file.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <span>

#include "io/safetensors.h"

namespace nostos {

std::optional<Shape> TensorInfo::shape() const {
  if (extents.size() > static_cast<size_t>(Shape::kMaxRank)) return std::nullopt;
  Shape shape;
  for (const int64_t extent : extents) shape.push_back(extent);
  return shape;
}

int64_t TensorInfo::elements() const {
  return std::accumulate(extents.begin(), extents.end(), int64_t{1}, std::multiplies<>());
}

std::string to_string(const TensorInfo& info) {
  constexpr size_t kMostAxes = 8;
  const auto shown = std::span(info.extents).first(std::min(kMostAxes, info.extents.size()));
  return fmt::format("{:.20} [{}{}]", info.dtype_name, fmt::join(shown, ", "),
                     shown.size() < info.extents.size() ? ", ..." : "");
}

std::unique_ptr<const TensorFile> open_tensor_file(const std::filesystem::path& file) {
  return std::make_unique<SafetensorsFile>(file);
}

}  // namespace nostos
