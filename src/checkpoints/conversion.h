// Owns writing a model in another form: any files that nostos reads to a diffusers folder or to one safetensors file,
// in plain numbers, with adapters merged. `nostos convert` calls it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "adapters/adapter.h"
#include "checkpoints/output_tensors.h"
#include "families/model_files.h"

namespace nostos {

/// An adapter's file and the factor of its changes.
struct MergedAdapter {
  std::filesystem::path file;
  double strength = 1;
};

struct ConversionOptions {
  ModelFiles files;
  std::string variant{};             ///< of the weights, as FamilyOptions has it
  std::vector<std::string> parts{};  ///< folders' names, e.g. "vae"; empty: all that the files have
  std::vector<MergedAdapter> adapters{};
  DType dtype = DType::bf16;     ///< f32, bf16 or f16
  std::filesystem::path output;  ///< a file if it ends in .safetensors, else a folder
  bool may_replace = false;      ///< whether what is there may be replaced
};

/// What is converted, before it is.
struct ConversionPlan {
  struct Part {
    std::string name, title, from;       ///< e.g. "vae", "FLUX.1 VAE" and the path
    std::vector<std::string> missing{};  ///< tensors that the source lacks and no drawing needs
  };
  std::vector<Part> parts;
  std::vector<AdapterReport> adapters;
  int64_t tensors = 0;
};

struct ConversionProgress {
  std::function<void(const ConversionPlan& plan)> on_plan;  ///< called before anything is written; may be empty
  WriteProgress write{};                                    ///< counts through all files
};

/// \throws Error invalid_input unless `output` can be written as a file, which must not be there unless `may_replace`
void require_output_file(const std::filesystem::path& output, bool may_replace);

/// What becomes of a transformer as one file with matrices of 8 bits.
struct Int8FileOptions {
  ModelFiles files;
  std::string variant{};
  std::set<std::string> matrices{};            ///< those that are rounded, as round_tensors() has them
  std::map<std::string, std::string> texts{};  ///< that the file says of itself beside what file_texts() gives
  std::filesystem::path output;                ///< which is replaced
};

/// Writes the model's transformer, bf16 but for these matrices, in the layout of ComfyUI's files.
/// \param on_plan called with the number of tensors before anything is written
/// \return what was written. \throws Error as convert_model()
WrittenTensors write_int8_transformer(const Int8FileOptions& options,
                                      const std::function<void(int64_t tensors)>& on_plan,
                                      const WriteProgress& progress);

/// \return what was written.
/// \throws Error invalid_input for an output that is there, parts that no file has, numbers that f16 does not hold;
/// model for damaged input, an adapter that does not fit, a folder without a tokenizer; cancelled; internal on a full
/// disk. The output then is as it was.
WrittenTensors convert_model(const ConversionOptions& options, const ConversionProgress& progress);

}  // namespace nostos
