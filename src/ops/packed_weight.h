// Owns what a backend keeps of a weight that it has packed.
#pragma once

#include <cstddef>

namespace nostos {

/// A weight in a backend's own layout; immutable, shared by the ranks of a process.
class PackedWeight {
 public:
  virtual ~PackedWeight() = default;
  virtual size_t size_in_bytes() const = 0;
};

}  // namespace nostos
