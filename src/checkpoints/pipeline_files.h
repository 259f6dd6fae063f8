// Owns what a model has beside its weights: model_index.json, the scheduler, the defaults of drawings and the
// tokenizer, in a diffusers folder or as texts of a single file.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "checkpoints/part_source.h"
#include "families/model_files.h"

namespace nostos {

/// Names of all that a written folder may hold.
inline constexpr std::string_view kFolderNames[] = {
    "model_index.json", "generation_config.json", "scheduler", "tokenizer", "transformer", "text_encoder", "vae"};

/// \param parts that are written
/// \return what stands beside them, by paths inside the folder: model_index.json, the scheduler's config, the defaults
/// of drawings, the tokenizer's files if the text encoder is written. Without a transformer in `files` nobody knows the
/// pipeline: then the tokenizer alone.
/// \throws Error model, e.g. naming where a tokenizer was looked for
std::map<std::string, std::string> folder_texts(const FamilyOptions& options, const std::vector<PartSource*>& parts);

/// \return what a single file says of itself, by names: `config.PART` of each part, and with a transformer
/// `config.scheduler`, `config.generation` where there is one, and `is_distilled` of FLUX.2-klein.
std::map<std::string, std::string> file_texts(const FamilyOptions& options, const std::vector<PartSource*>& parts);

}  // namespace nostos
