// Owns making GGUF files by hand, sound and damaged ones, for tests.
#pragma once

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "io/gguf.h"

namespace nostos {

/// \return the bytes of a number, little endian.
template <class T>
std::string number_bytes(T value) {
  std::string bytes(sizeof(T), '\0');
  std::memcpy(bytes.data(), &value, sizeof(T));
  return bytes;
}

/// \return a text as GGUF has it, behind its length.
inline std::string gguf_text(std::string_view text) { return number_bytes<uint64_t>(text.size()).append(text); }

/// Puts a GGUF file together from keys and tensors in the order in which they come.
class GgufBytes {
 public:
  uint32_t version = 3;
  uint64_t alignment = 32;  ///< of what is written; a key must tell it where it is another

  GgufBytes& key(std::string_view name, GgufType type, std::string_view value) {
    ++key_count;
    keys_ += gguf_text(name) + number_bytes(static_cast<uint32_t>(type)) + std::string(value);
    return *this;
  }
  GgufBytes& text(std::string_view name, std::string_view value) {
    return key(name, GgufType::string, gguf_text(value));
  }
  /// \param elements the bytes of all elements
  GgufBytes& array(std::string_view name, GgufType type, uint64_t count, std::string_view elements) {
    return key(name, GgufType::array,
               number_bytes(static_cast<uint32_t>(type)) + number_bytes(count) + std::string(elements));
  }
  GgufBytes& integers(std::string_view name, const std::vector<int32_t>& values) {
    std::string bytes;
    for (const int32_t value : values) bytes += number_bytes(value);
    return array(name, GgufType::i32, values.size(), bytes);
  }
  GgufBytes& texts(std::string_view name, const std::vector<std::string>& values) {
    std::string bytes;
    for (const std::string& value : values) bytes += gguf_text(value);
    return array(name, GgufType::string, values.size(), bytes);
  }
  /// \param extents as the file has them, innermost first
  /// \param offset that the file gives, where it is another than that of `data`
  GgufBytes& tensor(std::string_view name, const std::vector<uint64_t>& extents, uint32_t type, std::string_view data) {
    pad(data_);
    return tensor_at(name, extents, type, data_.size(), data);
  }
  GgufBytes& tensor_at(std::string_view name, const std::vector<uint64_t>& extents, uint32_t type, uint64_t offset,
                       std::string_view data) {
    ++tensor_count;
    infos_ += gguf_text(name) + number_bytes(static_cast<uint32_t>(extents.size()));
    for (const uint64_t extent : extents) infos_ += number_bytes(extent);
    infos_ += number_bytes(type) + number_bytes(offset);
    data_ += data;
    return *this;
  }

  uint64_t key_count = 0;     ///< that the file claims
  uint64_t tensor_count = 0;  ///< that the file claims

  std::string bytes() const {
    std::string file =
        "GGUF" + number_bytes(version) + number_bytes(tensor_count) + number_bytes(key_count) + keys_ + infos_;
    pad(file);
    return file + data_;
  }

 private:
  void pad(std::string& bytes) const { bytes.resize((bytes.size() + alignment - 1) / alignment * alignment); }

  std::string keys_, infos_, data_;
};

}  // namespace nostos
