// Fuzzes the reading of pictures that users give: any bytes give the pixels of a picture within the limits, or are
// refused as bad input.
#include <cstdint>
#include <span>

#include "base/error.h"
#include "io/exif.h"
#include "io/grey_image.h"
#include "io/image.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace nostos;
  const std::span<const uint8_t> bytes(data, size);
  const ImageLimits limits{.bytes = size_t{1} << 20, .side = 2048, .pixels = int64_t{1} << 18};
  try {
    const Image image = decode_image(bytes, limits);
    check(image.height >= 1 && image.width >= 1 && image.height * image.width <= limits.pixels, "limits hold");
    const ImageSize header = read_image_size(bytes, limits);
    check(header.height * header.width == image.height * image.width, "the header says how many pixels there are");
    const DecodedMask mask = decode_mask(bytes, limits);
    check(mask.grey.height == image.height && mask.grey.width == image.width, "a mask has the picture's size");
    check(mask.grey.grey.size() * 3 == image.rgb.size(), "a mask has all its pixels");
    check(image.rgb.size() == static_cast<size_t>(image.height * image.width) * 3, "a picture has all its pixels");
  } catch (const Error& error) {
    check(error.kind() == ErrorKind::invalid_input, "a bad picture is bad input");
  }
  try {
    const ImageSize header = read_image_size(bytes, limits);
    check(header.height >= 1 && header.width >= 1 && header.height * header.width <= limits.pixels, "limits hold");
  } catch (const Error& error) {
    check(error.kind() == ErrorKind::invalid_input, "a bad header is bad input");
  }
  const int orientation = exif_orientation(bytes);
  check(orientation >= 1 && orientation <= 8, "there are eight orientations");
  return 0;
}
