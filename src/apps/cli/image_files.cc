// Implements the reading of pictures.
#include "apps/cli/image_files.h"

#include <fmt/format.h>

#include "api/input_files.h"
#include "base/error.h"

namespace nostos::cli {

std::vector<ReferenceImage> read_images(std::span<const std::string> files) {
  std::vector<ReferenceImage> images;
  for (const std::string& file : files) images.push_back(read_image(file));
  return images;
}

std::vector<ReferenceImage> read_recorded_images(const char* flag, std::span<const ReferenceImage> recorded) {
  std::string wanted;
  for (const ReferenceImage& image : recorded)
    wanted += fmt::format("{}{} (SHA-256 {})", wanted.empty() ? "" : ", ",
                          image.file.empty() ? "a file without a name" : image.file,
                          image.sha256.empty() ? "not known" : image.sha256);
  std::vector<ReferenceImage> images;
  for (const ReferenceImage& image : recorded) {
    const auto refuse = [&](const std::string& why) {
      fail(ErrorKind::invalid_input, "{}; the picture was drawn from {}: give {}{}", why, wanted, flag,
           recorded.size() > 1 ? ", in this order" : "");
    };
    if (image.file.empty()) refuse("the record does not say where a picture was");
    try {
      images.push_back(read_image(image.file));
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::invalid_input) throw;
      refuse(error.what());
    }
    if (!image.sha256.empty() && images.back().sha256 != image.sha256)
      refuse(image.file + " is not the picture that it was");
  }
  return images;
}

}  // namespace nostos::cli
