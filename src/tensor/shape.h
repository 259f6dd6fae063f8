// Owns the extents of a dense row-major tensor, outermost first.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>

namespace nostos {

/// Up to five extents, outermost first, each >= 0.
class Shape {
 public:
  static constexpr int kMaxRank = 5;

  Shape() = default;
  Shape(std::initializer_list<int64_t> extents);

  int rank() const { return rank_; }
  int64_t operator[](int axis) const { return extents_[static_cast<size_t>(axis)]; }
  /// Adds an innermost extent.
  void push_back(int64_t extent);
  /// Product of the extents; 1 for a scalar.
  int64_t elements() const;

  friend bool operator==(const Shape&, const Shape&) = default;

 private:
  std::array<int64_t, kMaxRank> extents_{};
  int rank_ = 0;
};

/// \return e.g. "[4, 384]".
std::string to_string(const Shape& shape);

}  // namespace nostos
