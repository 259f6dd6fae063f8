// Owns the safetensors file format: checked memory-mapped reading and atomic writing.
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/mapped_file.h"
#include "tensor/dtype.h"
#include "tensor/shape.h"
#include "tensor/tensor.h"

namespace nostos {

/// What the header of a safetensors file says about one tensor, which may be one that nostos cannot use.
struct TensorInfo {
  std::string dtype_name;        ///< as the file writes it, e.g. "BF16" or "F8_E4M3"
  std::vector<int64_t> extents;  ///< any number, each >= 0
  size_t begin = 0;              ///< first byte, counted from the start of the data section
  size_t end = 0;                ///< one past the last byte

  /// \return the type, nothing if it is none that nostos knows.
  std::optional<DType> dtype() const { return parse_dtype(dtype_name); }
  /// \return the shape, nothing if it has more axes than Shape holds.
  std::optional<Shape> shape() const;
  /// \return the product of the extents, at most 2^63 - 1.
  int64_t elements() const;

  friend bool operator==(const TensorInfo&, const TensorInfo&) = default;
};

/// \return e.g. "BF16 [4, 384]".
std::string to_string(const TensorInfo& info);

/// The parsed header of a safetensors file.
struct SafetensorsHeader {
  std::map<std::string, TensorInfo, std::less<>> tensors;
  std::map<std::string, std::string> metadata;
  size_t data_begin = 0;  ///< where the data section starts in the file
};

/// Parses and checks the header: its length (at most 100 MB, as the format says), JSON (depth, types, duplicate names),
/// sizes without overflow, and that the tensors cover the data section without overlap or hole. A tensor of an unknown
/// dtype or of more axes than Shape::kMaxRank is none that nostos can use, and no error.
/// \param start the file's first bytes, as many as there are up to the end of the header; more are ignored
/// \param file_bytes size of the whole file
/// \param name of the file, for messages
/// \throws Error model naming file and tensor
/// Source: https://github.com/huggingface/safetensors#format
SafetensorsHeader parse_safetensors_header(std::span<const std::byte> start, size_t file_bytes,
                                           const std::string& name);

/// A safetensors file, read-only. Move-only; views stay valid across moves, not beyond the object. The file must not be
/// cut short by others meanwhile: see MappedFile.
class SafetensorsFile {
 public:
  /// \throws Error model as parse_safetensors_header, or if the file is missing, unreadable or a git-lfs pointer.
  explicit SafetensorsFile(const std::filesystem::path& file);

  const std::filesystem::path& path() const { return file_.path(); }
  const std::map<std::string, TensorInfo, std::less<>>& tensors() const { return header_.tensors; }
  const std::map<std::string, std::string>& metadata() const { return header_.metadata; }

  /// \return the tensor's data, aligned for its dtype (copied out where an old writer left it unaligned); never null,
  /// also when empty. \throws Error model naming the file if it has no such tensor, one of a dtype or a number of axes
  /// that nostos cannot use, or has been cut short.
  ConstView tensor(std::string_view name) const;

  /// Asks the kernel to read the tensor's pages ahead. Does nothing for an unknown name.
  void will_need(std::string_view name) const;
  /// Drops the tensor's pages from this process; a later access reads them again. Does nothing for an unknown name.
  void release(std::string_view name) const;

 private:
  std::span<const std::byte> data(const TensorInfo& info) const;
  void copy_unaligned();

  MappedFile file_;
  SafetensorsHeader header_;
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
