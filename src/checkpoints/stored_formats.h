// Owns the words and the counts of how weights are stored: what `nostos inspect` says of a file's or a part's formats.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "io/layer_formats.h"
#include "io/tensor_file.h"
#include "io/weight_store.h"
#include "tensor/weight_format.h"

namespace nostos {

/// \return for people, e.g. "Q4_K" or "I8, a scale for each row, rotated by 256".
std::string format_name(const WeightFormat& format);

/// Tensors that are stored alike.
struct FormatGroup {
  std::string format;  ///< format_name(), or the file's word for what nostos does not read
  int64_t tensors = 0;
  int64_t numbers = 0;
  size_t bytes = 0;  ///< with those of the scales

  double bits_per_number() const;
};

/// Adds a tensor to the group of its format. \param groups from the most bytes to the fewest once sort_groups() ran
void add_to_group(std::vector<FormatGroup>& groups, const FormatGroup& tensor);
void sort_groups(std::vector<FormatGroup>& groups);

/// How a tensor of a file is stored.
struct TensorFormat {
  std::string name;        ///< format_name(), or the file's word for what nostos does not read
  bool is_scale = false;   ///< whether the tensor says how another is stored
  size_t scale_bytes = 0;  ///< of its scales, which are another tensor
};
/// \param formats of the file \param name of one of its tensors
TensorFormat describe_format(const TensorFile& file, const LayerFormats& formats, const std::string& name);

/// The weights of a part's folder. Tensors that say how others are stored (scales and markers) are none, but their
/// bytes count.
struct FolderWeights {
  size_t tensors = 0;
  int64_t parameters = 0;
  size_t bytes = 0;
  std::map<std::string, size_t> dtypes;  ///< weights of each
  std::vector<FormatGroup> formats;
};
/// \throws Error model as LayerFormats, if a file has been damaged since it was opened
FolderWeights count_weights(const WeightStore& store);

}  // namespace nostos
