// Owns the safetensors file format: checked reading from mapped memory, and atomic writing. A part's weights may lie in
// several such files: WeightStore puts them together.
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/file.h"
#include "io/mapped_file.h"
#include "io/tensor_file.h"
#include "tensor/tensor.h"

namespace nostos {

/// The parsed header of a safetensors file.
struct SafetensorsHeader {
  std::map<std::string, TensorInfo, std::less<>> tensors;
  std::map<std::string, std::string> metadata;
  size_t data_begin = 0;  ///< where the data section starts in the file
};

/// Parses and checks the header: its length (at most 100 MB, as the format says), its JSON (depth, types, duplicate
/// names), sizes without overflow, and whether the tensors cover the data section without overlap or hole. A tensor of
/// an unknown dtype, or of more axes than Shape::kMaxRank, is no error; nostos cannot use it.
/// \param start the file's first bytes, as many as there are up to the end of the header; more are ignored
/// \param file_bytes size of the whole file
/// \param name of the file, for messages
/// \throws Error model naming file and tensor
/// Source: https://github.com/huggingface/safetensors#format
SafetensorsHeader parse_safetensors_header(std::span<const std::byte> start, size_t file_bytes,
                                           const std::string& name);

/// A safetensors file, read-only. Views live as long as the object. Nobody may cut the file short meanwhile: see
/// MappedFile.
class SafetensorsFile final : public TensorFile {
 public:
  /// \throws Error model as parse_safetensors_header(), or if the file is missing, unreadable or a git-lfs pointer.
  explicit SafetensorsFile(const std::filesystem::path& file);

  const std::filesystem::path& path() const override { return file_.path(); }
  const std::map<std::string, TensorInfo, std::less<>>& tensors() const override { return header_.tensors; }
  const std::map<std::string, std::string>& metadata() const override { return header_.metadata; }
  std::span<const std::byte> bytes(std::string_view name) const override;
  void will_need(std::string_view name) const override;
  void release(std::string_view name) const override;

 private:
  std::span<const std::byte> data(const TensorInfo& info) const;

  MappedFile file_;
  SafetensorsHeader header_;
};

/// A tensor on the host and the name to write it under.
struct NamedTensor {
  std::string name;
  ConstView view;
};

/// What a tensor of a file is called and how large it is, before its numbers are there.
struct TensorSlot {
  std::string name;
  DType dtype = DType::f32;
  Shape shape{};

  size_t size_in_bytes() const { return static_cast<size_t>(shape.elements()) * size_bytes(dtype); }
};

/// A file that is written tensor by tensor, so that no more than one need be in memory. Equal input gives equal bytes.
/// Readers see the old file or the whole new one, never a part.
class SafetensorsWriter {
 public:
  /// Writes the header. \param tensors of unique names
  /// \throws Error invalid_input if no file can be made there, internal on a full disk
  SafetensorsWriter(const std::filesystem::path& file, std::vector<TensorSlot> tensors,
                    const std::map<std::string, std::string>& metadata = {});
  /// \return the tensors in the order in which their bytes are to be written.
  const std::vector<TensorSlot>& order() const { return order_; }
  /// Appends bytes of the tensors, in order(). \throws Error internal on a full disk
  void write(std::span<const std::byte> bytes);
  /// Puts the file under its name. Call it once, when the bytes of all tensors are written. \throws Error internal
  void commit();

 private:
  AtomicFile out_;
  std::vector<TensorSlot> order_;
  size_t left_ = 0;  // bytes to come
};

/// Writes `tensors` (host memory, unique names) and `metadata`; equal input gives equal bytes. Readers see the old file
/// or the whole new one, never a part.
/// \throws Error invalid_input if no file can be made there, internal on a full disk.
void write_safetensors(const std::filesystem::path& file, std::span<const NamedTensor> tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace nostos
