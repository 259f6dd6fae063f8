// Makes random weights.
#include "models/synthetic_source.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <functional>
#include <sstream>
#include <string_view>

#include "base/error.h"
#include "tensor/half.h"

namespace nostos {
namespace {

float deviation(const Shape& shape) {
  int64_t fan_in = 1;
  for (int axis = 1; axis < shape.rank(); ++axis) fan_in *= shape[axis];
  return 1 / std::sqrt(static_cast<float>(fan_in));
}

uint64_t next(uint64_t& state) { return state = state * 6364136223846793005ull + 1442695040888963407ull; }

/// Where a block of a GGUF type has its float16 factor and, where it has one, the factor of its offsets; how large
/// random numbers of the block are for a factor of 1, and how many factors of the offsets bring their mean to 0.
struct BlockFactors {
  StoredType type;
  size_t factor, offset;
  float spread, centre;
};
constexpr size_t kNone = ~size_t{0};
constexpr BlockFactors kBlockFactors[]{
    {StoredType::q4_0, 0, kNone, 4.6f, 0},   {StoredType::q4_1, 0, 2, 4.6f, -7.5f},
    {StoredType::q5_0, 0, kNone, 9.2f, 0},   {StoredType::q5_1, 0, 2, 9.2f, -15.5f},
    {StoredType::q8_0, 0, kNone, 74.f, 0},   {StoredType::q2_k, 80, 82, 10.f, 1.5f},
    {StoredType::q3_k, 108, kNone, 42.f, 0}, {StoredType::q4_k, 0, 2, 170.f, 7.5f},
    {StoredType::q5_k, 0, 2, 340.f, 15.5f},  {StoredType::q6_k, 208, kNone, 1360.f, 0},
    {StoredType::iq4_nl, 0, kNone, 70.f, 0}, {StoredType::iq4_xs, 0, kNone, 1300.f, 0}};

/// Gives the blocks at `bytes` factors with which their numbers have `deviation`; float8 numbers get a size near 1.
void set_factors(StoredType type, float deviation, std::vector<std::byte>& bytes) {
  if (type == StoredType::f8_e4m3 || type == StoredType::f8_e5m2) {
    // Exponents of the lower half alone: no NaN, no infinity, at most 2.
    for (std::byte& byte : bytes) byte &= std::byte{0xbf};
    return;
  }
  const auto* const known = std::ranges::find(kBlockFactors, type, &BlockFactors::type);
  if (known == std::end(kBlockFactors)) return;
  const float factor = deviation / known->spread;
  const uint16_t bits = to_half(factor), offset_bits = to_half(factor * known->centre);
  for (size_t block = 0; block < bytes.size(); block += block_bytes(type)) {
    std::memcpy(&bytes[block + known->factor], &bits, sizeof bits);
    if (known->offset != kNone) std::memcpy(&bytes[block + known->offset], &offset_bits, sizeof offset_bits);
  }
}

void scale_numbers(bfloat16* first, int64_t count, int64_t stride, float factor) {
  for (int64_t i = 0; i < count; ++i) first[i * stride] = to_bfloat16(to_float(first[i * stride]) * factor);
}

/// Gives a weight its outliers, see SyntheticKind::hostile.
/// One channel of the residual stream is large in the pad tokens alone. In Z-Image's layers it feeds one channel of the
/// feed-forward layer, as gate and as what is gated: a square, which is huge there. What comes back of such a channel
/// is small, or it would hide the others.
void add_outliers(const std::string& name, View weight) {
  constexpr int64_t kStream = 5, kInner = 7;  // channels
  constexpr float kPad = 1000, kRoot = 586, kChannel = 100, kBack = 1 / 64.f, kAttention = 16;
  constexpr int64_t kHeadLike = 128;
  bfloat16* const numbers = weight.data<bfloat16>();
  const int64_t rows = weight.shape()[0], columns = weight.shape().rank() == 2 ? weight.shape()[1] : 1;
  const auto row = [&](int64_t i) { return numbers + i * columns; };
  const auto ends = [&](std::string_view ending) { return name.ends_with(ending); };
  const bool is_first = name.starts_with("layers.0.");
  if (name == "cap_pad_token" || name == "x_pad_token") numbers[kStream] = to_bfloat16(kPad);
  // The inputs have a mean square of 1: one that is alone is the root of their number.
  if (is_first && (ends("feed_forward.w1.weight") || ends("feed_forward.w3.weight")))
    row(kInner)[kStream] = to_bfloat16(kRoot / std::sqrt(static_cast<float>(columns)));
  if (!is_first && ends("feed_forward.w3.weight")) scale_numbers(row(kInner), columns, 1, kChannel);
  if (ends("linear_in.weight")) scale_numbers(row(rows / 2 + kInner), columns, 1, kChannel);
  if (ends("feed_forward.w2.weight") || ends("linear_out.weight")) scale_numbers(row(0) + kInner, rows, columns, kBack);
  if (ends("to_v.weight"))
    for (int64_t i = 0; i < rows; i += kHeadLike) scale_numbers(row(i), columns, 1, kAttention);
}

/// \return whether a matrix of `shape` is stored in `format`.
bool fits(const std::optional<WeightFormat>& format, const Shape& shape) {
  return format && !format->is_plain() && shape[1] % std::max(block_elements(format->type), format->rotation) == 0;
}

}  // namespace

ConstView SyntheticSource::tensor(const std::string& name, const Shape& shape) {
  // bf16 halves the time and memory; values are a sum of two uniform bytes, near enough to normal for timing and scale.
  const auto [at, is_new] = made_.try_emplace(name);
  if (!is_new) return std::as_const(at->second).view();
  at->second = Tensor(Device{}, DType::bf16, shape);
  bfloat16* values = at->second.data<bfloat16>();
  const int64_t elements = shape.elements();
  const bool is_vector = shape.rank() == 1;
  const bool is_bias = name.ends_with(".bias");
  const float scale = is_vector ? 0.02f : 1.7f * deviation(shape) / 180.f;
  const uint64_t seed = std::hash<std::string>{}(name);
#pragma omp parallel for num_threads(ctx_.threads())
  for (int64_t block = 0; block < (elements + 4095) / 4096; ++block) {
    uint64_t state = seed + static_cast<uint64_t>(block) * 0x9e3779b97f4a7c15ull;
    for (int64_t i = block * 4096; i < std::min(elements, (block + 1) * 4096); ++i) {
      next(state);
      const int sum = static_cast<int>((state >> 56) & 0xff) + static_cast<int>((state >> 48) & 0xff) - 255;
      const float value =
          is_vector ? (is_bias ? 0.f : 1.f) + scale * static_cast<float>(sum) / 255.f : scale * static_cast<float>(sum);
      values[i] = to_bfloat16(value);
    }
  }
  if (kind_ == SyntheticKind::hostile) add_outliers(name, at->second);
  return std::as_const(at->second).view();
}

std::vector<StoredMatrix> SyntheticSource::matrix(const std::string& name, const Shape& shape) {
  if (!fits(format_, shape)) return WeightSource::matrix(name, shape);
  const auto [at, is_new] = blocks_.try_emplace(name);
  auto& [bytes, scales] = at->second;
  if (is_new) {
    bytes.resize(StoredMatrix::whole({format_->type}, shape[0], shape[1], nullptr).size_in_bytes());
    constexpr size_t kPiece = size_t{1} << 16;
    const uint64_t seed = std::hash<std::string>{}(name);
#pragma omp parallel for num_threads(ctx_.threads())
    for (size_t begin = 0; begin < bytes.size(); begin += kPiece) {
      uint64_t state = seed + begin * 0x9e3779b97f4a7c15ull;
      for (size_t i = begin; i < std::min(bytes.size(), begin + kPiece); ++i)
        bytes[i] = static_cast<std::byte>(next(state) >> 56);
    }
    set_factors(format_->type, deviation(shape), bytes);
    const float scale = deviation(shape) / (format_->type == StoredType::i8 ? 74.f : 0.5f);
    if (format_->scales != WeightScales::none)
      scales.assign(format_->scales == WeightScales::one ? 1 : static_cast<size_t>(shape[0]), scale);
  }
  return {StoredMatrix::whole(*format_, shape[0], shape[1], bytes.data(), scales.empty() ? nullptr : scales.data())};
}

void SyntheticSource::release(const std::string& name) {
  made_.erase(name);
  blocks_.erase(name);
}

ConstView ListingSource::tensor(const std::string& name, const Shape& shape) {
  shapes_[name] = shape;
  return {nullptr, DType::bf16, shape};
}

std::vector<StoredMatrix> ListingSource::matrix(const std::string& name, const Shape& shape) {
  if (!fits(format_, shape)) return WeightSource::matrix(name, shape);
  shapes_[name] = shape;
  return {StoredMatrix::whole(*format_, shape[0], shape[1], nullptr)};
}

std::optional<WeightFormat> parse_synthetic_format(const std::string& name) {
  if (name.empty()) return std::nullopt;
  if (name == "int8_convrot") return WeightFormat{StoredType::i8, WeightScales::each_row, 256};
  std::string upper = name;
  for (char& letter : upper) letter = static_cast<char>(std::toupper(static_cast<unsigned char>(letter)));
  const std::optional<StoredType> type = parse_stored_type(upper);
  std::vector<std::string_view> names{"int8_convrot"};
  for (const StoredType known : kAllStoredTypes) names.push_back(nostos::name(known));
  require(type.has_value(), ErrorKind::invalid_input, "weight format '{}' is unknown; use one of {}", name,
          fmt::join(names, ", "));
  const bool wants_scale = *type == StoredType::i8 || *type == StoredType::f8_e4m3 || *type == StoredType::f8_e5m2;
  return WeightFormat{*type, wants_scale ? WeightScales::one : WeightScales::none};
}

std::optional<WeightFormat> synthetic_format_of(std::string_view part, const std::string& formats) {
  constexpr std::array<std::string_view, 3> kParts{"transformer", "text_encoder", "vae"};
  if (formats.find('=') == std::string::npos) return parse_synthetic_format(formats);
  std::optional<WeightFormat> found;
  std::istringstream entries(formats);
  for (std::string entry; std::getline(entries, entry, ',');) {
    const size_t equals = entry.find('=');
    const std::string name = entry.substr(0, equals);
    require(equals != std::string::npos && std::ranges::find(kParts, name) != kParts.end(), ErrorKind::invalid_input,
            "'{}' is no part's weight format: give PART=FORMAT with one of {}", entry, fmt::join(kParts, ", "));
    const std::optional<WeightFormat> format = parse_synthetic_format(entry.substr(equals + 1));
    if (name == part) found = format;
  }
  return found;
}

}  // namespace nostos
