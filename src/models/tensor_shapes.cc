// Implements the shapes that configs are made from.
#include "models/tensor_shapes.h"

#include "base/error.h"

namespace nostos {

int64_t TensorShapes::extent(const std::string& name, int axis) const {
  const std::optional<Shape> shape = find_(name);
  if (!shape) refuse(fmt::format("it has no tensor {}", name));
  if (axis >= shape->rank()) refuse(fmt::format("its tensor {} is of shape {}", name, to_string(*shape)));
  return (*shape)[axis];
}

int64_t TensorShapes::count(std::string_view before, std::string_view after) const {
  constexpr int64_t kMost = 10'000;
  int64_t count = 0;
  while (count < kMost && has(fmt::format("{}{}{}", before, count, after))) ++count;
  return count;
}

int64_t TensorShapes::quotient(std::string_view what, int64_t dividend, int64_t divisor) const {
  if (divisor < 1 || dividend % divisor != 0)
    refuse(fmt::format("the number of {} is {} / {}, no integer", what, dividend, divisor));
  return dividend / divisor;
}

void TensorShapes::refuse(std::string_view what) const {
  fail(ErrorKind::model, "{}: {}: nostos needs the model's config.json beside it", file_, what);
}

}  // namespace nostos
