// Owns what a backend keeps of a weight that it has packed.
#pragma once

#include <cstddef>

#include "device/buffer.h"

namespace nostos {

/// A weight in a backend's own layout; immutable, shared by the ranks of a process. A backend derives what it keeps
/// beside the weight.
struct PackedWeight {
  virtual ~PackedWeight() = default;
  virtual size_t size_in_bytes() const { return storage.size_bytes(); }

  Buffer storage;
};

}  // namespace nostos
