// Owns what PEFT and diffusers write beside an adapter's tensors: its alphas and ranks.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "io/json_config.h"
#include "io/tensor_file.h"

namespace nostos {

/// The configuration of one part's adapter, as far as it changes numbers.
struct PeftConfig {
  double alpha = 0;
  int64_t rank = 0;
  std::map<std::string, double> alphas;  ///< by module, or the end of its name after a dot; '^' before it: by module
  std::map<std::string, int64_t> ranks;  ///< likewise
  bool is_rank_stabilised = false;       ///< alpha / sqrt(rank) in place of alpha / rank

  /// \return the alpha of `module`, e.g. "layers.0.attention.to_q".
  double alpha_of(std::string_view module) const;
  int64_t rank_of(std::string_view module) const;
};

/// Configurations by part, "" where the file does not say for which.
using PeftMetadata = std::map<std::string, PeftConfig, std::less<>>;

/// \return what an object of PEFT's config says, whose fields may have a part's name and a dot before them.
/// \throws Error model naming the field: of a wrong type, out of range, a pattern that is no plain name
PeftMetadata parse_peft_metadata(const JsonConfig& config);

/// \return what the file's own metadata say, or an adapter_config.json beside a file named adapter_model.
/// \throws Error model as parse_peft_metadata(), or if it is no JSON
PeftMetadata read_peft_metadata(const TensorFile& file);

}  // namespace nostos
