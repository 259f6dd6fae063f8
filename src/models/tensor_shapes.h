// Owns what a config is made from where a file comes without one: the shapes of its tensors.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "tensor/shape.h"

namespace nostos {

/// The shapes of a file's tensors, by their names in the diffusers layout. Weights of any format have the shape of the
/// numbers that they stand for.
class TensorShapes {
 public:
  /// \return nothing if the file has no tensor of the name.
  using Find = std::function<std::optional<Shape>(const std::string& name)>;

  /// \param file as messages write it
  TensorShapes(std::string file, Find find) : file_(std::move(file)), find_(std::move(find)) {}

  bool has(const std::string& name) const { return find_(name).has_value(); }
  /// \return an extent of a tensor. \throws Error model if the file has no such tensor, or one without this axis
  int64_t extent(const std::string& name, int axis) const;
  /// \return how many of the tensors `before`0`after`, `before`1`after`, ... the file has before the first that it has
  /// not, at most 10,000.
  int64_t count(std::string_view before, std::string_view after) const;
  /// \return a quotient. \param what it is the number of, e.g. "heads" \throws Error model if that is no integer
  int64_t quotient(std::string_view what, int64_t dividend, int64_t divisor) const;

  /// \return how messages name a config that was made from the shapes.
  std::string config_name() const { return file_ + " (config made from its tensors)"; }
  /// Says that the shapes are not enough. \param what was found, e.g. "its heads are 48 wide, not 128"
  /// \throws Error model
  [[noreturn]] void refuse(std::string_view what) const;

 private:
  std::string file_;
  Find find_;
};

}  // namespace nostos
