// Owns the flags that several commands share.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>

#include "pipeline/engine.h"

namespace nostos::cli {

/// Flags that say where and how the model runs, the same for every command that draws.
struct EngineFlags {
  std::string device = "auto";
  std::string precision = "auto";
  int64_t threads = 0;
  int64_t num_gpus = 1;
  int64_t ulysses_degree = 1;
};

/// Flags that every command has.
struct CommonFlags {
  std::string config;
  std::string log_level = "info";
};

/// \return a check that refuses the empty text, which CLI11 would take for a flag that is not given.
CLI::Validator not_empty();

/// Adds the flags to `command`; `flags` must outlive it.
void add_engine_flags(CLI::App& command, EngineFlags& flags);
void add_common_flags(CLI::App& command, CommonFlags& flags);

/// Reads the config file, if one is given, into the command's flags, and sets the log level.
/// \throws Error invalid_input, CLI::ParseError
void apply_common_flags(CLI::App& command, const CommonFlags& flags);

/// \return options with every field set but the model.
/// \throws Error device for a device that this build lacks, invalid_input for more than one rank.
EngineOptions engine_options(const EngineFlags& flags);

}  // namespace nostos::cli
