// Owns the precisions that tests of whole drawings draw in on their device.
#pragma once

#include <vector>

#include "ops/capabilities.h"
#include "pipeline/drawing_device.h"
#include "pipeline/engine.h"

namespace nostos {

/// \return f32, and bf16 and int8 where the device has such products.
inline std::vector<Precision> drawing_precisions() {
  const ops::Capabilities can = ops::capabilities(drawing_device());
  std::vector<Precision> made{Precision::f32};
  if (can.bf16_products) made.push_back(Precision::bf16);
  if (can.int8_products) made.push_back(Precision::int8);
  return made;
}

/// Sets `precision`; the text encoder, too, has products of 8 bits then.
inline void set_precision(EngineOptions& options, Precision precision) {
  options.precision = precision;
  options.text_precision = precision == Precision::int8 ? Precision::int8 : Precision::automatic;
}

}  // namespace nostos
