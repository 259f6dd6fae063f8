// Owns what is behind a result of nostos.h: a drawing's images, and what is said of them.
#pragma once

#include <string>
#include <vector>

#include "pipeline/generation.h"
#include "pipeline/record.h"

struct nostos_result {
  nostos::Generation generation;
  nostos::DrawingRecord record;      ///< of the whole request
  std::vector<std::string> records;  ///< of each image, as JSON
  std::string report;

  /// \return the record of image `index`.
  nostos::DrawingRecord record_of(size_t index) const {
    nostos::DrawingRecord of_image = record;
    of_image.request.seed = generation.pictures[index].seed;
    of_image.request.num_outputs = 1;
    return of_image;
  }
};
