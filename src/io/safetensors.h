// Owns the safetensors file format: checked memory-mapped reading and atomic writing.
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/dtype.h"
#include "tensor/shape.h"
#include "tensor/tensor.h"

namespace nostos {

/// What the header of a safetensors file says about one tensor.
struct TensorInfo {
  DType dtype = DType::f32;
  Shape shape;
  size_t begin = 0;  ///< first byte, counted from the start of the data section
  size_t end = 0;    ///< one past the last byte

  friend bool operator==(const TensorInfo&, const TensorInfo&) = default;
};

/// The parsed header of a safetensors file.
struct SafetensorsHeader {
  std::map<std::string, TensorInfo, std::less<>> tensors;
  std::map<std::string, std::string> metadata;
  size_t data_begin = 0;  ///< where the data section starts in the file
};

/// Parses and checks the header: its length (at most 100 MB, as the format says), JSON (depth, types, duplicate names),
/// dtypes, shapes (rank at most Shape::kMaxRank, size without overflow), and that the tensors cover the data section
/// without overlap or hole.
/// \param start the file's first bytes, as many as there are up to the end of the header; more are ignored
/// \param file_bytes size of the whole file
/// \param name of the file, for messages
/// \throws Error model naming file and tensor
/// Source: https://github.com/huggingface/safetensors#format
SafetensorsHeader parse_safetensors_header(std::span<const std::byte> start, size_t file_bytes,
                                           const std::string& name);

/// A safetensors file mapped into memory, read-only. Move-only; views stay valid across moves, not beyond the object.
/// The file must not be truncated by others while it is mapped.
class SafetensorsFile {
 public:
  /// \throws Error model as parse_safetensors_header, or if the file is missing or unreadable.
  explicit SafetensorsFile(const std::filesystem::path& file);
  ~SafetensorsFile();
  SafetensorsFile(SafetensorsFile&& other) noexcept;
  SafetensorsFile& operator=(SafetensorsFile&& other) noexcept;
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  const std::filesystem::path& path() const { return path_; }
  const std::map<std::string, TensorInfo, std::less<>>& tensors() const { return header_.tensors; }
  const std::map<std::string, std::string>& metadata() const { return header_.metadata; }

  /// \return the tensor's data in the mapping, aligned for its dtype (copied out where an old writer left it
  /// unaligned); never null, also when empty. \throws Error model naming the file if it has no such tensor.
  ConstView tensor(std::string_view name) const;

  /// Asks the kernel to read the tensor's pages ahead. Does nothing for an unknown name.
  void will_need(std::string_view name) const;
  /// Drops the tensor's pages from this process; a later access reads them again. Does nothing for an unknown name.
  void release(std::string_view name) const;

 private:
  void copy_unaligned();

  std::filesystem::path path_;
  SafetensorsHeader header_;
  std::byte* mapping_ = nullptr;
  size_t mapping_bytes_ = 0;
  std::map<std::string, std::vector<std::byte>, std::less<>> copies_;
};

/// A tensor on the host and the name to write it under.
struct NamedTensor {
  std::string name;
  ConstView view;
};

/// Writes `tensors` (host memory, unique names) and `metadata`; equal input gives equal bytes. Readers see the old file
/// or the whole new one, never a part.
/// \throws Error invalid_input if no file can be made there, internal on a full disk.
void write_safetensors(const std::filesystem::path& file, std::span<const NamedTensor> tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace nostos
