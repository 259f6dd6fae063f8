// Owns the reading of the text that WebUI tools write into pictures.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string_view>

namespace nostos::server {

/// \param text of a picture's chunk `parameters`: a prompt, "Negative prompt: ..." and a last line "Steps: 9, Seed: 4,
/// ...".
/// \return what A1111's png-info calls `parameters`: "Prompt", "Negative prompt", and each setting as a text, a size as
/// "Size-1" and "Size-2". Any text is taken.
nlohmann::ordered_json webui_settings(std::string_view text);

}  // namespace nostos::server
