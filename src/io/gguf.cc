// Implements the GGUF format.
#include "io/gguf.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <utility>

#include "base/error.h"
#include "io/utf8.h"

namespace nostos {
namespace {

constexpr std::string_view kMagic = "GGUF";
constexpr std::string_view kAlignment = "general.alignment";
constexpr std::string_view kOriginalShape = "comfy.gguf.orig_shape.";
constexpr uint64_t kMostAxes = 8;  // ggml itself has four
constexpr int kMostNested = 4;     // arrays in arrays
constexpr uint64_t kMostTextBytes = uint64_t{64}
                                    << 20;  // of a name or a text that is copied; a chat template has 10 KB
constexpr uint64_t kMost = std::numeric_limits<int64_t>::max();

/// A ggml type: its number, and how its blocks look. Bytes are 0 where ggml has removed the type.
struct GgmlType {
  uint32_t number;
  std::string_view name;
  uint64_t block_elements;
  uint64_t block_bytes;
};

// Source: ggml.h and ggml-common.h of ggml.
constexpr std::array<GgmlType, 42> kGgmlTypes{{
    {0, "F32", 1, 4},          {1, "F16", 1, 2},          {2, "Q4_0", 32, 18},       {3, "Q4_1", 32, 20},
    {4, "Q4_2", 16, 0},        {5, "Q4_3", 16, 0},        {6, "Q5_0", 32, 22},       {7, "Q5_1", 32, 24},
    {8, "Q8_0", 32, 34},       {9, "Q8_1", 32, 40},       {10, "Q2_K", 256, 84},     {11, "Q3_K", 256, 110},
    {12, "Q4_K", 256, 144},    {13, "Q5_K", 256, 176},    {14, "Q6_K", 256, 210},    {15, "Q8_K", 256, 292},
    {16, "IQ2_XXS", 256, 66},  {17, "IQ2_XS", 256, 74},   {18, "IQ3_XXS", 256, 98},  {19, "IQ1_S", 256, 50},
    {20, "IQ4_NL", 32, 18},    {21, "IQ3_S", 256, 110},   {22, "IQ2_S", 256, 82},    {23, "IQ4_XS", 256, 136},
    {24, "I8", 1, 1},          {25, "I16", 1, 2},         {26, "I32", 1, 4},         {27, "I64", 1, 8},
    {28, "F64", 1, 8},         {29, "IQ1_M", 256, 56},    {30, "BF16", 1, 2},        {31, "Q4_0_4_4", 32, 0},
    {32, "Q4_0_4_8", 32, 0},   {33, "Q4_0_8_8", 32, 0},   {34, "TQ1_0", 256, 54},    {35, "TQ2_0", 256, 66},
    {36, "IQ4_NL_4_4", 32, 0}, {37, "IQ4_NL_4_8", 32, 0}, {38, "IQ4_NL_8_8", 32, 0}, {39, "MXFP4", 32, 17},
    {40, "NVFP4", 64, 36},     {41, "Q1_0", 128, 18},
}};

/// \return bytes of a value of `type`, 0 for strings and arrays.
size_t size_bytes(GgufType type) {
  constexpr std::array<size_t, 13> kSizes{1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  return kSizes[static_cast<size_t>(type)];
}

/// \return the number of type T that the bytes begin with, little endian. GGUF aligns none.
template <class T>
T read_number(const std::byte* bytes) {
  static_assert(std::endian::native == std::endian::little);
  T value;
  std::memcpy(&value, bytes, sizeof(T));
  return value;
}

std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// Reads a header from its start to its end.
class Cursor {
 public:
  Cursor(std::span<const std::byte> bytes, size_t at, const std::string& file) : bytes_(bytes), at_(at), file_(file) {}

  size_t at() const { return at_; }
  size_t left() const { return bytes_.size() - at_; }
  std::span<const std::byte> since(size_t begin) const { return bytes_.subspan(begin, at_ - begin); }

  /// \param what is read, as messages name it
  std::span<const std::byte> take(uint64_t count, std::string_view what) {
    if (count > left()) {
      fail(ErrorKind::model, "{}: {} takes {} bytes from byte {} on, but the file ends before (is it truncated?)",
           file_, what, count, at_);
    }
    at_ += count;
    return bytes_.subspan(at_ - count, count);
  }
  template <class T>
  T number(std::string_view what) {
    return read_number<T>(take(sizeof(T), what).data());
  }
  std::string_view string(std::string_view what) { return as_text(take(number<uint64_t>(what), what)); }
  /// \return a text that is valid UTF-8; what is none becomes U+FFFD.
  std::string text(std::string_view what) {
    const std::string_view stored = string(what);
    require(stored.size() <= kMostTextBytes, ErrorKind::model, "{}: {} is {} bytes long, at most {} are read", file_,
            what, stored.size(), kMostTextBytes);
    return encode_utf8(decode_utf8(stored));
  }
  GgufType type(std::string_view what) {
    const auto number = this->number<uint32_t>(what);
    require(number <= static_cast<uint32_t>(GgufType::f64), ErrorKind::model,
            "{}: {} is of the value type {}; GGUF has the types 0 to {}", file_, what, number,
            static_cast<uint32_t>(GgufType::f64));
    return static_cast<GgufType>(number);
  }
  /// \return a name of the file's, which must be UTF-8.
  std::string name(std::string_view what) {
    const size_t begin = at_ + sizeof(uint64_t);
    std::string name = text(what);
    require(!name.empty(), ErrorKind::model, "{}: {} is empty", file_, what);
    require(as_text(since(begin)) == name, ErrorKind::model, "{}: {} is no UTF-8: '{:.60}'", file_, what, name);
    return name;
  }

 private:
  std::span<const std::byte> bytes_;
  size_t at_;
  const std::string& file_;
};

/// \return a value that is neither a string nor an array, as text.
std::string scalar_text(Cursor& cursor, GgufType type, const std::string& file, const std::string& what) {
  switch (type) {
    case GgufType::u8:
      return fmt::format("{}", cursor.number<uint8_t>(what));
    case GgufType::i8:
      return fmt::format("{}", cursor.number<int8_t>(what));
    case GgufType::u16:
      return fmt::format("{}", cursor.number<uint16_t>(what));
    case GgufType::i16:
      return fmt::format("{}", cursor.number<int16_t>(what));
    case GgufType::u32:
      return fmt::format("{}", cursor.number<uint32_t>(what));
    case GgufType::i32:
      return fmt::format("{}", cursor.number<int32_t>(what));
    case GgufType::u64:
      return fmt::format("{}", cursor.number<uint64_t>(what));
    case GgufType::i64:
      return fmt::format("{}", cursor.number<int64_t>(what));
    case GgufType::f32:
      return fmt::format("{}", cursor.number<float>(what));
    case GgufType::f64:
      return fmt::format("{}", cursor.number<double>(what));
    default: {
      check(type == GgufType::boolean, "strings and arrays are read elsewhere");
      const auto value = cursor.number<uint8_t>(what);
      require(value <= 1, ErrorKind::model, "{}: {} is {}, must be 0 or 1, as it is a boolean", file, what, value);
      return value == 1 ? "true" : "false";
    }
  }
}

/// Goes through an array, whose elements may be arrays. \return the array
GgufArray read_array(Cursor& cursor, const std::string& file, const std::string& what, int depth) {
  require(depth < kMostNested, ErrorKind::model, "{}: {} nests arrays deeper than {} levels", file, what, kMostNested);
  GgufArray array;
  array.type = cursor.type(what);
  array.count = cursor.number<uint64_t>(what);
  const size_t begin = cursor.at();
  // The smallest string takes 8 bytes, the smallest array 12.
  const size_t least = array.type == GgufType::string ? 8 : array.type == GgufType::array ? 12 : size_bytes(array.type);
  require(array.count <= cursor.left() / least, ErrorKind::model,
          "{}: {} claims {} elements, more than the file holds (is it truncated?)", file, what, array.count);
  if (size_bytes(array.type) != 0) {
    cursor.take(array.count * least, what);
  } else {
    for (uint64_t i = 0; i < array.count; ++i) {
      if (array.type == GgufType::string)
        cursor.string(what);
      else
        read_array(cursor, file, what, depth + 1);
    }
  }
  array.bytes = cursor.since(begin);
  return array;
}

void read_key_value(Cursor& cursor, GgufHeader& header, uint64_t index, const std::string& file) {
  std::string key = cursor.name(fmt::format("the name of key {}", index));
  const std::string what = fmt::format("the key '{:.80}'", key);
  require(!header.metadata.contains(key) && !header.arrays.contains(key), ErrorKind::model, "{}: {} occurs twice", file,
          what);
  const GgufType type = cursor.type(what);
  require(key != kAlignment || type == GgufType::u32, ErrorKind::model,
          "{}: {} is of the value type {}, must be of type 4, a 32-bit number", file, what,
          static_cast<uint32_t>(type));
  if (type == GgufType::array) {
    header.arrays.emplace(std::move(key), read_array(cursor, file, what, 0));
  } else {
    std::string value = type == GgufType::string ? cursor.text(what) : scalar_text(cursor, type, file, what);
    header.metadata.emplace(std::move(key), std::move(value));
  }
}

/// \return the alignment of the data, a power of two. \throws Error model
uint64_t alignment_of(const GgufHeader& header, const std::string& file) {
  constexpr uint64_t kDefault = 32;
  constexpr uint64_t kLeast = 8;  // as the format says; numbers of every plain type are aligned then
  const auto found = header.metadata.find(std::string(kAlignment));
  if (found == header.metadata.end()) return kDefault;
  const uint64_t alignment = std::stoull(found->second);  // read_key_value() takes a 32-bit number alone
  require(std::has_single_bit(alignment) && alignment >= kLeast, ErrorKind::model,
          "{}: the key '{}' is {}, must be a power of two from {} on", file, kAlignment, alignment, kLeast);
  return alignment;
}

const GgmlType& ggml_type(uint32_t number, const std::string& file, const std::string& what) {
  const auto found = std::ranges::find(kGgmlTypes, number, &GgmlType::number);
  require(found != kGgmlTypes.end(), ErrorKind::model, "{}: {} is of the type {}; nostos knows ggml's types 0 to {}",
          file, what, number, kGgmlTypes.back().number);
  require(found->block_bytes != 0, ErrorKind::model,
          "{}: {} is {}, a type that ggml has removed: convert the model anew, e.g. to Q4_0", file, what, found->name);
  return *found;
}

/// \return the product of row-major extents, nothing if one is negative or the product, in this order, overflows.
std::optional<uint64_t> product(const std::vector<int64_t>& extents) {
  uint64_t elements = 1;
  for (const int64_t signed_extent : extents) {
    const auto extent = static_cast<uint64_t>(signed_extent);
    if (extent > kMost || (extent != 0 && elements > kMost / extent)) return std::nullopt;
    elements *= extent;
  }
  return elements;
}

/// Reads what the file says of one tensor. Offsets are checked later, when it is known where the data begins.
void read_tensor_info(Cursor& cursor, GgufHeader& header, uint64_t index, const std::string& file) {
  std::string name = cursor.name(fmt::format("the name of tensor {}", index));
  const std::string what = fmt::format("tensor '{:.200}'", name);
  TensorInfo info;
  const auto axes = cursor.number<uint32_t>(what);
  require(axes <= kMostAxes, ErrorKind::model, "{}: {} has {} axes, at most {} are read", file, what, axes, kMostAxes);
  for (uint32_t axis = 0; axis < axes; ++axis) info.extents.insert(info.extents.begin(), cursor.number<int64_t>(what));
  const std::optional<uint64_t> elements = product(info.extents);
  require(elements.has_value(), ErrorKind::model,
          "{}: the extents of {} overflow: they and their product must be at most 2^63 - 1", file, what);
  const GgmlType& type = ggml_type(cursor.number<uint32_t>(what), file, what);
  info.dtype_name = type.name;
  const uint64_t row = axes == 0 ? 1 : static_cast<uint64_t>(info.extents.back());
  require(row % type.block_elements == 0, ErrorKind::model,
          "{}: {} is {}, whose rows must be whole blocks of {} numbers", file, what, to_string(info),
          type.block_elements);
  const uint64_t blocks = *elements / type.block_elements;
  info.begin = cursor.number<uint64_t>(what);
  require(blocks <= kMost / type.block_bytes && info.begin <= kMost - blocks * type.block_bytes, ErrorKind::model,
          "{}: {}, {} from byte {} of the data on, overflows", file, what, to_string(info), info.begin);
  info.end = info.begin + blocks * type.block_bytes;
  require(header.tensors.emplace(std::move(name), std::move(info)).second, ErrorKind::model, "{}: {} occurs twice",
          file, what);
}

/// Gives tensors that ComfyUI-GGUF stored in another shape their own.
void restore_shapes(GgufHeader& header, const std::string& file) {
  for (auto& [name, info] : header.tensors) {
    const std::string key = std::string(kOriginalShape) + name;
    const auto found = header.arrays.find(key);
    if (found == header.arrays.end()) {
      require(!header.metadata.contains(key), ErrorKind::model, "{}: the key '{}' must be an array of extents", file,
              key);
      continue;
    }
    std::optional<std::vector<int64_t>> extents = found->second.integers();
    require(extents.has_value() && extents->size() <= kMostAxes, ErrorKind::model,
            "{}: the key '{}' must be an array of at most {} extents, which are integers", file, key, kMostAxes);
    const std::optional<uint64_t> elements = product(*extents);
    require(elements.has_value(), ErrorKind::model,
            "{}: the extents in the key '{}' must be from 0 on, and their product at most 2^63 - 1", file, key);
    require(*elements == static_cast<uint64_t>(info.elements()), ErrorKind::model,
            "{}: the key '{}' gives {} elements to the tensor, which is {} and has {}", file, key, *elements,
            to_string(info), info.elements());
    info.extents = std::move(*extents);
  }
}

/// \throws Error model unless the tensors are aligned, and lie in the data without overlap.
void check_places(const GgufHeader& header, size_t data_bytes, uint64_t alignment, const std::string& file) {
  using Item = std::pair<const std::string, TensorInfo>;
  std::vector<const Item*> order;
  for (const Item& item : header.tensors) {
    const TensorInfo& info = item.second;
    require(info.begin % alignment == 0, ErrorKind::model,
            "{}: tensor '{}' begins at byte {} of the data, must begin at a multiple of {}", file, item.first,
            info.begin, alignment);
    require(info.end <= data_bytes, ErrorKind::model,
            "{}: tensor '{}', {}, takes the bytes {} to {} of the data, which has {} (is the file truncated?)", file,
            item.first, to_string(info), info.begin, info.end, data_bytes);
    if (info.begin < info.end) order.push_back(&item);
  }
  std::ranges::sort(order, {}, [](const Item* item) { return item->second.begin; });
  for (size_t i = 1; i < order.size(); ++i) {
    require(order[i - 1]->second.end <= order[i]->second.begin, ErrorKind::model,
            "{}: tensors '{}' and '{}' overlap in the data", file, order[i - 1]->first, order[i]->first);
  }
}

/// \return the version. \throws Error model unless it is a GGUF file of a version and byte order that nostos reads.
uint32_t read_version(Cursor& cursor, const std::string& file) {
  require(as_text(cursor.take(kMagic.size(), "the word GGUF")) == kMagic, ErrorKind::model,
          "{}: does not begin with the word GGUF (is it a GGUF file?)", file);
  const auto version = cursor.number<uint32_t>("its version");
  require((version & 0xffffu) != 0 || version == 0, ErrorKind::model,
          "{}: is a GGUF file for big-endian machines; nostos reads little-endian ones", file);
  require(version == 2 || version == 3, ErrorKind::model,
          "{}: is of GGUF version {}; nostos reads the versions 2 and 3{}", file, version,
          version == 1 ? ", into which llama.cpp's tools convert it" : "");
  return version;
}

template <class T>
std::vector<int64_t> widened(const GgufArray& array) {
  std::vector<int64_t> values(array.count);
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<int64_t>(read_number<T>(array.bytes.data() + i * sizeof(T)));
  return values;
}

}  // namespace

std::optional<std::vector<std::string_view>> GgufArray::strings() const {
  if (type != GgufType::string) return std::nullopt;
  std::vector<std::string_view> texts;
  texts.reserve(count);
  for (size_t at = 0; at < bytes.size();) {
    const auto length = read_number<uint64_t>(bytes.data() + at);
    texts.push_back(as_text(bytes.subspan(at + sizeof(length), length)));
    at += sizeof(length) + length;
  }
  return texts;
}

std::optional<std::vector<int64_t>> GgufArray::integers() const {
  switch (type) {
    case GgufType::u8:
      return widened<uint8_t>(*this);
    case GgufType::i8:
      return widened<int8_t>(*this);
    case GgufType::u16:
      return widened<uint16_t>(*this);
    case GgufType::i16:
      return widened<int16_t>(*this);
    case GgufType::u32:
      return widened<uint32_t>(*this);
    case GgufType::i32:
      return widened<int32_t>(*this);
    case GgufType::i64:
      return widened<int64_t>(*this);
    case GgufType::u64: {
      std::vector<int64_t> values = widened<uint64_t>(*this);
      if (std::ranges::any_of(values, [](int64_t value) { return value < 0; })) return std::nullopt;
      return values;
    }
    default:
      return std::nullopt;
  }
}

GgufHeader parse_gguf_header(std::span<const std::byte> start, size_t file_bytes, const std::string& name) {
  Cursor cursor(start.first(std::min(start.size(), file_bytes)), 0, name);
  const uint32_t version = read_version(cursor, name);
  const auto tensors = cursor.number<uint64_t>("the number of tensors");
  const auto keys = cursor.number<uint64_t>("the number of keys");
  // A tensor takes at least 24 bytes of the header, a key 13.
  require(tensors <= cursor.left() / 24 && keys <= cursor.left() / 13, ErrorKind::model,
          "{}: claims {} tensors and {} keys, more than the file's {} bytes hold (is it truncated?)", name, tensors,
          keys, file_bytes);
  GgufHeader header;
  header.version = version;
  for (uint64_t i = 0; i < keys; ++i) read_key_value(cursor, header, i, name);
  const uint64_t alignment = alignment_of(header, name);
  for (uint64_t i = 0; i < tensors; ++i) read_tensor_info(cursor, header, i, name);
  // A file without tensors may end where its header does.
  header.data_begin = std::min((cursor.at() + alignment - 1) / alignment * alignment, file_bytes);
  check_places(header, file_bytes - header.data_begin, alignment, name);
  restore_shapes(header, name);
  return header;
}

bool is_gguf(const std::filesystem::path& file) {
  std::array<char, kMagic.size()> bytes{};
  // Opening a pipe must not wait, and pread reads none.
  const Descriptor descriptor(::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  const ssize_t read = descriptor < 0 ? 0 : ::pread(descriptor, bytes.data(), bytes.size(), 0);
  return read == std::ssize(bytes) && std::string_view(bytes.data(), bytes.size()) == kMagic;
}

GgufFile::GgufFile(const std::filesystem::path& file)
    : file_(file), header_(parse_gguf_header(file_.bytes(), file_.bytes().size(), file.string())) {}

std::span<const std::byte> GgufFile::data(const TensorInfo& info) const {
  return file_.bytes().subspan(header_.data_begin + info.begin, info.end - info.begin);
}

std::span<const std::byte> GgufFile::bytes(std::string_view name) const {
  const std::span<const std::byte> found = data(require_info(name));
  file_.require_whole();
  return found;
}

void GgufFile::will_need(std::string_view name) const {
  const auto found = header_.tensors.find(name);
  if (found != header_.tensors.end()) file_.will_need(data(found->second));
}

void GgufFile::release(std::string_view name) const {
  const auto found = header_.tensors.find(name);
  if (found != header_.tensors.end()) file_.release(data(found->second));
}

}  // namespace nostos
