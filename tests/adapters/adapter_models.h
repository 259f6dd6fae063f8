// Owns the models that adapter tests read files for: their weights' names and shapes by the models' own walks.
#pragma once

#include <filesystem>
#include <functional>
#include <string>

#include "adapters/adapter.h"
#include "adapters/targets.h"
#include "base/error.h"

namespace nostos::test {

/// \param folder with transformer/config.json of a Z-Image model. \param with_text_encoder: also that of its encoder
AdapterTargets zimage_targets(const std::filesystem::path& folder, bool with_text_encoder = false);
AdapterTargets flux2_targets(const std::filesystem::path& folder);

/// \return the tiny models' folders, and those with configs of the published ones.
std::filesystem::path tiny_zimage();
std::filesystem::path tiny_flux2();
std::filesystem::path published(const std::string& name);

/// \return the message of the Error model that `action` throws, "" (and a failure) without one.
std::string message_of(const std::function<void()>& action);

}  // namespace nostos::test
