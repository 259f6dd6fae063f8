// Owns the page's files, which the build puts into the program.
#pragma once

#include <optional>
#include <string_view>

namespace nostos::server {

/// \return the contents of the page's file of that name, e.g. "index.html", or nothing.
std::optional<std::string_view> web_file(std::string_view name);

}  // namespace nostos::server
