// Owns what is said of adapter files that do not fit.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "adapters/adapter.h"

namespace nostos {

/// \return what model an adapter with these keys was made for, as far as names tell, e.g. "Stable Diffusion or SDXL";
/// "" if they do not.
std::string_view guess_model(std::span<const std::string> keys);

/// \throws Error model naming the file, its first keys, and the model that they look like: none matches
[[noreturn]] void refuse_without_match(const TensorFile& file, const AdapterReport& report);

}  // namespace nostos
