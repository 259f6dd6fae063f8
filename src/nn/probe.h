// Owns the hook through which tests see a model's intermediate results.
#pragma once

#include <functional>
#include <string_view>

#include "tensor/tensor.h"

namespace nostos::nn {

/// Called with the name and value of each intermediate result in the order of computation, so that a test can name the
/// first wrong sub-step. Names are the reference's module paths; the value is valid during the call.
using Probe = std::function<void(std::string_view name, ConstView value)>;

}  // namespace nostos::nn
