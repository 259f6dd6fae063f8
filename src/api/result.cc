// Implements the results of nostos.h.
#include "api/result.h"

#include <cstdlib>
#include <cstring>
#include <new>

#include "api/handles.h"
#include "io/file.h"

namespace nostos::api {
namespace {

bool has(const nostos_result* result, int64_t index) {
  return index >= 0 && index < std::ssize(result->generation.pictures);
}

/// \return image `index` as a file's bytes, with its record. \throws Error invalid_input
std::vector<uint8_t> encoded(const nostos_result* result, int64_t index, ImageFormat format) {
  require(has(result, index), ErrorKind::invalid_input, "there is no image {}: the result has {}, from 0", index,
          result->generation.pictures.size());
  const auto place = static_cast<size_t>(index);
  return encode_image(result->generation.pictures[place].image, format, text_chunks(result->record_of(place)));
}

}  // namespace
}  // namespace nostos::api

using namespace nostos::api;

extern "C" {

int64_t nostos_result_count(const nostos_result* result) { return std::ssize(result->generation.pictures); }

nostos_image nostos_result_image(const nostos_result* result, int64_t index) {
  if (!has(result, index)) return {nullptr, 0, 0};
  const nostos::Image& image = result->generation.pictures[static_cast<size_t>(index)].image;
  return {image.rgb.data(), image.height, image.width};
}

uint64_t nostos_result_seed(const nostos_result* result, int64_t index) {
  return has(result, index) ? result->generation.pictures[static_cast<size_t>(index)].seed : 0;
}

const char* nostos_result_record(const nostos_result* result, int64_t index) {
  return has(result, index) ? result->records[static_cast<size_t>(index)].c_str() : nullptr;
}

const float* nostos_result_latents(const nostos_result* result, int64_t index, int64_t shape[4]) {
  if (!has(result, index)) return nullptr;
  const nostos::Tensor& latents = result->generation.pictures[static_cast<size_t>(index)].latents;
  for (int axis = 0; axis < 4; ++axis) shape[axis] = latents.shape()[axis];
  return latents.data<float>();
}

const char* nostos_result_report(const nostos_result* result) { return result->report.c_str(); }

nostos_status nostos_result_write(const nostos_result* result, int64_t index, const char* path, nostos_error** error) {
  return guarded(error, [&] {
    require_given("the result", result);
    require_given("the path", path);
    nostos::write_file_atomically(path, encoded(result, index, nostos::image_format(path)));
  });
}

nostos_status nostos_result_encode(const nostos_result* result, int64_t index, const char* format, uint8_t** bytes,
                                   size_t* size, nostos_error** error) {
  return guarded(error, [&] {
    require_given("the result", result);
    require_given("the format", format);
    require_given("where the bytes go", bytes);
    require_given("where their number goes", size);
    *bytes = nullptr;
    *size = 0;
    const std::vector<uint8_t> made = encoded(result, index, nostos::image_format(std::string("x.") + format));
    auto* const copy = static_cast<uint8_t*>(std::malloc(made.size()));
    if (copy == nullptr) throw std::bad_alloc();
    std::memcpy(copy, made.data(), made.size());
    *bytes = copy;
    *size = made.size();
  });
}

void nostos_bytes_free(uint8_t* bytes) { std::free(bytes); }

void nostos_result_free(nostos_result* result) { delete result; }
}
