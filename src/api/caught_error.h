// Owns what becomes of anything that is thrown: an Error whose kind decides what callers are told. What stands at an
// edge of the program calls it.
#pragma once

#include <exception>

#include "base/error.h"

namespace nostos {

/// \return the error that was thrown, or the one that stands for it: of a path that the user named invalid_input,
/// out_of_memory, else internal.
Error caught_error(const std::exception_ptr& thrown);

}  // namespace nostos
