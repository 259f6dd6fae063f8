// Fuzzes finding out how weights are quantised. The input: a safetensors or GGUF file. Every tensor of a sound file has
// a format whose factors can be read, or is refused as a damaged model.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string_view>

#include "base/error.h"
#include "io/gguf.h"
#include "io/layer_formats.h"
#include "io/safetensors.h"

namespace {

using namespace nostos;

/// A file that lies in memory.
class FileInMemory final : public TensorFile {
 public:
  explicit FileInMemory(std::span<const std::byte> bytes) {
    size_t data_begin = 0;
    if (std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()).starts_with("GGUF")) {
      GgufHeader header = parse_gguf_header(bytes, bytes.size(), "fuzz");
      tensors_ = std::move(header.tensors);
      metadata_ = std::move(header.metadata);
      data_begin = header.data_begin;
    } else {
      SafetensorsHeader header = parse_safetensors_header(bytes, bytes.size(), "fuzz");
      tensors_ = std::move(header.tensors);
      metadata_ = std::move(header.metadata);
      data_begin = header.data_begin;
    }
    data_ = bytes.subspan(data_begin);
  }
  const std::filesystem::path& path() const override { return path_; }
  const std::map<std::string, TensorInfo, std::less<>>& tensors() const override { return tensors_; }
  const std::map<std::string, std::string>& metadata() const override { return metadata_; }
  std::span<const std::byte> bytes(std::string_view name) const override {
    const TensorInfo& info = require_info(name);
    return data_.subspan(info.begin, info.end - info.begin);
  }
  void will_need(std::string_view) const override {}
  void release(std::string_view) const override {}

 private:
  std::filesystem::path path_ = "fuzz";
  std::map<std::string, TensorInfo, std::less<>> tensors_;
  std::map<std::string, std::string> metadata_;
  std::span<const std::byte> data_;
};

void check_weight(const LayerFormats& formats, const TensorInfo& info, const StoredWeight& weight) {
  const std::vector<float> scales = formats.scales(weight);
  const WeightFormat& format = weight.format;
  const auto rows = static_cast<size_t>(info.extents.size() < 2 ? 1 : info.extents[0]);
  const size_t wanted = format.scales == WeightScales::none ? 0 : format.scales == WeightScales::one ? 1 : rows;
  if (scales.size() != wanted || weight.scales.empty() != (format.scales == WeightScales::none)) std::abort();
  for (const float scale : scales) {
    if (!std::isfinite(scale)) std::abort();
  }
  if (format.rotation != 0 && (info.extents.size() != 2 || info.extents[1] % format.rotation != 0)) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const FileInMemory file(std::as_bytes(std::span(data, size)));
    const LayerFormats formats(file);
    for (const std::string& name : formats.belonging()) {
      if (!file.tensors().contains(name)) std::abort();
    }
    for (const auto& [name, info] : file.tensors()) {
      try {
        check_weight(formats, info, formats.of(name));
      } catch (const Error& error) {
        if (error.kind() != ErrorKind::model) std::abort();
      }
    }
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::model) std::abort();
  }
  return 0;
}
