// Owns the reading of the files that --image names, and of those that the record of --from names.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "pipeline/request.h"

namespace nostos::cli {

/// \return the pictures in `files`, decoded. \throws Error invalid_input naming the file
std::vector<ReferenceImage> read_references(std::span<const std::string> files);

/// \param recorded references of a drawing, which have the names and the hashes of their files
/// \return the same with their pixels. \throws Error invalid_input naming all files that the drawing wants if one is
/// missing, damaged, or another file than the drawing had
std::vector<ReferenceImage> read_recorded_references(std::span<const ReferenceImage> recorded);

}  // namespace nostos::cli
