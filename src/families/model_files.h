// Owns what a user says of where a model is: a folder, a file, or places of single parts. PartFiles finds each part by
// it.
#pragma once

#include <filesystem>
#include <utility>
#include <vector>

namespace nostos {

/// Where a model's parts are. Each part has a place of its own, or the model's.
struct ModelFiles {
  ModelFiles() = default;
  ModelFiles(std::filesystem::path all) : model(std::move(all)) {}  // a path names a whole model

  /// A folder in the diffusers layout, or a file of a transformer or of several parts; may be empty where each part has
  /// a place of its own. For a synthetic model a folder with configs alone.
  std::filesystem::path model;
  /// Files, or folders with weights, in the place of the model's part; empty: the model's.
  std::filesystem::path transformer, text_encoder, vae;
  /// A file, or a folder with weights, of a control network beside the model; empty: there is none.
  std::filesystem::path controlnet;
  /// A folder with a tokenizer's files, or a GGUF file with a vocabulary; empty: the text encoder's or the model's.
  std::filesystem::path tokenizer;
  /// Folders where the usual tokenizer may be, looked at in order where neither the text encoder nor the model has one.
  std::vector<std::filesystem::path> usual_tokenizers;
  /// Whether files without configs are of the undistilled base model, which their tensors do not tell.
  bool is_base = false;

  /// \return the model's folder, which has the configs of what stands in no part; empty without one.
  std::filesystem::path folder() const {
    return std::filesystem::is_regular_file(model) ? std::filesystem::path() : model;
  }
};

}  // namespace nostos
