// Implements what all files of tensors share.
#include "io/tensor_file.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <span>

#include "base/error.h"
#include "io/gguf.h"
#include "io/safetensors.h"

namespace nostos {
namespace {

/// \return the names of all types, as messages list them.
std::string known_dtypes() {
  std::string names;
  for (const DType dtype : {DType::f32, DType::f64, DType::f16, DType::bf16, DType::i64, DType::i32, DType::i16,
                            DType::i8, DType::u8, DType::boolean}) {
    names += (names.empty() ? "" : ", ") + std::string(name(dtype));
  }
  return names;
}

}  // namespace

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

const TensorInfo& TensorFile::require_info(std::string_view name) const {
  const auto found = tensors().find(name);
  require(found != tensors().end(), ErrorKind::model, "{}: has no tensor '{}'", path().string(), name);
  return found->second;
}

ConstView TensorFile::tensor(std::string_view name) const {
  const TensorInfo& info = require_info(name);
  const std::optional<DType> dtype = info.dtype();
  const std::optional<Shape> shape = info.shape();
  if (!dtype || !shape) {
    fail(ErrorKind::model, "{}: tensor '{}' is {}; nostos reads {} of at most {} axes", path().string(), name,
         to_string(info), known_dtypes(), Shape::kMaxRank);
  }
  return {bytes(name).data(), *dtype, *shape};
}

std::unique_ptr<const TensorFile> open_tensor_file(const std::filesystem::path& file) {
  if (is_gguf(file)) return std::make_unique<GgufFile>(file);
  return std::make_unique<SafetensorsFile>(file);
}

}  // namespace nostos
