// Owns what is behind the handles of nostos.h, and the way from anything thrown to a status. The files that implement
// the interface's functions include it.
#pragma once

#include <nostos.h>

#include <array>
#include <atomic>
#include <exception>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "api/engine_settings.h"
#include "base/error.h"
#include "base/log_target.h"
#include "pipeline/record.h"

struct nostos_error {
  nostos_status status;
  std::string message;
};

struct nostos_options {
  std::string model_path, revision, variant;
  nostos::PartPaths parts;
  nostos::EngineSettings engine;
  std::optional<std::filesystem::path> cache_dir;
  std::filesystem::path models_dir;
  nostos::LogTarget log{nostos::LogLevel::off, {}};
};

struct nostos_cancel {
  std::shared_ptr<std::atomic<bool>> flag = std::make_shared<std::atomic<bool>>(false);
};

struct nostos_request {
  /// A caller's function, and what it is called with.
  template <class Function>
  struct Callback {
    Function function = nullptr;
    void* user = nullptr;
  };

  nostos::GenerationRequest asked;  ///< without what follows
  std::optional<double> mask_blur;  ///< of the mask, which may be given later
  std::string latents;              ///< file; empty: noise
  Callback<nostos_stage_function> on_stage;
  Callback<nostos_step_function> on_step;
  Callback<nostos_preview_function> on_preview;
  std::shared_ptr<const std::atomic<bool>> cancel;
};

namespace nostos::api {

/// \return the error that the caller's `error` points to from now on, if it is not null.
nostos_status keep_error(const std::exception_ptr& thrown, nostos_error** error) noexcept;

/// Runs `work`. \return what a function of the interface returns of it.
template <class Work>
nostos_status guarded(nostos_error** error, const Work& work) noexcept {
  if (error != nullptr) *error = nullptr;
  try {
    work();
    return NOSTOS_OK;
  } catch (...) {
    return keep_error(std::current_exception(), error);
  }
}

/// \return a new handle; null: out of memory.
template <class Handle>
Handle* new_handle() noexcept {
  try {
    return new Handle;
  } catch (...) {
    return nullptr;
  }
}

/// \throws Error invalid_input if an argument is null
inline void require_given(const char* argument, const void* pointer) {
  require(pointer != nullptr, ErrorKind::invalid_input, "{} is null", argument);
}

/// \return the request that the handle stands for, with its files read but for adapters.
/// \throws Error invalid_input, model
GenerationRequest asked_of(const nostos_request& request);

/// A field of a handle by its name.
template <class Handle, class Value>
struct Field {
  std::string_view name;
  void (*set)(Handle& handle, Value value);
};

/// Sets the field of that name. \param kind of the values that these fields take, for messages
/// \throws Error invalid_input naming the fields that there are
template <class Handle, class Value>
void set_field(std::span<const Field<Handle, Value>> fields, const char* kind, Handle* handle, const char* name,
               Value value) {
  require_given("the handle", handle);
  require_given("the field's name", name);
  std::string known;
  for (const Field<Handle, Value>& field : fields) {
    if (field.name == name) return field.set(*handle, std::move(value));
    known += (known.empty() ? "" : ", ") + std::string(field.name);
  }
  fail(ErrorKind::invalid_input, "'{}' is no field that takes {}; these are {}", name, kind, known);
}

}  // namespace nostos::api
