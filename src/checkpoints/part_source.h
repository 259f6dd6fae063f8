// Owns a part's tensors as plain numbers, whatever its file or folder stores, with the changes of adapters in them.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "adapters/adapter.h"
#include "checkpoints/part_types.h"
#include "families/adapted_weights.h"
#include "models/weight_source.h"
#include "tensor/tensor.h"

namespace nostos {

/// A part that is read tensor by tensor. One thread uses it.
class PartSource {
 public:
  /// Checks all tensors; reads none. \throws Error model saying what is missing or misshapen
  PartSource(const FamilyOptions& options, const PartType& type);

  const PartType& type() const { return *type_; }
  const PartFiles& files() const { return files_; }
  const FoundConfig& config() const { return config_; }
  /// \return every tensor that is there, by its name in the diffusers layout, with the shape of that layout.
  const std::map<std::string, Shape>& shapes() const { return shapes_; }
  /// \return the layout's tensors that are not there: no drawing reads them.
  const std::vector<std::string>& missing() const { return missing_; }
  /// \return the dtype of a tensor that is no weight but a count, which stays as it is; `otherwise` for weights.
  DType dtype(const std::string& name, DType otherwise) const;
  /// \return what adapters may change.
  AdapterPart adapter_part() const;

  /// Has the weights that follow changed by `adapters`, one after the other, which must live as long.
  void adapt(std::span<const ScaledAdapter> adapters);
  /// \return the tensor, changed or as it is stored: f32, bf16, f16 or, of counts, another type; valid until the next
  /// call. \throws Error model
  ConstView read(const std::string& name);

 private:
  /// A tensor beside those that drawings need, and where it is.
  struct Extra {
    std::string prefix;
    DType dtype;
    bool is_count;
  };
  void find_tensors(const PartTensors& listed);
  void find_extra(const std::string& name);
  ConstView stored(const std::string& name);
  ConstView merged(const std::string& name, ConstView stored);

  const PartType* type_;
  PartFiles files_;
  FoundConfig config_;
  std::map<std::string, Shape> shapes_;
  std::vector<std::string> missing_;
  std::map<std::string, Extra> extras_;
  std::map<std::string, std::unique_ptr<StoreSource>> sources_;  // by the prefix of the names
  std::multimap<std::string, std::pair<const WeightUpdate*, double>> updates_;
  std::string current_;  // that was read last
  ConstView current_view_{};
  std::vector<float> merged_;
};

}  // namespace nostos
