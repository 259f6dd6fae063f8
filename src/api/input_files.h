// Owns the reading of files that a request names: images and latents.
#pragma once

#include <memory>
#include <string>

#include "pipeline/request.h"

namespace nostos {

/// \return the image in the file, decoded. \throws Error invalid_input naming the file
ReferenceImage read_image(const std::string& file);

/// \return the tensor `latents` of a safetensors file. \throws Error model if the file holds none
std::shared_ptr<const Tensor> read_latents(const std::string& file);

}  // namespace nostos
