// Implements the options of nostos.h.
#include "api/handles.h"

namespace nostos::api {
namespace {

using Text = Field<nostos_options, std::string>;
constexpr std::array kTexts{
    Text{"model_path", [](nostos_options& options, std::string text) { options.model_path = std::move(text); }},
    Text{"revision", [](nostos_options& options, std::string text) { options.revision = std::move(text); }},
    Text{"variant", [](nostos_options& options, std::string text) { options.variant = std::move(text); }},
    Text{"transformer", [](nostos_options& options, std::string text) { options.parts.transformer = std::move(text); }},
    Text{"text_encoder",
         [](nostos_options& options, std::string text) { options.parts.text_encoder = std::move(text); }},
    Text{"vae", [](nostos_options& options, std::string text) { options.parts.vae = std::move(text); }},
    Text{"tokenizer", [](nostos_options& options, std::string text) { options.parts.tokenizer = std::move(text); }},
    Text{"controlnet", [](nostos_options& options, std::string text) { options.parts.controlnet = std::move(text); }},
    Text{"device", [](nostos_options& options, std::string text) { options.engine.device = std::move(text); }},
    Text{"precision", [](nostos_options& options, std::string text) { options.engine.precision = std::move(text); }},
    Text{"text_precision",
         [](nostos_options& options, std::string text) { options.engine.text_precision = std::move(text); }},
    Text{"attention_precision",
         [](nostos_options& options, std::string text) { options.engine.attention_precision = std::move(text); }},
    Text{"memory", [](nostos_options& options, std::string text) { options.engine.memory = std::move(text); }},
    Text{"sp_plan", [](nostos_options& options, std::string text) { options.engine.sp_plan = std::move(text); }},
    Text{"exchange", [](nostos_options& options, std::string text) { options.engine.exchange = std::move(text); }},
    Text{"cache_dir", [](nostos_options& options, std::string text) { options.cache_dir = std::move(text); }},
    Text{"models_dir", [](nostos_options& options, std::string text) { options.models_dir = std::move(text); }},
};

/// \return whether `value` is 1. \throws Error invalid_input unless it is 0 or 1
bool yes_or_no(const char* field, int64_t value) {
  require(value == 0 || value == 1, ErrorKind::invalid_input, "{} is {}; use 1 for yes or 0 for no", field, value);
  return value == 1;
}

using Integer = Field<nostos_options, int64_t>;
constexpr std::array kIntegers{
    Integer{"threads",
            [](nostos_options& options, int64_t value) {
              require(value >= 0 && value <= kMaxThreads, ErrorKind::invalid_input,
                      "threads is {}; use 1 to {}, or 0 for as many as there are CPUs", value, kMaxThreads);
              options.engine.threads = value;
            }},
    Integer{"num_gpus", [](nostos_options& options, int64_t value) { options.engine.num_gpus = value; }},
    Integer{"ulysses_degree", [](nostos_options& options, int64_t value) { options.engine.ulysses_degree = value; }},
    Integer{"ring_degree", [](nostos_options& options, int64_t value) { options.engine.ring_degree = value; }},
    Integer{"cfg_parallel_degree",
            [](nostos_options& options, int64_t value) { options.engine.cfg_parallel_degree = value; }},
    Integer{"base_model",
            [](nostos_options& options, int64_t value) { options.parts.is_base = yes_or_no("base_model", value); }},
    Integer{"allow_shared_gpu",
            [](nostos_options& options, int64_t value) {
              options.engine.allow_shared_gpu = yes_or_no("allow_shared_gpu", value);
            }},
};

/// \return `value`. \throws Error invalid_input unless it is a number from 0 to `most`
double at_most(const char* field, double value, double most) {
  require(value >= 0 && value <= most, ErrorKind::invalid_input, "{} is {}; use a number from 0 to {}", field, value,
          most);
  return value;
}

using Real = Field<nostos_options, double>;
constexpr std::array kReals{
    Real{"memory_limit",
         [](nostos_options& options, double value) {
           options.engine.memory_limit_gib = at_most("memory_limit", value, kMaxMemoryGib);
         }},
    Real{"comm_timeout",
         [](nostos_options& options, double value) {
           options.engine.comm_timeout_s = at_most("comm_timeout", value, kMaxCommTimeout);
         }},
};

}  // namespace
}  // namespace nostos::api

using namespace nostos::api;

extern "C" {

nostos_options* nostos_options_new(void) { return new_handle<nostos_options>(); }

nostos_status nostos_options_set_text(nostos_options* options, const char* field, const char* value,
                                      nostos_error** error) {
  return guarded(error, [&] {
    require_given("the text", value);
    set_field<nostos_options, std::string>(kTexts, "a text", options, field, value);
  });
}

nostos_status nostos_options_set_integer(nostos_options* options, const char* field, int64_t value,
                                         nostos_error** error) {
  return guarded(error,
                 [&] { set_field<nostos_options, int64_t>(kIntegers, "a whole number", options, field, value); });
}

nostos_status nostos_options_set_real(nostos_options* options, const char* field, double value, nostos_error** error) {
  return guarded(error, [&] { set_field<nostos_options, double>(kReals, "a number", options, field, value); });
}

void nostos_options_on_log(nostos_options* options, nostos_log_level lowest, nostos_log_function log, void* user) {
  using nostos::LogLevel;
  if (log == nullptr) {
    options->log = {LogLevel::off, {}};
    return;
  }
  options->log = {static_cast<LogLevel>(lowest), [log, user](LogLevel level, std::string_view message) {
                    log(user, static_cast<nostos_log_level>(level), std::string(message).c_str());
                  }};
}

void nostos_options_free(nostos_options* options) { delete options; }
}
