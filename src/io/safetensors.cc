// Implements the safetensors format.
#include "io/safetensors.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "base/error.h"
#include "io/file.h"
#include "io/json_parse.h"

namespace nostos {
namespace {

using nlohmann::json;

constexpr size_t kLengthBytes = 8;
constexpr size_t kMaxHeaderBytes = 100'000'000;
/// The header object, a tensor's object and its arrays.
constexpr int kMaxHeaderDepth = 3;

uint64_t read_length(const std::byte* bytes) {
  uint64_t value = 0;
  for (int i = kLengthBytes - 1; i >= 0; --i) value = value << 8 | std::to_integer<uint64_t>(bytes[i]);
  return value;
}

/// Where a tensor's entry stands, for messages.
struct Entry {
  const std::string& file;
  const std::string& tensor;

  template <class... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) const {
    fail(ErrorKind::model, "{}: tensor '{}': {}", file, tensor, fmt::format(format, std::forward<Args>(args)...));
  }
};

/// \return the member of a tensor's entry. \throws Error model if it is missing.
const json& member(const json& value, const char* key, const Entry& entry) {
  const auto found = value.find(key);
  if (found == value.end()) entry.refuse("its header entry has no '{}'", key);
  return *found;
}

/// \return a number of the header as size_t. \throws Error model unless it is an integer from 0 to 2^63 - 1.
size_t parse_count(const json& value, const char* what, const Entry& entry) {
  if (!value.is_number_unsigned() ||
      value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    entry.refuse("its {} holds {}, must hold integers from 0 to 2^63 - 1", what, describe(value));
  }
  return value.get<uint64_t>();
}

/// \return the extents of a tensor, whose product is at most 2^63 - 1. \throws Error model
std::vector<int64_t> parse_shape(const json& shape, const Entry& entry) {
  if (!shape.is_array()) entry.refuse("its shape is {}, must be an array of extents", describe(shape));
  std::vector<int64_t> extents;
  int64_t elements = 1;
  for (const json& extent : shape) {
    const auto count = static_cast<int64_t>(parse_count(extent, "shape", entry));
    if (count != 0 && elements > std::numeric_limits<int64_t>::max() / count)
      entry.refuse("its shape {} overflows", describe(shape));
    elements *= count;
    extents.push_back(count);
  }
  return extents;
}

TensorInfo parse_entry(const json& value, size_t data_bytes, const Entry& entry) {
  if (!value.is_object()) entry.refuse("its header entry is {}, must be an object", describe(value));
  TensorInfo info;
  const json& dtype = member(value, "dtype", entry);
  if (!dtype.is_string()) entry.refuse("its dtype is {}, must be a string", describe(dtype));
  info.dtype_name = dtype.get<std::string>();
  const json& shape = member(value, "shape", entry);
  info.extents = parse_shape(shape, entry);

  const json& offsets = member(value, "data_offsets", entry);
  if (!offsets.is_array() || offsets.size() != 2) {
    entry.refuse("its data_offsets are {}, must be [begin, end]", describe(offsets));
  }
  info.begin = parse_count(offsets[0], "data_offsets", entry);
  info.end = parse_count(offsets[1], "data_offsets", entry);
  if (info.begin > info.end || info.end > data_bytes) {
    entry.refuse("its data_offsets [{}, {}] lie outside the {} bytes of data (is the file truncated?)", info.begin,
                 info.end, data_bytes);
  }
  const std::optional<DType> known = info.dtype();
  if (!known) return info;
  const auto elements = static_cast<size_t>(info.elements());
  if (elements > static_cast<size_t>(std::numeric_limits<int64_t>::max()) / size_bytes(*known))
    entry.refuse("its shape {} overflows", describe(shape));
  const size_t bytes = elements * size_bytes(*known);
  if (info.end - info.begin != bytes) {
    entry.refuse("its data_offsets [{}, {}] span {} bytes, but {} takes {}", info.begin, info.end,
                 info.end - info.begin, to_string(info), bytes);
  }
  return info;
}

/// \throws Error model unless the tensors, in order of their offsets, cover the data section exactly.
void check_coverage(const SafetensorsHeader& header, size_t data_bytes, const std::string& file) {
  using Item = std::pair<const std::string, TensorInfo>;
  std::vector<const Item*> order;
  for (const Item& item : header.tensors) order.push_back(&item);
  std::sort(order.begin(), order.end(), [](const Item* a, const Item* b) {
    return std::pair(a->second.begin, a->second.end) < std::pair(b->second.begin, b->second.end);
  });
  size_t covered = 0;
  const Item* previous = nullptr;
  for (const Item* item : order) {
    if (item->second.begin < covered) {
      fail(ErrorKind::model, "{}: tensors '{}' and '{}' overlap in the data", file, previous->first, item->first);
    }
    require(item->second.begin == covered, ErrorKind::model, "{}: the data has a hole of {} bytes before tensor '{}'",
            file, item->second.begin - covered, item->first);
    covered = item->second.end;
    previous = item;
  }
  require(covered == data_bytes, ErrorKind::model, "{}: {} bytes of data after the last tensor belong to none", file,
          data_bytes - covered);
}

}  // namespace

SafetensorsHeader parse_safetensors_header(std::span<const std::byte> start, size_t file_bytes,
                                           const std::string& name) {
  require(file_bytes >= kLengthBytes && start.size() >= kLengthBytes, ErrorKind::model,
          "{}: {} bytes are too few for a safetensors file (is it truncated?)", name, file_bytes);
  const uint64_t length = read_length(start.data());
  require(length <= kMaxHeaderBytes, ErrorKind::model,
          "{}: claims a header of {} bytes, at most {} are allowed (is it a safetensors file?)", name, length,
          kMaxHeaderBytes);
  require(length <= file_bytes - kLengthBytes && length <= start.size() - kLengthBytes, ErrorKind::model,
          "{}: its header of {} bytes goes beyond the end of the file (is it truncated?)", name, length);
  const std::string_view text(reinterpret_cast<const char*>(start.data()) + kLengthBytes, length);
  require(text.starts_with('{'), ErrorKind::model, "{}: its header is no JSON object (is it a safetensors file?)",
          name);

  const json root = parse_json(text, name, kMaxHeaderDepth);
  SafetensorsHeader header;
  header.data_begin = kLengthBytes + length;
  const size_t data_bytes = file_bytes - header.data_begin;
  for (const auto& [key, value] : root.items()) {
    if (key != "__metadata__") {
      header.tensors.emplace(key, parse_entry(value, data_bytes, {name, key}));
      continue;
    }
    require(value.is_object(), ErrorKind::model, "{}: its __metadata__ is {}, must be an object of strings", name,
            describe(value));
    for (const auto& [field, text_value] : value.items()) {
      require(text_value.is_string(), ErrorKind::model, "{}: its __metadata__ field '{}' is {}, must be a string", name,
              field, describe(text_value));
      header.metadata.emplace(field, text_value.get<std::string>());
    }
  }
  check_coverage(header, data_bytes, name);
  return header;
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& file)
    : file_(file), header_(parse_safetensors_header(file_.bytes(), file_.bytes().size(), file.string())) {}

std::span<const std::byte> SafetensorsFile::data(const TensorInfo& info) const {
  return file_.bytes().subspan(header_.data_begin + info.begin, info.end - info.begin);
}

std::span<const std::byte> SafetensorsFile::bytes(std::string_view name) const {
  const std::span<const std::byte> found = data(require_info(name));
  file_.require_whole();
  return found;
}

void SafetensorsFile::will_need(std::string_view name) const {
  const auto found = header_.tensors.find(name);
  if (found != header_.tensors.end()) file_.will_need(data(found->second));
}

void SafetensorsFile::release(std::string_view name) const {
  const auto found = header_.tensors.find(name);
  if (found != header_.tensors.end()) file_.release(data(found->second));
}

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& file, std::vector<TensorSlot> tensors,
                                     const std::map<std::string, std::string>& metadata)
    : out_(file), order_(std::move(tensors)) {
  // The widest dtypes first, as the reference writer does, so that every tensor is aligned for its own.
  std::ranges::sort(order_, [](const TensorSlot& a, const TensorSlot& b) {
    const size_t a_bytes = size_bytes(a.dtype), b_bytes = size_bytes(b.dtype);
    return a_bytes != b_bytes ? a_bytes > b_bytes : a.name < b.name;
  });
  json header = json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  for (const TensorSlot& tensor : order_) {
    check(tensor.name != "__metadata__" && !header.contains(tensor.name), "tensor names are unique");
    json shape = json::array();
    for (int axis = 0; axis < tensor.shape.rank(); ++axis) shape.push_back(tensor.shape[axis]);
    const size_t end = left_ + tensor.size_in_bytes();
    header[tensor.name] = {{"dtype", name(tensor.dtype)}, {"shape", shape}, {"data_offsets", {left_, end}}};
    left_ = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + kLengthBytes - 1) / kLengthBytes * kLengthBytes, ' ');
  require(text.size() <= kMaxHeaderBytes, ErrorKind::internal, "cannot write '{}': its header would be {} bytes",
          file.string(), text.size());
  std::string length;
  for (size_t i = 0; i < kLengthBytes; ++i)
    length += static_cast<char>(static_cast<uint64_t>(text.size()) >> (8 * i) & 0xff);
  out_.write(length);
  out_.write(text);
}

void SafetensorsWriter::write(std::span<const std::byte> bytes) {
  check(bytes.size() <= left_, "no more bytes are written than the tensors have");
  left_ -= bytes.size();
  out_.write(bytes);
}

void SafetensorsWriter::commit() {
  check(left_ == 0, "all bytes of the tensors are written");
  out_.commit();
}

void write_safetensors(const std::filesystem::path& file, std::span<const NamedTensor> tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<TensorSlot> slots;
  std::map<std::string_view, ConstView> views;
  for (const NamedTensor& tensor : tensors) {
    slots.push_back({tensor.name, tensor.view.dtype(), tensor.view.shape()});
    views.emplace(tensor.name, tensor.view);
  }
  SafetensorsWriter writer(file, std::move(slots), metadata);
  for (const TensorSlot& slot : writer.order()) {
    const ConstView view = views.at(slot.name);
    writer.write({view.bytes(), view.size_in_bytes()});
  }
  writer.commit();
}

}  // namespace nostos
