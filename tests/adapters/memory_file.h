// Owns a file of tensors in memory, for tests and fuzz targets that need no disk.
#pragma once

#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "io/tensor_file.h"

namespace nostos::test {

/// Tensors and metadata as a file would have them.
class MemoryFile final : public TensorFile {
 public:
  explicit MemoryFile(std::filesystem::path path = "adapter.safetensors") : path_(std::move(path)) {}

  void add(const std::string& name, std::string dtype, std::vector<int64_t> extents, std::vector<std::byte> bytes) {
    TensorInfo info{std::move(dtype), std::move(extents), 0, bytes.size()};
    tensors_.insert_or_assign(name, std::move(info));
    bytes_.insert_or_assign(name, std::move(bytes));
  }
  /// Adds a float32 tensor whose elements are `value` + index / 8.
  void add(const std::string& name, std::vector<int64_t> extents, float value = 0.5f) {
    int64_t count = 1;
    for (const int64_t extent : extents) count *= extent;
    std::vector<float> values(static_cast<size_t>(count));
    for (size_t i = 0; i < values.size(); ++i) values[i] = value + static_cast<float>(i % 64) / 8;
    add(name, std::move(extents), values);
  }
  void add(const std::string& name, std::vector<int64_t> extents, const std::vector<float>& values) {
    std::vector<std::byte> bytes(values.size() * sizeof(float));
    if (!bytes.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
    add(name, "F32", std::move(extents), std::move(bytes));
  }
  void remove(const std::string& name) {
    tensors_.erase(name);
    bytes_.erase(name);
  }
  void set_metadata(const std::string& key, const std::string& value) { metadata_[key] = value; }

  const std::filesystem::path& path() const override { return path_; }
  const std::map<std::string, TensorInfo, std::less<>>& tensors() const override { return tensors_; }
  const std::map<std::string, std::string>& metadata() const override { return metadata_; }
  std::span<const std::byte> bytes(std::string_view name) const override { return bytes_.find(name)->second; }
  void will_need(std::string_view) const override {}
  void release(std::string_view) const override {}

 private:
  std::filesystem::path path_;
  std::map<std::string, TensorInfo, std::less<>> tensors_;
  std::map<std::string, std::vector<std::byte>, std::less<>> bytes_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace nostos::test
