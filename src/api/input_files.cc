// Implements the reading of a request's files.
#include "api/input_files.h"

#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/sha256.h"
#include "io/file.h"
#include "io/image.h"
#include "io/safetensors.h"
#include "tensor/tensor.h"

namespace nostos {

ReferenceImage read_image(const std::string& file) {
  const ImageLimits limits;
  const std::string text = read_file(file, limits.bytes);
  const std::span<const uint8_t> bytes(reinterpret_cast<const uint8_t*>(text.data()), text.size());
  try {
    auto image = std::make_shared<Image>(decode_image(bytes, limits));
    const ImageSize size{image->height, image->width};
    return {.file = file, .sha256 = sha256(bytes), .size = size, .image = std::move(image)};
  } catch (const Error& error) {
    fail(error.kind(), "{}: {}", file, error.what());
  }
}

std::shared_ptr<const Tensor> read_latents(const std::string& file) {
  const SafetensorsFile opened(file);
  const ConstView given = opened.tensor("latents");
  auto latents = std::make_shared<Tensor>(Device{}, given.dtype(), given.shape());
  std::memcpy(latents->view().bytes(), given.bytes(), given.size_in_bytes());
  return latents;
}

}  // namespace nostos
