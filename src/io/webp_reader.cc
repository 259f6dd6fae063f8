// Implements the reading of WebPs on libwebp.
#include <webp/decode.h>
#include <webp/demux.h>

#include <algorithm>
#include <memory>
#include <string_view>

#include "base/error.h"
#include "io/exif.h"
#include "io/image_readers.h"

namespace nostos {
namespace {

using Demuxer = std::unique_ptr<WebPDemuxer, decltype(&WebPDemuxDelete)>;

/// \return the features of a bitstream. \throws Error invalid_input
WebPBitstreamFeatures features_of(std::span<const uint8_t> bytes) {
  WebPBitstreamFeatures features;
  require(WebPGetFeatures(bytes.data(), bytes.size(), &features) == VP8_STATUS_OK, ErrorKind::invalid_input,
          "damaged WebP: its header cannot be read");
  return features;
}

/// \return the pixels of one frame. \throws Error invalid_input
Image decode_frame(std::span<const uint8_t> bytes, const ImageLimits& limits, const Flatten& flatten) {
  const WebPBitstreamFeatures features = features_of(bytes);
  require_within({features.height, features.width}, limits, "WebP");
  const bool has_alpha = features.has_alpha != 0;
  const int stride = features.width * (has_alpha ? 4 : 3);
  Image frame{features.height, features.width, {}};
  frame.rgb.resize(static_cast<size_t>(stride) * static_cast<size_t>(features.height));
  const auto decode = has_alpha ? WebPDecodeRGBAInto : WebPDecodeRGBInto;
  require(decode(bytes.data(), bytes.size(), frame.rgb.data(), frame.rgb.size(), stride) != nullptr,
          ErrorKind::invalid_input, "damaged WebP: its pixels cannot be read");
  if (has_alpha) frame.rgb = flatten(std::move(frame.rgb));
  return frame;
}

/// \return the canvas with a frame in its place, white around it.
Image on_canvas(Image frame, ImageSize canvas, int64_t top, int64_t left) {
  if (frame.height == canvas.height && frame.width == canvas.width) return frame;
  require(top >= 0 && left >= 0 && top + frame.height <= canvas.height && left + frame.width <= canvas.width,
          ErrorKind::invalid_input, "damaged WebP: a frame lies outside the picture");
  Image made{canvas.height, canvas.width,
             std::vector<uint8_t>(static_cast<size_t>(canvas.height * canvas.width * 3), 255)};
  for (int64_t y = 0; y < frame.height; ++y)
    std::copy_n(frame.rgb.begin() + y * frame.width * 3, frame.width * 3,
                made.rgb.begin() + ((top + y) * canvas.width + left) * 3);
  return made;
}

int orientation_of(const WebPDemuxer* demuxer) {
  constexpr std::string_view kName("Exif\0\0", 6);  // some writers repeat what JPEG has
  WebPChunkIterator chunk;
  if (WebPDemuxGetChunk(demuxer, "EXIF", 1, &chunk) == 0) return 1;
  std::span<const uint8_t> exif(chunk.chunk.bytes, chunk.chunk.size);
  const std::string_view text(reinterpret_cast<const char*>(exif.data()), exif.size());
  if (text.starts_with(kName)) exif = exif.subspan(kName.size());
  const int orientation = exif_orientation(exif);
  WebPDemuxReleaseChunkIterator(&chunk);
  return orientation;
}

ImageSize size_within(std::span<const uint8_t> bytes, const ImageLimits& limits) {
  const WebPBitstreamFeatures features = features_of(bytes);
  const ImageSize size{features.height, features.width};
  require_within(size, limits, "WebP");
  return size;
}

Demuxer demuxer_of(std::span<const uint8_t> bytes) {
  const WebPData data{bytes.data(), bytes.size()};
  Demuxer demuxer(WebPDemux(&data), &WebPDemuxDelete);
  require(demuxer != nullptr, ErrorKind::invalid_input, "damaged WebP: the data ends early, or its parts do not fit");
  return demuxer;
}

}  // namespace

StoredImage read_webp(std::span<const uint8_t> bytes, const ImageLimits& limits, const Flatten& flatten) {
  const ImageSize size = size_within(bytes, limits);
  const Demuxer demuxer = demuxer_of(bytes);
  WebPIterator frame;
  require(WebPDemuxGetFrame(demuxer.get(), 1, &frame) != 0, ErrorKind::invalid_input, "damaged WebP: it has no frame");
  const std::unique_ptr<WebPIterator, decltype(&WebPDemuxReleaseIterator)> owner(&frame, &WebPDemuxReleaseIterator);
  Image image = decode_frame({frame.fragment.bytes, frame.fragment.size}, limits, flatten);
  return {.image = on_canvas(std::move(image), size, frame.y_offset, frame.x_offset),
          .orientation = orientation_of(demuxer.get())};
}

ImageHeader read_webp_header(std::span<const uint8_t> bytes, const ImageLimits& limits) {
  const ImageSize size = size_within(bytes, limits);
  return {.size = size, .orientation = orientation_of(demuxer_of(bytes).get())};
}

}  // namespace nostos
