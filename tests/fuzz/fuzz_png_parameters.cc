// Fuzzes what `--from image.png` reads: any bytes give pixels and text chunks, or are refused as bad input.
#include <cstdint>
#include <cstdlib>
#include <span>

#include "base/error.h"
#include "io/image.h"
#include "io/json_config.h"

namespace {

/// Runs `action`, letting through only errors of the kind that damaged input may raise.
template <class Action>
void expect_only(nostos::ErrorKind kind, Action action) {
  try {
    action();
  } catch (const nostos::Error& error) {
    if (error.kind() != kind) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace nostos;
  const std::span<const uint8_t> bytes(data, size);
  expect_only(ErrorKind::invalid_input, [&] {
    const Image image = decode_image(bytes);
    if (image.rgb.size() != static_cast<size_t>(image.height * image.width) * 3) std::abort();
  });
  expect_only(ErrorKind::invalid_input, [&] {
    for (const TextChunk& chunk : read_png_text(bytes)) {
      expect_only(ErrorKind::model, [&] { JsonConfig::parse(chunk.text, chunk.keyword).dump(); });
    }
  });
  return 0;
}
