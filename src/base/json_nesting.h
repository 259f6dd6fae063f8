// Owns the limit of how deep JSON that nobody vouches for is nested: parsers follow any depth, and take the stack for it.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace nostos {

/// \return the byte that opens an object or array beyond `most` nested ones; nothing if none does. Text that is no JSON
/// is for the parser to refuse.
std::optional<size_t> nested_too_deep(std::string_view text, int most);

}  // namespace nostos
