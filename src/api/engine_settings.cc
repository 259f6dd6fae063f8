// Implements the reading of settings.
#include "api/engine_settings.h"

#include "base/error.h"
#include "io/environment.h"

namespace nostos {
namespace {

Precision parse_precision(const std::string& name) {
  if (name == "auto") return Precision::automatic;
  if (name == "f32") return Precision::f32;
  if (name == "bf16") return Precision::bf16;
  if (name == "int8") return Precision::int8;
  fail(ErrorKind::invalid_input, "precision '{}' is unknown; use auto, f32, bf16 or int8", name);
}

/// Of what may have other products than the rest.
Precision parse_own_precision(const char* whose, const std::string& name) {
  require(name == "auto" || name == "int8", ErrorKind::invalid_input, "{} precision '{}' is unknown; use auto or int8",
          whose, name);
  return name == "int8" ? Precision::int8 : Precision::automatic;
}

/// \return whether GPUs may write to one another's memory.
bool parse_exchange(const std::string& name) {
  require(name == "auto" || name == "nccl", ErrorKind::invalid_input, "exchange '{}' is unknown; use auto or nccl",
          name);
  return name == "auto";
}

}  // namespace

parallel::PlanKind parse_plan(const std::string& name) {
  for (const parallel::PlanKind kind : {parallel::PlanKind::token, parallel::PlanKind::axis}) {
    if (name == parallel::name(kind)) return kind;
  }
  fail(ErrorKind::invalid_input, "plan '{}' is unknown; use token or axis", name);
}

Parallelism resolve_parallelism(const EngineSettings& settings, std::optional<int64_t> ranks,
                                std::string_view ranks_name) {
  return resolve_parallelism(ranks, settings.ulysses_degree, settings.ring_degree, settings.cfg_parallel_degree,
                             parse_plan(settings.sp_plan), ranks_name);
}

EngineOptions undirected_options(const EngineSettings& settings, const Parallelism& parallelism) {
  EngineOptions options;
  options.parallelism = parallelism;
  options.peer_memory = parse_exchange(settings.exchange);
  options.comm_timeout_s = settings.comm_timeout_s;
  options.precision = parse_precision(settings.precision);
  options.text_precision = parse_own_precision("text", settings.text_precision);
  options.attention_precision = parse_own_precision("attention", settings.attention_precision);
  options.memory.mode = parse_memory_mode(settings.memory);
  if (settings.memory_limit_gib)
    options.memory.limit_bytes = static_cast<size_t>(*settings.memory_limit_gib * (1 << 30));
  options.cache_folder = cache_folder();
  return options;
}

}  // namespace nostos
