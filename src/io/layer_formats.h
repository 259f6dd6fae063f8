// Owns finding out which weights of a file are quantised, and how: the markers of ComfyUI's files and of GGUF files
// that follow them. Ask it for the format of every weight that is loaded.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "io/tensor_file.h"
#include "tensor/weight_format.h"

namespace nostos {

class JsonConfig;

/// How one weight is stored, and where its factors stand.
struct StoredWeight {
  WeightFormat format;
  std::string scales;  ///< the tensor of the same file that holds the factors, "" without any

  friend bool operator==(const StoredWeight&, const StoredWeight&) = default;
};

/// How the weights of a file are stored. What is read, for a layer L with a weight `L.weight`:
///  * a tensor `L.comfy_quant` that holds JSON, with the factors in `L.weight_scale`;
///  * the same JSON for all layers in the file's text `_quantization_metadata`, whose names of layers may lack the
///    prefix `model.diffusion_model.` of the tensors, or have it where the tensors do not;
///  * a marker `scaled_fp8`, with the factors in `L.scale_weight`;
///  * 8-bit floating point numbers without a marker, with factors under either name or without any;
///  * the text `comfy.gguf.quant.NAME` of a GGUF file for the weight NAME, with the factors in `NAME_scale`: Q8_CR.
/// Scales of inputs are ignored: they serve products of 8-bit inputs alone.
/// Sources: ComfyUI's QUANTIZATION.md and comfy/utils.py; ComfyUI-GGUF's fork that writes Q8_CR.
class LayerFormats {
 public:
  /// \param file must live as long
  /// \throws Error model naming the file and the tensor or text: damaged JSON, a layer without weight, two statements
  /// of one layer that differ. A format that nostos does not read is no error as long as nobody asks for the weight.
  explicit LayerFormats(const TensorFile& file);

  /// \param name of a tensor: a weight or any other parameter
  /// \throws Error model naming file and tensor: no such tensor, a format that nostos does not read, a tensor of
  /// another dtype or shape than its format says, missing factors, factors for blocks.
  StoredWeight of(std::string_view name) const;

  /// \return the factors of a weight, one or one for each row, as float32; none if it has none.
  /// \throws Error model naming file and tensor if one is not finite
  std::vector<float> scales(const StoredWeight& weight) const;

  /// \return the names of tensors that say how others are quantised: markers, and scales of weights and of inputs. Who
  /// reports tensors that are unused leaves these out.
  const std::set<std::string, std::less<>>& belonging() const { return belonging_; }

 private:
  /// What the file says of a layer.
  struct Statement {
    std::string format;    ///< as the file calls it
    int64_t rotation = 0;  ///< inputs in a block of ConvRot's rotation, 0 without one
    std::string place;     ///< where it says so, for messages
  };

  static Statement read_statement(const JsonConfig& json, std::string place, bool is_gguf);
  JsonConfig parsed(std::string_view text, const std::string& place) const;
  void add_statement(std::string weight, Statement statement);
  void read_markers();
  void read_layer_texts();
  void read_gguf_texts();
  void find_belonging();
  StoredWeight stated(std::string_view name, const TensorInfo& info, const Statement& statement) const;
  StoredWeight unstated(std::string_view name, const TensorInfo& info) const;
  std::string scales_name(std::string_view name) const;
  WeightScales scales_kind(std::string_view name, const TensorInfo& info, const std::string& scales) const;
  const StoredType* marked_type(std::string_view name) const;

  const TensorFile* file_;
  std::map<std::string, Statement, std::less<>> statements_;     ///< by the weight's name
  std::map<std::string, StoredType, std::less<>> marked_types_;  ///< by the prefix of what a marker speaks of
  std::set<std::string, std::less<>> belonging_;
};

}  // namespace nostos
