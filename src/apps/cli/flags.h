// Owns the flags that several commands share.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>

#include "api/engine_settings.h"
#include "api/model_places.h"
#include "apps/cli/config_file.h"
#include "pipeline/engine.h"
#include "pipeline/record.h"

namespace nostos::cli {

class Processes;

/// What `--num-gpus auto` is: no number that anybody asks for.
inline constexpr int64_t kAutoGpus = std::numeric_limits<int64_t>::min();

/// Flags that say where and how the model runs, the same for every command that draws.
using EngineFlags = EngineSettings;

/// Flags that say which of a model's revisions and weights are meant, and where parts are that have places of their
/// own.
struct ModelFlags {
  std::string revision, variant;
  PartPaths parts;

  /// \return the model's path or name with the revision, if one is given. \throws Error as with_revision()
  std::string named(const std::string& path_or_name) const;
};

/// \return the help text of --model-path. \param without it, e.g. "the embedded model draws"
std::string model_path_help(std::string_view without);

/// Flags that every command has.
struct CommonFlags {
  std::string config;
  std::string log_level = "info";
};

/// \return a check that refuses the empty text, which CLI11 would take for a flag that is not given.
CLI::Validator not_empty();

/// For Option::transform(): refuses all but whole numbers from `min` to `max` in decimal digits, naming what was given.
/// CLI11 by itself takes the largest number for a larger one, and 010 for eight. \tparam T int64_t or uint64_t
template <class T>
CLI::Validator whole_number(T min = std::numeric_limits<T>::min(), T max = std::numeric_limits<T>::max());

/// Adds a flag that takes a number, whole or not as `value` (an arithmetic type, or an optional of one) is.
template <class Value>
CLI::Option* add_number(CLI::App& command, const char* name, Value& value, const char* help) {
  CLI::Option* option = command.add_option(name, value, help);
  if constexpr (std::is_same_v<Value, int64_t> || std::is_same_v<Value, std::optional<int64_t>>)
    return option->transform(whole_number<int64_t>());
  else if constexpr (std::is_same_v<Value, std::optional<uint64_t>>)
    return option->transform(whole_number<uint64_t>());
  else
    return option->check(not_empty());
}

/// \return a check that takes numbers from `min` to `max`, of which NaN is none.
CLI::Validator number_in(double min, double max);

/// Adds the flags to `command`; `flags` must outlive it.
void add_engine_flags(CLI::App& command, EngineFlags& flags);
/// \param with_weights whether the command reads weights, not configs alone
void add_model_flags(CLI::App& command, ModelFlags& flags, bool with_weights = true);
void add_common_flags(CLI::App& command, CommonFlags& flags);

/// Reads the config file, if one is given, into the command's flags, and sets the log level.
/// \param read gives the text of a config file
/// \throws Error invalid_input, CLI::ParseError
void apply_common_flags(CLI::App& command, const CommonFlags& flags,
                        const std::function<std::string(const std::string& file)>& read = read_config_file);

/// \return options with every field set but the model. All processes call it; where the device is chosen automatically
/// they draw on GPUs only if all can.
/// \throws Error invalid_input for degrees that do not multiply to the number of ranks; what choose_device() throws
EngineOptions engine_options(const EngineFlags& flags, const Processes& processes);

inline constexpr const char* kHostileHelp =
    "give the transformer of --synthetic outliers as trained weights have them, which are hard to round";
/// \return `asked`. \throws Error invalid_input if it is true of weights that are not random bf16 numbers
bool is_hostile(bool asked, const EngineOptions& options);

}  // namespace nostos::cli
