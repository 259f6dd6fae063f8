// Owns the interface to a file of named tensors: what it holds and where, whatever its format. Read weights through it;
// io/safetensors.h and io/gguf.h are the formats there are.
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/dtype.h"
#include "tensor/shape.h"
#include "tensor/tensor.h"

namespace nostos {

/// What a file says about one of its tensors, which may be one that nostos cannot use.
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

/// A file of tensors, read-only: any number of threads may use it. Views live as long as it does. The file must not be
/// cut short by others meanwhile: see MappedFile.
class TensorFile {
 public:
  virtual ~TensorFile() = default;

  virtual const std::filesystem::path& path() const = 0;
  virtual const std::map<std::string, TensorInfo, std::less<>>& tensors() const = 0;
  /// \return what the file says of itself as text, by names of the format's own.
  virtual const std::map<std::string, std::string>& metadata() const = 0;

  /// \return the tensor's data, of any alignment, as old writers left it; never null, also when empty.
  /// \throws Error model naming the file if it has no such tensor, one of a dtype or a number of axes that nostos
  /// cannot use, or has been cut short.
  ConstView tensor(std::string_view name) const;
  /// \return the tensor's bytes as they are stored, of any alignment and of any type.
  /// \throws Error model naming the file if it has no such tensor or has been cut short
  virtual std::span<const std::byte> bytes(std::string_view name) const = 0;

  /// Asks the kernel to read the tensor's pages ahead. Does nothing for an unknown name.
  virtual void will_need(std::string_view name) const = 0;
  /// Drops the tensor's pages from this process; a later access reads them again. Does nothing for an unknown name.
  virtual void release(std::string_view name) const = 0;

 protected:
  /// \return what the file says of the tensor. \throws Error model if it has none of this name
  const TensorInfo& require_info(std::string_view name) const;
};

/// \return the file, by its format, which its first bytes tell.
/// \throws Error model if it is missing, unreadable, damaged or of no known format.
std::unique_ptr<const TensorFile> open_tensor_file(const std::filesystem::path& file);

}  // namespace nostos
