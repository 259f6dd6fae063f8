// Owns how users say where and how a model runs: names and numbers, which become an Engine's options. Front ends fill
// the settings in, then choose the device.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "pipeline/engine.h"

namespace nostos {

inline constexpr int64_t kMaxThreads = 4096;
inline constexpr double kMaxMemoryGib = 1e6;
inline constexpr double kMaxCommTimeout = 1e6;  ///< seconds

/// What the flags of the same names say (docs/cli.md).
struct EngineSettings {
  std::string device = "auto";
  std::string precision = "auto", text_precision = "auto", attention_precision = "auto";
  std::string memory = "auto";
  std::optional<double> memory_limit_gib;  ///< above 0, at most kMaxMemoryGib
  int64_t threads = 0;                     ///< at most kMaxThreads
  bool allow_shared_gpu = false;
  std::optional<int64_t> num_gpus, ulysses_degree, ring_degree, cfg_parallel_degree;
  std::string sp_plan = "token";
  std::string exchange = "auto";
  double comm_timeout_s = 0;  ///< at most kMaxCommTimeout
};

/// \return the settings' degrees. \param ranks their number, if it is known \param ranks_name see the function of this
/// name in pipeline/parallelism.h. \throws Error invalid_input likewise
Parallelism resolve_parallelism(const EngineSettings& settings, std::optional<int64_t> ranks,
                                std::string_view ranks_name);

/// \return options with every field set but the model, the device and the threads.
/// \throws Error invalid_input naming a setting that is unknown
EngineOptions undirected_options(const EngineSettings& settings, const Parallelism& parallelism);

/// \throws Error invalid_input unless `name` is token or axis
parallel::PlanKind parse_plan(const std::string& name);

}  // namespace nostos
