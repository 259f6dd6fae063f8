// Implements the sources of weights.
#include "models/weight_source.h"

#include <cmath>
#include <functional>

#include "base/error.h"
#include "base/log.h"

namespace nostos {
namespace {

constexpr size_t kNamedAtMost = 8;  // names written out in one message

}  // namespace

ConstView StoreSource::tensor(const std::string& name, const Shape& shape) {
  const std::string full = prefix_ + name;
  const TensorInfo* info = store_.info(full);
  if (info == nullptr) {
    problems_.push_back(fmt::format("{} is missing", full));
    return {};
  }
  const std::string found = fmt::format("{} in {} is {}", full, store_.where(full), to_string(*info));
  if (info->shape() != shape) {
    problems_.push_back(fmt::format("{}, the config wants the shape {}", found, to_string(shape)));
    return {};
  }
  const std::optional<DType> dtype = info->dtype();
  if (dtype != DType::f32 && dtype != DType::bf16 && dtype != DType::f16) {
    problems_.push_back(fmt::format("{}, weights are F32, BF16 or F16", found));
    return {};
  }
  const ConstView view = *store_.find(full);
  if (mode_ == Mode::check_only) return {nullptr, *dtype, shape};
  store_.will_need(full);  // read ahead as a whole, not page by page
  return view;
}

void StoreSource::finish() {
  require(problems_.empty(), ErrorKind::model, "{}: {} of the weights do not fit: {}", store_.folder().string(),
          problems_.size(), join_some(problems_, kNamedAtMost));
  if (mode_ == Mode::load) return;
  for (const std::string& note : store_.notes()) log_message(LogLevel::warning, note);
  std::vector<std::string> unused = store_.unused();
  std::erase_if(unused, [&](const std::string& name) { return ignored_.contains(name); });
  if (!unused.empty()) {
    log_warning("{}: {} tensors are not part of this model and were ignored: {}", store_.folder().string(),
                unused.size(), join_some(unused, kNamedAtMost));
  }
}

ConstView SyntheticSource::tensor(const std::string& name, const Shape& shape) {
  // bf16 halves the time and memory; values are a sum of two uniform bytes, near enough to normal for timing and scale.
  const auto [at, fresh] = made_.insert_or_assign(name, Tensor(Device{}, DType::bf16, shape));
  bfloat16* values = at->second.data<bfloat16>();
  const int64_t elements = shape.elements();
  const bool is_vector = shape.rank() == 1;
  int64_t fan_in = 1;
  for (int axis = 1; axis < shape.rank(); ++axis) fan_in *= shape[axis];
  const bool is_bias = name.ends_with(".bias");
  const float scale = is_vector ? 0.02f : 1.7f / std::sqrt(static_cast<float>(fan_in)) / 180.f;
  const uint64_t seed = std::hash<std::string>{}(name);
#pragma omp parallel for num_threads(ctx_.threads())
  for (int64_t block = 0; block < (elements + 4095) / 4096; ++block) {
    uint64_t state = seed + static_cast<uint64_t>(block) * 0x9e3779b97f4a7c15ull;
    for (int64_t i = block * 4096; i < std::min(elements, (block + 1) * 4096); ++i) {
      state = state * 6364136223846793005ull + 1442695040888963407ull;
      const int sum = static_cast<int>((state >> 56) & 0xff) + static_cast<int>((state >> 48) & 0xff) - 255;
      const float value =
          is_vector ? (is_bias ? 0.f : 1.f) + scale * static_cast<float>(sum) / 255.f : scale * static_cast<float>(sum);
      values[i] = to_bfloat16(value);
    }
  }
  return at->second.view();
}

ConstView ListingSource::tensor(const std::string& name, const Shape& shape) {
  shapes_[name] = shape;
  return {nullptr, DType::bf16, shape};
}

}  // namespace nostos
