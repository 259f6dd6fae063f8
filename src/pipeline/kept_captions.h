// Owns captions that outlive their drawing.
#pragma once

#include <cstddef>
#include <list>
#include <string>
#include <string_view>

#include "tensor/tensor.h"

namespace nostos {

/// The captions that were used last, refined, in host memory: a prompt that comes again is not encoded again, which on
/// another size and with another seed gives the same bits.
class KeptCaptions {
 public:
  /// \param most captions that are kept.
  explicit KeptCaptions(size_t most) : most_(most) {}

  /// \return the caption of `text`, f32 [padded tokens, hidden], which stays where it is until keep(); or null.
  const Tensor* find(std::string_view text);

  /// Keeps the caption of `text`, which is not kept yet, in place of the one that was asked for the longest time ago.
  void keep(std::string text, Tensor caption);

 private:
  struct Caption {
    std::string text;
    Tensor refined;
  };

  size_t most_;
  std::list<Caption> captions_;  // the last used first
};

}  // namespace nostos
