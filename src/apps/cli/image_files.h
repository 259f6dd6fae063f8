// Owns the reading of the pictures that flags name, and of those that the record of --from names.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "pipeline/request.h"

namespace nostos::cli {

/// \return the pictures in the files, decoded. \throws Error invalid_input naming the file
std::vector<ReferenceImage> read_images(std::span<const std::string> files);

/// \param flag that gives the pictures where they are now, for messages
/// \param recorded pictures of a drawing, which have the names and the hashes of their files
/// \return the same with their pixels. \throws Error invalid_input naming all files that the drawing wants if one is
/// missing, damaged, or another file than the drawing had
std::vector<ReferenceImage> read_recorded_images(const char* flag, std::span<const ReferenceImage> recorded);

}  // namespace nostos::cli
