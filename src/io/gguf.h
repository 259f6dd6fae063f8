// Owns reading the GGUF file format: key-values, and tensors that may lie in blocks of quantised numbers.
// open_tensor_file() chooses it by a file's first bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/mapped_file.h"
#include "io/tensor_file.h"
#include "tensor/tensor.h"

namespace nostos {

/// The types of values in a GGUF file, with the numbers that the file gives them.
enum class GgufType : uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

/// An array under a key. It refers to the bytes that were parsed.
struct GgufArray {
  GgufType type = GgufType::u8;  ///< of the elements
  uint64_t count = 0;
  std::span<const std::byte> bytes;  ///< the elements as the file stores them, checked to be whole

  /// \return the elements, nothing if they are no strings. The views refer to the bytes that were parsed.
  std::optional<std::vector<std::string_view>> strings() const;
  /// \return the elements, nothing if they are no integers or one is beyond 2^63 - 1.
  std::optional<std::vector<int64_t>> integers() const;
};

/// The parsed header of a GGUF file.
struct GgufHeader {
  uint32_t version = 0;
  /// By name; extents are row-major, the reverse of the file's, or those of the key `comfy.gguf.orig_shape.NAME`. With
  /// those a row need not end where a block ends. The dtype's name is the ggml type's.
  std::map<std::string, TensorInfo, std::less<>> tensors;
  std::map<std::string, std::string> metadata;           ///< strings, numbers and booleans ("true", "false") as text
  std::map<std::string, GgufArray, std::less<>> arrays;  ///< they refer to the bytes that were parsed
  size_t data_begin = 0;                                 ///< where the data section starts in the file
};

/// Parses and checks the header of a little-endian file of version 2 or 3: counts, lengths and types against the file's
/// size, names that occur twice, extents and offsets without overflow, the alignment, and whether the tensors lie in
/// the file without overlap. A tensor of a ggml type that nostos cannot use is no error.
/// \param start the file's first bytes, as many as there are up to the end of the header; more are ignored
/// \param file_bytes size of the whole file
/// \param name of the file, for messages
/// \throws Error model naming file and tensor or key
/// Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; the original shapes are those of ComfyUI-GGUF
GgufHeader parse_gguf_header(std::span<const std::byte> start, size_t file_bytes, const std::string& name);

/// \return whether the file begins as GGUF files do; false where it cannot be read.
bool is_gguf(const std::filesystem::path& file);

/// A GGUF file, read-only. Views live as long as the object. Nobody may cut the file short meanwhile: see MappedFile.
class GgufFile final : public TensorFile {
 public:
  /// \throws Error model as parse_gguf_header(), or if the file is missing, unreadable or a git-lfs pointer.
  explicit GgufFile(const std::filesystem::path& file);

  const std::filesystem::path& path() const override { return file_.path(); }
  const std::map<std::string, TensorInfo, std::less<>>& tensors() const override { return header_.tensors; }
  const std::map<std::string, std::string>& metadata() const override { return header_.metadata; }
  std::span<const std::byte> bytes(std::string_view name) const override;
  void will_need(std::string_view name) const override;
  void release(std::string_view name) const override;

  /// \return the whole header; its arrays refer to the file, which must live as long.
  const GgufHeader& header() const { return header_; }

 private:
  std::span<const std::byte> data(const TensorInfo& info) const;

  MappedFile file_;
  GgufHeader header_;
};

}  // namespace nostos
