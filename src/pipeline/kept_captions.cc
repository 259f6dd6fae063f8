// Implements the captions that outlive their drawing.
#include "pipeline/kept_captions.h"

#include <algorithm>
#include <utility>

namespace nostos {

const Tensor* KeptCaptions::find(std::string_view text) {
  const auto known = std::ranges::find(captions_, text, &Caption::text);
  if (known == captions_.end()) return nullptr;
  captions_.splice(captions_.begin(), captions_, known);
  return &known->refined;
}

void KeptCaptions::keep(std::string text, Tensor caption) {
  captions_.push_front({std::move(text), std::move(caption)});
  if (captions_.size() > most_) captions_.pop_back();
}

}  // namespace nostos
