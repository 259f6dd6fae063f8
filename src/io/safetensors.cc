// Implements the safetensors format.
#include "io/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <optional>
#include <system_error>
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

TensorInfo parse_entry(const json& value, size_t data_bytes, const Entry& entry) {
  if (!value.is_object()) entry.refuse("its header entry is {}, must be an object", describe(value));
  TensorInfo info;

  const json& dtype = member(value, "dtype", entry);
  if (!dtype.is_string()) entry.refuse("its dtype is {}, must be a string", describe(dtype));
  const std::optional<DType> known = parse_dtype(dtype.get_ref<const std::string&>());
  if (!known) entry.refuse("its dtype {} is none that nostos knows", describe(dtype));
  info.dtype = *known;

  const json& shape = member(value, "shape", entry);
  if (!shape.is_array() || shape.size() > static_cast<size_t>(Shape::kMaxRank)) {
    entry.refuse("its shape is {}, must be an array of at most {} extents", describe(shape), Shape::kMaxRank);
  }
  size_t bytes = size_bytes(info.dtype);
  for (const json& extent : shape) {
    const size_t count = parse_count(extent, "shape", entry);
    if (count != 0 && bytes > static_cast<size_t>(std::numeric_limits<int64_t>::max()) / count) {
      entry.refuse("its shape {} overflows", describe(shape));
    }
    bytes *= count;
    info.shape.push_back(static_cast<int64_t>(count));
  }

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
  if (info.end - info.begin != bytes) {
    entry.refuse("its data_offsets [{}, {}] span {} bytes, but {} {} takes {}", info.begin, info.end,
                 info.end - info.begin, name(info.dtype), to_string(info.shape), bytes);
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

/// A read-only mapping of a file being taken over by its reader.
struct Mapping {
  std::byte* data = nullptr;
  size_t bytes = 0;
};

Mapping map_file(const std::filesystem::path& file) {
  const auto reason = [] { return std::generic_category().message(errno); };
  const int descriptor = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
  require(descriptor >= 0, ErrorKind::model, "cannot read '{}': {}", file.string(), reason());
  Mapping mapping;
  std::string problem;
  struct stat status;
  if (::fstat(descriptor, &status) != 0) {
    problem = reason();
  } else if (!S_ISREG(status.st_mode)) {
    problem = "it is no file";
  } else if (status.st_size > 0) {
    mapping.bytes = static_cast<size_t>(status.st_size);
    void* data = ::mmap(nullptr, mapping.bytes, PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (data == MAP_FAILED) problem = reason();
    mapping.data = static_cast<std::byte*>(data);
  }
  ::close(descriptor);
  require(problem.empty(), ErrorKind::model, "cannot read '{}': {}", file.string(), problem);
  return mapping;
}

/// Gives advice on the pages that hold [begin, begin + bytes): all of them, or only those that hold nothing else.
void advise(std::byte* begin, size_t bytes, bool whole_pages_only, int advice) {
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  auto first = reinterpret_cast<uintptr_t>(begin);
  uintptr_t last = first + bytes;
  first = whole_pages_only ? (first + page - 1) / page * page : first / page * page;
  if (whole_pages_only) last = last / page * page;
  // A hint: that the kernel does not take it is no error.
  if (first < last) ::madvise(reinterpret_cast<void*>(first), last - first, advice);
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

SafetensorsFile::SafetensorsFile(const std::filesystem::path& file) : path_(file) {
  const Mapping mapping = map_file(file);
  mapping_ = mapping.data;
  mapping_bytes_ = mapping.bytes;
  try {
    header_ = parse_safetensors_header({mapping_, mapping_bytes_}, mapping_bytes_, file.string());
    copy_unaligned();
  } catch (...) {
    if (mapping_ != nullptr) ::munmap(mapping_, mapping_bytes_);
    throw;
  }
}

SafetensorsFile::~SafetensorsFile() {
  if (mapping_ != nullptr) ::munmap(mapping_, mapping_bytes_);
}

SafetensorsFile::SafetensorsFile(SafetensorsFile&& other) noexcept
    : path_(std::move(other.path_)),
      header_(std::move(other.header_)),
      mapping_(std::exchange(other.mapping_, nullptr)),
      mapping_bytes_(std::exchange(other.mapping_bytes_, 0)),
      copies_(std::move(other.copies_)) {}

SafetensorsFile& SafetensorsFile::operator=(SafetensorsFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(header_, other.header_);
  std::swap(mapping_, other.mapping_);
  std::swap(mapping_bytes_, other.mapping_bytes_);
  std::swap(copies_, other.copies_);
  return *this;
}

void SafetensorsFile::copy_unaligned() {
  for (const auto& [name, info] : header_.tensors) {
    const std::byte* data = mapping_ + header_.data_begin + info.begin;
    if (reinterpret_cast<uintptr_t>(data) % size_bytes(info.dtype) == 0 || info.begin == info.end) continue;
    copies_.emplace(name, std::vector<std::byte>(data, data + (info.end - info.begin)));
  }
}

ConstView SafetensorsFile::tensor(std::string_view name) const {
  const auto found = header_.tensors.find(name);
  require(found != header_.tensors.end(), ErrorKind::model, "{}: has no tensor '{}'", path_.string(), name);
  const TensorInfo& info = found->second;
  const auto copy = copies_.find(name);
  const std::byte* data = copy == copies_.end() ? mapping_ + header_.data_begin + info.begin : copy->second.data();
  return {data, info.dtype, info.shape};
}

void SafetensorsFile::will_need(std::string_view name) const {
  const auto found = header_.tensors.find(name);
  if (found == header_.tensors.end() || copies_.contains(name)) return;
  const TensorInfo& info = found->second;
  advise(mapping_ + header_.data_begin + info.begin, info.end - info.begin, false, MADV_WILLNEED);
}

void SafetensorsFile::release(std::string_view name) const {
  const auto found = header_.tensors.find(name);
  if (found == header_.tensors.end()) return;
  const TensorInfo& info = found->second;
  advise(mapping_ + header_.data_begin + info.begin, info.end - info.begin, true, MADV_DONTNEED);
}

void write_safetensors(const std::filesystem::path& file, std::span<const NamedTensor> tensors,
                       const std::map<std::string, std::string>& metadata) {
  // The widest dtypes first, as the reference writer does, so that every tensor is aligned for its own.
  std::vector<const NamedTensor*> order;
  for (const NamedTensor& tensor : tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](const NamedTensor* a, const NamedTensor* b) {
    const size_t a_bytes = size_bytes(a->view.dtype());
    const size_t b_bytes = size_bytes(b->view.dtype());
    return a_bytes != b_bytes ? a_bytes > b_bytes : a->name < b->name;
  });

  json header = json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  size_t offset = 0;
  for (const NamedTensor* tensor : order) {
    check(tensor->name != "__metadata__" && !header.contains(tensor->name), "tensor names are unique");
    json shape = json::array();
    for (int axis = 0; axis < tensor->view.shape().rank(); ++axis) shape.push_back(tensor->view.shape()[axis]);
    const size_t end = offset + tensor->view.size_in_bytes();
    header[tensor->name] = {{"dtype", name(tensor->view.dtype())}, {"shape", shape}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + kLengthBytes - 1) / kLengthBytes * kLengthBytes, ' ');
  require(text.size() <= kMaxHeaderBytes, ErrorKind::internal, "cannot write '{}': its header would be {} bytes",
          file.string(), text.size());

  AtomicFile out(file);
  std::string length;
  for (size_t i = 0; i < kLengthBytes; ++i)
    length += static_cast<char>(static_cast<uint64_t>(text.size()) >> (8 * i) & 0xff);
  out.write(length);
  out.write(text);
  for (const NamedTensor* tensor : order) out.write({tensor->view.bytes(), tensor->view.size_in_bytes()});
  out.commit();
}

}  // namespace nostos
